//! Backfill: the log files already in a trail's bucket, read day by day (`walk.rs`) at a bounded rate beside the live
//! sources. Its position commits with the records; records already in the log are dropped by event id; new ones become
//! events marked as late.

mod job;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::job::{Job, folder};
use self::walk::{Position, Stop, Walk};
use super::aws::object::{Objects, S3};
use super::aws::reader::{Chunk, ObjectReader, Progress, Step};
use super::aws::{Access, AwsError, Connector};
use super::aws_sqs::SqsConfig;
use super::{Clock, Delivery, Enqueued, Intake, Source, SourceError, StatusHandle};
use crate::metrics::Metrics;
use crate::model::{Origin, Rejected, SourceId};

/// The kind, in `/v1/sources`.
pub const KIND: &str = "aws_backfill";

const VERSION: u32 = 1;

/// Objects opened ahead of the one being handed over. Their order is kept.
const READ_AHEAD: usize = 8;
/// Deliveries handed over and not yet durable.
const IN_FLIGHT: usize = 8;
/// The queue sources' default.
const MAX_EXPANSION: u32 = 200;
/// How often the folder of jobs is scanned.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A job for the server to start.
pub struct Begun {
    /// The source's name: `backfill-` and the job's.
    pub id: SourceId,
    /// The job.
    pub job: Job,
    /// Its file, to be deleted on completion.
    pub file: PathBuf,
    /// Cancelled if the file is deleted earlier.
    pub stop: CancellationToken,
}

