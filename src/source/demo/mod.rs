//! The built-in demo: CloudTrail records of a fictional organisation.
//!
//! In two accounts, people, pipelines and services change what exists, so that every change refers to an existing
//! asset; reads and refused calls are among them, as in a real trail; and every few minutes there is an incident. The
//! same seed and times lead to the same records. Addresses are those reserved for documentation (RFC 5737); account ids
//! and access keys are AWS's own examples.

mod compute;
mod identity;
mod network;
mod people;
mod scribe;
mod services;
mod site;
mod storage;
mod story;
mod world;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::world::World;
use super::{Delivery, Intake, Source, SourceError, SourceState, StatusHandle};
use crate::model::{Origin, RawRecord, SourceId, Time};

/// Records go out in batches at least this far apart.
const TICK: Duration = Duration::from_millis(50);
/// Records due during a pause are dropped beyond this number.
const MOST_AT_ONCE: f64 = 1_000.0;

/// The first `n` records of a world, at a fifth of a second each from 2026-01-01T00:00:00Z on.
#[must_use]
pub fn generate(seed: u64, n: usize) -> Vec<String> {
    const START_MILLIS: i64 = 1_767_225_600_000;
    let mut world = World::new(seed, Time::from_millis(START_MILLIS));
    (0_i64..).take(n).map(|index| world.next(Time::from_millis(START_MILLIS + index * 200))).collect()
}

/// Delivers records of the fictional organisation at a steady rate. Those of its initial state come first, without
/// delay.
#[derive(Debug)]
pub struct DemoSource {
    seed: u64,
    rate: f64,
    world: Option<World>,
    delivered: u64,
}

impl DemoSource {
    /// A source of `rate` records a second. Another seed is another organisation, whose names don't clash with those of
    /// the first: if the log outlives the process, each start needs its own seed.
    #[must_use]
    pub fn new(seed: u64, rate: f64) -> Self {
        Self { seed, rate, world: None, delivered: 0 }
    }

    async fn deliver(
        &mut self,
        records: Vec<String>,
        now: Time,
        intake: &Intake,
        status: &StatusHandle,
    ) -> Result<(), SourceError> {
        let location: Arc<str> = "demo".into();
        let (first, count) = (self.delivered, records.len() as u64);
        let records = (first..)
            .zip(records)
            .map(|(index, record)| RawRecord {
                bytes: Bytes::from(record),
                origin: Origin { source: status.source().clone(), location: Arc::clone(&location), index },
            })
            .collect();
        let source: SourceId = status.source().clone();
        intake.submit(Delivery { source, records, rejected: Vec::new(), cursor: None }).await?;
        self.delivered += count;
        let delivered = self.delivered;
        status.update(|status| {
            status.state = SourceState::Running;
            status.records = delivered;
            status.newest_record = Some(now);
            status.lag_secs = Some(0.0);
        });
        Ok(())
    }
}

#[async_trait]
impl Source for DemoSource {
    async fn run(&mut self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
        let now = now();
        let mut world = self.world.take().unwrap_or_else(|| World::new(self.seed, now));
        let base: Vec<String> = std::iter::from_fn(|| world.take()).collect();
        if !base.is_empty() {
            self.deliver(base, now, &intake, &status).await?;
        }
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut owed, mut last) = (0.0_f64, Instant::now());
        let outcome = loop {
            let tick = tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                tick = ticks.tick() => tick,
            };
            owed = tick.duration_since(last).as_secs_f64().mul_add(self.rate, owed).min(MOST_AT_ONCE);
            last = tick;
            let now = self::now();
            let mut records = Vec::new();
            while owed >= 1.0 {
                records.push(world.next(now));
                owed -= 1.0;
            }
            if !records.is_empty()
                && let Err(error) = self.deliver(records, now, &intake, &status).await
            {
                break Err(error);
            }
        };
        // Restarted after a failure, it continues with the same world.
        self.world = Some(world);
        outcome
    }
}

fn now() -> Time {
    Time::from_millis(jiff::Timestamp::now().as_millisecond())
}

#[cfg(test)]
mod tests;
