//! Segments in the making: lines of JSON become chunks.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::BytesMut;

use super::{CHUNK_END, Format, Heads, Segment, Span};
use crate::hub::files::MemoryFile;
use crate::model::{Cursor, Epoch, Seq};

/// A builder of encoded chunks.
pub(super) struct Chunks {
    epoch: Epoch,
    format: Format,
    bytes: BytesMut,
    spans: Vec<Span>,
    /// The text before the JSON; a reused buffer.
    prefix: String,
}

impl Chunks {
    pub(super) fn with_capacity(epoch: Epoch, format: Format, text: usize) -> Self {
        let bytes = BytesMut::with_capacity(text + text / 32);
        Self { epoch, format, bytes, spans: Vec::new(), prefix: String::new() }
    }

    pub(super) fn push(&mut self, seq: Seq, json: &[u8]) {
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

    pub(super) fn into_segment(self, heads: Arc<Heads>, base: bool) -> Segment {
        let (chunks, spans, file) = (self.bytes.freeze(), self.spans, MemoryFile::default());
        Segment { heads, base, chunks, spans, compressed: None, file }
    }
}

/// The lines of a block, without their line breaks.
pub(super) struct Lines<'a>(pub(super) &'a [u8]);

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
