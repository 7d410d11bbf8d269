//! Reads one object: streamed, decompressed and split into records on a blocking thread, in bounded memory whatever the
//! object's size. An interrupted read resumes after the last piece that was handed over.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::AwsError;
use super::object::{Body, ObjectRef, Objects};
use crate::decode::{Decoder, Piece};
use crate::model::{Origin, RawRecord, Rejected, SourceId};
use crate::retry::Backoff;
use crate::source::Clock;

/// A chunk ends with the record that reaches one of these.
const CHUNK_RECORDS: usize = 500;
const CHUNK_BYTES: usize = 1 << 20;

/// Pieces of the body buffered between network and decoder.
const BUFFERED_PIECES: usize = 8;

/// Tries before a failed read is reported.
const TRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long a body may deliver nothing before it counts as failed.
const SILENCE: Duration = Duration::from_secs(30);

/// How far an object has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The ETag of the content; other content is read from its start.
    pub(crate) etag: String,
    /// Number of pieces handed over.
    pub(crate) pieces: u64,
}

/// Consecutive pieces of an object.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<RawRecord>,
    pub(crate) rejected: Vec<Rejected>,
    /// The progress including these.
    pub(crate) progress: Progress,
    /// Whether the object ends here.
    pub(crate) last: bool,
}

/// One result of reading an object: a chunk, of which the last is marked, or a final error.
pub(crate) type Step = Result<Chunk, AwsError>;

/// Reads the objects of one source.
#[derive(Clone)]
pub(crate) struct ObjectReader {
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) source: SourceId,
    pub(crate) clock: Clock,
    /// As in [`Compression::Gzip`](crate::decode::Compression::Gzip).
    pub(crate) max_expansion: u32,
}

impl ObjectReader {
    /// Reads an object after `progress`, and sends the results to `steps` with a number that identifies the reading.
    /// Waits while the channel is full, and ends early when it is closed.
    pub(crate) async fn read(
        self,
        number: u64,
        object: ObjectRef,
        progress: Progress,
        steps: mpsc::Sender<(u64, Step)>,
    ) {
        let mut progress = progress;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let before = progress.pieces;
            let Err(error) = self.attempt(number, &object, &mut progress, &steps).await else { return };
            if progress.pieces > before {
                backoff.reset();
            }
            let again = matches!(error, AwsError::Throttled(_) | AwsError::Unavailable(_));
            let wait = backoff.next_wait();
            if !again || backoff.failures() >= TRIES {
                // Without a receiver, nobody needs the error either.
                let _ = steps.send((number, Err(error))).await;
                return;
            }
            tracing::debug!(%error, object = object.location(), "reading was interrupted; retrying");
            sleep(wait).await;
        }
    }

    async fn attempt(
        &self,
        number: u64,
        object: &ObjectRef,
        progress: &mut Progress,
        steps: &mpsc::Sender<(u64, Step)>,
    ) -> Result<(), AwsError> {
        let body = self.objects.get(object).await?;
        if body.etag != progress.etag {
            *progress = Progress { etag: body.etag.clone(), pieces: 0 };
        }
        let (sender, receiver) = mpsc::channel(BUFFERED_PIECES);
        let cutter = Cutter {
            source: self.source.clone(),
            clock: self.clock.clone(),
            location: object.location().into(),
            number,
            progress: progress.clone(),
            steps: steps.clone(),
        };
        let max_expansion = self.max_expansion;
        let cutting = spawn_blocking(move || {
            cutter.run(BodyReader { receiver, rest: Bytes::new(), ended: false }, max_expansion)
        });
        let fed = feed(body, &sender).await;
        drop(sender);
        let (reached, cut) =
            cutting.await.map_err(|error| AwsError::Unavailable(format!("the decoder failed: {error}")))?;
        *progress = reached;
        fed.and_then(|()| cut.map_err(|error| AwsError::Unavailable(error.to_string())))
    }
}

