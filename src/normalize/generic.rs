//! Calls that no rule knows: the verb gives the action, the record's own ARNs and identifiers give the asset.
//!
//! What comes out is never dressed up: type `unclassified.<service>` unless the record names the type, configuration
//! partial, rule `aws/generic/<Verb>`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::eval::{Evaluated, Place, partition, unclassified};
use super::plan::{AssetPlan, Glob, Parts};
use super::pointer::member;
use super::record::{Member, Record};
use crate::model::{Action, AssetKind, AssetName, AssetRef, Draft, DraftAction, Step};

/// `normalizers/aws/generic.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GenericRules {
    /// In order; the first whose prefix fits.
    verbs: Vec<Verb>,
    #[serde(default)]
    skip: Vec<Skip>,
    /// Event sources whose assets live in no region.
    #[serde(default)]
    global_services: HashSet<String>,
    /// Members of requests that say nothing of the asset: tokens of idempotency and such.
    #[serde(default)]
    not_configuration: HashSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verb {
    prefix: String,
    action: Action,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    service: Option<String>,
    /// A name, or a name that begins or ends with `*`.
    name: Option<String>,
    prefix: Option<String>,
    reason: Arc<str>,
}

impl Skip {
    fn fits(&self, service: &str, name: &str) -> bool {
        self.service.as_deref().is_none_or(|wanted| wanted == service)
            && self.name.as_deref().is_none_or(|wanted| Glob::parse(wanted).matches(name))
            && self.prefix.as_deref().is_none_or(|prefix| begins_with_word(name, prefix))
    }
}

/// `Getaway` does not begin with the word `Get`.
fn begins_with_word(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| !rest.starts_with(|letter: char| letter.is_ascii_lowercase()))
}

/// What the generic rules need beside their own file.
pub(super) struct Known<'a> {
    /// Curated assets by the literal part of their names.
    pub(super) by_name_prefix: &'a HashMap<Box<str>, Arc<AssetPlan>>,
    /// Neutral types of provider types that have no curated asset.
    pub(super) neutral_types: &'a HashMap<String, String>,
}

impl GenericRules {
    /// Classifies a call without a rule.
    pub(super) fn evaluate(&self, known: &Known<'_>, record: &Record<'_>, name: &str, place: &Place<'_>) -> Evaluated {
        let skip = self.skip.iter().find(|skip| skip.fits(place.service, name));
        let verb = self.verbs.iter().find(|verb| begins_with_word(name, &verb.prefix));
        let rule: Arc<str> = format!("aws/generic/{}", verb.map_or("other", |verb| &verb.prefix)).into();
        if let Some(skip) = skip {
            return Evaluated::Skipped { reason: Arc::clone(&skip.reason), rule };
        }
        let action = verb.map_or(Action::Update, |verb| verb.action);
        let noun = name.strip_prefix(verb.map_or("", |verb| &verb.prefix)).unwrap_or(name);
        let Some(asset) = self.asset(known, record, noun, place) else { return Evaluated::Unnamed { rule } };
        let request = record.value(Member::RequestParameters).and_then(Value::as_object);
        let configuration = || {
            let members = request.into_iter().flatten();
            let kept = members.filter(|(key, value)| !value.is_null() && !self.not_configuration.contains(*key));
            Value::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
        };
        let steps = match action {
            Action::Create => vec![Step::Replace(configuration())],
            Action::Update => vec![Step::Merge { at: jsonptr::PointerBuf::root(), patch: configuration() }],
            Action::Delete => Vec::new(),
        };
        Evaluated::Drafts(vec![Draft {
            action: DraftAction::Known(action),
            asset,
            steps,
            partial: true,
            associations: Vec::new(),
            rule,
            generic: true,
        }])
    }

    fn asset(&self, known: &Known<'_>, record: &Record<'_>, noun: &str, place: &Place<'_>) -> Option<AssetRef> {
        let label = place.service.split('.').next().unwrap_or(place.service);
        let request = record.value(Member::RequestParameters).and_then(Value::as_object);
        let response = record.value(Member::ResponseElements).and_then(Value::as_object);
        // A response that holds one object holds the asset: {"dBCluster": {…}}.
        let inner = response.and_then(|members| {
            let mut objects = members.values().filter_map(Value::as_object);
            objects.next().filter(|_| objects.next().is_none())
        });
        let places: Vec<&Map<String, Value>> = [response, inner, request].into_iter().flatten().collect();

        if let Some((arn, provider_type)) = listed_resource(record, label) {
            return self.by_arn(known, &arn, provider_type.as_deref(), noun, place);
        }
        let arn_keys =
            [format!("{noun}Arn"), format!("{noun}ARN"), "arn".into(), "resourceArn".into(), "resource".into()];
        let arn = places.iter().find_map(|members| {
            let values = arn_keys.iter().filter_map(|key| member(members, key)).filter_map(Value::as_str);
            values.into_iter().find(|text| text.starts_with("arn:"))
        });
        if let Some(arn) = arn {
            return self.by_arn(known, arn, None, noun, place);
        }
        let id = identifier(&places, noun)?;
        if id.starts_with("arn:") {
            return self.by_arn(known, &id, None, noun, place);
        }
        let plan = unclassified(label, &kebab(noun));
        Some(self.named(&plan, id, None, place.account, place.region, place))
    }

