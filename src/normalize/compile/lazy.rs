//! Generated rules, compiled on first use.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::super::plan::{AssetPlan, EventPlan};
use super::super::rule::RuleFile;
use super::{Compiler, NeutralTypes, RuleError, RuleText, parse_error};

/// Event name → rules, and the mistakes in them.
type Events = (HashMap<Box<str>, Vec<EventPlan>>, Vec<RuleError>);

/// The rules of a generated file, compiled when the first record of its service arrives: most installations see few
/// services.
#[derive(Debug)]
pub(in crate::normalize) struct LazyEvents {
    provider: &'static str,
    text: RuleText,
    compiled: OnceLock<Events>,
}

impl LazyEvents {
    pub(super) fn new(provider: &'static str, text: RuleText) -> Self {
        Self { provider, text, compiled: OnceLock::new() }
    }

    /// The rules by event name, without those that have a mistake.
    pub(in crate::normalize) fn events(
        &self,
        assets: &HashMap<Box<str>, Arc<AssetPlan>>,
    ) -> &HashMap<Box<str>, Vec<EventPlan>> {
        &self.compiled(assets).0
    }

    /// The mistakes in the file, for `catchment check` and the tests.
    pub(in crate::normalize) fn mistakes(&self, assets: &HashMap<Box<str>, Arc<AssetPlan>>) -> &[RuleError] {
        &self.compiled(assets).1
    }

    fn compiled(&self, assets: &HashMap<Box<str>, Arc<AssetPlan>>) -> &Events {
        self.compiled.get_or_init(|| {
            let mut errors = Vec::new();
            let file = match toml::from_str::<RuleFile>(&self.text.text) {
                Ok(file) => file,
                Err(error) => return (HashMap::new(), vec![parse_error(&self.text, &error)]),
            };
            let neutral_types = NeutralTypes::default();
            let (provider, text) = (self.provider, &self.text);
            let mut compiler = Compiler { provider, text, errors: &mut errors, assets, neutral_types: &neutral_types };
            let events = compiler.events(file).into_iter().map(|(_, name, rules)| (name, rules)).collect();
            (events, errors)
        })
    }
}
