//! Stopping: within two seconds whatever is open, nothing accepted is lost, and a second signal insists.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::program::catchment;
use crate::support::server::{Frames, Server, folder};

const STREAMS: usize = 1_000;

fn demo(rate: &str) -> Server {
    let mut command = catchment();
    command.args(["demo", "--listen", "127.0.0.1:0", "--rate", rate]);
    Server::start(command)
}

#[test]
fn a_thousand_streams_are_closed_within_two_seconds() {
    for signal in ["TERM", "INT"] {
        let mut server = demo("20");
        // A filter that little passes: these clients do not read while others are opened.
        let path = "/v1/events?asset_type=network.vpc&heartbeat=1";
        let mut streams: Vec<Frames> = (0..STREAMS).map(|_| server.stream(path, &[])).collect();
        for stream in &mut streams {
            assert!(stream.next().is_some());
        }
        let start = Instant::now();
        server.signal(signal);
        let status = server.wait();
        let took = start.elapsed();
        assert!(status.success(), "SIG{signal}: {status}; log:\n{}", server.log_lines().join("\n"));
        assert!(took < Duration::from_secs(2), "SIG{signal}: {took:?}");
        for stream in streams {
            let last = stream.last().expect("a last frame");
            assert_eq!(last.event.as_deref(), Some("closing"));
            assert_eq!(last.json()["reason"], json!("shutdown"));
            assert!(last.id.is_some(), "where to go on");
        }
    }
}

#[test]
fn a_reader_that_does_not_read_holds_nothing_up() {
    let mut server = demo("2000");
    server.wait_until("events in", || server.events("since=1h&limit=3000").len() == 3_000);
    // A large replay to someone who never reads, so that the answer can't be finished.
    let mut stuck = TcpStream::connect(server.address()).unwrap();
    stuck.write_all(b"GET /v1/events?since=1h HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut first = [0_u8; 1];
    stuck.read_exact(&mut first).unwrap();
    let start = Instant::now();
    server.signal("TERM");
    let status = server.wait();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    // The drain deadline passed with work open, or the kernel took all that was to be said.
    assert!(matches!(status.code(), Some(0 | 2)), "{status}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = folder();
    // An hour to drain, and a reader that never reads: only the second signal ends this.
    let config = format!(
        "data_dir = {:?}\n[shutdown]\ndrain_millis = 3600000\n[sources.trail.file]\npath = {:?}\n",
        folder.path().join("data"),
        folder.path().join("trail.jsonl"),
    );
    let records = catchment_records(6_000);
    std::fs::write(folder.path().join("trail.jsonl"), records).unwrap();
    let mut server = Server::serve(folder.path(), &config);
    server.wait_until("events in", || server.events("since=2000-01-01T00:00:00Z&limit=5000").len() == 5_000);
    let mut stuck = TcpStream::connect(server.address()).unwrap();
    stuck.write_all(b"GET /v1/events?since=2000-01-01T00:00:00Z HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut first = [0_u8; 1];
    stuck.read_exact(&mut first).unwrap();
    server.signal("TERM");
    server.wait_until("stopping", || server.log_lines().iter().any(|line| line.contains("stopping")));
    std::thread::sleep(Duration::from_millis(300));
    server.signal("TERM");
    let start = Instant::now();
    let status = server.wait();
    assert_eq!(status.code(), Some(2), "{status}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

fn catchment_records(count: usize) -> String {
    catchment::source::demo::generate(9, count).join("\n") + "\n"
}

#[test]
fn what_was_accepted_is_there_after_a_stop() {
    let folder = folder();
    let config = format!(
        "data_dir = {:?}\n[sources.trail.file]\npath = {:?}\npoll_millis = 10\n",
        folder.path().join("data"),
        folder.path().join("trail.jsonl"),
    );
    std::fs::write(folder.path().join("trail.jsonl"), catchment_records(3_000)).unwrap();
    let server = Server::serve(folder.path(), &config);
    server.wait_until("some events in", || !server.all_events().is_empty());
    let seen = server.all_events();
    assert!(server.terminate().success());
    let server = Server::serve(folder.path(), &config);
    assert_eq!(server.all_events()[..seen.len()], seen[..]);
    server.wait_until("all of them", || {
        let metrics = server.get("/metrics").1;
        let tail =
            metrics.lines().find_map(|line| line.strip_prefix("catchment_log_tail_sequence ")).unwrap().to_owned();
        let events = server.all_events();
        let mut ids: Vec<_> = events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "none twice");
        count > 2_500 && tail == count.to_string()
    });
}
