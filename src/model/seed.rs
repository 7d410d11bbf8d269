//! The state of assets at a moment, as told by snapshots, lists and descriptions.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Draft, Time};

/// The document that items stand in: all that is known of them besides themselves.
#[derive(Debug, Default)]
pub struct SeedDocument {
    /// When the assets were as the items tell, where an item does not tell that itself.
    pub as_of: Time,
    /// The account, subscription or tenant of items that tell none.
    pub account: Option<String>,
    /// The region of items that tell none.
    pub region: Option<String>,
    /// The member of the document that the items are the value of, or its elements; empty where they stand alone.
    pub member: String,
    /// The other members of the document, but for lists and objects of any size.
    pub members: Map<String, Value>,
    /// What differs from the inventory goes out as an event.
    pub events: bool,
    /// What became of the items so far.
    pub tally: Tally,
}

/// An asset as an item told it.
#[derive(Clone, Debug)]
pub struct Seed {
    /// When it was so.
    pub as_of: Time,
    /// The asset, and the steps that make its configuration out of nothing. Partial: what they do not make is not told,
    /// rather than absent. An action other than upsert says that the asset is gone.
    pub draft: Draft,
}

/// What became of the items of a document.
#[derive(Debug, Default)]
pub struct Tally(Mutex<TallyCounts>);

/// The counts of a [`Tally`]: of assets, but for `unknown_types` and `rejected`, which are of items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TallyCounts {
    /// Not held before.
    pub imported: u64,
    /// Held, and different.
    pub updated: u64,
    /// Held just so.
    pub unchanged: u64,
    /// Told for a time before what is held, and of no effect on it.
    pub older: u64,
    /// In quarantine.
    pub rejected: u64,
    /// Of a type that no rule knows, by type.
    pub unknown_types: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts.
    pub fn count(&self, count: impl FnOnce(&mut TallyCounts)) {
        count(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The counts now.
    #[must_use]
    pub fn counts(&self) -> TallyCounts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TallyCounts {
    /// Adds those of another document.
    pub fn add(&mut self, other: &Self) {
        self.imported += other.imported;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.older += other.older;
        self.rejected += other.rejected;
        for (unknown, count) in &other.unknown_types {
            *self.unknown_types.entry(unknown.clone()).or_default() += count;
        }
    }
}
