//! Compiled rules: pointers parsed, names resolved, everything checked.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jsonptr::PointerBuf;
use serde_json::Value;

use super::arn::ArnIndex;
use super::azure::ArmId;
use super::compile::{LazyEvents, RuleError};
use super::expression::{Scope, Sources};
use super::pointer::Path;
use super::references::References;
use super::template::{Parts, Template};
use crate::json::Json;
use crate::model::{Action, AssetKind, AssetName, Confidence, KeyedSet, RelationChange};

/// The compiled rules of one provider.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) services: HashMap<Box<str>, ServicePlan>,
    /// By provider type.
    pub(super) assets: HashMap<Box<str>, Arc<AssetPlan>>,
    /// Assets by ARN and id prefix.
    pub(super) references: References,
    pub(super) arns: ArnIndex,
}

impl Plan {
    /// The names of all rules. Compiles those not used yet.
    pub(super) fn rule_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.values().flat_map(|service| {
            let generated = service.generated.iter().flat_map(|file| file.events(&self.assets));
            let unless_by_hand = generated.filter(|(name, _)| !service.events.contains_key(&**name));
            let rules = service.events.iter().chain(unless_by_hand);
            rules.filter_map(|(_, rules)| rules.first()).map(|rule| &rule.rule)
        })
    }

    /// Mistakes in the generated rules. Compiles those not used yet.
    pub(super) fn mistakes(&self) -> impl Iterator<Item = &RuleError> {
        self.services.values().flat_map(|service| &service.generated).flat_map(|file| file.mistakes(&self.assets))
    }
}

/// The rules of one service.
#[derive(Debug, Default)]
pub(super) struct ServicePlan {
    /// By event name without version suffix. All rules of a name whose conditions hold are applied.
    pub(super) events: HashMap<Box<str>, Vec<EventPlan>>,
    /// For events that are not in `events`.
    pub(super) generated: Option<LazyEvents>,
}

impl Plan {
    pub(super) fn events(&self, service: &str, name: &str) -> Option<&[EventPlan]> {
        let service = self.services.get(service)?;
        let generated = || service.generated.as_ref()?.events(&self.assets).get(name);
        service.events.get(name).or_else(generated).map(Vec::as_slice)
    }
}

/// A type of asset: its definition, and how its assets are named.
#[derive(Debug)]
pub(super) struct AssetPlan {
    pub(super) kind: Arc<AssetKind>,
    pub(super) name: Template,
    pub(super) arn: Option<Template>,
    /// Assets of this type have no region.
    pub(super) global: bool,
    /// Ids with this prefix are of this type: `sg-`.
    pub(super) id_prefix: Option<Box<str>>,
}

impl AssetPlan {
    pub(super) fn asset_name(&self, parts: &Parts<'_>) -> Option<AssetName> {
        if self.name.is_arm_id() {
            return Some(ArmId::parse(parts.id)?.whole()?.asset_name(parts.account));
        }
        let tail = self.name.render(parts, true)?;
        let region = if self.global { "-" } else { parts.region };
        Some(AssetName::new(self.kind.provider, parts.account, region, &tail))
    }
}

/// One compiled rule of an event.
#[derive(Debug)]
pub(super) struct EventPlan {
    /// `aws/ec2/RunInstances`.
    pub(super) rule: Arc<str>,
    /// Generated from public models of the service, not written by hand.
    pub(super) generated: bool,
    pub(super) confidence: Confidence,
    pub(super) when: Box<[Condition]>,
    pub(super) redact: Box<[Path]>,
    pub(super) body: Body,
}

impl EventPlan {
    /// Whether the conditions on the record hold.
    pub(super) fn holds(&self, scope: Scope<'_>) -> bool {
        self.when.iter().filter(|condition| !condition.what.is_of_element()).all(|condition| condition.holds(scope))
    }

