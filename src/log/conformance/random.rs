//! Random appends, passes of retention and reopenings, against a plain list of the same events.

use std::time::Duration;

use proptest::prelude::*;

use super::super::testing::{append, event, of_events, wait, walk};
use super::super::{Batch, EventLog, NewEvent, Retention};
use super::{Open, name};
use crate::model::{Seq, Time};

#[derive(Clone, Debug)]
enum Step {
    /// Batches with these numbers of events, appended without waiting in between; the time between events.
    Append(Vec<usize>, i64),
    /// A pass of retention, this long after the newest event.
    Retain(i64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::collection::vec(0..40_usize, 1..5), 0..30_i64).prop_map(|(sizes, pace)| Step::Append(sizes, pace)),
        2 => (0..3_000_i64).prop_map(Step::Retain),
        1 => Just(Step::Reopen),
    ]
}

const MODEL_AGE: i64 = 2_000;
const MODEL_BYTES: u64 = 6_000;

pub(super) fn random_runs_agree_with_a_plain_list(open: Open) {
    let retention = Retention {
        max_age: Some(Duration::from_millis(MODEL_AGE as u64)),
        max_bytes: Some(MODEL_BYTES),
        ..Retention::default()
    };
    proptest!(ProptestConfig { cases: 12, ..ProptestConfig::default() }, |(steps in prop::collection::vec(step(), 1..25))| {
        let (mut subject, mut all, mut now) = (open(retention), Vec::new(), 0);
        for step in steps {
            match step {
                Step::Append(sizes, pace) => append_all(&*subject.log, &sizes, pace, &mut all, &mut now),
                Step::Retain(later) => {
                    let at = Time::from_millis(now + later);
                    subject.log.retain(at).unwrap();
                    check_retained(&*subject.log, now + later - MODEL_AGE);
                }
                Step::Reopen => subject = subject.reopen(),
            }
            check(&*subject.log, &all);
        }
    });
}

fn append_all(log: &dyn EventLog, sizes: &[usize], pace: i64, all: &mut Vec<NewEvent>, now: &mut i64) {
    let mut expected = Vec::new();
    let sent: Vec<_> = sizes
        .iter()
        .map(|size| {
            let from = all.len();
            for n in from..from + size {
                *now += pace;
                all.push(event(n as u64, &format!("asset {}", n % 3), *now));
            }
            expected.push(Seq(all.len() as u64));
            log.append(of_events(all[from..].to_vec())).unwrap()
        })
        .collect();
    let sent: Vec<_> = sent.into_iter().map(|pending| wait(pending).unwrap()).collect();
    assert_eq!(sent, expected);
}

/// Asserts that the newest event of the oldest block is not expired, and that the size is within its limit.
fn check_retained(log: &dyn EventLog, expired: i64) {
    assert!(log.size_bytes() <= MODEL_BYTES);
    if let Some(block) = log.read(Seq(log.floor().0 - 1), 1).unwrap().first() {
        assert!(block.heads.last().unwrap().observed.millis() >= expired);
    }
}

fn check(log: &dyn EventLog, all: &[NewEvent]) {
    // Size may be looked at after an append has resolved, but before the next.
    append(log, Batch::default());
    let floor = log.floor();
    assert_eq!(*log.tail().borrow(), Seq(all.len() as u64));
    let kept = &all[floor.0 as usize - 1..];
    let read = walk(log, Seq(floor.0 - 1), 3_000);
    assert_eq!(read.len(), kept.len());
    for ((seq, head, line), event) in read.iter().zip(kept) {
        assert_eq!((head, line.as_bytes()), (&event.head, event.json.as_ref()));
        assert_eq!(log.find(&head.id).unwrap(), Some(*seq));
    }
    for after in [floor.0 - 1, (floor.0 + all.len() as u64) / 2, all.len() as u64] {
        // It may be out of memory, but never another.
        let newest = log.read_newest(Seq(after), usize::MAX);
        let heads = newest.map_or_else(Vec::new, |block| block.heads);
        let following = kept[(after + 1 - floor.0) as usize..].iter().map(|event| &event.head);
        assert!(heads.is_empty() || heads.iter().eq(following), "after {after}");
    }
    if let Some(dropped) = all[..floor.0 as usize - 1].last() {
        assert_eq!(log.find(&dropped.head.id).unwrap(), None);
    }
    for asset in ["asset 0", "asset 1", "asset 2"].map(name) {
        let of_asset = read.iter().filter(|(_, head, _)| head.asset == asset).map(|(seq, ..)| *seq);
        assert_eq!(log.history(&asset, None, usize::MAX).unwrap(), of_asset.rev().collect::<Vec<_>>());
    }
    let newest = all.last().map_or(0, |event| event.head.observed.millis());
    for moment in [0, newest / 3, newest, newest + 1].map(Time::from_millis) {
        let expected = kept.iter().position(|event| event.head.observed >= moment).unwrap_or(kept.len());
        assert_eq!(log.first_observed_since(moment).unwrap(), Seq(floor.0 + expected as u64));
    }
}
