//! Runs of events, encoded once for every subscriber.

mod chunks;
mod selected;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use self::chunks::{Chunks, Lines};
use self::selected::Run;
pub(crate) use self::selected::Selected;
pub(super) use self::selected::{Chunk, Progress};
use super::cel::View;
use super::compressed::Compressed;
use super::files::MemoryFile;
use super::matching::{Filters, InternedFilter, Matches};
use super::passing::Passing;
use super::projection::Projection;
use crate::log::{Block, LogError};
use crate::model::{Epoch, EventHead, Seq};

/// Target size of a segment's text in bytes. A single block of the log may be larger.
pub(super) const SEGMENT_BYTES: usize = 256 * 1024;

/// Segments end at multiples of this many positions, so that readers with different starting positions soon share
/// segments.
const PAGE: u64 = 128;

/// The output format of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `text/event-stream` (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
    Sse,
    /// One JSON object per line, `application/x-ndjson`.
    Ndjson,
}

/// The encoding of events, shared by all subscribers with the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Encoding {
    pub(super) format: Format,
    pub(super) projection: Option<Arc<Projection>>,
    /// Compressed with gzip.
    pub(super) gzip: bool,
}

impl Encoding {
    /// The encoding that the hub produces for each new event. Others are derived from it on demand.
    pub(super) const BASE: Self = Self { format: Format::Sse, projection: None, gzip: false };

    fn is_base(&self) -> bool {
        *self == Self::BASE
    }
}

/// Consecutive events in one encoding, in one buffer. Each is a chunk of an HTTP/1.1 response
/// (<https://www.rfc-editor.org/rfc/rfc9112#section-7.1>), so that any run of events is a slice that can be sent as is.
/// The text within the chunk is `id: <epoch>.<seq>\ndata: <json>\n\n`, or the JSON and a line break.
#[derive(Debug)]
pub(super) struct Segment {
    heads: Arc<Heads>,
    base: bool,
    chunks: Bytes,
    spans: Vec<Span>,
    /// The compressed pieces to send instead of the chunks, if the encoding is compressed.
    compressed: Option<Compressed>,
    /// The chunks once more.
    file: MemoryFile,
}

/// The heads of the events, shared by all encodings of a segment.
#[derive(Debug)]
pub(super) struct Heads {
    first: Seq,
    events: Vec<EventHead>,
    /// Set for new segments; those read back from the log have none.
    matches: OnceLock<Matches>,
}

/// The position of an event in the buffer; its chunk begins where the one before ends.
#[derive(Clone, Copy, Debug)]
struct Span {
    text: usize,
    json: usize,
    end: usize,
}

/// The end of a chunk.
const CHUNK_END: &[u8] = b"\r\n";

/// The most to select.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) events: u64,
    pub(super) bytes: usize,
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
    /// Encodes the events of `blocks` after a position, up to the end of a page; `None` if there are none.
    ///
    /// # Errors
    /// When the numbers of lines and heads in a block differ.
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

    /// The same events in another encoding. Only for segments in the [base](Encoding::BASE) encoding.
    pub(super) fn encode_as(&self, epoch: Epoch, encoding: &Encoding) -> Self {
        let plain = Encoding { gzip: false, ..encoding.clone() };
        let mut segment = if self.serves(&plain) { self.shared() } else { self.write_as(epoch, &plain) };
        if encoding.gzip {
            segment.compressed = Some(Compressed::of((0..segment.spans.len()).map(|index| segment.text(index).len())));
        }
        segment
    }

    /// Another segment over the same text.
    fn shared(&self) -> Self {
        let (heads, chunks, spans) = (Arc::clone(&self.heads), self.chunks.clone(), self.spans.clone());
        Self { heads, base: false, chunks, spans, compressed: None, file: MemoryFile::default() }
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

    /// The JSON of an event. Only for the [base](Encoding::BASE) encoding, where two line breaks follow it.
    fn json(&self, index: usize, span: &Span) -> &[u8] {
        self.chunks.get(span.json..self.text(index).end.saturating_sub(2)).unwrap_or_default()
    }

    /// The events as filters see them. Only for the [base](Encoding::BASE) encoding: others may lack members.
    fn views(&self) -> impl Iterator<Item = View<'_>> {
        let events = self.heads.events.iter().zip(self.spans.iter().enumerate());
        events.map(|(head, (index, span))| View::new(head, self.json(index, span)))
    }

    /// Evaluates the filters in use, once for all subscribers.
    pub(super) fn match_filters(&self, filters: &Filters) {
        let _ = self.heads.matches.set(filters.matches(self.views()));
    }

    /// The events that match a filter. Only for the [base](Encoding::BASE) encoding.
    pub(super) fn passing(&self, filter: &InternedFilter) -> Passing {
        if filter.passes_everything() {
            return Passing::All;
        }
        if let Some(passing) = self.heads.matches().and_then(|matches| matches.of(filter)) {
            return passing;
        }
        let passed = (0..).zip(self.views()).filter(|(_, event)| filter.passes(event)).map(|(index, _)| index);
        Passing::of(passed.collect(), self.spans.len())
    }

    /// Whether a matching event follows a position.
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

    /// Whether this segment has the encoding. One that is not the base was derived for its holder, so it always has.
    pub(super) fn serves(&self, encoding: &Encoding) -> bool {
        !self.base || encoding.is_base()
    }

    /// Approximate memory in bytes.
    pub(super) fn weight(&self) -> usize {
        let heads: usize = self.heads.events.iter().map(head_weight).sum();
        let matches = self.heads.matches().map_or(0, Matches::weight);
        self.chunks.len() + heads + self.spans.len() * size_of::<Span>() + matches
    }

    /// Approximate text in bytes.
    pub(super) fn text_bytes(&self) -> usize {
        self.chunks.len()
    }

    /// Appends the matching events after `selected.scanned` to `selected` while there is room. One event always fits,
    /// whatever its length.
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

    /// The same for compressed events: a whole block if all of it matches and fits, otherwise single events.
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

    /// Selects everything from an index on, if there is room; returns whether there was.
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

    /// The range of an event's chunk; empty if there is no such event.
    fn chunk(&self, index: usize) -> Range<usize> {
        let Some(span) = self.spans.get(index) else { return 0..0 };
        index.checked_sub(1).and_then(|before| self.spans.get(before)).map_or(0, |span| span.end)..span.end
    }

    /// The range of an event's text; empty if there is no such event.
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

#[cfg(test)]
mod tests;
