//! One timestamp format for everything that leaves.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment in UTC, to the millisecond. Printed as RFC 3339 with `Z`: `2023-07-10T12:10:05.000Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

/// A text that is no RFC 3339 time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an RFC 3339 time such as 2023-07-10T12:10:05Z")]
pub struct ParseTimeError {
    text: String,
}

/// 9999-12-31T23:59:59.999Z, the last moment that RFC 3339 can write.
const MAX_MILLIS: i64 = 253_402_300_799_999;
/// 0000-01-01T00:00:00.000Z, the first.
const MIN_MILLIS: i64 = -62_167_219_200_000;

impl Time {
    /// From milliseconds since 1970-01-01T00:00:00Z, held within the years 0000 to 9999.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(MIN_MILLIS, MAX_MILLIS))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn millis(self) -> i64 {
        self.0
    }
}

impl FromStr for Time {
    type Err = ParseTimeError;

    /// Any RFC 3339 offset and any number of fraction digits; a time without offset is taken as UTC, since
    /// pre-processed logs carry such.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>()
            .or_else(|error| {
                let civil = text.parse::<jiff::civil::DateTime>().map_err(|_| error)?;
                Ok(civil.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp())
            })
            .map(|timestamp| Self::from_millis(timestamp.as_millisecond()))
            .map_err(|_: jiff::Error| ParseTimeError { text: text.chars().take(64).collect() })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.div_euclid(86_400_000);
        let millis = self.0.rem_euclid(86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1_000 % 60);
        let fraction = millis % 1_000;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:03}Z")
    }
}

/// Days since 1970-01-01 to (year, month, day) in the proleptic Gregorian calendar
/// (<https://howardhinnant.github.io/date_algorithms.html#civil_from_days>).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Whole numbers with a unit (`s`, `m`, `h`, `d`, `w`), largest unit first or not: `7d`, `1h30m`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail.chars().next()?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = tail.strip_prefix(unit)?;
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_format_for_every_spelling() {
        for (text, expected) in [
            ("2023-07-10T12:10:05Z", "2023-07-10T12:10:05.000Z"),
            ("2023-07-10T14:10:05.1239999+02:00", "2023-07-10T12:10:05.123Z"),
            ("2023-07-10 12:10:05.5Z", "2023-07-10T12:10:05.500Z"),
            ("2023-07-10T12:10:05", "2023-07-10T12:10:05.000Z"),
            ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(text.parse::<Time>().map(|time| time.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in ["", "yesterday", "2023-13-01T00:00:00Z", "1688991005"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(millis in MIN_MILLIS..=MAX_MILLIS) {
            let time = Time::from_millis(millis);
            prop_assert_eq!(time.to_string().parse::<Time>(), Ok(time));
        }
    }
}
