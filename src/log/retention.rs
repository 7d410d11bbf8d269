//! Retention: which blocks are too old, or too many.

use std::time::Duration;

use crate::model::Time;

/// The limits of the log. By default every event is kept; quarantine is always bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Age, by the time of observation, from which events may be dropped; `None`: no limit.
    pub max_age: Option<Duration>,
    /// Most bytes of stored blocks; beyond it the oldest are dropped. `None`: no limit.
    pub max_bytes: Option<u64>,
    /// Most records in quarantine; beyond it the oldest are dropped.
    pub quarantine_records: u64,
    /// Most bytes of stored records in quarantine; beyond it the oldest are dropped.
    pub quarantine_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { max_age: None, max_bytes: None, quarantine_records: 10_000, quarantine_bytes: 256 << 20 }
    }
}

impl Retention {
    /// What to drop as of `now`.
    pub(super) fn goal(&self, now: Time, bytes: u64) -> Goal {
        let expired = self.max_age.map(|age| {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            Time::from_millis(now.millis().saturating_sub(age))
        });
        Goal { expired, bytes: self.excess_goal(bytes).bytes }
    }

    /// What to drop because of size alone. A log over the limit is cut to a sixteenth below it, so that a full log
    /// drops blocks now and then and not with every event.
    pub(super) fn excess_goal(&self, bytes: u64) -> Goal {
        let over = self.max_bytes.filter(|max| bytes > *max);
        Goal { expired: None, bytes: over.map(|max| max - max / 16) }
    }

    /// Whether quarantine is over its limits.
    pub(super) fn quarantine_is_over(&self, records: u64, bytes: u64) -> bool {
        records > self.quarantine_records || bytes > self.quarantine_bytes
    }
}

/// What a pass over the oldest blocks is to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Goal {
    expired: Option<Time>,
    bytes: Option<u64>,
}

impl Goal {
    /// Whether there is nothing to drop.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether to drop the oldest block of a log of `bytes`. For age, its newest event counts.
    pub(super) fn drops(&self, newest: Time, bytes: u64) -> bool {
        self.expired.is_some_and(|expired| newest < expired) || self.bytes.is_some_and(|target| bytes > target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_goes_a_margin_below_the_limit_once_over_it() {
        let retention = Retention { max_bytes: Some(1600), ..Retention::default() };
        assert!(retention.excess_goal(1600).is_empty(), "at the limit nothing goes");
        let goal = retention.excess_goal(1601);
        assert!(goal.drops(Time::from_millis(0), 1501));
        assert!(!goal.drops(Time::from_millis(0), 1500));
    }

    #[test]
    fn age_keeps_what_is_exactly_as_old_as_allowed() {
        let retention = Retention { max_age: Some(Duration::from_millis(100)), ..Retention::default() };
        let goal = retention.goal(Time::from_millis(1000), u64::MAX);
        assert!(goal.drops(Time::from_millis(899), 0));
        assert!(!goal.drops(Time::from_millis(900), u64::MAX));
        let forever = Retention { max_age: Some(Duration::MAX), ..Retention::default() };
        assert!(!forever.goal(Time::from_millis(1000), 0).drops(Time::from_millis(0), 0));
    }

    #[test]
    fn the_default_keeps_every_event() {
        assert!(Retention::default().goal(Time::from_millis(i64::MAX), u64::MAX).is_empty());
    }
}
