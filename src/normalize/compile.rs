//! Compiles rule files to a [`Plan`]. Reports every mistake, not only the first.

mod assets;
mod lazy;
mod parts;
mod steps;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;

use jsonptr::PointerBuf;
use toml::Spanned;

pub(super) use self::lazy::LazyEvents;
use super::arn::ArnIndex;
use super::expression::Sources;
use super::plan::{AssetPick, AssetPlan, AssociationPlan, Body, ChangePlan, Condition, EventPlan, Glob, Plan, Test};
use super::pointer::Path;
use super::rule::{AssetChoice, AssociationRule, ConditionRule, EventRule, OneOrMany, RuleAction, RuleFile, Texts};
use super::template::Template;
use crate::model::{Action, Confidence};

/// A mistake in a rule file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {key}: {message}")]
pub struct RuleError {
    /// The file, relative to the folder of rules: `aws/ec2.toml`.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The key: `events.RunInstances.apply`.
    pub key: String,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// A rule file and its text.
#[derive(Clone, Debug)]
pub(super) struct RuleText {
    /// `aws/ec2.toml`.
    pub(super) file: String,
    pub(super) text: String,
    /// From the operator's folder: it may override built-in rules.
    pub(super) overrides: bool,
}

impl RuleText {
    /// Whether the file was generated from public models by `normalizers/generate/run`.
    pub(super) fn is_generated(&self) -> bool {
        self.file.contains("/generated/")
    }

    /// Whether its events are compiled on first use. An operator's files are compiled at once, as they may have
    /// mistakes.
    fn is_lazy(&self) -> bool {
        self.is_generated() && !self.overrides
    }

    /// The part that is compiled at startup: of a lazy file only the assets, which precede the events.
    fn at_start(&self) -> &str {
        let events = if self.is_lazy() { self.text.find("\n[events]\n") } else { None };
        events.and_then(|end| self.text.get(..end)).unwrap_or(&self.text)
    }
}

/// The provider-neutral asset types.
#[derive(Debug, Default)]
pub(super) struct NeutralTypes {
    pub(super) known: HashSet<String>,
    /// By provider type, for assets that do not state their own; `AWS::IoT::*` stands for every other type in the
    /// namespace.
    pub(super) of_provider: HashMap<String, String>,
}

impl NeutralTypes {
    /// The neutral type of a provider type.
    pub(super) fn of(&self, provider_type: &str) -> Option<&str> {
        let of_namespace = || {
            let (namespace, _) = provider_type.rsplit_once("::")?;
            self.of_provider.get(&format!("{namespace}::*"))
        };
        self.of_provider.get(provider_type).or_else(of_namespace).map(String::as_str)
    }
}

/// Compiles the files of one provider. Later files override earlier ones for the same asset or event.
pub(super) fn compile(
    provider: &'static str,
    texts: &[RuleText],
    neutral_types: &NeutralTypes,
) -> (Plan, Vec<RuleError>) {
    let mut errors = Vec::new();
    let mut files = Vec::new();
    for (text, parsed) in texts.iter().zip(parse(texts)) {
        match parsed {
            Ok(file) => files.push((text, file)),
            Err(error) => errors.push(parse_error(text, &error)),
        }
    }
    let mut plan = Plan::default();
    for (text, file) in &files {
        let none = HashMap::new();
        let mut compiler = Compiler { provider, text, errors: &mut errors, assets: &none, neutral_types };
        plan.assets.extend(compiler.assets(file));
    }
    let mut defined: HashMap<(String, String, bool, bool), String> = HashMap::new();
    for (text, file) in files {
        for (service, name) in
            file.service.0.iter().flat_map(|service| file.events.keys().map(move |name| (service, name)))
        {
            // Rules written by hand replace generated ones.
            let key = (service.clone(), name.clone(), text.overrides, text.is_generated());
            if let Some(other) = defined.insert(key, text.file.clone()) {
                let line = line_of(&text.text, text.text.find(&format!("events.{name}")).unwrap_or(0));
                let message =
                    format!("{other} has rules for this event already; put all rules of an event into one file");
                errors.push(RuleError { file: text.file.clone(), line, key: format!("events.{name}"), message });
            }
        }
        if text.is_lazy() {
            for service in &file.service.0 {
                let service = plan.services.entry(service.as_str().into()).or_default();
                service.generated = Some(LazyEvents::new(provider, text.clone()));
            }
            continue;
        }
        let mut compiler = Compiler { provider, text, errors: &mut errors, assets: &plan.assets, neutral_types };
        // An explicit event replaces the rules derived from a line of `parts`.
        let parts = compiler.parts(&file);
        for (service, name, rules) in parts.into_iter().chain(compiler.events(file)) {
            plan.services.entry(service).or_default().events.insert(name, rules);
        }
    }
    plan.arns = ArnIndex::new(plan.assets.values());
    (plan, errors)
}

/// Compiles the events of files that define no assets; `assets` are defined by other files.
pub(super) fn compile_events(
    provider: &'static str,
    texts: &[RuleText],
    assets: &HashMap<Box<str>, Arc<AssetPlan>>,
) -> (HashMap<Box<str>, Vec<EventPlan>>, Vec<RuleError>) {
    let (mut events, mut errors) = (HashMap::new(), Vec::new());
    let neutral_types = NeutralTypes::default();
    for (text, parsed) in texts.iter().zip(parse(texts)) {
        match parsed {
            Ok(file) => {
                let mut compiler =
                    Compiler { provider, text, errors: &mut errors, assets, neutral_types: &neutral_types };
                events.extend(compiler.events(file).into_iter().map(|(_, name, rules)| (name, rules)));
            }
            Err(error) => errors.push(parse_error(text, &error)),
        }
    }
    (events, errors)
}

/// Parses the files on every core, since this takes most of the startup time.
fn parse(texts: &[RuleText]) -> Vec<Result<RuleFile, toml::de::Error>> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut parsed: Vec<_> = std::thread::scope(|scope| {
        let share = |core| texts.iter().enumerate().skip(core).step_by(cores);
        let read = |(at, text): (usize, &RuleText)| (at, toml::from_str(text.at_start()));
        let readers: Vec<_> =
            (0..cores).map(|core| scope.spawn(move || share(core).map(read).collect::<Vec<_>>())).collect();
        let shares = readers.into_iter().map(|reader| reader.join().unwrap_or_else(|panic| resume_unwind(panic)));
        shares.flatten().collect()
    });
    parsed.sort_unstable_by_key(|(at, _)| *at);
    parsed.into_iter().map(|(_, file)| file).collect()
}

