//! The directory and its keyspaces: opening and creating them, the layout of keys, and errors that an operator can act
//! on.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fjall::config::CompressionPolicy;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, OwnedWriteBatch, PersistMode,
    Slice, Snapshot,
};
use xxhash_rust::xxh3::xxh3_128;

use super::{FORMAT_VERSION, journal};
use crate::log::codec::{Damage, Fields, RESTORE, advice};
use crate::log::{LogError, QuarantineSize, draw_epoch};
use crate::model::{AssetName, Epoch, Seq};

/// The store's folder within the data directory.
pub(super) const STORE: &str = "log";
/// Its name until its creation is complete.
pub(super) const UNFINISHED: &str = "log.new";
/// The lock file.
pub(super) const LOCK: &str = "lock";
/// The folder for damaged pieces of journals.
const DAMAGED: &str = "damaged";

const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(25);

/// Limit of journal bytes, which bounds the replay at startup to about a second. When it is reached, all keyspaces with
/// entries in the oldest journal are flushed at once, so it should be reached rarely.
const JOURNAL_BYTES: u64 = 256 << 20;
/// Cache size, mostly for index and filter blocks: a filter for 10 million ids takes 12 MiB.
const CACHE_BYTES: u64 = 64 << 20;
/// Threads that flush and compact. With one, a flood of requests while it compacts can block it for ever
/// (<https://github.com/fjall-rs/fjall/pull/323>); with two, the first spins for as long as the second compacts. By
/// default there are as many as cores, up to four.
const WORKERS: usize = 4;
/// Small, so that a flush, which takes cores and disk from what is live, is short. A store keeps the sizes that it was
/// created with.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// Larger: each flush makes a file of blocks, which stays as it is.
const EVENTS_MEMTABLE_BYTES: u64 = 16 << 20;

/// Longer keys are hashed; see [`text_key`].
const LONGEST_KEY: usize = 1024;
const FOLDED_PREFIX: usize = 1000;

/// The open store and its keyspaces. Cheap to clone.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) events: Keyspace,
    pub(super) ids: Keyspace,
    pub(super) history: Keyspace,
    pub(super) assets: Keyspace,
    pub(super) correlation: Keyspace,
    pub(super) cursors: Keyspace,
    pub(super) quarantine: Keyspace,
    pub(super) fingerprints: Keyspace,
    pub(super) meta: Keyspace,
    database: Database,
    directory: Arc<Path>,
}

/// Counters that change with every commit, kept in `meta` so that opening needs no scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The oldest retained event.
    pub(super) floor: Seq,
    /// The newest event.
    pub(super) tail: Seq,
    /// Bytes of the retained blocks.
    pub(super) bytes: u64,
    /// The number of the oldest record in quarantine.
    pub(super) quarantine_first: u64,
    /// The number for the next record in quarantine.
    pub(super) quarantine_next: u64,
    /// Bytes of the records in quarantine.
    pub(super) quarantine_bytes: u64,
}

impl State {
    const EMPTY: Self =
        Self { floor: Seq(1), tail: Seq(0), bytes: 0, quarantine_first: 1, quarantine_next: 1, quarantine_bytes: 0 };

    pub(super) fn encode(&self) -> Vec<u8> {
        let numbers =
            [self.floor.0, self.tail.0, self.bytes, self.quarantine_first, self.quarantine_next, self.quarantine_bytes];
        numbers.into_iter().flat_map(u64::to_be_bytes).collect()
    }

    pub(super) fn quarantine_size(&self) -> QuarantineSize {
        QuarantineSize {
            records: self.quarantine_next.saturating_sub(self.quarantine_first),
            bytes: self.quarantine_bytes,
            last: self.quarantine_next.saturating_sub(1),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut fields = Fields(bytes);
        // The order of the fields here is the order of the bytes.
        Ok(Self {
            floor: Seq(fields.u64()?),
            tail: Seq(fields.u64()?),
            bytes: fields.u64()?,
            quarantine_first: fields.u64()?,
            quarantine_next: fields.u64()?,
            quarantine_bytes: fields.u64()?,
        })
    }
}

/// The size of all files in a folder, recursively.
fn bytes_below(folder: &Path) -> io::Result<u64> {
    fs::read_dir(folder)?.try_fold(0, |bytes, entry| {
        let entry = entry?;
        let found = match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(error),
        };
        match found {
            Ok(more) => Ok(bytes + more),
            // What was merged into another file meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(bytes),
            Err(error) => Err(error),
        }
    })
}

