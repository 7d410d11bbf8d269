//! The change that an operation made, from its records.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jsonptr::PointerBuf;
use serde_json::{Map, Value, json};

use super::super::eval::{Evaluated, Place, evaluate};
use super::super::expression::Facts;
use super::super::rule::{Relation, RuleAction};
use super::super::transform::camel as camel_case;
use super::Rules;
use super::activity::Activity;
use super::arm::{ArmId, has_prefix, is_all_upper};
use super::fields::member;
use super::generic::Verdict;
use crate::json::{Arena, Json};
use crate::model::{Action, AssetRef, Association, Confidence, Draft, DraftAction, Phase, Step};

/// Maximum number of associations. Only lists of ids kept in a resource exceed it.
const MAX_ASSOCIATIONS: usize = 64;

/// What Azure writes in place of a hidden value.
const MASK: &str = "******";

/// The records of one operation, in the order of time.
pub(super) struct Operation<'a> {
    records: &'a [Activity],
    pub(super) name: &'a str,
    pub(super) resource: ArmId<'a>,
    pub(super) tenant: &'a str,
}

impl<'a> Operation<'a> {
    /// `None` if there is no record, or no valid resource id.
    pub(super) fn of(records: &'a [Activity]) -> Option<Self> {
        let best = |text: fn(&Activity) -> &str| ArmId::best_cased(records.iter().map(text));
        let resource = ArmId::parse(best(|record| &record.resource_id)?)?.whole()?;
        let tenant = records.iter().find_map(|record| record.tenant.as_deref()).unwrap_or("-");
        Some(Self { records, name: best(|record| &record.operation)?, resource, tenant })
    }

    /// The subscription; above subscriptions, the tenant.
    pub(super) fn account(&self) -> String {
        self.resource.subscription().unwrap_or_else(|| self.tenant.to_owned())
    }

    /// The record of the successful end, else the last one.
    pub(super) fn end(&self) -> Option<&'a Activity> {
        self.records.iter().find(|record| record.phase == Phase::Succeeded).or(self.records.last())
    }

    fn request(&self) -> Option<&'a Map<String, Value>> {
        self.records.iter().find_map(|record| record.request.as_ref()?.as_object())
    }

    /// The resource in the latest response that contains it.
    fn response(&self) -> Option<&'a Map<String, Value>> {
        let bodies = self.records.iter().rev().filter_map(|record| record.response.as_ref()?.as_object());
        // Other responses describe the operation, or an error.
        bodies.into_iter().find(|body| match member(body, "id").and_then(Value::as_str) {
            Some(id) => id.trim_end_matches('/').eq_ignore_ascii_case(self.resource.text()),
            None => member(body, "properties").is_some(),
        })
    }

    /// Whether the request contains only a part of the resource, and the rest stays.
    fn is_patch(&self) -> bool {
        match self.records.iter().find_map(|record| record.method.as_deref()) {
            Some(method) => method != "PUT",
            // Event Hubs delivers no method. A resource that is written as a whole contains its location. Parts and
            // extensions of resources are always written as a whole, except for tags.
            None => self.request().is_some_and(|request| {
                let only_tags = request.keys().all(|key| ["tags", "sku", "identity"].contains(&key.as_str()));
                let located = member(request, "location").is_some();
                let top = !self.resource.is_part() && !self.resource.is_extension();
                !located && (only_tags || top)
            }),
        }
    }

    /// Whether the operation's type is below that of its resource: `…/connections/sharedKey/write` on a connection.
    fn is_within(&self) -> bool {
        let own = self.resource.resource_type();
        let named = self.name.rsplit_once('/').map_or("", |(named, _)| named);
        has_prefix(named, &own) && named.as_bytes().get(own.len()) == Some(&b'/')
    }

    /// Describes which body of a write is used, and how.
    pub(super) fn body_taken(&self) -> &'static str {
        match (self.response(), self.request()) {
            (Some(_), _) => "the whole response",
            (None, Some(_)) if self.is_patch() => "the request, merged into the asset's configuration",
            (None, Some(_)) => "the whole request",
            (None, None) => "none: no record of the operation contains one",
        }
    }

    fn created(&self) -> Option<bool> {
        if self.records.iter().any(Activity::says_created) {
            return Some(true);
        }
        // In a long-running operation only the first response says so: later ones are about polling its state.
        let first = self.records.iter().find(|record| record.phase != Phase::Started)?;
        first.says_existed().then_some(false)
    }

    /// The view of the operation that rules read.
    pub(super) fn view(&self, rules: &Rules) -> View {
        let end = self.end();
        let clean = |body: &Map<String, Value>| rules.generic.quiet_body(body);
        let request = self.request().map(|body| clean(&camel(body)));
        let response = self.response().map(clean);
        let parent = self.resource.parent();
        let mut view = json!({
            "operation": self.name,
            "resource": {
                "id": self.resource.text(), "name": self.resource.name(), "type": self.resource.resource_type(),
                "parent": parent.as_ref().map(ArmId::text), "parent_name": parent.as_ref().map(ArmId::name),
            },
            "tenantId": (self.tenant != "-").then_some(self.tenant),
            "caller": end.and_then(|record| record.caller.as_deref()),
            "created": self.created(),
            "method": self.records.iter().find_map(|record| record.method.as_deref()),
        });
        if let (Some(members), Some(end)) = (view.as_object_mut(), end) {
            members.insert("moves".into(), self.request().map_or(Value::Null, moves));
            members.insert("body".into(), overlaid([&request, &response].map(|body| body.as_ref()?.get("properties"))));
            members.insert("request".into(), request.unwrap_or_default());
            members.insert("response".into(), response.unwrap_or_default());
            members.insert("claims".into(), end.claims.clone().into());
            members.insert("authorization".into(), end.authorization.clone().into());
            members.insert("properties".into(), end.properties.clone().into());
        }
        View(view)
    }
}

