//! What stands on the wire between the events, and what is counted of a stream, whichever door it leaves by.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::gzip::{self, Checksum, Piece};
use super::reader::{ClosingReason, Gap, GapReason, Notice};
use super::segment::Format;
use crate::metrics::Metrics;

/// Sent at once, so that proxies forward the head and EventSource opens. No blank line, which would dispatch an event.
const OPENING: Bytes = Bytes::from_static(b"retry: 2000\n: catchment\n");
/// A comment alone. Some clients would take a blank line after it for an empty event.
const SSE_HEARTBEAT: Bytes = Bytes::from_static(b": hb\n");
/// Only if requested by `heartbeat`, since not every NDJSON parser skips blank lines.
const NDJSON_HEARTBEAT: Bytes = Bytes::from_static(b"\n");

/// The response must be cut off without HTTP's proper end: NDJSON has no way to report a gap or a failure, and must not
/// look complete.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CutOff(String);

/// Encodes notices for a stream.
#[derive(Clone, Debug)]
pub struct Wire {
    format: Format,
    bounded: bool,
    /// The checksum of everything sent, if the stream is compressed.
    gzip: Option<Checksum>,
}

impl Wire {
    /// The encoder for a stream. `bounded`: the stream ends by itself. `gzip`: it is compressed.
    #[must_use]
    pub fn new(format: Format, bounded: bool, gzip: bool) -> Self {
        Self { format, bounded, gzip: gzip.then_some(Checksum::EMPTY) }
    }

    /// The first bytes of a stream.
    #[must_use]
    pub fn opening(&mut self) -> Option<Bytes> {
        let opening = (self.format == Format::Sse).then_some(OPENING);
        if self.gzip.is_none() {
            return opening;
        }
        let opening = self.compress(opening).unwrap_or_default();
        Some([&gzip::HEADER[..], &opening].concat().into())
    }

    /// Records that events with this checksum were sent.
    pub fn sent(&mut self, sum: Checksum) {
        self.gzip = self.gzip.map(|before| before.then(sum));
    }

    fn compress(&mut self, text: Option<Bytes>) -> Option<Bytes> {
        let (Some(before), Some(plain)) = (self.gzip, &text) else { return text };
        let piece = Piece::of(plain);
        self.gzip = Some(before.then(piece.sum));
        Some(piece.bytes)
    }

    /// The bytes for a notice; `None` if it is not sent in this format.
    ///
    /// # Errors
    /// When the format can't express the notice and the stream must not look complete.
    pub fn notice(&mut self, notice: &Notice) -> Result<Option<Bytes>, CutOff> {
        let text = self.text(notice)?;
        let sent = self.compress(text);
        match (notice, self.gzip) {
            (Notice::Closing(..), Some(sum)) => {
                Ok(Some([&sent.unwrap_or_default()[..], &gzip::trailer(sum)].concat().into()))
            }
            _ => Ok(sent),
        }
    }

    fn text(&self, notice: &Notice) -> Result<Option<Bytes>, CutOff> {
        match (self.format, notice) {
            (Format::Sse, Notice::Heartbeat) => Ok(Some(SSE_HEARTBEAT)),
            (Format::Sse, Notice::CaughtUp(cursor)) => {
                Ok(Some(format!("id: {cursor}\nevent: caught-up\ndata: {{\"cursor\":\"{cursor}\"}}\n\n").into()))
            }
            (Format::Sse, Notice::Gap(gap)) => Ok(Some(gap_frame(gap))),
            (Format::Sse, Notice::Closing(cursor, reason)) => {
                let reason = match reason {
                    ClosingReason::Complete => "complete",
                    ClosingReason::Shutdown => "shutdown",
                    ClosingReason::Unauthorized => "unauthorized",
                    ClosingReason::Failed(_) => "error",
                };
                let data = format!(r#"{{"cursor":"{cursor}","reason":"{reason}"}}"#);
                Ok(Some(format!("id: {cursor}\nevent: closing\nretry: 2000\ndata: {data}\n\n").into()))
            }
            (Format::Ndjson, Notice::Heartbeat) => Ok(Some(NDJSON_HEARTBEAT)),
            (Format::Ndjson, Notice::CaughtUp(_) | Notice::Closing(_, ClosingReason::Complete)) => Ok(None),
            (Format::Ndjson, Notice::Closing(_, ClosingReason::Shutdown)) if !self.bounded => Ok(None),
            (Format::Ndjson, Notice::Closing(_, ClosingReason::Shutdown)) => {
                Err(CutOff("the server stops before the read is complete".to_owned()))
            }
            (Format::Ndjson, Notice::Closing(_, ClosingReason::Unauthorized)) => {
                Err(CutOff("the credential was revoked or has expired".to_owned()))
            }
            (Format::Ndjson, Notice::Closing(_, ClosingReason::Failed(error))) => Err(CutOff(error.to_string())),
            (Format::Ndjson, Notice::Gap(Gap { to, reason: GapReason::Damage, .. })) => {
                Err(CutOff(format!("events up to {to} are damaged; go on with after={to}")))
            }
            (Format::Ndjson, Notice::Gap(_)) => {
                Err(CutOff("retention dropped events before they were sent".to_owned()))
            }
        }
    }
}

/// SSE notices have an `event:` field, so that `onmessage` does not receive them, and an `id:`, so that a client that
/// reconnects resumes there.
fn gap_frame(Gap { from, to, reason }: &Gap) -> Bytes {
    let reason = match reason {
        GapReason::Retention => "retention",
        GapReason::Epoch => "epoch",
        GapReason::Damage => "damage",
    };
    let data = format!(r#"{{"from":"{from}","to":"{to}","reason":"{reason}"}}"#);
    format!("id: {to}\nevent: gap\ndata: {data}\n\n").into()
}

/// Counts a stream while it is open, and holds its slots: among all streams, and among those of its credential.
#[derive(Debug)]
pub struct OpenStream {
    metrics: Arc<Metrics>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl OpenStream {
    /// Counts a stream from now on.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, permits: [OwnedSemaphorePermit; 2]) -> Self {
        metrics.stream_clients.inc();
        Self { metrics, _permits: permits }
    }

    /// Counts sent events and bytes.
    pub fn count(&self, events: u64, bytes: usize) {
        self.metrics.stream_events.inc_by(events);
        self.metrics.stream_bytes.inc_by(bytes as u64);
    }

    /// Counts a sent notice.
    pub fn told(&self, notice: &Notice) {
        match notice {
            Notice::Gap(gap) => {
                tracing::info!(from = %gap.from, to = %gap.to, reason = ?gap.reason, "subscriber is told of a gap");
                self.metrics.stream_gaps.inc();
            }
            Notice::Closing(_, ClosingReason::Failed(error)) => {
                tracing::error!(%error, "stream ends: the log can't be read");
            }
            Notice::CaughtUp(_) | Notice::Heartbeat | Notice::Closing(..) => {}
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.metrics.stream_clients.dec();
    }
}
