//! The tests that every implementation of [`EventLog`] must pass.

mod random;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use self::random::random_runs_agree_with_a_plain_list;
use super::testing::{append, bulky, event, metrics, of_events, rejected, wait, walk};
use super::{Batch, EmbeddedLog, EventLog, LogError, MemoryLog, NewEvent, Retention};
use crate::model::{AssetName, EventHead, Rejected, Seq, SourceId, Time};

/// A log under test, with its directory.
struct Subject {
    log: Box<dyn EventLog>,
    directory: Option<TempDir>,
    retention: Retention,
}

impl Subject {
    fn memory(retention: Retention) -> Self {
        Self { log: Box::new(MemoryLog::new(retention, metrics())), directory: None, retention }
    }

    fn embedded(retention: Retention) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(directory.path(), retention, metrics()).unwrap();
        Self { log: Box::new(log), directory: Some(directory), retention }
    }

    /// Closes and reopens the log, if it is durable.
    fn reopen(self) -> Self {
        let Some(directory) = self.directory else { return self };
        drop(self.log);
        let log = EmbeddedLog::open(directory.path(), self.retention, metrics()).unwrap();
        Self { log: Box::new(log), directory: Some(directory), retention: self.retention }
    }
}

type Open = fn(Retention) -> Subject;

macro_rules! suite {
    ($($test:ident),+ $(,)?) => {
        mod memory {
            $(#[test] fn $test() { super::$test(super::Subject::memory); })+
        }
        mod embedded {
            $(#[test] fn $test() { super::$test(super::Subject::embedded); })+
        }
    };
}

suite!(
    an_empty_log_has_nothing,
    events_are_read_back_as_they_were,
    reading_in_small_runs_meets_every_event_once,
    what_is_new_is_read_without_the_store,
    a_large_batch_is_taken_whole,
    a_moment_is_found_whatever_it_falls_on,
    history_is_paged_newest_first,
    the_last_word_on_an_asset_and_a_cursor_holds,
    correlation_is_kept_until_it_is_forgotten,
    quarantine_is_numbered_and_without_repetition,
    quarantine_keeps_within_its_limits,
    size_drops_the_oldest_blocks_with_their_indexes,
    age_drops_only_what_is_too_old,
    a_log_that_lost_every_event_goes_on_counting,
    an_event_logged_again_is_found_after_the_first_was_dropped,
    names_of_any_length_are_taken,
    a_closed_log_takes_nothing_and_still_reads,
    the_tail_moves_before_an_append_resolves,
    random_runs_agree_with_a_plain_list,
);

fn of_rejected(rejected: Vec<Rejected>) -> Batch {
    Batch { rejected, ..Batch::default() }
}

fn assets_of(log: &dyn EventLog) -> HashMap<String, Bytes> {
    let mut assets = HashMap::new();
    log.for_each_asset(&mut |name, value| assert!(assets.insert(name.to_string(), value).is_none())).unwrap();
    assets
}

fn name(text: &str) -> AssetName {
    AssetName::from_text(text)
}

fn an_empty_log_has_nothing(open: Open) {
    let subject = open(Retention::default());
    let log = &*subject.log;
    assert_eq!((log.floor(), *log.tail().borrow(), log.size_bytes()), (Seq(1), Seq(0), 0));
    assert_ne!(log.epoch().0, 0);
    assert!(log.epoch().to_string().len() <= 13);
    assert!(log.read(Seq(0), 1000).unwrap().is_empty());
    assert!(log.read(Seq(99), 1000).unwrap().is_empty(), "a position past the tail is no error");
    assert_eq!(log.find("event-1:0").unwrap(), None);
    assert_eq!(log.first_observed_since(Time::from_millis(0)).unwrap(), Seq(1));
    assert!(log.history(&name("a"), None, 10).unwrap().is_empty());
    assert_eq!(log.cursor(&SourceId::from("trail")).unwrap(), None);
    assert!(log.quarantine(0, 10).unwrap().is_empty());
    log.retain(Time::from_millis(i64::MAX)).unwrap();
    assert_eq!(append(log, Batch::default()), Seq(0));
}

fn events_are_read_back_as_they_were(open: Open) {
    let subject = open(Retention::default());
    let events: Vec<_> = (1..=5).map(|n| event(n, "a", 1000 + n as i64)).collect();
    assert_eq!(append(&*subject.log, of_events(events[..2].to_vec())), Seq(2));
    assert_eq!(append(&*subject.log, of_events(events[2..].to_vec())), Seq(5));
    let size = subject.log.size_bytes();
    assert!(size > 0);
    let subject = subject.reopen();
    let log = &*subject.log;
    assert_eq!((log.floor(), *log.tail().borrow(), log.size_bytes()), (Seq(1), Seq(5), size));
    let read = walk(log, Seq(0), usize::MAX);
    assert_eq!(read.len(), 5);
    for ((seq, head, line), (n, event)) in read.iter().zip((1..).zip(&events)) {
        assert_eq!((*seq, head), (Seq(n), &event.head));
        assert_eq!(line.as_bytes(), event.json);
        assert_eq!(log.find(&head.id).unwrap(), Some(Seq(n)));
    }
}

fn reading_in_small_runs_meets_every_event_once(open: Open) {
    let subject = open(Retention::default());
    let log = &*subject.log;
    for run in 0..20 {
        append(log, of_events((0..=run % 7).map(|n| event(run * 10 + n, "a", run as i64)).collect()));
    }
    let tail = *log.tail().borrow();
    for max_bytes in [0, 1, 100, 10_000] {
        for after in [0, 1, tail.0 / 2, tail.0 - 1, tail.0] {
            assert_eq!(walk(log, Seq(after), max_bytes).len() as u64, tail.0 - after);
        }
    }
    assert_eq!(log.read(Seq(0), 1).unwrap().len(), 1);
    assert_eq!(log.read(Seq(0), usize::MAX).unwrap().len(), 20);
}

fn what_is_new_is_read_without_the_store(open: Open) {
    let subject = open(Retention::default());
    let events =
        |numbers: std::ops::Range<u64>| numbers.map(|n| event(n, "asset://aws/1/-/x", 1_000 + n as i64)).collect();
    append(&*subject.log, of_events(events(1..4)));
    append(&*subject.log, Batch::default());
    append(&*subject.log, of_events(events(4..9)));
    let log = &*subject.log;
    let newest = log.read_newest(Seq(2), usize::MAX).unwrap();
    assert_eq!((newest.first, newest.heads.len()), (Seq(3), 6));
    for (seq, head, line) in walk(log, Seq(2), usize::MAX) {
        assert_eq!(newest.event(seq).unwrap(), line);
        assert_eq!(newest.heads[(seq.0 - 3) as usize], head);
    }
    assert!(log.read_newest(Seq(8), usize::MAX).is_none(), "the tail");
    log.set_retention(Retention { max_age: Some(Duration::ZERO), ..Retention::default() });
    log.retain(Time::from_millis(1_000_000_000)).unwrap();
    assert!(log.floor() > Seq(1) && log.read_newest(Seq(0), usize::MAX).is_none(), "what was dropped");
}

fn a_large_batch_is_taken_whole(open: Open) {
    let subject = open(Retention::default());
    let mut events: Vec<_> = (0..6_000).map(|n| bulky(n, "a", n as i64, 2_000)).collect();
    events[3_000].json = Bytes::from(vec![b'x'; 5 << 20]);
    let sizes: Vec<_> = events.iter().map(|event| event.json.len()).collect();
    assert_eq!(append(&*subject.log, of_events(events)), Seq(6_000));
    let subject = subject.reopen();
    let log = &*subject.log;
    let read = walk(log, Seq(0), 4 << 20);
    assert_eq!(read.iter().map(|(.., line)| line.len()).collect::<Vec<_>>(), sizes);
    let blocks = log.read(Seq(0), usize::MAX).unwrap();
    assert!(blocks.iter().all(|block| block.lines.len() <= 1 << 20 || block.heads.len() == 1));
}

fn a_moment_is_found_whatever_it_falls_on(open: Open) {
    let subject = open(Retention::default());
    let log = &*subject.log;
    let observed = [10, 10, 20, 20, 20, 30, 50, 50, 70];
    for (n, pair) in (0..).zip(observed.chunks(2)) {
        append(log, of_events((0..).zip(pair).map(|(m, at)| event(n * 10 + m, "a", *at)).collect()));
    }
    for moment in 0..80 {
        let expected = observed.iter().position(|at| *at >= moment).unwrap_or(observed.len()) as u64 + 1;
        assert_eq!(log.first_observed_since(Time::from_millis(moment)).unwrap(), Seq(expected), "at {moment}");
    }
}

fn history_is_paged_newest_first(open: Open) {
    let subject = open(Retention::default());
    let log = &*subject.log;
    // Names of which one begins the other must not be mixed up.
    let assets = ["asset://aws/1/-/x", "asset://aws/1/-/x/y", "asset://aws/1/-/x/y/z"];
    for n in 0..30 {
        append(log, of_events(vec![event(n, assets[n as usize % 3], n as i64)]));
    }
    let asset = name(assets[1]);
    let expected: Vec<_> = (0..30).filter(|n| n % 3 == 1).map(|n| Seq(n + 1)).rev().collect();
    assert_eq!(log.history(&asset, None, 100).unwrap(), expected);
    let times: Vec<_> = expected.iter().map(|seq| (*seq, event(seq.0 - 1, "", seq.0 as i64 - 1).head.time)).collect();
    assert_eq!(log.times(&asset, 100).unwrap(), times);
    assert_eq!(log.times(&asset, 2).unwrap(), times[..2]);
    let (mut paged, mut before) = (Vec::new(), None);
    loop {
        let page = log.history(&asset, before, 3).unwrap();
        let Some(last) = page.last() else { break };
        before = Some(*last);
        paged.extend(page);
    }
    assert_eq!(paged, expected);
    assert!(log.history(&asset, Some(Seq(0)), 3).unwrap().is_empty());
    assert!(log.history(&asset, None, 0).unwrap().is_empty());
    assert!(log.history(&name("asset://aws/1/-/"), None, 3).unwrap().is_empty());
}

fn the_last_word_on_an_asset_and_a_cursor_holds(open: Open) {
    let subject = open(Retention::default());
    let state = |value: &'static str, cursor: &'static str| Batch {
        assets: vec![(name("a"), "early".into()), (name("b"), value.into()), (name("a"), value.into())],
        cursor: Some((SourceId::from("trail"), cursor.into())),
        ..Batch::default()
    };
    // Sent together, so that the writer may group them.
    let (first, second) =
        (subject.log.append(state("one", "1")).unwrap(), subject.log.append(state("two", "2")).unwrap());
    assert_eq!((wait(first).unwrap(), wait(second).unwrap()), (Seq(0), Seq(0)));
    let subject = subject.reopen();
    let log = &*subject.log;
    assert_eq!(assets_of(log), HashMap::from([("a".to_owned(), "two".into()), ("b".to_owned(), "two".into())]));
    assert_eq!(log.cursor(&SourceId::from("trail")).unwrap(), Some("2".into()));
    assert_eq!(log.cursor(&SourceId::from("trail2")).unwrap(), None);
}

fn correlation_is_kept_until_it_is_forgotten(open: Open) {
    let subject = open(Retention::default());
    let of = |said: &[(&str, Option<&'static str>)]| Batch {
        correlation: said.iter().map(|(key, value)| ((*key).to_owned(), value.map(Bytes::from))).collect(),
        ..Batch::default()
    };
    append(&*subject.log, of(&[("a/1", Some("one")), ("a/2", Some("two")), ("b/1", Some("other"))]));
    append(&*subject.log, of(&[("a/1", None), ("a/2", Some("late")), ("a/3", Some("gone")), ("a/3", None)]));
    let subject = subject.reopen();
    let log = &*subject.log;
    let remembered = |prefix: &str| {
        let mut values = Vec::new();
        log.for_each_correlation(prefix, &mut |value| values.push(value)).unwrap();
        values
    };
    assert_eq!(remembered("a/"), ["late"]);
    assert_eq!(remembered("b/"), ["other"]);
    assert!(remembered("c/").is_empty());
}

fn numbers(log: &dyn EventLog) -> Vec<u64> {
    log.quarantine(0, usize::MAX).unwrap().iter().map(|record| record.number).collect()
}

fn quarantine_is_numbered_and_without_repetition(open: Open) {
    let subject = open(Retention::default());
    let records = |range: std::ops::Range<u8>| of_rejected(range.map(|n| rejected(&[n], i64::from(n))).collect());
    append(&*subject.log, records(0..4));
    append(&*subject.log, records(2..6));
    append(&*subject.log, of_rejected(vec![rejected(b"twice", 9), rejected(b"twice", 10)]));
    let subject = subject.reopen();
    let log = &*subject.log;
    append(log, records(0..6));
    assert_eq!(numbers(log), [1, 2, 3, 4, 5, 6, 7]);
    let page = log.quarantine(4, 2).unwrap();
    assert_eq!(page.iter().map(|record| record.number).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(format!("{:?}", page[0].rejected), format!("{:?}", rejected(&[4], 4)));
    assert!(log.quarantine(7, 2).unwrap().is_empty());
}

fn quarantine_keeps_within_its_limits(open: Open) {
    let records = |range: std::ops::Range<u8>| of_rejected(range.map(|n| rejected(&[n], 0)).collect());
    let subject = open(Retention { quarantine_records: 3, ..Retention::default() });
    let log = &*subject.log;
    append(log, records(0..2));
    append(log, records(2..4));
    assert_eq!(numbers(log), [2, 3, 4]);
    append(log, records(10..20));
    assert_eq!(numbers(log), [12, 13, 14], "one batch may exceed the limit");
    append(log, records(0..1));
    assert_eq!(numbers(log), [13, 14, 15], "what was dropped may come again");

    let subject = open(Retention { quarantine_bytes: 2_500, ..Retention::default() });
    let log = &*subject.log;
    for n in 0..6 {
        let bytes = bulky(n, "a", 0, 1_000).json;
        append(log, of_rejected(vec![rejected(&bytes, 0)]));
    }
    assert!(numbers(log) == [5, 6] || numbers(log) == [4, 5, 6], "{:?}", numbers(log));
}

fn size_drops_the_oldest_blocks_with_their_indexes(open: Open) {
    let max = 100_000;
    let subject = open(Retention { max_bytes: Some(max), ..Retention::default() });
    let log = &*subject.log;
    let asset = |n| Batch { assets: vec![(name(&format!("asset {n}")), "kept".into())], ..Batch::default() };
    for n in 0..300 {
        let events = vec![bulky(n, &format!("asset {}", n % 2), n as i64, 1_000)];
        append(log, Batch { events, ..asset(n % 2) });
        assert!(log.size_bytes() <= max + 2_000, "size is held without being asked to");
    }
    log.retain(Time::from_millis(0)).unwrap();
    let floor = log.floor();
    assert!(floor.0 > 150 && floor.0 < 250, "{floor}");
    assert!(log.size_bytes() <= max && log.size_bytes() > max / 2);

    let subject = subject.reopen();
    let log = &*subject.log;
    assert_eq!((log.floor(), *log.tail().borrow()), (floor, Seq(300)));
    assert_eq!(walk(log, Seq(floor.0 - 1), 10_000).len() as u64, 301 - floor.0);
    let below = log.read(Seq(floor.0 - 2), 10_000).map(|_| ()).unwrap_err();
    assert!(
        matches!(below, LogError::BelowFloor { after, floor: at } if after.0 == floor.0 - 2 && at == floor),
        "{below}"
    );
    assert_eq!(log.find(&format!("event-{}:0", floor.0 - 2)).unwrap(), None, "dropped");
    assert_eq!(log.find(&format!("event-{}:0", floor.0 - 1)).unwrap(), Some(floor), "kept");
    assert_eq!(log.first_observed_since(Time::from_millis(0)).unwrap(), floor);
    let oldest = log.history(&name("asset 0"), None, 1_000).unwrap().last().copied().unwrap();
    assert!(oldest >= floor && oldest.0 <= floor.0 + 1);
    assert!(log.history(&name("asset 0"), Some(Seq(floor.0 - 1)), 10).unwrap().is_empty());
    assert_eq!(log.times(&name("asset 0"), 1_000).unwrap().last().map(|(seq, _)| *seq), Some(oldest));
    assert_eq!(assets_of(log).len(), 2, "assets stay");
}

fn age_drops_only_what_is_too_old(open: Open) {
    let subject = open(Retention { max_age: Some(Duration::from_millis(100)), ..Retention::default() });
    let log = &*subject.log;
    for n in 0..10 {
        append(log, of_events(vec![event(2 * n, "a", n as i64 * 10), event(2 * n + 1, "a", n as i64 * 10 + 5)]));
    }
    for (now, floor) in [(100, 1), (105, 1), (106, 3), (50, 3), (150, 11), (155, 11), (156, 13), (10_000, 21)] {
        log.retain(Time::from_millis(now)).unwrap();
        assert_eq!(log.floor(), Seq(floor), "a block goes with the younger of its events; at {now}");
    }
}

fn a_log_that_lost_every_event_goes_on_counting(open: Open) {
    let retention = Retention { max_age: Some(Duration::from_millis(1)), ..Retention::default() };
    let subject = open(retention);
    append(&*subject.log, of_events((0..10).map(|n| event(n, "a", 0)).collect()));
    subject.log.retain(Time::from_millis(1_000)).unwrap();
    let subject = subject.reopen();
    let log = &*subject.log;
    assert_eq!((log.floor(), *log.tail().borrow(), log.size_bytes()), (Seq(11), Seq(10), 0));
    assert_eq!(log.first_observed_since(Time::from_millis(0)).unwrap(), Seq(11));
    assert!(log.read(Seq(10), 10).unwrap().is_empty());
    assert!(matches!(log.read(Seq(9), 10), Err(LogError::BelowFloor { .. })));
    assert_eq!(append(log, of_events(vec![event(10, "a", 2_000)])), Seq(11));
    assert_eq!(walk(log, Seq(10), 10).len(), 1);
}

fn an_event_logged_again_is_found_after_the_first_was_dropped(open: Open) {
    let subject = open(Retention { max_age: Some(Duration::from_millis(1)), ..Retention::default() });
    let log = &*subject.log;
    append(log, of_events(vec![event(1, "a", 0)]));
    append(log, of_events(vec![event(1, "a", 1_000)]));
    log.retain(Time::from_millis(1_000)).unwrap();
    assert_eq!((log.floor(), log.find("event-1:0").unwrap()), (Seq(2), Some(Seq(2))));
}

fn names_of_any_length_are_taken(open: Open) {
    let subject = open(Retention::default());
    let long = |last: char| format!("asset://{}{last}", "é".repeat(100_000));
    let mut batch = Batch::default();
    for last in ['a', 'b'] {
        let base = event(u64::from(last), &long(last), 0);
        let head = EventHead { id: long(last), ..base.head };
        batch.events.push(NewEvent { head, json: base.json });
        batch.assets.push((name(&long(last)), last.to_string().into()));
    }
    batch.cursor = Some((SourceId::from(long('c').as_str()), "9".into()));
    append(&*subject.log, batch);
    let subject = subject.reopen();
    let log = &*subject.log;
    assert_eq!((log.find(&long('a')).unwrap(), log.find(&long('b')).unwrap()), (Some(Seq(1)), Some(Seq(2))));
    assert_eq!(log.history(&name(&long('b')), None, 9).unwrap(), [Seq(2)]);
    assert_eq!(assets_of(log), HashMap::from([(long('a'), "a".into()), (long('b'), "b".into())]));
    assert_eq!(log.cursor(&SourceId::from(long('c').as_str())).unwrap(), Some("9".into()));
}

fn a_closed_log_takes_nothing_and_still_reads(open: Open) {
    let subject = open(Retention::default());
    let log = &*subject.log;
    let pending: Vec<_> = (0..10).map(|n| log.append(of_events(vec![event(n, "a", 0)])).unwrap()).collect();
    log.close();
    for (n, pending) in (1..).zip(pending) {
        assert_eq!(wait(pending).unwrap(), Seq(n), "what was queued is written");
    }
    assert!(matches!(log.append(Batch::default()), Err(LogError::Closed)));
    assert_eq!(walk(log, Seq(0), 1_000).len(), 10);
    log.close();
}

fn the_tail_moves_before_an_append_resolves(open: Open) {
    let subject = open(Retention::default());
    let log = &*subject.log;
    let mut tail = log.tail();
    let pending = log.append(of_events(vec![event(0, "a", 0), event(1, "a", 0)])).unwrap();
    assert_eq!(wait(pending).unwrap(), Seq(2));
    assert!(tail.has_changed().unwrap());
    assert_eq!(*tail.borrow_and_update(), Seq(2));
}
