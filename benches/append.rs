//! How fast the durable log appends events, and how fast it reads them back.
//!
//! Events of 2 KB, which compress about as well as a trail's, are appended to an [`EmbeddedLog`] in batches of 1, 100
//! and 1,000; one batch at a time, and with sixteen in flight, which the log may write together. For comparison, in the
//! same run and in turns, the same bytes are written to a plain file with one `fdatasync` per batch: what the disk
//! allows a log that only writes, batch by batch.
//!
//! `cargo bench --bench append`; `CATCHMENT_BENCH_QUICK=1` shortens it, `CATCHMENT_BENCH_DIR` chooses the disk.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use catchment::log::{Batch, EmbeddedLog, EventLog, NewEvent, Pending, Retention};
use catchment::metrics::Metrics;
use catchment::model::{Action, AssetName, EventHead, Novelty, Seq, Time};

const EVENT_BYTES: usize = 2_000;
const ROUNDS: usize = 3;

fn main() {
    let quick = std::env::var_os("CATCHMENT_BENCH_QUICK").is_some();
    let root = std::env::var_os("CATCHMENT_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    println!("events of {EVENT_BYTES} bytes; medians of {ROUNDS} rounds, in turns with the baseline");
    println!();
    println!("| batch | under way | events | log: events/s | bytes/event | plain file: events/s | log / file |");
    println!("|------:|----------:|-------:|--------------:|------------:|---------------------:|-----------:|");
    let rows =
        [(1, 1, 1_000), (1, 16, 4_000), (100, 1, 40_000), (100, 16, 80_000), (1_000, 1, 150_000), (1_000, 16, 150_000)];
    for (batch, under_way, count) in rows {
        let count = if quick { count / 10 } else { count };
        let events = (0..count).map(event).collect::<Vec<_>>();
        let (mut log, mut file, mut bytes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            let directory = tempfile::tempdir_in(&root).unwrap();
            file.push(plain_file(&directory.path().join("baseline"), &events, batch));
            let (took, size) = embedded(&directory.path().join("data"), &events, batch, under_way);
            log.push(took);
            bytes = size / count;
        }
        let rate = |mut times: Vec<Duration>| {
            times.sort();
            count as f64 / times[ROUNDS / 2].as_secs_f64()
        };
        let (log, file) = (rate(log), rate(file));
        println!("| {batch} | {under_way} | {count} | {log:.0} | {bytes} | {file:.0} | {:.2} |", log / file);
    }
    println!();
    reading(&root, if quick { 20_000 } else { 200_000 });
}

/// An event like a trail's: mostly the same text, with unique ids.
fn event(n: u64) -> NewEvent {
    let mut random = fastrand::Rng::with_seed(n);
    let mut hex = || format!("{:016x}", random.u64(..));
    let (id, key, address) = (hex() + &hex(), hex(), n % 250);
    let asset = format!("asset://aws/123456789012/eu-west-1/ec2/security-group/sg-{}", hex());
    let mut json = format!(
        r#"{{"specversion":"1.0","id":"{id}:0","type":"io.catchment.asset.update","subject":"{asset}","data":{{"raw":{{"eventVersion":"1.08","userIdentity":{{"type":"AssumedRole","accessKeyId":"{key}"}},"sourceIPAddress":"192.0.2.{address}","#
    );
    while json.len() < EVENT_BYTES - 80 {
        json.push_str(&format!(r#""element{}":{{"groupRuleId":"sgr-{}","ipProtocol":"tcp"}},"#, json.len(), hex()));
    }
    json.push_str(r#""end":true}}}"#);
    let head = EventHead {
        id: format!("{id}:0"),
        time: Time::from_millis(n as i64),
        observed: Time::from_millis(n as i64),
        action: Action::Update,
        asset: AssetName::from_text(&asset),
        asset_type: "network.security_group".to_owned(),
        provider: "aws".to_owned(),
        account: "123456789012".to_owned(),
        region: "eu-west-1".to_owned(),
        principals: vec!["AROAEXAMPLE:deployer".to_owned(), "jane@example.com".to_owned()],
        method: "terraform".to_owned(),
        novelty: Novelty::default(),
    };
    NewEvent { head, json: Bytes::from(json) }
}

fn open(directory: &Path) -> EmbeddedLog {
    EmbeddedLog::open(directory, Retention::default(), Arc::new(Metrics::new().unwrap())).unwrap()
}

fn embedded(directory: &Path, events: &[NewEvent], batch: usize, limit: usize) -> (Duration, u64) {
    let log = open(directory);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let wait = |pending: Pending| runtime.block_on(pending).unwrap();
    let batches: Vec<_> = events.chunks(batch).map(|run| Batch { events: run.to_vec(), ..Batch::default() }).collect();
    let (start, mut under_way) = (Instant::now(), VecDeque::new());
    for batch in batches {
        under_way.push_back(log.append(batch).unwrap());
        if under_way.len() == limit {
            wait(under_way.pop_front().unwrap());
        }
    }
    for pending in under_way {
        wait(pending);
    }
    (start.elapsed(), log.size_bytes())
}

fn plain_file(path: &Path, events: &[NewEvent], batch: usize) -> Duration {
    let mut file = File::create(path).unwrap();
    let batches: Vec<Vec<u8>> =
        events.chunks(batch).map(|run| run.iter().flat_map(|event| event.json.iter().copied()).collect()).collect();
    let start = Instant::now();
    for bytes in batches {
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
    }
    start.elapsed()
}

fn reading(root: &Path, count: u64) {
    let directory = tempfile::tempdir_in(root).unwrap();
    let events = (0..count).map(event).collect::<Vec<_>>();
    embedded(directory.path(), &events, 100, 16);
    let start = Instant::now();
    let log = open(directory.path());
    println!("opening with {count} events: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    for round in ["first", "second"] {
        let (start, mut position, mut bytes) = (Instant::now(), Seq(0), 0);
        loop {
            let blocks = log.read(position, 1 << 20).unwrap();
            let Some(last) = blocks.last() else { break };
            position = Seq(last.first.0 + last.heads.len() as u64 - 1);
            bytes += blocks.iter().map(|block| block.lines.len()).sum::<usize>();
        }
        let took = start.elapsed().as_secs_f64();
        println!("reading, {round} time: {:.0} events/s, {:.0} MB/s", count as f64 / took, bytes as f64 / took / 1e6);
    }
    let ids: Vec<_> = events.iter().step_by(101).map(|event| event.head.id.as_str()).collect();
    look_up("by id, found", ids.len(), |n| log.find(ids[n]).unwrap().is_some());
    look_up("by id, unknown", ids.len(), |n| log.find(&format!("{}x", ids[n])).unwrap().is_none());
    look_up("by moment", 1_000, |n| {
        let moment = n as u64 * count / 1_000;
        log.first_observed_since(Time::from_millis(moment as i64)).unwrap() == Seq(moment + 1)
    });
}

fn look_up(what: &str, times: usize, right: impl Fn(usize) -> bool) {
    let start = Instant::now();
    assert!((0..times).all(right));
    println!("looking up {what}: {:.1} µs", start.elapsed().as_secs_f64() * 1e6 / times as f64);
}
