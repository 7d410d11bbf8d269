//! Readers: many connections on one thread.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::EVENT_BYTES;

/// What an event begins with: its number, and when it was made.
const MARK: &[u8] = b"{\"number\":";
/// Bytes that the mark, both numbers and what stands between take at most.
const MARK_BYTES: usize = 80;
/// How long to wait for what must come.
const PATIENCE: Duration = Duration::from_secs(120);
/// Latencies that are kept; the rest is not, which leaves the percentiles as they are.
const SAMPLES: usize = 1 << 20;

/// An event, the same for both servers.
pub(crate) fn event(number: u64) -> String {
    let mut event = format!("{{\"number\":{number},\"made\":{},\"text\":\"", nanos());
    let pad = EVENT_BYTES.saturating_sub(event.len() + 2);
    event.extend(std::iter::repeat_n("abcdefghij0123456789 ,;:-_", pad / 26 + 1).collect::<String>().chars().take(pad));
    event + "\"}"
}

fn nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// What the readers saw.
pub(crate) struct Totals {
    pub(crate) deliveries: u64,
    pub(crate) gaps: u64,
    pub(crate) doubles: u64,
    pub(crate) p99: Duration,
}

#[derive(Default)]
struct Shared {
    open: AtomicUsize,
    deliveries: AtomicU64,
    stop: AtomicBool,
}

/// Running readers.
pub(crate) struct Load {
    shared: Arc<Shared>,
    connections: usize,
    thread: JoinHandle<Totals>,
}

impl Load {
    /// Opens connections, the last `stuck` of which read nothing but the head of the answer.
    pub(crate) fn open(address: SocketAddr, request: &str, connections: usize, stuck: usize) -> Self {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        // An own address for each run, so that ports in TIME_WAIT don't count.
        let run = RUNS.fetch_add(1, Ordering::Relaxed) % 250;
        let source = Ipv4Addr::new(127, 0, 1, u8::try_from(run + 1).unwrap());
        let (shared, request) = (Arc::new(Shared::default()), request.to_owned());
        let readers = Readers { shared: Arc::clone(&shared), source, address, request, connections, stuck };
        Self { shared, connections, thread: std::thread::spawn(move || readers.run()) }
    }

    pub(crate) fn wait_until_open(&self) {
        self.wait("connections open", || self.shared.open.load(Ordering::SeqCst) == self.connections);
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.shared.deliveries.load(Ordering::Relaxed)
    }

