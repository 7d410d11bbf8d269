//! The cost of serving the stream, compared with Nchan (the SSE module of nginx) in the same run.
//!
//! Both publish the same events of 2 KB; a load generator of one thread reads them over many connections, checks that
//! every event arrives, once and in order, and relates the server's CPU time to the deliveries. The two take turns, and
//! each run has a fixed duration, not a fixed number of events. The server is this program itself, started again with
//! the library's in-memory log, hub and HTTP interface, so that the cost of normalizing is left out.
//!
//! `cargo bench --bench fanout [-- SCENARIO…]`; `CATCHMENT_BENCH_QUICK=1` for one round instead of three. For Nchan:
//! `apt-get install nginx-light libnginx-mod-nchan`; for the kernel's memory, `ss` (`iproute2`); for connections over
//! TLS, `openssl`. Up to 10,000 connections: `ulimit -n` must allow 11,000 files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../cpu.rs"]
mod cpu;
mod load;
mod nchan;
mod peers;
mod scenario;
mod server;
mod stream;
mod tls;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nchan::Nchan;
use peers::{Ask, Door};
use scenario::{Outcome, Scenario, Work};

/// Bytes of an event.
const EVENT_BYTES: usize = 2_048;
/// How long events are published in one run.
const LASTING: Duration = Duration::from_millis(2_500);

/// One line of the table: a figure of a scenario's runs.
struct Row {
    name: &'static str,
    unit: &'static str,
    of: fn(&Outcome) -> Option<f64>,
}

fn main() -> ExitCode {
    if let Some(folder) = std::env::var_os(server::FOLDER) {
        server::run(folder.as_ref());
        return ExitCode::SUCCESS;
    }
    let rounds = if std::env::var_os("CATCHMENT_BENCH_QUICK").is_some() { 1 } else { 3 };
    let only: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let nchan = Nchan::is_installed();
    if !nchan {
        println!("Nchan is not installed, and left out: apt-get install nginx-light libnginx-mod-nchan");
    }
    println!("events of {EVENT_BYTES} bytes; medians of {rounds} rounds in turns; CPU is the server's, per delivery\n");
    println!("| | connections | Catchment | Nchan | Nchan / Catchment | load |");
    println!("|---|--:|--:|--:|--:|--:|");
    let (began, mut failed) = (Instant::now(), false);
    for (scenario, door, rows) in scenarios() {
        if !only.is_empty() && !only.iter().any(|name| scenario.name.starts_with(name.as_str())) {
            continue;
        }
        let (mut ours, mut theirs, mut load) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(scenario.measure(door, LASTING));
            load.push(load_average());
            if nchan && has_a_like(&scenario, door) {
                theirs.push(scenario.measure(Door::Nchan, LASTING));
            }
        }
        failed |= ours.iter().any(Result::is_err);
        let (ours, theirs) = (ours.into_iter().collect(), theirs.into_iter().collect());
        let theirs = (nchan && has_a_like(&scenario, door)).then_some(theirs);
        rows.iter().for_each(|row| print(&scenario, row, &ours, theirs.as_ref(), median(&load)));
    }
    println!("\n{} s in all", began.elapsed().as_secs());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether Nchan supports the scenario: it has no filters, and only one door.
fn has_a_like(scenario: &Scenario, door: Door) -> bool {
    door == Door::Plain && (scenario.ask.filtered.is_none() || scenario.work == Work::Idle)
}

const CPU: Row = Row { name: "", unit: "µs", of: |outcome| Some(outcome.cpu_per_delivery) };
const P99: Row = Row { name: ", p99 of who reads", unit: "ms", of: |outcome| Some(outcome.p99_ms) };
const RESIDENT: Row = Row { name: ", resident for each", unit: "KiB", of: |outcome| Some(outcome.kib_per_connection) };
const GROWN: Row = Row { name: ", growth of the process", unit: "MiB", of: |outcome| Some(outcome.grown_kib / 1024.0) };
const KERNEL: Row =
    Row { name: ", of the kernel for each stuck", unit: "KiB", of: |outcome| outcome.kernel_kib_per_stuck };
const LET_GO: Row =
    Row { name: ", let go and resumed", unit: "", of: |outcome| outcome.let_go.map(|count| count as f64) };
