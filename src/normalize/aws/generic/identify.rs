//! Finds the asset in the parameters of a call without a rule: an id or an ARN, and the noun that it belongs to.

use super::super::super::plan::Glob;
use super::super::super::rule::RuleAction;
use crate::json::{Json, Members};

/// An id or ARN, and the noun for the kind of asset.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) noun: String,
    pub(super) id: String,
}

/// A call's parameters, and what to look for in them.
pub(super) struct Parameters<'a> {
    /// The noun of the call: `DBInstance` in CreateDBInstance.
    pub(super) noun: &'a str,
    pub(super) action: RuleAction,
    pub(super) request: Option<Members<'a>>,
    pub(super) response: Option<Members<'a>>,
    /// Keys whose ids are never those of the asset.
    pub(super) strangers: &'a [Glob],
}

impl<'a> Parameters<'a> {
    /// The assets that the call is about: usually one; an empty list if it failed for all elements of a list. `None` if
    /// the record names no asset.
    pub(super) fn told(&self) -> Option<Vec<Told>> {
        let one = || self.one().map(|told| vec![told]);
        match self.action {
            // Another id beside the list of deleted assets must not win.
            RuleAction::Delete => self.several().or_else(one),
            _ => one().or_else(|| self.several()),
        }
    }

    /// The elements of a list such as `alarmNames`, `connectionNameList` or `tablesToDelete`, one asset each, without
    /// those that failed according to the response. `None` if there is no such list.
    fn several(&self) -> Option<Vec<Told>> {
        const ENDINGS: [&str; 10] =
            ["sToDelete", "NameList", "Names", "IdList", "Ids", "Identifiers", "ArnList", "ARNList", "Arns", "s"];
        let noun = singular(self.noun);
        let (_, list) = self.request?.iter().find(|(key, value)| {
            let stem = ENDINGS.iter().find_map(|ending| key.strip_suffix(ending));
            value.as_array().is_some() && stem.is_some_and(|stem| is_end_of(&noun, stem))
        })?;
        let ids: Vec<String> = list.as_array()?.iter().filter_map(|id| identifying_text(*id)).collect();
        (!ids.is_empty()).then_some(())?;
        let errors = self.response.and_then(|response| response.get_in_any_case("errors"));
        let kept = ids.into_iter().filter(|id| !errors.is_some_and(|errors| mentions(errors, id)));
        Some(kept.map(|id| Told { noun: noun.clone(), id }).collect())
    }

    fn one(&self) -> Option<Told> {
        let tiers = self.tiers();
        let own = |id: String| Told { noun: self.noun.to_owned(), id: self.without_kind(id) };
        let in_tier = |places: &Vec<_>| self.own_or_common(places).or_else(|| self.short(&self.related_ids(places)));
        let told = self.arn(&tiers).or_else(|| tiers.iter().find_map(in_tier)).map(own);
        told.or_else(|| self.whole(&self.related_ids(&tiers.concat())))
    }

