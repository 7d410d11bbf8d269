//! Runs of events, encoded once for every subscriber.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};

use super::cel::View;
use super::compressed::Compressed;
use super::gzip::Checksum;
use super::matching::{Filters, InternedFilter, Matches};
use super::projection::Projection;
use crate::log::{Block, LogError};
use crate::model::{Cursor, Epoch, EventHead, Seq};

/// Text that one segment aims to hold. A single block of the log may hold more.
pub(super) const SEGMENT_BYTES: usize = 256 * 1024;

/// Segments end where a page of this many positions ends, so that readers that began at different places soon ask for
/// the same segments.
const PAGE: u64 = 128;

/// What a subscriber gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `text/event-stream` (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
    Sse,
    /// One JSON object per line, `application/x-ndjson`.
    Ndjson,
}

/// The form of events that subscribers share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Encoding {
    pub(super) format: Format,
    pub(super) projection: Option<Arc<Projection>>,
    /// Compressed with gzip.
    pub(super) gzip: bool,
}

impl Encoding {
    /// What the hub makes of each new event. Other encodings are made of it when somebody asks.
    pub(super) const BASE: Self = Self { format: Format::Sse, projection: None, gzip: false };

    fn is_base(&self) -> bool {
        *self == Self::BASE
    }
}

/// Consecutive events in one encoding, in one buffer. Each stands there as a chunk of an HTTP/1.1 answer
/// (<https://www.rfc-editor.org/rfc/rfc9112#section-7.1>), so that any run of events is a slice that can be sent as it
/// is. The text within the chunk is `id: <epoch>.<seq>\ndata: <json>\n\n`, or the JSON and a line break.
#[derive(Debug)]
pub(super) struct Segment {
    heads: Arc<Heads>,
    base: bool,
    chunks: Bytes,
    spans: Vec<Span>,
    /// What is sent in the place of the chunks, where the encoding is compressed.
    compressed: Option<Compressed>,
}

/// What filters look at, shared by the encodings of a segment.
#[derive(Debug)]
pub(super) struct Heads {
    first: Seq,
    events: Vec<EventHead>,
    /// Made for new segments; those read back from the log have none.
    matches: OnceLock<Matches>,
}

/// Where an event lies; its chunk begins where the one before ends.
#[derive(Clone, Copy, Debug)]
struct Span {
    text: usize,
    json: usize,
    end: usize,
}

/// What ends a chunk.
const CHUNK_END: &[u8] = b"\r\n";

/// Events to be sent, out of one or more segments.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    runs: Vec<Run>,
    /// How many events there are.
    pub(super) events: u64,
    /// The bytes of their chunks.
    pub(super) bytes: usize,
    /// The position up to which events were looked at: there is nothing to send between the last one and this.
    pub(super) scanned: Seq,
}

/// Adjacent events of a segment.
#[derive(Clone, Debug)]
struct Run {
    segment: Arc<Segment>,
    events: Range<usize>,
    /// What of the segment is wanted.
    passing: Passing,
    /// Where the encoding is compressed: a piece with just these events.
    piece: Option<Chunk>,
}

/// A piece of a compressed stream, as a chunk of an HTTP/1.1 answer.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    /// Where the piece lies within.
    pub(super) piece: Range<usize>,
    pub(super) sum: Checksum,
}

/// How much of what was selected has been sent.
#[derive(Debug)]
pub(super) struct Progress {
    /// Events of which something was sent.
    pub(super) events: u64,
    /// The last of them; `None` when nothing was sent.
    pub(super) last: Option<Seq>,
    /// What is still to be sent of it.
    pub(super) rest: Bytes,
    /// That of the texts that were sent, where the encoding is compressed.
    pub(super) sum: Checksum,
}

/// Which events of a segment, in whatever encoding, a filter passes.
#[derive(Clone, Debug)]
pub(super) enum Passing {
    All,
    /// Their indexes, ascending.
    Some(Arc<[u32]>),
}

