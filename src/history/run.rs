//! The events of an asset in the order of their times, and the points from which a reader may start.

use std::ops::Range;

use crate::model::{Seq, Time};

/// The events of an asset, ordered by time.
#[derive(Debug)]
pub(super) struct Runs {
    events: Vec<(Time, Seq)>,
    /// Where runs begin: at events that were logged after all that are older. What such an event says of the time before
    /// it is whole; those up to the next such event may have been told without one that came late.
    starts: Vec<usize>,
}

impl Runs {
    pub(super) fn of(events: Vec<(Seq, Time)>) -> Self {
        let mut events: Vec<_> = events.into_iter().map(|(seq, time)| (time, seq)).collect();
        events.sort_unstable();
        let (mut starts, mut newest, mut before) = (Vec::new(), None, None);
        for (index, (time, seq)) in events.iter().enumerate() {
            // Within one time the order is not told, so that a run never begins in the middle of it.
            if before != Some(*time) && newest < Some(*seq) {
                starts.push(index);
            }
            newest = newest.max(Some(*seq));
            before = Some(*time);
        }
        Self { events, starts }
    }

    /// The time of the oldest event.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.time(0)
    }

    /// The time of an event.
    pub(super) fn time(&self, index: usize) -> Option<Time> {
        self.events.get(index).map(|(time, _)| *time)
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The number of events up to and including a time.
    pub(super) fn until(&self, time: Time) -> usize {
        self.events.partition_point(|(of_event, _)| *of_event <= time)
    }

    /// The start of the last run that begins before an index.
    pub(super) fn start_before(&self, index: usize) -> Option<usize> {
        let starts = self.starts.partition_point(|start| *start < index);
        self.starts.get(starts.checked_sub(1)?).copied()
    }

    /// Whether a run begins at an index.
    pub(super) fn begins_at(&self, index: usize) -> bool {
        self.starts.binary_search(&index).is_ok()
    }

    /// The positions of a range of events, in log order.
    pub(super) fn positions(&self, range: Range<usize>) -> Vec<Seq> {
        let mut positions: Vec<_> = self.events.get(range).into_iter().flatten().map(|(_, seq)| *seq).collect();
        positions.sort_unstable();
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_begins_where_nothing_older_came_later() {
        let runs = |times: &[i64]| {
            Runs::of((1..).zip(times).map(|(seq, time)| (Seq(seq), Time::from_millis(*time))).collect())
        };
        let in_order = runs(&[10, 20, 30]);
        assert_eq!(in_order.starts, [0, 1, 2]);
        assert_eq!((in_order.until(Time::from_millis(9)), in_order.until(Time::from_millis(20))), (0, 2));
        assert_eq!((in_order.start_before(0), in_order.start_before(2)), (None, Some(1)));
        // The third came late: the second was told without it.
        let late = runs(&[10, 30, 20, 40]);
        assert_eq!((&*late.starts, late.begins_at(2)), (&[0, 1, 3][..], false));
        assert_eq!(late.positions(1..3), [Seq(2), Seq(3)]);
        assert_eq!(runs(&[10, 10, 20]).starts, [0, 2]);
        assert_eq!(runs(&[20, 10]).starts, [0]);
    }
}
