//! Files: a single one, or all in a folder; read once, or followed as they grow and new ones appear.
//!
//! Text is read as it is appended, and a record is delivered when it is complete. A renamed file is read to its end
//! under its new name before the file that replaces it; a file that was truncated or rewritten is read from its start.
//! Compressed files are read as a whole, once their size has not changed for one poll. The cursor (`ledger.rs`) commits
//! with the records, so that a restart neither loses nor repeats any.

mod ledger;
mod reader;
mod tail;
mod walk;

use std::collections::HashSet;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::ledger::Ledger;
use self::reader::{Problem, Reader, Step};
use self::walk::{Unreadable, Walk};
use super::{Clock, Delivery, Enqueued, Intake, Source, SourceError, SourceState, StatusHandle};
use crate::model::SourceId;

/// The kind, as in the configuration.
pub const KIND: &str = "file";

/// Most deliveries in flight.
const IN_FLIGHT: usize = 8;

/// `[sources.<name>.file]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// A file, or a folder whose `.json`, `.jsonl`, `.ndjson`, `.log` and `.gz` files are read in the order of their
    /// names, including its subfolders.
    pub path: PathBuf,
    /// Whether to wait for more data at the end.
    #[serde(default = "follow")]
    pub follow: bool,
    /// Interval between checks for more data, in milliseconds.
    #[serde(default = "poll_millis")]
    pub poll_millis: u64,
    /// Largest expansion ratio of a compressed file, enforced once it has expanded to 64 MiB.
    #[serde(default = "max_expansion")]
    pub max_expansion: u32,
}

fn follow() -> bool {
    true
}

fn poll_millis() -> u64 {
    500
}

fn max_expansion() -> u32 {
    200
}

impl FileConfig {
    /// The defaults, for a path.
    #[cfg(test)]
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), follow: follow(), poll_millis: poll_millis(), max_expansion: max_expansion() }
    }

    fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_millis.max(1))
    }
}

/// Reads files.
#[derive(Debug)]
pub struct FileSource {
    id: SourceId,
    config: FileConfig,
    clock: Clock,
    /// The last durable position.
    cursor: Option<Bytes>,
}

impl FileSource {
    /// Creates a source that resumes after `cursor`, its position in the log.
    #[must_use]
    pub fn new(id: SourceId, config: FileConfig, cursor: Option<Bytes>, clock: Clock) -> Self {
        Self { id, config, clock, cursor }
    }

    fn open(&self, stop: &CancellationToken) -> Result<Reader, SourceError> {
        let ledger = self.cursor.as_deref().map(Ledger::decode).transpose().map_err(|error| SourceError::Upstream {
            action: format!("resume reading {}", self.config.path.display()),
            cause: error.to_string(),
        })?;
        let ledger = ledger.unwrap_or_default();
        Ok(Reader::new(self.id.clone(), self.config.clone(), ledger, self.clock.clone(), stop.clone()))
    }
}

/// The files of a folder and its subfolders that a source would read, in the order of their names. Folders and files
/// that can't be accessed are errors in their place.
pub fn files(folder: &Path) -> impl Iterator<Item = Result<PathBuf, UnreadableFile>> {
    Walk::new(folder, HashSet::new()).map(|found| match found {
        Ok(found) => Ok(found.path),
        Err(Unreadable { path, error }) => Err(UnreadableFile { path, cause: error }),
    })
}

/// A file or folder that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("read {path}: {cause}")]
pub struct UnreadableFile {
    /// Its path.
    pub path: PathBuf,
    /// The system's error.
    pub cause: io::Error,
}

/// A delivery in flight.
#[derive(Debug)]
struct Sent {
    pending: Enqueued,
    cursor: Option<Bytes>,
    records: u64,
    progress: Option<String>,
}

/// A running step of the reader, on a blocking thread.
struct Reading(JoinHandle<(Reader, Step, Duration)>);

impl Reading {
    fn begin(mut reader: Reader) -> Self {
        Self(spawn_blocking(move || {
            let begun = Instant::now();
            let step = reader.step();
            (reader, step, begun.elapsed())
        }))
    }

    async fn end(self) -> Result<(Reader, Step, Duration), SourceError> {
        self.0.await.map_err(|error: JoinError| SourceError::Upstream {
            action: "read files".to_owned(),
            cause: format!("the reader failed: {error}"),
        })
    }
}

#[async_trait]
impl Source for FileSource {
    async fn run(&mut self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
        stop.run_until_cancelled(self.read(&intake, &status, &stop)).await.unwrap_or(Ok(()))
    }
}

impl FileSource {
    async fn read(
        &mut self,
        intake: &Intake,
        status: &StatusHandle,
        stop: &CancellationToken,
    ) -> Result<(), SourceError> {
        let mut in_flight = VecDeque::with_capacity(IN_FLIGHT);
        let mut reading = Reading::begin(self.open(stop)?);
        loop {
            let (reader, step, took) = reading.end().await?;
            match step {
                Step::Deliver(delivery) => {
                    let progress = reader.progress();
                    // Reads the next delivery while this one is processed.
                    reading = Reading::begin(reader);
                    self.deliver(intake, delivery, progress, &mut in_flight, status).await?;
                }
                Step::Idle(problem) => {
                    self.drain(&mut in_flight, status).await?;
                    self.tell(problem, status);
                    // A folder that takes long to scan is scanned less often.
                    tokio::time::sleep(self.config.poll().max(took * 10)).await;
                    reading = Reading::begin(reader);
                }
                Step::Finished(problem) => {
                    self.drain(&mut in_flight, status).await?;
                    return match problem {
                        Some(Problem { action, cause }) => Err(SourceError::Upstream { action, cause }),
                        None => Ok(()),
                    };
                }
                Step::Stopped => return Ok(()),
            }
        }
    }

    async fn deliver(
        &mut self,
        intake: &Intake,
        delivery: Delivery,
        progress: Option<String>,
        in_flight: &mut VecDeque<Sent>,
        status: &StatusHandle,
    ) -> Result<(), SourceError> {
        if in_flight.len() >= IN_FLIGHT {
            self.settle_oldest(in_flight, status).await?;
        }
        let records = delivery.records.len() as u64;
        let cursor = delivery.cursor.clone();
        let pending = intake.enqueue(delivery).await?;
        in_flight.push_back(Sent { pending, cursor, records, progress });
        Ok(())
    }

    async fn settle_oldest(
        &mut self,
        in_flight: &mut VecDeque<Sent>,
        status: &StatusHandle,
    ) -> Result<(), SourceError> {
        if let Some(sent) = in_flight.pop_front() {
            sent.pending.await?;
            self.cursor = sent.cursor;
            status.update(|status| {
                status.records += sent.records;
                status.position = sent.progress;
            });
        }
        Ok(())
    }

    async fn drain(&mut self, in_flight: &mut VecDeque<Sent>, status: &StatusHandle) -> Result<(), SourceError> {
        while !in_flight.is_empty() {
            self.settle_oldest(in_flight, status).await?;
        }
        Ok(())
    }

    fn tell(&self, problem: Option<Problem>, status: &StatusHandle) {
        let now = self.clock.now();
        status.update(|status| match problem {
            Some(Problem { action, cause }) => {
                status.state = SourceState::Retrying;
                status.last_error = Some(format!("{action}: {cause}"));
                status.last_error_at = Some(now);
            }
            None => status.state = SourceState::Running,
        });
    }
}

#[cfg(test)]
mod tests;
