//! The normalizer's output for a record: drafts of changes, which the inventory completes.

use std::sync::Arc;

use super::{Action, AssetName, Attribution, Confidence, Evidence, Time};
use crate::json::{Json, JsonText};
use bytes::Bytes;
use jsonptr::PointerBuf;
use serde::Serialize;

/// A record that was understood, with all that its events share.
#[derive(Clone, Debug)]
pub struct RecordInfo {
    /// The provider's id of the event; a hash of the record where it has none.
    pub event_id: String,
    /// The provider's event time.
    pub time: Time,
    /// CloudEvents `source`: `//aws/<account>/<region>`.
    pub source: String,
    /// The call.
    pub operation: Operation,
    /// Who did it.
    pub attribution: Attribution,
    /// What it tells that matters to other records.
    pub evidence: Evidence,
    /// The record on one line, redacted.
    pub raw: Bytes,
}

/// The provider's call.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    /// The service: `ec2.amazonaws.com`.
    pub service: String,
    /// The call as the record spells it: `CreateFunction20150331`.
    pub name: String,
    /// The provider's id of the event.
    pub event_id: String,
    /// The provider's id of the request.
    pub request_id: Option<String>,
    /// `success`: a failed call is no change. `accepted` or `started` where the end of an operation was not told.
    pub outcome: &'static str,
}

/// What a rule says that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftAction {
    /// This, certainly.
    Known(Action),
    /// Create or update, by what the inventory holds.
    Upsert,
}

/// One asset's change as one record tells it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What happened.
    pub action: DraftAction,
    /// To which asset.
    pub asset: AssetRef,
    /// What it did to the configuration.
    pub steps: Vec<Step>,
    /// The record does not tell all of it.
    pub partial: bool,
    /// Other assets that the record names.
    pub associations: Vec<Association>,
    /// The rule: `aws/ec2/RunInstances`.
    pub rule: Arc<str>,
    /// How sure the rule is of type, action and asset: low where only the generic rules know the call.
    pub confidence: Confidence,
}

/// An asset as a record names it.
#[derive(Clone, Debug)]
pub struct AssetRef {
    /// Its kind.
    pub kind: Arc<AssetKind>,
    /// Its name.
    pub name: AssetName,
    /// The provider's id.
    pub id: String,
    /// The ARN or other full name.
    pub arn: Option<String>,
    /// The ARN stands in the record; it is not composed from a template.
    pub arn_is_told: bool,
    /// The account it lives in.
    pub account: String,
    /// The region it lives in, `-` for global ones.
    pub region: String,
}

/// A kind of asset, as the rules define it.
#[derive(Clone, Debug, Default)]
pub struct AssetKind {
    /// `aws` or `azure`.
    pub provider: &'static str,
    /// The provider's name of the type: `AWS::EC2::Instance`.
    pub provider_type: String,
    /// The neutral one: `compute.instance`.
    pub neutral_type: String,
    /// Where the configuration tells the name that people know, first match wins.
    pub display: Vec<PointerBuf>,
    /// Where the configuration keeps the tags.
    pub tags: PointerBuf,
    /// What the provider never gives to another asset, first that is told.
    pub uid: Vec<UniqueId>,
    /// The arrays that are sets.
    pub sets: Vec<KeyedSet>,
}

impl AssetKind {
    /// The region that a configuration tells: a resource of Azure's keeps its place in `location`, as people
    /// (`West Europe`) or as programs write it (`westeurope`).
    #[must_use]
    pub fn region_in(&self, configuration: Json<'_>) -> Option<String> {
        let location = configuration.get("location").filter(|_| self.provider == "azure").and_then(Json::as_str)?;
        let name: String =
            location.chars().filter(|letter| !letter.is_whitespace()).flat_map(char::to_lowercase).collect();
        (!name.is_empty() && name != "global").then_some(name)
    }
}

/// Where the provider tells an id of an asset that is never given to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UniqueId {
    /// The id by which records name the asset is one.
    Id,
    /// In the configuration.
    At(PointerBuf),
}

/// An array that is a set, and what makes an element itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedSet {
    /// The array within the configuration.
    pub at: PointerBuf,
    /// Pointers into an element; all of them together are its key.
    pub key: Arc<[PointerBuf]>,
    /// Keys that differ in upper and lower case only are the same: Azure is not strict with names.
    pub ignore_case: bool,
}

/// One step of what a call does to a configuration. The values are out of the record already.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The configuration becomes this.
    Replace(JsonText),
    /// The value at a place becomes this.
    Set {
        /// The place; missing parents are made.
        at: PointerBuf,
        /// The value.
        value: JsonText,
    },
    /// What is at a place goes.
    Unset {
        /// The place.
        at: PointerBuf,
    },
    /// RFC 7396 merge patch.
    Merge {
        /// The object.
        at: PointerBuf,
        /// The patch.
        patch: JsonText,
    },
    /// Elements come into a set; one with the same key is replaced.
    Add {
        /// The set.
        set: KeyedSet,
        /// The elements.
        elements: Vec<JsonText>,
    },
    /// Elements leave a set.
    Remove {
        /// The set.
        set: KeyedSet,
        /// Elements, or as much of them as the key needs.
        elements: Vec<JsonText>,
    },
    /// Members leave an object: tags by their keys. What is not there is as it should be.
    RemoveMembers {
        /// The object.
        at: PointerBuf,
        /// The keys.
        keys: Vec<String>,
    },
    /// Elements of a set are merged (RFC 7396) with what comes under the same key.
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
        /// What a record that knows only the new id would name it.
        alias: AssetName,
        /// The new ARN.
        arn: Option<String>,
    },
    /// What another asset holds is copied.
    Copy {
        /// The other asset.
        from: AssetName,
        /// What of it.
        from_at: PointerBuf,
        /// To where.
        at: PointerBuf,
    },
    /// What the asset held before, as the record tells it: taken where nothing of the same name is held.
    Recall(JsonText),
    /// Something changed that the record does not tell.
    Touch,
}

/// Another asset that a record names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Association {
    /// `in`, `attached_to`, `member_of`, `uses`, `encrypted_by`, `assumes`, …
    pub relation: Arc<str>,
    /// The neutral type of the other asset.
    #[serde(rename = "type")]
    pub neutral_type: Arc<str>,
    /// The provider's id of it.
    pub id: String,
    /// Its name.
    pub name: AssetName,
    /// `added` or `removed` where the event changes the relation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<RelationChange>,
    /// Where it stands in the configuration (of one removed: in the previous one), if it was found there rather than told
    /// by a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<PointerBuf>,
}

/// What an event does to a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelationChange {
    /// From now on it holds.
    Added,
    /// It no longer holds.
    Removed,
}
