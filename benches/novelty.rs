#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]
//! The cost of determining what is new about a change, and how much state becomes durable.
//!
//! Three workloads: an organisation at work, where nearly everything was seen before; the same with a new address in
//! every hundredth change; and changes of which everything is new, which fill the memory and make it forget. Measured
//! in CPU time (Linux), which does not depend on how busy the machine is.
//!
//! `cargo bench --bench novelty`; `CATCHMENT_BENCH_QUICK=1` for a short run.

mod cpu;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catchment::correlate::Novelties;
use catchment::model::{
    Action, AssetKind, AssetName, AssetRef, Attribution, Confidence, Draft, DraftAction, Evidence, Operation,
    Principal, RecordInfo, Time,
};

/// Records per delivery; after each, the changed state is taken to become durable.
const DELIVERY: usize = 500;
const PRINCIPALS: usize = 2_000;
const TYPES: [&str; 6] =
    ["network.security_group", "compute.instance", "compute.function", "storage.bucket", "identity.role", "dns.record"];
const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "-"];

fn change(n: usize, principal: usize, address: usize) -> (RecordInfo, Vec<Draft>) {
    let principal = Principal {
        kind: "user".into(),
        id: None,
        arn: Some(format!("arn:aws:iam::111122223333:user/engineering/person-{principal}")),
        name: None,
        account: None,
    };
    let text = String::new;
    let record = RecordInfo {
        event_id: text(),
        // Ten changes a second.
        time: Time::from_millis(1_704_067_200_000 + n as i64 * 100),
        source: text(),
        operation: Operation { service: text(), name: text(), event_id: text(), request_id: None, outcome: "success" },
        attribution: Attribution {
            method: ["terraform", "console"][n % 2].into(),
            ip: Some(format!("203.{}.{}.{}", address >> 16 & 255, address >> 8 & 255, address & 255)),
            principal: Some(principal),
            ..Attribution::default()
        },
        evidence: Evidence::default(),
        raw: Bytes::new(),
    };
    let kind = AssetKind { neutral_type: TYPES[n % TYPES.len()].to_owned(), ..AssetKind::default() };
    let draft = Draft {
        action: DraftAction::Known(Action::Update),
        asset: AssetRef {
            kind: Arc::new(kind),
            name: AssetName::from_text("asset://aws/111122223333/eu-west-1/x"),
            id: text(),
            arn: None,
            arn_is_told: false,
            account: format!("{:012}", n % 40),
            region: REGIONS[n % REGIONS.len()].to_owned(),
        },
        steps: Vec::new(),
        partial: false,
        associations: Vec::new(),
        rule: "".into(),
        confidence: Confidence::High,
    };
    (record, vec![draft])
}

fn measure(name: &str, count: usize, make: impl Fn(usize) -> (RecordInfo, Vec<Draft>)) {
    let mut novelties = Novelties::default();
    novelties.restore([]);
    let (mut spent, mut durable) = (Duration::ZERO, 0);
    for first in (0..count).step_by(DELIVERY) {
        let changes: Vec<_> = (first..first + DELIVERY).map(&make).collect();
        let begun = cpu::of_thread();
        for (record, drafts) in &changes {
            std::hint::black_box(novelties.take(record, drafts));
        }
        let written = novelties.take_changes();
        // The first half fills the memory.
        if first >= count / 2 {
            spent += cpu::of_thread() - begun;
            durable +=
                written.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        }
    }
    let measured = (count - count / 2) as f64;
    println!(
        "{name:<28} {:>6.2} µs and {:>6.1} bytes durable a change; {:>7} facts",
        spent.as_secs_f64() * 1e6 / measured,
        durable as f64 / measured,
        novelties.remembered(),
    );
}

fn main() {
    let count = if std::env::var_os("CATCHMENT_BENCH_QUICK").is_some() { 100_000 } else { 2_000_000 };
    let known = |n: usize| change(n, n * 7 % PRINCIPALS, n * 7 % PRINCIPALS);
    measure("an organisation at work", count, known);
    measure("one new address in a hundred", count, |n| {
        if n % 100 == 0 { change(n, n * 7 % PRINCIPALS, n) } else { known(n) }
    });
    measure("everything new", count, |n| change(n, n, n));
}
