//! Compilation of the assets of a rule file.

use std::ops::Range;
use std::sync::Arc;

use jsonptr::PointerBuf;
use toml::Spanned;

use super::super::plan::AssetPlan;
use super::super::rule::{AssetRule, OneOrMany, RuleFile, Texts};
use super::Compiler;
use crate::model::{AssetKind, KeyedSet, UniqueId};

impl Compiler<'_> {
    /// Compiles the assets of a file, to provider types and plans.
    pub(super) fn assets(&mut self, file: &RuleFile) -> Vec<(Box<str>, Arc<AssetPlan>)> {
        let assets = file.assets.iter().filter_map(|(provider_type, rule)| {
            let key = format!("assets.{provider_type:?}");
            let asset = self.asset(provider_type, rule.get_ref(), &key)?;
            Some((provider_type.as_str().into(), Arc::new(asset)))
        });
        assets.collect()
    }

    fn asset(&mut self, provider_type: &str, rule: &AssetRule, key: &str) -> Option<AssetPlan> {
        let neutral_type = self.neutral_type(provider_type, rule, key);
        let name = self.template(&rule.name, &format!("{key}.name"))?;
        let arn = match &rule.arn {
            Some(arn) => Some(self.template(arn, &format!("{key}.arn"))?),
            None => None,
        };
        let tags = match &rule.tags {
            Some(tags) => self.config_pointer(tags, &format!("{key}.tags"))?,
            None => PointerBuf::from_tokens(["tags"]),
        };
        let mut display = Vec::new();
        if let Some(texts) = &rule.display {
            for text in &texts.get_ref().0 {
                display
                    .push(self.config_pointer(&Spanned::new(texts.span(), text.clone()), &format!("{key}.display"))?);
            }
        }
        if display.is_empty() && name.is_arm_id() {
            display.push(PointerBuf::from_tokens(["name"]));
        }
        let uid = self.unique_ids(&rule.uid, &format!("{key}.uid"))?;
        let mut sets = Vec::new();
        for (at, keys) in &rule.sets {
            let key = format!("{key}.sets.{:?}", at.get_ref());
            let at_config = self.config_pointer(at, &key)?;
            let keys = self.set_key(at.span(), keys, &key)?;
            sets.push(self.keyed(at_config, keys));
        }
        for set in self.part_sets(rule) {
            if !sets.iter().any(|declared| declared.at == set.at) {
                sets.push(set);
            }
        }
        Some(AssetPlan {
            kind: Arc::new(AssetKind {
                provider: self.provider,
                provider_type: provider_type.to_owned(),
                neutral_type,
                display,
                tags,
                uid,
                sets,
            }),
            name,
            arn,
            global: rule.global,
            id_prefix: rule.id_prefix.as_deref().map(Into::into),
        })
    }

    /// Where unique ids are found: `{id}`, or pointers into the configuration.
    fn unique_ids(&mut self, texts: &Texts, key: &str) -> Option<Vec<UniqueId>> {
        let Some(texts) = texts else { return Some(Vec::new()) };
        let one = |text: &String| match text.as_str() {
            "{id}" => Some(UniqueId::Id),
            _ => self.config_pointer(&Spanned::new(texts.span(), text.clone()), key).map(UniqueId::At),
        };
        texts.get_ref().0.iter().map(one).collect()
    }

    /// The neutral type: the one stated with the asset, else that of the taxonomy, else `unclassified.<service>`.
    fn neutral_type(&mut self, provider_type: &str, rule: &AssetRule, key: &str) -> String {
        if let Some(told) = &rule.neutral_type {
            if !self.neutral_types.known.contains(told.get_ref()) {
                let message =
                    format!("unknown neutral type {:?}; normalizers/taxonomy.toml lists them", told.get_ref());
                self.error(told.span(), &format!("{key}.type"), message);
            }
            return told.get_ref().clone();
        }
        let service = rule.name.get_ref().split('/').next().unwrap_or_default();
        let told = self.neutral_types.of(provider_type);
        told.map_or_else(|| format!("unclassified.{service}"), str::to_owned)
    }

    pub(super) fn keyed(&self, at: PointerBuf, key: Arc<[PointerBuf]>) -> KeyedSet {
        KeyedSet { at, key, ignore_case: self.provider == "azure" }
    }

    pub(super) fn set_key(
        &mut self,
        span: Range<usize>,
        texts: &OneOrMany<String>,
        key: &str,
    ) -> Option<Arc<[PointerBuf]>> {
        let pointers: Option<Vec<_>> =
            texts.0.iter().map(|text| self.config_pointer(&Spanned::new(span.clone(), text.clone()), key)).collect();
        pointers.map(Into::into)
    }
}