/// The exclusive lock on a data directory; released on drop, or with the process.
pub(super) struct Lock {
    /// The lock file.
    pub(super) path: PathBuf,
    _held: File,
}

impl Lock {
    /// Creates the directory if missing, and locks it.
    pub(super) fn take(directory: &Path) -> Result<Self, LogError> {
        let advice = "give this user the right to write there, or set another data_dir";
        let refused = |error: io::Error| open_error(directory, format!("{error}; {advice}"));
        fs::create_dir_all(directory).map_err(refused)?;
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let path = directory.join(LOCK);
        let mut file = options.open(&path).map_err(refused)?;
        match try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: another process may not have written its number yet.
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
                return Err(LogError::InUse { path: directory.display().to_string(), holder: holder.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
        // Only for the message above; on a full disk there is none.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { path, _held: file })
    }
}

/// Tries to lock for a short while: a forked child holds inherited locks until it executes its program.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_WAIT),
            outcome => return outcome,
        }
    }
    file.try_lock()
}

impl Store {
    /// Opens the store, and creates it if missing. The caller holds the [`Lock`].
    pub(super) fn open(directory: &Path) -> Result<(Self, Epoch, State), LogError> {
        let (finished, unfinished) = (directory.join(STORE), directory.join(UNFINISHED));
        if !finished.try_exists().map_err(|error| open_error(directory, error))? {
            drop(Self::create(directory)?);
            fs::rename(&unfinished, &finished)
                .and_then(|()| File::open(directory)?.sync_all())
                .map_err(|error| open_error(directory, error))?;
        }
        Self::open_existing(directory)
    }

    fn open_existing(directory: &Path) -> Result<(Self, Epoch, State), LogError> {
        let path = directory.join(STORE);
        journal::mend(&path, &directory.join(DAMAGED)).map_err(|error| open_error(directory, error))?;
        let database = database(&path).map_err(|error| open_error(directory, words(&error)))?;
        check_format(directory, &database)?;
        let store = Self::keyspaces(database, directory).map_err(|error| open_error(directory, words(&error)))?;
        let epoch = Fields(&store.get_meta("epoch")?).u64();
        let state = State::decode(&store.get_meta("state")?);
        match (epoch, state) {
            (Ok(epoch), Ok(state)) => Ok((store, Epoch(epoch), state)),
            (Err(damage), _) | (_, Err(damage)) => Err(open_error(directory, advice("the keyspace meta", &damage))),
        }
    }

