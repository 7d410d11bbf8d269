//! One change of one asset: from the asset before it, and what a record says, to the asset after it.

use bytes::Bytes;

use super::apply::Application;
use super::diff::{self, diff};
use super::identity::uid;
use super::stored::{Fields, Held, Seeded};
use super::{Applied, ConfigurationState, PreviousState};
use crate::json::{Arena, Json, JsonText, Members, written};
use crate::model::{Action, AssetName, AssetRef, Draft, DraftAction, KeyedSet, Step, Time};

/// The region of assets that have none, or of which none is known.
const NO_REGION: &str = "-";

/// What a record says about an asset: a change, ready to be applied.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) time: Time,
    pub(super) event_id: String,
    pub(super) action: DraftAction,
    pub(super) asset: AssetRef,
    /// Without copies from other assets, which are resolved before; a copy from the asset itself takes the value before
    /// the change.
    pub(super) steps: Vec<Step>,
    pub(super) partial: bool,
    /// It comes from a provider's inventory instead of a record.
    pub(super) is_seed: bool,
}

impl Told {
    /// The change that a draft describes. None of its steps may be a copy from another asset.
    pub(super) fn of(time: Time, event_id: String, draft: Draft) -> Self {
        let Draft { action, asset, steps, partial, .. } = draft;
        Self { time, event_id, action, asset, steps, partial, is_seed: false }
    }
}

/// Applies a change to `held`. Returns the completed change and the asset after it.
pub(super) fn advance<'a>(name: &AssetName, held: Option<&Held>, told: &Told, arena: &'a Arena) -> (Applied<'a>, Held) {
    let alive = held.filter(|held| held.is_alive());
    let fields = held.map(Held::fields);
    let action = match told.action {
        DraftAction::Known(action) => action,
        DraftAction::Upsert if alive.is_some() => Action::Update,
        DraftAction::Upsert => Action::Create,
    };
    let previous_state = match held {
        Some(held) if !held.is_alive() => PreviousState::Deleted,
        Some(_) => PreviousState::Present,
        None if told.action == DraftAction::Known(Action::Create) => PreviousState::Absent,
        None => PreviousState::Unknown,
    };
    let (previous, before) = recall(alive, told, arena);
    let (document, configuration_state) = after(action, alive, before, told, arena);
    let known = document.or(before);
    let (display_name, tags) = describe(&told.asset, known);
    let uid = uid((&told.asset, &told.event_id), fields.as_ref(), (action, previous_state), (before, known));
    let applied = Applied {
        name: name.clone(),
        action,
        uid,
        arn: told_arn(&told.asset, fields.as_ref()),
        region: region(&told.asset, known, fields.as_ref()),
        display_name,
        tags,
        configuration: None,
        configuration_state,
        previous_configuration: previous,
        previous_state,
        changes: changes(before, document, told),
        late: false,
        held: None,
        document,
        before,
    };
    keep(applied, fields.as_ref(), told)
}

/// The difference, as a JSON array; empty for a deletion.
fn changes(before: Option<Json<'_>>, document: Option<Json<'_>>, told: &Told) -> Bytes {
    let Some(document) = document else { return Bytes::from_static(b"[]") };
    let changes = diff(before.unwrap_or(Json::EMPTY), document, &told.asset.kind.sets);
    written(|text| diff::write(&changes, text))
}

/// Completes a late record whose place among the changes of its asset is no longer known. The configuration before is
/// unknown too; only what the record itself says is used, and the asset stays as it is.
pub(super) fn out_of_place<'a>(name: &AssetName, held: &Held, told: &Told, arena: &'a Arena) -> Applied<'a> {
    let (mut applied, _) = advance(name, None, told, arena);
    let created = told.action == DraftAction::Known(Action::Create);
    applied.late = true;
    applied.before = None;
    if !created {
        applied.uid = None;
    }
    let fields = held.fields();
    applied.arn = told_arn(&told.asset, Some(&fields));
    applied.region = region(&told.asset, applied.document, Some(&fields));
    if told.action == DraftAction::Upsert {
        applied.action = Action::Update;
    }
    applied.previous_state = if created { PreviousState::Absent } else { PreviousState::Unknown };
    if applied.configuration_state == ConfigurationState::Complete {
        applied.configuration_state = ConfigurationState::Partial;
    }
    applied
}

/// The configuration before the change, completed by what the record says about it ([`Step::Recall`]): as JSON text,
/// and parsed.
fn recall<'a>(alive: Option<&Held>, told: &Told, arena: &'a Arena) -> (Option<Bytes>, Option<Json<'a>>) {
    let held = alive.and_then(|held| held.document(arena));
    let recalled = told.steps.iter().filter_map(|step| match step {
        Step::Recall(value) => value.value(arena).as_object().filter(|members| !members.is_empty()),
        _ => None,
    });
    let mut before = held;
    for (key, value) in recalled.flat_map(Members::iter) {
        let members = before.and_then(Json::as_object).unwrap_or_default();
        if members.get(key).is_none() {
            before = Some(Json::Object(members.with(key, value, arena)));
        }
    }
    let previous = if before == held {
        alive.and_then(|held| held.configuration().cloned())
    } else {
        before.map(|before| before.to_text().into_bytes())
    };
    (previous, before)
}

/// The configuration after a change, and how much of it is known.
fn after<'a>(
    action: Action,
    alive: Option<&Held>,
    before: Option<Json<'a>>,
    told: &Told,
    arena: &'a Arena,
) -> (Option<Json<'a>>, ConfigurationState) {
    if action == Action::Delete {
        return (None, ConfigurationState::Deleted);
    }
    let base = if action == Action::Create { None } else { before };
    let (document, complete) = run_steps(&told.asset.kind.sets, &told.steps, base, before, arena);
    let was_complete = alive.is_some_and(|held| held.state() == ConfigurationState::Complete);
    let created = told.action == DraftAction::Known(Action::Create);
    let complete = complete.unwrap_or(created || was_complete) && !told.partial;
    (Some(document), if complete { ConfigurationState::Complete } else { ConfigurationState::Partial })
}

