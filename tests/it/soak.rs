//! A run of minutes in which everything comes and goes: memory and open files stay flat, and no subscriber that resumes
//! misses an event or gets one twice. `CATCHMENT_SOAK_SECS` makes it longer.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::server::{Frames, PATIENCE, Server, folder, serve};
use crate::support::trail::create_group;

/// Records a second, and the assets that they are about.
const RATE: u64 = 100;
const ASSETS: u64 = 1_000;
/// Files that grow are a second long, and go after so many.
const FILES_KEPT: usize = 30;
const RESUMING: usize = 6;
const SLOW: usize = 2;
const FILTERED: usize = 3;
const COMPRESSED: usize = 3;
const STUCK: usize = 4;
/// The store fills its buffers and caches in the course of the first minutes, whatever happens. So a run of minutes tells
/// whether memory is flat, where a leak of 100 bytes per event and subscriber is more than this in ten; a shorter one, whether
/// it keeps within what those take.
const GROWTH_KIB: u64 = 48 << 10;
const MOST_KIB: u64 = 512 << 10;
const LONG: Duration = Duration::from_secs(300);
const MORE_FILES: usize = 24;

/// What the subscribers share.
struct Stage {
    address: SocketAddr,
    stop: AtomicBool,
    /// The position of the last event, once all are logged; until then out of reach.
    last: AtomicU64,
    received: AtomicU64,
    connections: AtomicU64,
}

impl Stage {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

fn length() -> Duration {
    Duration::from_secs(std::env::var("CATCHMENT_SOAK_SECS").map_or(60, |secs| secs.parse().unwrap()))
}

/// Ends the subscribers when the test fails: a scope waits for its threads.
struct EndWith<'a>(&'a Stage);

impl Drop for EndWith<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        if std::thread::panicking() {
            self.0.last.store(0, Ordering::Relaxed);
        }
    }
}

/// Writes records at a steady rate into files that come and go, for as long as asked; gives their number.
fn write(trail: &Path, length: Duration) -> u64 {
    let (begun, mut written, mut files) = (Instant::now(), 0, VecDeque::new());
    for second in 0..length.as_secs() {
        let path = trail.join(format!("{second:05}.jsonl"));
        let mut lines = String::new();
        for _ in 0..RATE {
            let mut record = create_group(&format!("event-{written}"));
            record["responseElements"]["groupId"] = format!("sg-{}", written % ASSETS).into();
            writeln!(lines, "{record}").unwrap();
            written += 1;
        }
        std::fs::write(&path, lines).unwrap();
        files.push_back(path);
        if files.len() > FILES_KEPT {
            std::fs::remove_file(files.pop_front().unwrap()).unwrap();
        }
        std::thread::sleep((begun + Duration::from_secs(second + 1)).saturating_duration_since(Instant::now()));
    }
    written
}

/// Reads, goes away, comes back with the position it had: every event, in order, once.
fn resume(stage: &Stage, seed: u64, pause: Duration) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut position, mut epoch): (Option<u64>, String) = (None, String::new());
    while position.is_none_or(|position| position < stage.last.load(Ordering::Relaxed)) {
        stage.connections.fetch_add(1, Ordering::Relaxed);
        let header = position.map(|position| format!("{epoch}.{position}"));
        let headers: Vec<_> = header.iter().map(|id| ("last-event-id", id.as_str())).collect();
        let many = random.usize(1..2_000);
        for frame in Frames::open(stage.address, "/v1/events?since=1970-01-01T00:00:00Z", &headers).take(many) {
            let id = frame.id.clone().unwrap_or_default();
            match frame.event.as_deref() {
                None => {}
                Some("caught-up") => continue,
                Some(_) => panic!("after {position:?}: {frame:?}"),
            }
            let (of, seq) = id.split_once('.').unwrap();
            let seq: u64 = seq.parse().unwrap();
            assert!(position.is_none_or(|position| seq == position + 1), "{seq} after {position:?}");
            (position, epoch) = (Some(seq), of.to_owned());
            stage.received.fetch_add(1, Ordering::Relaxed);
            if seq >= stage.last.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(pause);
        }
        std::thread::sleep(Duration::from_millis(random.u64(0..500)));
    }
}

/// Reads what passes a filter for a while, and comes back as somebody new.
fn filter(stage: &Stage, number: usize) {
    let mut random = fastrand::Rng::with_seed(number as u64);
    while stage.goes_on() {
        let path =
            ["where=data.asset.id.endsWith(%227%22)", "asset_type=network.security_group&omit=raw", "account=none"]
                [number % 3];
        stage.connections.fetch_add(1, Ordering::Relaxed);
        let mut last = 0;
        let until = Instant::now() + Duration::from_millis(random.u64(100..5_000));
        for frame in Frames::open(stage.address, &format!("/v1/events?{path}&heartbeat=1"), &[]) {
            if frame.event.is_none() {
                let seq: u64 = frame.id.unwrap().split_once('.').unwrap().1.parse().unwrap();
                assert!(seq > last, "{seq} after {last}");
                last = seq;
            }
            if Instant::now() > until || !stage.goes_on() {
                break;
            }
        }
    }
}

