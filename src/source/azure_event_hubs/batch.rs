//! Turns events into batches of records. Pure.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::client::Event;
use super::place::Place;
use crate::decode::{Decoder, Piece};
use crate::model::{Origin, RawRecord, Rejected, SourceId, Time};

/// A batch is full at this number of records or bytes. An event is never split between batches, since the position
/// after it stands for all of its records.
const BATCH_RECORDS: usize = 500;
const BATCH_BYTES: usize = 1 << 20;

/// Largest expansion ratio of a compressed body. An event has at most 1 MiB.
const MAX_EXPANSION: u32 = 200;

/// Records of consecutive events of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub(super) records: Vec<RawRecord>,
    pub(super) rejected: Vec<Rejected>,
    /// The position after them.
    pub(super) place: Option<Place>,
    /// When the last event was enqueued.
    pub(super) enqueued: Option<Time>,
    /// Number of events before these that the partition no longer holds.
    pub(super) missed: u64,
    bytes: usize,
}

impl Batch {
    pub(super) fn is_full(&self) -> bool {
        self.records.len() + self.rejected.len() >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }

    /// The event time of the last record, which is the newest since services write in order. Azure's logs have it in
    /// `time`, older ones in `eventTimestamp`.
    pub(super) fn newest_record(&self) -> Option<Time> {
        #[derive(Deserialize)]
        struct Timed<'a> {
            #[serde(borrow, alias = "eventTimestamp", alias = "eventTime", alias = "activityDateTime")]
            time: Option<std::borrow::Cow<'a, str>>,
        }
        let record = self.records.last()?;
        let timed: Timed<'_> = serde_json::from_slice(&record.bytes).ok()?;
        timed.time?.parse().ok()
    }
}

/// Splits the events of one partition into records.
#[derive(Clone, Debug)]
pub(super) struct Cutter {
    source: SourceId,
    /// `event-hub:acme.servicebus.windows.net/insights-activity-logs/partitions/0`.
    partition: String,
}

impl Cutter {
    pub(super) fn new(source: SourceId, host: &str, hub: &str, partition: &str) -> Self {
        Self { source, partition: format!("event-hub:{host}/{hub}/partitions/{partition}") }
    }

    /// Adds an event that follows the one numbered `last`. An event that was read before is ignored.
    pub(super) fn add(&self, batch: &mut Batch, last: Option<i64>, event: Event, now: Time) {
        if let Some(last) = last {
            if event.sequence <= last {
                return;
            }
            // Counted from 1 up, without holes: https://learn.microsoft.com/azure/event-hubs/event-hubs-features
            batch.missed += u64::try_from(event.sequence - last - 1).unwrap_or_default();
        }
        let location: Arc<str> = format!("{}/{}", self.partition, event.sequence).into();
        match event.body {
            Ok(body) => self.cut(batch, &body, &location, now),
            Err(what) => {
                let reason = format!("the event's body is {what} rather than JSON text");
                batch.rejected.push(self.rejected(&location, 0, "not_a_record", reason, Bytes::new(), now));
            }
        }
        batch.enqueued = event.enqueued.or(batch.enqueued);
        batch.place = Some(Place::After { sequence: event.sequence, offset: event.offset });
    }

    /// Splits a body: `{"records":[…]}`, an array, one record, or one per line; compressed or not.
    fn cut(&self, batch: &mut Batch, body: &[u8], location: &Arc<str>, now: Time) {
        let pieces = Decoder::new(body, MAX_EXPANSION).map(Decoder::pieces);
        let pieces: Box<dyn Iterator<Item = io::Result<Piece>>> = match pieces {
            Ok(pieces) => Box::new(pieces),
            Err(error) => Box::new(std::iter::once(Err(error))),
        };
        for (index, piece) in (0..).zip(pieces) {
            match piece {
                Ok(Piece::Record { bytes, .. }) => {
                    batch.bytes += bytes.len();
                    let origin = Origin { source: self.source.clone(), location: Arc::clone(location), index };
                    batch.records.push(RawRecord { bytes, origin });
                }
                Ok(Piece::Rejected { code, reason, bytes, .. }) => {
                    batch.rejected.push(self.rejected(location, index, code, reason, bytes, now));
                }
                // Reading from memory does not fail; if it ever does, the event is kept.
                Err(error) => {
                    let (reason, bytes) = (format!("read the event's body: {error}"), Bytes::copy_from_slice(body));
                    batch.rejected.push(self.rejected(location, index, "not_a_record", reason, bytes, now));
                }
            }
        }
    }