    /// Where to look, likeliest places first: members named by the noun come before top-level ones. For a create the
    /// response comes first. A delete is about what was requested; its response may be about something else (a change,
    /// an operation).
    fn tiers(&self) -> Vec<Vec<Members<'a>>> {
        // A single object in a response is the asset: {"dBCluster": {…}}.
        let inner = self.response.and_then(|members| {
            let mut objects = members.iter().filter_map(|(key, value)| Some((key, value.as_object()?)));
            let (key, inner) = objects.next().filter(|_| objects.next().is_none())?;
            (!self.is_stranger(key)).then_some(inner)
        });
        let answer: Vec<_> = [self.response, inner].into_iter().flatten().collect();
        let request: Vec<_> = self.request.into_iter().collect();
        let own_of_answer = answer.iter().filter_map(|members| self.own_member(*members)).collect();
        let input = |members: Members<'a>| members.get_in_any_case(&format!("{}Input", self.noun))?.as_object();
        let own_of_request = request.iter().flat_map(|members| [self.own_member(*members), input(*members)]);
        let own_of_request = own_of_request.flatten().collect();
        match self.action {
            RuleAction::Create | RuleAction::Upsert => vec![own_of_answer, answer, own_of_request, request],
            RuleAction::Update => vec![own_of_answer, own_of_request, [answer, request].concat()],
            RuleAction::Delete => vec![[own_of_request, request].concat(), own_of_answer, answer],
        }
    }

    /// `{"loadBalancer": {…}}`, or `{"loadBalancers": [{…}]}` with a single one.
    fn own_member(&self, members: Members<'a>) -> Option<Members<'a>> {
        if self.noun.is_empty() {
            return None;
        }
        members.get_in_any_case(self.noun).and_then(Json::as_object).or_else(|| {
            match members.get_in_any_case(&format!("{}s", self.noun))?.as_array()? {
                [element] => element.as_object(),
                _ => None,
            }
        })
    }

    fn arn(&self, tiers: &[Vec<Members<'_>>]) -> Option<String> {
        let noun = self.noun;
        let keys = [format!("{noun}Arn"), format!("{noun}ARN"), "arn".into(), "resourceArn".into(), "resource".into()];
        tiers.iter().flatten().find_map(|members| {
            let texts = keys.iter().filter_map(|key| members.get_in_any_case(key)).filter_map(identifying_text);
            texts.into_iter().find(|text| text.starts_with("arn:"))
        })
    }

    /// An id under a key named by the noun, as `dBInstanceIdentifier`, else under a common key, as `name`. A number is
    /// an id only if the key's ending says so: the `desiredCapacity` of SetDesiredCapacity is a quantity.
    fn own_or_common(&self, places: &[Members<'_>]) -> Option<String> {
        const ENDINGS: [&str; 8] = ["Id", "Name", "Identifier", "Arn", "ARN", "Url", "Key", ""];
        const COMMON: [&str; 6] = ["id", "name", "identifier", "resourceId", "resourceName", "resourceIdentifier"];
        let own = ENDINGS.iter().map(|ending| format!("{}{ending}", self.noun));
        let mut keys = own.chain(COMMON.into_iter().map(str::to_owned));
        keys.find_map(|key| {
            let values = places.iter().filter_map(|members| members.get_in_any_case(&key));
            values
                .filter(|value| key != self.noun || value.as_str().is_some())
                .find_map(|value| identifier(&key, value))
        })
    }

    /// `/hostedzone/Z0123` → `Z0123`.
    fn without_kind(&self, id: String) -> String {
        let parts = id.strip_prefix('/').and_then(|path| path.split_once('/'));
        match parts {
            Some((kind, rest)) if kind.eq_ignore_ascii_case(self.noun) && !rest.is_empty() => rest.to_owned(),
            _ => id,
        }
    }

    /// All ids in these places: stem of the key, and id.
    fn related_ids(&self, places: &[Members<'a>]) -> Vec<(&'a str, String)> {
        let members = places.iter().flat_map(|members| members.iter());
        let known = members.filter(|(key, _)| !self.is_stranger(key));
        known.filter_map(|(key, value)| Some((stem(key)?, identifier(key, value)?))).collect()
    }

    /// The id whose key is the end of the noun: `ruleName` for an InsightRule.
    fn short(&self, ids: &[(&str, String)]) -> Option<String> {
        let fitting = ids.iter().filter(|(stem, _)| is_end_of(self.noun, stem));
        // Of several with the same length, the first.
        fitting.rev().max_by_key(|(stem, _)| stem.len()).map(|(_, id)| id.clone())
    }

    /// The id of the whole asset, for a part that has none of its own: putting a RetentionPolicy is an update of the
    /// asset in `logGroupName`. For creating or deleting a part, the whole must be named by the start of the noun.
    fn whole(&self, ids: &[(&str, String)]) -> Option<Told> {
        let start =
            ids.iter().rev().filter(|(stem, _)| is_start_of(self.noun, stem)).max_by_key(|(stem, _)| stem.len());
        if matches!(self.action, RuleAction::Update) {
            let (stem, id) = start.or_else(|| ids.first())?;
            return Some(Told { noun: capitalized(stem), id: id.clone() });
        }
        start.map(|(_, id)| Told { noun: self.noun.to_owned(), id: id.clone() })
    }

    fn is_stranger(&self, key: &str) -> bool {
        self.strangers.iter().any(|stranger| stranger.matches(key))
    }
}

/// `ruleName` → `rule`.
fn stem(key: &str) -> Option<&str> {
    let stem = ["Identifier", "Name", "Arn", "ARN", "Url", "Id"].iter().find_map(|ending| key.strip_suffix(ending))?;
    (!stem.is_empty()).then_some(stem)
}

/// The id in the value of a key; for a URL, the last part of its path.
fn identifier(key: &str, value: Json<'_>) -> Option<String> {
    let text = identifying_text(value)?;
    if key.ends_with("Url") {
        return text.trim_end_matches('/').rsplit('/').next().filter(|part| !part.is_empty()).map(str::to_owned);
    }
    Some(text)
}

/// A text that may be an id: not a mask, a document or prose.
fn identifying_text(value: Json<'_>) -> Option<String> {
    let text = match value {
        Json::Text(text) => text,
        Json::Number(number) => return Some(number.to_string()),
        _ => return None,
    };
    // ARNs may be longer than any id: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
    let longest = if text.starts_with("arn:") { 2_048 } else { 256 };
    let is_mask = text.starts_with("***") || text == "HIDDEN_DUE_TO_SECURITY_REASONS";
    let is_document = text.starts_with(['{', '[']) || text.contains(char::is_control);
    (!text.is_empty() && text.len() <= longest && !is_mask && !is_document).then(|| text.to_owned())
}

/// Whether the noun ends with the words of the stem: `InsightRule` ends with `Rule`.
fn is_end_of(noun: &str, stem: &str) -> bool {
    let end = noun.len().checked_sub(stem.len()).and_then(|at| noun.get(at..));
    !stem.is_empty()
        && end.is_some_and(|end| end.eq_ignore_ascii_case(stem) && end.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// Whether the noun starts with the words of the stem: `LogGroupPolicy` starts with `LogGroup`.
fn is_start_of(noun: &str, stem: &str) -> bool {
    let fits = noun.get(..stem.len()).is_some_and(|start| start.eq_ignore_ascii_case(stem));
    !stem.is_empty() && fits && !noun.get(stem.len()..).unwrap_or_default().starts_with(|c: char| c.is_lowercase())
}

/// `Policies` → `Policy`, `Alarms` → `Alarm`.
fn singular(noun: &str) -> String {
    match (noun.strip_suffix("ies"), noun.strip_suffix('s')) {
        (Some(start), _) => format!("{start}y"),
        (None, Some(start)) if !start.ends_with('s') => start.to_owned(),
        _ => noun.to_owned(),
    }
}

fn capitalized(stem: &str) -> String {
    let mut letters = stem.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// Whether the id is a key or a text anywhere in the value.
fn mentions(value: Json<'_>, id: &str) -> bool {
    match value {
        Json::Text(text) => text == id,
        Json::Array(elements) => elements.iter().any(|element| mentions(*element, id)),
        Json::Object(members) => members.iter().any(|(key, value)| key == id || mentions(value, id)),
        _ => false,
    }
}