/// Merges properties; later ones win.
fn overlaid(bodies: [Option<&Value>; 2]) -> Value {
    let members = bodies.into_iter().flatten().filter_map(Value::as_object).flatten();
    Value::Object(members.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// The old and new ids of resources that are moved to another group or subscription
/// (<https://learn.microsoft.com/rest/api/resources/resources/move-resources>).
fn moves(request: &Map<String, Value>) -> Value {
    let target = member(request, "targetResourceGroup").and_then(Value::as_str).and_then(ArmId::parse);
    let Some(target) = target else { return Value::Null };
    let resources = member(request, "resources").and_then(Value::as_array).into_iter().flatten();
    let moved = resources.filter_map(Value::as_str).filter_map(ArmId::parse).filter_map(|from| {
        let below = from.below_group()?;
        Some(json!({ "from": from.text(), "to": format!("{}{below}", target.text()) }))
    });
    moved.collect()
}

/// A view of one or several records for the rules.
pub(super) struct View(pub(super) Value);

impl View {
    pub(super) fn facts<'a>(&self, arena: &'a Arena) -> Facts<'a> {
        Facts { root: Json::copied(&self.0, arena), is_cut: false, arena }
    }
}

/// Converts member names to camel case: some clients begin them with a capital, while Azure's responses do not.
fn camel(body: &Map<String, Value>) -> Cow<'_, Map<String, Value>> {
    if !body.contains_key("Properties") && !body.contains_key("Location") {
        return Cow::Borrowed(body);
    }
    let lowered_body = body.iter().map(|(key, value)| {
        let keep = key.eq_ignore_ascii_case("tags");
        let mut letters = key.chars();
        let key = letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect();
        (key, if keep { value.clone() } else { lowered(value) })
    });
    Cow::Owned(lowered_body.collect())
}

fn lowered(value: &Value) -> Value {
    let arena = Arena::new();
    camel_case(Json::copied(value, &arena), &arena).to_value()
}

/// The change that an operation made.
pub(super) fn drafts(rules: &Rules, operation: &Operation<'_>) -> Evaluated {
    let own = rules.events(operation.name);
    let verdict = rules.generic.verdict(operation.name);
    if own.is_empty() {
        return match verdict {
            Verdict::Skip(reason) => Evaluated::Skipped { reason, rule: "azure/arm/skip".into() },
            verdict => Evaluated::Drafts(vec![generic(rules, operation, &verdict)]),
        };
    }
    let account = operation.account();
    let namespace = rules.namespace(operation.name);
    let place = Place { service: &namespace, account: &account, region: "-" };
    let arena = Arena::new();
    let mut evaluated = evaluate(&rules.plan, own, operation.view(rules).facts(&arena), &place);
    // The operation has rules, but none for this resource, which was still written.
    if matches!(evaluated, Evaluated::NoRuleApplies) && !matches!(verdict, Verdict::Skip(_)) {
        return Evaluated::Drafts(vec![generic(rules, operation, &verdict)]);
    }
    if let Evaluated::Drafts(drafts) = &mut evaluated {
        let whole = operation.resource.parent();
        for draft in drafts {
            if draft.asset.id == operation.resource.text() {
                complete(rules, operation, draft);
            } else if let Some(whole) = whole.as_ref().filter(|whole| whole.text() == draft.asset.id) {
                add_associations(draft, mentioned(rules, operation, whole));
            }
        }
    }
    evaluated
}

