//! The form of a backup: one stream of bytes, checked throughout, in which every entry of the log's keyspaces stands.
//!
//! ```text
//! "catchment backup 1\n"
//! frame*   length (4 bytes, big-endian), then a sealed value of that length (see the `codec` module)
//! ```
//! The plain part of a frame is one byte, its kind. The packed part of kind
//! - `0`, the first: the version of the log's format (4 bytes), when the backup was begun (8 bytes, milliseconds since
//!   1970), the position of the newest event in it (8 bytes);
//! - `1`: the name of a keyspace, then keys and values in turn, each with its length in front;
//! - `2`, the last: the number of entries (8 bytes), XXH3-128 of all frames before it (16 bytes).
//!
//! A stream that was cut off has no last frame; one of which frames are missing, doubled or out of order has another
//! hash.

use std::io::{self, Read, Write};

use xxhash_rust::xxh3::Xxh3;

use super::codec::{Damage, Fields, Sealer, Unsealer, plain, put_bytes};
use crate::model::{Seq, Time};

const MAGIC: &[u8] = b"catchment backup 1\n";
const HEAD: u8 = 0;
const ENTRIES: u8 = 1;
const END: u8 = 2;
/// A frame is closed once its entries have this many bytes.
const FRAME_BYTES: usize = 1 << 20;
/// Longest frame in bytes; a single entry is a block or an asset at most.
const LONGEST_FRAME: u32 = 1 << 30;

/// The head of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupHead {
    /// The version of the log's format.
    pub(super) format: u32,
    /// When the backup was started.
    pub taken: Time,
    /// The newest event in it.
    pub tail: Seq,
}

/// Why a backup could not be read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file can't be read.
    #[error("read the backup: {0}")]
    Read(#[from] io::Error),
    /// The file is not a backup.
    #[error("this is not a catchment backup")]
    Foreign,
    /// The file is truncated.
    #[error("the backup is truncated after byte {at}; use another copy of it, or an older one")]
    Cut {
        /// The number of bytes in it.
        at: u64,
    },
    /// A part is corrupt.
    #[error(
        "the backup is damaged in the part that begins at byte {at}: {cause}; use another copy of it, or an older one"
    )]
    Damaged {
        /// Its offset in bytes.
        at: u64,
        /// What is wrong.
        cause: String,
    },
    /// It has a log of another format version.
    #[error(
        "the log in the backup has format {found}, this program reads format {known}; use the version that wrote it"
    )]
    Format {
        /// The format in the backup.
        found: u32,
        /// The format of this program.
        known: u32,
    },
    /// The directory has a log already.
    #[error("{path} contains a log already; use another directory, or move the log away")]
    HasLog {
        /// The directory.
        path: String,
    },
    /// The new log can't be written or read.
    #[error(transparent)]
    Log(#[from] super::LogError),
}

/// Reads and verifies a whole backup, and returns its head.
///
/// # Errors
/// When it is incomplete or corrupt.
pub fn check_backup(input: &mut dyn Read) -> Result<BackupHead, BackupError> {
    let (reader, head) = BackupReader::begin(input)?;
    reader.entries(|_, _, _| Ok(()))?;
    Ok(head)
}

/// Writes a backup.
pub(super) struct BackupWriter<'a> {
    output: &'a mut dyn Write,
    sealer: Sealer,
    hash: Xxh3,
    pending: Vec<u8>,
    keyspace: &'static str,
    entries: u64,
}

impl<'a> BackupWriter<'a> {
    pub(super) fn begin(output: &'a mut dyn Write, head: &BackupHead) -> io::Result<Self> {
        output.write_all(MAGIC)?;
        let mut writer = Self {
            output,
            sealer: Sealer::default(),
            hash: Xxh3::new(),
            pending: Vec::new(),
            keyspace: "",
            entries: 0,
        };
        let mut packed = head.format.to_be_bytes().to_vec();
        packed.extend_from_slice(&head.taken.millis().to_be_bytes());
        packed.extend_from_slice(&head.tail.0.to_be_bytes());
        writer.frame(HEAD, &packed)?;
        Ok(writer)
    }

