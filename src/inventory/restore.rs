//! Rebuilding the inventory at startup from the assets stored in the log.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;

use super::stored::{Held, RestoreError};
use super::{Inventory, Slot};

/// Number of assets handed to another thread at once,
const CHUNK: usize = 256;
/// and number of such chunks that may wait.
const CHUNKS: usize = 8;

impl Inventory {
    /// Restores one asset from its stored form.
    ///
    /// # Errors
    /// When the bytes are not in the format of this version or an older one.
    pub fn restore(&self, stored: Bytes) -> Result<(), RestoreError> {
        let held = Held::restore(stored, None)?;
        let Some(packed) = self.packer.pack(&held) else {
            self.insert(Arc::new(held));
            return Ok(());
        };
        self.note_aliases(&held);
        let (name, size) = (held.name().clone(), packed.size(held.name()));
        self.put(name, Slot::Packed(Arc::new(packed)), size);
        Ok(())
    }

    /// Restores all assets, on every core. `read` is called once with a function, to which it passes the stored form of
    /// each asset.
    ///
    /// # Errors
    /// Errors of `read`, and those of [`Inventory::restore`], of which one is returned.
    pub fn restore_all<E: From<RestoreError>>(
        &self,
        read: impl FnOnce(&mut dyn FnMut(Bytes)) -> Result<(), E>,
    ) -> Result<(), E> {
        let (chunks, waiting) = sync_channel::<Vec<Bytes>>(CHUNKS);
        let waiting = Mutex::new(waiting);
        thread::scope(|scope| {
            let workers = thread::available_parallelism().map_or(1, usize::from);
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| self.restore_waiting(&waiting))).collect();
            let mut chunk = Vec::with_capacity(CHUNK);
            let outcome = read(&mut |stored| {
                chunk.push(stored);
                if chunk.len() == CHUNK {
                    // This can't fail: the receiver lives until the end of this function.
                    let _ = chunks.send(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK)));
                }
            });
            let _ = chunks.send(chunk);
            drop(chunks);
            for worker in workers {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            outcome
        })
    }

    /// Restores assets until the sender is gone. Keeps receiving after an error, so that the sender never blocks.
    /// Returns the first error.
    fn restore_waiting(&self, waiting: &Mutex<Receiver<Vec<Bytes>>>) -> Result<(), RestoreError> {
        let mut outcome = Ok(());
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(chunk) = next else { return outcome };
            for stored in chunk {
                if outcome.is_ok() {
                    outcome = self.restore(stored);
                }
            }
        }
    }
}
