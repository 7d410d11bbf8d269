//! Seeds: the state of assets at some time, from snapshots, lists and descriptions. The form of an item is recognised
//! by its members. Rules in `normalizers/seed/` give its fields the names that events use, so that a later event
//! differs from it only by what changed.

mod forms;
mod item;
mod own;
mod terraform;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use self::item::Item;
use self::terraform::Resources;
use super::arn::Arn;
use super::catalog::Catalog;
use super::configuration::configuration;
use super::eval::{Evaluated, Place, evaluate, partition};
use super::expression::Facts;
use super::plan::EventPlan;
use super::pointer::Path;
use super::references::Referred;
use super::template::Parts;
use super::{azure, redact};
use crate::json::{Arena, Json};
use crate::model::{Action, AssetRef, Confidence, Draft, DraftAction, Seed, SeedDocument, Step, Time};

pub(super) use self::forms::Forms;

/// The rules of seeds.
#[derive(Debug)]
pub(super) struct SeedRules {
    pub(super) forms: Forms,
    /// Pointers to secrets in the view of an item.
    pub(super) redact: Vec<Path>,
    /// Pointers to secrets in a rejected item, which is kept in its own form.
    pub(super) redact_rejected: Vec<Path>,
    /// Rules by provider type.
    pub(super) events: HashMap<Box<str>, Vec<EventPlan>>,
}

/// The result of normalizing an item.
#[derive(Debug)]
pub struct Seeds {
    /// The assets, each with the item or the part of it that it was read from: one line, redacted.
    pub seeds: Vec<(Seed, Bytes)>,
    /// Why the item or parts of it were not accepted, each with the part; `None` is the item itself.
    pub faults: Vec<(SeedFault, Option<Bytes>)>,
}

/// Why an item, or a part of it, was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedFault {
    /// No rule covers its type, which is given here.
    UnknownType(String),
    /// It goes to quarantine.
    Rejected {
        /// A stable code, used as a metric label.
        code: &'static str,
        /// What is wrong, and what to do about it.
        reason: String,
    },
}

impl SeedFault {
    fn rejected(code: &'static str, reason: impl Into<String>) -> Self {
        Self::Rejected { code, reason: reason.into() }
    }
}

/// Normalizes an item of a document.
pub(super) fn seeds(catalog: &Catalog, bytes: &[u8], document: &SeedDocument) -> Seeds {
    let mut found = Seeds { seeds: Vec::new(), faults: Vec::new() };
    let value = serde_json::from_slice(bytes).map(|value| match value {
        // A query of AWS Config returns objects as JSON in strings.
        Value::String(text) if document.member == "Results" => item::parsed(&Value::String(text)),
        value => value,
    });
    match value {
        Ok(value) => found.take(catalog, value, document),
        Err(error) => found.refuse(SeedFault::rejected("not_json", format!("not JSON: {error}"))),
    }
    if let ([], [(_, part)]) = (found.seeds.as_slice(), found.faults.as_mut_slice()) {
        // The only part is the item itself, which is kept as it came.
        *part = None;
    }
    for (seed, _) in &mut found.seeds {
        // Event times are exact to the second only: an event of the same second must come after the seed.
        seed.as_of = Time::from_millis(seed.as_of.millis().div_euclid(1_000) * 1_000);
    }
    found
}

type ReadOwn = fn(&Catalog, &Map<String, Value>) -> Result<Seed, SeedFault>;
type ReadAzure = fn(&azure::Rules, &Forms, &Map<String, Value>, &SeedDocument) -> Result<Seed, SeedFault>;

impl Seeds {
    fn take(&mut self, catalog: &Catalog, value: Value, document: &SeedDocument) {
        let forms = &catalog.seeds.forms;
        let kind_of_arn = |arn: &str, guess: bool| kind_of_arn(catalog, arn, guess);
        let items = match recognize(&value, document) {
            Recognized::Event(told) => return self.own(catalog, told, own::event),
            Recognized::Asset(told) => return self.own(catalog, told, own::asset),
            Recognized::Resource(told) => return self.azure(catalog, told, document, azure::seed_resource),
            Recognized::Directory(told) => return self.azure(catalog, told, document, azure::seed_object),
            Recognized::Config(told) => item::of_config(told).map(|item| vec![item]),
            Recognized::CloudControl(kind, told) => item::of_cloud_control(kind, told).map(|item| vec![item]),
            Recognized::Terraform(told) => match terraform::resources(forms, told, kind_of_arn) {
                Ok(Resources::Azure(found)) => return self.each(catalog, &found, document, azure::seed_resource),
                Ok(Resources::Directory(found)) => return self.each(catalog, &found, document, azure::seed_object),
                Ok(Resources::Amazon(items)) => Ok(items),
                Err(reason) => Err(reason),
            },
            Recognized::Cli if forms.ignored.contains(&document.member) => return,
            Recognized::Cli => Ok(item::of_cli(forms, &document.member, &value, kind_of_arn)),
        };
        match items {
            Err(reason) => self.refuse(SeedFault::rejected("incomplete_seed", reason)),
            Ok(items) if items.is_empty() => self.refuse(unknown(&value, document)),
            Ok(items) => items.into_iter().for_each(|item| self.item(catalog, item, document)),
        }
    }