/// Applies the steps to `base` and returns the document. The second value says whether it is complete judging by the
/// steps alone: `Some(true)` after a replacement of the whole, `Some(false)` if a step could not be applied, `None` if
/// that depends on what was there before.
pub(super) fn run_steps<'a>(
    sets: &[KeyedSet],
    steps: &[Step],
    base: Option<Json<'a>>,
    before: Option<Json<'a>>,
    arena: &'a Arena,
) -> (Json<'a>, Option<bool>) {
    let document = base.unwrap_or(Json::EMPTY);
    let mut application = Application { document, complete: true, replaced: false, sets, arena };
    for step in steps {
        match step {
            Step::Copy { from_at, at, .. } => match before.and_then(|before| before.at(from_at)) {
                Some(value) => application.assign(at, value),
                None => application.complete = false,
            },
            step => application.apply(step),
        }
    }
    if let Some(before) = before {
        application.align_sets(before);
    }
    let complete = match (application.complete, application.replaced) {
        (false, _) => Some(false),
        (true, true) => Some(true),
        (true, false) => None,
    };
    (application.document, complete)
}

/// The asset after a change. Completes `applied`: by its configuration, and by renames.
fn keep<'a>(mut applied: Applied<'a>, before: Option<&Fields<'_>>, told: &Told) -> (Applied<'a>, Held) {
    let recreated = matches!(applied.previous_state, PreviousState::Deleted | PreviousState::Absent);
    let kept = before.filter(|_| !recreated);
    let Told { asset, .. } = told;
    let (name, mut names) = (applied.name.clone(), vec![applied.name.as_str()]);
    names.extend(kept.iter().flat_map(|kept| &kept.aliases));
    let mut id = kept_id(kept.map(|kept| kept.id), &asset.id);
    if !names.contains(&asset.name.as_str()) {
        names.push(asset.name.as_str());
    }
    for step in &told.steps {
        let Step::Rename { id: new_id, alias, arn } = step else { continue };
        id = new_id;
        applied.arn = arn.clone().or(applied.arn);
        if !names.contains(&alias.as_str()) {
            names.push(alias.as_str());
        }
    }
    let fields = Fields {
        provider: asset.kind.provider,
        provider_type: &asset.kind.provider_type,
        neutral_type: &asset.kind.neutral_type,
        account: &asset.account,
        region: &applied.region,
        state: applied.configuration_state,
        arn_is_told: asset.arn_is_told || before.is_some_and(|held| held.arn_is_told),
        arn: applied.arn.as_deref(),
        id,
        uid: applied.uid.as_deref(),
        aliases: names.split_off(1),
        seeded: seeded(kept, told, applied.configuration_state),
        first_seen: kept.map_or(told.time, |held| held.first_seen),
        changed: told.time,
        last_event: &told.event_id,
        display_name: applied.display_name.as_deref(),
        tags: applied.tags.as_str(),
    };
    let held = Held::of(name, &fields, applied.document);
    applied.configuration = held.configuration().cloned();
    (applied, held)
}

/// The id that an asset keeps: the one held, unless it is in capitals only and this is another spelling of it. Some
/// trails put ids in capitals.
fn kept_id<'a>(held: Option<&'a str>, told: &'a str) -> &'a str {
    let is_shouted = |id: &str| !id.bytes().any(|byte| byte.is_ascii_lowercase());
    held.filter(|held| !(is_shouted(held) && held.eq_ignore_ascii_case(told))).unwrap_or(told)
}

/// The last seed of the asset, and the first event after that seed, as of after this change.
fn seeded(before: Option<&Fields<'_>>, told: &Told, state: ConfigurationState) -> Option<Seeded> {
    if told.is_seed {
        return Some(Seeded { as_of: told.time, state, next: None });
    }
    let Seeded { as_of, state, next } = before?.seeded.clone()?;
    Some(Seeded { as_of, state, next: next.or_else(|| Some(told.event_id.clone())) })
}

/// The ARN. A composed one lacks the IAM path, so one that a record contained is kept.
fn told_arn(asset: &AssetRef, held: Option<&Fields<'_>>) -> Option<String> {
    let kept = held.filter(|held| held.arn_is_told && !asset.arn_is_told).and_then(|held| held.arn);
    kept.or(asset.arn.as_deref()).or_else(|| held?.arn).map(str::to_owned)
}

/// The region: from the record, else from the configuration, else the one known before.
fn region(asset: &AssetRef, document: Option<Json<'_>>, held: Option<&Fields<'_>>) -> String {
    if asset.region != NO_REGION {
        return asset.region.clone();
    }
    let told = document.and_then(|document| asset.kind.region_in(document));
    told.or_else(|| Some(held?.region.to_owned())).unwrap_or_else(|| NO_REGION.to_owned())
}

/// The display name and the tags, from the configuration.
pub(super) fn describe(asset: &AssetRef, document: Option<Json<'_>>) -> (Option<String>, JsonText) {
    let Some(document) = document else { return (None, JsonText::empty_object()) };
    let tags = document.at(&asset.kind.tags).filter(|tags| tags.is_object());
    let declared = asset.kind.display.iter().filter_map(|pointer| document.at(pointer));
    let named = tags.and_then(|tags| tags.get("Name"));
    let display_name = declared.chain(named).filter_map(Json::as_str).find(|text| !text.is_empty());
    (display_name.map(str::to_owned), tags.map_or_else(JsonText::empty_object, Json::to_text))
}
