//! A TCP proxy that cuts connections in the middle of an event.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memchr::memmem;
use socket2::SockRef;

/// The beginning of every event, in every format.
const EVENT: &[u8] = br#"{"specversion":"1.0","id":""#;

/// The header of a compressed response.
const COMPRESSED: &[u8] = b"content-encoding: gzip";
/// The approximate length of an event in it.
const COMPRESSED_EVENT: usize = 400;

/// Where to cut a connection:
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// after this many complete events,
    pub(crate) events: usize,
    /// and at most this many bytes of the next.
    pub(crate) bytes: usize,
}

/// A proxy before a server; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    plan: Vec<Cut>,
    cuts: Mutex<usize>,
    /// What the server sent, over all connections.
    passed: Mutex<Vec<u8>>,
    ended: AtomicBool,
}

impl Proxy {
    /// Cuts the first connections as planned, one after the other, and leaves later ones alone.
    pub(crate) fn start(server: SocketAddr, plan: Vec<Cut>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            plan,
            cuts: Mutex::default(),
            passed: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let proxy = Self { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    break;
                }
                let (client, shared) = (client.unwrap(), Arc::clone(&shared));
                std::thread::spawn(move || shared.serve(client));
            }
        });
        proxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of connections cut so far.
    pub(crate) fn cuts(&self) -> usize {
        *self.shared.cuts.lock().unwrap()
    }

    /// How often the server sent these bytes.
    pub(crate) fn passed(&self, bytes: &[u8]) -> usize {
        memmem::find_iter(&self.shared.passed.lock().unwrap(), bytes).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it notices.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.server) else { return };
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Both);
            });
            self.answer(&server, &client);
        });
    }

    /// Forwards the server's bytes until the connection ends or is to be cut.
    fn answer(&self, mut server: &TcpStream, mut client: &TcpStream) {
        let mut answer = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            let read = server.read(&mut buffer).unwrap_or(0);
            let before = answer.len();
            answer.extend_from_slice(&buffer[..read]);
            let cut = self.cut(&answer);
            let new = &mut answer[before..cut.unwrap_or(before + read)];
            shorten_wait(new);
            self.passed.lock().unwrap().extend_from_slice(new);
            if client.write_all(new).is_err() || read == 0 || cut.is_some() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        // Every other cut is a reset, as by a middlebox that lost its state.
        let reset = *self.cuts.lock().unwrap() % 2 == 1;
        if reset {
            SockRef::from(client).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let _ = client.shutdown(if reset { Shutdown::Read } else { Shutdown::Both });
    }

    /// Where to cut the response, once it has arrived so far.
    fn cut(&self, answer: &[u8]) -> Option<usize> {
        let mut cuts = self.cuts.lock().unwrap();
        let Cut { events, bytes } = *self.plan.get(*cuts)?;
        let begun = match memmem::find(answer, COMPRESSED) {
            // Event boundaries are invisible, so it is cut anywhere.
            Some(head) => {
                Some(head + COMPRESSED.len() + events * COMPRESSED_EVENT).filter(|begun| answer.len() > *begun)
            }
            None => memmem::find_iter(answer, EVENT).nth(events).map(|at| at + EVENT.len()),
        }?;
        *cuts += 1;
        Some(answer.len().min(begun + bytes))
    }
}

/// Clients that obey `retry` reconnect after 50 ms instead of two seconds.
fn shorten_wait(bytes: &mut [u8]) {
    if let Some(at) = memmem::find(bytes, b"retry: 2000") {
        bytes[at..at + 11].copy_from_slice(b"retry: 0050");
    }
}
