//! What serving the stream costs, beside Nchan (the SSE module of nginx) in the same run.
//!
//! Both are told to publish the same events of 2 KB; a load generator of one thread reads them over many connections,
//! checks that every event comes, once and in order, and charges the server's CPU time to what was delivered. The two
//! take turns. The server is this program itself, started again with the library's log in memory, hub and HTTP
//! interface, so that the cost of normalizing is left out.
//!
//! `cargo bench --bench fanout [-- SCENARIO…]`; `CATCHMENT_BENCH_QUICK=1` shortens it. For Nchan:
//! `apt-get install nginx-light libnginx-mod-nchan`. Up to 10,000 connections: `ulimit -n` must allow 11,000 files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod load;
mod peers;
mod server;

use std::time::{Duration, Instant};

use load::{Load, Totals};
use peers::{Catchment, Nchan, Peer};

/// Bytes of an event.
const EVENT_BYTES: usize = 2_048;
/// Events that may be published and not yet read, when publishing as fast as they are read.
const WINDOW: u64 = 512;

/// What is measured.
struct Scenario {
    name: &'static str,
    connections: usize,
    /// Connections that never read.
    stuck: usize,
    work: Work,
}

enum Work {
    /// Events as fast as they are read.
    Saturated { events: u64 },
    /// One event when the one before has been read by all.
    OneByOne { events: u64 },
    /// Events that were there before the readers.
    CatchUp { events: u64 },
    /// So many events a second.
    Paced { events: u64, a_second: u64 },
    /// Nothing.
    Idle,
}

/// One run of a scenario.
struct Outcome {
    cpu_per_delivery: f64,
    p99: Duration,
    kib_per_connection: f64,
}

fn main() {
    if std::env::var_os(server::ROLE).is_some() {
        return server::run();
    }
    let quick = std::env::var_os("CATCHMENT_BENCH_QUICK").is_some();
    let rounds = if quick { 1 } else { 3 };
    let scale = if quick { 5 } else { 1 };
    let only: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let nchan = Nchan::is_installed();
    if !nchan {
        println!("Nchan is not installed, and left out: apt-get install nginx-light libnginx-mod-nchan");
    }
    println!("events of {EVENT_BYTES} bytes; medians of {rounds} rounds in turns; CPU is the server's\n");
    println!("| | connections | catchment | Nchan | Nchan / catchment |");
    println!("|---|--:|--:|--:|--:|");
    for scenario in scenarios(scale) {
        if !only.is_empty() && !only.iter().any(|name| scenario.name.starts_with(name.as_str())) {
            continue;
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(measure(&scenario, &mut Catchment::start(true)));
            if nchan {
                theirs.push(measure(&scenario, &mut Nchan::start()));
            }
        }
        print_row(&scenario, &ours, &theirs);
        if matches!(scenario.work, Work::Idle) {
            let hyper = (0..rounds).map(|_| measure(&scenario, &mut Catchment::start(false)));
            let hyper = median(hyper.map(|outcome| outcome.kib_per_connection).collect());
            println!("| idle, through hyper | {} | {hyper:.2} KiB | | |", scenario.connections);
        }
    }
}

fn scenarios(scale: u64) -> Vec<Scenario> {
    let scenario = |name, connections, stuck, work| Scenario { name, connections, stuck, work };
    vec![
        scenario("saturated-100", 100, 0, Work::Saturated { events: 100_000 / scale }),
        scenario("saturated-1k", 1_000, 0, Work::Saturated { events: 20_000 / scale }),
        scenario("saturated-10k", 10_000, 0, Work::Saturated { events: 2_000 / scale }),
        scenario("one-by-one-1k", 1_000, 0, Work::OneByOne { events: 300 / scale }),
        scenario("catch-up", 100, 0, Work::CatchUp { events: 10_000 }),
        scenario("idle", 10_000, 0, Work::Idle),
        scenario("healthy", 100, 0, Work::Paced { events: 2_000 / scale, a_second: 200 }),
        scenario("healthy-beside-stuck", 300, 200, Work::Paced { events: 2_000 / scale, a_second: 200 }),
    ]
}

fn measure(scenario: &Scenario, peer: &mut dyn Peer) -> Outcome {
    let prepared = if let Work::CatchUp { events } = scenario.work { events } else { 0 };
    publish_all(peer, prepared);
    let before_connections = peer.resident_kib();
    let cpu_before = peer.cpu();
    let request = peer.request(prepared > 0);
    let load = Load::open(peer.address(), &request, scenario.connections, scenario.stuck);
    load.wait_until_open();
    let cpu_open = peer.cpu();
    let readers = (scenario.connections - scenario.stuck) as u64;
    let mut published = prepared;
    match scenario.work {
        Work::Saturated { events } => {
            while published < events {
                let read = load.deliveries() / readers;
                let room = WINDOW.saturating_sub(published - read.min(published)).min(events - published);
                if room == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                let count = room.min(16);
                peer.publish(published, count);
                published += count;
            }
        }
        Work::OneByOne { events } => {
            for number in 0..events {
                peer.publish(number, 1);
                published += 1;
                load.wait_for(published * readers);
            }
        }
        Work::Paced { events, a_second } => {
            let began = Instant::now();
            for number in 0..events {
                let due = Duration::from_micros(1_000_000 * number / a_second);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
                peer.publish(number, 1);
                published += 1;
            }
        }
        Work::CatchUp { .. } => {}
        Work::Idle => std::thread::sleep(Duration::from_secs(1)),
    }
    load.wait_for(published * readers);
    let cpu = peer.cpu() - if prepared > 0 { cpu_before } else { cpu_open };
    let resident = peer.resident_kib();
    let totals: Totals = load.finish();
    assert_eq!((totals.gaps, totals.doubles), (0, 0), "{}: every event, once and in order", peer.name());
    let grown = resident.saturating_sub(before_connections) as f64;
    Outcome {
        cpu_per_delivery: cpu.as_secs_f64() * 1e6 / totals.deliveries.max(1) as f64,
        p99: totals.p99,
        kib_per_connection: grown / scenario.connections as f64,
    }
}

fn publish_all(peer: &mut dyn Peer, count: u64) {
    let mut published = 0;
    while published < count {
        let some = (count - published).min(64);
        peer.publish(published, some);
        published += some;
    }
    peer.settle(count);
}

fn print_row(scenario: &Scenario, ours: &[Outcome], theirs: &[Outcome]) {
    let figure = |outcomes: &[Outcome]| -> Option<f64> {
        let of = |outcome: &Outcome| match scenario.work {
            Work::Idle => outcome.kib_per_connection,
            Work::Paced { .. } => outcome.p99.as_secs_f64() * 1e3,
            _ => outcome.cpu_per_delivery,
        };
        (!outcomes.is_empty()).then(|| median(outcomes.iter().map(of).collect()))
    };
    let unit = match scenario.work {
        Work::Idle => "KiB",
        Work::Paced { .. } => "ms p99",
        _ => "µs",
    };
    let (ours, theirs) = (figure(ours).unwrap_or(f64::NAN), figure(theirs));
    let (theirs, ratio) = theirs.map_or((String::new(), String::new()), |theirs| {
        (format!("{theirs:.2} {unit}"), format!("{:.1}", theirs / ours))
    });
    println!("| {} | {} | {ours:.2} {unit} | {theirs} | {ratio} |", scenario.name, scenario.connections);
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
