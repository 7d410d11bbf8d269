//! A segment's bytes as a file in memory.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::write;

pub(in crate::hub) const SENDFILE_BYTES: usize = 16 * 1024;
const ASKED: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct MemoryFile {
    asked: AtomicU32,
    file: OnceLock<Option<OwnedFd>>,
}

impl MemoryFile {
    pub(super) fn get(&self, bytes: &[u8]) -> Option<&OwnedFd> {
        if self.file.get().is_none() && self.asked.fetch_add(1, Ordering::Relaxed) < ASKED {
            return None;
        }
        self.file.get_or_init(|| create(bytes)).as_ref()
    }
}

fn create(mut bytes: &[u8]) -> Option<OwnedFd> {
    let file = memfd_create("catchment-events", MemfdFlags::CLOEXEC).ok()?;
    while !bytes.is_empty() {
        let written = write(&file, bytes).ok()?;
        bytes = bytes.get(written..)?;
    }
    Some(file)
}
