//! Records normalized per second on one core, file to NDJSON, as a ratio to merely parsing the same bytes into
//! `serde_json::Value`. They run alternately in this process, so that a busy machine slows both.
//!
//! `cargo bench --bench normalize`; `CATCHMENT_BENCH_QUICK=1` for a short run.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::convert::Infallible;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catchment::decode::{Decoder, Piece};
use catchment::ingest::{Processed, Processor};
use catchment::inventory::Inventory;
use catchment::memory;
use catchment::model::Time;
use catchment::normalize::{Engine, Outcome};
use catchment::source::demo;

fn parse(text: &[u8]) -> usize {
    let mut records = 0;
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        black_box(serde_json::from_slice::<serde_json::Value>(line).unwrap());
        records += 1;
    }
    records
}

/// The first half alone: the drafts that the rules produce from each record, before the inventory completes them.
fn drafts(engine: &Engine, text: &[u8]) -> usize {
    let mut drafts = 0;
    for piece in Decoder::new(text, 100).unwrap().pieces() {
        let Piece::Record { bytes: record, .. } = piece.unwrap() else { panic!("a piece that is no record") };
        if let Outcome::Changes { drafts: made, .. } = black_box(engine.normalize(&record)) {
            drafts += made.len();
        }
    }
    drafts
}

fn normalize(engine: &Arc<Engine>, text: &[u8]) -> (usize, usize) {
    let inventory = Arc::new(Inventory::new());
    let mut processor = Processor::new(Arc::clone(engine), inventory, "io.catchment".to_owned(), 1 << 17);
    let mut output = std::io::BufWriter::new(std::io::sink());
    let (mut events, mut bytes) = (0, 0);
    for piece in Decoder::new(text, 100).unwrap().pieces() {
        let Piece::Record { bytes: record, .. } = piece.unwrap() else { panic!("a piece that is no record") };
        let processed = processor.process(&record, Time::default(), |_| Ok::<_, Infallible>(false)).unwrap();
        if let Processed::Changes { events: changed, .. } = processed {
            for event in changed {
                events += 1;
                bytes += event.json.len();
                output.write_all(black_box(&event.json)).unwrap();
            }
        }
    }
    (events, bytes)
}

fn main() {
    memory::use_small_pages();
    let (count, rounds) = if std::env::var_os("CATCHMENT_BENCH_QUICK").is_some() { (2_000, 2) } else { (20_000, 9) };
    let records = demo::generate(1, count);
    let text = records.join("\n").into_bytes();
    let engine = Arc::new(Engine::load(None).unwrap());
    let (mut parsing, mut drafting, mut normalizing) = (Vec::new(), Vec::new(), Vec::new());
    let mut result = (0, 0);
    for _ in 0..rounds {
        let start = Instant::now();
        assert_eq!(parse(&text), records.len());
        parsing.push(start.elapsed());
        let start = Instant::now();
        assert!(drafts(&engine, &text) > 0);
        drafting.push(start.elapsed());
        let start = Instant::now();
        result = normalize(&engine, &text);
        normalizing.push(start.elapsed());
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    };
    let (parse, drafts, normalize) = (median(&mut parsing), median(&mut drafting), median(&mut normalizing));
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let (n, megabytes) = (records.len() as f64, text.len() as f64 / 1e6);
    println!("{} records, {megabytes:.1} MB, {} events, {:.1} MB out", records.len(), result.0, result.1 as f64 / 1e6);
    println!("| step | records/s | µs/record | MB/s | ratio |");
    println!("|---|---|---|---|---|");
    for (name, time) in [
        ("parse into serde_json::Value", parse),
        ("cut and read by the rules, file to drafts", drafts),
        ("normalize, file to NDJSON", normalize),
    ] {
        println!(
            "| {name} | {:.0} | {:.2} | {:.0} | {:.2} |",
            n / time,
            time / n * 1e6,
            megabytes / time,
            parse / time
        );
    }
}
