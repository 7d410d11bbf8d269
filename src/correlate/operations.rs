//! Operations that several records report: Azure's activity log writes a start, progress, and an end, in any order and
//! not always all of them (<https://learn.microsoft.com/azure/azure-monitor/essentials/activity-log-schema>).
//!
//! An operation becomes one change: when its end arrives or, without one, after a time, from what is known. A retried
//! operation may have both a failed and a successful end: the later of the two by event time counts, whichever arrives
//! first. Waiting records are durable with the delivery that brought them, so they can be acknowledged.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{OperationRecord, Phase, Time};

/// The key prefix of this state.
pub(super) const KEY_PREFIX: &str = "azure/operation/";

/// How long after its last record an operation waits for its end. Most end within minutes; many ends are never logged.
const END_WAIT_MILLIS: i64 = 15 * 60_000;
/// How long an end waits for the start with the request, and a failure for a later success. They may arrive through
/// different partitions.
const START_WAIT_MILLIS: i64 = 10_000;
/// Most records kept of one operation; later ones add nothing.
const RECORDS_OF_ONE: usize = 8;

/// Limits of the operations held and remembered.
#[derive(Clone, Copy, Debug)]
struct OperationLimits {
    /// Most operations that wait for their end. Beyond it the one due first is completed with what is known.
    waiting: usize,
    /// Most bytes of their records.
    waiting_bytes: usize,
    /// Most completed operations remembered, so that a late record does not produce their change again.
    told: usize,
}

impl Default for OperationLimits {
    fn default() -> Self {
        Self { waiting: 20_000, waiting_bytes: 64 << 20, told: 200_000 }
    }
}

/// The outcome of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folded {
    /// It is held until its operation is complete.
    Held,
    /// It was seen before.
    Duplicate,
    /// The operation was completed before.
    Late,
    /// The operation failed: there is no change, unless a later success arrives.
    Failed,
    /// The operation is complete: its records, in order of arrival.
    Whole(Vec<Bytes>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    operation: u128,
    /// When it is completed as it is.
    due: Time,
    records: Vec<Kept>,
    /// The last failure.
    #[serde(default)]
    failed: Option<Failure>,
    /// Ids of records that added nothing.
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
    /// The record that ended it, or the last known one.
    id: u128,
    time: Time,
    /// Whether its end is known.
    ended: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Remembered {
    Waiting(Waiting),
    Told(Told),
}

/// The operations in progress, and the completed ones.
#[derive(Debug, Default)]
pub struct Operations {
    limits: OperationLimits,
    waiting: HashMap<u128, Waiting>,
    due: BTreeSet<(Time, u128)>,
    bytes: usize,
    told: HashMap<u128, Told>,
    told_order: VecDeque<u128>,
    /// Operations whose stored state changed; `None` if changes are not collected.
    changed: Option<Vec<u128>>,
}

impl Operations {
    /// Restores the state of before a restart from its values, in any order, and collects changes from now on.
    ///
    /// # Errors
    /// When a value can't be parsed.
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

    /// Takes a record that arrived at `now`.
    pub fn take(&mut self, record: OperationRecord, now: Time) -> Folded {
        if let Some(told) = self.told.get(&record.operation).copied() {
            // A client that retries uses the same correlation id: a new start, or a further end, is a new operation.
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

    /// The records of the next operation that is due, or that must give way because of the limits.
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

    /// The records of the next waiting operation, whether or not it is due, since no more records will arrive.
    pub fn rest(&mut self) -> Option<Vec<Bytes>> {
        self.due(Time::from_millis(i64::MAX))
    }

    /// Whether no operation waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number of waiting operations.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the changes that must be committed together with the events that depend on them.
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
            // Strings and integers only: it can't fail.
            Some(Bytes::from(serde_json::to_vec(&remembered).unwrap_or_default()))
        };
        changed.iter().map(|operation| (format!("{KEY_PREFIX}{operation:032x}"), value(operation))).collect()
    }

    /// Completes the operation with this record, which may be its start if the end arrived first.
    fn end(&mut self, record: &OperationRecord) -> Folded {
        let waiting = self.forget(record.operation);
        let end = waiting.as_ref().and_then(Waiting::end).map(|kept| (kept.id, kept.time));
        let (id, time) = end.unwrap_or((record.id, record.time));
        self.tell(Told { operation: record.operation, id, time, ended: true });
        let mut texts = waiting.map(Waiting::texts).unwrap_or_default();
        texts.push(record.text.clone());
        Folded::Whole(texts)
    }

    /// Handles a failure. A waiting operation continues to wait, for a later success or for what a known end still
    /// lacks.
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

    /// Drops an operation that failed before this start, which is a retry by the client.
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

    /// The successful end, if there is no later failure.
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
mod tests;
