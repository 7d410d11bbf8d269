//! Azure Event Hubs: what Azure Monitor's diagnostic settings stream to them (activity logs, Entra audit logs), and any
//! other records.
//!
//! A watcher polls the hub's properties; every partition has a reader with its own connection. Everything they find is
//! delivered in one place, with the position in all partitions; so the position is as durable as the events, and no
//! storage account is needed. Each consumer group is read by one Catchment only: there are no leases.
//!
//! The SDK resumes a broken link where the link first began, and waits forever for a service that does not respond. So
//! a broken link is never recovered: a new client begins after the last event that was read, and every request has a
//! timeout.

mod batch;
mod certificate;
mod client;
pub mod config;
pub mod credential;
mod desk;
mod error;
mod place;
pub mod probe;
mod reader;
mod watcher;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::batch::{Batch, Cutter};
use self::client::{Connect, Ends, Properties, Sdk};
pub use self::config::EventHubsConfig;
use self::desk::Desk;
use self::error::HubError;
use self::place::{Fit, Position};
use self::reader::Reader;
use self::watcher::Watcher;
use super::{Clock, Intake, Source, SourceError, StatusHandle};
use crate::model::SourceId;

/// The kind, as in the configuration.
pub const KIND: &str = "azure_event_hubs";

/// Messages queued for the desk: a few batches, so that partitions are read while others are handed over.
const MESSAGES: usize = 8;

/// A message from the watcher or a reader to the source.
enum Message {
    /// The hub's properties.
    Looked { hub: Properties, ends: BTreeMap<String, Ends> },
    /// The hub's properties can't be read.
    Blind { error: HubError },
    /// Events of a partition.
    Events { partition: String, batch: Batch },
    /// A partition is being read and has nothing more at present.
    Quiet { partition: String },
    /// A partition can't be read.
    Trouble { partition: String, error: HubError },
}

/// The source or the pipeline has ended.
#[derive(Debug)]
struct SourceEnded;

/// Reads an event hub.
pub struct EventHubsSource {
    id: SourceId,
    config: EventHubsConfig,
    clock: Clock,
    /// The last durable position.
    cursor: Option<Bytes>,
    /// Connections instead of the configured ones, for tests.
    connect: Option<Arc<dyn Connect>>,
}

impl EventHubsSource {
    /// Creates a source that resumes after `cursor`, its position in the log.
    #[must_use]
    pub fn new(id: SourceId, config: EventHubsConfig, cursor: Option<Bytes>, clock: Clock) -> Self {
        Self { id, config, clock, cursor, connect: None }
    }

    fn failed(&self, action: &str, cause: impl ToString) -> SourceError {
        let action = format!("{action} {}/{}", self.config.host(), self.config.hub);
        SourceError::Upstream { action, cause: cause.to_string() }
    }

    fn position(&self) -> Result<Position, SourceError> {
        let Some(cursor) = &self.cursor else { return Ok(Position::empty()) };
        Position::decode(cursor).map_err(|cause| {
            self.failed("resume", format!("the saved position is not valid for this version: {cause}"))
        })
    }

    async fn follow(&mut self, intake: &Intake, status: &StatusHandle) -> Result<(), SourceError> {
        let connect = match &self.connect {
            Some(connect) => Arc::clone(connect),
            None => Arc::new(Sdk::new(self.config.clone()).map_err(|error| self.failed("open", error))?),
        };
        let (sender, mut messages) = mpsc::channel(MESSAGES);
        let every = Duration::from_secs(self.config.check_secs);
        // Dropped with this future, and the tasks with it.
        let mut tasks = JoinSet::new();
        tasks.spawn(Watcher { connect: Arc::clone(&connect), every, messages: sender.clone() }.run());
        let mut readers = Readers { connect, every, messages: sender, ends: BTreeMap::new() };
        let mut desk = Desk::new(self.id.clone(), self.clock.clone(), self.position()?, status.clone());
        loop {
            tokio::select! {
                durable = desk.durable() => self.cursor = Some(durable?),
                Some(message) = messages.recv(), if desk.has_room() => match message {
                    Message::Looked { hub, ends } => {
                        let fit = desk.fit(&hub, &ends, self.config.start);
                        if fit == Fit::Replaced && !readers.ends.is_empty() {
                            // Readers of the old hub must not continue in the new one.
                            return Err(self.failed("follow", "the hub was deleted and recreated"));
                        }
                        if fit != Fit::Fits {
                            desk.save(intake).await?;
                        }
                        readers.look_at(self, &desk, &ends, &mut tasks);
                        desk.looked(ends);
                    }
                    Message::Blind { error } => desk.blind(self.failed("look at", error).to_string()),
                    Message::Events { partition, batch } => desk.take(&partition, batch, intake).await?,
                    Message::Quiet { partition } => desk.fine(&partition),
                    Message::Trouble { partition, error } => desk.trouble(&partition, &error),
                },
                Some(ended) = tasks.join_next() => {
                    return Err(self.failed("follow", format!("a part of the source ended: {ended:?}")));
                }
            }
        }
    }
}

/// The running readers.
struct Readers {
    connect: Arc<dyn Connect>,
    every: Duration,
    messages: mpsc::Sender<Message>,
    /// By partition, the channel that passes its known end to its reader.
    ends: BTreeMap<String, watch::Sender<Ends>>,
}

impl Readers {
    /// Passes the ends of partitions to their readers, and starts readers for new partitions.
    fn look_at(
        &mut self,
        source: &EventHubsSource,
        desk: &Desk,
        ends: &BTreeMap<String, Ends>,
        tasks: &mut JoinSet<SourceEnded>,
    ) {
        for (partition, ends) in ends {
            if let Some(reader) = self.ends.get(partition) {
                reader.send_replace(ends.clone());
                continue;
            }
            let (sender, receiver) = watch::channel(ends.clone());
            let reader = Reader {
                partition: partition.clone(),
                place: desk.place(partition),
                cutter: Cutter::new(source.id.clone(), &source.config.host(), &source.config.hub, partition),
                connect: Arc::clone(&self.connect),
                ends: receiver,
                every: self.every,
                clock: source.clock.clone(),
                messages: self.messages.clone(),
            };
            tasks.spawn(reader.run());
            self.ends.insert(partition.clone(), sender);
        }
    }
}

#[async_trait]
impl Source for EventHubsSource {
    async fn run(&mut self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
        stop.run_until_cancelled(self.follow(&intake, &status)).await.unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests;
