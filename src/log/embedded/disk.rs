//! The disk under the log: whether it has room and takes writes, and the wait until it does.
//!
//! Who waits has something in hand that nobody was told of. So nothing is lost by waiting, and nothing is acknowledged.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::log::LogError;
use crate::metrics::Metrics;

/// How often a disk that refuses writes is checked again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The file written to test whether the disk accepts writes.
const PROBE: &str = "probe";
const PROBE_BYTES: usize = 1 << 20;

/// The file system of the data directory.
pub(super) struct Disk {
    directory: PathBuf,
    /// Free bytes below which no batch is accepted.
    min_free: AtomicU64,
    /// Queries the free bytes.
    free: Free,
    /// The lock file and its identity, by which a replaced directory is noticed.
    lock: (PathBuf, (u64, u64)),
    waits: Mutex<Waits>,
    ended: Condvar,
    metrics: Arc<Metrics>,
}

type Free = Box<dyn Fn(&Path) -> Option<u64> + Send + Sync>;

/// What the writer waits for, as messages.
#[derive(Default)]
struct Waits {
    room: Option<String>,
    writes: Option<String>,
    given_up: bool,
}

impl Disk {
    /// `lock` is a file in the directory that exists as long as the log is open.
    pub(super) fn new(directory: &Path, lock: &Path, min_free: u64, metrics: Arc<Metrics>) -> io::Result<Self> {
        metrics.log_writable.set(1);
        Ok(Self {
            directory: directory.to_owned(),
            min_free: AtomicU64::new(min_free),
            free: Box::new(|directory| {
                let found = rustix::fs::statvfs(directory).ok()?;
                Some(found.f_bavail.saturating_mul(found.f_frsize))
            }),
            lock: (lock.to_owned(), identity(lock)?),
            waits: Mutex::default(),
            ended: Condvar::new(),
            metrics,
        })
    }

