//! Runs of events, framed once for every subscriber.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::cel::View;
use super::filter::Filter;
use super::projection::Projection;
use crate::log::{Block, LogError};
use crate::model::{Cursor, Epoch, EventHead, Seq};

/// Text that one segment aims to hold. A single block of the log may hold more.
pub(super) const SEGMENT_BYTES: usize = 256 * 1024;

/// Segments end where a page of this many positions ends, so that readers that began at different places soon ask for
/// the same segments.
const PAGE: u64 = 128;

/// What a subscriber gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/event-stream` (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
    Sse,
    /// One JSON object per line, `application/x-ndjson`.
    Ndjson,
}

/// Consecutive events. Each stands in `frames` as `id: <epoch>.<seq>\ndata: <json>\n\n`; its line of NDJSON is the
/// part of the frame from the JSON up to the first line break after it.
#[derive(Debug)]
pub(super) struct Segment {
    first: Seq,
    heads: Arc<[EventHead]>,
    frames: Bytes,
    spans: Vec<Span>,
}

/// Where a frame lies; it begins where the one before ends.
#[derive(Clone, Copy, Debug)]
struct Span {
    json: usize,
    end: usize,
}

/// What [`Segment::select`] found.
#[derive(Debug, Default)]
pub(super) struct Selected {
    /// Runs of adjacent matching frames.
    pub(super) runs: Vec<Bytes>,
    /// The matching events in them.
    pub(super) events: u64,
    /// The bytes in them.
    pub(super) bytes: usize,
    /// The last matching event.
    pub(super) last: Option<Seq>,
}

/// How much [`Segment::select`] may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) events: u64,
    pub(super) bytes: usize,
}

impl Segment {
    /// Frames the events of `blocks` that lie after a position, up to the end of a page; `None` when there are none.
    ///
    /// # Errors
    /// When a block has not as many lines as heads.
    pub(super) fn frame(epoch: Epoch, after: Seq, blocks: Vec<Block>) -> Result<Option<Self>, LogError> {
        let mut first = None;
        let mut heads = Vec::new();
        let mut frames = Frames::with_capacity(epoch, blocks.iter().map(|block| block.lines.len()).sum());
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
                    frames.push(seq, json);
                    heads.push(head);
                }
                seq = seq.next();
            }
            if lines.next().is_some() {
                return Err(broken(seq, "more lines than events"));
            }
        }
        Ok(first.map(|first| frames.into_segment(first, heads.into())))
    }

    /// The same events with some of their members only.
    pub(super) fn project(&self, epoch: Epoch, projection: &Projection) -> Self {
        let mut frames = Frames::with_capacity(epoch, self.frames.len() / 2);
        let mut seq = self.first;
        let mut json = Vec::new();
        for index in 0..self.spans.len() {
            let line = self.json(index);
            json.clear();
            match projection.apply(line, &mut json) {
                Ok(()) => frames.push(seq, &json),
                Err(error) => {
                    tracing::warn!(%seq, %error, "event is sent whole: it can't be read as JSON");
                    frames.push(seq, line);
                }
            }
            seq = seq.next();
        }
        frames.into_segment(self.first, Arc::clone(&self.heads))
    }

    /// The position of the first event.
    pub(super) fn first(&self) -> Seq {
        self.first
    }

    /// The position of the last event.
    pub(super) fn last(&self) -> Seq {
        Seq(self.first.0 + (self.spans.len() as u64).saturating_sub(1))
    }

    /// Bytes of memory, about.
    pub(super) fn weight(&self) -> usize {
        let heads: usize = self.heads.iter().map(head_weight).sum();
        self.frames.len() + heads + self.spans.len() * size_of::<Span>()
    }

    /// Bytes of text.
    pub(super) fn text_bytes(&self) -> usize {
        self.frames.len()
    }

    /// Whether an event after a position passes the filter.
    pub(super) fn any_after(&self, after: Seq, filter: &Filter) -> bool {
        let heads = self.heads.iter().enumerate().skip(self.index_after(after));
        heads.into_iter().any(|(index, head)| filter.matches(&View::new(head, self.json(index))))
    }

    /// Appends the matching events after a position to `selected`, as runs of the segment's own bytes, while there is
    /// room; one event is always taken, however long. Returns the position up to which it looked.
    pub(super) fn select(
        &self,
        after: Seq,
        filter: &Filter,
        format: Format,
        room: Room,
        selected: &mut Selected,
    ) -> Seq {
        let mut run: Range<usize> = 0..0;
        let mut scanned = after;
        let start = self.index_after(after);
        for (index, head) in self.heads.iter().enumerate().skip(start) {
            let seq = Seq(self.first.0 + index as u64);
            if filter.matches(&View::new(head, self.json(index))) {
                let range = self.range(index, format);
                let fits = selected.events == 0 || selected.bytes + range.len() <= room.bytes;
                if selected.events >= room.events || !fits {
                    break;
                }
                selected.events += 1;
                selected.bytes += range.len();
                selected.last = Some(seq);
                if run.end == range.start {
                    run.end = range.end;
                } else {
                    self.push_run(&run, selected);
                    run = range;
                }
            }
            scanned = seq;
        }
        self.push_run(&run, selected);
        scanned
    }

    fn push_run(&self, run: &Range<usize>, selected: &mut Selected) {
        if !run.is_empty() {
            selected.runs.push(self.frames.slice(run.clone()));
        }
    }

    fn index_after(&self, after: Seq) -> usize {
        usize::try_from(after.next().0.saturating_sub(self.first.0)).unwrap_or(usize::MAX)
    }

    fn json(&self, index: usize) -> &[u8] {
        let line = self.range(index, Format::Ndjson);
        self.frames.get(line.start..line.end.saturating_sub(1)).unwrap_or_default()
    }

    /// The bytes of an event; empty when there is no such event.
    fn range(&self, index: usize, format: Format) -> Range<usize> {
        let Some(span) = self.spans.get(index) else { return 0..0 };
        match format {
            Format::Sse => {
                let start = index.checked_sub(1).and_then(|before| self.spans.get(before)).map_or(0, |span| span.end);
                start..span.end
            }
            Format::Ndjson => span.json..span.end.saturating_sub(1),
        }
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
    LogError::Storage { action: "frame events", path: format!("the block at position {seq}"), cause: what.to_owned() }
}

