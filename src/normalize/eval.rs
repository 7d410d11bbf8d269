//! Evaluation of the rules of one event on one record.

use std::sync::Arc;

use super::arn::Arn;
use super::azure::{self, ArmId};
use super::expression::{Facts, Scope, Sources};
use super::plan::{AssetPick, AssetPlan, AssociationPlan, Body, ChangePlan, EventPlan, OpPlan, Plan, StepPlan};
use super::template::{Parts, Template, Vars};
use crate::json::Json;
use crate::model::{Action, AssetKind, AssetRef, Association, Draft, DraftAction, Step};

/// The service, account and region of a record's assets, unless a rule says otherwise.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) service: &'a str,
    pub(super) account: &'a str,
    pub(super) region: &'a str,
}

/// The result of evaluating the rules on a record.
pub(super) enum Evaluated {
    Drafts(Vec<Draft>),
    /// A rule with `skip` applies: the call changes no asset.
    Skipped {
        reason: Arc<str>,
        rule: Arc<str>,
    },
    /// There are rules, but the conditions of none hold.
    NoRuleApplies,
    /// A rule applies, but the record contains no id.
    Unnamed {
        rule: Arc<str>,
    },
}

/// Applies every rule whose conditions hold.
pub(super) fn evaluate<'a>(
    plan: &'a Plan,
    rules: &'a [EventPlan],
    record: Facts<'a>,
    place: &'a Place<'a>,
) -> Evaluated {
    let scope = record.scope();
    let mut drafts = Vec::new();
    let mut otherwise = Evaluated::NoRuleApplies;
    for rule in rules.iter().filter(|rule| rule.holds(scope)) {
        match &rule.body {
            Body::Skip(reason) => {
                otherwise = Evaluated::Skipped { reason: Arc::clone(reason), rule: Arc::clone(&rule.rule) };
            }
            Body::Change(change) => {
                let evaluation = Evaluation { plan, rule, change, record, place };
                if !evaluation.drafts(&mut drafts) {
                    otherwise = Evaluated::Unnamed { rule: Arc::clone(&rule.rule) };
                }
            }
        }
    }
    if drafts.is_empty() { otherwise } else { Evaluated::Drafts(drafts) }
}

/// The asset that an id belongs to.
struct Identified<'i> {
    asset: Arc<AssetPlan>,
    id: &'i str,
    vars: Vars<'i>,
    /// The id as an ARN, if it is one that matches the asset's template.
    arn: Option<Arn<'i>>,
}

struct Evaluation<'e> {
    plan: &'e Plan,
    rule: &'e EventPlan,
    change: &'e ChangePlan,
    record: Facts<'e>,
    place: &'e Place<'e>,
}

impl<'e> Evaluation<'e> {
    /// Adds the drafts of the rule. False if no asset could be named.
    fn drafts(&self, drafts: &mut Vec<Draft>) -> bool {
        let scope = self.record.scope();
        let failed: Vec<&str> =
            self.change.except.as_ref().map_or_else(Vec::new, |except| {
                except.elements(scope).iter().filter_map(|value| value.as_str()).collect()
            });
        let Some(each) = &self.change.each else {
            return self.draft(scope, &failed, drafts);
        };
        let mut named = false;
        for element in each.elements(scope) {
            let scope = scope.with(*element);
            named |= !self.rule.holds_for_element(scope) || self.draft(scope, &failed, drafts);
        }
        named
    }

    fn draft(&self, scope: Scope<'e>, failed: &[&str], drafts: &mut Vec<Draft>) -> bool {
        let Some(id) = self.change.id.text(scope) else { return false };
        if failed.contains(&id) {
            return true;
        }
        let Some(Identified { asset, id, mut vars, arn: id_arn }) = self.identified(id) else { return false };
        let told = self.change.vars.iter().filter_map(|(name, sources)| Some((&**name, sources.text(scope)?)));
        // The variables from the asset's own ARN come first; the first of a name wins.
        vars.extend(told);
        let arn_account = id_arn.map(|arn| arn.account).filter(|account| !account.is_empty());
        let told = |sources: &'e Option<Sources>, otherwise: &'e str| {
            sources.as_ref().and_then(|sources| sources.text(scope)).unwrap_or(otherwise)
        };
        let account = told(&self.change.account, arn_account.unwrap_or(self.place.account));
        let region = told(&self.change.region, id_arn.map_or(self.place.region, |arn| arn.region));
        let parts = Parts { partition: partition(region), region, account, id, vars: &vars };
        let Some(name) = asset.asset_name(&parts) else { return false };
        let told_arn = self.change.arn.as_ref().and_then(|arn| arn.text(scope)).filter(|arn| arn.starts_with("arn:"));
        let told_arn = told_arn.or(id_arn.map(|arn| arn.text));
        let arn_is_told = told_arn.is_some();
        let arn = told_arn.map(str::to_owned).or_else(|| asset.arn.as_ref()?.render(&parts, false));

        let (steps, mut partial) = self.steps(&asset, &parts, scope);
        partial |= self.change.partial || self.record.is_cut;
        if steps.is_empty() && !matches!(self.change.action, Some(Action::Delete)) {
            partial = true;
        }
        let associations = self.change.associations.iter().flat_map(|plan| self.associations(plan, scope)).collect();
        drafts.push(Draft {
            action: self.change.action.map_or(DraftAction::Upsert, DraftAction::Known),
            asset: AssetRef {
                kind: Arc::clone(&asset.kind),
                name,
                arn,
                arn_is_told,
                region: if asset.global { "-" } else { region }.to_owned(),
                account: account.to_owned(),
                id: id.to_owned(),
            },
            steps,
            partial,
            associations,
            rule: Arc::clone(&self.rule.rule),
            confidence: self.rule.confidence,
        });
        true
    }

