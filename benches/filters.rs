//! The cost of finding the filters that match an event, by the number of filters and of matches; and the cost of an
//! expression. CPU time of this thread, since the machine may be busy.
//!
//! `cargo bench --bench filters`; `CATCHMENT_BENCH_QUICK=1` for a short run.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod cpu;

use std::hint::black_box;

use catchment::hub::{Expression, Filter, Filters, InternedFilter, View};
use catchment::ingest::{Processed, Processor};
use catchment::inventory::Inventory;
use catchment::log::NewEvent;
use catchment::model::Time;
use catchment::normalize::Engine;
use catchment::source::demo;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Microseconds per event, over as many rounds as take `millis`: the kernel counts in steps of some milliseconds.
fn measure(events: usize, millis: u64, mut round: impl FnMut()) -> f64 {
    let (start, mut rounds, mut spent) = (cpu::of_thread(), 0, Duration::ZERO);
    while spent < Duration::from_millis(millis) {
        round();
        rounds += 1;
        spent = cpu::of_thread() - start;
    }
    spent.as_secs_f64() * 1e6 / (events * rounds) as f64
}

/// The events of the demo's records.
fn events(count: usize) -> Vec<NewEvent> {
    let engine = Arc::new(Engine::load(None).unwrap());
    let mut processor = Processor::new(engine, Arc::new(Inventory::new()), "io.catchment".to_owned(), 1 << 17);
    let mut found = Vec::new();
    for record in demo::generate(1, count) {
        let processed = processor.process(record.as_bytes(), Time::default(), |_| Ok::<_, Infallible>(false)).unwrap();
        if let Processed::Changes { events, .. } = processed {
            found.extend(events);
        }
    }
    found
}

fn views(events: &[NewEvent]) -> impl Iterator<Item = View<'_>> {
    events.iter().map(|event| View::new(&event.head, &event.json))
}

fn filter(parameters: &[(&str, &str)]) -> Filter {
    let of = |name: &str| parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Filter::parse("io.catchment", of).unwrap()
}

/// `count` filters for accounts without events.
fn strangers(filters: &Filters, count: usize, of: impl Fn(&str) -> Filter) -> Vec<InternedFilter> {
    (0..count).map(|number| filters.intern(of(&format!("{number:012}")))).collect()
}

fn main() {
    let quick = std::env::var_os("CATCHMENT_BENCH_QUICK").is_some();
    let (records, millis) = if quick { (500, 50) } else { (4_000, 500) };
    let events = events(records);
    let accounts: std::collections::BTreeSet<&str> = events.iter().map(|event| event.head.account.as_str()).collect();
    println!("{} events of {} accounts", events.len(), accounts.len());

    println!("\n| filters | passed by an event | found by index, µs/event | each filter asked, µs/event |");
    println!("|---:|---:|---:|---:|");
    for (others, wanted) in [(0, 1), (100, 1), (1_000, 1), (10_000, 0), (10_000, 1), (10_000, 10), (10_000, 100)] {
        index(&events, &accounts, others, wanted, millis);
    }

    println!("\n| expression | compiled in µs | alone, µs/event | the 100th of the same event, µs |");
    println!("|---|---:|---:|---:|");
    for text in [
        "asset.type == 'network.security_group'",
        "attribution.method == 'console' && asset.tags.env == 'prod'",
        "changes.exists(c, c.path.startsWith('/rules'))",
        "asset.name.matches('security-group/sg-[0-9a-f]+$')",
        "has(configuration.vpcId) && configuration.vpcId != 'vpc-1'",
        "raw.userIdentity.type == 'AssumedRole'",
    ] {
        expression(&events, text, millis);
    }
}

/// `others` filters that match no event, and `wanted` that match every event.
fn index(events: &[NewEvent], accounts: &std::collections::BTreeSet<&str>, others: usize, wanted: usize, millis: u64) {
    let filters = Filters::default();
    let mut kept = strangers(&filters, others, |account| filter(&[("account", account)]));
    for number in 0..wanted {
        for account in accounts {
            // Different from one another by an account without events.
            let either = format!("{account},x{number}");
            kept.push(filters.intern(filter(&[("account", &either)])));
        }
    }
    let found = measure(events.len(), millis, || {
        black_box(filters.matches(views(events)));
    });
    let few = events.get(..events.len().min(100)).unwrap();
    let asked = measure(few.len(), millis, || {
        for event in views(few) {
            black_box(kept.iter().filter(|filter| filter.passes(&event)).count());
        }
    });
    println!("| {} | {wanted} | {found:.2} | {asked:.2} |", kept.len());
}

fn expression(events: &[NewEvent], text: &str, millis: u64) {
    // On another thread, so measured by the wall clock.
    let compile = (0..20).map(|_| {
        let started = std::time::Instant::now();
        black_box(Expression::compile(text).unwrap());
        started.elapsed().as_secs_f64() * 1e6
    });
    let compile = compile.fold(f64::MAX, f64::min);
    let expression = Expression::compile(text).unwrap();
    let alone = measure(events.len(), millis, || {
        for event in views(events) {
            black_box(expression.matches(&event));
        }
    });
    let hundred = measure(events.len(), millis, || {
        for event in views(events) {
            for _ in 0..100 {
                black_box(expression.matches(&event));
            }
        }
    });
    println!("| `{text}` | {compile:.0} | {alone:.2} | {:.3} |", (hundred - alone) / 99.0);
}