/// Frames in the making.
struct Frames {
    epoch: Epoch,
    text: BytesMut,
    spans: Vec<Span>,
}

impl Frames {
    fn with_capacity(epoch: Epoch, bytes: usize) -> Self {
        Self { epoch, text: BytesMut::with_capacity(bytes + bytes / 32), spans: Vec::new() }
    }

    fn push(&mut self, seq: Seq, json: &[u8]) {
        // Writing into memory can't fail.
        let _ = write!(self.text, "id: {}\ndata: ", Cursor { epoch: self.epoch, seq });
        let start = self.text.len();
        self.text.extend_from_slice(json);
        // A carriage return ends a line of SSE. JSON allows it between tokens only, where a blank does as well.
        if memchr::memchr(b'\r', json).is_some()
            && let Some(written) = self.text.get_mut(start..)
        {
            for byte in written.iter_mut().filter(|byte| **byte == b'\r') {
                *byte = b' ';
            }
        }
        self.text.extend_from_slice(b"\n\n");
        self.spans.push(Span { json: start, end: self.text.len() });
    }

    fn into_segment(self, first: Seq, heads: Arc<[EventHead]>) -> Segment {
        Segment { first, heads, frames: self.text.freeze(), spans: self.spans }
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
    use crate::hub::testing::{block, event};

    const EPOCH: Epoch = Epoch(0xabc);
    const ALL: Room = Room { events: u64::MAX, bytes: usize::MAX };

    fn segment(first: u64, count: u64) -> Segment {
        Segment::frame(EPOCH, Seq(first - 1), vec![block(first, count)]).unwrap().unwrap()
    }

    #[test]
    fn one_buffer_serves_both_formats() {
        let segment = segment(7, 2);
        let json: Vec<String> = (7..9).map(|n| String::from_utf8(event(n).json.to_vec()).unwrap()).collect();
        let text = |format| {
            let mut selected = Selected::default();
            assert_eq!(segment.select(Seq(6), &Filter::default(), format, ALL, &mut selected), Seq(8));
            assert_eq!((selected.events, selected.last), (2, Some(Seq(8))));
            String::from_utf8(selected.runs.concat()).unwrap()
        };
        assert_eq!(text(Format::Sse), format!("id: abc.7\ndata: {}\n\nid: abc.8\ndata: {}\n\n", json[0], json[1]));
        assert_eq!(text(Format::Ndjson), format!("{}\n{}\n", json[0], json[1]));
    }

    #[test]
    fn adjacent_frames_are_one_run_and_room_is_kept() {
        let segment = segment(1, 10);
        let mut selected = Selected::default();
        segment.select(Seq(2), &Filter::default(), Format::Sse, ALL, &mut selected);
        assert_eq!((selected.runs.len(), selected.events), (1, 8));
        let mut selected = Selected::default();
        let room = Room { events: 3, bytes: usize::MAX };
        assert_eq!(segment.select(Seq(2), &Filter::default(), Format::Sse, room, &mut selected), Seq(5));
        let mut selected = Selected::default();
        let room = Room { events: u64::MAX, bytes: 1 };
        let scanned = segment.select(Seq(2), &Filter::default(), Format::Sse, room, &mut selected);
        assert_eq!((scanned, selected.events), (Seq(3), 1), "one event is always taken");
    }

    #[test]
    fn what_the_caller_has_is_skipped_and_pages_end_segments() {
        let blocks = vec![block(120, 5), block(125, 5), block(130, 5)];
        let segment = Segment::frame(EPOCH, Seq(122), blocks).unwrap().unwrap();
        assert_eq!((segment.first(), segment.last()), (Seq(123), Seq(129)));
        assert!(Segment::frame(EPOCH, Seq(9), vec![block(5, 5)]).unwrap().is_none());
    }

    #[test]
    fn a_carriage_return_between_tokens_does_not_break_the_frame() {
        let mut block = block(1, 1);
        block.lines = Bytes::from_static(b"{\"a\":\r1}\n");
        let segment = Segment::frame(EPOCH, Seq(0), vec![block]).unwrap().unwrap();
        assert_eq!(segment.frames, "id: abc.1\ndata: {\"a\": 1}\n\n");
    }

    #[test]
    fn lines_and_heads_must_agree() {
        for lines in ["", "{}\n{}\n"] {
            let mut block = block(1, 1);
            block.lines = Bytes::from_static(lines.as_bytes());
            assert!(Segment::frame(EPOCH, Seq(0), vec![block]).is_err(), "{lines:?}");
        }
    }
}
