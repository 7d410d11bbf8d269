//! Stopping: in time, with a proper end for every stream, and with all that was accepted on disk.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use catchment::source::demo;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::support::program::allow_open_files;
use crate::support::server::{Frame, Frames, PATIENCE, Server, folder};
use crate::support::trail::{add, append, create_group_of_size, events_of, explain, ids, random};

const STREAMS: usize = 1_000;
/// Who was sent nothing for so long, though there is more, takes nothing.
const STUCK: Duration = Duration::from_secs(1);
/// What stopping may take, the process's own end included.
const IN_TIME: Duration = Duration::from_secs(2);

fn configuration(folder: &Path, more: &str) -> String {
    format!(
        "data_dir = {:?}\n[sources.trail.file]\npath = {:?}\npoll_millis = 10\n{more}",
        folder.join("data"),
        folder.join("trail.ndjson"),
    )
}

/// Sends a signal; gives how the process ended, and how long that took.
fn signal_and_wait(server: &mut Server, signal: &str) -> (ExitStatus, Duration) {
    server.signal(signal);
    let begun = Instant::now();
    let status = server.wait();
    (status, begun.elapsed())
}

/// The last frame of a stream that has ended as it should.
fn closing(frames: &mut Frames) -> Frame {
    let last = frames.by_ref().last().expect("a last frame");
    assert!(frames.is_complete(), "the answer ends properly");
    assert_eq!(last.event.as_deref(), Some("closing"), "{last:?}");
    assert_eq!(last.json()["reason"], "shutdown");
    assert_eq!(last.json()["cursor"].as_str(), last.id.as_deref());
    last
}

#[test]
fn each_signal_ends_a_thousand_streams_in_time_and_keeps_what_was_accepted() {
    allow_open_files(2 * STREAMS + 500);
    for signal in ["TERM", "INT"] {
        stop_under_load(signal);
    }
}

fn stop_under_load(signal: &str) {
    let mut random = random();
    let folder = folder();
    let trail = folder.path().join("trail.ndjson");
    let records = demo::generate(random.u64(..), 2_000);
    append(&trail, &records[..100], &mut random, Duration::ZERO);
    let mut server = Server::serve(folder.path(), &configuration(folder.path(), ""));
    server.wait_until("the first records taken", || server.records() == 100);
    let mut streams: Vec<_> = (0..STREAMS).map(|_| server.stream("/v1/events?fields=time", &[])).collect();
    let mut reader = server.stream("/v1/events?since=2020-01-01T00:00:00Z", &[]);

    let stopped = AtomicBool::new(false);
    let (seen, accepted, status, took) = std::thread::scope(|scope| {
        scope.spawn(|| {
            for records in records[100..].chunks(20) {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                append(&trail, records, &mut random, Duration::from_millis(1));
            }
        });
        let reader = scope.spawn(|| {
            let seen: Vec<_> = reader.by_ref().take_while(|frame| frame.event.as_deref() != Some("closing")).collect();
            assert!(reader.next().is_none() && reader.is_complete());
            seen.into_iter().filter(|frame| frame.event.is_none()).map(|frame| frame.json()).collect::<Vec<Value>>()
        });
        server.wait_until("more records taken", || server.records() > 150);
        let accepted = server.records();
        let (status, took) = signal_and_wait(&mut server, signal);
        stopped.store(true, Ordering::SeqCst);
        (reader.join().unwrap(), accepted, status, took)
    });
    assert_eq!(status.code(), Some(0), "SIG{signal}: {status}; log:\n{}", server.log_lines().join("\n"));
    assert!(took < IN_TIME, "SIG{signal}: {took:?}");
    for stream in &mut streams {
        closing(stream);
    }

    // What is on disk: looked at by a process that takes nothing in.
    let without_sources = format!("data_dir = {:?}", folder.path().join("data"));
    let kept = Server::serve(folder.path(), &without_sources).all_events();
    let explained = explain(&[&trail]);
    let must = ids(&events_of(&explained));
    assert!(kept.len() < must.len(), "stopped under load");
    assert_eq!(ids(&kept), must[..kept.len()], "a beginning of what must come, without a gap or a double");
    let accepted = events_of(&explained[..usize::try_from(accepted).unwrap()]).len();
    assert!(kept.len() >= accepted, "{} of {accepted} accepted events were kept", kept.len());
    assert_eq!(seen, kept[..seen.len()], "what was sent was kept");

    // And it goes on from there.
    let server = Server::serve(folder.path(), &configuration(folder.path(), ""));
    server.wait_until("all taken", || server.all_events().len() >= must.len());
    assert_eq!(ids(&server.all_events()), must);
}

/// A server with more in its log than the buffers of a connection hold, and a client that asks for all and reads none.
fn with_an_unread_stream(folder: &Path, drain: Duration) -> (Server, Socket) {
    for number in 0..12 {
        add(&folder.join("trail.ndjson"), &create_group_of_size(&number.to_string(), 900_000));
    }
    let more = format!("[shutdown]\ndrain_millis = {}", drain.as_millis());
    let server = Server::serve(folder, &configuration(folder, &more));
    server.wait_until("all records told", || server.metric("catchment_log_tail_sequence", "") as u64 == 12);
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(4_096).unwrap();
    client.connect(&server.address().into()).unwrap();
    client.send(b"GET /v1/events?since=2020-01-01T00:00:00Z HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    // Until its buffers are full: before, it can be told of the end.
    let (mut sent, mut since) = (0.0, Instant::now());
    server.wait_until("the stream stuck", || {
        let now = server.metric("catchment_stream_bytes_total", "");
        if now > sent {
            (sent, since) = (now, Instant::now());
        }
        sent > 0.0 && since.elapsed() > STUCK
    });
    (server, client)
}

/// A stream that has nothing more to send: one that begins a moment after a commit may begin before it.
fn at_the_end(server: &Server) -> Frames {
    loop {
        let mut live = server.stream("/v1/events", &[]);
        let caught_up = live.next().unwrap();
        if caught_up.id.as_deref().is_some_and(|id| id.ends_with(".12")) {
            return live;
        }
    }
}

#[test]
fn a_stream_that_is_not_read_holds_the_stop_up_no_longer_than_the_drain_deadline() {
    let folder = folder();
    let drain = Duration::from_millis(1_200);
    let (mut server, _client) = with_an_unread_stream(folder.path(), drain);
    let mut live = at_the_end(&server);
    let (status, took) = signal_and_wait(&mut server, "TERM");
    let log = server.rest_of_log();
    assert_eq!(status.code(), Some(0), "nothing is lost with a stream; log:\n{log}");
    assert!(log.contains("\"phase\":\"streams\""), "{log}");
    assert!(took >= drain, "it has its time: {took:?}");
    assert!(took < IN_TIME, "{took:?}");
    closing(&mut live);
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let folder = folder();
        let (mut server, _client) = with_an_unread_stream(folder.path(), 10 * PATIENCE);
        // It closes when the server has gone through all else that stopping takes.
        let mut live = at_the_end(&server);
        server.signal(first);
        closing(&mut live);
        assert!(server.is_running(), "SIG{first}: it waits for the unread stream");
        let (status, took) = signal_and_wait(&mut server, second);
        assert_eq!((status.code(), status.signal()), (Some(2), None), "SIG{first}, SIG{second}");
        assert!(took < IN_TIME, "SIG{first}, SIG{second}: {took:?}");
        let log = server.rest_of_log();
        assert!(log.contains("ended by a second signal"), "{log}");
    }
}
