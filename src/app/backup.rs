//! Backup and restore without a running server.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use super::{AppError, now_utc};
use crate::config::Config;
use crate::log::{self, BackupSummary, EmbeddedLog, EventLog, LogError, Retention};
use crate::metrics::Metrics;

/// Writes a backup of the data directory. `None`, and nothing written, if a server is using it.
///
/// # Errors
/// When there is no log, it can't be read, or `output` can't be written.
pub fn back_up(config: &Config, output: &mut dyn Write) -> Result<Option<BackupSummary>, AppError> {
    if !EmbeddedLog::exists(&config.data_dir) {
        return Err(AppError::NoLog { path: config.data_dir.clone() });
    }
    // The server itself applies retention, at its next start.
    let opened = EmbeddedLog::open(&config.data_dir, Retention::default(), Arc::new(Metrics::new()?));
    match opened {
        Ok(log) => Ok(Some(log.back_up(now_utc(), output)?)),
        Err(LogError::InUse { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Restores a backup into a data directory without a log.
///
/// # Errors
/// When it has a log, can't be written, or the backup is incomplete or corrupt.
pub fn restore(data_dir: &Path, input: &mut dyn Read) -> Result<BackupSummary, AppError> {
    Ok(log::restore(data_dir, input)?)
}

/// Verifies a whole backup, and returns its head.
///
/// # Errors
/// When it is incomplete or corrupt.
pub fn check_backup(input: &mut dyn Read) -> Result<log::BackupHead, AppError> {
    Ok(log::check_backup(input)?)
}
