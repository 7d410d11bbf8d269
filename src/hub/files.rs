//! Segments as files in memory, whose pages the kernel sends without copying them.
//!
//! Copying an event into each stream's socket is the largest part of what sending costs. A segment that several streams
//! send in long runs is therefore also written to a file in memory (`man 2 memfd_create`): `man 2 sendfile` then
//! attaches the file's pages to every socket. Nothing is changed in a file once it is written, so pages that are under
//! way stay as they are. Where the system offers no such file, or has dropped it again, runs are copied.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// Runs of fewer bytes are copied, which is cheaper then.
const MIN_BYTES: usize = 16 * 1024;
/// Runs of a segment that are copied before it gets a file, as for a few streams a file does not pay.
const COPIED_BEFORE: u32 = 2;
/// Limits of all files together: a window over which the readers of the same events may spread.
const MAX_FILES: usize = 32;
const MAX_BYTES: usize = 16 << 20;

/// The newest files. Older ones are dropped, and their segments are copied again.
#[derive(Debug, Default)]
pub(super) struct MemoryFiles {
    kept: Mutex<Kept>,
    refused: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    files: VecDeque<(Arc<OwnedFd>, usize)>,
    bytes: usize,
}

/// The file of a segment, if it has one.
#[derive(Debug, Default)]
pub(super) struct MemoryFile {
    asked: AtomicU32,
    file: OnceLock<Weak<OwnedFd>>,
}

/// A range of a segment's file.
#[derive(Debug)]
pub(super) struct FilePart {
    file: Arc<OwnedFd>,
    range: Range<usize>,
}

impl MemoryFiles {
    fn create(&self, bytes: &[u8]) -> Weak<OwnedFd> {
        if self.refused.load(Ordering::Relaxed) {
            return Weak::new();
        }
        match system::create(bytes) {
            Ok(file) => self.keep(Arc::new(file), bytes.len()),
            // Perhaps for want of a descriptor or memory, which others need more.
            Err(error) => {
                tracing::debug!(%error, "no memory file for a segment");
                Weak::new()
            }
        }
    }

    fn keep(&self, file: Arc<OwnedFd>, bytes: usize) -> Weak<OwnedFd> {
        let weak = Arc::downgrade(&file);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes;
        kept.files.push_back((file, bytes));
        while kept.bytes > MAX_BYTES || kept.files.len() > MAX_FILES {
            let Some((_, bytes)) = kept.files.pop_front() else { break };
            kept.bytes -= bytes;
        }
        weak
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).files.len()
    }

    /// Drops all files and makes no more, since the system does not send them.
    pub(super) fn refuse(&self, error: &io::Error) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).files.clear();
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::info!(%error, "events are copied to sockets: the system does not send them from memory files");
        }
    }
}

impl MemoryFile {
    /// Part of the file of a segment with these bytes, if that is better than copying them. Makes the file if need be.
    pub(super) fn part(&self, files: &MemoryFiles, bytes: &[u8], range: Range<usize>) -> Option<FilePart> {
        if range.len() < MIN_BYTES {
            return None;
        }
        let file = match self.file.get() {
            Some(file) => file,
            None if self.asked.fetch_add(1, Ordering::Relaxed) < COPIED_BEFORE => return None,
            None => self.file.get_or_init(|| files.create(bytes)),
        };
        file.upgrade().map(|file| FilePart { file, range })
    }

    /// Whether a run of so many bytes would be sent from the file that is there.
    pub(super) fn is_for(&self, bytes: usize) -> bool {
        bytes >= MIN_BYTES && self.file.get().is_some_and(|file| file.strong_count() > 0)
    }
}

impl FilePart {
    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// Sends it, and returns how many bytes the socket accepted.
    pub(super) fn send(&self, socket: impl AsFd) -> io::Result<usize> {
        system::send(socket, &self.file, self.range.clone())
    }
}

/// Whether the system does not send files to sockets, as opposed to a failed connection.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied)
}

