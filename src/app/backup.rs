//! Backup and restore without a running server.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use super::{AppError, now_utc};
use crate::config::Config;
use crate::log::{self, BackupSummary, EmbeddedLog, EventLog, LogError, Retention};
use crate::metrics::Metrics;

/// Writes a backup of the data directory, unless a server has it: then nothing is written and nothing given.
///
/// # Errors
/// When there is no log, it can't be read, or `output` can't be written.
pub fn back_up(config: &Config, output: &mut dyn Write) -> Result<Option<BackupSummary>, AppError> {
    if !EmbeddedLog::exists(&config.data_dir) {
        return Err(AppError::NoLog { path: config.data_dir.clone() });
    }
    // What retention would drop, the server drops at its next start.
    let opened = EmbeddedLog::open(&config.data_dir, Retention::default(), Arc::new(Metrics::new()?));
    match opened {
        Ok(log) => Ok(Some(log.back_up(now_utc(), output)?)),
        Err(LogError::InUse { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a log of a backup in a data directory that has none.
///
/// # Errors
/// When there is one, it can't be written, or the backup is not whole.
pub fn restore(data_dir: &Path, input: &mut dyn Read) -> Result<BackupSummary, AppError> {
    Ok(log::restore(data_dir, input)?)
}

/// Reads a backup to its end. What it tells of itself, when it is whole.
///
/// # Errors
/// When it is not.
pub fn check_backup(input: &mut dyn Read) -> Result<log::BackupHead, AppError> {
    Ok(log::check_backup(input)?)
}
