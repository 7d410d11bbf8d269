//! One file that is being read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::ledger::{Entry, FileId, Head, Ledger};
use super::walk::{Found, Look};
use crate::decode::{Compression, Decoder, Piece, Position};

/// Reads until it is told to stop, also in the middle of something very long.
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

/// What a second look at an open file told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing new.
    None,
    /// There may be more to read.
    Grown,
    /// It was cut short or written anew, or it is compressed and changed: it must be opened again.
    Replaced,
}

/// An open file, its decoder and its position.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) path: PathBuf,
    pub(super) location: Arc<str>,
    pub(super) id: FileId,
    pub(super) entry: Entry,
    /// How the file looked when it was looked at last.
    pub(super) look: Look,
    /// No longer to be found in the folder; there may still be a writer that holds it open.
    pub(super) gone: bool,
    compression: Compression,
    still_since: Instant,
    /// For looking at the file; shares its offset with the decoder's, so it is never read from.
    file: File,
    decoder: Decoder<Stoppable>,
}

/// What to do with a file that was found.
#[derive(Debug)]
pub(super) enum Opened {
    /// Read it.
    Tail(Box<Tail>),
    /// It was read as a whole before.
    Done,
    /// It has no text yet.
    Empty,
    /// It is compressed, and may still be being written.
    Compressed,
}

impl Tail {
    /// Opens a file at the position that the ledger has for it. Compressed files only where `take_compressed`.
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

    /// Looks whether the file has changed.
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

    /// The next piece, and its number within the file.
    pub(super) fn next_piece(&mut self) -> io::Result<Option<(u64, Piece)>> {
        let piece = self.decoder.next_piece()?;
        self.entry.position = self.decoder.position();
        Ok(piece.map(|piece| self.number(piece)))
    }

    /// What is left when the file will not grow.
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

    /// Whether the file ends, for now, in the middle of a document or of compressed data.
    pub(super) fn is_cut_off(&self) -> bool {
        self.decoder.is_in_document()
    }

    /// Whether the file has not changed for this long.
    pub(super) fn is_still_for(&self, time: Duration) -> bool {
        self.still_since.elapsed() >= time
    }

    /// The position, for a person.
    pub(super) fn describe(&self) -> String {
        if self.is_compressed() {
            format!("{} after record {}", self.location, self.entry.pieces)
        } else {
            format!("{} at byte {} of {}", self.location, self.entry.position.offset, self.look.size)
        }
    }
}
