//! Backup and restore of the whole log.
//!
//! A backup is one snapshot of all keyspaces, so it is what a crash at that moment would have left: whole batches. It
//! is taken while the log is written to, and slows nobody but by its reading.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use fjall::{Keyspace, Readable};

use super::FORMAT_VERSION;
use super::owner::Owner;
use super::shared::Shared;
use super::store::{self, LOCK, Lock, STORE, State, Store, UNFINISHED, is_damage, seq_key};
use crate::log::backup::{BackupError, BackupHead, BackupReader, BackupWriter};
use crate::log::{LogError, block, draw_epoch};
use crate::model::{Seq, Time};

const BACK_UP: &str = "back up the log";
const RESTORE: &str = "restore the log";
/// Bytes per write batch during a restore.
const BATCH_BYTES: usize = 8 << 20;

/// The content of a backup or of a restored log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// When the backup was started.
    pub taken: Time,
    /// The oldest event.
    pub floor: Seq,
    /// The newest event.
    pub tail: Seq,
    /// Entries of all kinds: blocks of events, index entries, assets, positions.
    pub entries: u64,
    /// Runs of events that are missing because they were damaged in the original log.
    pub damaged: u64,
}

/// Writes a snapshot of the log.
pub(super) fn back_up(shared: &Shared, taken: Time, output: &mut dyn Write) -> Result<BackupSummary, LogError> {
    shared.with(|store| {
        let wrong = |cause: &dyn std::fmt::Display| store.error(BACK_UP, cause);
        let snapshot = store.snapshot();
        let state = snapshot.get(&store.meta, "state").map_err(|error| store.failed(BACK_UP, &error))?;
        let state = State::decode(&state.unwrap_or_else(|| Vec::new().into())).map_err(|damage| wrong(&damage))?;
        let head = BackupHead { format: FORMAT_VERSION, taken, tail: state.tail };
        let mut writer = BackupWriter::begin(output, &head).map_err(|error| wrong(&error))?;
        let mut damaged = 0;
        for (name, keyspace) in store.all() {
            for entry in snapshot.iter(keyspace) {
                if shared.is_wanted() {
                    return Err(wrong(&"the log is being reopened after a failed write; try again"));
                }
                match entry.into_inner() {
                    Ok((key, value)) => writer.entry(name, &key, &value).map_err(|error| wrong(&error))?,
                    Err(error) if is_damage(&error) => damaged += 1,
                    Err(error) => return Err(store.failed(BACK_UP, &error)),
                }
            }
        }
        let entries = writer.finish().map_err(|error| wrong(&error))?;
        Ok(BackupSummary { taken, floor: state.floor, tail: state.tail, entries, damaged })
    })
}

/// Creates a log from a backup, in a directory without one. It gets a new epoch: from here on it differs from the
/// original log, so that positions of the one are meaningless in the other. What root creates belongs to the owner of
/// the directory, or of the nearest one above it that exists.
///
/// # Errors
/// When the directory has a log or can't be written, or the backup is incomplete or corrupt. Nothing is left behind
/// then.
pub fn restore(directory: &Path, input: &mut dyn Read) -> Result<BackupSummary, BackupError> {
    let wrong = |error: std::io::Error| failed(directory, &error);
    if directory.join(STORE).try_exists().map_err(wrong)? {
        return Err(BackupError::HasLog { path: directory.display().to_string() });
    }
    let (reader, head) = BackupReader::begin(input)?;
    if head.format != FORMAT_VERSION {
        return Err(BackupError::Format { found: head.format, known: FORMAT_VERSION });
    }
    let owner = Owner::of(directory).map_err(wrong)?;
    let _lock = Lock::take(directory)?;
    let unfinished = directory.join(UNFINISHED);
    let restored = fill(directory, reader, &head);
    // After a failure, too: the directory and the lock stay.
    let given = owner.map_or(Ok(()), |owner| owner.give(directory, &[LOCK, UNFINISHED]));
    if restored.is_err() || given.is_err() {
        // The error says what matters.
        let _ = fs::remove_dir_all(&unfinished);
    }
    let summary = restored?;
    given.map_err(wrong)?;
    fs::rename(&unfinished, directory.join(STORE)).map_err(wrong)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(wrong)?;
    Ok(summary)
}

/// Writes and verifies the new log under a temporary name.
fn fill(directory: &Path, reader: BackupReader<'_>, head: &BackupHead) -> Result<BackupSummary, BackupError> {
    let store = Store::create(directory).map_err(|error| failed(directory, &error))?;
    let keyspaces = store.all();
    let (mut batch, mut bytes) = (store.plain_batch(), 0);
    let entries = reader.entries(|name, key, value| {
        let keyspace = keyspaces.iter().find(|(known, _)| *known == name).map(|(_, keyspace)| *keyspace);
        let unknown = || store.error(RESTORE, format_args!("it has a part {name:?} that this version does not know"));
        let keyspace: &Keyspace = keyspace.ok_or_else(unknown)?;
        batch.insert(keyspace, key, value);
        bytes += key.len() + value.len();
        if bytes >= BATCH_BYTES {
            bytes = 0;
            let full = std::mem::replace(&mut batch, store.plain_batch());
            full.commit().map_err(|error| store.failed(RESTORE, &error))?;
        }
        Ok(())
    })?;
    batch.insert(&store.meta, "epoch", draw_epoch().0.to_be_bytes());
    batch.commit().and_then(|()| store.sync()).map_err(|error| store.failed(RESTORE, &error))?;
    let (state, damaged) = check(&store)?;
    Ok(BackupSummary { taken: head.taken, floor: state.floor, tail: state.tail, entries, damaged })
}

/// Reads the log's state, and counts runs of events that are damaged or missing.
fn check(store: &Store) -> Result<(State, u64), LogError> {
    let read = |error: fjall::Error| store.failed(RESTORE, &error);
    let state = store.meta.get("state").map_err(read)?;
    let state = State::decode(&state.unwrap_or_else(|| Vec::new().into()));
    let state = state.map_err(|damage| store.error(RESTORE, format_args!("the keyspace meta: {damage}")))?;
    // Where the next block has to begin; nothing after one that does not tell.
    let (mut next, mut damaged) = (Some(state.floor), 0);
    for entry in store.events.range(seq_key(state.floor)..) {
        let (first, sealed) = store::block(entry).map_err(read)?;
        damaged += u64::from(next.is_some_and(|next| next != first));
        next = block::header(&sealed).ok().map(|header| Seq(first.0 + header.count));
        damaged += u64::from(next.is_none());
    }
    damaged += u64::from(next.is_some_and(|next| next != state.tail.next()));
    Ok((state, damaged))
}

fn failed(directory: &Path, cause: &dyn std::fmt::Display) -> LogError {
    LogError::Storage { action: RESTORE, path: directory.display().to_string(), cause: cause.to_string() }
}
