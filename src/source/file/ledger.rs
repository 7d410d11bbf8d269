//! What has been read of which file: the source's cursor.
//!
//! A file is identified by device, inode and a hash of its first bytes, so that a rename keeps its position and a
//! reused inode does not. A file that can still grow is stored with its position. One that was read as a whole
//! (compressed, or a closed document) is stored as one hash of identity and size, since folders hold many: if it
//! changes after all, it is read again, and the duplicates are dropped by event id. Both are forgotten when the file is
//! gone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::walk::Look;
use crate::decode::Position;

/// Bytes at the start of a file that identify it.
const HEAD_BYTES: usize = 1 << 10;

/// Incremented when the encoding changes incompatibly.
const VERSION: u32 = 1;

/// The file system's identity of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// The hash of a file's first `bytes` bytes; fewer than [`HEAD_BYTES`] while the file is shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    bytes: usize,
    hash: u64,
}

impl Head {
    /// Reads the head of a file.
    pub(super) fn read(file: &File) -> io::Result<(Self, Vec<u8>)> {
        let start = read_start(file, HEAD_BYTES)?;
        Ok((Self { bytes: start.len(), hash: hash(&start) }, start))
    }

    /// Whether the file still begins with this head.
    pub(super) fn matches(self, file: &File) -> io::Result<bool> {
        let start = read_start(file, self.bytes.min(HEAD_BYTES))?;
        Ok(start.len() == self.bytes && hash(&start) == self.hash)
    }

    /// Whether the head will grow with the file.
    pub(super) fn is_short(self) -> bool {
        self.bytes < HEAD_BYTES
    }
}

fn read_start(file: &File, length: usize) -> io::Result<Vec<u8>> {
    let mut start = vec![0; length];
    let mut filled = 0;
    while let Some(room) = start.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read_at(room, filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    start.truncate(filled);
    Ok(start)
}

fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// The fingerprint of a completely read file.
fn fingerprint(id: FileId, head: Head, size: u64) -> u64 {
    let mut hasher = Xxh3::new();
    for part in [id.device, id.inode, size, head.bytes as u64, head.hash] {
        hasher.update(&part.to_le_bytes());
    }
    hasher.digest()
}

/// A file that is being read, or was read to its current end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) head: Head,
    pub(super) position: Position,
    /// Number of pieces delivered, which is the index of the next.
    pub(super) pieces: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    open: Vec<SavedEntry>,
    /// Fingerprints, in hexadecimal.
    done: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedEntry {
    file: FileId,
    head: Head,
    offset: u64,
    skip: u64,
    pieces: u64,
}

/// An invalid cursor.
#[derive(Debug, thiserror::Error)]
#[error("the saved position is not valid for this version: {0}")]
pub(super) struct LedgerError(String);

/// The positions in all files.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    open: BTreeMap<FileId, Entry>,
    done: BTreeSet<u64>,
    /// Metadata of files when they were last read to their end, so that unchanged ones are not opened.
    looks: HashMap<FileId, Look>,
    /// Fingerprints of the files in `looks` that are completely read.
    fingerprints: HashMap<FileId, u64>,
}

impl Ledger {
    /// Decodes a cursor.
    pub(super) fn decode(cursor: &[u8]) -> Result<Self, LedgerError> {
        let saved: Saved = serde_json::from_slice(cursor).map_err(|error| LedgerError(error.to_string()))?;
        if saved.version != VERSION {
            return Err(LedgerError(format!("version {} instead of {VERSION}", saved.version)));
        }
        let open = saved.open.into_iter().map(|saved| {
            let position = Position { offset: saved.offset, skip: saved.skip };
            (saved.file, Entry { head: saved.head, position, pieces: saved.pieces })
        });
        let done = saved.done.iter().map(|hex| u64::from_str_radix(hex, 16));
        Ok(Self {
            open: open.collect(),
            done: done.collect::<Result<_, _>>().map_err(|error| LedgerError(error.to_string()))?,
            ..Self::default()
        })
    }

    /// Encodes the cursor as JSON.
    pub(super) fn encode(&self) -> Bytes {
        let open = self.open.iter().map(|(&file, entry)| SavedEntry {
            file,
            head: entry.head,
            offset: entry.position.offset,
            skip: entry.position.skip,
            pieces: entry.pieces,
        });
        let done = self.done.iter().map(|fingerprint| format!("{fingerprint:x}"));
        let saved = Saved { version: VERSION, open: open.collect(), done: done.collect() };
        // Numbers and strings only: it can't fail.
        Bytes::from(serde_json::to_vec(&saved).unwrap_or_default())
    }

    /// The position in a file, if it still begins with the same head.
    pub(super) fn entry(&self, id: FileId, file: &File) -> io::Result<Option<Entry>> {
        match self.open.get(&id) {
            Some(entry) if entry.head.matches(file)? => Ok(Some(*entry)),
            _ => Ok(None),
        }
    }