    pub(crate) fn wait_for(&self, deliveries: u64) {
        self.wait("deliveries", || self.deliveries() >= deliveries);
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let since = Instant::now();
        while !done() {
            assert!(!self.thread.is_finished() && since.elapsed() < PATIENCE, "in vain: {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub(crate) fn finish(self) -> Totals {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

struct Readers {
    shared: Arc<Shared>,
    source: Ipv4Addr,
    address: SocketAddr,
    request: String,
    connections: usize,
    stuck: usize,
}

struct Connection {
    socket: mio::net::TcpStream,
    is_open: bool,
    is_stuck: bool,
    /// The number of the event that must come next.
    next: u64,
    /// The end of what was read: an event's beginning may be cut.
    kept: Vec<u8>,
}

impl Readers {
    fn run(self) -> Totals {
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(1_024);
        let mut connections: Vec<Connection> = Vec::with_capacity(self.connections);
        let mut buffer = vec![0; 256 * 1024];
        let mut totals = Totals { deliveries: 0, gaps: 0, doubles: 0, p99: Duration::ZERO };
        let mut latencies: Vec<u64> = Vec::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let open = self.shared.open.load(Ordering::Relaxed);
            // A few at a time, as the backlog of a listener has its bounds.
            while connections.len() < self.connections && connections.len() < open + 128 {
                let token = connections.len();
                connections.push(self.connect(&poll, token));
            }
            poll.poll(&mut events, Some(Duration::from_millis(5))).unwrap();
            for ready in &events {
                let connection = &mut connections[ready.token().0];
                if connection.is_stuck && connection.is_open {
                    continue;
                }
                loop {
                    let read = match connection.socket.read(&mut buffer) {
                        Ok(0) => panic!("a server ended a stream"),
                        Ok(read) => read,
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                        Err(error) => panic!("a server broke a stream off: {error}"),
                    };
                    if !connection.is_open {
                        assert!(buffer[..read].windows(6).any(|window| window == b" 200 O"), "an answer of 200");
                        connection.is_open = true;
                        self.shared.open.fetch_add(1, Ordering::SeqCst);
                    }
                    connection.take(&buffer[..read], &mut totals, &mut latencies);
                    if read < buffer.len() {
                        break;
                    }
                }
            }
            self.shared.deliveries.store(totals.deliveries, Ordering::Relaxed);
        }
        latencies.sort_unstable();
        totals.p99 = Duration::from_nanos(latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(0));
        totals
    }

    fn connect(&self, poll: &Poll, token: usize) -> Connection {
        let is_stuck = token >= self.connections - self.stuck;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::from(SocketAddr::from((self.source, 0)))).unwrap();
        socket.connect(&SockAddr::from(self.address)).unwrap();
        assert_eq!(socket.send(self.request.as_bytes()).unwrap(), self.request.len());
        socket.set_nonblocking(true).unwrap();
        let mut socket = mio::net::TcpStream::from_std(socket.into());
        poll.registry().register(&mut socket, Token(token), Interest::READABLE).unwrap();
        Connection { socket, is_open: false, is_stuck, next: 0, kept: Vec::new() }
    }
}

impl Connection {
    /// Finds the events that begin in what was read.
    fn take(&mut self, read: &[u8], totals: &mut Totals, latencies: &mut Vec<u64>) {
        if !self.kept.is_empty() && read.len() < MARK_BYTES {
            let whole = [&std::mem::take(&mut self.kept), read].concat();
            return self.scan(&whole, whole.len(), totals, latencies);
        }
        if !self.kept.is_empty() {
            // Enough to see the whole beginning of an event that was cut; it ends before the next one begins.
            let cut = self.kept.len();
            self.kept.extend_from_slice(&read[..read.len().min(MARK_BYTES)]);
            let kept = std::mem::take(&mut self.kept);
            self.scan(&kept, cut, totals, latencies);
        }
        self.scan(read, read.len(), totals, latencies);
    }

    /// Takes the events whose mark begins before `end`; one that is cut off is kept.
    fn scan(&mut self, bytes: &[u8], end: usize, totals: &mut Totals, latencies: &mut Vec<u64>) {
        for at in memchr::memmem::find_iter(bytes, MARK).take_while(|at| *at < end) {
            let Some((number, made)) = numbers(&bytes[at + MARK.len()..]) else {
                if end == bytes.len() {
                    self.kept = bytes[at..].to_vec();
                }
                return;
            };
            totals.deliveries += 1;
            if number > self.next {
                totals.gaps += number - self.next;
            } else if number < self.next {
                totals.doubles += 1;
            }
            self.next = number + 1;
            if latencies.len() < SAMPLES {
                latencies.push(nanos().saturating_sub(made));
            }
        }
        // A mark that is cut off.
        if end == bytes.len() {
            let tail = &bytes[bytes.len().saturating_sub(MARK.len() - 1)..];
            let cut = (0..tail.len()).find(|start| MARK.starts_with(&tail[*start..]));
            self.kept = cut.map(|start| tail[start..].to_vec()).unwrap_or_default();
        }
    }
}

/// `17,"made":1700000000000000000,…`
fn numbers(text: &[u8]) -> Option<(u64, u64)> {
    let comma = memchr::memchr(b',', text)?;
    let number = std::str::from_utf8(&text[..comma]).ok()?.parse().ok()?;
    let rest = text[comma..].strip_prefix(b",\"made\":")?;
    let comma = memchr::memchr(b',', rest)?;
    Some((number, std::str::from_utf8(&rest[..comma]).ok()?.parse().ok()?))
}
