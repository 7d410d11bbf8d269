//! The format of rule files; `docs/RULES.md` documents it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use toml::Spanned;

use crate::model::{Confidence, RelationChange};

/// One file of `normalizers/<provider>/`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleFile {
    /// The `eventSource`s that the file covers.
    pub(super) service: OneOrMany<String>,
    #[serde(default)]
    pub(super) assets: BTreeMap<String, Spanned<AssetRule>>,
    #[serde(default)]
    pub(super) events: BTreeMap<String, Spanned<OneOrMany<EventRule>>>,
}

/// `[assets."AWS::EC2::SecurityGroup"]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AssetRule {
    /// The neutral type. Without it, the one in `normalizers/taxonomy.toml` for the provider type.
    #[serde(rename = "type")]
    pub(super) neutral_type: Option<Spanned<String>>,
    pub(super) name: Spanned<String>,
    pub(super) arn: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) global: bool,
    pub(super) id_prefix: Option<String>,
    #[serde(default)]
    pub(super) display: Texts,
    #[serde(default)]
    pub(super) uid: Texts,
    pub(super) tags: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) sets: BTreeMap<Spanned<String>, OneOrMany<String>>,
    /// Azure only: types that are written separately and are parts of the resource → their place in its configuration.
    #[serde(default)]
    pub(super) parts: BTreeMap<String, Spanned<String>>,
}

/// `[events.AuthorizeSecurityGroupIngress]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventRule {
    pub(super) action: Option<RuleAction>,
    pub(super) asset: Option<AssetChoice>,
    #[serde(default)]
    pub(super) id: Texts,
    #[serde(default)]
    pub(super) each: Texts,
    #[serde(default)]
    pub(super) vars: BTreeMap<String, Spanned<OneOrMany<String>>>,
    #[serde(default)]
    pub(super) arn: Texts,
    #[serde(default)]
    pub(super) account: Texts,
    #[serde(default)]
    pub(super) region: Texts,
    #[serde(default)]
    pub(super) when: BTreeMap<Spanned<String>, ConditionRule>,
    #[serde(default)]
    pub(super) except: Texts,
    #[serde(default)]
    pub(super) apply: Vec<Spanned<StepRule>>,
    #[serde(default)]
    pub(super) associations: Vec<Spanned<AssociationRule>>,
    #[serde(default)]
    pub(super) redact: Texts,
    #[serde(default)]
    pub(super) partial: bool,
    pub(super) skip: Option<String>,
    /// How certain type, action and asset are; high by default.
    pub(super) confidence: Option<Confidence>,
}

#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RuleAction {
    Create,
    Update,
    Delete,
    Upsert,
}

/// One element of `apply`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepRule {
    pub(super) op: Op,
    #[serde(default)]
    pub(super) when: BTreeMap<Spanned<String>, ConditionRule>,
    #[serde(default)]
    pub(super) required: bool,
    pub(super) at: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) from: Texts,
    pub(super) value: Option<Value>,
    pub(super) object: Option<BTreeMap<String, ObjectField>>,
    /// Members of the value to leave out.
    #[serde(default)]
    pub(super) without: Vec<String>,
    #[serde(default)]
    pub(super) each: Texts,
    #[serde(default)]
    pub(super) by: Texts,
    /// For `rename` and `copy`.
    #[serde(default)]
    pub(super) id: Texts,
    /// For `copy`.
    pub(super) asset: Option<String>,
    /// For `copy`.
    pub(super) from_at: Option<Spanned<String>>,
}

/// The closed set of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Op {
    Replace,
    Set,
    Unset,
    Merge,
    Add,
    Remove,
    Delete,
    Rename,
    Copy,
    Recall,
    Touch,
}

/// One element of `associations`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AssociationRule {
    pub(super) relation: Relation,
    #[serde(rename = "type")]
    pub(super) asset: Spanned<AssetChoice>,
    #[serde(default)]
    pub(super) when: BTreeMap<Spanned<String>, ConditionRule>,
    #[serde(default)]
    pub(super) id: Texts,
    #[serde(default)]
    pub(super) account: Texts,
    #[serde(default)]
    pub(super) region: Texts,
    #[serde(default)]
    pub(super) each: Texts,
    #[serde(default)]
    pub(super) vars: BTreeMap<String, Spanned<OneOrMany<String>>>,
    pub(super) change: Option<RelationChange>,
}

/// The closed set of relations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Relation {
    In,
    AttachedTo,
    MemberOf,
    Uses,
    EncryptedBy,
    Assumes,
    RoutesTo,
    PeeredWith,
    CreatedFrom,
    PartOf,
    Protects,
    Grants,
}

impl Relation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::AttachedTo => "attached_to",
            Self::MemberOf => "member_of",
            Self::Uses => "uses",
            Self::EncryptedBy => "encrypted_by",
            Self::Assumes => "assumes",
            Self::RoutesTo => "routes_to",
            Self::PeeredWith => "peered_with",
            Self::CreatedFrom => "created_from",
            Self::PartOf => "part_of",
            Self::Protects => "protects",
            Self::Grants => "grants",
        }
    }
}

/// One value, or a list of them.
#[derive(Debug, Default)]
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

/// Sources or pointers: one text, or a list of alternatives.
pub(super) type Texts = Option<Spanned<OneOrMany<String>>>;

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one, or a list")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                use serde::de::IntoDeserializer;
                T::deserialize(text.into_deserializer()).map(|one| OneOrMany(vec![one]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMany)
            }
        }
        deserializer.deserialize_any(Visit(PhantomData))
    }
}

/// A member of an `object`: sources, or a nested object.
#[derive(Debug)]
pub(super) enum ObjectField {
    Sources(OneOrMany<String>),
    Nested(BTreeMap<String, ObjectField>),
}

/// `asset = "AWS::EC2::Instance"`, or `asset = { by = … }` with `"id_prefix"`, `"arm_id"` or `"arn"`.
#[derive(Debug)]
pub(super) enum AssetChoice {
    Type(String),
    ByIdPrefix,
    ByArmId,
    ByArn,
}

/// What a condition in `when` expects.
#[derive(Debug)]
pub(super) struct ConditionRule(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for ObjectField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = ObjectField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a source, a list of sources, or a table of them")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(ObjectField::Sources(OneOrMany(vec![text.to_owned()])))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(|many| ObjectField::Sources(OneOrMany(many)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(ObjectField::Nested)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

impl<'de> Deserialize<'de> for AssetChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Choice {
            by: By,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum By {
            IdPrefix,
            ArmId,
            Arn,
        }
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = AssetChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a provider type, { by = \"id_prefix\" }, { by = \"arn\" } or { by = \"arm_id\" }")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(AssetChoice::Type(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let Choice { by } = Choice::deserialize(MapAccessDeserializer::new(map))?;
                Ok(match by {
                    By::IdPrefix => AssetChoice::ByIdPrefix,
                    By::Arn => AssetChoice::ByArn,
                    By::ArmId => AssetChoice::ByArmId,
                })
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

impl<'de> Deserialize<'de> for ConditionRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = ConditionRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, true, false, a list of texts, \"*\" (present) or \"!\" (absent)")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(ConditionRule(vec![text.to_owned()]))
            }

            fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<Self::Value, E> {
                Ok(ConditionRule(vec![flag.to_string()]))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(ConditionRule(vec![number.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(ConditionRule)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}
