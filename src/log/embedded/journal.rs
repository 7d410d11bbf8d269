//! The store's journals: what of them is not whole, and what a failed write leaves of them.
//!
//! Power may fail while a batch is on its way to disk, and leave some of its pages written and some not. Nobody was told
//! that such a batch is durable, so it goes. Each batch is on disk before the next is begun, so only the last can be
//! torn: where a whole one follows, the disk has lost something that it had. That is set aside and reported, and what
//! follows is kept: the events in it are a hole in the log, which is told as such when it is read.
//!
//! The store would do neither. It refuses to open, or takes what is damaged for the end, and says nothing.
//!
//! This knows the journal of fjall's disk format 3. A batch is a start (tag 1, number of items, sequence), its items
//! (tag 2, or 4 for a cleared keyspace), and an end (tag 3, XXH3-64 of the items, magic); numbers are little-endian.
//! Behind the last batch there may be the zeros of space that was set aside.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::log::codec::RESTORE;

const MAGIC: &[u8] = b"FJL\x03";
/// The largest plausible step between the sequences of two batches.
const FURTHEST: u64 = 1 << 40;
/// Bytes of a batch without items.
const SHORTEST: usize = 26;

/// A piece of a journal that is not a valid batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: usize,
    end: usize,
    /// Whether no valid batch follows.
    is_last: bool,
}

/// Removes from the journals everything that is not a valid batch. What the disk damaged, as opposed to an incomplete
/// last write, is copied to the folder `aside`.
pub(super) fn mend(store: &Path, aside: &Path) -> io::Result<()> {
    if !fs::read(store.join("version"))?.starts_with(MAGIC) {
        // Not of this format: the store says so.
        return Ok(());
    }
    let journals = journals(store)?;
    let newest = journals.last().map(|(number, _)| *number);
    let mut before = None;
    for (number, path) in journals {
        let content = fs::read(&path)?;
        let (pieces, sequences) = pieces(&content);
        // No checksum covers them, and a wrong one would put the old in the place of the new.
        for sequence in sequences {
            if before.is_some_and(|before| sequence <= before || sequence - before > FURTHEST) {
                let cause = format!("{}: the sequence {sequence} of a batch is damaged; {RESTORE}", path.display());
                return Err(io::Error::other(cause));
            }
            before = Some(sequence);
        }
        if pieces.is_empty() {
            continue;
        }
        for piece in &pieces {
            let bytes = content.get(piece.start..piece.end).unwrap_or_default();
            if piece.is_last && Some(number) == newest {
                tracing::warn!(path = %path.display(), bytes = bytes.len(), "an incomplete write is discarded");
                continue;
            }
            fs::create_dir_all(aside)?;
            let copy = aside.join(format!("{number}-{}.jnl", piece.start));
            write_synced(&copy, &[bytes])?;
            tracing::error!(
                path = %path.display(), bytes = bytes.len(), kept = %copy.display(),
                "part of the journal is damaged and was set aside; its events are lost, and subscribers receive a gap"
            );
        }
        replace(&path, &wholes(&content, &pieces))?;
    }
    File::open(store)?.sync_all()
}

/// Replaces every journal with a synced copy of itself.
pub(super) fn write_anew(store: &Path) -> io::Result<()> {
    for (_, path) in journals(store)? {
        let content = fs::read(&path)?;
        replace(&path, &[content.get(..written(&content)).unwrap_or_default()])?;
    }
    File::open(store)?.sync_all()
}

fn replace(path: &Path, content: &[&[u8]]) -> io::Result<()> {
    // A name that the store does not look at.
    let copy = path.with_extension("jnl.new");
    write_synced(&copy, content)?;
    fs::rename(copy, path)
}