    /// Records the position in a file. `true` if that is a change.
    pub(super) fn set(&mut self, id: FileId, entry: Entry) -> bool {
        self.looks.remove(&id);
        if let Some(fingerprint) = self.fingerprints.remove(&id) {
            self.done.remove(&fingerprint);
        }
        self.open.insert(id, entry) != Some(entry)
    }

    /// Whether the metadata are the same as when the file was last read to its end.
    pub(super) fn is_unchanged(&self, id: FileId, look: Look) -> bool {
        self.looks.get(&id) == Some(&look)
    }

    /// Records that a file with these metadata has been read to its end.
    pub(super) fn caught_up(&mut self, id: FileId, look: Look) {
        self.looks.insert(id, look);
    }

    /// Whether a file of this identity and size was read completely.
    pub(super) fn is_done(&mut self, id: FileId, head: Head, look: Look) -> bool {
        let fingerprint = fingerprint(id, head, look.size);
        let done = self.done.contains(&fingerprint);
        if done {
            self.fingerprints.insert(id, fingerprint);
            self.looks.insert(id, look);
        }
        done
    }

    /// Records that a file has been read completely.
    pub(super) fn finish(&mut self, id: FileId, head: Head, look: Look) {
        let fingerprint = fingerprint(id, head, look.size);
        self.open.remove(&id);
        self.done.insert(fingerprint);
        self.fingerprints.insert(id, fingerprint);
        self.looks.insert(id, look);
    }

    /// Keeps the position in a completely read file, in case it grows.
    pub(super) fn keep(&mut self, id: FileId, entry: Entry) {
        self.open.insert(id, entry);
    }

    /// Forgets a file.
    pub(super) fn forget(&mut self, id: FileId) {
        self.open.remove(&id);
        self.looks.remove(&id);
    }

    /// Forgets the files that are not among `present`. `true` if there were any.
    pub(super) fn prune(&mut self, present: &HashSet<FileId>) -> bool {
        let before = (self.open.len(), self.done.len());
        self.open.retain(|id, _| present.contains(id));
        self.looks.retain(|id, _| present.contains(id));
        self.fingerprints.retain(|id, _| present.contains(id));
        let known: HashSet<u64> = self.fingerprints.values().copied().collect();
        self.done.retain(|fingerprint| known.contains(fingerprint));
        before != (self.open.len(), self.done.len())
    }

    /// Inodes of files that may not have been read to their end.
    pub(super) fn unfinished(&self) -> HashSet<u64> {
        self.open.keys().map(|id| id.inode).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ID: FileId = FileId { device: 1, inode: 2 };
    const OTHER: FileId = FileId { device: 1, inode: 3 };

    fn look(size: u64) -> Look {
        Look { size, modified: None }
    }

    #[test]
    fn a_cursor_reads_back() {
        let head = Head { bytes: 3, hash: u64::MAX };
        let entry = Entry { head, position: Position { offset: 7, skip: 2 }, pieces: 9 };
        let mut ledger = Ledger::default();
        ledger.set(ID, entry);
        ledger.finish(OTHER, head, look(5));
        let mut read = Ledger::decode(&ledger.encode()).unwrap();
        assert_eq!(read.encode(), ledger.encode());
        assert_eq!(read.open[&ID], entry);
        assert!(read.is_done(OTHER, head, look(5)) && !read.is_done(OTHER, head, look(6)));
        for broken in ["", "{}", r#"{"version":2,"open":[],"done":[]}"#, r#"{"version":1,"open":[],"done":["x"]}"#] {
            assert!(Ledger::decode(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn files_that_are_gone_are_forgotten() {
        let head = Head { bytes: 3, hash: 4 };
        let mut ledger = Ledger::default();
        ledger.set(ID, Entry { head, position: Position::default(), pieces: 0 });
        ledger.finish(OTHER, head, look(5));
        assert!(!ledger.prune(&HashSet::from([ID, OTHER])));
        assert!(ledger.prune(&HashSet::from([ID])));
        assert!(!ledger.is_done(OTHER, head, look(5)));
        assert!(ledger.prune(&HashSet::new()) && ledger.open.is_empty());
    }

    #[test]
    fn a_head_grows_with_its_file_and_tells_another() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one").unwrap();
        let (head, _) = Head::read(&file).unwrap();
        assert!(head.is_short());
        file.write_all(&[b'x'; 2_000]).unwrap();
        assert!(head.matches(&file).unwrap());
        let (longer, start) = Head::read(&file).unwrap();
        assert!(!longer.is_short() && start.len() == HEAD_BYTES && longer != head);
        file.write_all_at(b"two", 0).unwrap();
        assert!(!head.matches(&file).unwrap() && !longer.matches(&file).unwrap());
        file.set_len(2).unwrap();
        assert!(!head.matches(&file).unwrap());
    }
}