fn parse_error(text: &RuleText, error: &toml::de::Error) -> RuleError {
    let start = error.span().map_or(0, |span| span.start);
    RuleError {
        file: text.file.clone(),
        line: line_of(&text.text, start),
        key: key_at(&text.text, start),
        message: error.message().to_owned(),
    }
}

pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The TOML table that contains an offset, for messages about text that is not a rule file.
pub(super) fn key_at(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let header = before.lines().rev().find(|line| line.starts_with('['));
    header.map_or_else(|| "top level".to_owned(), |line| line.trim_matches(['[', ']', ' ']).to_owned())
}

struct Compiler<'c> {
    provider: &'static str,
    text: &'c RuleText,
    errors: &'c mut Vec<RuleError>,
    assets: &'c HashMap<Box<str>, Arc<AssetPlan>>,
    neutral_types: &'c NeutralTypes,
}

impl Compiler<'_> {
    fn error(&mut self, span: Range<usize>, key: &str, message: impl Into<String>) {
        self.errors.push(RuleError {
            file: self.text.file.clone(),
            line: line_of(&self.text.text, span.start),
            key: key.to_owned(),
            message: message.into(),
        });
    }

    fn template(&mut self, text: &Spanned<String>, key: &str) -> Option<Template> {
        let template = Template::parse(text.get_ref());
        if template.is_none() {
            self.error(text.span(), key, "a `{` is not closed");
        }
        template
    }

    fn config_pointer(&mut self, text: &Spanned<String>, key: &str) -> Option<PointerBuf> {
        match PointerBuf::parse(text.get_ref().as_str()) {
            Ok(pointer) => Some(pointer),
            Err(error) => {
                let message = format!("{:?} is not a JSON Pointer (RFC 6901): {error}", text.get_ref());
                self.error(text.span(), key, message);
                None
            }
        }
    }

    /// Compiles the events of a file, to service, event name and rules.
    fn events(&mut self, file: RuleFile) -> Vec<(Box<str>, Box<str>, Vec<EventPlan>)> {
        let mut compiled = Vec::new();
        // One name per rule, even if the file covers several event sources.
        let first = file.service.0.first().cloned().unwrap_or_default();
        let label = first.split('.').next().unwrap_or_default();
        for (name, rules) in file.events {
            for service in &file.service.0 {
                let rule = rule_name(self.provider, label, &name, self.text.is_generated());
                let key = format!("events.{name}");
                let plans: Vec<_> =
                    rules.get_ref().0.iter().filter_map(|event| self.event(&rule, event, rules.span(), &key)).collect();
                compiled.push((service.as_str().into(), name.as_str().into(), plans));
            }
        }
        compiled
    }

    fn event(&mut self, rule: &Arc<str>, event: &EventRule, span: Range<usize>, key: &str) -> Option<EventPlan> {
        let when = self.conditions(&event.when, &format!("{key}.when"))?;
        let body = match &event.skip {
            Some(reason) => {
                if event.action.is_some() || event.asset.is_some() || !event.apply.is_empty() {
                    self.error(span.clone(), key, "a rule with `skip` has no `action`, `asset` or `apply`");
                }
                Body::Skip(reason.as_str().into())
            }
            None => Body::Change(Box::new(self.change(event, span, key)?)),
        };
        let mut redact = Vec::new();
        if let Some(texts) = &event.redact {
            for text in &texts.get_ref().0 {
                match Path::parse(text) {
                    Ok(path) => redact.push(path),
                    Err(error) => {
                        let message = format!("{text:?} is not a JSON Pointer (RFC 6901): {error}");
                        self.error(texts.span(), &format!("{key}.redact"), message);
                    }
                }
            }
        }
        Some(EventPlan {
            rule: Arc::clone(rule),
            generated: self.text.is_generated(),
            confidence: event.confidence.unwrap_or(Confidence::High),
            when,
            redact: redact.into(),
            body,
        })
    }

    fn change(&mut self, event: &EventRule, span: Range<usize>, key: &str) -> Option<ChangePlan> {
        let Some(action) = event.action else {
            self.error(span.clone(), key, "`action` is missing: create, update, delete or upsert (or give a `skip`)");
            return None;
        };
        let asset = match &event.asset {
            Some(AssetChoice::Type(provider_type)) => {
                let asset = self.asset_named(provider_type, span.clone(), key)?;
                let vars: HashSet<_> = event.vars.keys().map(String::as_str).collect();
                self.check_vars(&asset, &vars, span.clone(), key)?;
                AssetPick::Kind(asset)
            }
            Some(AssetChoice::ByIdPrefix) => AssetPick::ByIdPrefix,
            Some(AssetChoice::ByArmId) => AssetPick::ByArmId,
            Some(AssetChoice::ByArn) => AssetPick::ByArn,
            None => {
                let choices = "a type under [assets], { by = \"id_prefix\" } or { by = \"arn\" }";
                self.error(span.clone(), key, format!("`asset` is missing: {choices}"));
                return None;
            }
        };
        let Some(id) = self.sources(&event.id, &format!("{key}.id")) else {
            if event.id.is_none() {
                self.error(span.clone(), key, "`id` is missing: where the record has the asset's id");
            }
            return None;
        };
        let sets = match &asset {
            AssetPick::Kind(asset) => asset.kind.sets.clone(),
            AssetPick::ByIdPrefix | AssetPick::ByArn | AssetPick::ByArmId => Vec::new(),
        };
        let apply: Vec<_> =
            event.apply.iter().filter_map(|step| self.step(step, &sets, &format!("{key}.apply"))).collect();
        let associations: Vec<_> = event
            .associations
            .iter()
            .filter_map(|association| self.association(association, &format!("{key}.associations")))
            .collect();
        Some(ChangePlan {
            action: match action {
                RuleAction::Create => Some(Action::Create),
                RuleAction::Update => Some(Action::Update),
                RuleAction::Delete => Some(Action::Delete),
                RuleAction::Upsert => None,
            },
            asset,
            id,
            each: self.sources(&event.each, &format!("{key}.each")),
            vars: self.vars(&event.vars, &format!("{key}.vars")),
            arn: self.sources(&event.arn, &format!("{key}.arn")),
            account: self.sources(&event.account, &format!("{key}.account")),
            region: self.sources(&event.region, &format!("{key}.region")),
            except: self.sources(&event.except, &format!("{key}.except")),
            apply: apply.into(),
            associations: associations.into(),
            partial: event.partial,
        })
    }

    fn asset_named(&mut self, provider_type: &str, span: Range<usize>, key: &str) -> Option<Arc<AssetPlan>> {
        let asset = self.assets.get(provider_type).cloned();
        if asset.is_none() {
            self.error(span, key, format!("no [assets.{provider_type:?}] in any rule file"));
        }
        asset
    }

    /// Reports variables that the asset's name needs and the rule does not provide. `None` if the rule is generated,
    /// and the type has been written by hand since: then the generic rules handle the call until the rules are
    /// generated again, as `tests/it/generated.rs` reminds.
    fn check_vars(&mut self, asset: &AssetPlan, vars: &HashSet<&str>, span: Range<usize>, key: &str) -> Option<()> {
        // An id that is an ARN provides the variables of the ARN's template.
        let in_arn: HashSet<_> = asset.arn.iter().flat_map(Template::vars).collect();
        let told = |name: &&str| vars.contains(*name) || in_arn.contains(*name);
        let missing: Vec<_> = asset.name.vars().filter(|name| !told(name)).map(str::to_owned).collect();
        if self.text.is_generated() && !missing.is_empty() {
            return None;
        }
        for name in missing {
            let message =
                format!("the name of {:?} needs `{{{name}}}`: give it under `vars`", asset.kind.provider_type);
            self.error(span.clone(), key, message);
        }
        Some(())
    }

    fn sources(&mut self, texts: &Texts, key: &str) -> Option<Sources> {
        let texts = texts.as_ref()?;
        self.sources_of(&texts.get_ref().0, texts.span(), key)
    }

    fn sources_of(&mut self, texts: &[String], span: Range<usize>, key: &str) -> Option<Sources> {
        match Sources::parse(texts) {
            Ok(sources) => Some(sources),
            Err(error) => {
                self.error(span, key, error.to_string());
                None
            }
        }
    }

    fn vars(&mut self, vars: &BTreeMap<String, Spanned<OneOrMany<String>>>, key: &str) -> Box<[(Box<str>, Sources)]> {
        let mut compiled = Vec::new();
        for (name, texts) in vars {
            if let Some(sources) = self.sources_of(&texts.get_ref().0, texts.span(), &format!("{key}.{name}")) {
                compiled.push((name.as_str().into(), sources));
            }
        }
        compiled.into()
    }

    fn conditions(&mut self, rules: &BTreeMap<Spanned<String>, ConditionRule>, key: &str) -> Option<Box<[Condition]>> {
        let mut conditions = Vec::new();
        for (pointer, ConditionRule(texts)) in rules {
            let what = self.sources_of(std::slice::from_ref(pointer.get_ref()), pointer.span(), key)?;
            let test = match texts.as_slice() {
                [only] if only == "*" => Test::Present,
                [only] if only == "!" => Test::Absent,
                texts => Test::OneOf {
                    globs: texts.iter().filter(|text| *text != "!").map(|text| Glob::parse(text)).collect(),
                    or_absent: texts.iter().any(|text| text == "!"),
                },
            };
            conditions.push(Condition { what, test });
        }
        Some(conditions.into())
    }

    fn association(&mut self, spanned: &Spanned<AssociationRule>, key: &str) -> Option<AssociationPlan> {
        let rule = spanned.get_ref();
        let asset = match rule.asset.get_ref() {
            AssetChoice::Type(provider_type) => {
                let asset = self.asset_named(provider_type, rule.asset.span(), key)?;
                let vars: HashSet<_> = rule.vars.keys().map(String::as_str).collect();
                self.check_vars(&asset, &vars, spanned.span(), key)?;
                AssetPick::Kind(asset)
            }
            AssetChoice::ByIdPrefix => AssetPick::ByIdPrefix,
            AssetChoice::ByArn | AssetChoice::ByArmId => {
                self.error(
                    spanned.span(),
                    key,
                    "an ARN or ARM id shows its own type: name a type, or { by = \"id_prefix\" }",
                );
                return None;
            }
        };
        if rule.id.is_none() {
            self.error(spanned.span(), key, "an association needs `id`");
        }
        Some(AssociationPlan {
            relation: rule.relation.as_str().into(),
            asset,
            when: self.conditions(&rule.when, &format!("{key}.when"))?,
            account: self.sources(&rule.account, &format!("{key}.account")),
            region: self.sources(&rule.region, &format!("{key}.region")),
            id: self.sources(&rule.id, &format!("{key}.id"))?,
            each: self.sources(&rule.each, &format!("{key}.each")),
            vars: self.vars(&rule.vars, &format!("{key}.vars")),
            change: rule.change,
        })
    }
}

/// The name of a rule: `aws/ec2/RunInstances`, `aws/generated/dax/CreateCluster`; for an operation of Azure Resource
/// Manager `azure/compute/virtualMachines/write`.
fn rule_name(provider: &str, label: &str, event: &str, generated: bool) -> Arc<str> {
    let generated = if generated { "generated/" } else { "" };
    match event.split_once('/') {
        Some((namespace, rest)) => {
            let namespace = namespace.rsplit('.').next().unwrap_or(namespace).to_lowercase();
            format!("{provider}/{generated}{namespace}/{rest}").into()
        }
        None => format!("{provider}/{generated}{label}/{event}").into(),
    }
}