    /// The asset that an id belongs to. An ARN that matches the type's template is split into its variables.
    fn identified(&self, id: &'e str) -> Option<Identified<'e>> {
        let arn = Arn::parse(id);
        let plain = |asset| Identified { asset, id, vars: Vec::new(), arn: None };
        Some(match &self.change.asset {
            AssetPick::Kind(asset) => {
                let template = asset.arn.as_ref();
                let fits = |arn: Arn<'e>| {
                    let captures = |loose| template.and_then(|template| template.captures(arn.text, loose));
                    let (id, vars) = captures(false).or_else(|| captures(true))?;
                    Some(Identified { asset: Arc::clone(asset), id, vars, arn: Some(arn) })
                };
                arn.and_then(fits).unwrap_or_else(|| plain(Arc::clone(asset)))
            }
            AssetPick::ByIdPrefix => {
                let known = self.plan.references.by_id_prefix(id).map(Arc::clone);
                plain(known.unwrap_or_else(|| unknown_prefix(self.place.service, id)))
            }
            AssetPick::ByArmId => plain(azure::kind(self.plan, &ArmId::parse(id)?.whole()?).0),
            AssetPick::ByArn => {
                let arn = arn?;
                let named = self.plan.arns.named(arn, "resource");
                Identified { asset: named.asset, id: named.id, vars: named.vars, arn: Some(arn) }
            }
        })
    }

    /// The steps for which values were found, and whether a required one is missing.
    fn steps(&self, asset: &AssetPlan, parts: &Parts<'_>, scope: Scope<'e>) -> (Vec<Step>, bool) {
        let mut steps = Vec::new();
        let mut partial = false;
        for plan in &self.change.apply {
            if !plan.when.iter().all(|condition| condition.holds(scope)) {
                continue;
            }
            match step(plan, asset, parts, scope) {
                Some(step) => steps.push(step),
                None => partial |= plan.required,
            }
        }
        (steps, partial)
    }

    fn associations(&self, plan: &'e AssociationPlan, scope: Scope<'e>) -> Vec<Association> {
        let Some(each) = &plan.each else { return self.associated(plan, scope) };
        each.elements(scope).iter().flat_map(|element| self.associated(plan, scope.with(*element))).collect()
    }

    fn associated(&self, plan: &'e AssociationPlan, scope: Scope<'e>) -> Vec<Association> {
        if !plan.when.iter().all(|condition| condition.holds(scope)) {
            return Vec::new();
        }
        let Some(vars) = vars(&plan.vars, scope) else { return Vec::new() };
        let told = |sources: &'e Option<Sources>| sources.as_ref().and_then(|sources| sources.text(scope));
        let place = Place {
            service: self.place.service,
            account: told(&plan.account).unwrap_or(self.place.account),
            region: told(&plan.region).unwrap_or(self.place.region),
        };
        let one = |id: &str| {
            let found = match &plan.asset {
                AssetPick::ByArn | AssetPick::ByArmId => None,
                AssetPick::ByIdPrefix => self.plan.references.find(id, &place),
                AssetPick::Kind(asset) => self.plan.references.of_kind(asset, id, &vars, &place),
            }?;
            Some(found.association(Arc::clone(&plan.relation), plan.change))
        };
        plan.id.texts(scope).into_iter().filter_map(one).collect()
    }
}

