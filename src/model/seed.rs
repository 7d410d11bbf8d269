//! The state of assets at a point in time, as snapshots, listings and descriptions report it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Draft, Time};

/// The document that items come from: everything about it except the items.
#[derive(Debug, Default)]
pub struct SeedDocument {
    /// The time of the items' state, for items without a time of their own.
    pub as_of: Time,
    /// The account, subscription or tenant of items without one of their own.
    pub account: Option<String>,
    /// The region of items without one of their own.
    pub region: Option<String>,
    /// The member of the document that holds the item or the array of items; empty if the item is the whole document.
    pub member: String,
    /// The other members of the document, except large arrays and objects.
    pub members: Map<String, Value>,
    /// Whether differences from the inventory become events.
    pub events: bool,
    /// The results of its items so far.
    pub tally: Tally,
}

/// An asset as described by an item.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The time of the described state.
    pub as_of: Time,
    /// The asset, and the steps that build its configuration from nothing. If partial, what they do not build is
    /// unknown rather than absent. Any action but upsert means that the asset is gone.
    pub draft: Draft,
}

/// The results of the items of a document.
#[derive(Debug, Default)]
pub struct Tally(Mutex<TallyCounts>);

/// The counts of a [`Tally`]: of assets, except `unknown_types` and `rejected`, which count items, or the parts of an
/// item with several assets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TallyCounts {
    /// New in the inventory.
    pub imported: u64,
    /// In the inventory, and different.
    pub updated: u64,
    /// In the inventory, and identical.
    pub unchanged: u64,
    /// Older than the state in the inventory, and so without effect.
    pub older: u64,
    /// In quarantine.
    pub rejected: u64,
    /// Items of types without a rule, by type.
    pub unknown_types: BTreeMap<String, u64>,
}

impl Tally {
    /// Changes the counts.
    pub fn count(&self, count: impl FnOnce(&mut TallyCounts)) {
        count(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The current counts.
    #[must_use]
    pub fn counts(&self) -> TallyCounts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TallyCounts {
    /// Adds the counts of another document.
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
