//! The servers that are compared.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::load::event;
use crate::server;

/// A server under load.
pub(crate) trait Peer {
    fn name(&self) -> &'static str;
    fn address(&self) -> SocketAddr;
    /// The request of a subscriber, for all there is or for what comes from now on.
    fn request(&self, from_the_first: bool) -> String;
    fn publish(&mut self, number: u64, count: u64);
    /// Returns when it holds so many events.
    fn settle(&mut self, count: u64);
    fn process(&self) -> u32;

    /// CPU time so far, the kernel's part included (`man 5 proc_pid_stat`; ticks of 10 ms).
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process())).unwrap();
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// This program, as a server.
pub(crate) struct Catchment {
    child: Child,
    commands: ChildStdin,
    address: SocketAddr,
    /// Whether subscribers ask so that their sockets leave hyper.
    plain: bool,
}

impl Catchment {
    pub(crate) fn start(plain: bool) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(server::ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let commands = child.stdin.take().unwrap();
        Self { child, commands, address: line.trim().parse().unwrap(), plain }
    }
}

impl Peer for Catchment {
    fn name(&self) -> &'static str {
        "catchment"
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn request(&self, from_the_first: bool) -> String {
        let since = if from_the_first { "?since=1970-01-01T00:00:00Z" } else { "" };
        let version = if self.plain { "1.1" } else { "1.0" };
        format!("GET /v1/events{since} HTTP/{version}\r\nhost: x\r\n\r\n")
    }

    fn publish(&mut self, number: u64, count: u64) {
        writeln!(self.commands, "{number} {count}").unwrap();
    }

    fn settle(&mut self, count: u64) {
        let wanted = format!("catchment_log_tail_sequence {count}\n");
        loop {
            let mut socket = TcpStream::connect(self.address).unwrap();
            socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            if answer.contains(&wanted) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Catchment {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const NCHAN_MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

/// nginx with Nchan, one worker.
pub(crate) struct Nchan {
    master: Child,
    worker: u32,
    address: SocketAddr,
    publisher: TcpStream,
    _folder: tempfile::TempDir,
}

impl Nchan {
    pub(crate) fn is_installed() -> bool {
        let runs = Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        runs && std::path::Path::new(NCHAN_MODULE).exists()
    }

    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = folder.path().display();
        let configuration = format!(
            "load_module {NCHAN_MODULE};
worker_processes 1; worker_rlimit_nofile 20000; daemon off; pid {path}/pid; error_log {path}/error.log error;
events {{ worker_connections 19900; multi_accept on; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_header_buffer_size 512; connection_pool_size 256; request_pool_size 512; client_body_buffer_size 16k;
  nchan_shared_memory_size 512M; nchan_message_buffer_length 20000; nchan_message_timeout 1h;
  nchan_subscriber_timeout 0;
  server {{
    listen {address} backlog=4096;
    location = /live {{ nchan_subscriber eventsource; nchan_channel_id all; nchan_subscriber_first_message newest; }}
    location = /all {{ nchan_subscriber eventsource; nchan_channel_id all; nchan_subscriber_first_message oldest; }}
    location = /publish {{ nchan_publisher http; nchan_channel_id all; }}
  }}
}}"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        let master = Command::new("nginx").arg("-c").arg(&file).stderr(Stdio::null()).spawn().unwrap();
        let publisher = loop {
            match TcpStream::connect(address) {
                Ok(socket) => break socket,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        publisher.set_nodelay(true).unwrap();
        let children = format!("/proc/{0}/task/{0}/children", master.id());
        let worker = std::fs::read_to_string(children).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        Self { master, worker, address, publisher, _folder: folder }
    }

    /// The next answer on the publisher's connection.
    fn read_answer(&mut self) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            self.publisher.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 20"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; length.parse().unwrap()];
        self.publisher.read_exact(&mut body).unwrap();
    }
}

impl Peer for Nchan {
    fn name(&self) -> &'static str {
        "Nchan"
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn request(&self, from_the_first: bool) -> String {
        let path = if from_the_first { "/all" } else { "/live" };
        format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n")
    }

    fn publish(&mut self, number: u64, count: u64) {
        let mut requests = Vec::new();
        for number in number..number + count {
            let event = event(number);
            let head = format!("POST /publish HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", event.len());
            requests.extend_from_slice(head.as_bytes());
            requests.extend_from_slice(event.as_bytes());
        }
        self.publisher.write_all(&requests).unwrap();
        (0..count).for_each(|_| self.read_answer());
    }

    fn settle(&mut self, _: u64) {}

    fn process(&self) -> u32 {
        self.worker
    }
}

impl Drop for Nchan {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.master.id().to_string()]).status();
        let _ = self.master.wait();
    }
}
