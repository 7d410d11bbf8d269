//! Decoding of bytes to records: gzip, the containers and wrappers that trails put around records, and recovery where
//! the text is broken. Pure except for the given reader; memory is bounded for any input.
//!
//! [`Decoder`] does all of it; [`Splitter`] splits text into records, [`unwrap`] takes a record out of a service's
//! wrapper.

mod document;
mod envelope;
mod gzip;
mod splitter;
mod walker;

use std::io::{self, Read};

use bytes::Bytes;

pub use document::{DocumentError, Item, Outline, items, outline};
pub use envelope::{UnwrapError, unwrap};
pub use gzip::{Compression, GzipError, Input};
pub use splitter::Splitter;

/// The longest accepted record in bytes. CloudTrail's own limit is 256 KiB.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// Bytes kept of something longer than [`MAX_RECORD_BYTES`].
pub const KEPT_BYTES: usize = 4 << 10;

/// A piece of input. Between pieces is only white space, separators, byte order marks and the text of containers around
/// the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The text of one JSON object: valid UTF-8 with balanced brackets, not yet known to be valid JSON.
    Record {
        /// The text, at most [`MAX_RECORD_BYTES`].
        bytes: Bytes,
        /// Bytes of (expanded) input up to the record's end.
        end_offset: u64,
    },
    /// Something that is not a record.
    Rejected {
        /// A stable code: `not_a_record`, `not_json`, `not_utf8`, `too_large`, `truncated`, `corrupt_gzip`,
        /// `expanded_too_much`.
        code: &'static str,
        /// What is wrong, where, and what was done with it.
        reason: String,
        /// The bytes, or the first [`KEPT_BYTES`] of more than [`MAX_RECORD_BYTES`].
        bytes: Bytes,
        /// Bytes of (expanded) input up to its end.
        end_offset: u64,
    },
}

/// A position from which decoding can resume: the last offset outside of every container, and the number of pieces
/// since. With one record per line, `skip` is always 0; with a single document, `offset` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes of (expanded) input.
    pub offset: u64,
    /// Pieces after that.
    pub skip: u64,
}

/// Splits a file or object into records.
#[derive(Debug)]
pub struct Decoder<R: Read> {
    splitter: Splitter<Input<R>>,
    start: Position,
    /// Pieces after `start` that an earlier decoder has returned.
    skip: u64,
    fault: Option<GzipError>,
}

impl<R: Read> Decoder<R> {
    /// Reads from the start; gzip is recognised by its magic. For `max_expansion` see [`Compression::Gzip`].
    ///
    /// # Errors
    /// When the reader fails.
    pub fn new(reader: R, max_expansion: u32) -> io::Result<Self> {
        let splitter = Splitter::new(Input::detect(reader, max_expansion)?);
        Ok(Self { splitter, start: Position::default(), skip: 0, fault: None })
    }

    /// Resumes at the [`position`](Decoder::position) of a decoder of the same input. The reader must be at
    /// `position.offset` if the input is plain, at the start if it is compressed.
    ///
    /// # Errors
    /// When the reader fails.
    pub fn resume(reader: R, compression: Compression, position: Position) -> io::Result<Self> {
        let (mut input, mut fault) = (Input::new(reader, compression), None);
        if matches!(compression, Compression::Gzip { .. }) {
            let passed = io::copy(&mut input.by_ref().take(position.offset), &mut io::sink());
            fault = passed.map_or_else(GzipError::of, |_| Ok(None))?;
        }
        let splitter = Splitter::starting_at(input, position.offset);
        Ok(Self { splitter, start: position, skip: position.skip, fault })
    }

    /// The next piece; `None` if the reader has no more at present. Decoding can continue if the file grows.
    ///
    /// # Errors
    /// When the reader fails. Corrupt compression is not an error here: it ends the input, and
    /// [`finish`](Decoder::finish) reports it.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        while self.fault.is_none() {
            match self.splitter.next_piece() {
                Ok(Some(_)) if self.skip > 0 => self.skip -= 1,
                Ok(Some(piece)) => return Ok(Some(unwrapped(piece))),
                Ok(None) => return Ok(None),
                Err(error) => self.fault = GzipError::of(error)?,
            }
        }
        Ok(None)
    }

    /// The last pieces when no more input will come: a truncated record, and corrupt compression.
    pub fn finish(&mut self) -> Vec<Piece> {
        let end_offset = self.splitter.read_offset();
        let fault = self.fault.take().map(|fault| Piece::Rejected {
            code: fault.code(),
            reason: format!("{fault}, after {end_offset} bytes of text; the records before that were read"),
            bytes: Bytes::new(),
            end_offset,
        });
        self.splitter.finish().into_iter().chain(fault).collect()
    }

    /// The position after the last piece returned.
    #[must_use]
    pub fn position(&self) -> Position {
        if self.skip > 0 { self.start } else { self.splitter.position() }
    }

    /// Whether the input so far ends within an array of records or within compressed data, which is not expected of a
    /// file that is written record by record.
    #[must_use]
    pub fn is_in_document(&self) -> bool {
        self.fault.is_some() || self.splitter.is_in_container()
    }

    /// Bytes of (expanded) input read so far.
    #[must_use]
    pub fn read_offset(&self) -> u64 {
        self.splitter.read_offset()
    }

    /// All pieces to the end of the input, including those of [`finish`](Decoder::finish). Ends after an error.
    pub fn pieces(mut self) -> impl Iterator<Item = io::Result<Piece>> {
        let mut rest: Option<std::vec::IntoIter<Piece>> = None;
        std::iter::from_fn(move || {
            if let Some(rest) = &mut rest {
                return rest.next().map(Ok);
            }
            match self.next_piece() {
                Ok(Some(piece)) => Some(Ok(piece)),
                Ok(None) => rest.insert(self.finish().into_iter()).next().map(Ok),
                Err(error) => {
                    rest = Some(Vec::new().into_iter());
                    Some(Err(error))
                }
            }
        })
    }
}

fn unwrapped(piece: Piece) -> Piece {
    match piece {
        Piece::Record { bytes, end_offset } => match unwrap(&bytes) {
            Ok(bytes) => Piece::Record { bytes, end_offset },
            Err(error) => Piece::Rejected { code: "not_json", reason: error.to_string(), bytes, end_offset },
        },
        rejected @ Piece::Rejected { .. } => rejected,
    }
}
