//! Imports: left to a running server, or else executed by the command itself, which then holds the lock of the data
//! directory.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{AppError, ExtraSource, Gateway, INTAKE_BYTES, INTAKE_DELIVERIES, open};
use crate::config::Config;
use crate::ingest::{Ingest, IngestConfig};
use crate::log::LogError;
use crate::metrics::Metrics;
use crate::reload;
use crate::source::import::{self, Begun, ImportSource};
use crate::source::{Clock, Intake, Source, StatusBoard};

/// Who executes an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// This process has; it is complete unless it was stopped.
    Here,
    /// The server that uses the data directory will.
    ByServer,
}

impl Gateway {
    /// Starts pending imports, and further ones as they are requested.
    pub(super) fn start_imports(&self, config: &Config) {
        if config.ephemeral {
            return;
        }
        let (starter, stop) = (self.starter(), self.stop_sources.clone());
        let begin = move |begun: Begun| {
            let id = begun.id.clone();
            let source = Box::new(ImportSource::new(begun, Clock::system()));
            starter.start(ExtraSource { id, kind: import::KIND, source }, stop.clone());
        };
        self.sources.spawn(import::watch(import::folder(&config.data_dir), self.stop_sources.clone(), begin));
    }
}

/// Executes an import in the data directory, unless a server is using it.
///
/// # Errors
/// When the data directory can't be opened for another reason, or the log or the import fails.
pub async fn import(config: &Config, begun: Begun, stop: CancellationToken) -> Result<Imported, AppError> {
    let metrics = Arc::new(Metrics::new()?);
    let (log, inventory) = match open(config, &metrics).await {
        Err(AppError::Log(LogError::InUse { .. })) => return Ok(Imported::ByServer),
        opened => opened?,
    };
    let engine = reload::load(config.normalizers.dir.as_deref(), &config.redaction)?;
    let (_engines, engine) = watch::channel(engine);
    let clock = Clock::system();
    let (now, status) = (clock.clone(), StatusBoard::default().register(begun.id.clone(), import::KIND));
    let (intake, submissions) = Intake::new(INTAKE_DELIVERIES, INTAKE_BYTES);
    let parts = IngestConfig { type_prefix: config.events.type_prefix.clone(), novelty: config.novelty };
    let ingest = Ingest::new(engine, inventory, Arc::clone(&log), metrics, parts, Box::new(move || now.now()))?;
    let ingest = spawn_blocking(move || ingest.run(submissions));
    let done = ImportSource::new(begun, clock).run(intake, status, stop).await;
    let ingested = ingest.await?;
    spawn_blocking(move || log.close()).await?;
    ingested?;
    done.map(|()| Imported::Here).map_err(AppError::Import)
}
