//! Generic rules, for calls without a rule: the verb determines the action, the record's ARNs and identifiers the
//! asset.
//!
//! The result is recognisable as such: type `unclassified.<service>` unless the record names the type, partial
//! configuration, rule `aws/generic/<Verb>`.

mod identify;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;

use self::identify::{Parameters, Told};
use super::super::arn::{Arn, ArnIndex, Named};
use super::super::compile::NeutralTypes;
use super::super::configuration::configuration;
use super::super::eval::{Evaluated, Place, partition, unclassified};
use super::super::plan::{AssetPlan, Glob};
use super::super::rule::RuleAction;
use super::super::template::Parts;
use super::record::Record;
use crate::json::{Json, Members};
use crate::model::{Action, AssetKind, AssetName, AssetRef, Confidence, Draft, DraftAction, Step};

/// `normalizers/aws/generic.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::normalize) struct GenericRules {
    /// In order; the first match wins.
    verbs: Vec<Verb>,
    #[serde(default)]
    skip: Vec<Skip>,
    /// Event sources whose assets have no region.
    #[serde(default)]
    global_services: HashSet<String>,
    /// Keys whose ids are never those of the asset; they may begin or end with `*`.
    #[serde(default)]
    strangers: Vec<Glob>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verb {
    service: Option<String>,
    prefix: String,
    /// A name, or a name that begins or ends with `*`.
    name: Option<Glob>,
    /// The noun for the asset, if it is not what follows the prefix.
    noun: Option<String>,
    action: RuleAction,
}

impl Verb {
    fn fits(&self, service: &str, name: &str) -> bool {
        self.service.as_deref().is_none_or(|wanted| wanted == service)
            && begins_with_word(name, &self.prefix)
            && self.name.as_ref().is_none_or(|wanted| wanted.matches(name))
    }

    /// The noun for the asset in the call's name. For a create it ends before `From`, `To` or `With`.
    fn noun<'a>(&'a self, name: &'a str) -> &'a str {
        if let Some(noun) = &self.noun {
            return noun;
        }
        let noun = name.strip_prefix(&self.prefix).unwrap_or(name);
        let preposition = |(at, _): (usize, char)| {
            let rest = noun.get(at..).unwrap_or_default();
            at > 0 && ["From", "To", "With"].iter().any(|word| begins_with_word(rest, word))
        };
        match self.action {
            RuleAction::Create => {
                let end = noun.char_indices().find(|at| preposition(*at)).map_or(noun.len(), |(at, _)| at);
                noun.get(..end).unwrap_or(noun)
            }
            _ => noun,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    service: Option<String>,
    /// A name, or a name that begins or ends with `*`.
    name: Option<Glob>,
    prefix: Option<String>,
    reason: Arc<str>,
}

impl Skip {
    fn fits(&self, service: &str, name: &str) -> bool {
        self.service.as_deref().is_none_or(|wanted| wanted == service)
            && self.prefix.as_deref().is_none_or(|prefix| begins_with_word(name, prefix))
            && self.name.as_ref().is_none_or(|wanted| wanted.matches(name))
    }
}

/// Whether a name begins with a whole word: `Getaway` does not begin with `Get`.
fn begins_with_word(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| !rest.starts_with(|letter: char| letter.is_ascii_lowercase()))
}

/// What the generic rules need besides their own file.
pub(super) struct Known<'a> {
    /// The assets defined by rules, by ARN and name.
    pub(super) arns: &'a ArnIndex,
    /// Neutral types by provider type.
    pub(super) neutral_types: &'a NeutralTypes,
}

impl GenericRules {
    /// Classifies a call without a rule.
    pub(super) fn evaluate(&self, known: &Known<'_>, record: &Record<'_>, name: &str, place: &Place<'_>) -> Evaluated {
        let skip = self.skip.iter().find(|skip| skip.fits(place.service, name));
        let verb = self.verbs.iter().find(|verb| verb.fits(place.service, name));
        let rule: Arc<str> = format!("aws/generic/{}", verb.map_or("other", |verb| &verb.prefix)).into();
        if let Some(skip) = skip {
            return Evaluated::Skipped { reason: Arc::clone(&skip.reason), rule };
        }
        let request = record.value("requestParameters").and_then(Json::as_object);
        if request.is_some_and(is_dry_run) {
            return Evaluated::Skipped { reason: "dry run".into(), rule };
        }
        let action = verb.map_or(RuleAction::Update, |verb| verb.action);
        let noun = verb.map_or(name, |verb| verb.noun(name));
        let Some(assets) = self.assets(known, record, noun, action, place) else { return Evaluated::Unnamed { rule } };
        if assets.is_empty() {
            return Evaluated::Skipped { reason: "failed call".into(), rule };
        }
        let request = record.value("requestParameters");
        let configured = request.and_then(|request| configuration(request, record.facts.arena)).unwrap_or(Json::EMPTY);
        let draft = |asset| Draft {
            action: match action {
                RuleAction::Create => DraftAction::Known(Action::Create),
                RuleAction::Update => DraftAction::Known(Action::Update),
                RuleAction::Delete => DraftAction::Known(Action::Delete),
                RuleAction::Upsert => DraftAction::Upsert,
            },
            asset,
            steps: match action {
                RuleAction::Create | RuleAction::Upsert => vec![Step::Replace(configured.to_text())],
                RuleAction::Update => {
                    vec![Step::Merge { at: jsonptr::PointerBuf::root(), patch: configured.to_text() }]
                }
                RuleAction::Delete => Vec::new(),
            },
            partial: true,
            associations: Vec::new(),
            rule: Arc::clone(&rule),
            confidence: Confidence::Low,
        };
        Evaluated::Drafts(assets.into_iter().map(draft).collect())
    }