fn connect(address: SocketAddr, headers: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let request = format!("GET /v1/events?since=1970-01-01T00:00:00Z HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    socket
}

/// Takes compressed bytes for a while.
fn compress(stage: &Stage, number: usize) {
    let mut random = fastrand::Rng::with_seed(number as u64);
    while stage.goes_on() {
        stage.connections.fetch_add(1, Ordering::Relaxed);
        let mut socket = connect(stage.address, "accept-encoding: gzip\r\n");
        let until = Instant::now() + Duration::from_millis(random.u64(100..5_000));
        let mut bytes = [0; 16 << 10];
        // A read that times out is silence.
        while Instant::now() < until && !matches!(socket.read(&mut bytes), Ok(0)) {}
    }
}

/// Takes nothing; the server lets it go, or it goes.
fn get_stuck(stage: &Stage, number: usize) {
    let mut random = fastrand::Rng::with_seed(number as u64);
    while stage.goes_on() {
        stage.connections.fetch_add(1, Ordering::Relaxed);
        let _socket = connect(stage.address, "");
        let until = Instant::now() + Duration::from_millis(random.u64(1_000..10_000));
        while Instant::now() < until && stage.goes_on() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The highest of the second quarter and of the last.
fn quarters<T: Copy + Ord>(samples: &[T]) -> (T, T) {
    let quarter = samples.len() / 4;
    let highest = |range: &[T]| *range.iter().max().unwrap();
    (highest(&samples[quarter..2 * quarter]), highest(&samples[3 * quarter..]))
}

#[test]
fn minutes_of_coming_and_going_leave_nothing_behind_and_lose_nothing() {
    let folder = folder();
    let trail = folder.path().join("trail");
    std::fs::create_dir(&trail).unwrap();
    let rules = folder.path().join("rules");
    std::fs::create_dir(&rules).unwrap();
    let mut command = serve(
        folder.path(),
        &format!(
            "data_dir = {:?}\n[log]\nretention_bytes = 262144\n[http]\nstalled_after_secs = 3\nring_bytes = 1048576\n\
             [auth]\nrequests_per_minute = 1000000\n[normalizers]\ndir = {rules:?}\n[sources.trail.file]\npath = {trail:?}\npoll_millis = 50\n",
            folder.path().join("data")
        ),
    );
    // The line per client that is let go is not wanted here.
    command.env("CATCHMENT_LOG", "info,catchment::hub=warn");
    let server = Server::start(command);
    let stage = Stage {
        address: server.address(),
        stop: AtomicBool::new(false),
        last: AtomicU64::new(u64::MAX),
        received: AtomicU64::new(0),
        connections: AtomicU64::new(0),
    };
    let (mut memory, mut open_files) = (Vec::new(), Vec::new());
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&trail, length()));
        server.wait_until("an event", || server.metric("catchment_log_tail_sequence", "") > 0.5);
        let stage = &stage;
        let _end = EndWith(stage);
        for number in 0..RESUMING {
            scope.spawn(move || resume(stage, number as u64, Duration::ZERO));
        }
        for number in 0..SLOW {
            scope.spawn(move || resume(stage, number as u64, Duration::from_micros(1_500)));
        }
        (0..FILTERED).for_each(|number| drop(scope.spawn(move || filter(stage, number))));
        (0..COMPRESSED).for_each(|number| drop(scope.spawn(move || compress(stage, number))));
        (0..STUCK).for_each(|number| drop(scope.spawn(move || get_stuck(stage, number))));
        while !writer.is_finished() {
            std::thread::sleep(Duration::from_secs(1));
            memory.push(server.resident_kib());
            open_files.push(server.open_files());
            if memory.len() % 10 == 0 {
                server.signal("HUP");
            }
        }
        let written = writer.join().unwrap();
        // However busy the machine is, as long as it gets on.
        let (mut tail, mut since) = (0.0, Instant::now());
        while tail < written as f64 {
            std::thread::sleep(Duration::from_millis(100));
            let now = server.metric("catchment_log_tail_sequence", "");
            if now > tail {
                (tail, since) = (now, Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "{tail} of {written}: {}", server.log_lines().join("\n"));
        }
        // One more, so that those who wait at the tail see that it is the last.
        stage.last.store(written + 1, Ordering::Relaxed);
        stage.stop.store(true, Ordering::Relaxed);
        std::fs::write(trail.join("last.jsonl"), format!("{}\n", create_group("last"))).unwrap();
        written + 1
    });
    server.wait_until("all taken", || server.metric("catchment_records_total", "") >= written as f64);
    assert_eq!(server.metric("catchment_records_total", "changes"), written as f64);
    assert_eq!(server.metric("catchment_records_received_total", ""), written as f64);
    assert!(server.metric("catchment_rule_reloads_total", "success") >= 1.0);
    let ((memory_before, memory_after), (files_before, files_after)) = (quarters(&memory), quarters(&open_files));
    let size = server.metric("catchment_log_size_bytes", "");
    assert!(size <= 262_144.0, "{size}");
    eprintln!(
        "{} s, {written} events, {} received by resuming subscribers, {} connections, {} let go, oldest kept {}; \
         memory {memory_before} then {memory_after} KiB, open files {files_before} then {files_after}",
        memory.len(),
        stage.received.load(Ordering::Relaxed),
        stage.connections.load(Ordering::Relaxed),
        server.metric("catchment_stream_stalled_total", ""),
        server.metric("catchment_log_floor_sequence", ""),
    );
    assert!(memory_after <= MOST_KIB, "{memory:?}");
    assert!(length() < LONG || memory_after <= memory_before + GROWTH_KIB, "{memory:?}");
    assert!(files_after <= files_before + MORE_FILES, "{open_files:?}");
    let mut server = server;
    server.signal("TERM");
    let status = server.wait();
    assert!(status.success(), "{status}: {}", server.log_lines().join("\n"));
}
