//! What the tests of logs have in common: events, batches, and reading a log from end to end.

use std::sync::Arc;

use bytes::Bytes;

use super::{Batch, EventLog, LogError, NewEvent, Pending};
use crate::metrics::Metrics;
use crate::model::{Action, AssetName, EventHead, Novelty, Origin, Rejected, Seq, SourceId, Time};

pub(super) fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().unwrap())
}

pub(crate) fn event(n: u64, asset: &str, observed: i64) -> NewEvent {
    let head = EventHead {
        id: format!("event-{n}:0"),
        time: Time::from_millis(observed - 1000),
        observed: Time::from_millis(observed),
        action: [Action::Create, Action::Update, Action::Delete][n as usize % 3],
        asset: AssetName::from_text(asset),
        asset_type: "network.vpc".to_owned(),
        provider: "aws".to_owned(),
        account: "123456789012".to_owned(),
        region: "eu-west-1".to_owned(),
        principals: vec!["jane".to_owned(), format!("arn:{n}")],
        method: "console".to_owned(),
        novelty: Novelty::default(),
    };
    NewEvent { head, json: Bytes::from(format!(r#"{{"n":{n},"asset":"{asset}"}}"#)) }
}

/// Like [`event`], with an incompressible line.
pub(super) fn bulky(n: u64, asset: &str, observed: i64, bytes: usize) -> NewEvent {
    let mut random = fastrand::Rng::with_seed(n);
    let json = std::iter::repeat_with(|| random.alphanumeric()).take(bytes).collect::<String>();
    NewEvent { json: Bytes::from(json), ..event(n, asset, observed) }
}

pub(super) fn rejected(bytes: &[u8], observed: i64) -> Rejected {
    Rejected {
        origin: Origin { source: SourceId::from("trail"), location: "trail.json".into(), index: 3 },
        code: "not_json",
        reason: "expected a value at byte 0".to_owned(),
        bytes: Bytes::copy_from_slice(bytes),
        observed: Time::from_millis(observed),
    }
}

pub(super) fn of_events(events: Vec<NewEvent>) -> Batch {
    Batch { events, ..Batch::default() }
}

pub(super) fn wait(pending: Pending) -> Result<Seq, LogError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(pending)
}

pub(super) fn append(log: &dyn EventLog, batch: Batch) -> Seq {
    wait(log.append(batch).unwrap()).unwrap()
}

/// Reads every event after a position, `max_bytes` at a time, as (position, head, line).
pub(super) fn walk(log: &dyn EventLog, after: Seq, max_bytes: usize) -> Vec<(Seq, EventHead, String)> {
    let (mut events, mut position) = (Vec::new(), after);
    loop {
        let blocks = log.read(position, max_bytes).unwrap();
        if blocks.is_empty() {
            return events;
        }
        for block in blocks {
            let lines = std::str::from_utf8(&block.lines).unwrap();
            assert!(lines.ends_with('\n'));
            assert_eq!(lines.lines().count(), block.heads.len());
            for ((line, head), seq) in lines.lines().zip(block.heads).zip(block.first.0..) {
                if seq > position.0 {
                    assert_eq!(seq, position.0 + 1, "no gap and no double");
                    position = Seq(seq);
                    events.push((position, head, line.to_owned()));
                }
            }
        }
    }
}