pub(super) fn step(plan: &StepPlan, asset: &AssetPlan, parts: &Parts<'_>, scope: Scope<'_>) -> Option<Step> {
    let some =
        |elements: Vec<Json<'_>>| (!elements.is_empty()).then(|| elements.into_iter().map(Json::to_text).collect());
    Some(match &plan.op {
        OpPlan::Replace(value) => Step::Replace(value.value(scope)?.to_text()),
        OpPlan::Set { at, value } => Step::Set { at: at.clone(), value: value.value(scope)?.to_text() },
        OpPlan::Unset { at } => Step::Unset { at: at.clone() },
        OpPlan::Merge { at, patch } => {
            let patch = patch.value(scope).filter(|patch| patch.is_object())?;
            Step::Merge { at: at.clone(), patch: patch.to_text() }
        }
        OpPlan::Add { set, elements } => Step::Add { set: set.clone(), elements: some(elements.elements(scope))? },
        OpPlan::Remove { set, elements } => {
            Step::Remove { set: set.clone(), elements: some(elements.elements(scope))? }
        }
        OpPlan::RemoveMembers { at, keys } => {
            let keys: Vec<_> = keys.elements(scope).iter().filter_map(|key| key.as_str().map(str::to_owned)).collect();
            (!keys.is_empty()).then_some(())?;
            Step::RemoveMembers { at: at.clone(), keys }
        }
        OpPlan::MergeElements { set, elements } => {
            Step::MergeElements { set: set.clone(), elements: some(elements.elements(scope))? }
        }
        OpPlan::Rename { id } => {
            let id = id.text(scope).filter(|id| *id != parts.id)?;
            let parts = Parts { id, ..*parts };
            let alias = asset.asset_name(&parts)?;
            let arn = asset.arn.as_ref().and_then(|arn| arn.render(&parts, false));
            Step::Rename { alias, arn, id: id.to_owned() }
        }
        OpPlan::Copy { asset: other, id, from_at, at } => {
            let id = id.text(scope)?;
            let parts = Parts { id, vars: &[], ..*parts };
            Step::Copy { from: other.asset_name(&parts)?, from_at: from_at.clone(), at: at.clone() }
        }
        OpPlan::Recall(value) => Step::Recall(value.value(scope).filter(|value| value.is_object())?.to_text()),
        OpPlan::Touch => Step::Touch,
    })
}

/// The variables' values; `None` if one can't be found.
fn vars<'a>(plans: &'a [(Box<str>, Sources)], scope: Scope<'a>) -> Option<Vars<'a>> {
    plans.iter().map(|(name, sources)| Some((&**name, sources.text(scope)?))).collect()
}

/// A type for an id with a prefix that no rule file defines: `tgw-attach-0123` of `ec2.amazonaws.com`.
fn unknown_prefix(service: &str, id: &str) -> Arc<AssetPlan> {
    let service = service.split('.').next().unwrap_or(service);
    let kind = id.rsplit_once('-').map_or("resource", |(kind, _)| kind);
    Arc::new(unclassified(service, kind, Vec::new()))
}

/// A type that no rule file defines, named after its service and kind.
pub(super) fn unclassified(service: &str, kind: &str, display: Vec<jsonptr::PointerBuf>) -> AssetPlan {
    let literal = format!("{service}/{kind}/").replace(['{', '}'], "");
    AssetPlan {
        kind: Arc::new(AssetKind {
            provider: "aws",
            provider_type: format!("{service}:{kind}"),
            neutral_type: format!("unclassified.{service}"),
            display,
            tags: jsonptr::PointerBuf::from_tokens(["tags"]),
            uid: Vec::new(),
            sets: Vec::new(),
        }),
        name: Template::parse(&format!("{literal}{{id}}")).unwrap_or_default(),
        arn: None,
        global: false,
        id_prefix: None,
    }
}

/// The partition of a region: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>
pub(super) fn partition(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "aws-cn"
    } else if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    }
}

/// The API name behind a versioned event name: `CreateFunction20150331v2`, `CreateDistribution2020_05_31`.
pub(super) fn without_version(name: &str) -> &str {
    let without_v =
        name.rsplit_once('v').filter(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    for candidate in [Some(name), without_v.map(|(before, _)| before)].into_iter().flatten() {
        let letters = candidate.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
        let date = candidate.get(letters.len()..).unwrap_or_default();
        let digits = date.bytes().filter(u8::is_ascii_digit).count();
        if digits == 8 && date.starts_with("20") && !letters.is_empty() {
            return letters;
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_suffixes_are_dropped_and_nothing_else() {
        for (name, expected) in [
            ("CreateFunction20150331", "CreateFunction"),
            ("UpdateFunctionCode20150331v2", "UpdateFunctionCode"),
            ("CreateDistribution2020_05_31", "CreateDistribution"),
            ("PutIp4", "PutIp4"),
            ("CreateTagsV2", "CreateTagsV2"),
            ("20150331", "20150331"),
            ("Év2", "Év2"),
        ] {
            assert_eq!(without_version(name), expected, "{name}");
        }
    }
}
