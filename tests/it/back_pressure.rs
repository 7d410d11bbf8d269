//! A log that takes nothing for a while: what comes in meanwhile waits in its source, not in memory, and nothing is lost.

use std::collections::HashSet;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::program::preloaded;
use crate::support::server::{Server, folder, serve};
use crate::support::trail::create_group_of_size;

/// 80 MB of records, and twice that of events: far more than what a source has on its way, which are eight deliveries of
/// about a megabyte.
const RECORDS: usize = 400;
const RECORD_BYTES: usize = 200_000;
/// What may come to what the program takes at rest, which depends on what the rules left behind when they were read:
/// less than the records alone, without anything that is made of them.
const GROWTH_KIB: u64 = 64 << 10;

/// Megabytes go through an unoptimized program: on a busy machine that takes its time.
const PATIENCE: Duration = Duration::from_secs(300);

#[track_caller]
fn wait_until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it does not get on");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn while_the_disk_hangs_memory_is_flat_and_nothing_is_lost() {
    let folder = folder();
    let (data, trail, gate) = (folder.path().join("data"), folder.path().join("trail"), folder.path().join("gate"));
    let configuration = format!("data_dir = {data:?}\n[sources.trail.file]\npath = {trail:?}\npoll_millis = 20\n");
    let mut command = serve(folder.path(), &configuration);
    command.env("LD_PRELOAD", preloaded(folder.path(), "slow_sync")).env("TEST_SYNC_GATE", &gate);
    let server = Server::start(command);
    let at_rest = server.resident_kib();
    std::fs::write(&gate, "").unwrap();
    std::fs::create_dir(&trail).unwrap();
    let mut file = std::fs::File::create(trail.join("a.jsonl")).unwrap();
    let record = create_group_of_size("NUMBER", RECORD_BYTES).to_string();
    for number in 0..RECORDS {
        writeln!(file, "{}", record.replace("NUMBER", &format!("{number:04}"))).unwrap();
    }
    let received = || server.metric("catchment_records_received_total", "");
    let told = || server.metric("catchment_log_tail_sequence", "");
    wait_until(|| received() > 0.5);
    // Until nothing more is taken in.
    let (mut before, mut since) = (received(), Instant::now());
    wait_until(|| {
        let now = received();
        if now > before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(3)
    });
    assert!(before < RECORDS as f64 / 4.0, "{before} of {RECORDS} records were taken in, none of them durable");
    assert_eq!(told(), 0.0, "nothing is told before it is durable");
    let held = server.resident_kib();
    assert!(held < at_rest + GROWTH_KIB, "{held} KiB, {at_rest} KiB at rest");

    std::fs::remove_file(&gate).unwrap();
    wait_until(|| told() > RECORDS as f64 - 0.5);
    let ids: HashSet<String> = server
        .events("since=1970-01-01T00:00:00Z&until=0s&fields=id")
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, (0..RECORDS).map(|number| format!("{number:04}:0")).collect());
}
