//! Collects what the readers find: delivers it in order, and keeps position and status.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use bytes::Bytes;

use super::batch::Batch;
use super::client::{Ends, Properties};
use super::config::Start;
use super::error::HubError;
use super::place::{Fit, Place, Position};
use crate::log::LogError;
use crate::model::{SourceId, Time};
use crate::source::{Clock, Delivery, Enqueued, Intake, PartitionStatus, SourceState, StatusHandle};

/// Most deliveries in flight.
const IN_FLIGHT: usize = 16;

/// A delivery that is not durable yet.
struct InFlight {
    pending: Enqueued,
    records: u64,
    cursor: Bytes,
}

/// One partition's share of the status.
#[derive(Debug, Default)]
struct Partition {
    ends: Option<Ends>,
    /// When the last event read was enqueued.
    enqueued: Option<Time>,
    missed: u64,
    trouble: Option<String>,
}

/// Hands deliveries over, and reports the source's status.
pub(super) struct Desk {
    source: SourceId,
    clock: Clock,
    position: Position,
    in_flight: VecDeque<InFlight>,
    partitions: BTreeMap<String, Partition>,
    /// Why the hub's properties can't be read.
    blind: Option<String>,
    status: StatusHandle,
}

impl Desk {
    pub(super) fn new(source: SourceId, clock: Clock, position: Position, status: StatusHandle) -> Self {
        let (in_flight, partitions) = (VecDeque::new(), BTreeMap::new());
        Self { source, clock, position, in_flight, partitions, blind: None, status }
    }

    /// Whether another delivery can be handed over.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT
    }

    /// The position from which to read a partition.
    pub(super) fn place(&self, partition: &str) -> Place {
        self.position.partitions.get(partition).cloned().unwrap_or(Place::Earliest)
    }

    /// Waits until the oldest delivery is durable, and returns its cursor. Never resolves if there is none.
    pub(super) async fn durable(&mut self) -> Result<Bytes, LogError> {
        let Some(oldest) = self.in_flight.front_mut() else { return std::future::pending().await };
        (&mut oldest.pending).await?;
        let Some(InFlight { records, cursor, .. }) = self.in_flight.pop_front() else {
            return Err(LogError::Closed);
        };
        self.status.update(|status| status.records += records);
        Ok(cursor)
    }

    /// Adapts the position to the hub's present partitions.
    pub(super) fn fit(&mut self, hub: &Properties, ends: &BTreeMap<String, Ends>, start: Start) -> Fit {
        let fit = self.position.fit(hub, ends, start);
        if fit == Fit::Replaced {
            self.tell_error("the hub was deleted and recreated; it is read from its first event".to_owned());
        }
        fit
    }

    /// Hands over the position without records.
    pub(super) async fn save(&mut self, intake: &Intake) -> Result<(), LogError> {
        self.hand_over(Batch::default(), intake).await
    }

    /// Hands over a batch of a partition.
    pub(super) async fn take(&mut self, partition: &str, batch: Batch, intake: &Intake) -> Result<(), LogError> {
        let newest = batch.newest_record();
        let entry = self.partitions.entry(partition.to_owned()).or_default();
        entry.enqueued = batch.enqueued.or(entry.enqueued);
        entry.trouble = None;
        entry.missed += batch.missed;
        let missed = batch.missed;
        if let Some(place) = &batch.place {
            self.position.partitions.insert(partition.to_owned(), place.clone());
        }
        self.hand_over(batch, intake).await?;
        if missed > 0 {
            self.tell_error(format!(
                "partition {partition}: {missed} events are missing; the hub had dropped them before they were read: \
                 lengthen its retention"
            ));
        }
        self.status.update(|status| status.newest_record = status.newest_record.max(newest));
        self.tell();
        Ok(())
    }

    async fn hand_over(&mut self, batch: Batch, intake: &Intake) -> Result<(), LogError> {
        let (records, cursor) = (batch.records.len() as u64, self.position.encode());
        let delivery = Delivery {
            source: self.source.clone(),
            records: batch.records,
            rejected: batch.rejected,
            cursor: Some(cursor.clone()),
        };
        let pending = intake.enqueue(delivery).await?;
        self.in_flight.push_back(InFlight { pending, records, cursor });
        Ok(())
    }

    /// Records the ends of the partitions.
    pub(super) fn looked(&mut self, ends: BTreeMap<String, Ends>) {
        for (partition, ends) in ends {
            self.partitions.entry(partition).or_default().ends = Some(ends);
        }
        self.blind = None;
        self.tell();
    }

    /// Records that the hub's properties could not be read.
    pub(super) fn blind(&mut self, error: String) {
        if self.blind.as_ref() != Some(&error) {
            self.blind = Some(error.clone());
            self.tell_error(error);
        }
        self.tell();
    }

    /// Records that a partition is being read.
    pub(super) fn fine(&mut self, partition: &str) {
        self.partitions.entry(partition.to_owned()).or_default().trouble = None;
        self.tell();
    }

    /// Records that a partition can't be read.
    pub(super) fn trouble(&mut self, partition: &str, error: &HubError) {
        let error = format!("read partition {partition}: {error}");
        let entry = self.partitions.entry(partition.to_owned()).or_default();
        if entry.trouble.as_ref() != Some(&error) {
            entry.trouble = Some(error.clone());
            self.tell_error(error);
        }
        self.tell();
    }

    fn tell_error(&self, error: String) {
        tracing::warn!(source = %self.source, error);
        let now = self.clock.now();
        self.status.update(|status| {
            status.last_error = Some(error);
            status.last_error_at = Some(now);
        });
    }

    fn tell(&self) {
        let partitions: Vec<PartitionStatus> = self.partitions.iter().map(|(id, it)| self.partition(id, it)).collect();
        let failing = self.blind.is_some() || partitions.iter().any(|partition| partition.error.is_some());
        let mut position = String::new();
        for partition in &partitions {
            let comma = if position.is_empty() { "" } else { ", " };
            let _ = match partition.sequence {
                Some(sequence) => write!(position, "{comma}partition {} after event {sequence}", partition.id),
                None => write!(position, "{comma}partition {} at its start", partition.id),
            };
        }
        let lag = self.lag_secs(&partitions);
        self.status.update(|status| {
            status.state = if failing { SourceState::Retrying } else { SourceState::Running };
            status.position = (!position.is_empty()).then_some(position);
            status.lag_secs = lag;
            status.partitions = partitions;
        });
    }

    fn partition(&self, id: &str, partition: &Partition) -> PartitionStatus {
        let place = self.position.partitions.get(id);
        PartitionStatus {
            id: id.to_owned(),
            sequence: place.and_then(Place::sequence),
            behind: place.zip(partition.ends.as_ref()).and_then(|(place, ends)| place.behind(ends)),
            enqueued: partition.enqueued,
            missed: partition.missed,
            error: partition.trouble.clone(),
        }
    }

    /// 0 if every partition was read to its last known end; otherwise the age of the last event read, in the partition
    /// that is furthest behind.
    fn lag_secs(&self, partitions: &[PartitionStatus]) -> Option<f64> {
        let late = partitions.iter().filter(|partition| partition.behind != Some(0));
        let oldest = late.map(|partition| partition.enqueued).min();
        let now = self.clock.now();
        match oldest {
            _ if partitions.is_empty() => None,
            None => Some(0.0),
            // Exact: milliseconds of a clock are far below 2^52.
            Some(enqueued) => enqueued.map(|at| ((now.millis() - at.millis()) as f64 / 1_000.0).max(0.0)),
        }
    }
}
