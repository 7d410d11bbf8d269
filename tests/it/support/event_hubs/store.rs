//! Hubs, partitions and their events.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp_types::definitions::Error as AmqpError;
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{Body, Data, Message, MessageAnnotations};
use fe2o3_amqp_types::primitives::{Binary, OrderedMap, Timestamp, Value};
use tokio::sync::watch;

use super::amqp::{Msg, error, now_ms};

/// An event hub.
pub(super) struct Hub {
    pub(super) name: String,
    pub(super) created_ms: i64,
    partitions: Mutex<Vec<Arc<Partition>>>,
    turn: AtomicUsize,
}

impl Hub {
    pub(super) fn new(name: &str, partitions: usize) -> Self {
        let partitions = Mutex::new((0..partitions).map(|_| Arc::default()).collect());
        Self { name: name.to_owned(), created_ms: now_ms(), partitions, turn: AtomicUsize::new(0) }
    }

    pub(super) fn partition(&self, number: usize) -> Option<Arc<Partition>> {
        self.partitions.lock().unwrap().get(number).cloned()
    }

    pub(super) fn partition_count(&self) -> usize {
        self.partitions.lock().unwrap().len()
    }

    pub(super) fn grow(&self, count: usize) {
        self.partitions.lock().unwrap().extend((0..count).map(|_| Arc::default()));
    }

    /// The partition for an event that names none: by its key, otherwise round robin.
    pub(super) fn choose(&self, key: Option<&str>) -> usize {
        let count = self.partition_count();
        match key {
            Some(key) => key.bytes().fold(5_381_usize, |hash, byte| hash.wrapping_mul(33) ^ usize::from(byte)) % count,
            None => self.turn.fetch_add(1, SeqCst) % count,
        }
    }
}

/// An event in the form in which it is sent.
pub(super) struct Stored {
    pub(super) sequence: i64,
    offset: i64,
    time_ms: i64,
    pub(super) sendable: Sendable<Body<Value>>,
}

#[derive(Default)]
struct Log {
    events: Vec<Arc<Stored>>,
    next_sequence: i64,
    next_offset: i64,
    /// The newest event, even if it is no longer kept.
    last: Option<(i64, i64, i64)>,
}

/// The ends of a partition.
pub(super) struct Ends {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) last_offset: i64,
    pub(super) last_time_ms: i64,
    pub(super) is_empty: bool,
}

/// A partition.
pub(super) struct Partition {
    log: Mutex<Log>,
    pub(super) grown: watch::Sender<i64>,
}

impl Default for Partition {
    fn default() -> Self {
        Self { log: Mutex::default(), grown: watch::channel(-1).0 }
    }
}

impl Partition {
    pub(super) fn append_bytes(&self, body: &[u8]) -> i64 {
        self.append(Message::builder().body(Body::from(Data(Binary::from(body)))).build())
    }

    pub(super) fn append(&self, mut message: Msg) -> i64 {
        let mut log = self.log.lock().unwrap();
        let (sequence, offset, time_ms) = (log.next_sequence, log.next_offset, now_ms());
        let annotations = message.message_annotations.get_or_insert_with(|| MessageAnnotations(OrderedMap::new()));
        annotations.0.insert(OwnedKey::from("x-opt-sequence-number"), Value::Long(sequence));
        annotations.0.insert(OwnedKey::from("x-opt-offset"), Value::String(offset.to_string()));
        let time = Value::Timestamp(Timestamp::from_milliseconds(time_ms));
        annotations.0.insert(OwnedKey::from("x-opt-enqueued-time"), time);
        message.delivery_annotations = None;
        // Offsets are positions in bytes, never equal to sequence numbers, so that confusing them is noticed.
        log.next_offset += 64 + i64::try_from(body_len(&message.body)).unwrap();
        log.next_sequence += 1;
        log.last = Some((sequence, offset, time_ms));
        let sendable = Sendable { message, message_format: 0, settled: Some(false) };
        log.events.push(Arc::new(Stored { sequence, offset, time_ms, sendable }));
        drop(log);
        self.grown.send_replace(sequence);
        sequence
    }

    pub(super) fn drop_before(&self, sequence: i64) {
        self.log.lock().unwrap().events.retain(|event| event.sequence >= sequence);
    }

    pub(super) fn read(&self, from: i64, most: usize) -> Vec<Arc<Stored>> {
        let log = self.log.lock().unwrap();
        let first = log.events.partition_point(|event| event.sequence < from);
        log.events[first..].iter().take(most).cloned().collect()
    }

    pub(super) fn ends(&self) -> Ends {
        let log = self.log.lock().unwrap();
        let (last, last_offset, last_time_ms) = log.last.unwrap_or((-1, -1, 0));
        let first = log.events.first().map_or(last + 1, |event| event.sequence);
        Ends { first, last, last_offset, last_time_ms, is_empty: log.events.is_empty() }
    }

    /// The first sequence number that a start position selects
    /// (<https://learn.microsoft.com/azure/event-hubs/event-hubs-dotnet-standard-getstarted-send> and the SDKs' own).
    pub(super) fn resolve(&self, filter: Option<&str>) -> Result<i64, AmqpError> {
        let log = self.log.lock().unwrap();
        let Some(filter) = filter else { return Ok(log.next_sequence) };
        let bad = || error("com.microsoft:argument-error", &format!("unsupported filter: {filter}"));
        let rest = filter.trim().strip_prefix("amqp.annotation.x-opt-").ok_or_else(bad)?;
        let (field, rest) = rest.split_at(rest.find('>').ok_or_else(bad)?);
        let inclusive = rest.starts_with(">=");
        let literal = rest.trim_start_matches(['>', '=']).trim().trim_matches('\'');
        let key: fn(&Stored) -> i64 = match field.trim() {
            "offset" if literal == "-1" => return Ok(0),
            "offset" if literal == "@latest" => return Ok(log.next_sequence),
            "offset" => |event| event.offset,
            "sequence-number" => |event| event.sequence,
            "enqueued-time" => |event| event.time_ms,
            _ => return Err(bad()),
        };
        let value: i64 = literal.parse().map_err(|_| bad())?;
        let below = |event: &Arc<Stored>| if inclusive { key(event) < value } else { key(event) <= value };
        let first = log.events.partition_point(below);
        Ok(log.events.get(first).map_or(log.next_sequence, |event| event.sequence))
    }
}

fn body_len(body: &Body<Value>) -> usize {
    match body {
        Body::Data(sections) => sections.iter().map(|section| section.0.len()).sum(),
        _ => 0,
    }
}
