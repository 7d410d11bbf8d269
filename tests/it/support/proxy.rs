//! A TCP proxy that breaks connections off in the middle of an event.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memchr::memmem;
use socket2::SockRef;

/// How every event begins, whatever the format.
const EVENT: &[u8] = br#"{"specversion":"1.0","id":""#;

/// What the head of a compressed answer has.
const COMPRESSED: &[u8] = b"content-encoding: gzip";
/// About as long as an event is then.
const COMPRESSED_EVENT: usize = 400;

/// Where a connection is cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// After so many whole events,
    pub(crate) events: usize,
    /// and at most so many bytes of the next.
    pub(crate) bytes: usize,
}

/// A proxy before a server, until it is dropped.
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
    /// Cuts off one connection after the other as planned, and leaves those after them alone.
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

    /// Connections cut off so far.
    pub(crate) fn cuts(&self) -> usize {
        *self.shared.cuts.lock().unwrap()
    }

    /// How often these bytes came from the server.
    pub(crate) fn passed(&self, bytes: &[u8]) -> usize {
        memmem::find_iter(&self.shared.passed.lock().unwrap(), bytes).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it sees.
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

    /// Passes the server's bytes on until the connection ends, or is to be cut off.
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
        // Every other cut is a reset, as by a middlebox that forgot the connection.
        let reset = *self.cuts.lock().unwrap() % 2 == 1;
        if reset {
            SockRef::from(client).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let _ = client.shutdown(if reset { Shutdown::Read } else { Shutdown::Both });
    }

    /// Where in the answer the connection is to be cut off, when that has come.
    fn cut(&self, answer: &[u8]) -> Option<usize> {
        let mut cuts = self.cuts.lock().unwrap();
        let Cut { events, bytes } = *self.plan.get(*cuts)?;
        let begun = match memmem::find(answer, COMPRESSED) {
            // Where an event begins can't be seen; it is cut off somewhere.
            Some(head) => {
                Some(head + COMPRESSED.len() + events * COMPRESSED_EVENT).filter(|begun| answer.len() > *begun)
            }
            None => memmem::find_iter(answer, EVENT).nth(events).map(|at| at + EVENT.len()),
        }?;
        *cuts += 1;
        Some(answer.len().min(begun + bytes))
    }
}

/// Clients that obey `retry` come back after 50 ms in place of two seconds.
fn shorten_wait(bytes: &mut [u8]) {
    if let Some(at) = memmem::find(bytes, b"retry: 2000") {
        bytes[at..at + 11].copy_from_slice(b"retry: 0050");
    }
}