/// Feeds the body's pieces to the decoder. A truncated body is a network error, not damage of the object.
async fn feed(mut body: Body, sender: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), AwsError> {
    let mut received = 0;
    loop {
        let next = tokio::time::timeout(SILENCE, body.stream.try_next()).await;
        let piece = match next {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => return Err(AwsError::Unavailable(super::error::with_causes(&error))),
            Err(_) => return Err(AwsError::Unavailable(format!("the body delivered nothing for {SILENCE:?}"))),
        };
        let Some(piece) = piece else { break };
        received += piece.len() as u64;
        // The decoder has ended before the body and reports why itself.
        if !piece.is_empty() && sender.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
    }
    if let Some(bytes) = body.bytes.filter(|bytes| *bytes != received) {
        return Err(AwsError::Unavailable(format!("the body ended after {received} of {bytes} bytes")));
    }
    // Tells the decoder that the body is complete rather than interrupted.
    let _ = sender.send(Ok(Bytes::new())).await;
    Ok(())
}

/// The body as a blocking reader.
struct BodyReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
    ended: bool,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.ended {
            self.rest = self.receiver.blocking_recv().unwrap_or_else(|| Err(io::Error::other("broken off")))?;
            self.ended = self.rest.is_empty();
        }
        let read = buffer.len().min(self.rest.len());
        let taken = self.rest.split_to(read);
        buffer.get_mut(..read).unwrap_or_default().copy_from_slice(&taken);
        Ok(read)
    }
}

/// Splits a body into chunks.
struct Cutter {
    source: SourceId,
    clock: Clock,
    location: Arc<str>,
    number: u64,
    progress: Progress,
    steps: mpsc::Sender<(u64, Step)>,
}

impl Cutter {
    /// Returns the progress, also if the body failed midway.
    fn run(mut self, body: BodyReader, max_expansion: u32) -> (Progress, io::Result<()>) {
        let outcome = self.cut(body, max_expansion);
        (self.progress, outcome)
    }

    fn cut(&mut self, body: BodyReader, max_expansion: u32) -> io::Result<()> {
        let mut chunk = self.chunk(self.progress.pieces);
        let mut bytes = 0;
        let mut number = 0;
        for piece in Decoder::new(body, max_expansion)?.pieces() {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    // The records before the interruption are complete.
                    self.hand_over(chunk);
                    return Err(error);
                }
            };
            number += 1;
            if number <= self.progress.pieces {
                continue;
            }
            bytes += self.take(piece, number - 1, &mut chunk);
            chunk.progress.pieces = number;
            if chunk.records.len() + chunk.rejected.len() >= CHUNK_RECORDS || bytes >= CHUNK_BYTES {
                let full = std::mem::replace(&mut chunk, self.chunk(number));
                bytes = 0;
                if !self.hand_over(full) {
                    return Ok(());
                }
            }
        }
        chunk.last = true;
        self.hand_over(chunk);
        Ok(())
    }

    fn chunk(&self, pieces: u64) -> Chunk {
        let progress = Progress { etag: self.progress.etag.clone(), pieces };
        Chunk { records: Vec::new(), rejected: Vec::new(), progress, last: false }
    }

    fn take(&self, piece: Piece, index: u64, chunk: &mut Chunk) -> usize {
        let origin = Origin { source: self.source.clone(), location: Arc::clone(&self.location), index };
        match piece {
            Piece::Record { bytes, .. } => {
                let length = bytes.len();
                chunk.records.push(RawRecord { bytes, origin });
                length
            }
            Piece::Rejected { code, reason, bytes, .. } => {
                let length = bytes.len();
                chunk.rejected.push(Rejected { origin, code, reason, bytes, observed: self.clock.now() });
                length
            }
        }
    }

    /// Sends a chunk; `false` if nobody receives any more.
    fn hand_over(&mut self, chunk: Chunk) -> bool {
        let progress = chunk.progress.clone();
        let taken = self.steps.blocking_send((self.number, Ok(chunk))).is_ok();
        if taken {
            self.progress = progress;
        }
        taken
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
