//! The newest events, in memory, bounded by bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::segment::Segment;
use crate::model::Seq;

/// Adjacent segments, oldest first. The newest is kept whatever its size.
#[derive(Debug)]
pub(super) struct Ring {
    segments: VecDeque<Entry>,
    bytes: usize,
    limit: usize,
}

/// A segment, with its last position beside it, since to look for one should not touch others.
#[derive(Debug)]
struct Entry {
    last: Seq,
    segment: Arc<Segment>,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self { segments: VecDeque::new(), bytes: 0, limit }
    }

    /// Adds the newest segment and drops the oldest ones beyond the size limit. A segment that does not directly follow
    /// the last one replaces all.
    pub(super) fn push(&mut self, segment: Arc<Segment>) {
        if self.segments.back().is_some_and(|newest| newest.last.next() != segment.first()) {
            self.segments.clear();
            self.bytes = 0;
        }
        self.bytes += segment.weight();
        self.segments.push_back(Entry { last: segment.last(), segment });
        while self.bytes > self.limit && self.segments.len() > 1 {
            if let Some(oldest) = self.segments.pop_front() {
                self.bytes = self.bytes.saturating_sub(oldest.segment.weight());
            }
        }
    }

    /// The oldest event in it.
    pub(super) fn first(&self) -> Option<Seq> {
        self.segments.front().map(|oldest| oldest.segment.first())
    }

    /// The segment that holds the event after a position.
    pub(super) fn get(&self, after: Seq) -> Option<Arc<Segment>> {
        let index = self.segments.partition_point(|entry| entry.last <= after);
        let segment = &self.segments.get(index)?.segment;
        (segment.first() <= after.next()).then(|| Arc::clone(segment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::block;
    use crate::model::Epoch;

    fn segment(first: u64, count: u64) -> Arc<Segment> {
        Arc::new(Segment::encode(Epoch(1), Seq(first - 1), vec![block(first, count)]).unwrap().unwrap())
    }

    #[test]
    fn finds_what_it_holds_and_nothing_else() {
        let mut ring = Ring::new(usize::MAX);
        assert!(ring.get(Seq(0)).is_none());
        ring.push(segment(11, 5));
        ring.push(segment(16, 1));
        assert!(ring.get(Seq(9)).is_none());
        assert_eq!(ring.get(Seq(10)).map(|segment| segment.first()), Some(Seq(11)));
        assert_eq!(ring.get(Seq(14)).map(|segment| segment.first()), Some(Seq(11)));
        assert_eq!(ring.get(Seq(15)).map(|segment| segment.first()), Some(Seq(16)));
        assert!(ring.get(Seq(16)).is_none());
    }

    #[test]
    fn bytes_are_bounded_and_a_hole_empties_it() {
        let one = segment(1, 1).weight();
        let mut ring = Ring::new(one * 3 + one / 2);
        for first in 1..=9 {
            ring.push(segment(first, 1));
        }
        assert!(ring.get(Seq(5)).is_none());
        assert!(ring.get(Seq(6)).is_some());
        ring.push(segment(20, 1));
        assert!(ring.get(Seq(8)).is_none(), "what lies before a hole must not be served across it");
        assert!(ring.get(Seq(19)).is_some());
    }
}