/// How much to select.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) events: u64,
    pub(super) bytes: usize,
}

impl Selected {
    /// Nothing yet.
    pub(super) fn after(position: Seq) -> Self {
        Self { runs: Vec::new(), events: 0, bytes: 0, scanned: position }
    }

    /// The last event.
    #[cfg(test)]
    pub(super) fn last(&self) -> Option<Seq> {
        self.runs.last().map(|run| run.segment.seq(run.events.end.saturating_sub(1)))
    }

    /// The chunks, as slices of the shared buffers.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.runs.iter().map(|run| match &run.piece {
            Some(chunk) => &chunk.bytes[..],
            None => run.segment.chunks.get(run.bytes()).unwrap_or_default(),
        })
    }

    /// The text without the chunks around it. A single event is not copied.
    pub(crate) fn text(&self) -> Bytes {
        if let [run] = &self.runs[..] {
            match &run.piece {
                Some(chunk) => return chunk.bytes.slice(chunk.piece.clone()),
                None if run.events.len() == 1 => return run.segment.chunks.slice(run.segment.text(run.events.start)),
                None => {}
            }
        }
        let mut text = BytesMut::with_capacity(self.bytes);
        for run in &self.runs {
            if let Some(chunk) = &run.piece {
                text.extend_from_slice(chunk.bytes.get(chunk.piece.clone()).unwrap_or_default());
                continue;
            }
            for index in run.events.clone() {
                text.extend_from_slice(run.segment.chunks.get(run.segment.text(index)).unwrap_or_default());
            }
        }
        text.freeze()
    }

    /// The segment of the first event after a position, and what of it was wanted.
    pub(super) fn segment_after(&self, position: Seq) -> Option<(Arc<Segment>, Passing)> {
        let run = self.runs.iter().find(|run| run.segment.last() > position)?;
        Some((Arc::clone(&run.segment), run.passing.clone()))
    }

    /// How far `sent` bytes of the chunks go.
    pub(super) fn progress(&self, mut sent: usize) -> Progress {
        let mut progress = Progress { events: 0, last: None, rest: Bytes::new(), sum: Checksum::EMPTY };
        for run in &self.runs {
            if sent == 0 {
                break;
            }
            let (segment, bytes) = (&run.segment, run.bytes());
            if let Some(chunk) = &run.piece {
                progress.events += run.events.len() as u64;
                progress.last = Some(segment.seq(run.events.end.saturating_sub(1)));
                progress.sum = progress.sum.then(chunk.sum);
                progress.rest = chunk.bytes.slice(sent.min(chunk.bytes.len())..);
                sent = sent.saturating_sub(chunk.bytes.len());
                continue;
            }
            if sent >= bytes.len() {
                sent -= bytes.len();
                progress.events += run.events.len() as u64;
                progress.last = Some(segment.seq(run.events.end.saturating_sub(1)));
                continue;
            }
            let reached = bytes.start + sent;
            // The event with the last byte that was sent.
            let index = segment.spans.partition_point(|span| span.end < reached);
            progress.events += (index + 1 - run.events.start) as u64;
            progress.last = Some(segment.seq(index));
            progress.rest = segment.chunks.slice(reached..segment.chunk(index).end);
            break;
        }
        progress
    }

    fn push(&mut self, segment: &Arc<Segment>, events: Range<usize>, passing: &Passing, bytes: usize) {
        self.events += events.len() as u64;
        self.bytes += bytes;
        match self.runs.last_mut() {
            Some(run)
                if run.piece.is_none() && Arc::ptr_eq(&run.segment, segment) && run.events.end == events.start =>
            {
                run.events.end = events.end;
            }
            _ => {
                let (segment, passing) = (Arc::clone(segment), passing.clone());
                self.runs.push(Run { segment, events, passing, piece: None });
            }
        }
    }
}

