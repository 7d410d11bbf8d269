//! The normalizer's output for a record: drafts of changes, which the inventory completes.

use std::sync::Arc;

use super::{Action, AssetName, Attribution, Confidence, Evidence, Time};
use crate::json::{Json, JsonText};
use bytes::Bytes;
use jsonptr::PointerBuf;
use serde::Serialize;

/// A normalized record: what all of its events have in common.
#[derive(Clone, Debug)]
pub struct RecordInfo {
    /// The provider's event id; a hash of the record if it has none.
    pub event_id: String,
    /// The provider's event time.
    pub time: Time,
    /// CloudEvents `source`: `//aws/<account>/<region>`.
    pub source: String,
    /// The provider's call.
    pub operation: Operation,
    /// Who made the call.
    pub attribution: Attribution,
    /// What it contributes to the correlation with other records.
    pub evidence: Evidence,
    /// The record on one line, redacted.
    pub raw: Bytes,
}

/// The provider's call.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    /// The service: `ec2.amazonaws.com`.
    pub service: String,
    /// The call's name, as in the record: `CreateFunction20150331`.
    pub name: String,
    /// The provider's event id.
    pub event_id: String,
    /// The provider's request id.
    pub request_id: Option<String>,
    /// `success`, or `accepted` or `started` for an operation whose end was not reported. Failed calls change nothing.
    pub outcome: &'static str,
}

/// The action according to a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftAction {
    /// This one, whatever the inventory holds.
    Known(Action),
    /// Create or update, depending on whether the inventory holds the asset.
    Upsert,
}

/// A change of one asset, as far as one record tells.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What happened.
    pub action: DraftAction,
    /// The asset.
    pub asset: AssetRef,
    /// The change of its configuration.
    pub steps: Vec<Step>,
    /// Whether the record tells only a part of the change.
    pub partial: bool,
    /// Other assets that the record refers to.
    pub associations: Vec<Association>,
    /// The rule: `aws/ec2/RunInstances`.
    pub rule: Arc<str>,
    /// How sure the rule is of type, action and asset; low for the generic rules.
    pub confidence: Confidence,
}

/// An asset, as a record identifies it.
#[derive(Clone, Debug)]
pub struct AssetRef {
    /// Its type.
    pub kind: Arc<AssetKind>,
    /// Its name.
    pub name: AssetName,
    /// The provider's id.
    pub id: String,
    /// The ARN or other full name.
    pub arn: Option<String>,
    /// Whether the record itself contains the ARN, rather than a template composing it.
    pub arn_is_told: bool,
    /// The account it lives in.
    pub account: String,
    /// The region it lives in, `-` for global ones.
    pub region: String,
}

/// A type of asset, as the rules define it.
#[derive(Clone, Debug, Default)]
pub struct AssetKind {
    /// `aws` or `azure`.
    pub provider: &'static str,
    /// The provider's name of the type: `AWS::EC2::Instance`.
    pub provider_type: String,
    /// The neutral type: `compute.instance`.
    pub neutral_type: String,
    /// Where the configuration has the display name; the first match counts.
    pub display: Vec<PointerBuf>,
    /// Where the configuration has the tags.
    pub tags: PointerBuf,
    /// What the provider never reuses for another asset; the first one present counts.
    pub uid: Vec<UniqueId>,
    /// The arrays that are sets.
    pub sets: Vec<KeyedSet>,
}

impl AssetKind {
    /// The region according to a configuration: Azure resources have it in `location`, for display (`West Europe`) or
    /// as a name (`westeurope`).
    #[must_use]
    pub fn region_in(&self, configuration: Json<'_>) -> Option<String> {
        let location = configuration.get("location").filter(|_| self.provider == "azure").and_then(Json::as_str)?;
        let name: String =
            location.chars().filter(|letter| !letter.is_whitespace()).flat_map(char::to_lowercase).collect();
        (!name.is_empty() && name != "global").then_some(name)
    }
}

/// Where an asset has an id that the provider never reuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UniqueId {
    /// The id in the records is itself unique.
    Id,
    /// In the configuration.
    At(PointerBuf),
}

/// An array that is a set, and the key of its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedSet {
    /// The array within the configuration.
    pub at: PointerBuf,
    /// Pointers into an element; their values together are its key.
    pub key: Arc<[PointerBuf]>,
    /// Whether keys that differ only in case are the same: Azure does not distinguish case in names.
    pub ignore_case: bool,
}

/// One step of a change to a configuration. Its values are already taken from the record.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Replaces the whole configuration.
    Replace(JsonText),
    /// Sets a value.
    Set {
        /// Its place; missing parents are created.
        at: PointerBuf,
        /// The value.
        value: JsonText,
    },
    /// Removes a value.
    Unset {
        /// Its place.
        at: PointerBuf,
    },
    /// Applies a merge patch (RFC 7396).
    Merge {
        /// The place of the patched object.
        at: PointerBuf,
        /// The patch.
        patch: JsonText,
    },
    /// Adds elements to a set; an element with the same key is replaced.
    Add {
        /// The set.
        set: KeyedSet,
        /// The elements.
        elements: Vec<JsonText>,
    },
    /// Removes elements from a set.
    Remove {
        /// The set.
        set: KeyedSet,
        /// The elements, or at least their keys.
        elements: Vec<JsonText>,
    },
    /// Removes members of an object, such as tags by their keys; missing ones are ignored.
    RemoveMembers {
        /// The object.
        at: PointerBuf,
        /// The keys.
        keys: Vec<String>,
    },
    /// Merges elements of a set with the patches of the same key (RFC 7396).
    MergeElements {
        /// The set.
        set: KeyedSet,
        /// The patches.
        elements: Vec<JsonText>,
    },
    /// The provider gave the asset another id. It keeps its first name.
    Rename {
        /// The new id.
        id: String,
        /// The name according to records that know only the new id.
        alias: AssetName,
        /// The new ARN.
        arn: Option<String>,
    },
    /// Copies from another asset's configuration.
    Copy {
        /// The other asset.
        from: AssetName,
        /// Which part of it.
        from_at: PointerBuf,
        /// The place of the copy.
        at: PointerBuf,
    },
    /// The configuration before the change, according to the record; used if the inventory has no asset of this name.
    Recall(JsonText),
    /// Something changed, but the record does not say what.
    Touch,
}

/// Another asset that a record refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Association {
    /// `in`, `attached_to`, `member_of`, `uses`, `encrypted_by`, `assumes`, …
    pub relation: Arc<str>,
    /// The neutral type of the other asset.
    #[serde(rename = "type")]
    pub neutral_type: Arc<str>,
    /// The provider's id of the other asset.
    pub id: String,
    /// The other asset's name.
    pub name: AssetName,
    /// `added` or `removed` where the event changes the relation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<RelationChange>,
    /// Its place in the configuration (for a removed one: in the previous configuration) if it was found there; `None`
    /// if a rule gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<PointerBuf>,
}

/// How an event changes a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelationChange {
    /// The relation begins.
    Added,
    /// The relation ends.
    Removed,
}
