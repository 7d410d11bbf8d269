//! An open file, its decoder and its position.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::ledger::{Entry, FileId, Head, Ledger};
use super::walk::{Found, Look};
use crate::decode::{Compression, Decoder, Piece, Position};

/// A reader that ends when `stop` is cancelled, also in the middle of a very long document.
#[derive(Debug)]
struct Stoppable {
    file: File,
    stop: CancellationToken,
}

impl Read for Stoppable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("told to stop"));
        }
        self.file.read(buffer)
    }
}

/// The change found in an open file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// None.
    None,
    /// It may have more data.
    Grown,
    /// It was truncated or rewritten, or is compressed and changed: it must be reopened.
    Replaced,
}

/// An open file, its decoder and its position.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) path: PathBuf,
    pub(super) location: Arc<str>,
    pub(super) id: FileId,
    pub(super) entry: Entry,
    /// The file's metadata at the last check.
    pub(super) look: Look,
    /// Whether it is gone from the folder; a writer may still have it open.
    pub(super) gone: bool,
    compression: Compression,
    still_since: Instant,
    /// For metadata; shares its offset with the decoder's handle, so it is never read from.
    file: File,
    decoder: Decoder<Stoppable>,
}

/// How to proceed with a file that was found.
#[derive(Debug)]
pub(super) enum Opened {
    /// Read it.
    Tail(Box<Tail>),
    /// It was read completely before.
    Done,
    /// It has no data yet.
    Empty,
    /// It is compressed and may still be written to.
    Compressed,
}

impl Tail {
    /// Opens a file at its position in the ledger. Compressed files are opened only if `take_compressed`.
    pub(super) fn open(
        found: &Found,
        ledger: &mut Ledger,
        max_expansion: u32,
        take_compressed: bool,
        stop: &CancellationToken,
    ) -> io::Result<Opened> {
        let mut file = File::open(&found.path)?;
        let (head, start) = Head::read(&file)?;
        if ledger.is_done(found.id, head, found.look) {
            return Ok(Opened::Done);
        }
        if start.is_empty() || (!take_compressed && start == Compression::GZIP_START) {
            return Ok(Opened::Empty);
        }
        let compression = Compression::of(&start, max_expansion);
        let compressed = compression != Compression::None;
        if compressed && !take_compressed {
            return Ok(Opened::Compressed);
        }
        let fresh = Entry { head, position: Position::default(), pieces: 0 };
        let entry =
            ledger.entry(found.id, &file)?.filter(|entry| compressed || entry.position.offset <= found.look.size);
        let entry = entry.map_or(fresh, |entry| Entry { head, ..entry });
        if !compressed {
            file.seek(SeekFrom::Start(entry.position.offset))?;
        }
        let reader = Stoppable { file: file.try_clone()?, stop: stop.clone() };
        Ok(Opened::Tail(Box::new(Self {
            path: found.path.clone(),
            location: found.path.to_string_lossy().into(),
            id: found.id,
            entry,
            look: found.look,
            gone: false,
            compression,
            still_since: Instant::now(),
            file,
            decoder: Decoder::resume(reader, compression, entry.position)?,
        })))
    }

    /// Checks whether the file has changed.
    pub(super) fn look_again(&mut self) -> io::Result<Change> {
        let look = Look::of(&self.file.metadata()?);
        if look == self.look {
            return Ok(Change::None);
        }
        if self.is_compressed() || look.size < self.decoder.read_offset() || !self.entry.head.matches(&self.file)? {
            return Ok(Change::Replaced);
        }
        if self.entry.head.is_short() {
            self.entry.head = Head::read(&self.file)?.0;
        }
        self.look = look;
        self.still_since = Instant::now();
        Ok(Change::Grown)
    }

    /// The next piece with its index within the file; `None` at the current end.
    pub(super) fn next_piece(&mut self) -> io::Result<Option<(u64, Piece)>> {
        let piece = self.decoder.next_piece()?;
        self.entry.position = self.decoder.position();
        Ok(piece.map(|piece| self.number(piece)))
    }

    /// The remaining pieces of a file that won't grow.
    pub(super) fn finish(&mut self) -> Vec<(u64, Piece)> {
        let pieces = self.decoder.finish();
        self.entry.position = self.decoder.position();
        pieces.into_iter().map(|piece| self.number(piece)).collect()
    }

    fn number(&mut self, piece: Piece) -> (u64, Piece) {
        let number = self.entry.pieces;
        self.entry.pieces += 1;
        (number, piece)
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.compression != Compression::None
    }

    /// Whether the file currently ends in the middle of a document or of compressed data.
    pub(super) fn is_cut_off(&self) -> bool {
        self.decoder.is_in_document()
    }

    /// Whether the file has been unchanged for this long.
    pub(super) fn is_still_for(&self, time: Duration) -> bool {
        self.still_since.elapsed() >= time
    }

    /// The position, as a message.
    pub(super) fn describe(&self) -> String {
        if self.is_compressed() {
            format!("{} after record {}", self.location, self.entry.pieces)
        } else {
            format!("{} at byte {} of {}", self.location, self.entry.position.offset, self.look.size)
        }
    }
}