    fn rejected(
        &self,
        location: &Arc<str>,
        index: u64,
        code: &'static str,
        reason: String,
        bytes: Bytes,
        observed: Time,
    ) -> Rejected {
        let origin = Origin { source: self.source.clone(), location: Arc::clone(location), index };
        Rejected { origin, code, reason, bytes, observed }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(sequence: i64, body: &str) -> Event {
        Event {
            sequence,
            offset: (sequence * 64).to_string(),
            enqueued: Some(Time::from_millis(sequence)),
            body: Ok(Bytes::copy_from_slice(body.as_bytes())),
        }
    }

    fn cutter() -> Cutter {
        Cutter::new("azure".into(), "acme.servicebus.windows.net", "activity", "3")
    }

    fn cut(body: &str) -> Batch {
        let mut batch = Batch::default();
        cutter().add(&mut batch, None, event(7, body), Time::from_millis(1));
        batch
    }

    fn texts(batch: &Batch) -> Vec<String> {
        batch.records.iter().map(|record| String::from_utf8(record.bytes.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_body_may_hold_its_records_in_any_way() {
        let two = [r#"{"time":"a"}"#.to_owned(), r#"{"time":"b"}"#.to_owned()];
        for body in [
            r#"{"records":[{"time":"a"},{"time":"b"}]}"#,
            r#"{"records": [{"time":"a"}, {"time":"b"}], "more": 1}"#,
            r#"[{"time":"a"},{"time":"b"}]"#,
            "{\"time\":\"a\"}\r\n{\"time\":\"b\"}\n",
            "\u{feff}{\"time\":\"a\"}{\"time\":\"b\"}",
        ] {
            let batch = cut(body);
            assert_eq!(texts(&batch), two, "{body}");
            assert!(batch.rejected.is_empty(), "{body}");
        }
        assert_eq!(texts(&cut(r#"{"time":"a"}"#)), [r#"{"time":"a"}"#]);
    }

    #[test]
    fn what_is_no_record_is_kept_and_found_again() {
        let batch = cut("no JSON");
        let rejected = &batch.rejected[0];
        assert_eq!(rejected.code, "not_a_record");
        assert_eq!(&*rejected.bytes, b"no JSON");
        assert_eq!(&*rejected.origin.location, "event-hub:acme.servicebus.windows.net/activity/partitions/3/7");
        let mut batch = Batch::default();
        let unread = Event { body: Err("a sequence of values"), ..event(7, "") };
        cutter().add(&mut batch, None, unread, Time::from_millis(1));
        assert!(batch.rejected[0].reason.contains("a sequence of values"));
        assert_eq!(batch.place.unwrap().sequence(), Some(7), "and reading goes on after it");
    }

    #[test]
    fn an_event_of_no_records_moves_the_place() {
        let batch = cut(r#"{"records":[]}"#);
        assert!(batch.records.is_empty() && batch.rejected.is_empty());
        assert_eq!(batch.place, Some(Place::After { sequence: 7, offset: "448".to_owned() }));
    }

    #[test]
    fn the_newest_record_tells_its_time() {
        let time = "2026-02-03T04:05:06.700Z".parse().unwrap();
        for member in ["time", "eventTimestamp"] {
            let body = format!(r#"{{"records":[{{"{member}":"2026-02-03T04:05:06.7000000Z","a":{{"time":1}}}}]}}"#);
            assert_eq!(cut(&body).newest_record(), Some(time), "{member}");
        }
        assert_eq!(cut(r#"{"time":17}"#).newest_record(), None);
        assert_eq!(cut("").newest_record(), None);
    }

    proptest! {
        /// Whatever events are repeated or missing: each is taken once, in order, and each missing one is counted.
        #[test]
        fn events_are_taken_once_and_holes_are_counted(steps in prop::collection::vec(-3_i64..4, 1..60)) {
            let (mut sequence, mut place, mut taken, mut missed) = (0, Place::Earliest, Vec::new(), 0);
            for step in steps {
                sequence = (sequence + step).max(0);
                let mut batch = Batch::default();
                cutter().add(&mut batch, place.sequence(), event(sequence, &format!("{{\"n\":{sequence}}}")), Time::default());
                taken.extend(texts(&batch));
                missed += batch.missed;
                place = batch.place.unwrap_or(place);
            }
            let numbers: Vec<i64> =
                taken.iter().map(|text| text[5..text.len() - 1].parse().unwrap()).collect();
            prop_assert!(numbers.is_sorted_by(|a, b| a < b), "{:?}", numbers);
            let (first, last) = (numbers[0], *numbers.last().unwrap());
            prop_assert_eq!(missed, (last - first + 1) as u64 - numbers.len() as u64);
        }
    }
}