impl Passing {
    /// Whether each event of a range passes.
    fn covers(&self, events: &Range<usize>) -> bool {
        let Self::Some(indexes) = self else { return true };
        let at = indexes.partition_point(|index| (*index as usize) < events.start);
        // They are ascending: as many as the range is long, and the last where it ends.
        let last = events.len().checked_sub(1).and_then(|offset| indexes.get(at + offset));
        last.is_some_and(|last| *last as usize + 1 == events.end)
    }

    /// The first index from `start` on, of `count`.
    fn next(&self, start: usize, count: usize) -> Option<usize> {
        match self {
            Self::All => (start < count).then_some(start),
            Self::Some(indexes) => {
                let at = indexes.partition_point(|index| (*index as usize) < start);
                indexes.get(at).map(|index| *index as usize)
            }
        }
    }
}

impl Run {
    fn bytes(&self) -> Range<usize> {
        let (segment, events) = (&self.segment, &self.events);
        segment.chunk(events.start).start..segment.chunk(events.end.saturating_sub(1)).end
    }
}

impl Heads {
    /// The position of the first event.
    pub(super) fn first(&self) -> Seq {
        self.first
    }

    /// The position of the last event.
    pub(super) fn last(&self) -> Seq {
        Seq(self.first.0 + (self.events.len() as u64).saturating_sub(1))
    }

    pub(super) fn matches(&self) -> Option<&Matches> {
        self.matches.get()
    }

    fn index_after(&self, after: Seq) -> usize {
        usize::try_from(after.next().0.saturating_sub(self.first.0)).unwrap_or(usize::MAX)
    }
}

impl Segment {
    /// Encodes the events of `blocks` that lie after a position, up to the end of a page; `None` when there are none.
    ///
    /// # Errors
    /// When a block has not as many lines as heads.
    pub(super) fn encode(epoch: Epoch, after: Seq, blocks: Vec<Block>) -> Result<Option<Self>, LogError> {
        let mut first = None;
        let mut heads = Vec::new();
        let text = blocks.iter().map(|block| block.lines.len()).sum();
        let mut chunks = Chunks::with_capacity(epoch, Format::Sse, text);
        for block in blocks {
            let page = |seq: Seq| seq.0 / PAGE;
            if first.is_some_and(|first| page(first) != page(block.first)) {
                break;
            }
            let mut seq = block.first;
            let mut lines = Lines(&block.lines);
            for head in block.heads {
                let json = lines.next().ok_or_else(|| broken(seq, "fewer lines than events"))?;
                if seq > after {
                    first.get_or_insert(seq);
                    chunks.push(seq, json);
                    heads.push(head);
                }
                seq = seq.next();
            }
            if lines.next().is_some() {
                return Err(broken(seq, "more lines than events"));
            }
        }
        Ok(first.map(|first| {
            let heads = Heads { first, events: heads, matches: OnceLock::new() };
            chunks.into_segment(Arc::new(heads), true)
        }))
    }

    /// The same events in another encoding. Only of the [base](Encoding::BASE).
    pub(super) fn encode_as(&self, epoch: Epoch, encoding: &Encoding) -> Self {
        let plain = Encoding { gzip: false, ..encoding.clone() };
        let mut segment = if self.serves(&plain) { self.shared() } else { self.write_as(epoch, &plain) };
        if encoding.gzip {
            segment.compressed = Some(Compressed::of((0..segment.spans.len()).map(|index| segment.text(index).len())));
        }
        segment
    }

    /// Another one over the same text.
    fn shared(&self) -> Self {
        let (heads, chunks, spans) = (Arc::clone(&self.heads), self.chunks.clone(), self.spans.clone());
        Self { heads, base: false, chunks, spans, compressed: None }
    }

    fn write_as(&self, epoch: Epoch, encoding: &Encoding) -> Self {
        let mut chunks = Chunks::with_capacity(epoch, encoding.format, self.chunks.len() / 2);
        let mut projected = Vec::new();
        for (index, span) in self.spans.iter().enumerate() {
            let seq = self.seq(index);
            let json = self.json(index, span);
            let Some(projection) = &encoding.projection else {
                chunks.push(seq, json);
                continue;
            };
            projected.clear();
            match projection.apply(json, &mut projected) {
                Ok(()) => chunks.push(seq, &projected),
                Err(error) => {
                    tracing::warn!(%seq, %error, "event is sent whole: it can't be read as JSON");
                    chunks.push(seq, json);
                }
            }
        }
        chunks.into_segment(Arc::clone(&self.heads), false)
    }