    fn by_arn(
        &self,
        known: &Known<'_>,
        arn: &str,
        provider_type: Option<&str>,
        noun: &str,
        place: &Place<'_>,
    ) -> Option<AssetRef> {
        // arn:partition:service:region:account:resource
        let mut parts = arn.splitn(6, ':').skip(2);
        let (service, region, account) = (parts.next()?, parts.next()?, parts.next()?);
        let resource = parts.next().filter(|resource| !resource.is_empty())?;
        let account = if account.is_empty() { place.account } else { account };
        let region = if region.is_empty() { "-" } else { region };
        let (kind, id) = resource.split_once(['/', ':']).unwrap_or(("", resource));
        let curated = known.by_name_prefix.get(format!("{service}/{kind}/").as_str());
        if let Some(plan) = curated {
            let id = id.rsplit('/').next().unwrap_or(id);
            return Some(self.named(plan, id.to_owned(), Some(arn), account, region, place));
        }
        let kind = if kind.is_empty() { kebab(noun) } else { kind.to_owned() };
        let mut plan = unclassified(service, &kind);
        if let Some(provider_type) = provider_type {
            let neutral = known.neutral_types.get(provider_type);
            plan.kind = Arc::new(AssetKind {
                provider_type: provider_type.to_owned(),
                neutral_type: neutral.cloned().unwrap_or_else(|| plan.kind.neutral_type.clone()),
                ..(*plan.kind).clone()
            });
        }
        Some(self.named(&plan, id.to_owned(), Some(arn), account, region, place))
    }

    fn named(
        &self,
        plan: &AssetPlan,
        id: String,
        arn: Option<&str>,
        account: &str,
        region: &str,
        place: &Place<'_>,
    ) -> AssetRef {
        let region = if plan.global || self.global_services.contains(place.service) { "-" } else { region };
        let parts = Parts { partition: partition(region), region, account, id: &id, vars: &[] };
        let name = plan.asset_name(&parts);
        AssetRef {
            kind: Arc::clone(&plan.kind),
            name: name.unwrap_or_else(|| AssetName::new("aws", account, region, &AssetName::encode(&id).to_string())),
            arn: arn.map(str::to_owned).or_else(|| plan.arn.as_ref()?.render(&parts, false)),
            arn_is_told: arn.is_some(),
            account: account.to_owned(),
            region: region.to_owned(),
            id,
        }
    }
}

/// The resource of the service itself among `resources`; a key or role that was only used comes last.
fn listed_resource(record: &Record<'_>, label: &str) -> Option<(String, Option<String>)> {
    let resources = record.value(Member::Resources)?.as_array()?;
    let listed = resources.iter().filter_map(|resource| {
        let members = resource.as_object()?;
        let arn = member(members, "arn")?.as_str().filter(|arn| arn.starts_with("arn:"))?;
        Some((arn, member(members, "type").and_then(Value::as_str)))
    });
    let own = |(arn, _): &(&str, Option<&str>)| arn.split(':').nth(2) == Some(label);
    let (arn, kind) = listed.clone().find(own)?;
    Some((arn.to_owned(), kind.map(str::to_owned)))
}

/// `DBInstance`: `dBInstanceIdentifier` before `name` before whatever ends in an identifier's word. A number is one only
/// where the member's name says so: the `desiredCapacity` of `SetDesiredCapacity` is a quantity.
fn identifier(places: &[&Map<String, Value>], noun: &str) -> Option<String> {
    let text = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let endings = ["Id", "Name", "Identifier", "Arn", "ARN", "Key", ""];
    let own = endings.iter().map(|ending| format!("{noun}{ending}"));
    let common =
        ["id", "name", "identifier", "resourceId", "resourceName", "resourceIdentifier"].into_iter().map(str::to_owned);
    let by_key = own.chain(common).find_map(|key| {
        let found = places.iter().filter_map(|members| member(members, &key));
        found.filter(|value| key != noun || value.is_string()).find_map(text)
    });
    by_key.or_else(|| {
        let is_identifier = |key: &str| {
            ["Id", "Name", "Identifier", "Arn", "ARN"].iter().any(|ending| key.ends_with(ending))
                && !["requestId", "clientRequestId", "transactionId"].contains(&key)
        };
        let members = places.iter().flat_map(|members| members.iter());
        members.filter(|(key, _)| is_identifier(key)).find_map(|(_, value)| text(value))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_in_kebab_case() {
        for (noun, expected) in
            [("DBInstance", "db-instance"), ("Trail", "trail"), ("WebACL", "web-acl"), ("", "resource")]
        {
            assert_eq!(kebab(noun), expected);
        }
    }

    #[test]
    fn a_quantity_is_no_identifier() {
        let request = serde_json::json!({ "desiredCapacity": 3, "autoScalingGroupName": "web" });
        let numbered = serde_json::json!({ "desiredCapacityId": 7, "autoScalingGroupName": "web" });
        let named = serde_json::json!({ "desiredCapacity": "x", "autoScalingGroupName": "web" });
        for (request, expected) in [(request, "web"), (numbered, "7"), (named, "x")] {
            let found = identifier(&[request.as_object().unwrap()], "DesiredCapacity");
            assert_eq!(found.as_deref(), Some(expected), "{request}");
        }
    }

    #[test]
    fn a_verb_is_a_whole_word() {
        assert!(begins_with_word("GetUser", "Get") && begins_with_word("Get", "Get"));
        assert!(!begins_with_word("GetawayCreated", "Get"));
    }
}