/// Calls `begin` for every job of a folder, and cancels a job when its file is gone; while the folder can't be read,
/// all go on. Runs until `stop` is cancelled.
pub async fn watch<F: Future<Output = ()>>(
    folder: PathBuf,
    stop: CancellationToken,
    mut begin: impl FnMut(Begun) -> F,
) {
    let mut running: BTreeMap<String, CancellationToken> = BTreeMap::new();
    let mut unreadable: BTreeSet<String> = BTreeSet::new();
    loop {
        let looked_at = folder.clone();
        let jobs = spawn_blocking(move || job::list(&looked_at)).await;
        let jobs = jobs.unwrap_or_else(|error| Err(io::Error::other(error))).inspect_err(|error| {
            tracing::warn!(folder = %folder.display(), %error, "can't look for backfills; those that run go on");
        });
        if let Ok(jobs) = &jobs {
            running.retain(|name, stop| {
                let kept = jobs.contains_key(name);
                if !kept {
                    stop.cancel();
                }
                kept
            });
        }
        for (name, (file, job)) in jobs.unwrap_or_default() {
            match job {
                Ok(job) if !running.contains_key(&name) => {
                    let stop = stop.child_token();
                    running.insert(name.clone(), stop.clone());
                    begin(Begun { id: format!("backfill-{name}").as_str().into(), job, file, stop }).await;
                }
                Ok(_) => {}
                Err(error) if unreadable.insert(name) => {
                    tracing::warn!(file = %file.display(), error, "not a backfill job");
                }
                Err(_) => {}
            }
        }
        if stop.run_until_cancelled(sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// The source that executes a backfill.
pub struct BackfillSource {
    id: SourceId,
    job: Job,
    file: PathBuf,
    /// The queue source whose credentials are used.
    config: Option<SqsConfig>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// The last durable position.
    cursor: Option<Bytes>,
    objects: Option<Arc<dyn Objects>>,
}

impl BackfillSource {
    /// Creates a source that resumes after `cursor`, its position in the log.
    #[must_use]
    pub fn new(
        begun: Begun,
        config: Option<SqsConfig>,
        cursor: Option<Bytes>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let Begun { id, job, file, .. } = begun;
        Self { id, job, file, config, clock, metrics, cursor, objects: None }
    }

    fn failed(&self, cause: impl ToString) -> SourceError {
        SourceError::Upstream { action: format!("backfill from {}", self.job.bucket), cause: cause.to_string() }
    }

    fn position(&self) -> Result<Option<Position>, SourceError> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let position: Position = serde_json::from_slice(cursor).map_err(|error| self.failed(error))?;
        match position.version {
            VERSION => Ok(Some(position)),
            other => Err(self.failed(format!("the saved position has version {other} instead of {VERSION}"))),
        }
    }

    async fn connect(&self) -> Result<Arc<dyn Objects>, SourceError> {
        if let Some(objects) = &self.objects {
            return Ok(Arc::clone(objects));
        }
        match (&self.config, &self.job.source) {
            (Some(config), _) => Ok(config.s3(config.connect().await, &self.metrics, &self.id)),
            (None, Some(source)) => {
                Err(self.failed(format!("there is no source {source} of kind aws_s3_sqs; name another, or none")))
            }
            (None, None) => {
                let connector = Connector::load(&Access::default()).await;
                Ok(S3::new(connector, None, None, self.metrics.requests(&self.id.0)))
            }
        }
    }

    async fn work(&mut self, intake: &Intake, status: &StatusHandle) -> Result<(), SourceError> {
        let objects = self.connect().await?;
        let walk = Walk::begin(self.job.clone(), self.position()?, &*objects).await;
        let mut walk = walk.map_err(|error| self.failed(error))?;
        if walk.lanes() == 0 {
            let message = format!(
                "no log files of these accounts and regions below s3://{}/{}AWSLogs/",
                self.job.bucket, self.job.prefix
            );
            return Err(self.failed(message));
        }
        let mut pace = Pace::new(self.job.records_per_second);
        let mut readings = JoinSet::new();
        let mut opened: VecDeque<Opened> = VecDeque::new();
        let mut in_flight = VecDeque::new();
        loop {
            while opened.len() < READ_AHEAD
                && let Some(stop) = walk.next(&*objects).await.map_err(|error| self.failed(error))?
            {
                opened.push_back(self.open(stop, Arc::clone(&objects), &mut readings));
            }
            let Some(next) = opened.pop_front() else { break };
            self.hand_over(next, intake, status, &mut pace, &mut in_flight).await?;
            while readings.try_join_next().is_some() {}
        }
        while !in_flight.is_empty() {
            self.settle(&mut in_flight, status).await?;
        }
        let file = self.file.clone();
        let removed = spawn_blocking(move || std::fs::remove_file(file)).await;
        removed.map_err(|error| self.failed(error))?.map_err(|error| self.failed(format!("delete its job: {error}")))
    }

    fn open(&self, stop: Stop, objects: Arc<dyn Objects>, readings: &mut JoinSet<()>) -> Opened {
        let (sender, steps) = mpsc::channel(1);
        let reader =
            ObjectReader { objects, source: self.id.clone(), clock: self.clock.clone(), max_expansion: MAX_EXPANSION };
        readings.spawn(reader.read(0, stop.object.clone(), stop.progress.clone(), sender));
        Opened { stop, steps }
    }

    /// Hands over one object completely.
    async fn hand_over(
        &mut self,
        Opened { stop, mut steps }: Opened,
        intake: &Intake,
        status: &StatusHandle,
        pace: &mut Pace,
        in_flight: &mut VecDeque<Sent>,
    ) -> Result<(), SourceError> {
        let location = stop.object.location();
        let unexpected = "the reading ended unexpectedly".to_owned();
        loop {
            let (_, step) = steps.recv().await.unwrap_or((0, Err(AwsError::Unavailable(unexpected.clone()))));
            let chunk = match step {
                Ok(chunk) => chunk,
                // It was listed a moment ago; nothing more can be done about it.
                Err(error @ AwsError::NotFound(_)) => self.missing(&stop, &error),
                Err(error) => return Err(self.failed(format!("read {location}: {error}"))),
            };
            let last = chunk.last;
            let Chunk { records, rejected, progress: Progress { etag, pieces }, .. } = chunk;
            pace.wait(records.len()).await;
            let position = Position {
                version: VERSION,
                day: stop.day,
                lane: stop.lane.clone(),
                key: stop.object.key.clone(),
                etag,
                pieces,
                done: last,
            };
            let cursor = Bytes::from(serde_json::to_vec(&position).map_err(|error| self.failed(error))?);
            let count = records.len() as u64;
            let delivery = Delivery { source: self.id.clone(), records, rejected, cursor: Some(cursor.clone()) };
            let pending = intake.enqueue(delivery).await?;
            in_flight.push_back(Sent { pending, cursor, count, location: location.clone() });
            if in_flight.len() >= IN_FLIGHT {
                self.settle(in_flight, status).await?;
            }
            if last {
                return Ok(());
            }
        }
    }

    fn missing(&self, stop: &Stop, error: &AwsError) -> Chunk {
        let location = stop.object.location();
        let reason = format!("{location} was listed, but can't be read: {error}");
        let origin = Origin { source: self.id.clone(), location: location.into(), index: 0 };
        let (code, bytes, observed) = ("unreadable_object", Bytes::new(), self.clock.now());
        let rejected = vec![Rejected { origin, code, reason, bytes, observed }];
        Chunk { records: Vec::new(), rejected, progress: Progress::default(), last: true }
    }

    async fn settle(&mut self, in_flight: &mut VecDeque<Sent>, status: &StatusHandle) -> Result<(), SourceError> {
        if let Some(Sent { pending, cursor, count, location }) = in_flight.pop_front() {
            pending.await?;
            self.cursor = Some(cursor);
            status.update(|status| {
                status.records += count;
                status.position = Some(location);
            });
        }
        Ok(())
    }
}

/// An object being read.
struct Opened {
    stop: Stop,
    steps: mpsc::Receiver<(u64, Step)>,
}

/// A delivery in flight.
struct Sent {
    pending: Enqueued,
    cursor: Bytes,
    count: u64,
    location: String,
}

#[async_trait]
impl Source for BackfillSource {
    async fn run(&mut self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
        let intake = intake.late();
        stop.run_until_cancelled(Box::pin(self.work(&intake, &status))).await.unwrap_or(Ok(()))
    }
}

/// Limits the rate of records.
struct Pace {
    each: Duration,
    next: Instant,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_second.max(1), next: Instant::now() }
    }

    async fn wait(&mut self, records: usize) {
        sleep_until(self.next).await;
        let count = u32::try_from(records).unwrap_or(u32::MAX);
        self.next = self.next.max(Instant::now()) + self.each * count;
    }
}

#[cfg(test)]
mod tests;
