//! The compared servers: what they have in common, and this program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use catchment::auth::{ScopeText, TokenFile};
use catchment::model::Time;

use crate::load::Request;
use crate::{cpu, nchan::Nchan, server, tls};

/// A server, and how its subscribers connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Catchment over plain HTTP/1.1: the socket leaves hyper.
    Plain,
    /// Catchment over HTTP/1.0, which hyper writes.
    Http10,
    /// Catchment over TLS, which hyper writes.
    Tls,
    Nchan,
}

/// What subscribers request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ask {
    /// From the oldest event on, instead of new ones only.
    pub(crate) from_the_first: bool,
    /// Each has its own filter, which matches one of this many groups, by account.
    pub(crate) filtered: Option<u64>,
    /// Each presents a credential.
    pub(crate) credential: bool,
}

/// A server under load.
pub(crate) trait Peer {
    fn address(&self) -> SocketAddr;
    /// The requests of subscribers.
    fn request(&self, ask: Ask) -> Request;
    /// Publishes so many events.
    fn publish(&mut self, number: u64, count: u64);
    /// Waits until the server has this many events.
    fn settle(&mut self, count: u64);
    fn process(&self) -> u32;
    /// The folder of its files.
    fn folder(&self) -> &Path;
    /// Number of streams closed because their client did not read; `None` if the server closes none.
    fn stalled(&self) -> Option<usize>;

    /// CPU time so far.
    fn cpu(&self) -> Duration {
        cpu::of_process(self.process())
    }

    fn resident_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Memory that the kernel uses for unsent and unread data of its sockets, in total (`man 8 ss`, skmem); `None`
    /// without `ss`.
    fn kernel_kib(&self) -> Option<f64> {
        let port = format!("sport = :{}", self.address().port());
        let listed = Command::new("ss").args(["-tmnH", "state", "established", &port]).output().ok()?;
        let listed = String::from_utf8(listed.stdout).unwrap();
        let memory = listed.split("skmem:(").skip(1).flat_map(|socket| socket.split(')').next().unwrap().split(','));
        let held = memory.filter_map(|field| field.strip_prefix('r').or(field.strip_prefix('w'))?.parse::<u64>().ok());
        Some(held.sum::<u64>() as f64 / 1024.0)
    }
}

/// Starts a server for one run. If memory is measured, the allocator returns unused memory immediately, so that
/// resident memory is memory in use.
pub(crate) fn start(door: Door, ask: Ask, stalled_after: Duration, counts_memory: bool) -> Box<dyn Peer> {
    match door {
        Door::Nchan => Box::new(Nchan::start()),
        door => Box::new(Catchment::start(door, ask, stalled_after, counts_memory)),
    }
}

/// This program, as a server.
struct Catchment {
    child: Child,
    commands: ChildStdin,
    address: SocketAddr,
    door: Door,
    groups: u64,
    token: Option<String>,
    folder: tempfile::TempDir,
}

impl Catchment {
    fn start(door: Door, ask: Ask, stalled_after: Duration, counts_memory: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokens = TokenFile::of(folder.path());
        let token =
            ask.credential.then(|| tokens.create("bench", ScopeText::default(), Time::default(), None).unwrap());
        if door == Door::Tls {
            tls::make_certificate(folder.path());
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(server::FOLDER, folder.path())
            .env(server::STALLED_SECS, stalled_after.as_secs().to_string())
            .envs(counts_memory.then_some(("MIMALLOC_PURGE_DELAY", "0")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let commands = child.stdin.take().unwrap();
        let (address, groups) = (line.trim().parse().unwrap(), ask.filtered.unwrap_or(1));
        Self { child, commands, address, door, groups, token, folder }
    }

    /// The value of a metric.
    fn metric(&self, name: &str) -> usize {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let line = answer.lines().find_map(|line| line.strip_prefix(name)).expect("a metric");
        line.trim().parse().unwrap()
    }
}

impl Peer for Catchment {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn request(&self, ask: Ask) -> Request {
        let since = if ask.from_the_first { "&since=1970-01-01T00:00:00Z" } else { "" };
        let version = if self.door == Door::Http10 { "1.0" } else { "1.1" };
        let token = self.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        Box::new(move |number, last| {
            let filter = ask.filtered.map(|groups| {
                // Different from one another by an account without events.
                format!("&account={},x{number}", server::account(number as u64 % groups))
            });
            let filter = filter.unwrap_or_default();
            let last = last.map(|last| format!("last-event-id: {last}\r\n")).unwrap_or_default();
            format!("GET /v1/events?format=sse{since}{filter} HTTP/{version}\r\nhost: localhost\r\n{token}{last}\r\n")
        })
    }

    fn publish(&mut self, number: u64, count: u64) {
        writeln!(self.commands, "{number} {count} {}", self.groups).unwrap();
    }

    fn settle(&mut self, count: u64) {
        while self.metric("catchment_log_tail_sequence ") as u64 != count {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn process(&self) -> u32 {
        self.child.id()
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn stalled(&self) -> Option<usize> {
        Some(self.metric("catchment_stream_stalled_total "))
    }
}

impl Drop for Catchment {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
