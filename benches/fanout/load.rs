//! Readers: many connections on one thread.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::stream::{Seen, Stream};

/// The request of a connection, by its number and the id of the last event it received.
pub(crate) type Request = Box<dyn Fn(usize, Option<&str>) -> String + Send>;

/// The plan for the connections.
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) request: Request,
    pub(crate) connections: usize,
    /// Number of connections that read only the response head.
    pub(crate) stuck: usize,
    /// Events are distributed over so many groups of connections, in turn.
    pub(crate) groups: u64,
    /// Connections are closed and resumed after at most this many events.
    pub(crate) leave_after: Option<u64>,
}

/// The results of all readers.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) seen: Seen,
    pub(crate) resumed: u64,
    pub(crate) p99: Duration,
}

#[derive(Default)]
struct Shared {
    open: AtomicUsize,
    deliveries: AtomicU64,
    stop: AtomicBool,
    /// Stuck connections are read to their end and resumed; none leaves any more.
    release: AtomicBool,
}

/// Running readers.
pub(crate) struct Load {
    shared: Arc<Shared>,
    connections: usize,
    thread: JoinHandle<Result<Totals, String>>,
}

impl Load {
    pub(crate) fn open(plan: Plan) -> Self {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        // A different address for each run, so that ports in TIME_WAIT don't matter.
        let run = RUNS.fetch_add(1, Ordering::Relaxed) % 250;
        let source = Ipv4Addr::new(127, 0, 1, u8::try_from(run + 1).unwrap());
        let (shared, connections) = (Arc::new(Shared::default()), plan.connections);
        let readers = Readers::new(Arc::clone(&shared), source, plan);
        Self { shared, connections, thread: std::thread::spawn(move || readers.run()) }
    }

    /// Waits until all connections are open; `false` if nothing arrives for this long.
    pub(crate) fn wait_until_open(&self, patience: Duration) -> bool {
        self.wait(patience, || self.shared.open.load(Ordering::SeqCst) == self.connections)
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.shared.deliveries.load(Ordering::Relaxed)
    }

    /// Waits for this many deliveries; `false` if the time runs out.
    pub(crate) fn wait_for(&self, deliveries: u64, patience: Duration) -> bool {
        self.wait(patience, || self.deliveries() >= deliveries)
    }

