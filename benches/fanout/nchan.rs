//! nginx with Nchan, one worker.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::load::Request;
use crate::peers::{Ask, Peer};
use crate::stream::event;

const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub(crate) struct Nchan {
    _master: Master,
    worker: u32,
    address: SocketAddr,
    publisher: TcpStream,
    folder: tempfile::TempDir,
}

impl Nchan {
    pub(crate) fn is_installed() -> bool {
        let runs = Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        runs && Path::new(MODULE).exists()
    }

    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = folder.path().display();
        let configuration = format!(
            "load_module {MODULE};
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
        let mut master = Master(master);
        // It listens before its worker has started.
        let worker = loop {
            assert!(master.0.try_wait().unwrap().is_none(), "nginx has ended");
            match (master.worker(), TcpStream::connect(address)) {
                (Some(worker), Ok(_)) => break worker,
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let publisher = TcpStream::connect(address).unwrap();
        publisher.set_nodelay(true).unwrap();
        Self { _master: master, worker, address, publisher, folder }
    }

    /// Reads the next response on the publisher's connection.
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
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn request(&self, ask: Ask) -> Request {
        let path = if ask.from_the_first { "/all" } else { "/live" };
        Box::new(move |_, last| {
            let last = last.map(|last| format!("last-event-id: {last}\r\n")).unwrap_or_default();
            format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n{last}\r\n")
        })
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

    /// Nchan responds once the event is stored.
    fn settle(&mut self, _: u64) {}

    fn process(&self) -> u32 {
        self.worker
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn stalled(&self) -> Option<usize> {
        None
    }
}

/// The master process; ended with its owner, and its worker with it.
struct Master(Child);

impl Master {
    fn worker(&self) -> Option<u32> {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id())).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}
