//! Parts of an Azure resource that are written one by one: a rule of a security group, the administrators of a database
//! server. Each line of `parts` is compiled to a rule for the part's `write` and one for its `delete`.

use std::sync::Arc;

use jsonptr::{Pointer, PointerBuf};
use toml::Spanned;

use super::super::expression::Sources;
use super::super::plan::{
    AssetPick, AssetPlan, Body, ChangePlan, Condition, ElementsPlan, EventPlan, OpPlan, StepPlan, Test, ValuePlan,
};
use super::super::rule::{AssetRule, RuleFile};
use super::{Compiler, rule_name};
use crate::model::{Action, Confidence, KeyedSet};

/// Service, operation name and rules.
type Operation = (Box<str>, Box<str>, Vec<EventPlan>);

/// The place of a part in the configuration of its resource.
enum Place {
    /// An element of a set, identified by name: `/properties/securityRules/-`.
    Element(PointerBuf),
    /// A single value: `/managementPolicy`.
    Only(PointerBuf),
}

impl Place {
    fn of(pointer: PointerBuf) -> Self {
        match pointer.split_back() {
            Some((set, last)) if last.encoded() == "-" => Self::Element(set.to_buf()),
            _ => Self::Only(pointer),
        }
    }
}

impl Compiler<'_> {
    /// The sets that contain an asset's parts.
    pub(super) fn part_sets(&self, rule: &AssetRule) -> Vec<KeyedSet> {
        // Invalid pointers are reported when the parts are compiled.
        let places = rule.parts.values().filter_map(|at| PointerBuf::parse(at.get_ref().as_str()).ok()).map(Place::of);
        let sets = places.filter_map(|place| match place {
            Place::Element(at) => Some(self.keyed(at, by_name())),
            Place::Only(_) => None,
        });
        sets.collect()
    }

    /// Compiles the parts of all assets in a file.
    pub(super) fn parts(&mut self, file: &RuleFile) -> Vec<Operation> {
        let mut compiled = Vec::new();
        for (provider_type, asset_rule) in &file.assets {
            for (part, at) in &asset_rule.get_ref().parts {
                let key = format!("assets.{provider_type:?}.parts.{part:?}");
                compiled.extend(self.part(file, provider_type, part, at, &key).into_iter().flatten());
            }
        }
        compiled
    }

    fn part(
        &mut self,
        file: &RuleFile,
        provider_type: &str,
        part: &str,
        at: &Spanned<String>,
        key: &str,
    ) -> Option<[Operation; 2]> {
        let namespace = provider_type.split('/').next().unwrap_or_default();
        let Some(service) = file.service.0.iter().find(|service| *service == namespace) else {
            self.error(
                at.span(),
                key,
                format!("`service` of the file does not name {namespace}, whose resource it is"),
            );
            return None;
        };
        let asset = self.asset_named(provider_type, at.span(), key)?;
        let place = Place::of(self.config_pointer(at, key)?);
        let rule = rule_name(self.provider, namespace, &format!("{provider_type}/{part}"), false);
        let [written, deleted] = match &place {
            Place::Element(set) => self.element_steps(set, at, key)?,
            Place::Only(at_config) => self.only_steps(at_config, at, key)?,
        };
        let mut event = |verb: &str, steps: Vec<StepPlan>| {
            let operation = format!("{provider_type}/{part}/{verb}");
            let plan = EventPlan {
                rule: Arc::clone(&rule),
                generated: false,
                confidence: Confidence::High,
                when: Box::default(),
                redact: Box::default(),
                body: Body::Change(Box::new(self.part_change(&asset, steps, at, key)?)),
            };
            Some((service.as_str().into(), operation.into(), vec![plan]))
        };
        Some([event("write", written)?, event("delete", deleted)?])
    }

    /// The steps for the write and the delete of an element. A write without properties has no step: the element's new
    /// value is unknown.
    fn element_steps(&mut self, set: &Pointer, at: &Spanned<String>, key: &str) -> Option<[Vec<StepPlan>; 2]> {
        let keyed = self.keyed(set.to_buf(), by_name());
        let name = self.fixed(&["/resource/name"], at, key)?;
        let properties = self.fixed(&["/response/properties", "/request/properties"], at, key)?;
        let name = || ("name".to_owned(), ValuePlan::From(name.clone()));
        let one = |members| ElementsPlan { each: None, value: Some(ValuePlan::Object(members)) };
        let members = vec![name(), ("properties".to_owned(), ValuePlan::From(properties.clone()))];
        let add = OpPlan::Add { set: keyed.clone(), elements: one(members) };
        let when = Condition { what: properties, test: Test::Present };
        let remove = OpPlan::Remove { set: keyed, elements: one(vec![name()]) };
        Some([vec![step(Some(when), add)], vec![step(None, remove)]])
    }

    /// The steps for the write and the delete of a single part. The response contains all of it, the request only what
    /// changes.
    fn only_steps(&mut self, at_config: &Pointer, at: &Spanned<String>, key: &str) -> Option<[Vec<StepPlan>; 2]> {
        let place = at_config.to_buf();
        let answered = self.fixed(&["/response/properties"], at, key)?;
        let set = OpPlan::Set { at: place.clone(), value: ValuePlan::From(answered.clone()) };
        let asked = ValuePlan::From(self.fixed(&["/request/properties"], at, key)?);
        let merge = OpPlan::Merge { at: place.clone(), patch: asked };
        let unanswered = Condition { what: answered, test: Test::Absent };
        Some([vec![step(None, set), step(Some(unanswered), merge)], vec![step(None, OpPlan::Unset { at: place })]])
    }

    fn part_change(
        &mut self,
        asset: &Arc<AssetPlan>,
        apply: Vec<StepPlan>,
        at: &Spanned<String>,
        key: &str,
    ) -> Option<ChangePlan> {
        Some(ChangePlan {
            action: Some(Action::Update),
            asset: AssetPick::Kind(Arc::clone(asset)),
            id: self.fixed(&["/resource/parent"], at, key)?,
            each: None,
            vars: Box::default(),
            arn: None,
            account: None,
            region: None,
            except: None,
            apply: apply.into(),
            associations: Box::default(),
            partial: false,
        })
    }

    fn fixed(&mut self, texts: &[&str], at: &Spanned<String>, key: &str) -> Option<Sources> {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        self.sources_of(&texts, at.span(), key)
    }
}

fn step(when: Option<Condition>, op: OpPlan) -> StepPlan {
    StepPlan { when: when.into_iter().collect(), required: false, op }
}

/// The key of sets of parts: their names.
fn by_name() -> Arc<[PointerBuf]> {
    Arc::new([PointerBuf::from_tokens(["name"])])
}
