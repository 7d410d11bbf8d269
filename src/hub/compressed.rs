//! The compressed form of a segment's events, made when the first subscriber wants it and shared by all.
//!
//! Events that follow one another are alike, so a block of them compresses far better than one. A subscriber that wants
//! all of a block gets the block; one that wants only some of its events gets those by themselves.

use std::ops::Range;
use std::sync::OnceLock;

use super::gzip::Piece;
use super::segment::Chunk;

/// Target size of a block's text in bytes: twice the window within which deflate can refer back. In tests a few events.
const BLOCK_BYTES: usize = if cfg!(test) { 3 * 1024 } else { 64 * 1024 };

#[derive(Debug)]
pub(super) struct Compressed {
    blocks: Vec<Block>,
    singles: Vec<OnceLock<Chunk>>,
}

#[derive(Debug)]
struct Block {
    events: Range<usize>,
    chunk: OnceLock<Chunk>,
}

impl Compressed {
    /// Assigns events of these lengths to blocks. Each block is compressed on first use.
    pub(super) fn of(lengths: impl ExactSizeIterator<Item = usize>) -> Self {
        let count = lengths.len();
        let (mut blocks, mut start, mut bytes) = (Vec::new(), 0, 0);
        for (index, length) in lengths.enumerate() {
            bytes += length;
            if bytes >= BLOCK_BYTES || index + 1 == count {
                blocks.push(Block { events: start..index + 1, chunk: OnceLock::new() });
                (start, bytes) = (index + 1, 0);
            }
        }
        Self { blocks, singles: std::iter::repeat_with(OnceLock::new).take(count).collect() }
    }

    /// The block that begins at an event, if one does.
    pub(super) fn block_at(&self, index: usize) -> Option<Range<usize>> {
        let at = self.blocks.binary_search_by_key(&index, |block| block.events.start).ok()?;
        self.blocks.get(at).map(|block| block.events.clone())
    }

    /// The chunk of a block or of a single event, compressed on first use.
    pub(super) fn chunk<'t>(&self, events: &Range<usize>, text: impl Fn(usize) -> &'t [u8]) -> Chunk {
        let make = || match events.len() {
            1 => compress(text(events.start)),
            _ => compress(&events.clone().flat_map(|index| text(index).iter().copied()).collect::<Vec<u8>>()),
        };
        let made = match events.len() {
            1 => self.singles.get(events.start),
            _ => {
                let at = self.blocks.binary_search_by_key(&events.start, |block| block.events.start);
                at.ok().and_then(|at| self.blocks.get(at)).map(|block| &block.chunk)
            }
        };
        made.map_or_else(make, |made| made.get_or_init(make).clone())
    }
}

fn compress(text: &[u8]) -> Chunk {
    let Piece { bytes, sum } = Piece::of(text);
    let head = format!("{:x}\r\n", bytes.len());
    let piece = head.len()..head.len() + bytes.len();
    Chunk { bytes: [head.as_bytes(), &bytes, b"\r\n"].concat().into(), piece, sum }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use crate::hub::gzip::{Checksum, HEADER, testing::decode, trailer};
    use crate::hub::passing::Passing;
    use crate::hub::segment::{Encoding, Format, Room, Segment, Selected};
    use crate::hub::testing::block;
    use crate::model::{Epoch, Seq};

    const EPOCH: Epoch = Epoch(0xabc);
    const ALL: Room = Room { events: u64::MAX, bytes: usize::MAX };

    fn segment(first: u64, count: u64) -> Arc<Segment> {
        Arc::new(Segment::encode(EPOCH, Seq(first - 1), vec![block(first, count)]).unwrap().unwrap())
    }

    fn compressed(segment: &Segment, format: Format) -> Arc<Segment> {
        Arc::new(segment.encode_as(EPOCH, &Encoding { format, projection: None, gzip: true }))
    }

    fn select(segment: &Arc<Segment>, after: u64, passing: &Passing, room: Room) -> Selected {
        let mut selected = Selected::after(Seq(after));
        segment.select(passing, room, &mut selected);
        selected
    }

    #[test]
    fn subscribers_share_blocks_and_the_events_of_others() {
        let gzip = compressed(&segment(1, 40), Format::Sse);
        let (one, other) = (select(&gzip, 0, &Passing::All, ALL), select(&gzip, 0, &Passing::All, ALL));
        let pieces = one.chunks().count();
        assert!((3..20).contains(&pieces), "{pieces} blocks");
        assert!(one.chunks().zip(other.chunks()).all(|(a, b)| a.as_ptr() == b.as_ptr()), "made once");
        assert!(one.bytes * 3 < segment(1, 40).text_bytes(), "{} bytes", one.bytes);
        // One that begins within the first block gets its events one by one, up to where the next block begins.
        let late = select(&gzip, 1, &Passing::All, ALL);
        assert_eq!(late.chunks().last().unwrap().as_ptr(), one.chunks().last().unwrap().as_ptr());
        assert_eq!((late.events, one.events), (39, 40));
        let some = Passing::Some([3, 5, 30].into());
        let (a, b) = (select(&gzip, 0, &some, ALL), select(&gzip, 4, &some, ALL));
        assert_eq!(a.chunks().nth(1).unwrap().as_ptr(), b.chunks().next().unwrap().as_ptr());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever position, events and portions are read, and wherever a write is cut off: decompressed, the stream
        /// is the one without gzip.
        #[test]
        fn what_is_decoded_is_what_is_not_compressed(
            count in 1..60_u64,
            after in 0..60_u64,
            passing in prop::option::of(prop::collection::btree_set(0..60_u32, 0..50)),
            ndjson in any::<bool>(),
            events in 1..40_u64,
            bytes in 1..4000_usize,
            cut in 0.0..1.0_f64,
        ) {
            let plain = segment(1, count);
            let format = if ndjson { Format::Ndjson } else { Format::Sse };
            let gzip = compressed(&plain, format);
            let plain = Arc::new(plain.encode_as(EPOCH, &Encoding { format, projection: None, gzip: false }));
            let passing = passing.map_or(Passing::All, |indexes| {
                Passing::Some(indexes.into_iter().filter(|index| u64::from(*index) < count).collect())
            });
            let after = after.min(count);
            let expected = select(&plain, after, &passing, ALL);
            let (mut stream, mut sum, mut got, mut position) = (HEADER.to_vec(), Checksum::EMPTY, 0, Seq(after));
            while position < plain.last() {
                let selected = select(&gzip, position.0, &passing, Room { events, bytes });
                prop_assert!(selected.events <= events);
                stream.extend_from_slice(&selected.text());
                sum = sum.then(selected.progress(selected.bytes).sum);
                got += selected.events;
                let whole = selected.chunks().collect::<Vec<_>>().concat();
                prop_assert_eq!(whole.len(), selected.bytes);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
                let sent = (whole.len() as f64 * cut) as usize;
                let progress = selected.progress(sent);
                let rest = select(&gzip, progress.last.unwrap_or(position).0, &passing, ALL);
                prop_assert!(rest.events + progress.events >= selected.events);
                prop_assert_eq!(&whole[sent..sent + progress.rest.len()], &progress.rest[..]);
                prop_assert!(selected.scanned > position);
                position = selected.scanned;
            }
            stream.extend_from_slice(&trailer(sum));
            prop_assert_eq!(got, expected.events);
            prop_assert_eq!(decode(&stream).unwrap(), expected.text());
        }
    }
}
