//! The timestamp, in the one format of all output.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time in UTC, to the millisecond. Printed as RFC 3339 with `Z`: `2023-07-10T12:10:05.000Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

/// The text is not an RFC 3339 time.
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
        if let Some(time) = Self::from_digits(text.as_bytes()) {
            return Ok(time);
        }
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
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl Time {
    /// What is printed. Written digit by digit: every event and every stored asset holds several.
    fn digits(self) -> [u8; 24] {
        let (days, millis) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        let (year, month, day) = civil_from_days(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let numbers = [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, millis / 3_600_000),
            (14, 2, millis / 60_000 % 60),
            (17, 2, millis / 1_000 % 60),
            (20, 3, millis % 1_000),
        ];
        for (at, width, mut number) in numbers {
            for digit in text.iter_mut().skip(at).take(width).rev() {
                *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
                number /= 10;
            }
        }
        text
    }

    /// Reads what is printed, with or without the fraction: what nearly every time is. `None` for any other spelling.
    fn from_digits(text: &[u8]) -> Option<Self> {
        let (date, fraction) = text.split_at_checked(19)?;
        let number = |at: usize, width: usize, text: &[u8]| {
            let digits = text.get(at..at + width)?;
            digits
                .iter()
                .try_fold(0_i64, |number, digit| digit.is_ascii_digit().then(|| 10 * number + i64::from(digit - b'0')))
        };
        let fraction = match fraction {
            b"Z" => 0,
            [b'.', rest @ .., b'Z'] if rest.len() == 3 => number(0, 3, rest)?,
            _ => return None,
        };
        let [_, _, _, _, b'-', _, _, b'-', _, _, b'T', _, _, b':', _, _, b':', ..] = date else { return None };
        let part = |at, width| number(at, width, date);
        let (year, month, day) = (part(0, 4)?, part(5, 2)?, part(8, 2)?);
        let (hour, minute, second) = (part(11, 2)?, part(14, 2)?, part(17, 2)?);
        // Of the last days of a month and of leap seconds the full parser knows more.
        if !(1..=12).contains(&month) || !(1..=28).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = (hour * 60 + minute) * 60 + second;
        Some(Self(days_from_civil(year, month, day) * 86_400_000 + seconds * 1_000 + fraction))
    }
}

/// The reverse of [`civil_from_days`]
/// (<https://howardhinnant.github.io/date_algorithms.html#days_from_civil>).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
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

/// As text, in binary formats as milliseconds.
impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_i64(self.0);
        }
        serializer.serialize_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return i64::deserialize(deserializer).map(Self::from_millis);
        }
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
            let read = time.to_string().parse::<jiff::Timestamp>().map(|read| read.as_millisecond());
            prop_assert_eq!(read.ok(), Some(millis));
        }

        #[test]
        fn the_short_way_reads_as_the_full_one(text in "[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,4})?Z?") {
            if let Some(time) = Time::from_digits(text.as_bytes()) {
                let full = text.parse::<jiff::Timestamp>().map(|full| full.as_millisecond());
                prop_assert_eq!(full.ok(), Some(time.millis()));
            }
        }
    }
}
