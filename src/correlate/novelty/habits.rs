//! The hours at which a principal usually makes changes, in UTC.

use super::facts::take;
use crate::model::Time;

const HOUR_MILLIS: i64 = 3_600_000;
/// Days with changes before anything counts as unusual: two working weeks.
const ENOUGH_DAYS: u8 = 10;
/// An hour or weekday is unusual if fewer than one in this many days have a change in it.
const ONE_IN: u32 = 20;
/// Days after which all counts are halved, so that older ones count less.
const MOST_DAYS: u8 = 200;
/// Bytes of the stored form.
const STORED: usize = 40;

/// The number of days on which a principal made changes: in total, by hour, and by weekday. A day counts only once it
/// is over, so that changes on a Sunday do not make Sundays usual at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Habits {
    /// The last day with a change, in days since 1970.
    today: u32,
    /// Its hours with changes, as bits.
    hours: u32,
    days: u8,
    by_hour: [u8; 24],
    by_weekday: [u8; 7],
}

impl Habits {
    /// Records a change, and returns whether that changed anything. Changes on earlier days are ignored.
    pub(super) fn note(&mut self, time: Time) -> bool {
        let (day, hour) = day_and_hour(time);
        let bit = 1 << hour;
        if day < self.today || day == self.today && self.hours & bit != 0 {
            return false;
        }
        if day > self.today {
            self.end_of_day();
            (self.today, self.hours) = (day, 0);
        }
        self.hours |= bit;
        true
    }

    fn end_of_day(&mut self) {
        if self.hours == 0 {
            return;
        }
        if self.days >= MOST_DAYS {
            self.days /= 2;
            self.by_hour.iter_mut().chain(&mut self.by_weekday).for_each(|count| *count /= 2);
        }
        self.days += 1;
        for (hour, count) in self.by_hour.iter_mut().enumerate() {
            *count += u8::from(self.hours & (1 << hour) != 0);
        }
        if let Some(count) = self.by_weekday.get_mut(weekday(self.today)) {
            *count += 1;
        }
    }

    /// Whether a change at this hour or on this weekday is unusual by the days before. An hour next to a usual one is
    /// usual.
    pub(super) fn is_unusual(&self, time: Time) -> bool {
        let (day, hour) = day_and_hour(time);
        let is_rare = |count: u8| u32::from(count) * ONE_IN < u32::from(self.days);
        let near = [hour + 23, hour, hour + 1].map(|hour| self.by_hour.get(hour % 24).copied().unwrap_or_default());
        let that_day = self.by_weekday.get(weekday(day)).copied().unwrap_or_default();
        self.days >= ENOUGH_DAYS && (near.into_iter().all(is_rare) || is_rare(that_day))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(STORED);
        out.extend_from_slice(&self.today.to_be_bytes());
        out.extend_from_slice(&self.hours.to_be_bytes());
        out.push(self.days);
        out.extend_from_slice(&self.by_hour);
        out.extend_from_slice(&self.by_weekday);
    }

    /// Decodes from the front of the bytes; `None` if there are too few.
    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            today: u32::from_be_bytes(take(bytes)?),
            hours: u32::from_be_bytes(take(bytes)?),
            days: u8::from_be_bytes(take(bytes)?),
            by_hour: take(bytes)?,
            by_weekday: take(bytes)?,
        })
    }

    /// The last day with a change.
    pub(super) fn today(&self) -> u32 {
        self.today
    }
}

/// Days since 1970, and the hour.
fn day_and_hour(time: Time) -> (u32, usize) {
    let hours = time.millis().max(0) / HOUR_MILLIS;
    (u32::try_from(hours / 24).unwrap_or(u32::MAX), usize::try_from(hours % 24).unwrap_or_default())
}

/// The weekday from 0, Monday; 1970 began on a Thursday.
fn weekday(day: u32) -> usize {
    usize::try_from((day % 7 + 3) % 7).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> Time {
        text.parse().unwrap()
    }

    /// Changes at nine and at three on the working days of four weeks from Monday, 2024-01-01.
    fn office() -> Habits {
        let mut habits = Habits::default();
        for day in (1..=26).filter(|day| (day - 1) % 7 < 5) {
            assert!(habits.note(time(&format!("2024-01-{day:02}T09:10:00Z"))));
            assert!(!habits.note(time(&format!("2024-01-{day:02}T09:50:00Z"))), "an hour counts once");
            assert!(habits.note(time(&format!("2024-01-{day:02}T15:00:00Z"))));
        }
        habits
    }

    #[test]
    fn an_hour_far_from_the_usual_ones_and_a_weekend_are_unusual() {
        let habits = office();
        for (at, expected) in [
            ("2024-01-29T09:00:00Z", false),
            ("2024-01-29T08:00:00Z", false),
            ("2024-01-29T16:59:59Z", false),
            ("2024-01-29T07:59:59Z", true),
            ("2024-01-29T12:00:00Z", true),
            ("2024-01-29T23:00:00Z", true),
            ("2024-01-28T15:00:00Z", true),
            ("2024-01-27T09:00:00Z", true),
        ] {
            assert_eq!(habits.is_unusual(time(at)), expected, "{at}");
        }
    }

    #[test]
    fn a_day_does_not_make_itself_usual() {
        let mut habits = office();
        for minute in 0..50 {
            let at = time(&format!("2024-01-28T14:{minute:02}:00Z"));
            assert!(habits.is_unusual(at), "{at}");
            habits.note(at);
        }
        // One in twenty days with changes is usual enough.
        assert!(!habits.note(time("2024-01-27T03:00:00Z")), "the day is over");
        habits.note(time("2024-01-29T09:00:00Z"));
        assert_eq!(habits.days, 21);
        assert!(habits.is_unusual(time("2024-02-04T14:00:00Z")), "one of 21");
    }

    #[test]
    fn nothing_is_told_from_few_days() {
        let mut habits = Habits::default();
        for day in 1..=10 {
            habits.note(time(&format!("2024-01-{day:02}T09:00:00Z")));
            assert!(!habits.is_unusual(time("2024-01-28T23:00:00Z")));
        }
        habits.note(time("2024-01-11T09:00:00Z"));
        assert!(habits.is_unusual(time("2024-01-28T23:00:00Z")));
    }

    #[test]
    fn new_habits_take_over() {
        let mut habits = office();
        let night = |day: i64| Time::from_millis((19_800 + day) * 24 * HOUR_MILLIS + 2 * HOUR_MILLIS);
        assert!(habits.is_unusual(night(0)));
        for day in 0..3 {
            habits.note(night(day));
        }
        assert!(!habits.is_unusual(night(3)));
        for day in 3..2_000 {
            habits.note(night(day));
        }
        assert!(habits.days <= MOST_DAYS);
        assert!(habits.is_unusual(time("2040-01-02T09:00:00Z")), "what was long ago no longer counts");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_counted_within_bounds_and_reads_back(times in prop::collection::vec(any::<i64>(), 0..500)) {
            let mut habits = Habits::default();
            for millis in times {
                let time = Time::from_millis(millis);
                habits.note(time);
                let _ = habits.is_unusual(time);
                prop_assert!(habits.by_hour.iter().chain(&habits.by_weekday).all(|count| *count <= habits.days));
            }
            let mut bytes = Vec::new();
            habits.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), STORED);
            prop_assert_eq!(Habits::decode(&mut bytes.as_slice()), Some(habits));
        }
    }
}
