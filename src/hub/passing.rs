//! Which events of a segment match a filter.

use std::ops::Range;
use std::sync::Arc;

/// The events of a segment that match a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Passing {
    All,
    None,
    /// Their indexes, ascending.
    Some(Arc<[u32]>),
}

impl Passing {
    /// The events with these indexes, out of so many.
    pub(super) fn of(indexes: Vec<u32>, count: usize) -> Self {
        match indexes.len() {
            passing if passing == count => Self::All,
            0 => Self::None,
            _ => Self::Some(indexes.into()),
        }
    }

    /// Whether every event of a range matches.
    pub(super) fn covers(&self, events: &Range<usize>) -> bool {
        let indexes = match self {
            Self::All => return true,
            Self::None => return false,
            Self::Some(indexes) => indexes,
        };
        let at = indexes.partition_point(|index| (*index as usize) < events.start);
        // They are ascending: as many as the range is long, and the last where it ends.
        let last = events.len().checked_sub(1).and_then(|offset| indexes.get(at + offset));
        last.is_some_and(|last| *last as usize + 1 == events.end)
    }

    /// The first matching index from `start` on, below `count`.
    pub(super) fn next(&self, start: usize, count: usize) -> Option<usize> {
        match self {
            Self::All => (start < count).then_some(start),
            Self::None => None,
            Self::Some(indexes) => {
                let at = indexes.partition_point(|index| (*index as usize) < start);
                indexes.get(at).map(|index| *index as usize)
            }
        }
    }

    /// The indexes of the matching events of so many.
    #[cfg(test)]
    pub(super) fn indexes(&self, count: u32) -> Vec<u32> {
        match self {
            Self::All => (0..count).collect(),
            Self::None => Vec::new(),
            Self::Some(indexes) => indexes.to_vec(),
        }
    }
}