    /// Whether the conditions on the current element of `each` hold.
    pub(super) fn holds_for_element(&self, scope: Scope<'_>) -> bool {
        self.when.iter().filter(|condition| condition.what.is_of_element()).all(|condition| condition.holds(scope))
    }
}

/// What a rule does: skip the record, for this reason, or make drafts of a change.
#[derive(Debug)]
pub(super) enum Body {
    Skip(Arc<str>),
    Change(Box<ChangePlan>),
}

/// How a rule makes drafts of a change. Each source is documented in `docs/RULES.md` under the same key.
#[derive(Debug)]
pub(super) struct ChangePlan {
    /// `None`: create or update, depending on the inventory.
    pub(super) action: Option<Action>,
    pub(super) asset: AssetPick,
    pub(super) id: Sources,
    pub(super) each: Option<Sources>,
    pub(super) vars: Box<[(Box<str>, Sources)]>,
    pub(super) arn: Option<Sources>,
    pub(super) account: Option<Sources>,
    pub(super) region: Option<Sources>,
    /// Ids of assets to leave out: those for which the call failed.
    pub(super) except: Option<Sources>,
    /// The steps, in order.
    pub(super) apply: Box<[StepPlan]>,
    pub(super) associations: Box<[AssociationPlan]>,
    /// The configuration is only partially known after the change.
    pub(super) partial: bool,
}

/// How a rule determines the type of the asset.
#[derive(Debug)]
pub(super) enum AssetPick {
    Kind(Arc<AssetPlan>),
    ByIdPrefix,
    ByArmId,
    ByArn,
}

/// A step with its conditions.
#[derive(Debug)]
pub(super) struct StepPlan {
    pub(super) when: Box<[Condition]>,
    /// The configuration is only partially known if the step finds no value.
    pub(super) required: bool,
    pub(super) op: OpPlan,
}

/// The operation of a step; it yields the [`Step`](crate::model::Step) of the same name.
#[derive(Debug)]
pub(super) enum OpPlan {
    Replace(ValuePlan),
    Set { at: PointerBuf, value: ValuePlan },
    Unset { at: PointerBuf },
    Merge { at: PointerBuf, patch: ValuePlan },
    Add { set: KeyedSet, elements: ElementsPlan },
    Remove { set: KeyedSet, elements: ElementsPlan },
    RemoveMembers { at: PointerBuf, keys: ElementsPlan },
    MergeElements { set: KeyedSet, elements: ElementsPlan },
    Rename { id: Sources },
    Copy { asset: Arc<AssetPlan>, id: Sources, from_at: PointerBuf, at: PointerBuf },
    Recall(ValuePlan),
    Touch,
}

/// How a step gets its value.
#[derive(Debug)]
pub(super) enum ValuePlan {
    From(Sources),
    Literal(Value),
    Object(Vec<(String, ValuePlan)>),
    /// An object without some of its members.
    Without(Box<ValuePlan>, Box<[Box<str>]>),
}

impl ValuePlan {
    pub(super) fn value<'a>(&'a self, scope: Scope<'a>) -> Option<Json<'a>> {
        let arena = scope.record.arena;
        match self {
            Self::From(sources) => sources.value(scope),
            Self::Literal(value) => Some(Json::copied(value, arena)),
            Self::Object(fields) => {
                let told = fields.iter().filter_map(|(key, field)| Some((key.as_str(), field.value(scope)?)));
                Some(Json::object(told, arena)).filter(|object| *object != Json::EMPTY)
            }
            Self::Without(whole, left_out) => {
                let value = whole.value(scope)?;
                let Some(members) = value.as_object() else { return Some(value) };
                let is_left_out = |key: &str| left_out.iter().any(|name| name.eq_ignore_ascii_case(key));
                Some(Json::object(members.iter().filter(|(key, _)| !is_left_out(key)), arena))
            }
        }
    }
}

/// The elements of a step on a set.
#[derive(Debug)]
pub(super) struct ElementsPlan {
    /// One element for each of these; without it, a single one.
    pub(super) each: Option<Sources>,
    /// The value built from each; without it, the element itself.
    pub(super) value: Option<ValuePlan>,
}

