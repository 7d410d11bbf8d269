//! The newest events in memory, as they were appended.
//!
//! The hub reads each event right after it is durable. From here it does so without a look-up, without decompression,
//! and without waiting for the disk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Block, NewEvent};
use crate::model::Seq;

/// Most bytes of JSON. The last group of events is kept whatever its size, as a reader is about to want it.
const MAX_BYTES: usize = 8 << 20;

/// Adjacent groups of events, oldest first.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<Groups>);

#[derive(Debug, Default)]
struct Groups {
    groups: VecDeque<Group>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Group {
    first: Seq,
    events: Arc<[NewEvent]>,
    bytes: usize,
}

impl Group {
    /// The position after its last event.
    fn end(&self) -> Seq {
        Seq(self.first.0 + self.events.len() as u64)
    }
}

impl Newest {
    /// Adds the events from position `first` on, which must be durable. What they don't follow directly is dropped.
    pub(super) fn push(&self, first: Seq, events: Vec<NewEvent>) {
        if events.is_empty() {
            return;
        }
        let bytes = events.iter().map(|event| event.json.len()).sum();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.groups.back().is_some_and(|last| last.end() != first) {
            *kept = Groups::default();
        }
        kept.bytes += bytes;
        kept.groups.push_back(Group { first, events: events.into(), bytes });
        while kept.bytes > MAX_BYTES && kept.groups.len() > 1 {
            let Some(oldest) = kept.groups.pop_front() else { break };
            kept.bytes -= oldest.bytes;
        }
    }

    /// The events after a position as one block of about `max_bytes` of lines; `None` if the next one is not here. What
    /// lies beyond `tail` is not yet for readers.
    pub(super) fn read(&self, after: Seq, tail: Seq, max_bytes: usize) -> Option<Block> {
        let first = after.next();
        let groups = self.holding(first, tail);
        let skipped = usize::try_from(first.0.checked_sub(groups.first()?.first.0)?).ok()?;
        let mut bytes = 0;
        let has_room = |event: &&NewEvent| {
            let has_room = bytes < max_bytes;
            bytes += if has_room { event.json.len() + 1 } else { 0 };
            has_room
        };
        let events = groups.iter().flat_map(|group| group.events.iter()).skip(skipped);
        let events: Vec<&NewEvent> = events.take_while(has_room).collect();
        let mut lines = Vec::with_capacity(bytes);
        for event in &events {
            lines.extend_from_slice(&event.json);
            lines.push(b'\n');
        }
        let heads = events.iter().map(|event| event.head.clone()).collect();
        Some(Block { first, heads, lines: lines.into() })
    }

    /// The groups from the one that holds an event on, up to the tail.
    fn holding(&self, first: Seq, tail: Seq) -> Vec<Group> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = kept.groups.partition_point(|group| group.end() <= first);
        kept.groups.range(index..).take_while(|group| group.end() <= tail.next()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::{bulky, event};

    fn events(numbers: std::ops::Range<u64>) -> Vec<NewEvent> {
        numbers.map(|number| event(number, "asset://aws/1/-/x", 1_000)).collect()
    }

    /// The first and the last position of what is read.
    fn read(newest: &Newest, after: u64, tail: u64, max_bytes: usize) -> Option<(u64, u64)> {
        let block = newest.read(Seq(after), Seq(tail), max_bytes)?;
        let lines = std::str::from_utf8(&block.lines).unwrap();
        for (number, (head, line)) in (block.first.0..).zip(block.heads.iter().zip(lines.lines())) {
            let expected = event(number, "asset://aws/1/-/x", 1_000);
            assert_eq!((head, line.as_bytes()), (&expected.head, &expected.json[..]));
        }
        assert_eq!(block.heads.len(), lines.lines().count());
        Some((block.first.0, block.first.0 + block.heads.len() as u64 - 1))
    }

    #[test]
    fn what_follows_a_position_is_read_up_to_the_tail() {
        let newest = Newest::default();
        assert_eq!(read(&newest, 0, 0, usize::MAX), None);
        newest.push(Seq(4), events(4..6));
        newest.push(Seq(6), Vec::new());
        newest.push(Seq(6), events(6..10));
        assert_eq!(read(&newest, 2, 9, usize::MAX), None, "the next one is gone");
        assert_eq!(read(&newest, 3, 9, usize::MAX), Some((4, 9)));
        assert_eq!(read(&newest, 4, 9, usize::MAX), Some((5, 9)));
        assert_eq!(read(&newest, 6, 9, usize::MAX), Some((7, 9)));
        assert_eq!(read(&newest, 9, 9, usize::MAX), None);
        assert_eq!(read(&newest, 3, 5, usize::MAX), Some((4, 5)), "what is not told yet");
        assert_eq!(read(&newest, 3, 4, usize::MAX), None);
        assert_eq!(read(&newest, 3, 9, 1), Some((4, 4)));
        newest.push(Seq(20), events(20..21));
        assert_eq!(read(&newest, 8, 20, usize::MAX), None, "what lies before a hole");
        assert_eq!(read(&newest, 19, 20, usize::MAX), Some((20, 20)));
    }

    #[test]
    fn bytes_are_bounded_but_the_last_group_stays() {
        let newest = Newest::default();
        let group = |first: u64| vec![bulky(first, "asset://aws/1/-/x", 1_000, MAX_BYTES / 3)];
        (1..=4).for_each(|first| newest.push(Seq(first), group(first)));
        let holds = |after| newest.read(Seq(after), Seq(9), 1).is_some();
        assert_eq!([holds(0), holds(1), holds(2), holds(3)], [false, true, true, true]);
        newest.push(Seq(5), vec![bulky(5, "asset://aws/1/-/x", 1_000, 2 * MAX_BYTES)]);
        assert_eq!([holds(3), holds(4)], [false, true]);
    }
}
