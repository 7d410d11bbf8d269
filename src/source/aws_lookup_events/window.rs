//! Plans which time windows to fetch. Pure.
//!
//! LookupEvents lists the newest events first and shows events minutes after they happened, in any order. So a window
//! is fetched completely before it counts, and every poll starts with an overlap to find late events. Windows are short
//! where there are many events, so that each is soon finished, fits in memory and is not fetched in vain for long; a
//! finished window stays finished.

/// How far back CloudTrail's event history reaches.
pub(super) const HISTORY_SECS: i64 = 90 * 86_400;

const FIRST_SPAN_SECS: i64 = 3_600;
const LONGEST_SPAN_SECS: i64 = 86_400;

/// After a window with fewer events, the next one is twice as long.
const FEW_EVENTS: usize = 500;

/// A time window with both ends included, in seconds since 1970. Adjacent windows share an end, since the service does
/// not document how it treats fractions of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: i64,
    pub(super) end: i64,
}

/// Plans the windows of one region.
#[derive(Debug)]
pub(super) struct Planner {
    lookback_secs: i64,
    overlap_secs: i64,
    /// Everything up to here has been fetched at least once.
    done: Option<i64>,
    /// The next second of the current poll, and its end.
    start: i64,
    until: i64,
    span_secs: i64,
}

impl Planner {
    /// Resumes at `done`, the end of what was fetched, or else starts `lookback_secs` ago.
    pub(super) fn new(lookback_secs: i64, overlap_secs: i64, done: Option<i64>) -> Self {
        Self { lookback_secs, overlap_secs, done, start: 0, until: 0, span_secs: FIRST_SPAN_SECS }
    }

    /// Starts a poll.
    pub(super) fn begin(&mut self, now: i64) {
        let start = match self.done {
            Some(done) => done.saturating_sub(self.overlap_secs),
            None => now.saturating_sub(self.lookback_secs),
        };
        self.start = start.clamp(now.saturating_sub(HISTORY_SECS), now);
        self.until = now;
    }

    /// The first second of the poll; nothing older will be fetched again.
    pub(super) fn start(&self) -> i64 {
        self.start
    }

    /// The window to fetch; `None` if the poll is complete.
    pub(super) fn window(&self) -> Option<Window> {
        (self.start < self.until)
            .then(|| Window { start: self.start, end: self.until.min(self.start.saturating_add(self.span_secs)) })
    }

    /// Shortens the window because it has too many events. `false` if it can't be shorter.
    pub(super) fn shorten(&mut self) -> bool {
        let Some(Window { start, end }) = self.window() else { return false };
        let length = end - start;
        if length <= 1 {
            return false;
        }
        self.span_secs = length / 2;
        true
    }

    /// Advances past the window, which has been fetched and had this many events.
    pub(super) fn finished(&mut self, events: usize) {
        let Some(Window { end, .. }) = self.window() else { return };
        self.start = end;
        self.done = Some(self.done.map_or(end, |done| done.max(end)));
        if events < FEW_EVENTS {
            self.span_secs = (self.span_secs * 2).min(LONGEST_SPAN_SECS);
        }
    }

    /// The end of what was fetched.
    pub(super) fn done(&self) -> Option<i64> {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    #[test]
    fn the_first_poll_looks_back_and_later_ones_overlap() {
        let mut planner = Planner::new(900, 1_200, None);
        planner.begin(NOW);
        assert_eq!(planner.window(), Some(Window { start: NOW - 900, end: NOW }));
        planner.finished(3);
        assert_eq!((planner.window(), planner.done()), (None, Some(NOW)));
        planner.begin(NOW + 60);
        assert_eq!(planner.window(), Some(Window { start: NOW - 1_200, end: NOW + 60 }));
        planner.finished(0);

        // The clock goes back: nothing is lost.
        planner.begin(NOW - 10_000);
        assert_eq!(planner.window(), None);
        assert_eq!(planner.done(), Some(NOW + 60));
    }

    #[test]
    fn a_long_absence_is_made_up_for_piece_by_piece() {
        let mut planner = Planner::new(900, 1_200, Some(NOW - 200 * 86_400));
        planner.begin(NOW);
        assert_eq!(planner.start(), NOW - HISTORY_SECS);
        let mut windows = 0;
        while let Some(window) = planner.window() {
            assert!(window.end - window.start <= LONGEST_SPAN_SECS);
            planner.finished(0);
            assert_eq!(planner.done(), Some(window.end), "progress is kept");
            windows += 1;
        }
        assert!((90..110).contains(&windows), "{windows}");
    }

    proptest! {
        /// Whatever the density of events, the windows cover the whole poll, come to an end, and hold no more than the
        /// limit unless they are one second long.
        #[test]
        fn windows_cover_everything(counts in prop::collection::vec((0_i64..20_000, 0_usize..5_000), 0..30), limit in 1_usize..3_000) {
            let count = |window: Window| -> usize {
                counts.iter().filter(|(ago, _)| (window.start..=window.end).contains(&(NOW - ago))).map(|(_, n)| n).sum()
            };
            let mut planner = Planner::new(20_000, 1_200, None);
            planner.begin(NOW);
            let (mut covered, mut steps) = (NOW - 20_000, 0);
            while let Some(window) = planner.window() {
                prop_assert_eq!(window.start, covered);
                prop_assert!(window.end > window.start && window.end <= NOW);
                steps += 1;
                prop_assert!(steps < 5_000, "no end");
                let events = count(window);
                if events > limit && planner.shorten() {
                    continue;
                }
                prop_assert!(events <= limit || window.end - window.start <= 1);
                covered = window.end;
                planner.finished(events);
            }
            prop_assert_eq!(covered, NOW);
        }
    }
}
