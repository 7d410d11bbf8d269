//! What is known of an event's shape (`schema/asset-event-1.json`), so that a misspelt member is refused.

/// A value of an event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Arbitrary members (configurations, tags, the raw record), or a value without members.
    Free,
    /// An object with these members.
    Object(Members),
    /// An array of objects with these members.
    List(Members),
}
use Shape::{Free, List, Object};

pub(super) type Members = &'static [(&'static str, Shape)];

/// An unknown member name, with the known ones.
#[derive(Debug, thiserror::Error)]
#[error("there are {}", self.0.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "))]
pub(super) struct UnknownMember(Members);

impl Shape {
    /// The shape of a member; for a list, of a member of its elements.
    pub(super) fn member(self, name: &str) -> Result<Shape, UnknownMember> {
        match self {
            Free => Ok(Free),
            Object(members) | List(members) => {
                members.iter().find(|(known, _)| *known == name).map(|(_, shape)| *shape).ok_or(UnknownMember(members))
            }
        }
    }

    /// The shape of a list's elements.
    pub(super) fn element(self) -> Shape {
        match self {
            List(members) => Object(members),
            Free | Object(_) => Free,
        }
    }
}

/// Whether a name is a member of the event itself, rather than of `data`.
pub(super) fn in_event(name: &str) -> bool {
    EVENT.iter().any(|(known, _)| *known == name)
}

const PRINCIPAL: Members = &[("kind", Free), ("id", Free), ("arn", Free), ("name", Free), ("account", Free)];

pub(super) const DATA: Members = &[
    ("action", Free),
    (
        "asset",
        Object(&[
            ("name", Free),
            ("type", Free),
            ("provider", Free),
            ("provider_type", Free),
            ("id", Free),
            ("uid", Free),
            ("arn", Free),
            ("display_name", Free),
            ("account", Free),
            ("region", Free),
            ("tags", Free),
        ]),
    ),
    (
        "operation",
        Object(&[("service", Free), ("name", Free), ("event_id", Free), ("request_id", Free), ("outcome", Free)]),
    ),
    (
        "attribution",
        Object(&[
            ("method", Free),
            ("method_reason", Free),
            ("confidence", Free),
            ("tool", Object(&[("name", Free), ("version", Free)])),
            ("ip", Free),
            ("user_agent", Free),
            ("principal", Object(PRINCIPAL)),
            ("assumed", Object(&[("role_arn", Free), ("session_name", Free), ("chain", Free)])),
            ("human", Object(&[("id", Free), ("how", Free)])),
            ("workload", Object(&[("kind", Free), ("id", Free), ("name", Free), ("how", Free)])),
            ("deployment", Object(&[("kind", Free), ("id", Free), ("how", Free)])),
            ("mfa", Free),
            ("on_behalf_of", Free),
            ("detected_by", Free),
        ]),
    ),
    (
        "associations",
        List(&[("relation", Free), ("type", Free), ("id", Free), ("name", Free), ("change", Free), ("at", Free)]),
    ),
    ("configuration", Free),
    ("configuration_state", Free),
    ("previous_configuration", Free),
    ("previous_state", Free),
    ("changes", List(&[("op", Free), ("path", Free), ("from", Free), ("value", Free), ("old", Free)])),
    ("late", Free),
    ("novelty", Free),
    ("observed", Free),
    ("normalizer", Object(&[("rule", Free), ("confidence", Free), ("version", Free)])),
    ("raw", Free),
];

pub(super) const EVENT: Members = &[
    ("specversion", Free),
    ("id", Free),
    ("source", Free),
    ("type", Free),
    ("subject", Free),
    ("time", Free),
    ("datacontenttype", Free),
    ("dataschema", Free),
    ("partitionkey", Free),
    ("data", Object(DATA)),
];