    pub(super) fn entry(&mut self, keyspace: &'static str, key: &[u8], value: &[u8]) -> io::Result<()> {
        if self.keyspace != keyspace || self.pending.len() >= FRAME_BYTES {
            self.flush()?;
            self.keyspace = keyspace;
            put_bytes(&mut self.pending, keyspace.as_bytes());
        }
        put_bytes(&mut self.pending, key);
        put_bytes(&mut self.pending, value);
        self.entries += 1;
        Ok(())
    }

    /// Writes the trailer, and returns the number of entries.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        let mut packed = self.entries.to_be_bytes().to_vec();
        packed.extend_from_slice(&self.hash.digest128().to_be_bytes());
        self.frame(END, &packed)?;
        self.output.flush()?;
        Ok(self.entries)
    }

    fn flush(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() { Ok(()) } else { self.frame(ENTRIES, &pending) }
    }

    fn frame(&mut self, kind: u8, packed: &[u8]) -> io::Result<()> {
        let sealed = self.sealer.seal(|buffer| {
            buffer.extend_from_slice(packed);
            Ok(vec![kind])
        })?;
        let length = u32::try_from(sealed.len()).ok().filter(|length| *length <= LONGEST_FRAME);
        let length = length.ok_or_else(|| io::Error::other("an entry is too large for a backup"))?;
        self.hash.update(&sealed);
        self.output.write_all(&length.to_be_bytes())?;
        self.output.write_all(&sealed)
    }
}

/// Reads and verifies a backup.
pub(super) struct BackupReader<'a> {
    input: &'a mut dyn Read,
    unsealer: Unsealer,
    hash: Xxh3,
    at: u64,
}

impl<'a> BackupReader<'a> {
    pub(super) fn begin(input: &'a mut dyn Read) -> Result<(Self, BackupHead), BackupError> {
        let mut magic = Vec::new();
        input.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if magic != MAGIC {
            return Err(BackupError::Foreign);
        }
        let mut reader = Self { input, unsealer: Unsealer::default(), hash: Xxh3::new(), at: MAGIC.len() as u64 };
        let at = reader.at;
        let (kind, packed, _) = reader.frame()?;
        let mut fields = Fields(&packed);
        let mut head = || {
            let (format, taken, tail) = (fields.u32()?, fields.i64()?, fields.u64()?);
            Ok(BackupHead { format, taken: Time::from_millis(taken), tail: Seq(tail) })
        };
        match head() {
            Ok(head) if kind == HEAD => Ok((reader, head)),
            Ok(_) => Err(damaged(at, "it does not begin with a head")),
            Err(damage) => Err(damaged::<Damage>(at, damage)),
        }
    }

    /// Passes every entry to `take` (keyspace, key, value), and returns their number once the trailer has confirmed
    /// that none is missing.
    pub(super) fn entries(
        mut self,
        mut take: impl FnMut(&str, &[u8], &[u8]) -> Result<(), BackupError>,
    ) -> Result<u64, BackupError> {
        let mut entries = 0;
        loop {
            let at = self.at;
            let (kind, packed, before) = self.frame()?;
            let mut fields = Fields(&packed);
            match kind {
                ENTRIES => {
                    let keyspace = fields.text().map_err(|damage| damaged(at, damage))?;
                    while !fields.0.is_empty() {
                        let (key, value) = fields
                            .bytes()
                            .and_then(|key| Ok((key, fields.bytes()?)))
                            .map_err(|damage| damaged(at, damage))?;
                        take(keyspace, key, value)?;
                        entries += 1;
                    }
                }
                END => {
                    let told = fields.u64().map_err(|damage| damaged(at, damage))?;
                    if told != entries || fields.0 != before.to_be_bytes() {
                        return Err(damaged(at, "parts before it are missing or out of order"));
                    }
                    return Ok(entries);
                }
                other => return Err(damaged(at, format_args!("it is of the unknown kind {other}"))),
            }
        }
    }