/// Completes the draft of a rule: without steps of its own, it gets those of the written resource; and every draft gets
/// its associations.
fn complete(rules: &Rules, operation: &Operation<'_>, draft: &mut Draft) {
    if draft.steps.is_empty() && matches!(draft.action, DraftAction::Upsert) {
        let (steps, partial) = written(rules, operation);
        draft.steps = steps;
        draft.partial = partial;
    }
    if matches!(draft.action, DraftAction::Upsert) {
        draft.action = told_action(operation);
    }
    if draft.steps.is_empty() && matches!(draft.action, DraftAction::Known(Action::Delete)) {
        draft.steps = last_words(rules, operation);
    }
    add_associations(draft, associations(rules, operation));
}

/// Adds the associations that do not come from the draft's rule.
fn add_associations(draft: &mut Draft, found: Vec<Association>) {
    let known: HashSet<_> = draft.associations.iter().map(|association| association.name.clone()).collect();
    draft.associations.extend(found.into_iter().filter(|association| !known.contains(&association.name)));
}

fn told_action(operation: &Operation<'_>) -> DraftAction {
    match operation.created() {
        Some(true) => DraftAction::Known(Action::Create),
        Some(false) => DraftAction::Known(Action::Update),
        None => DraftAction::Upsert,
    }
}

pub(super) fn generic(rules: &Rules, operation: &Operation<'_>, verdict: &Verdict) -> Draft {
    let id = &operation.resource;
    let (kind, known) = rules.kind(id);
    let (action, (steps, partial)) = match verdict {
        // A thing within the resource, without an id of its own, is written or deleted.
        Verdict::Write | Verdict::Change(RuleAction::Delete) if operation.is_within() => {
            (DraftAction::Known(Action::Update), (vec![Step::Touch], true))
        }
        Verdict::Write => (told_action(operation), written(rules, operation)),
        Verdict::Change(RuleAction::Delete) => {
            (DraftAction::Known(Action::Delete), (last_words(rules, operation), false))
        }
        Verdict::Change(RuleAction::Create) => (DraftAction::Known(Action::Create), (Vec::new(), true)),
        Verdict::Change(RuleAction::Upsert) => (told_action(operation), (Vec::new(), true)),
        _ => (DraftAction::Known(Action::Update), (vec![Step::Touch], true)),
    };
    let word = match verdict {
        Verdict::Write => "write",
        Verdict::Change(RuleAction::Delete) => "delete",
        _ => "action",
    };
    let generic = !known || matches!(verdict, Verdict::Unknown);
    Draft {
        action,
        asset: AssetRef {
            name: id.asset_name(operation.tenant),
            kind: Arc::clone(&kind.kind),
            id: id.text().to_owned(),
            arn: None,
            arn_is_told: false,
            account: operation.account(),
            region: "-".to_owned(),
        },
        steps,
        partial,
        associations: associations(rules, operation),
        rule: if generic { format!("azure/generic/{word}") } else { format!("azure/arm/{word}") }.into(),
        confidence: if generic { Confidence::Low } else { Confidence::High },
    }
}

/// The steps of a write, and whether the result is only partially known.
fn written(rules: &Rules, operation: &Operation<'_>) -> (Vec<Step>, bool) {
    let request = operation.request().map(camel);
    let (body, whole) = match (operation.response(), &request) {
        (Some(response), _) => (response, true),
        (None, Some(request)) => (&**request, !operation.is_patch()),
        (None, None) => return (named(operation, false).into_iter().collect(), true),
    };
    let mut configuration = rules.generic.configuration(body);
    let masked = drop_masked_tags(&mut configuration);
    let mut steps = Vec::with_capacity(2);
    if whole {
        steps.push(Step::Replace(configuration.into()));
    } else {
        steps.push(Step::Merge { at: PointerBuf::root(), patch: configuration.into() });
    }
    steps.extend(named(operation, whole));
    (steps, masked)
}

/// The step that sets the resource's name. In a partial write, a name in upper case only does not replace a better one.
fn named(operation: &Operation<'_>, whole: bool) -> Option<Step> {
    let told = operation.response().and_then(|body| member(body, "name")).and_then(Value::as_str);
    let own = operation.resource.name();
    let name = told.filter(|told| told.eq_ignore_ascii_case(own)).unwrap_or(own);
    let at = PointerBuf::from_tokens(["name"]);
    (whole || !is_all_upper(name)).then(|| Step::Set { at, value: json!(name).into() })
}