    /// The JSON of an event. Only of the [base](Encoding::BASE), where two line breaks follow it.
    fn json(&self, index: usize, span: &Span) -> &[u8] {
        self.chunks.get(span.json..self.text(index).end.saturating_sub(2)).unwrap_or_default()
    }

    /// The events as filters look at them. Only of the [base](Encoding::BASE): other encodings have not all of them.
    fn views(&self) -> impl Iterator<Item = View<'_>> {
        let events = self.heads.events.iter().zip(self.spans.iter().enumerate());
        events.map(|(head, (index, span))| View::new(head, self.json(index, span)))
    }

    /// Asks the filters in use which of the events they pass, once for all subscribers.
    pub(super) fn match_filters(&self, filters: &Filters) {
        let _ = self.heads.matches.set(filters.matches(self.views()));
    }

    /// What a filter passes. Only of the [base](Encoding::BASE).
    pub(super) fn passing(&self, filter: &InternedFilter) -> Passing {
        if filter.passes_everything() {
            return Passing::All;
        }
        if let Some(passed) = self.heads.matches().and_then(|matches| matches.of(filter)) {
            return Passing::Some(passed);
        }
        let passed = (0..).zip(self.views()).filter(|(_, event)| filter.passes(event)).map(|(index, _)| index);
        Passing::Some(passed.collect())
    }

    /// Whether there is an event after a position among those that pass.
    pub(super) fn any_after(&self, after: Seq, passing: &Passing) -> bool {
        passing.next(self.heads.index_after(after), self.spans.len()).is_some()
    }

    pub(super) fn heads(&self) -> &Heads {
        &self.heads
    }

    /// The position of the first event.
    pub(super) fn first(&self) -> Seq {
        self.heads.first()
    }

    /// The position of the last event.
    pub(super) fn last(&self) -> Seq {
        self.heads.last()
    }

    /// Whether subscribers of the encoding can be sent this. A segment that is not the base was made for who has it.
    pub(super) fn serves(&self, encoding: &Encoding) -> bool {
        !self.base || encoding.is_base()
    }

    /// Bytes of memory, about.
    pub(super) fn weight(&self) -> usize {
        let heads: usize = self.heads.events.iter().map(head_weight).sum();
        let matches = self.heads.matches().map_or(0, Matches::weight);
        self.chunks.len() + heads + self.spans.len() * size_of::<Span>() + matches
    }

    /// Bytes of text, about.
    pub(super) fn text_bytes(&self) -> usize {
        self.chunks.len()
    }

    /// Appends the events after `selected.scanned` that pass to `selected`, while there is room; one event is always
    /// taken, however long.
    pub(super) fn select(self: &Arc<Self>, passing: &Passing, room: Room, selected: &mut Selected) {
        let mut start = self.heads.index_after(selected.scanned);
        if let Some(compressed) = &self.compressed {
            return self.select_pieces(compressed, passing, room, selected);
        }
        if matches!(passing, Passing::All) && self.select_rest(start, room, selected) {
            return;
        }
        while let Some(index) = passing.next(start, self.spans.len()) {
            let bytes = self.chunk(index).len();
            let fits = selected.events == 0 || selected.bytes + bytes <= room.bytes;
            if selected.events >= room.events || !fits {
                // What was passed over before it was looked at all the same.
                selected.scanned = Seq(self.seq(index).0 - 1);
                return;
            }
            selected.push(self, index..index + 1, passing, bytes);
            start = index + 1;
        }
        selected.scanned = self.last();
    }

    /// The same, of compressed events: in pieces of several where the subscriber wants all of one.
    fn select_pieces(
        self: &Arc<Self>,
        compressed: &Compressed,
        passing: &Passing,
        room: Room,
        selected: &mut Selected,
    ) {
        let mut start = self.heads.index_after(selected.scanned);
        while let Some(index) = passing.next(start, self.spans.len()) {
            let left = room.events - selected.events.min(room.events);
            let block = compressed.block_at(index).filter(|block| block.len() as u64 <= left && passing.covers(block));
            let events = block.unwrap_or(index..index + 1);
            let text = |index| self.chunks.get(self.text(index)).unwrap_or_default();
            let chunk = compressed.chunk(&events, text);
            let fits = selected.events == 0 || selected.bytes + chunk.bytes.len() <= room.bytes;
            if left == 0 || !fits {
                selected.scanned = Seq(self.seq(index).0 - 1);
                return;
            }
            selected.events += events.len() as u64;
            selected.bytes += chunk.bytes.len();
            start = events.end;
            let (segment, passing) = (Arc::clone(self), passing.clone());
            selected.runs.push(Run { segment, events, passing, piece: Some(chunk) });
        }
        selected.scanned = self.last();
    }

    /// Takes all from an index on, if there is room.
    fn select_rest(self: &Arc<Self>, start: usize, room: Room, selected: &mut Selected) -> bool {
        let rest = start..self.spans.len();
        let bytes = self.chunks.len().saturating_sub(self.chunk(start).start);
        let fits = selected.bytes + bytes <= room.bytes && rest.len() as u64 <= room.events - selected.events;
        if fits && !rest.is_empty() {
            selected.push(self, rest, &Passing::All, bytes);
            selected.scanned = self.last();
        }
        fits
    }

    fn seq(&self, index: usize) -> Seq {
        Seq(self.first().0 + index as u64)
    }

    /// The bytes of an event's chunk; empty when there is no such event.
    fn chunk(&self, index: usize) -> Range<usize> {
        let Some(span) = self.spans.get(index) else { return 0..0 };
        index.checked_sub(1).and_then(|before| self.spans.get(before)).map_or(0, |span| span.end)..span.end
    }

    /// The bytes of an event's text; empty when there is no such event.
    fn text(&self, index: usize) -> Range<usize> {
        self.spans.get(index).map_or(0..0, |span| span.text..span.end.saturating_sub(CHUNK_END.len()))
    }
}