#[cfg(target_os = "linux")]
mod system {
    use super::{AsFd, OwnedFd, Range, io};
    use rustix::fs::{MemfdFlags, memfd_create, sendfile};

    pub(super) fn create(mut bytes: &[u8]) -> io::Result<OwnedFd> {
        let create = |flags| memfd_create("catchment-events", MemfdFlags::CLOEXEC | flags);
        // Kernels before 6.3 don't know the flag; some later ones insist on it.
        let file = create(MemfdFlags::NOEXEC_SEAL).or_else(|_| create(MemfdFlags::empty()))?;
        while !bytes.is_empty() {
            let written = rustix::io::write(&file, bytes)?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(file)
    }

    pub(super) fn send(socket: impl AsFd, file: &OwnedFd, range: Range<usize>) -> io::Result<usize> {
        let mut offset = range.start as u64;
        Ok(sendfile(socket, file, Some(&mut offset), range.len())?)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{AsFd, OwnedFd, Range, io};

    pub(super) fn create(_: &[u8]) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn send(_: impl AsFd, _: &OwnedFd, _: Range<usize>) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_file_is_made_when_it_pays_and_holds_the_bytes() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
        let (files, file) = (MemoryFiles::default(), MemoryFile::default());
        assert!(file.part(&files, &bytes, 0..MIN_BYTES - 1).is_none(), "a short run");
        for _ in 0..COPIED_BEFORE {
            assert!(file.part(&files, &bytes, 0..MIN_BYTES).is_none() && !file.is_for(MIN_BYTES));
        }
        let part = file.part(&files, &bytes, 70_000..90_000).unwrap();
        assert!(file.is_for(MIN_BYTES) && !file.is_for(MIN_BYTES - 1));
        let (socket, mut other) = UnixStream::pair().unwrap();
        let sent = part.send(&socket).unwrap();
        drop(socket);
        let mut got = Vec::new();
        other.read_to_end(&mut got).unwrap();
        assert!(sent > 0 && sent <= part.len() && got == bytes[70_000..70_000 + sent]);
    }

    #[test]
    fn the_newest_files_are_kept_within_the_limits() {
        let files = MemoryFiles::default();
        let file = |bytes| {
            let (file, bytes) = (MemoryFile::default(), vec![0; bytes]);
            for _ in 0..COPIED_BEFORE {
                assert!(file.part(&files, &bytes, 0..MIN_BYTES).is_none());
            }
            assert!(file.part(&files, &bytes, 0..MIN_BYTES).is_some());
            file
        };
        let large = [file(MAX_BYTES / 2), file(MAX_BYTES / 2), file(MIN_BYTES)];
        assert!(!large[0].is_for(MIN_BYTES) && large[1].is_for(MIN_BYTES) && large[2].is_for(MIN_BYTES));
        let small: Vec<_> = (0..MAX_FILES).map(|_| file(MIN_BYTES)).collect();
        assert!(!large[2].is_for(MIN_BYTES) && small.iter().all(|file| file.is_for(MIN_BYTES)));
        assert!(large[0].part(&files, &[0; MIN_BYTES], 0..MIN_BYTES).is_none(), "it is not made again");
    }

    #[test]
    fn none_are_made_where_they_are_refused() {
        let (files, file, bytes) = (MemoryFiles::default(), MemoryFile::default(), [0; MIN_BYTES]);
        let error = io::Error::from(io::ErrorKind::Unsupported);
        assert!(is_refusal(&error) && !is_refusal(&io::ErrorKind::ConnectionReset.into()));
        let before = MemoryFile::default();
        assert!(
            (0..=COPIED_BEFORE).all(|n| before.part(&files, &bytes, 0..MIN_BYTES).is_some() == (n == COPIED_BEFORE))
        );
        files.refuse(&error);
        assert!(before.part(&files, &bytes, 0..MIN_BYTES).is_none());
        assert!((0..10).all(|_| file.part(&files, &bytes, 0..MIN_BYTES).is_none()));
    }
}
