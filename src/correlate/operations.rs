//! Operations that are told in several records: Azure's activity log writes a start, progress, and an end, in any order
//! and not always all of them (<https://learn.microsoft.com/azure/azure-monitor/essentials/activity-log-schema>).
//!
//! An operation becomes one change: when its end comes, or, where the end stays away, after a time with what is known.
//! It may have tried more than once, so that it has a bad end and a good one: the later of the two, by their own times,
//! tells how it ended, whichever comes first.
//! What waits is durable with the delivery that brought it, so its records can be acknowledged.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{OperationRecord, Phase, Time};

/// The prefix of the keys of all that is remembered here.
pub(super) const KEY_PREFIX: &str = "azure/operation/";

/// How long after its last record an operation waits for its end. Most end within minutes; many ends are never told.
const END_WAIT_MILLIS: i64 = 15 * 60_000;
/// How long an end waits for the start that tells what was asked for, and a bad end for a good one after it: they may
/// come by different partitions.
const START_WAIT_MILLIS: i64 = 10_000;
/// Records kept of one operation; the answers after these tell nothing new.
const RECORDS_OF_ONE: usize = 8;

/// How much may wait and be remembered.
#[derive(Clone, Copy, Debug)]
pub struct OperationLimits {
    /// Operations that wait for their end. Beyond it the oldest goes out with what is known.
    pub waiting: usize,
    /// Bytes of their records.
    pub waiting_bytes: usize,
    /// Operations remembered after their change was told, so that a late record does not tell it again.
    pub told: usize,
}

