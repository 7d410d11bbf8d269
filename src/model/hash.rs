//! Maps that are asked for every record.

use std::collections::HashMap;

/// Faster on short texts than the standard library's hasher, whose hashing took a twentieth of the ingest loop's time.
/// Seeded anew in each process.
pub type FastState = foldhash::fast::RandomState;

/// A hash map for the hot path.
pub type FastMap<K, V> = HashMap<K, V, FastState>;