/// The step that recalls how the resource was, from the response to a delete.
fn last_words(rules: &Rules, operation: &Operation<'_>) -> Vec<Step> {
    let was = operation.response().map(|body| Step::Recall(rules.generic.configuration(body).into()));
    was.into_iter().collect()
}

fn drop_masked_tags(configuration: &mut Value) -> bool {
    let Some(members) = configuration.as_object_mut() else { return false };
    let masked = match members.get("tags") {
        Some(Value::Object(tags)) => tags.iter().any(|(key, value)| key == MASK || value.as_str() == Some(MASK)),
        Some(tags) => !tags.is_null(),
        None => false,
    };
    if masked {
        members.remove("tags");
    }
    masked
}

/// Associations with what the resource is a part of or attached to, and with the resources whose ids are in its bodies.
fn associations(rules: &Rules, operation: &Operation<'_>) -> Vec<Association> {
    let own = &operation.resource;
    let mut found = Vec::new();
    if let Some(parent) = own.parent().filter(|_| own.is_part() || own.is_extension() || is_attached(rules, own)) {
        let relation = match own.is_part() {
            true => Relation::PartOf,
            false => rules.generic.scope_relation(&own.resource_type()),
        };
        // A location is no resource.
        let parent = parent.whole().filter(|parent| !parent.last_type().eq_ignore_ascii_case("locations"));
        let parent = parent.map(|parent| rules.known_part(parent));
        found.extend(parent.map(|parent| association(rules, operation, &parent, relation)));
    }
    let told: HashSet<_> = found.iter().map(|association| association.name.clone()).collect();
    found.extend(mentioned(rules, operation, own).into_iter().filter(|association| !told.contains(&association.name)));
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Associations with the resources whose ids are in the bodies, except those that contain `own` or are contained in it.
fn mentioned(rules: &Rules, operation: &Operation<'_>, own: &ArmId<'_>) -> Vec<Association> {
    let own_type = own.resource_type();
    let mut found = BTreeMap::new();
    let mut texts = Vec::new();
    for body in [operation.response(), operation.request()].into_iter().flatten() {
        body.values().for_each(|value| collect_ids(value, &mut texts));
    }
    for text in texts {
        let Some(id) = ArmId::parse(text).and_then(ArmId::whole).map(|id| rules.known_part(id)) else { continue };
        // Above subscriptions, a name needs the tenant.
        let is_named = id.subscription().is_some() || operation.tenant != "-";
        if !is_named || is_below(id.text(), own.text()) || is_below(own.text(), id.text()) {
            continue;
        }
        let relation = rules.generic.relation(&own_type, &id.resource_type());
        let association = association(rules, operation, &id, relation);
        if found.len() < MAX_ASSOCIATIONS {
            found.entry(association.name.clone()).or_insert(association);
        }
    }
    found.into_values().collect()
}

/// Whether the type is attached to a group or subscription, like a lock or an assignment, instead of being a resource
/// in it.
fn is_attached(rules: &Rules, own: &ArmId<'_>) -> bool {
    rules.generic.has_scope(&own.resource_type())
}

fn association(rules: &Rules, operation: &Operation<'_>, id: &ArmId<'_>, relation: Relation) -> Association {
    Association {
        relation: relation.as_str().into(),
        neutral_type: rules.kind(id).0.kind.neutral_type.as_str().into(),
        id: id.text().to_owned(),
        name: id.asset_name(operation.tenant),
        change: None,
        at: None,
    }
}

/// Whether an id is that of the same resource, or of one below it.
fn is_below(id: &str, other: &str) -> bool {
    id.get(..other.len()).is_some_and(|start| start.eq_ignore_ascii_case(other))
        && matches!(id.as_bytes().get(other.len()), None | Some(b'/'))
}

fn is_id(text: &str) -> bool {
    has_prefix(text, "/subscriptions/") || has_prefix(text, "/providers/")
}

fn collect_ids<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) if text.len() < 2_048 && is_id(text) => found.push(text),
        Value::Array(elements) => elements.iter().for_each(|element| collect_ids(element, found)),
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            // The keys of userAssignedIdentities are ids.
            if is_id(key) {
                found.push(key);
            }
            collect_ids(value, found);
        }),
        _ => {}
    }
}