    /// Free bytes available to this process; `None` if the system does not report them.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        (self.free)(&self.directory)
    }

    /// Changes the reserve. A waiting writer notices within a second.
    pub(super) fn set_min_free(&self, bytes: u64) {
        self.min_free.store(bytes, Ordering::Relaxed);
    }

    fn min_free(&self) -> u64 {
        self.min_free.load(Ordering::Relaxed)
    }

    /// Blocks until there is room for a batch. Once there was too little, an eighth more than the reserve must be free,
    /// so that the state does not flap with every batch.
    ///
    /// # Errors
    /// When the directory was removed or replaced, or [`give_up`](Self::give_up) was called.
    pub(super) fn wait_for_room(&self) -> Result<(), LogError> {
        self.check_directory()?;
        let mut waited = false;
        // Where the system does not tell, the write itself will.
        while let Some(free) = self.free_bytes() {
            let min_free = self.min_free();
            let enough = if waited { min_free.saturating_add(min_free / 8) } else { min_free };
            if free >= enough {
                break;
            }
            waited = true;
            self.tell(
                |waits| &mut waits.room,
                || format!("{} has {free} bytes free, less than log.min_free_bytes = {min_free}", self.shown()),
            );
            self.pause()?;
            self.check_directory()?;
        }
        self.over(|waits| &mut waits.room);
        Ok(())
    }

    /// Blocks until the disk accepts writes again after the failure `cause`. The first test comes after `waits`
    /// intervals.
    ///
    /// # Errors
    /// As [`wait_for_room`](Self::wait_for_room).
    pub(super) fn wait_for_writes(&self, cause: &str, waits: u32) -> Result<(), LogError> {
        self.tell(|waits| &mut waits.writes, || cause.to_owned());
        for _ in 0..waits.max(1) {
            self.pause()?;
        }
        loop {
            self.check_directory()?;
            let room = self.free_bytes().is_none_or(|free| free >= self.min_free());
            if room && self.probe().is_ok() {
                return Ok(());
            }
            self.pause()?;
        }
    }

    /// Marks the log as writable again.
    pub(super) fn writes_again(&self) {
        self.over(|waits| &mut waits.writes);
    }

    /// Why no writes are accepted; `None` if they are.
    pub(super) fn waits_for(&self) -> Option<String> {
        let waits = self.waits();
        waits.writes.clone().or_else(|| waits.room.clone())
    }

    /// Makes every wait fail, now and from now on, so that pending batches are refused.
    pub(super) fn give_up(&self) {
        self.waits().given_up = true;
        self.ended.notify_all();
    }

    /// Fails if the directory was removed or replaced: open files in it still accept writes, which nobody would find
    /// again.
    fn check_directory(&self) -> Result<(), LogError> {
        let (path, lock) = &self.lock;
        let cause = match identity(path) {
            Ok(found) if found == *lock => return Ok(()),
            Ok(_) => "another directory is in its place".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "it was removed while in use".to_owned(),
            // A disk that fails tells nothing about the directory.
            Err(_) => return Ok(()),
        };
        Err(LogError::Storage { action: "append a batch", path: self.shown(), cause })
    }

    fn probe(&self) -> io::Result<()> {
        let path = self.directory.join(PROBE);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&[0xA5; PROBE_BYTES])?;
            file.sync_all()
        });
        written.and(fs::remove_file(&path))
    }

    fn tell(&self, which: impl FnOnce(&mut Waits) -> &mut Option<String>, reason: impl FnOnce() -> String) {
        let mut waits = self.waits();
        let place = which(&mut waits);
        let (is_news, reason) = (place.is_none(), reason());
        if is_news {
            tracing::error!(%reason, "intake is paused; sources wait, streams and queries continue");
        }
        *place = Some(reason);
        self.metrics.log_writable.set(0);
    }

    fn over(&self, which: impl FnOnce(&mut Waits) -> &mut Option<String>) {
        let mut waits = self.waits();
        if which(&mut waits).take().is_some() {
            tracing::info!("intake has resumed");
        }
        self.metrics.log_writable.set(i64::from(waits.room.is_none() && waits.writes.is_none()));
    }

    fn pause(&self) -> Result<(), LogError> {
        let waited = self.ended.wait_timeout_while(self.waits(), LOOK_EVERY, |waits| !waits.given_up);
        let (waits, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if waits.given_up { Err(LogError::Closed) } else { Ok(()) }
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory, for error messages.
    pub(super) fn shown(&self) -> String {
        self.directory.display().to_string()
    }
}

/// Device and inode of a file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::thread::ScopedJoinHandle;

    use super::*;
    use crate::log::testing::metrics;

    fn disk(directory: &Path, min_free: u64) -> Disk {
        let lock = directory.join("lock");
        File::create(&lock).unwrap();
        Disk::new(directory, &lock, min_free, metrics()).unwrap()
    }

    /// Has a thread wait for room, calls `look` once it waits, and returns the outcome of the wait.
    fn while_waiting(
        disk: &Disk,
        look: impl FnOnce(&ScopedJoinHandle<'_, Result<(), LogError>>),
    ) -> Result<(), LogError> {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| disk.wait_for_room());
            while disk.waits_for().is_none() {
                std::thread::yield_now();
            }
            look(&waiting);
            waiting.join().unwrap()
        })
    }

    #[test]
    fn a_disk_with_room_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(directory.path(), 1);
        disk.wait_for_room().unwrap();
        assert_eq!(disk.waits_for(), None);
        assert!(disk.free_bytes().unwrap() > 0);
        disk.probe().unwrap();
        assert!(!directory.path().join(PROBE).exists());
    }

    #[test]
    fn who_waits_for_room_tells_why_and_can_be_sent_away() {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(directory.path(), u64::MAX);
        let waited = while_waiting(&disk, |_| {
            let reason = disk.waits_for().unwrap();
            assert!(reason.contains("less than log.min_free_bytes"), "{reason}");
            assert_eq!(disk.metrics.log_writable.get(), 0);
            disk.give_up();
        });
        assert!(matches!(waited, Err(LogError::Closed)));
    }

    #[test]
    fn room_that_comes_back_is_taken_once_there_is_an_eighth_more() {
        let directory = tempfile::tempdir().unwrap();
        let free = Arc::new(AtomicU64::new(799));
        let told = Arc::clone(&free);
        let disk = Disk { free: Box::new(move |_| Some(told.load(Ordering::SeqCst))), ..disk(directory.path(), 800) };
        let waited = while_waiting(&disk, |waiting| {
            free.store(899, Ordering::SeqCst);
            while !disk.waits_for().is_some_and(|reason| reason.contains("899")) {
                std::thread::yield_now();
            }
            assert!(!waiting.is_finished());
            free.store(900, Ordering::SeqCst);
        });
        waited.unwrap();
        assert_eq!((disk.waits_for(), disk.metrics.log_writable.get()), (None, 1));
        free.store(800, Ordering::SeqCst);
        disk.wait_for_room().unwrap();
    }

    #[test]
    fn who_waits_for_room_goes_by_a_smaller_reserve_as_soon_as_there_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(directory.path(), u64::MAX);
        while_waiting(&disk, |_| disk.set_min_free(1)).unwrap();
        assert_eq!(disk.waits_for(), None);
    }

    #[test]
    fn a_directory_that_was_removed_or_replaced_takes_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("data");
        fs::create_dir(&directory).unwrap();
        let disk = disk(&directory, 0);
        fs::rename(&directory, parent.path().join("aside")).unwrap();
        assert!(disk.wait_for_room().unwrap_err().to_string().contains("it was removed while in use"));
        fs::create_dir(&directory).unwrap();
        File::create(directory.join("lock")).unwrap();
        assert!(disk.wait_for_room().unwrap_err().to_string().contains("another directory is in its place"));
    }
}
