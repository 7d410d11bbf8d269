//! How far behind the readers are. A reader is entered here when it first has to wait for its client or for the disk;
//! then it notes where it is, which is looked at when somebody asks. Readers that were always at the tail cost nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::Seq;

/// The position of a reader that has caught up.
const AT_TAIL: u64 = u64::MAX;

/// The readers that have ever been behind. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Readers(Arc<Mutex<Entered>>);

#[derive(Debug, Default)]
struct Entered {
    positions: HashMap<u64, Arc<AtomicU64>>,
    next: u64,
}

/// How far behind readers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Readers that have not reached the tail.
    pub behind: usize,
    /// Those of them that are behind the ring, so that they read from the log.
    pub replaying: usize,
    /// Events between the slowest reader and the tail.
    pub events: u64,
}

impl Readers {
    /// How far behind they are. `in_memory` is the oldest event in memory.
    pub(super) fn lag(&self, tail: Seq, in_memory: Seq) -> Lag {
        let entered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lag = Lag::default();
        for position in entered.positions.values() {
            let position = position.load(Ordering::Relaxed);
            if position < tail.0 {
                lag.behind += 1;
                lag.replaying += usize::from(position.saturating_add(1) < in_memory.0);
                lag.events = lag.events.max(tail.0 - position);
            }
        }
        lag
    }

    /// Registers a reader.
    pub(super) fn enter(&self, position: Seq) -> Place {
        let mut entered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, position) = (entered.next, Arc::new(AtomicU64::new(position.0)));
        entered.next += 1;
        entered.positions.insert(id, Arc::clone(&position));
        Place { readers: self.clone(), id, position }
    }
}

/// The position of a registered reader, which is removed on drop.
#[derive(Debug)]
pub(super) struct Place {
    readers: Readers,
    id: u64,
    position: Arc<AtomicU64>,
}

impl Place {
    pub(super) fn at(&self, position: Seq) {
        self.position.store(position.0, Ordering::Relaxed);
    }

    pub(super) fn at_tail(&self) {
        self.position.store(AT_TAIL, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.readers.0.lock().unwrap_or_else(PoisonError::into_inner).positions.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_counts_and_those_that_left_do_not() {
        let readers = Readers::default();
        let lag = || readers.lag(Seq(100), Seq(50));
        assert_eq!(lag(), Lag::default());
        let (slow, fast) = (readers.enter(Seq(10)), readers.enter(Seq(49)));
        assert_eq!(lag(), Lag { behind: 2, replaying: 1, events: 90 });
        slow.at_tail();
        assert_eq!(lag(), Lag { behind: 1, replaying: 0, events: 51 });
        fast.at(Seq(100));
        assert_eq!(lag(), Lag::default());
        slow.at(Seq(0));
        drop(slow);
        assert_eq!(lag(), Lag::default());
    }
}