impl ElementsPlan {
    pub(super) fn elements<'a>(&'a self, scope: Scope<'a>) -> Vec<Json<'a>> {
        match (&self.each, &self.value) {
            (None, None) => Vec::new(),
            (None, Some(value)) => value.value(scope).into_iter().collect(),
            (Some(each), None) => each.elements(scope).to_vec(),
            (Some(each), Some(value)) => {
                each.elements(scope).iter().filter_map(|element| value.value(scope.with(*element))).collect()
            }
        }
    }
}

/// How a rule makes associations.
#[derive(Debug)]
pub(super) struct AssociationPlan {
    pub(super) relation: Arc<str>,
    pub(super) asset: AssetPick,
    pub(super) id: Sources,
    pub(super) each: Option<Sources>,
    pub(super) vars: Box<[(Box<str>, Sources)]>,
    pub(super) account: Option<Sources>,
    pub(super) region: Option<Sources>,
    pub(super) when: Box<[Condition]>,
    pub(super) change: Option<RelationChange>,
}

/// One entry of `when`.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) what: Sources,
    pub(super) test: Test,
}

/// What a condition expects.
#[derive(Debug)]
pub(super) enum Test {
    Present,
    Absent,
    /// The value matches one of the globs, or is absent if `or_absent`.
    OneOf {
        globs: Box<[Glob]>,
        or_absent: bool,
    },
}

impl Condition {
    pub(super) fn holds(&self, scope: Scope<'_>) -> bool {
        match &self.test {
            Test::Present => self.what.stated(scope).is_some(),
            Test::Absent => self.what.value(scope).is_none(),
            Test::OneOf { globs, or_absent } => match self.what.stated(scope) {
                Some(value) if value.as_str() != Some("") || !or_absent => {
                    let text = value.scalar_text(scope.record.arena);
                    text.is_some_and(|text| globs.iter().any(|glob| glob.matches(text)))
                }
                _ => *or_absent,
            },
        }
    }
}

/// Formats a test as written in a rule.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("* (present)"),
            Self::Absent => f.write_str("! (absent)"),
            Self::OneOf { globs, or_absent } => {
                for (number, glob) in globs.iter().enumerate() {
                    let separator = if number == 0 { "" } else { " or " };
                    let (start, end) = (if glob.open_start { "*" } else { "" }, if glob.open_end { "*" } else { "" });
                    write!(f, "{separator}{start}{}{end}", glob.text)?;
                }
                if *or_absent { f.write_str(" or ! (absent)") } else { Ok(()) }
            }
        }
    }
}

/// A text that may begin or end with `*`. ASCII case is ignored, as providers are not strict either.
#[derive(Debug, serde::Deserialize)]
#[serde(from = "String")]
pub(super) struct Glob {
    open_start: bool,
    open_end: bool,
    text: Box<str>,
}

impl From<String> for Glob {
    fn from(text: String) -> Self {
        Self::parse(&text)
    }
}

impl Glob {
    pub(super) fn parse(text: &str) -> Self {
        let (open_start, text) = text.strip_prefix('*').map_or((false, text), |rest| (true, rest));
        let (open_end, text) = text.strip_suffix('*').map_or((false, text), |rest| (true, rest));
        Self { open_start, open_end, text: text.to_ascii_lowercase().into() }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let (text, sought) = (text.as_bytes(), self.text.as_bytes());
        let Some(rest) = text.len().checked_sub(sought.len()) else { return false };
        let fits = |at: usize| text.get(at..at + sought.len()).is_some_and(|part| part.eq_ignore_ascii_case(sought));
        match (self.open_start, self.open_end) {
            (false, false) => rest == 0 && fits(0),
            (true, false) => fits(rest),
            (false, true) => fits(0),
            (true, true) => (0..=rest).any(fits),
        }
    }
}