    fn own(&mut self, catalog: &Catalog, told: &Map<String, Value>, read: ReadOwn) {
        self.sanitized(catalog, told, |told| read(catalog, told));
    }

    fn each(&mut self, catalog: &Catalog, told: &[Map<String, Value>], document: &SeedDocument, read: ReadAzure) {
        told.iter().for_each(|one| self.azure(catalog, one, document, read));
    }

    fn azure(&mut self, catalog: &Catalog, told: &Map<String, Value>, document: &SeedDocument, read: ReadAzure) {
        self.sanitized(catalog, told, |told| read(&catalog.azure, &catalog.seeds.forms, told, document));
    }

    /// Redacts an item, then reads it.
    fn sanitized(
        &mut self,
        catalog: &Catalog,
        told: &Map<String, Value>,
        read: impl FnOnce(&Map<String, Value>) -> Result<Seed, SeedFault>,
    ) {
        let text = json!(told).to_string();
        let (seed, raw) = match redact::sanitize(&text, catalog.azure.secrets(), &[]) {
            Err(error) => return self.keep(Err(SeedFault::rejected("unfit_text", error.to_string())), &text.into()),
            Ok(Cow::Borrowed(_)) => (read(told), text),
            Ok(Cow::Owned(text)) => (read(&serde_json::from_str(&text).unwrap_or_default()), text),
        };
        self.keep(seed, &raw.into());
    }

    fn item(&mut self, catalog: &Catalog, item: Item, document: &SeedDocument) {
        let view = item.view();
        let text = view.to_string();
        let paths: Vec<_> = catalog.seeds.redact.iter().collect();
        let view = match redact::sanitize(&text, &catalog.secrets, &paths) {
            Err(error) => return self.keep(Err(SeedFault::rejected("unfit_text", error.to_string())), &text.into()),
            Ok(Cow::Borrowed(_)) => view,
            Ok(Cow::Owned(text)) => serde_json::from_str(&text).unwrap_or(Value::Null),
        };
        let raw = Bytes::from(view.to_string());
        match drafts(catalog, &item, &view, document) {
            Err(fault) => self.keep(Err(fault), &raw),
            Ok(drafts) => {
                let as_of = item.as_of.unwrap_or(document.as_of);
                for draft in drafts {
                    self.keep(placed(draft).map(|draft| Seed { as_of, draft }), &raw);
                }
            }
        }
    }

    fn keep(&mut self, seed: Result<Seed, SeedFault>, raw: &Bytes) {
        match seed {
            Ok(seed) => self.seeds.push((seed, raw.clone())),
            Err(fault) => self.faults.push((fault, Some(raw.clone()))),
        }
    }

    /// Notes a fault of the item as a whole.
    fn refuse(&mut self, fault: SeedFault) {
        self.faults.push((fault, None));
    }
}

/// The provider type for an ARN: by a matching template or, if `guess`, by the kind in its text.
fn kind_of_arn(catalog: &Catalog, arn: &str, guess: bool) -> Option<String> {
    let place = Place { service: "", account: "-", region: "-" };
    let known = || catalog.aws.references.known_arn(arn, &place).map(|found| found.asset);
    let alike = || Some(catalog.aws.arns.named(Arn::parse(arn)?, "").asset);
    let kind = known().or_else(|| if guess { alike() } else { None })?.kind.provider_type.clone();
    catalog.aws.assets.contains_key(kind.as_str()).then_some(kind)
}