    fn assets(
        &self,
        known: &Known<'_>,
        record: &Record<'_>,
        noun: &str,
        action: RuleAction,
        place: &Place<'_>,
    ) -> Option<Vec<AssetRef>> {
        let label = place.service.split('.').next().unwrap_or(place.service);
        if let Some((arn, provider_type)) = listed_resource(record, label) {
            return self.by_arn(known, arn, provider_type, noun, place).map(|asset| vec![asset]);
        }
        let parameters = Parameters {
            noun,
            action,
            request: record.value("requestParameters").and_then(Json::as_object),
            response: record.value("responseElements").and_then(Json::as_object),
            strangers: &self.strangers,
        };
        let asset = |Told { noun, id }: Told| {
            if id.starts_with("arn:") {
                return self.by_arn(known, &id, None, &noun, place);
            }
            let kind = kebab(&noun);
            let plan = known.arns.by_name(label, &kind);
            let plan = plan.map_or_else(|| Arc::new(unclassified(label, &kind, display(&noun))), Arc::clone);
            Some(self.named(&plan, id, &[], None, place))
        };
        parameters.told()?.into_iter().map(asset).collect()
    }

    fn by_arn(
        &self,
        known: &Known<'_>,
        arn: &str,
        provider_type: Option<&str>,
        noun: &str,
        place: &Place<'_>,
    ) -> Option<AssetRef> {
        let arn = Arn::parse(arn)?;
        let Named { mut asset, id, vars } = known.arns.named(arn, &kebab(noun));
        let is_known = !asset.kind.neutral_type.starts_with("unclassified") || asset.arn.is_some();
        if let Some(provider_type) = provider_type.filter(|_| !is_known) {
            let neutral = known.neutral_types.of(provider_type);
            let kind = AssetKind {
                provider_type: provider_type.to_owned(),
                neutral_type: neutral.map_or_else(|| asset.kind.neutral_type.clone(), str::to_owned),
                display: display(noun),
                ..(*asset.kind).clone()
            };
            asset = Arc::new(AssetPlan {
                kind: Arc::new(kind),
                name: asset.name.clone(),
                arn: None,
                id_prefix: None,
                global: asset.global,
            });
        }
        Some(self.named(&asset, id.to_owned(), &vars, Some(arn), place))
    }

    fn named(
        &self,
        plan: &AssetPlan,
        id: String,
        vars: &[(&str, &str)],
        arn: Option<Arn<'_>>,
        place: &Place<'_>,
    ) -> AssetRef {
        let account = arn.map(|arn| arn.account).filter(|account| !account.is_empty()).unwrap_or(place.account);
        let is_global = plan.global || self.global_services.contains(place.service);
        let region = if is_global { "-" } else { arn.map_or(place.region, |arn| arn.region) };
        let parts = Parts { partition: partition(region), region, account, id: &id, vars };
        let name = plan.asset_name(&parts);
        AssetRef {
            kind: Arc::clone(&plan.kind),
            name: name.unwrap_or_else(|| AssetName::new("aws", account, region, &AssetName::encode(&id).to_string())),
            arn: arn.map(|arn| arn.text.to_owned()).or_else(|| plan.arn.as_ref()?.render(&parts, false)),
            arn_is_told: arn.is_some(),
            account: account.to_owned(),
            region: region.to_owned(),
            id,
        }
    }
}

/// ARN and type of the first element of `resources` that belongs to the service itself, unlike a key or role that was
/// only used.
fn listed_resource<'a>(record: &Record<'a>, label: &str) -> Option<(&'a str, Option<&'a str>)> {
    let resources = record.value("resources")?.as_array()?;
    let mut listed = resources.iter().filter_map(|resource| {
        let members = resource.as_object()?;
        let arn = members.get_in_any_case("arn")?.as_str().filter(|arn| arn.starts_with("arn:"))?;
        Some((arn, members.get_in_any_case("type").and_then(Json::as_str)))
    });
    listed.find(|(arn, _)| arn.split(':').nth(2) == Some(label))
}

/// Whether the call only checks for permission. If it is answered with an error, the record is skipped before any rule.
fn is_dry_run(request: Members<'_>) -> bool {
    matches!(request.get_in_any_case("dryRun"), Some(Json::Bool(true) | Json::Text("true")))
}

/// Where a request may contain the display name for a noun, in either case.
fn display(noun: &str) -> Vec<jsonptr::PointerBuf> {
    let mut letters = noun.chars();
    let lower: String = letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect();
    let own = [lower.as_str(), noun].into_iter().filter(|noun| !noun.is_empty()).map(|noun| format!("{noun}Name"));
    let keys = own.chain(["name".to_owned(), "Name".to_owned()]);
    keys.map(|key| jsonptr::PointerBuf::from_tokens([key])).collect()
}

/// `DBInstance` → `db-instance`.
fn kebab(noun: &str) -> String {
    let letters: Vec<char> = noun.chars().collect();
    let mut kebab = String::with_capacity(noun.len() + 4);
    for (at, letter) in letters.iter().enumerate() {
        let after_lower =
            at > 0 && letters.get(at - 1).is_some_and(|before| before.is_lowercase() || before.is_ascii_digit());
        let before_lower = at > 0 && letters.get(at + 1).is_some_and(|after| after.is_lowercase());
        if letter.is_uppercase() && (after_lower || before_lower) {
            kebab.push('-');
        }
        kebab.extend(letter.to_lowercase());
    }
    if kebab.is_empty() { "resource".to_owned() } else { kebab }
}
