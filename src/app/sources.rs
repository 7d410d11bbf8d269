//! The configured sources: starts them, and on a reload stops, starts or replaces each independently.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::{AppError, ExtraSource};
use crate::config::{SourceConfig, SqsConfig};
use crate::log::EventLog;
use crate::metrics::Metrics;
use crate::model::SourceId;
use crate::source::aws_lookup_events::LookupEventsSource;
use crate::source::aws_sqs::SqsSource;
use crate::source::azure_event_hubs::EventHubsSource;
use crate::source::file::FileSource;
use crate::source::supervise::supervise;
use crate::source::{Clock, Intake, Source, StatusBoard};

/// How long a source may take to stop before its successor starts.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts sources.
#[derive(Clone)]
pub(super) struct Starter {
    pub(super) sources: TaskTracker,
    pub(super) intake: Intake,
    pub(super) statuses: StatusBoard,
    pub(super) metrics: Arc<Metrics>,
}

impl Starter {
    /// Starts a source. The returned tracker is empty when it has ended.
    pub(super) fn start(&self, ExtraSource { id, kind, source }: ExtraSource, stop: CancellationToken) -> TaskTracker {
        let (intake, status) = (self.intake.clone(), self.statuses.register(id, kind));
        let own = TaskTracker::new();
        supervise(&own, source, intake, status, Arc::clone(&self.metrics), Clock::system(), stop);
        own.close();
        let ended = own.clone();
        self.sources.spawn(async move { ended.wait().await });
        own
    }
}

/// The running configured sources.
pub(super) struct Sources {
    starter: Starter,
    log: Arc<dyn EventLog>,
    stop: CancellationToken,
    running: Mutex<BTreeMap<SourceId, Running>>,
}

struct Running {
    config: SourceConfig,
    stop: CancellationToken,
    ended: TaskTracker,
}

impl Sources {
    pub(super) fn new(starter: Starter, log: Arc<dyn EventLog>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { starter, log, stop, running: Mutex::default() })
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<SourceId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration of a running source.
    pub(super) fn config(&self, id: &SourceId) -> Option<SourceConfig> {
        self.running().get(id).map(|running| running.config.clone())
    }

    /// Starts, restarts and stops sources to match the configuration; unchanged ones keep running. The position of a
    /// removed source stays in the log.
    ///
    /// # Errors
    /// When a position can't be read.
    pub(super) async fn apply(&self, wanted: &BTreeMap<SourceId, SourceConfig>) -> Result<(), AppError> {
        let leaving: Vec<(SourceId, Running)> = {
            let mut running = self.running();
            let leaves = |id: &SourceId, running: &Running| wanted.get(id) != Some(&running.config);
            running.extract_if(.., |id, running| leaves(id, running)).collect()
        };
        leaving.iter().for_each(|(_, running)| running.stop.cancel());
        for (id, running) in leaving {
            let in_time = timeout(PATIENCE, running.ended.wait()).await.is_ok();
            if !in_time {
                // It may run beside its successor: what both deliver is kept once.
                error!(source = %id, "it does not stop; it is left to finish by itself");
            }
            if !wanted.contains_key(&id) {
                info!(source = %id, "source removed; its position is kept");
                self.starter.statuses.remove(&id);
                self.starter.metrics.forget_source(&id.0);
            }
        }
        for (id, config) in wanted {
            if self.config(id).is_none() {
                self.start(id, config).await?;
            }
        }
        Ok(())
    }

    async fn start(&self, id: &SourceId, config: &SourceConfig) -> Result<(), AppError> {
        let cursor = {
            let (log, id) = (Arc::clone(&self.log), id.clone());
            spawn_blocking(move || log.cursor(&id)).await??
        };
        let source =
            ExtraSource { id: id.clone(), kind: config.kind(), source: self.build(id, config.clone(), cursor) };
        let stop = self.stop.child_token();
        let ended = self.starter.start(source, stop.clone());
        self.running().insert(id.clone(), Running { config: config.clone(), stop, ended });
        Ok(())
    }

    fn build(&self, id: &SourceId, config: SourceConfig, cursor: Option<Bytes>) -> Box<dyn Source> {
        let (id, clock) = (id.clone(), Clock::system());
        match config {
            SourceConfig::File(config) => Box::new(FileSource::new(id, config, cursor, clock)),
            SourceConfig::AwsLookupEvents(config) => Box::new(LookupEventsSource::new(id, config, cursor, clock)),
            SourceConfig::AwsS3Sqs(config) | SourceConfig::AwsEventbridgeSqs(config) => self.sqs(id, config, cursor),
            SourceConfig::AzureEventHubs(config) => Box::new(EventHubsSource::new(id, config, cursor, clock)),
            SourceConfig::AwsConfig(config) => Box::new(config.source(id, cursor, clock)),
            SourceConfig::AzureResourceGraph(config) => Box::new(config.source(id, cursor, clock)),
        }
    }

    fn sqs(&self, id: SourceId, config: SqsConfig, cursor: Option<Bytes>) -> Box<dyn Source> {
        Box::new(SqsSource::new(id, config, cursor, Clock::system(), Arc::clone(&self.starter.metrics)))
    }
}