enum Recognized<'v> {
    Event(&'v Map<String, Value>),
    Asset(&'v Map<String, Value>),
    Config(&'v Map<String, Value>),
    CloudControl(&'v str, &'v Map<String, Value>),
    Terraform(&'v Map<String, Value>),
    Resource(&'v Map<String, Value>),
    Directory(&'v Map<String, Value>),
    Cli,
}

/// Recognises the form of an item; the only place that does.
fn recognize<'v>(value: &'v Value, document: &'v SeedDocument) -> Recognized<'v> {
    let Some(told) = value.as_object() else { return Recognized::Cli };
    let text = |name: &str| told.get(name).and_then(Value::as_str);
    let of_document = |name: &str| document.members.get(name).and_then(Value::as_str);
    if told.contains_key("specversion") {
        return Recognized::Event(told);
    }
    if text("name").is_some_and(|name| name.starts_with("asset://")) {
        return Recognized::Asset(told);
    }
    if told.contains_key("resourceType") && (told.contains_key("resourceId") || told.contains_key("configuration")) {
        return Recognized::Config(told);
    }
    if let Some(kind) = of_document("TypeName").filter(|_| told.contains_key("Identifier")) {
        return Recognized::CloudControl(kind, told);
    }
    if document.member == "resources" && of_document("terraform_version").is_some() {
        return Recognized::Terraform(told);
    }
    match text("id") {
        Some(id) if id.starts_with('/') => Recognized::Resource(told),
        Some(id) if azure::is_directory_id(id) && !told.contains_key("arn") => Recognized::Directory(told),
        _ => Recognized::Cli,
    }
}

fn unknown(value: &Value, document: &SeedDocument) -> SeedFault {
    if !document.member.is_empty() {
        return SeedFault::UnknownType(format!("{} of an answer of the aws command", document.member));
    }
    let members: Vec<_> = value.as_object().into_iter().flat_map(Map::keys).take(5).map(String::as_str).collect();
    let reason = format!(
        "not a known form ({}); docs/inventory.md lists the known ones",
        if members.is_empty() { "no object".to_owned() } else { format!("members {}, …", members.join(", ")) }
    );
    SeedFault::rejected("unknown_seed", reason)
}

/// The drafts of an item: by the rules of its type, else with the names of the API.
fn drafts(catalog: &Catalog, item: &Item, view: &Value, document: &SeedDocument) -> Result<Vec<Draft>, SeedFault> {
    let told = |own: &Option<String>, given: &Option<String>| own.clone().or_else(|| given.clone()).unwrap_or_default();
    let (account, region) = (told(&item.account, &document.account), told(&item.region, &document.region));
    let place = Place { service: "", account: &account, region: &region };
    let rules = catalog.seeds.events.get(item.kind.as_str()).map(Vec::as_slice).unwrap_or_default();
    let mut drafts = if rules.is_empty() {
        vec![plain(catalog, item, view, &place)?]
    } else {
        let arena = Arena::new();
        let facts = Facts { root: Json::copied(view, &arena), is_cut: false, arena: &arena };
        match evaluate(&catalog.aws, rules, facts, &place) {
            Evaluated::Drafts(drafts) => drafts,
            Evaluated::Skipped { .. } | Evaluated::NoRuleApplies => {
                return Err(SeedFault::UnknownType(item.kind.clone()));
            }
            Evaluated::Unnamed { rule } => return Err(unnamed(&item.kind, &rule)),
        }
    };
    for draft in &mut drafts {
        draft.partial |= item.partial;
        if item.gone {
            draft.action = DraftAction::Known(Action::Delete);
            draft.steps.clear();
        }
    }
    Ok(drafts)
}

/// The draft of an item whose type has no seed rule: the API uses the same names as the events.
fn plain(catalog: &Catalog, item: &Item, view: &Value, place: &Place<'_>) -> Result<Draft, SeedFault> {
    let references = &catalog.aws.references;
    let known = catalog.aws.assets.get(item.kind.as_str());
    let asset = known.ok_or_else(|| SeedFault::UnknownType(item.kind.clone()))?;
    let told = [&item.arn, &item.id, &item.name].into_iter().flatten().map(String::as_str);
    // What EC2 lists without an ARN has an id with the prefix of its type.
    let members = view.get("configuration").and_then(Value::as_object).into_iter().flat_map(Map::values);
    let is_own = |id: &&str| references.by_id_prefix(id).is_some_and(|known| Arc::ptr_eq(known, asset));
    let mut ids = told.chain(members.filter_map(Value::as_str).filter(is_own));
    let named = ids.find_map(|id| references.of_kind(asset, id, &[], place));
    let Referred { asset, id, name, region } = named.ok_or_else(|| unnamed(&item.kind, "seed/plain"))?;
    let parts = Parts { partition: partition(&region), region: &region, account: place.account, id: &id, vars: &[] };
    let composed = || asset.arn.as_ref()?.render(&parts, false);
    let arena = Arena::new();
    let told = view.get("configuration").map(|told| Json::copied(told, &arena));
    let configuration = told.and_then(|told| configuration(told, &arena)).unwrap_or(Json::EMPTY);
    let mut steps = vec![Step::Replace(configuration.to_text())];
    if let Some(tags) = view.get("tags").filter(|tags| tags.is_object()) {
        steps.push(Step::Set { at: asset.kind.tags.clone(), value: tags.into() });
    }
    Ok(Draft {
        action: DraftAction::Upsert,
        asset: AssetRef {
            kind: Arc::clone(&asset.kind),
            name,
            arn: item.arn.clone().or_else(composed),
            arn_is_told: item.arn.is_some(),
            account: place.account.to_owned(),
            region,
            id,
        },
        steps,
        partial: true,
        associations: Vec::new(),
        rule: "aws/seed/plain".into(),
        confidence: Confidence::Medium,
    })
}

fn unnamed(kind: &str, rule: &str) -> SeedFault {
    SeedFault::rejected(
        "no_asset_named",
        format!("no asset named: the item lacks every identifier of a {kind} ({rule})"),
    )
}

/// Refuses a draft without account or region, which are parts of the asset's name.
fn placed(draft: Draft) -> Result<Draft, SeedFault> {
    let kind = &draft.asset.kind.provider_type;
    let missing = |code, what: &str| {
        SeedFault::rejected(code, format!("the item does not contain the {what} of its {kind}; give it with --{what}"))
    };
    if draft.asset.account.is_empty() {
        return Err(missing("no_account", "account"));
    }
    if draft.asset.region.is_empty() {
        return Err(missing("no_region", "region"));
    }
    Ok(draft)
}
