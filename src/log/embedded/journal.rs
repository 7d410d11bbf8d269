//! The torn end of the store's journal.
//!
//! Power may fail while a batch is on its way to disk, and leave some of its pages written and some not. The store
//! discards a batch whose end is missing, but refuses to open when the end was written and something in the middle
//! was not. Nobody was told that such a batch is durable, so it goes as well. Each batch is on disk before the next
//! is begun, so only the last can be torn: where a whole one follows, the disk has failed, and that is not ours to
//! mend.
//!
//! This knows the journal of fjall's disk format 3. A batch is a start (tag 1, number of items, sequence), its items
//! (tag 2, or 4 for a cleared keyspace), and an end (tag 3, XXH3-64 of the items, magic); numbers are little-endian.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8] = b"FJL\x03";

/// Cuts a torn batch off the newest journal. Whether there was one.
pub(super) fn discard_torn_end(store: &Path) -> io::Result<bool> {
    let Some(path) = newest(store)? else { return Ok(false) };
    let content = fs::read(&path)?;
    let Some(end) = torn_from(&content) else { return Ok(false) };
    let journal = OpenOptions::new().write(true).open(&path)?;
    journal.set_len(end as u64)?;
    journal.sync_all()?;
    tracing::warn!(path = %path.display(), "a write that a power failure cut short is discarded");
    Ok(true)
}

fn newest(store: &Path) -> io::Result<Option<PathBuf>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_suffix(".jnl").and_then(|number| number.parse::<u64>().ok());
        journals.extend(number.map(|number| (number, path)));
    }
    Ok(journals.into_iter().max().map(|(_, path)| path))
}

/// Where the batch begins whose checksum does not hold, if it is the last.
fn torn_from(content: &[u8]) -> Option<usize> {
    let mut rest = content;
    loop {
        let start = content.len() - rest.len();
        let holds = batch(&mut rest)?;
        if !holds {
            return batch(&mut rest).is_none().then_some(start);
        }
    }
}

/// Takes a batch off the front: whether its checksum holds. Nothing when there is none that is whole in form.
fn batch(rest: &mut &[u8]) -> Option<bool> {
    let [1] = take(rest)? else { return None };
    let items = u32::from_le_bytes(take(rest)?);
    let _sequence: [u8; 8] = take(rest)?;
    let body = *rest;
    for _ in 0..items {
        match take(rest)? {
            [2] => {
                // Kind, compression and keyspace; then the lengths of the key, of the value, and of it as stored.
                let _: [u8; 10] = take(rest)?;
                let key = usize::from(u16::from_le_bytes(take(rest)?));
                let _: [u8; 4] = take(rest)?;
                let value = usize::try_from(u32::from_le_bytes(take(rest)?)).ok()?;
                *rest = rest.get(key.checked_add(value)?..)?;
            }
            [4] => {
                let _: [u8; 8] = take(rest)?;
            }
            [_] => return None,
        }
    }
    let body = body.get(..body.len() - rest.len())?;
    let [3] = take(rest)? else { return None };
    let checksum = u64::from_le_bytes(take(rest)?);
    *rest = rest.strip_prefix(MAGIC)?;
    Some(checksum == xxh3_64(body))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (front, back) = rest.split_first_chunk()?;
    *rest = back;
    Some(*front)
}
