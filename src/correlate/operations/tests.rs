use super::*;
use proptest::prelude::*;

fn record(operation: u128, id: u128, phase: Phase, at: i64) -> OperationRecord {
    let time = Time::from_millis(at);
    let text = Bytes::from(format!("{operation}/{id}"));
    OperationRecord { operation, id, time, phase, wants_start: phase == Phase::Succeeded, deployment: None, text }
}

fn texts(texts: &[&str]) -> Folded {
    Folded::Whole(texts.iter().map(|text| Bytes::from((*text).to_owned())).collect())
}

fn now() -> Time {
    Time::from_millis(0)
}

fn after(millis: i64) -> Time {
    super::after(now(), millis)
}

#[test]
fn start_progress_and_end_are_one() {
    let mut operations = Operations::default();
    assert_eq!(operations.take(record(1, 1, Phase::Started, 0), now()), Folded::Held);
    assert_eq!(operations.take(record(1, 2, Phase::Accepted, 1), now()), Folded::Held);
    assert_eq!(operations.take(record(1, 2, Phase::Accepted, 1), now()), Folded::Duplicate);
    assert_eq!(operations.take(record(1, 3, Phase::Succeeded, 2), now()), texts(&["1/1", "1/2", "1/3"]));
    assert_eq!(operations.take(record(1, 3, Phase::Succeeded, 2), now()), Folded::Duplicate);
    assert_eq!(operations.take(record(1, 4, Phase::Accepted, 3), now()), Folded::Late);
    assert!(operations.is_idle() && operations.rest().is_none());
}

#[test]
fn an_end_before_its_start_waits_for_it_a_little() {
    let mut operations = Operations::default();
    assert_eq!(operations.take(record(1, 3, Phase::Succeeded, 2), now()), Folded::Held);
    assert_eq!(operations.due(after(START_WAIT_MILLIS - 1)), None);
    assert_eq!(operations.take(record(1, 1, Phase::Started, 0), now()), texts(&["1/3", "1/1"]));
    assert_eq!(operations.take(record(2, 5, Phase::Succeeded, 2), now()), Folded::Held);
    assert_eq!(operations.due(after(START_WAIT_MILLIS)), Some(vec![Bytes::from_static(b"2/5")]));
    assert_eq!(operations.take(record(2, 4, Phase::Started, 0), after(START_WAIT_MILLIS)), Folded::Late);
    let mut whole = record(3, 6, Phase::Succeeded, 0);
    whole.wants_start = false;
    assert_eq!(operations.take(whole, now()), texts(&["3/6"]));
}

#[test]
fn a_missing_end_is_no_failure_and_a_bad_end_is_no_change() {
    let mut operations = Operations::default();
    operations.take(record(1, 1, Phase::Started, 0), now());
    assert_eq!(operations.due(after(END_WAIT_MILLIS - 1)), None);
    assert_eq!(operations.due(after(END_WAIT_MILLIS)), Some(vec![Bytes::from_static(b"1/1")]));
    assert_eq!(operations.take(record(1, 2, Phase::Succeeded, END_WAIT_MILLIS * 2), now()), Folded::Late);
    operations.take(record(2, 1, Phase::Started, 0), now());
    assert_eq!(operations.take(record(2, 2, Phase::Failed, 1), now()), Folded::Failed);
    assert_eq!(operations.rest(), None);
    // The client retries.
    assert_eq!(operations.take(record(2, 3, Phase::Started, 2), now()), Folded::Held);
    assert_eq!(operations.take(record(2, 4, Phase::Succeeded, 3), now()), texts(&["2/3", "2/4"]));
}

#[test]
fn the_last_end_decides_in_whatever_order_the_ends_come() {
    let phases = [(1, Phase::Started, 0), (2, Phase::Failed, 1), (3, Phase::Succeeded, 2)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for (good, told) in [(2, 1), (0, 0)] {
            // Either the successful end is the later one, or the failed one is.
            let (mut operations, mut whole) = (Operations::default(), Vec::new());
            for (id, phase, at) in order.map(|index| phases[index]) {
                let at = if phase == Phase::Succeeded { good } else { at };
                if let Folded::Whole(texts) = operations.take(record(1, id, phase, at), now()) {
                    whole.push(texts);
                }
            }
            whole.extend(std::iter::from_fn(|| operations.rest()));
            let succeeded_first = order == [0, 2, 1] || order == [2, 0, 1];
            // A change reported before the failed end arrived is not taken back.
            let told = if succeeded_first { 1 } else { told };
            assert_eq!(whole.len(), told, "{order:?}, the good end at {good}: {whole:?}");
            assert!(whole.iter().flatten().all(|text| &text[..] != b"1/2"), "a failure is no part of a change");
            assert!(operations.is_idle());
        }
    }
}