const RESUMED: Row = Row { name: ", resumed in a second", unit: "", of: |outcome| Some(outcome.resumed_a_second) };

fn scenarios() -> Vec<(Scenario, Door, &'static [Row])> {
    let none = Ask::default();
    let saturated = |name, connections| Scenario { name, connections, work: Work::Saturated, ask: none };
    let paced = |name, connections, a_second, stuck, ask| Scenario {
        name,
        connections,
        work: Work::Paced { a_second, stuck },
        ask,
    };
    let filtered = |groups| Ask { filtered: Some(groups), ..none };
    let idle = |name, connections, ask| Scenario { name, connections, work: Work::Idle, ask };
    let waiting = Ask { credential: true, ..filtered(10_000) };
    vec![
        (saturated("saturated-100", 100), Door::Plain, &[CPU]),
        (saturated("saturated-1k", 1_000), Door::Plain, &[CPU]),
        (saturated("saturated-10k", 10_000), Door::Plain, &[CPU]),
        (Scenario { name: "one-by-one", connections: 1_000, work: Work::OneByOne, ask: none }, Door::Plain, &[CPU]),
        (
            Scenario {
                name: "catch-up",
                connections: 100,
                work: Work::CatchUp { events: 10_000 },
                ask: Ask { from_the_first: true, ..none },
            },
            Door::Plain,
            &[CPU],
        ),
        (
            Scenario {
                name: "churn",
                connections: 1_000,
                work: Work::Churn { a_second: 50, leave_after: 50 },
                ask: none,
            },
            Door::Plain,
            &[CPU, RESUMED],
        ),
        // The baselines of what follows: without those that read nothing, and with as many that read.
        (paced("healthy-100", 100, 200, 0, none), Door::Plain, &[P99, GROWN]),
        (paced("healthy-300", 300, 200, 0, none), Door::Plain, &[P99, GROWN]),
        (paced("healthy-beside-stuck", 300, 200, 200, none), Door::Plain, &[P99, GROWN, KERNEL, LET_GO]),
        (idle("idle", 10_000, waiting), Door::Plain, &[RESIDENT]),
        (idle("idle-http-1.0", 10_000, waiting), Door::Http10, &[RESIDENT]),
        (idle("idle-tls", 1_000, waiting), Door::Tls, &[RESIDENT]),
        // The same number of deliveries, with and without filters.
        (paced("filters-10-of-10k", 10_000, 1_000, 0, filtered(1_000)), Door::Plain, &[CPU]),
        (paced("unfiltered-10k-each", 10_000, 1, 0, none), Door::Plain, &[CPU]),
        (paced("filters-100-of-10k", 10_000, 1_000, 0, filtered(100)), Door::Plain, &[CPU]),
        (paced("unfiltered-100k-each", 10_000, 10, 0, none), Door::Plain, &[CPU]),
    ]
}

/// The number of runnable tasks, averaged over the last minute (`man 5 proc_loadavg`), including this bench.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

type Outcomes = Result<Vec<Outcome>, String>;

fn print(scenario: &Scenario, row: &Row, ours: &Outcomes, theirs: Option<&Outcomes>, load: f64) {
    let figure = |outcomes: &Outcomes| match outcomes {
        Ok(outcomes) => {
            let figures: Vec<f64> = outcomes.iter().filter_map(row.of).collect();
            if figures.is_empty() { Err("–".to_owned()) } else { Ok(median(&figures)) }
        }
        Err(what) => Err(what.clone()),
    };
    let cell = |figure: &Result<f64, String>| match figure {
        Ok(figure) if row.unit.is_empty() => format!("{figure:.0}"),
        Ok(figure) => format!("{figure:.2} {}", row.unit),
        Err(what) => what.clone(),
    };
    let ours = figure(ours);
    let theirs = theirs.map_or(Err("–".to_owned()), figure);
    let ratio = match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) if *ours > 0.0 => format!("{:.1}", theirs / ours),
        _ => String::new(),
    };
    let (name, connections) = (scenario.name, scenario.connections);
    println!("| {name}{} | {connections} | {} | {} | {ratio} | {load:.1} |", row.name, cell(&ours), cell(&theirs));
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