fn head_weight(head: &EventHead) -> usize {
    let principals: usize = head.principals.iter().map(|text| text.len() + size_of::<String>()).sum();
    size_of::<EventHead>()
        + principals
        + head.asset.as_str().len()
        + [&head.id, &head.asset_type, &head.provider, &head.account, &head.region, &head.method]
            .iter()
            .map(|text| text.len())
            .sum::<usize>()
}

fn broken(seq: Seq, what: &str) -> LogError {
    LogError::Storage { action: "encode events", path: format!("the block at position {seq}"), cause: what.to_owned() }
}

/// Chunks in the making.
struct Chunks {
    epoch: Epoch,
    format: Format,
    bytes: BytesMut,
    spans: Vec<Span>,
    /// What stands before the JSON; kept for its memory.
    prefix: String,
}

impl Chunks {
    fn with_capacity(epoch: Epoch, format: Format, text: usize) -> Self {
        let bytes = BytesMut::with_capacity(text + text / 32);
        Self { epoch, format, bytes, spans: Vec::new(), prefix: String::new() }
    }

    fn push(&mut self, seq: Seq, json: &[u8]) {
        self.prefix.clear();
        let suffix: &[u8] = match self.format {
            Format::Sse => {
                // Writing into memory can't fail.
                let _ = write!(self.prefix, "id: {}\ndata: ", Cursor { epoch: self.epoch, seq });
                b"\n\n"
            }
            Format::Ndjson => b"\n",
        };
        let _ = write!(self.bytes, "{:x}\r\n", self.prefix.len() + json.len() + suffix.len());
        let text = self.bytes.len();
        self.bytes.extend_from_slice(self.prefix.as_bytes());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(json);
        // A carriage return ends a line of SSE. JSON allows it between tokens only, where a blank does as well.
        if memchr::memchr(b'\r', json).is_some()
            && let Some(written) = self.bytes.get_mut(start..)
        {
            for byte in written.iter_mut().filter(|byte| **byte == b'\r') {
                *byte = b' ';
            }
        }
        self.bytes.extend_from_slice(suffix);
        self.bytes.extend_from_slice(CHUNK_END);
        self.spans.push(Span { text, json: start, end: self.bytes.len() });
    }