fn write_synced(path: &Path, content: &[&[u8]]) -> io::Result<()> {
    let mut file = File::create(path)?;
    content.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

fn journals(store: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_suffix(".jnl").and_then(|number| number.parse::<u64>().ok());
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort_unstable();
    Ok(journals)
}

/// The length without trailing zeros.
fn written(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// The invalid pieces between and after valid batches, and the sequences of the batches.
fn pieces(content: &[u8]) -> (Vec<Piece>, Vec<u64>) {
    let mut sequences = Vec::new();
    let end = written(content);
    let (mut pieces, mut rest) = (Vec::new(), content.get(..end).unwrap_or_default());
    while !rest.is_empty() {
        let start = end - rest.len();
        let mut next = rest;
        if let Some(sequence) = batch(&mut next) {
            sequences.push(sequence);
            rest = next;
            continue;
        }
        let whole = next_whole(rest);
        pieces.push(Piece { start, end: whole.map_or(end, |at| start + at), is_last: whole.is_none() });
        rest = whole.and_then(|at| rest.get(at..)).unwrap_or_default();
    }
    (pieces, sequences)
}

/// The offset of the next valid batch after the start.
fn next_whole(content: &[u8]) -> Option<usize> {
    // Nothing ends behind the last magic, so that what is torn is searched to there only.
    let last = content.windows(MAGIC.len()).rposition(|bytes| bytes == MAGIC)?;
    let is_whole = |at: &usize| content.get(*at..).is_some_and(|mut rest| batch(&mut rest).is_some());
    (1..=last.saturating_sub(SHORTEST - MAGIC.len())).find(is_whole)
}

/// The content except for these pieces.
fn wholes<'a>(content: &'a [u8], pieces: &[Piece]) -> Vec<&'a [u8]> {
    let starts = std::iter::once(0).chain(pieces.iter().map(|piece| piece.end));
    let ends = pieces.iter().map(|piece| piece.start).chain([written(content)]);
    starts.zip(ends).filter_map(|(start, end)| content.get(start..end)).collect()
}

/// Consumes a batch and returns its sequence; `None` if there is no valid one at the front.
fn batch(rest: &mut &[u8]) -> Option<u64> {
    let [1] = take(rest)? else { return None };
    let items = u32::from_le_bytes(take(rest)?);
    let sequence = u64::from_le_bytes(take(rest)?);
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
    (checksum == xxh3_64(body)).then_some(sequence)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (front, back) = rest.split_first_chunk()?;
    *rest = back;
    Some(*front)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A batch with one item, as the store writes it.
    fn written_batch(key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut item = vec![2];
        item.extend_from_slice(&[0; 10]);
        item.extend_from_slice(&u16::try_from(key.len()).unwrap().to_le_bytes());
        item.extend_from_slice(&[0; 4]);
        item.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
        item.extend_from_slice(key);
        item.extend_from_slice(value);
        let mut bytes = vec![1, 1, 0, 0, 0];
        bytes.extend_from_slice(&7_u64.to_le_bytes());
        bytes.extend_from_slice(&item);
        bytes.push(3);
        bytes.extend_from_slice(&xxh3_64(&item).to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes
    }

    proptest! {
        #[test]
        fn one_damaged_byte_costs_one_batch(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6),
                                            at in any::<prop::sample::Index>(), bit in 0..8_u8, zeros in 0..50_usize) {
            let batches: Vec<Vec<u8>> = values.iter().map(|value| written_batch(b"key", value)).collect();
            let mut content = batches.concat();
            let at = at.index(content.len());
            // The sequence of a batch is not covered by its checksum.
            let mut start = 0;
            let hit = batches.iter().position(|batch| { start += batch.len(); at < start }).unwrap();
            let within = at - (start - batches[hit].len());
            prop_assume!(!(5..13).contains(&within));
            content[at] ^= 1 << bit;
            content.extend(std::iter::repeat_n(0, zeros));
            let (found, _) = pieces(&content);
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(found[0].is_last, hit + 1 == batches.len());
            let mut kept = batches.clone();
            kept.remove(hit);
            prop_assert_eq!(wholes(&content, &found).concat(), kept.concat());
        }

        #[test]
        fn what_is_whole_is_left_alone(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6)) {
            let content: Vec<u8> = values.iter().flat_map(|value| written_batch(b"key", value)).collect();
            prop_assert_eq!(pieces(&content), (vec![], vec![7; values.len()]));
        }

        #[test]
        fn no_bytes_upset_it(content in prop::collection::vec(any::<u8>(), 0..300)) {
            let (found, _) = pieces(&content);
            prop_assert!(found.iter().all(|piece| piece.start < piece.end && piece.end <= content.len()));
        }
    }
}