    /// Creates an empty store under a temporary name. Remains of an interrupted creation are deleted: it never accepted
    /// an event.
    pub(super) fn create(directory: &Path) -> Result<Self, LogError> {
        let unfinished = directory.join(UNFINISHED);
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(open_error(directory, error)),
            _ => {}
        }
        let create = || {
            let store = Self::keyspaces(database(&unfinished)?, directory)?;
            let mut batch = store.batch();
            batch.insert(&store.meta, "format", FORMAT_VERSION.to_be_bytes());
            batch.insert(&store.meta, "epoch", draw_epoch().0.to_be_bytes());
            batch.insert(&store.meta, "state", State::EMPTY.encode());
            batch.commit()?;
            Ok(store)
        };
        create().map_err(|error| open_error(directory, words(&error)))
    }

    /// Closes and reopens the store after a failed write. No other handle to it may exist.
    ///
    /// After a failed write, what the page cache shows of a file need not be on disk
    /// (<https://www.usenix.org/system/files/atc20-rebello.pdf>), so the journals are rewritten and synced first.
    pub(super) fn reopen(self) -> Result<(Self, State), LogError> {
        let directory = Arc::clone(&self.directory);
        drop(self);
        journal::write_anew(&directory.join(STORE)).map_err(|error| open_error(&directory, error))?;
        let (store, _, state) = Self::open_existing(&directory)?;
        Ok((store, state))
    }

    fn keyspaces(database: Database, directory: &Path) -> fjall::Result<Self> {
        // Blocks and records are compressed already. Beside the tree they are not rewritten when it is compacted, and
        // a file goes as a whole once all that is in it was dropped: measured on a full log, 2.6 bytes written per
        // byte taken, against 3.8 and growing with the log.
        let packed = || {
            let aside = KvSeparationOptions::default().compression(CompressionType::None);
            KeyspaceCreateOptions::default()
                .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
                .with_kv_separation(Some(aside))
        };
        let small = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        Ok(Self {
            events: database.keyspace("events", || packed().max_memtable_size(EVENTS_MEMTABLE_BYTES))?,
            ids: database.keyspace("ids", small)?,
            history: database.keyspace("history", small)?,
            assets: database.keyspace("assets", small)?,
            correlation: database.keyspace("correlation", small)?,
            cursors: database.keyspace("cursors", small)?,
            quarantine: database.keyspace("quarantine", || packed().max_memtable_size(MEMTABLE_BYTES))?,
            fingerprints: database.keyspace("fingerprints", small)?,
            meta: database.keyspace("meta", small)?,
            database,
            directory: directory.into(),
        })
    }

    fn get_meta(&self, key: &str) -> Result<Slice, LogError> {
        let missing = || self.error("open the log", format_args!("the keyspace meta is incomplete; {RESTORE}"));
        self.meta.get(key).map_err(|error| self.failed("open the log", &error))?.ok_or_else(missing)
    }

    /// Bytes of tables and journals, from the file system: the store itself does not answer during an fsync.
    pub(super) fn disk_bytes(&self) -> Result<u64, LogError> {
        bytes_below(&self.directory.join(STORE)).map_err(|error| self.error("measure the store", error))
    }

    /// An atomic batch that is synced when its commit returns.
    pub(super) fn batch(&self) -> OwnedWriteBatch {
        self.database.batch().durability(Some(PersistMode::SyncAll))
    }

    /// An atomic batch that is durable after the next [`sync`](Store::sync).
    pub(super) fn plain_batch(&self) -> OwnedWriteBatch {
        self.database.batch()
    }

    pub(super) fn sync(&self) -> fjall::Result<()> {
        self.database.persist(PersistMode::SyncAll)
    }

    /// A consistent snapshot, unaffected by later writes.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.database.snapshot()
    }

    /// Every keyspace with its name.
    pub(super) fn all(&self) -> [(&'static str, &Keyspace); 9] {
        [
            ("events", &self.events),
            ("ids", &self.ids),
            ("history", &self.history),
            ("assets", &self.assets),
            ("correlation", &self.correlation),
            ("cursors", &self.cursors),
            ("quarantine", &self.quarantine),
            ("fingerprints", &self.fingerprints),
            ("meta", &self.meta),
        ]
    }

    /// The block that holds an event, with the position of its first event. Searches no further back than `floor`.
    pub(super) fn block_at(&self, floor: Seq, seq: Seq) -> fjall::Result<Option<(Seq, Slice)>> {
        if seq < floor {
            return Ok(None);
        }
        self.events.range(seq_key(floor)..=seq_key(seq)).next_back().map(block).transpose()
    }

    /// Decodes a position: a key of `events` or a value of `ids`.
    pub(super) fn seq(&self, bytes: &[u8]) -> Result<Seq, LogError> {
        Fields(bytes).u64().map(Seq).map_err(|damage| self.error("read events", advice("an index", &damage)))
    }

    /// A [`LogError::Storage`] about this directory.
    pub(super) fn error(&self, action: &'static str, cause: impl ToString) -> LogError {
        LogError::Storage { action, path: self.directory.display().to_string(), cause: cause.to_string() }
    }

    /// A [`LogError::Damaged`] for this directory.
    pub(super) fn damaged(&self, first: Seq, last: Seq, cause: impl ToString) -> LogError {
        LogError::Damaged { first, last, path: self.directory.display().to_string(), cause: cause.to_string() }
    }

    /// A [`LogError::Storage`] for a failure of the store.
    pub(super) fn failed(&self, action: &'static str, error: &fjall::Error) -> LogError {
        self.error(action, words(error))
    }
}

/// Decodes an entry of `events`: first position and block.
pub(super) fn block(entry: fjall::Guard) -> fjall::Result<(Seq, Slice)> {
    let (key, value) = entry.into_inner()?;
    let seq = Fields(&key).u64().map_err(|_| fjall::Error::Unrecoverable)?;
    Ok((Seq(seq), value))
}