    /// The next frame: its kind, its packed part, and the hash of the frames before it.
    fn frame(&mut self) -> Result<(u8, Vec<u8>, u128), BackupError> {
        let at = self.at;
        let length = self.take(4)?;
        let length = Fields(&length).u32().map_err(|damage| damaged(at, damage))?;
        if length > LONGEST_FRAME {
            return Err(damaged(at, "its length can't be"));
        }
        let sealed = self.take(length)?;
        let before = self.hash.digest128();
        self.hash.update(&sealed);
        let read = || Ok((*plain(&sealed, 1)?.first().ok_or(Damage::Short)?, self.unsealer.packed(&sealed, 1)?));
        let mut read = read;
        let (kind, packed) = read().map_err(|damage: Damage| damaged(at, damage))?;
        Ok((kind, packed, before))
    }

    fn take(&mut self, length: u32) -> Result<Vec<u8>, BackupError> {
        // Grows as bytes come, so that a length that is wrong costs no memory.
        let mut bytes = Vec::new();
        (&mut *self.input).take(u64::from(length)).read_to_end(&mut bytes)?;
        self.at += bytes.len() as u64;
        if bytes.len() as u64 == u64::from(length) { Ok(bytes) } else { Err(BackupError::Cut { at: self.at }) }
    }
}

fn damaged<D: ToString>(at: u64, cause: D) -> BackupError {
    BackupError::Damaged { at, cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> BackupHead {
        BackupHead { format: 1, taken: Time::from_millis(7), tail: Seq(9) }
    }

    type Entry = (usize, Vec<u8>, Vec<u8>);
    const KEYSPACES: [&str; 3] = ["assets", "events", "ids"];

    fn written(entries: &[Entry]) -> Vec<u8> {
        let mut output = Vec::new();
        let mut writer = BackupWriter::begin(&mut output, &head()).unwrap();
        for (keyspace, key, value) in entries {
            writer.entry(KEYSPACES[*keyspace], key, value).unwrap();
        }
        writer.finish().unwrap();
        output
    }

    fn read(mut bytes: &[u8]) -> Result<Vec<Entry>, BackupError> {
        let (reader, found) = BackupReader::begin(&mut bytes)?;
        assert_eq!(found, head());
        let mut found = Vec::new();
        reader.entries(|keyspace, key, value| {
            let keyspace = KEYSPACES.iter().position(|known| *known == keyspace).unwrap();
            found.push((keyspace, key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(found)
    }

    fn some_entries() -> impl Strategy<Value = Vec<Entry>> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
        prop::collection::vec((0..KEYSPACES.len(), bytes(20), bytes(2_000)), 0..20)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(entries in some_entries()) {
            prop_assert_eq!(read(&written(&entries)).unwrap(), entries);
        }

        #[test]
        fn no_flipped_bit_and_no_missing_byte_is_overlooked(
            entries in some_entries(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
        ) {
            let mut bytes = written(&entries);
            let at = at.index(bytes.len());
            prop_assert!(read(&bytes[..at]).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(read(&bytes).is_err());
        }
    }

    #[test]
    fn frames_that_are_missing_or_swapped_are_found() {
        let bytes = written(&[(0, vec![1], vec![1; 50]), (1, vec![2], vec![2; 50])]);
        let mut frames = Vec::new();
        let mut at = MAGIC.len();
        while at < bytes.len() {
            let length = 4 + u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            frames.push(&bytes[at..at + length]);
            at += length;
        }
        let put = |order: &[usize]| {
            order.iter().fold(MAGIC.to_vec(), |mut bytes, frame| {
                bytes.extend_from_slice(frames[*frame]);
                bytes
            })
        };
        read(&put(&[0, 1, 2, 3])).unwrap();
        for order in [&[0, 2, 1, 3][..], &[0, 1, 3], &[0, 1, 1, 2, 3], &[1, 2, 3]] {
            assert!(matches!(read(&put(order)), Err(BackupError::Damaged { .. })), "{order:?}");
        }
        assert!(matches!(read(&put(&[0, 1, 2])), Err(BackupError::Cut { .. })));
        assert!(matches!(read(b"something else that is long enough"), Err(BackupError::Foreign)));
    }
}
