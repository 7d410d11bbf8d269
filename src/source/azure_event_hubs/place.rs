//! The positions in a hub, which are committed with the events.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::client::{Ends, Properties};
use super::config::Start;

const CURSOR_VERSION: u32 = 1;

/// A position in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Place {
    /// At the oldest available event.
    Earliest,
    /// At the first event enqueued at or after a time.
    Since {
        /// Milliseconds since 1970.
        millis: i64,
    },
    /// After an event.
    After {
        /// Its sequence number, which counts the partition's events.
        sequence: i64,
        /// Its offset, by which the service finds it.
        offset: String,
    },
}

impl Place {
    /// The sequence number of the last event read, if any.
    pub(super) fn sequence(&self) -> Option<i64> {
        match self {
            Self::After { sequence, .. } => Some(*sequence),
            Self::Earliest | Self::Since { .. } => None,
        }
    }

    /// Number of events between here and the end of the partition, if known.
    pub(super) fn behind(&self, ends: &Ends) -> Option<u64> {
        let last_read = match self {
            _ if ends.last < ends.first => return Some(0),
            Self::After { sequence, .. } => (*sequence).max(ends.first.saturating_sub(1)),
            Self::Earliest => ends.first.saturating_sub(1),
            Self::Since { millis } if ends.last_enqueued.is_none_or(|last| last.millis() < *millis) => return Some(0),
            Self::Since { .. } => return None,
        };
        Some(u64::try_from(ends.last.saturating_sub(last_read)).unwrap_or_default())
    }

    /// The initial position in a partition.
    pub(super) fn first(start: Start, ends: &Ends) -> Self {
        match start {
            Start::At(time) => Self::Since { millis: time.millis() },
            // By sequence number, not as the SDK's "latest", which would skip events that arrive while the link is
            // reconnected.
            Start::Latest if ends.last >= 0 => Self::After { sequence: ends.last, offset: ends.last_offset.clone() },
            Start::Latest | Start::Earliest => Self::Earliest,
        }
    }
}

/// The source's cursor: positions in every partition of a hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    version: u32,
    /// When the hub was created, in milliseconds since 1970.
    created: Option<i64>,
    pub(super) partitions: BTreeMap<String, Place>,
}

/// How a saved position fits the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It can be used as is.
    Fits,
    /// Partitions were added.
    Grown,
    /// The hub is another one of the same name, so the position is void.
    Replaced,
}

impl Position {
    /// The position before anything was read.
    pub(super) fn empty() -> Self {
        Self { version: CURSOR_VERSION, created: None, partitions: BTreeMap::new() }
    }

    /// Decodes a saved position.
    pub(super) fn decode(cursor: &[u8]) -> Result<Self, String> {
        let position: Self = serde_json::from_slice(cursor).map_err(|error| error.to_string())?;
        match position.version {
            CURSOR_VERSION => Ok(position),
            other => Err(format!("version {other} instead of {CURSOR_VERSION}")),
        }
    }

    /// Encodes the position.
    pub(super) fn encode(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Adapts the position to the hub's current partitions. On the first start, partitions begin at `start`; later
    /// ones, and those of a replaced hub, begin at their first event.
    pub(super) fn fit(&mut self, hub: &Properties, ends: &BTreeMap<String, Ends>, start: Start) -> Fit {
        let is_first = self.partitions.is_empty();
        let replaced = !is_first && self.created != hub.created;
        if replaced {
            self.partitions.clear();
        }
        self.created = hub.created;
        let start = if is_first { start } else { Start::Earliest };
        let before = self.partitions.len();
        for (id, ends) in ends {
            self.partitions.entry(id.clone()).or_insert_with(|| Place::first(start, ends));
        }
        match self.partitions.len() > before {
            _ if replaced => Fit::Replaced,
            true => Fit::Grown,
            false => Fit::Fits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;

    fn ends(first: i64, last: i64) -> Ends {
        Ends { first, last, last_offset: (last * 100).to_string(), last_enqueued: Some(Time::from_millis(last * 10)) }
    }

    fn hub(created: i64, partitions: &[&str]) -> (Properties, BTreeMap<String, Ends>) {
        let partitions: Vec<String> = partitions.iter().map(|&id| id.to_owned()).collect();
        let ends = partitions.iter().map(|id| (id.clone(), ends(3, 9))).collect();
        (Properties { created: Some(created), partitions }, ends)
    }

    fn after(sequence: i64) -> Place {
        Place::After { sequence, offset: (sequence * 100).to_string() }
    }

    #[test]
    fn the_first_start_begins_where_it_is_told() {
        let (properties, all) = hub(7, &["0", "1"]);
        for (start, place) in [
            (Start::Earliest, Place::Earliest),
            (Start::Latest, after(9)),
            (Start::At(Time::from_millis(50)), Place::Since { millis: 50 }),
        ] {
            let mut position = Position::empty();
            assert_eq!(position.fit(&properties, &all, start), Fit::Grown);
            assert!(position.partitions.values().all(|found| *found == place), "{position:?}");
            assert_eq!(Position::decode(&position.encode()), Ok(position));
        }
        assert_eq!(Place::first(Start::Latest, &ends(0, -1)), Place::Earliest, "an empty partition");
    }

    #[test]
    fn partitions_that_were_added_later_are_read_from_their_first_event() {
        let mut position = Position::empty();
        let (properties, all) = hub(7, &["0"]);
        position.fit(&properties, &all, Start::Latest);
        assert_eq!(position.fit(&properties, &all, Start::Latest), Fit::Fits);
        let (properties, all) = hub(7, &["0", "1"]);
        assert_eq!(position.fit(&properties, &all, Start::Latest), Fit::Grown);
        assert_eq!(position.partitions, [("0".to_owned(), after(9)), ("1".to_owned(), Place::Earliest)].into());
    }

    #[test]
    fn a_hub_made_anew_is_read_from_its_first_event() {
        let mut position = Position::empty();
        let (properties, all) = hub(7, &["0"]);
        position.fit(&properties, &all, Start::Latest);
        let (properties, all) = hub(8, &["0"]);
        assert_eq!(position.fit(&properties, &all, Start::Latest), Fit::Replaced);
        assert_eq!(position.partitions, [("0".to_owned(), Place::Earliest)].into());
    }

    #[test]
    fn what_is_left_is_counted_where_it_can_be() {
        assert_eq!(after(4).behind(&ends(0, 9)), Some(5));
        assert_eq!(after(4).behind(&ends(8, 9)), Some(2), "what is gone is not left");
        assert_eq!(after(9).behind(&ends(0, 9)), Some(0));
        assert_eq!(after(9).behind(&ends(0, 7)), Some(0));
        assert_eq!(Place::Earliest.behind(&ends(3, 9)), Some(7));
        assert_eq!(Place::Earliest.behind(&ends(0, -1)), Some(0));
        assert_eq!(Place::Since { millis: 91 }.behind(&ends(0, 9)), Some(0));
        assert_eq!(Place::Since { millis: 90 }.behind(&ends(0, 9)), None);
    }

    #[test]
    fn a_position_of_another_version_is_refused() {
        assert!(
            Position::decode(br#"{"version":2,"created":null,"partitions":{}}"#).unwrap_err().contains("version 2")
        );
        assert!(Position::decode(b"{}").is_err());
    }
}
