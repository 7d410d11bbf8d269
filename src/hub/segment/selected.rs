//! Events on their way to a socket: slices of segments, and how far they were sent.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Segment;
use crate::hub::files::{FilePart, MemoryFiles};
use crate::hub::gzip::Checksum;
use crate::hub::passing::Passing;
use crate::model::Seq;

/// Events to send, from one or more segments.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    pub(super) runs: Vec<Run>,
    /// The number of events.
    pub(in crate::hub) events: u64,
    /// The length of their chunks in bytes.
    pub(in crate::hub) bytes: usize,
    /// The position up to which events were examined; none between the last selected one and this matches.
    pub(in crate::hub) scanned: Seq,
}

/// Adjacent events of a segment.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) segment: Arc<Segment>,
    pub(super) events: Range<usize>,
    /// The events of the segment that match.
    pub(super) passing: Passing,
    /// If the encoding is compressed, the piece with exactly these events.
    pub(super) piece: Option<Chunk>,
}

/// A piece of a compressed stream, as a chunk of an HTTP/1.1 response.
#[derive(Clone, Debug)]
pub(in crate::hub) struct Chunk {
    pub(in crate::hub) bytes: Bytes,
    /// The range of the piece within the chunk.
    pub(in crate::hub) piece: Range<usize>,
    pub(in crate::hub) sum: Checksum,
}

/// How much of the selection was sent.
#[derive(Debug)]
pub(in crate::hub) struct Progress {
    /// Events that were sent, the last one perhaps in part.
    pub(in crate::hub) events: u64,
    /// The last of them; `None` if nothing was sent.
    pub(in crate::hub) last: Option<Seq>,
    /// The unsent rest of it.
    pub(in crate::hub) rest: Bytes,
    /// The checksum of the texts of these events, if the encoding is compressed.
    pub(in crate::hub) sum: Checksum,
}

impl Selected {
    /// An empty selection after a position.
    pub(in crate::hub) fn after(position: Seq) -> Self {
        Self { runs: Vec::new(), events: 0, bytes: 0, scanned: position }
    }

    /// The last event.
    #[cfg(test)]
    pub(in crate::hub) fn last(&self) -> Option<Seq> {
        self.runs.last().map(|run| run.segment.seq(run.events.end.saturating_sub(1)))
    }

    /// The first run as part of its segment's file, if it is better sent from there.
    pub(in crate::hub) fn file_part(&self, files: &MemoryFiles) -> Option<FilePart> {
        let run = self.runs.first().filter(|run| run.piece.is_none())?;
        run.segment.file.part(files, &run.segment.chunks, run.bytes())
    }

    /// The chunks, as slices of the shared buffers, up to a run that is better sent from a file.
    pub(in crate::hub) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.runs.iter().take(1);
        let others = self.runs.iter().skip(1).take_while(|run| !run.segment.file.is_for(run.bytes().len()));
        first.chain(others).map(|run| match &run.piece {
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

    /// The segment with the first selected event after a position, and its matching events.
    pub(in crate::hub) fn segment_after(&self, position: Seq) -> Option<(Arc<Segment>, Passing)> {
        let run = self.runs.iter().find(|run| run.segment.last() > position)?;
        Some((Arc::clone(&run.segment), run.passing.clone()))
    }

    /// The progress after `sent` bytes of the chunks.
    pub(in crate::hub) fn progress(&self, mut sent: usize) -> Progress {
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

    pub(super) fn push(&mut self, segment: &Arc<Segment>, events: Range<usize>, passing: &Passing, bytes: usize) {
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

impl Run {
    fn bytes(&self) -> Range<usize> {
        let (segment, events) = (&self.segment, &self.events);
        segment.chunk(events.start).start..segment.chunk(events.end.saturating_sub(1)).end
    }
}
