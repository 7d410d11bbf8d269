//! How far the objects whose messages are not yet deleted have been delivered. It is the source's cursor, committed
//! with the records: after a crash, reading an object that is announced again resumes after what is in the log.
//! Repeated records would be dropped as duplicates by their event ids anyway, but rejects have no id and would be
//! quarantined twice.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::source::aws::object::ObjectRef;
use crate::source::aws::reader::Progress;

const VERSION: u32 = 1;

/// Most objects with rejected records remembered after deletion of their messages, since a queue may deliver twice.
const REMEMBERED: usize = 256;

/// Age at which entries expire: after a crash their messages may never be received again. No queue retains messages for
/// more than 14 days.
const EXPIRY_MILLIS: i64 = 14 * 24 * 60 * 60 * 1_000;

/// The key of an object or a message: the hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(u128);

impl Key {
    pub(super) fn of_object(object: &ObjectRef) -> Self {
        Self(xxh3_128(object.location().as_bytes()))
    }

    pub(super) fn of_message(id: &str) -> Self {
        Self(xxh3_128(format!("message {id}").as_bytes()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    progress: Progress,
    done: bool,
    rejects: bool,
    since: i64,
}

/// A stored entry: key, etag, pieces, done, rejects, since.
#[derive(Serialize, Deserialize)]
struct Row(String, String, u64, bool, bool, i64);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    objects: Vec<Row>,
}

/// The ledger of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    entries: BTreeMap<Key, Entry>,
    /// Entries with rejects whose messages were deleted, in the order of deletion.
    remembered: VecDeque<Key>,
}

impl Ledger {
    /// Decodes the output of [`encode`](Ledger::encode).
    ///
    /// # Errors
    /// When it has another version.
    pub(super) fn decode(cursor: &[u8], now: i64) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(cursor).map_err(|error| error.to_string())?;
        if document.version != VERSION {
            return Err(format!("version {} instead of {VERSION}", document.version));
        }
        let mut ledger = Self::default();
        let mut remembered = Vec::new();
        for Row(key, etag, pieces, done, rejects, since) in document.objects {
            let key = Key(u128::from_str_radix(&key, 16).map_err(|error| format!("{key}: {error}"))?);
            if now - since < EXPIRY_MILLIS {
                if done && rejects {
                    remembered.push((since, key));
                }
                ledger.entries.insert(key, Entry { progress: Progress { etag, pieces }, done, rejects, since });
            }
        }
        remembered.sort_unstable();
        ledger.remembered = remembered.into_iter().map(|(_, key)| key).collect();
        Ok(ledger)
    }

    pub(super) fn encode(&self) -> Bytes {
        let row = |(key, entry): (&Key, &Entry)| {
            let Progress { etag, pieces } = entry.progress.clone();
            Row(format!("{:x}", key.0), etag, pieces, entry.done, entry.rejects, entry.since)
        };
        let document = Document { version: VERSION, objects: self.entries.iter().map(row).collect() };
        // Strings and numbers only: it can't fail.
        serde_json::to_vec(&document).unwrap_or_default().into()
    }

    /// How far an object has been delivered.
    pub(super) fn progress(&self, key: Key) -> Progress {
        self.entries.get(&key).map(|entry| entry.progress.clone()).unwrap_or_default()
    }

    /// Whether an object has been delivered completely.
    pub(super) fn is_done(&self, key: Key) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.done)
    }

    /// Records further progress with an object.
    pub(super) fn advance(&mut self, key: Key, progress: Progress, done: bool, rejects: bool, now: i64) {
        let had_rejects = self.entries.get(&key).is_some_and(|entry| entry.rejects);
        let since = self.entries.get(&key).map_or(now, |entry| entry.since);
        self.entries.insert(key, Entry { progress, done, rejects: rejects || had_rejects, since });
    }

    /// Forgets an entry, as its message was deleted.
    pub(super) fn forget(&mut self, key: Key) {
        if self.entries.get(&key).is_some_and(|entry| entry.done && entry.rejects) {
            if !self.remembered.contains(&key) {
                self.remembered.push_back(key);
            }
            if self.remembered.len() > REMEMBERED
                && let Some(oldest) = self.remembered.pop_front()
            {
                self.entries.remove(&oldest);
            }
        } else {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn progress(pieces: u64) -> Progress {
        Progress { etag: "\"e\"".to_owned(), pieces }
    }

    #[test]
    fn it_holds_what_is_not_yet_deleted_and_what_would_be_told_twice() {
        let mut ledger = Ledger::default();
        let (plain, broken) = (Key::of_message("a"), Key::of_message("b"));
        ledger.advance(plain, progress(500), false, false, 1);
        ledger.advance(broken, progress(7), false, true, 1);
        ledger.advance(broken, progress(9), true, false, 2);
        assert_eq!((ledger.progress(plain), ledger.is_done(plain)), (progress(500), false));
        assert!(ledger.is_done(broken));
        ledger.forget(plain);
        ledger.forget(broken);
        assert_eq!((ledger.progress(plain), ledger.is_done(broken)), (Progress::default(), true));
        for n in 0..REMEMBERED {
            let key = Key::of_message(&n.to_string());
            ledger.advance(key, progress(1), true, true, 3);
            ledger.forget(key);
        }
        assert!(!ledger.is_done(broken), "the oldest is forgotten");
        assert_eq!(ledger.entries.len(), REMEMBERED);
    }

    #[test]
    fn entries_of_messages_that_never_came_again_expire() {
        let mut ledger = Ledger::default();
        ledger.advance(Key::of_message("a"), progress(1), true, false, 1);
        assert_eq!(Ledger::decode(&ledger.encode(), EXPIRY_MILLIS).as_ref(), Ok(&ledger));
        assert!(ledger.remembered.is_empty());
        assert_eq!(Ledger::decode(&ledger.encode(), EXPIRY_MILLIS + 1), Ok(Ledger::default()));
        assert!(Ledger::decode(br#"{"version":2,"objects":[]}"#, 0).unwrap_err().contains("version 2"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(names in proptest::collection::vec("\\PC{0,12}", 0..20), pieces in any::<u64>(), done in any::<bool>()) {
            let mut ledger = Ledger::default();
            for name in &names {
                ledger.advance(Key::of_message(name), progress(pieces), done, !done, 5);
            }
            let read = Ledger::decode(&ledger.encode(), 6).unwrap();
            prop_assert_eq!(read.encode(), ledger.encode());
        }
    }
}