    fn wait(&self, patience: Duration, done: impl Fn() -> bool) -> bool {
        let since = Instant::now();
        while !done() {
            if self.thread.is_finished() || since.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// Makes stuck readers read on, and keeps leaving ones connected.
    pub(crate) fn release(&self) {
        self.shared.release.store(true, Ordering::SeqCst);
    }

    /// The results, or an error that the server made.
    pub(crate) fn finish(self) -> Result<Totals, String> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

struct Connection {
    socket: mio::net::TcpStream,
    is_open: bool,
    is_stuck: bool,
    /// The number of events after which it leaves.
    leaves_in: u64,
    stream: Stream,
}

struct Readers {
    shared: Arc<Shared>,
    source: Ipv4Addr,
    plan: Plan,
    poll: Poll,
    random: fastrand::Rng,
    totals: Totals,
    buffer: Vec<u8>,
}

/// The state of a connection after a read.
enum After {
    Reading,
    /// The server ended it.
    Ended,
}

impl Readers {
    fn new(shared: Arc<Shared>, source: Ipv4Addr, plan: Plan) -> Self {
        let (poll, random) = (Poll::new().unwrap(), fastrand::Rng::with_seed(7));
        Self { shared, source, plan, poll, random, totals: Totals::default(), buffer: vec![0; 256 * 1024] }
    }

    fn run(mut self) -> Result<Totals, String> {
        let mut events = Events::with_capacity(1_024);
        let mut connections: Vec<Connection> = Vec::with_capacity(self.plan.connections);
        let mut released = false;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let open = self.shared.open.load(Ordering::Relaxed);
            // A few at a time, as a listener's backlog is limited.
            while connections.len() < self.plan.connections && connections.len() < open + 128 {
                let connection = self.first(connections.len())?;
                connections.push(connection);
            }
            self.poll.poll(&mut events, Some(Duration::from_millis(5))).map_err(|error| error.to_string())?;
            for ready in &events {
                self.read(ready.token().0, &mut connections[ready.token().0])?;
            }
            if !released && self.shared.release.load(Ordering::Relaxed) {
                released = true;
                for (number, connection) in connections.iter_mut().enumerate().filter(|(_, one)| one.is_stuck) {
                    self.read(number, connection)?;
                }
            }
            self.shared.deliveries.store(self.totals.seen.deliveries, Ordering::Relaxed);
        }
        self.totals.p99 = self.totals.seen.percentile(99);
        Ok(self.totals)
    }

    /// A new connection.
    fn first(&mut self, number: usize) -> Result<Connection, String> {
        let is_stuck = number >= self.plan.connections - self.plan.stuck;
        let resumes = is_stuck || self.plan.leave_after.is_some();
        let stream = Stream::new(number as u64 % self.plan.groups, self.plan.groups, resumes);
        let socket = self.connect(number, None)?;
        Ok(Connection { socket, is_open: false, is_stuck, leaves_in: self.stays(), stream })
    }

    fn stays(&mut self) -> u64 {
        self.plan.leave_after.map_or(u64::MAX, |most| self.random.u64(1..=most))
    }

    fn connect(&self, number: usize, last: Option<&str>) -> Result<mio::net::TcpStream, String> {
        let request = (self.plan.request)(number, last);
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SockAddr::from(SocketAddr::from((self.source, 0))))?;
            socket.connect(&SockAddr::from(self.plan.address))?;
            assert_eq!(socket.send(request.as_bytes())?, request.len());
            socket.set_nonblocking(true)?;
            let mut socket = mio::net::TcpStream::from_std(socket.into());
            self.poll.registry().register(&mut socket, Token(number), Interest::READABLE)?;
            Ok(socket)
        };
        connect().map_err(|error: std::io::Error| format!("no connection: {error}"))
    }

    /// Reads what is available; a connection that leaves, or was stuck and disconnected, is resumed.
    fn read(&mut self, number: usize, connection: &mut Connection) -> Result<(), String> {
        let released = self.shared.release.load(Ordering::Relaxed);
        if connection.is_stuck && connection.is_open && !released {
            return Ok(());
        }
        let after = self.drain(connection)?;
        let leaves = connection.leaves_in == 0 && !released;
        match after {
            After::Reading if !leaves => Ok(()),
            After::Ended if !connection.is_stuck => Err("the server ended a stream".to_owned()),
            After::Reading | After::Ended => {
                let Some(last) = connection.stream.resume() else { return Ok(()) };
                connection.socket = self.connect(number, Some(&last))?;
                (connection.is_stuck, connection.leaves_in) = (false, self.stays());
                self.totals.resumed += 1;
                Ok(())
            }
        }
    }

    fn drain(&mut self, connection: &mut Connection) -> Result<After, String> {
        loop {
            let read = match connection.socket.read(&mut self.buffer) {
                Ok(0) => return Ok(After::Ended),
                Ok(read) => &self.buffer[..read],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(After::Reading),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(After::Ended),
                Err(error) => return Err(format!("the server broke a stream off: {error}")),
            };
            if !connection.is_open {
                if !read.windows(6).any(|window| window == b" 200 O") {
                    return Err(format!("not an answer of 200: {}", String::from_utf8_lossy(read)));
                }
                connection.is_open = true;
                self.shared.open.fetch_add(1, Ordering::SeqCst);
            }
            let taken = connection.stream.take(read, connection.leaves_in, &mut self.totals.seen);
            connection.leaves_in = connection.leaves_in.saturating_sub(taken);
            // A short read means that all was read, except on a stuck connection: its end may follow, which is not
            // reported again.
            let is_all = read.len() < self.buffer.len() && !connection.is_stuck;
            if is_all || connection.leaves_in == 0 {
                return Ok(After::Reading);
            }
        }
    }
}