impl Default for OperationLimits {
    fn default() -> Self {
        Self { waiting: 20_000, waiting_bytes: 64 << 20, told: 200_000 }
    }
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folded {
    /// It is kept until its operation is whole.
    Held,
    /// It was seen before.
    Duplicate,
    /// The operation's change was told already.
    Late,
    /// It tells of a bad end: there is no change, unless a good one comes that is later.
    Failed,
    /// The operation is whole: its records, in the order in which they came.
    Whole(Vec<Bytes>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    operation: u128,
    /// When it goes out as it is.
    due: Time,
    records: Vec<Kept>,
    /// The last bad end.
    #[serde(default)]
    failed: Option<Failure>,
    /// Identities of records that told nothing new.
    more: Vec<u128>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    id: u128,
    time: Time,
    phase: Phase,
    text: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Failure {
    id: u128,
    time: Time,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Told {
    operation: u128,
    /// The record that it ended with, or the last one known.
    id: u128,
    time: Time,
    /// Its end is known.
    ended: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Remembered {
    Waiting(Waiting),
    Told(Told),
}

/// The operations under way, and those that were told.
#[derive(Debug, Default)]
pub struct Operations {
    limits: OperationLimits,
    waiting: HashMap<u128, Waiting>,
    due: BTreeSet<(Time, u128)>,
    bytes: usize,
    told: HashMap<u128, Told>,
    told_order: VecDeque<u128>,
    /// Keys whose values changed; nothing is gathered where nobody asks for it.
    changed: Option<Vec<u128>>,
}

impl Operations {
    /// Keeps within these limits.
    #[must_use]
    pub fn with_limits(limits: OperationLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes back what was remembered before a restart, in any order, and from now on gathers what changes.
    ///
    /// # Errors
    /// When a value is none of ours.
    pub fn restore(&mut self, values: impl IntoIterator<Item = Bytes>) -> Result<(), serde_json::Error> {
        let mut told = Vec::new();
        for value in values {
            match serde_json::from_slice(&value)? {
                Remembered::Waiting(waiting) => self.wait(waiting),
                Remembered::Told(one) => told.push(one),
            }
        }
        told.sort_by_key(|told| told.time);
        self.changed = Some(Vec::new());
        told.into_iter().for_each(|told| self.tell(told));
        Ok(())
    }

    /// Takes a record. `now` is when it was seen.
    pub fn take(&mut self, record: OperationRecord, now: Time) -> Folded {
        if let Some(told) = self.told.get(&record.operation).copied() {
            // A client that tries again uses the same correlation: a new start, or a further end, is a new operation.
            let anew = match record.phase {
                Phase::Started => told.ended && record.time > told.time,
                Phase::Succeeded => told.ended && record.time > told.time && record.id != told.id,
                Phase::Accepted | Phase::Failed => false,
            };
            if !anew && !self.waiting.contains_key(&record.operation) {
                return if record.id == told.id { Folded::Duplicate } else { Folded::Late };
            }
        }
        if self.waiting.get(&record.operation).is_some_and(|waiting| waiting.has(record.id)) {
            return Folded::Duplicate;
        }
        if record.phase == Phase::Started {
            self.give_up_failed(&record);
        }
        let waiting = self.waiting.get(&record.operation);
        let started = waiting.is_some_and(|waiting| waiting.kept(Phase::Started).is_some());
        let ended = waiting.is_some_and(|waiting| waiting.end().is_some());
        let failed_after = waiting.and_then(|waiting| waiting.failed).is_some_and(|failed| failed.time > record.time);
        match record.phase {
            Phase::Failed => self.fail(&record, now),
            Phase::Succeeded if !failed_after && (started || !record.wants_start) => self.end(&record),
            Phase::Started if ended => self.end(&record),
            phase => {
                let wait = if phase == Phase::Succeeded || ended { START_WAIT_MILLIS } else { END_WAIT_MILLIS };
                self.hold(record, after(now, wait));
                Folded::Held
            }
        }
    }

    /// The next operation that has waited long enough, or for which there is no more room.
    pub fn due(&mut self, now: Time) -> Option<Vec<Bytes>> {
        loop {
            let crowded = self.waiting.len() > self.limits.waiting || self.bytes > self.limits.waiting_bytes;
            let (due, operation) = *self.due.first()?;
            if due > now && !crowded {
                return None;
            }
            let waiting = self.forget(operation)?;
            if let Some(Failure { id, time }) = waiting.failed.filter(|_| waiting.end().is_none()) {
                self.tell(Told { operation, id, time, ended: true });
                continue;
            }
            let end = waiting.end();
            let (id, time) = end.or(waiting.records.last()).map_or((operation, now), |kept| (kept.id, kept.time));
            self.tell(Told { operation, id, time, ended: end.is_some() });
            return Some(waiting.texts());
        }
    }

    /// Every operation that waits, whether or not its time has come: there will be no more records.
    pub fn rest(&mut self) -> Option<Vec<Bytes>> {
        self.due(Time::from_millis(i64::MAX))
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Number of operations that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What has to become durable together with the events that it helped to decide.
    #[must_use]
    pub fn take_changes(&mut self) -> Vec<(String, Option<Bytes>)> {
        let mut changed = self.changed.as_mut().map(std::mem::take).unwrap_or_default();
        changed.sort_unstable();
        changed.dedup();
        let value = |operation: &u128| {
            let remembered = match (self.waiting.get(operation), self.told.get(operation)) {
                (Some(waiting), _) => Remembered::Waiting(waiting.clone()),
                (None, Some(told)) => Remembered::Told(*told),
                (None, None) => return None,
            };
            // Texts and whole numbers are always JSON.
            Some(Bytes::from(serde_json::to_vec(&remembered).unwrap_or_default()))
        };
        changed.iter().map(|operation| (format!("{KEY_PREFIX}{operation:032x}"), value(operation))).collect()
    }

    /// The operation is whole with this record, which may be its start: the end came before.
    fn end(&mut self, record: &OperationRecord) -> Folded {
        let waiting = self.forget(record.operation);
        let end = waiting.as_ref().and_then(Waiting::end).map(|kept| (kept.id, kept.time));
        let (id, time) = end.unwrap_or((record.id, record.time));
        self.tell(Told { operation: record.operation, id, time, ended: true });
        let mut texts = waiting.map(Waiting::texts).unwrap_or_default();
        texts.push(record.text.clone());
        Folded::Whole(texts)
    }

    /// A bad end. What waits goes on to wait: for a good end that is later, or for what one that is there still lacks.
    fn fail(&mut self, record: &OperationRecord, now: Time) -> Folded {
        let OperationRecord { operation, id, time, .. } = *record;
        match self.forget(operation) {
            None => self.tell(Told { operation, id, time, ended: true }),
            Some(mut waiting) => {
                let before = waiting.failed.replace(Failure { id, time });
                if let Some(before) = before {
                    let (last, other) =
                        if before.time > time { (before, id) } else { (Failure { id, time }, before.id) };
                    waiting.failed = Some(last);
                    waiting.more.push(other);
                }
                waiting.due = after(now, START_WAIT_MILLIS);
                self.wait(waiting);
            }
        }
        Folded::Failed
    }

    /// A client tries again: what failed before this start is over.
    fn give_up_failed(&mut self, start: &OperationRecord) {
        let operation = start.operation;
        let failed = self.waiting.get(&operation).filter(|waiting| waiting.end().is_none());
        let failed = failed.and_then(|waiting| waiting.failed).filter(|failed| failed.time < start.time);
        if let Some(Failure { id, time }) = failed {
            self.forget(operation);
            self.tell(Told { operation, id, time, ended: true });
        }
    }

    fn hold(&mut self, record: OperationRecord, due: Time) {
        let mut waiting = self.forget(record.operation).unwrap_or_else(|| Waiting {
            operation: record.operation,
            due,
            records: Vec::new(),
            failed: None,
            more: Vec::new(),
        });
        waiting.due = due;
        if waiting.records.len() < RECORDS_OF_ONE {
            let text = String::from_utf8_lossy(&record.text).into_owned();
            waiting.records.push(Kept { id: record.id, time: record.time, phase: record.phase, text });
        } else {
            waiting.more.push(record.id);
        }
        self.note(record.operation);
        self.wait(waiting);
    }

    fn wait(&mut self, waiting: Waiting) {
        self.bytes += waiting.size();
        self.due.insert((waiting.due, waiting.operation));
        self.waiting.insert(waiting.operation, waiting);
    }

    fn forget(&mut self, operation: u128) -> Option<Waiting> {
        let waiting = self.waiting.remove(&operation)?;
        self.due.remove(&(waiting.due, operation));
        self.bytes = self.bytes.saturating_sub(waiting.size());
        self.note(operation);
        Some(waiting)
    }

    fn tell(&mut self, told: Told) {
        self.note(told.operation);
        if self.told.insert(told.operation, told).is_none() {
            self.told_order.push_back(told.operation);
        }
        while self.told_order.len() > self.limits.told {
            let Some(oldest) = self.told_order.pop_front() else { break };
            self.told.remove(&oldest);
            self.note(oldest);
        }
    }

    fn note(&mut self, operation: u128) {
        if let Some(changed) = &mut self.changed {
            changed.push(operation);
        }
    }
}

impl Waiting {
    fn has(&self, id: u128) -> bool {
        let failed = self.failed.is_some_and(|failed| failed.id == id);
        failed || self.records.iter().any(|kept| kept.id == id) || self.more.contains(&id)
    }

    fn kept(&self, phase: Phase) -> Option<&Kept> {
        self.records.iter().find(|kept| kept.phase == phase)
    }

    /// The good end, if there is no later bad one.
    fn end(&self) -> Option<&Kept> {
        self.kept(Phase::Succeeded).filter(|kept| self.failed.is_none_or(|failed| failed.time <= kept.time))
    }

    fn texts(self) -> Vec<Bytes> {
        self.records.into_iter().map(|kept| Bytes::from(kept.text)).collect()
    }

    fn size(&self) -> usize {
        self.records.iter().map(|kept| kept.text.len()).sum::<usize>() + self.more.len() * size_of::<u128>() + 256
    }
}

fn after(now: Time, millis: i64) -> Time {
    Time::from_millis(now.millis().saturating_add(millis))
}

#[cfg(test)]
mod tests {
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
        // The client tries again.
        assert_eq!(operations.take(record(2, 3, Phase::Started, 2), now()), Folded::Held);
        assert_eq!(operations.take(record(2, 4, Phase::Succeeded, 3), now()), texts(&["2/3", "2/4"]));
    }

    #[test]
    fn the_last_end_decides_in_whatever_order_the_ends_come() {
        let phases = [(1, Phase::Started, 0), (2, Phase::Failed, 1), (3, Phase::Succeeded, 2)];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for (good, told) in [(2, 1), (0, 0)] {
                // The good end is the later one, or the bad one is.
                let (mut operations, mut whole) = (Operations::default(), Vec::new());
                for (id, phase, at) in order.map(|index| phases[index]) {
                    let at = if phase == Phase::Succeeded { good } else { at };
                    if let Folded::Whole(texts) = operations.take(record(1, id, phase, at), now()) {
                        whole.push(texts);
                    }
                }
                whole.extend(std::iter::from_fn(|| operations.rest()));
                let succeeded_first = order == [0, 2, 1] || order == [2, 0, 1];
                // What was told before the bad end came stays told.
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
        // Where it stays with the failure, there is no change, and a late start makes none.
        operations.take(record(2, 1, Phase::Started, 0), now());
        operations.take(record(2, 2, Phase::Failed, 1), now());
        assert_eq!(operations.due(after(START_WAIT_MILLIS)), None);
        assert!(operations.is_idle());
        assert_eq!(operations.take(record(2, 3, Phase::Accepted, 0), now()), Folded::Late);
    }

    #[test]
    fn what_waits_is_bounded_and_goes_out_early_rather_than_lost() {
        let mut operations = Operations::with_limits(OperationLimits { waiting: 2, waiting_bytes: 1 << 20, told: 2 });
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
        /// However the records come, how often, and wherever the process is restarted: each operation that did not fail
        /// is told once.
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
}
