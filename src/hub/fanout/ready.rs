//! Which sockets have become ready, without a task for each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use tokio::sync::Notify;

/// The slots of a shard whose socket has become readable or writable, each once.
#[derive(Debug, Default)]
pub(super) struct ReadyList {
    slots: Mutex<Vec<u32>>,
    notify: Notify,
}

/// A waker that puts its slot on the list.
#[derive(Debug)]
pub(super) struct SlotWaker {
    slot: u32,
    listed: AtomicBool,
    list: Arc<ReadyList>,
}

impl ReadyList {
    /// Returns when the list is not empty.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Swaps the list with an empty one.
    pub(super) fn take(&self, into: &mut Vec<u32>) {
        into.clear();
        std::mem::swap(into, &mut self.slots.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl SlotWaker {
    pub(super) fn new(slot: u32, list: Arc<ReadyList>) -> Arc<Self> {
        Arc::new(Self { slot, listed: AtomicBool::new(false), list })
    }

    /// Called before the slot is examined, so that later readiness puts it on the list again.
    pub(super) fn unlist(&self) {
        self.listed.store(false, Ordering::SeqCst);
    }
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.listed.swap(true, Ordering::SeqCst) {
            self.list.slots.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
            self.list.notify.notify_one();
        }
    }
}