#[test]
fn a_retry_that_succeeds_has_what_was_asked_for() {
    let mut operations = Operations::default();
    operations.restore([]).unwrap();
    assert_eq!(operations.take(record(1, 1, Phase::Started, 0), now()), Folded::Held);
    assert_eq!(operations.take(record(1, 2, Phase::Failed, 1), now()), Folded::Failed);
    assert_eq!(operations.take(record(1, 2, Phase::Failed, 1), now()), Folded::Duplicate);
    let kept = operations.take_changes().into_iter().filter_map(|(_, value)| value);
    let mut operations = Operations::default();
    operations.restore(kept).unwrap();
    assert_eq!(operations.take(record(1, 2, Phase::Failed, 1), now()), Folded::Duplicate);
    assert_eq!(operations.take(record(1, 3, Phase::Succeeded, 2), now()), texts(&["1/1", "1/3"]));
    // If it stays failed, there is no change, and a late start makes none.
    operations.take(record(2, 1, Phase::Started, 0), now());
    operations.take(record(2, 2, Phase::Failed, 1), now());
    assert_eq!(operations.due(after(START_WAIT_MILLIS)), None);
    assert!(operations.is_idle());
    assert_eq!(operations.take(record(2, 3, Phase::Accepted, 0), now()), Folded::Late);
}

#[test]
fn what_waits_is_bounded_and_goes_out_early_rather_than_lost() {
    let limits = OperationLimits { waiting: 2, waiting_bytes: 1 << 20, told: 2 };
    let mut operations = Operations { limits, ..Operations::default() };
    for operation in 1..=3 {
        operations.take(record(operation, operation, Phase::Started, 0), after(operation as i64));
    }
    assert_eq!(operations.due(now()), Some(vec![Bytes::from_static(b"1/1")]));
    assert_eq!(operations.due(now()), None);
    for answer in 0..100 {
        operations.take(record(2, 100 + answer, Phase::Accepted, 1), now());
    }
    let Folded::Whole(records) = operations.take(record(2, 900, Phase::Succeeded, 2), now()) else {
        panic!("not whole")
    };
    assert_eq!(records.len(), RECORDS_OF_ONE + 1);
    operations.take(record(3, 901, Phase::Succeeded, 2), now());
    assert_eq!((operations.told.len(), operations.bytes), (2, 0));
}

proptest! {
    /// Whatever the order and repetition of the records, and wherever the process is restarted: each operation that did
    /// not fail is reported once.
    #[test]
    fn every_operation_is_told_once(
        order in prop::collection::vec((0_u128..6, 0_usize..4), 1..60),
        restarts in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut operations = Operations::default();
        operations.restore([]).unwrap();
        let mut log: HashMap<String, Bytes> = HashMap::new();
        let mut told: HashMap<u128, usize> = HashMap::new();
        let phases = [Phase::Started, Phase::Accepted, Phase::Accepted, Phase::Succeeded];
        let tell = |texts: Vec<Bytes>, told: &mut HashMap<u128, usize>| {
            let text = String::from_utf8(texts[0].to_vec()).unwrap();
            *told.entry(text.split('/').next().unwrap().parse().unwrap()).or_default() += 1;
        };
        for ((operation, step), restart) in order.iter().zip(restarts) {
            let id = u128::MAX - operation * 10 - *step as u128;
            if let Folded::Whole(texts) = operations.take(record(u128::MAX - *operation, id, phases[*step], *step as i64), now()) {
                tell(texts, &mut told);
            }
            for (key, value) in operations.take_changes() {
                match value {
                    Some(value) => log.insert(key, value),
                    None => log.remove(&key),
                };
            }
            if restart {
                operations = Operations::default();
                operations.restore(log.values().cloned()).unwrap();
            }
        }
        while let Some(texts) = operations.rest() {
            tell(texts, &mut told);
        }
        let seen: BTreeSet<u128> = order.iter().map(|(operation, _)| u128::MAX - *operation).collect();
        prop_assert_eq!(told.len(), seen.len());
        prop_assert!(told.values().all(|times| *times == 1), "{:?}", told);
    }
}