    fn into_segment(self, heads: Arc<Heads>, base: bool) -> Segment {
        Segment { heads, base, chunks: self.bytes.freeze(), spans: self.spans, compressed: None }
    }
}

/// The lines of a block, without their line breaks.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', self.0).unwrap_or(self.0.len());
        let line = self.0.get(..end)?;
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::filter::Filter;
    use crate::hub::matching::Filters;
    use crate::hub::testing::{block, event};
    use proptest::prelude::*;

    const EPOCH: Epoch = Epoch(0xabc);
    const ALL: Room = Room { events: u64::MAX, bytes: usize::MAX };
    const NDJSON: Encoding = Encoding { format: Format::Ndjson, projection: None, gzip: false };

    fn segment(first: u64, count: u64) -> Arc<Segment> {
        Arc::new(Segment::encode(EPOCH, Seq(first - 1), vec![block(first, count)]).unwrap().unwrap())
    }

    fn everything() -> InternedFilter {
        Filters::default().intern(Filter::default())
    }

    fn creates() -> InternedFilter {
        let parse = |name| (name == "type").then(|| "create".to_owned());
        Filters::default().intern(Filter::parse("p", parse).unwrap())
    }

    fn select(segment: &Arc<Segment>, after: u64, filter: &InternedFilter, room: Room) -> Selected {
        let mut selected = Selected::after(Seq(after));
        let passing = if segment.base { segment.passing(filter) } else { Passing::All };
        segment.select(&passing, room, &mut selected);
        selected
    }

    /// What a client makes of chunks.
    fn unchunked(mut bytes: &[u8]) -> String {
        let mut text = String::new();
        while !bytes.is_empty() {
            let head = memchr::memmem::find(bytes, b"\r\n").unwrap();
            let length = usize::from_str_radix(std::str::from_utf8(&bytes[..head]).unwrap(), 16).unwrap();
            let body = &bytes[head + 2..];
            text.push_str(std::str::from_utf8(&body[..length]).unwrap());
            assert_eq!(&body[length..length + 2], b"\r\n");
            bytes = &body[length + 2..];
        }
        text
    }

    #[test]
    fn chunks_and_text_are_the_same_events() {
        let sse = segment(7, 2);
        let ndjson = Arc::new(sse.encode_as(EPOCH, &NDJSON));
        let json: Vec<String> = (7..9).map(|n| String::from_utf8(event(n).json.to_vec()).unwrap()).collect();
        for (segment, expected) in [
            (&sse, format!("id: abc.7\ndata: {}\n\nid: abc.8\ndata: {}\n\n", json[0], json[1])),
            (&ndjson, format!("{}\n{}\n", json[0], json[1])),
        ] {
            let selected = select(segment, 6, &everything(), ALL);
            assert_eq!((selected.events, selected.last(), selected.scanned), (2, Some(Seq(8)), Seq(8)));
            assert_eq!(selected.text(), expected);
            let chunks: Vec<&[u8]> = selected.chunks().collect();
            assert_eq!((chunks.len(), chunks[0].len()), (1, selected.bytes), "adjacent events are one slice");
            assert_eq!(unchunked(chunks[0]), expected);
            assert_eq!(select(segment, 7, &everything(), ALL).text(), expected[expected.len() / 2..]);
        }
    }

    #[test]
    fn room_is_kept_and_what_was_passed_over_is_not_looked_at_again() {
        let segment = segment(1, 10);
        let room = Room { events: 3, bytes: usize::MAX };
        assert_eq!(select(&segment, 2, &everything(), room).scanned, Seq(5));
        let room = Room { events: u64::MAX, bytes: 1 };
        let one = select(&segment, 2, &everything(), room);
        assert_eq!((one.scanned, one.events), (Seq(3), 1), "one event is always taken");
        let create = select(&segment, 0, &creates(), room);
        assert_eq!((create.scanned, create.events, create.last()), (Seq(5), 1, Some(Seq(3))), "the next is 6");
        let rest = select(&segment, 9, &creates(), ALL);
        assert_eq!((rest.scanned, rest.events), (Seq(10), 0));
    }

    #[test]
    fn matches_made_before_give_what_the_filter_gives() {
        let filters = Filters::default();
        let parse = |name| (name == "type").then(|| "create".to_owned());
        let filter = filters.intern(Filter::parse("p", parse).unwrap());
        let (plain, matched) = (segment(1, 10), segment(1, 10));
        matched.match_filters(&filters);
        for after in 0..=10 {
            let (a, b) = (select(&plain, after, &filter, ALL), select(&matched, after, &filter, ALL));
            assert_eq!((a.text(), a.scanned), (b.text(), b.scanned));
            assert_eq!(matched.any_after(Seq(after), &matched.passing(&filter)), a.events > 0);
        }
    }

    #[test]
    fn what_the_caller_has_is_skipped_and_pages_end_segments() {
        let blocks = vec![block(120, 5), block(125, 5), block(130, 5)];
        let segment = Segment::encode(EPOCH, Seq(122), blocks).unwrap().unwrap();
        assert_eq!((segment.first(), segment.last()), (Seq(123), Seq(129)));
        assert!(Segment::encode(EPOCH, Seq(9), vec![block(5, 5)]).unwrap().is_none());
    }

    #[test]
    fn a_carriage_return_between_tokens_does_not_break_the_frame() {
        let mut block = block(1, 1);
        block.lines = Bytes::from_static(b"{\"a\":\r1}\n");
        let segment = Segment::encode(EPOCH, Seq(0), vec![block]).unwrap().unwrap();
        assert_eq!(segment.chunks, "1a\r\nid: abc.1\ndata: {\"a\": 1}\n\n\r\n");
    }

    #[test]
    fn lines_and_heads_must_agree() {
        for lines in ["", "{}\n{}\n"] {
            let mut block = block(1, 1);
            block.lines = Bytes::from_static(lines.as_bytes());
            assert!(Segment::encode(EPOCH, Seq(0), vec![block]).is_err(), "{lines:?}");
        }
    }

    proptest! {
        /// However a write is cut off: what went out, the rest of the event it was cut in, and what is selected
        /// after it are together what was selected.
        #[test]
        fn a_write_that_is_cut_off_goes_on_where_it_was(filtered in any::<bool>(), cut in 0.0..=1.0_f64) {
            let filter = if filtered { creates() } else { everything() };
            let segments = [segment(1, 7), segment(8, 4), segment(12, 9)];
            let select = |after: Seq| {
                let mut selected = Selected::after(after);
                for segment in segments.iter().filter(|segment| segment.last() > after) {
                    segment.select(&segment.passing(&filter), ALL, &mut selected);
                }
                selected
            };
            let selected = select(Seq(0));
            let whole = selected.chunks().collect::<Vec<_>>().concat();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let sent = (whole.len() as f64 * cut) as usize;
            let progress = selected.progress(sent);
            let after = select(progress.last.unwrap_or(Seq(0)));
            prop_assert_eq!(progress.events + after.events, selected.events);
            let mut got = whole[..sent].to_vec();
            got.extend_from_slice(&progress.rest);
            got.extend(after.chunks().collect::<Vec<_>>().concat());
            prop_assert_eq!(got, whole);
        }
    }
}