fn database(path: &Path) -> fjall::Result<Database> {
    Database::builder(path)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNAL_BYTES)
        .worker_threads(WORKERS)
        // Large values are compressed before they get there.
        .journal_compression(CompressionType::None)
        .open()
}

/// Checks the format version before anything else is touched.
fn check_format(directory: &Path, database: &Database) -> Result<(), LogError> {
    let foreign = || open_error(directory, "there is a store that catchment did not write; set another data_dir");
    if !database.keyspace_exists("meta") {
        return Err(foreign());
    }
    let stored = database
        .keyspace("meta", KeyspaceCreateOptions::default)
        .and_then(|meta| meta.get("format"))
        .map_err(|error| open_error(directory, words(&error)))?;
    match stored.and_then(|bytes| Fields(&bytes).u32().ok()) {
        Some(FORMAT_VERSION) => Ok(()),
        Some(other) => Err(open_error(
            directory,
            format!(
                "it has format {other}, this program reads format {FORMAT_VERSION}; run the version of catchment \
                 that wrote it, or set another data_dir"
            ),
        )),
        None => Err(foreign()),
    }
}

fn open_error(directory: &Path, cause: impl ToString) -> LogError {
    LogError::Storage { action: "open the log", path: directory.display().to_string(), cause: cause.to_string() }
}

/// Whether stored data is corrupt, as opposed to an I/O failure.
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    !matches!(
        error,
        fjall::Error::Io(_)
            | fjall::Error::Storage(fjall::LsmError::Io(_))
            | fjall::Error::Locked
            | fjall::Error::Poisoned
            | fjall::Error::KeyspaceDeleted
    )
}

/// A store failure as a message; the store's own is the debug form of its types.
pub(super) fn words(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => error.to_string(),
        fjall::Error::Locked => "in use by another process; stop that one, or set another data_dir".to_owned(),
        fjall::Error::Poisoned => "a write in the background failed, most likely for lack of space".to_owned(),
        fjall::Error::InvalidVersion(_) => "the store was written by another version of catchment; run that one, or \
                                            set another data_dir"
            .to_owned(),
        other => format!("the store is damaged ({other:?}); {RESTORE}"),
    }
}

/// A position as a key, big-endian, so that keys sort like positions.
pub(super) fn seq_key(seq: Seq) -> [u8; 8] {
    seq.0.to_be_bytes()
}

/// A text as a key. The store limits keys to 64 KiB and texts come from outside, so an excessively long one is replaced
/// by its beginning, a byte that occurs in no text, and its hash.
pub(super) fn text_key(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    match bytes.get(..FOLDED_PREFIX) {
        Some(prefix) if bytes.len() > LONGEST_KEY => {
            let mut key = Vec::with_capacity(LONGEST_KEY);
            key.extend_from_slice(prefix);
            key.push(0xFF);
            key.extend_from_slice(&xxh3_128(bytes).to_be_bytes());
            key
        }
        _ => bytes.to_vec(),
    }
}

/// The key of an event in an asset's history: name, zero byte, position.
pub(super) fn history_key(asset: &AssetName, seq: Seq) -> Vec<u8> {
    let mut key = text_key(asset.as_str());
    key.push(0);
    key.extend_from_slice(&seq_key(seq));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_keep_keys_of_their_own() {
        let (a, b) = ("x".repeat(100_000), format!("{}y", "x".repeat(99_999)));
        assert_eq!(text_key("short"), b"short");
        assert_eq!(text_key(&a[..LONGEST_KEY]).len(), LONGEST_KEY);
        assert!(text_key(&a).len() < LONGEST_KEY);
        assert_ne!(text_key(&a), text_key(&b));
    }

    #[test]
    fn state_survives_its_encoding() {
        let state = State {
            floor: Seq(1),
            tail: Seq(2),
            bytes: 3,
            quarantine_first: 4,
            quarantine_next: 5,
            quarantine_bytes: 6,
        };
        assert_eq!(State::decode(&state.encode()), Ok(state));
        assert_eq!(State::decode(&[0; 47]), Err(Damage::Short));
    }
}
