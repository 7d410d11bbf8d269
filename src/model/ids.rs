//! Positions in the log and names of sources.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The position of an event in the log: 1 for the first, then consecutive, never reused.
///
/// `Seq(0)` is the position before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The next position.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a log: drawn when a data directory is created, so that a cursor into a replaced log is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A subscriber's position, as in an SSE `id:` line: `<epoch>.<sequence>`, the epoch in lower-case hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The log that the position belongs to.
    pub epoch: Epoch,
    /// The last event received.
    pub seq: Seq,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

/// The text is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position of the form <epoch>.<sequence>, such as 9f3c2a71.42")]
pub struct ParseCursorError;

impl FromStr for Cursor {
    type Err = ParseCursorError;

    /// Strict: accepts only what [`Display`](fmt::Display) prints, so that each position has one spelling.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, seq) = text.split_once('.').ok_or(ParseCursorError)?;
        let canonical_hex = matches!(epoch.len(), 1..=16)
            && epoch.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            && (epoch.len() == 1 || !epoch.starts_with('0'));
        let canonical_number = matches!(seq.len(), 1..=20)
            && seq.bytes().all(|b| b.is_ascii_digit())
            && (seq.len() == 1 || !seq.starts_with('0'));
        if !canonical_hex || !canonical_number {
            return Err(ParseCursorError);
        }
        Ok(Self {
            epoch: Epoch(u64::from_str_radix(epoch, 16).map_err(|_| ParseCursorError)?),
            seq: Seq(seq.parse().map_err(|_| ParseCursorError)?),
        })
    }
}

/// The name of a source, as configured: `trail` in `[sources.trail.file]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(pub Arc<str>);

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for SourceId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_is_printed_is_taken() {
        for text in ["0.0", "9f3c2a71.42", "ffffffffffffffff.18446744073709551615"] {
            assert_eq!(text.parse::<Cursor>().map(|cursor| cursor.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            ".",
            "1",
            "1.",
            ".1",
            "01.1",
            "1.01",
            "1.00",
            "A.1",
            "0x1.1",
            "g.1",
            "1.a",
            "+1.1",
            "1.+1",
            "-1.1",
            "1.-1",
            " 1.1",
            "1.1 ",
            "1.1\n",
            "1..1",
            "1.1.1",
            "1_0.1",
            "١.1",
            "1.١",
            "10000000000000000.1",
            "1.18446744073709551616",
            "1.99999999999999999999",
            "1.000000000000000000001",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(ParseCursorError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(epoch in any::<u64>(), seq in any::<u64>()) {
            let cursor = Cursor { epoch: Epoch(epoch), seq: Seq(seq) };
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn any_text_is_refused_or_the_one_spelling(text in ".{0,24}|[0-9a-fA-F.+-]{0,40}|[0-9a-f]{1,17}\\.[0-9]{1,21}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}
