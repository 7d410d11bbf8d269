//! ARNs: which asset one names, according to the templates of the asset types.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>

use std::collections::HashMap;
use std::sync::Arc;

use super::eval::unclassified;
use super::plan::AssetPlan;
use super::template::{Template, Vars};

/// The parts of an ARN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arn<'t> {
    pub(super) text: &'t str,
    pub(super) service: &'t str,
    /// `-` if the asset has no region.
    pub(super) region: &'t str,
    /// Empty if the service leaves it out.
    pub(super) account: &'t str,
    resource: &'t str,
}

/// The asset that an ARN names.
#[derive(Debug)]
pub(super) struct Named<'t> {
    pub(super) asset: Arc<AssetPlan>,
    pub(super) id: &'t str,
    /// The other variables of the asset's name.
    pub(super) vars: Vars<'t>,
}

impl<'t> Arn<'t> {
    /// Parses an ARN; `None` if the text is none.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        let mut parts = text.strip_prefix("arn:")?.splitn(5, ':').skip(1);
        let (service, region, account) = (parts.next()?, parts.next()?, parts.next()?);
        let region = if region.is_empty() { "-" } else { region };
        let resource = parts.next().filter(|resource| !resource.is_empty())?;
        // `log-group:web:*` means the group with all its streams.
        let (text, resource) = match resource.strip_suffix(":*") {
            Some(resource) => (text.strip_suffix(":*")?, resource),
            None => (text, resource),
        };
        Some(Self { text, service, region, account, resource })
    }
}

/// The asset types, by their ARN templates.
#[derive(Debug, Default)]
pub(super) struct ArnIndex {
    /// By the service in the ARN; templates with the most literal text first.
    templates: HashMap<Box<str>, Vec<Arc<AssetPlan>>>,
    /// By the literal prefix of a name: `iam/role/`. For types whose ARN has parts that the id does not determine.
    by_name: HashMap<Box<str>, Arc<AssetPlan>>,
}

impl ArnIndex {
    pub(super) fn new<'a>(assets: impl Iterator<Item = &'a Arc<AssetPlan>>) -> Self {
        let mut index = Self::default();
        for asset in assets {
            if let Some(service) = asset.arn.as_ref().and_then(Template::arn_service) {
                index.templates.entry(service.into()).or_default().push(Arc::clone(asset));
            }
            if let Some(prefix) = asset.name.literal_prefix() {
                index.by_name.insert(prefix.into(), Arc::clone(asset));
            }
        }
        for assets in index.templates.values_mut() {
            assets.sort_by_key(|asset| {
                let literal = asset.arn.as_ref().map_or(0, Template::literal_len);
                (std::cmp::Reverse(literal), asset.kind.provider_type.clone())
            });
        }
        index
    }

    /// The type whose names begin with this service and kind, as `rds/db/`.
    pub(super) fn by_name(&self, service: &str, kind: &str) -> Option<&Arc<AssetPlan>> {
        self.by_name.get(format!("{service}/{kind}/").as_str())
    }

    /// The asset that an ARN names. If no template matches, the asset is named after the ARN itself, with `noun` for
    /// the kind if the ARN contains none.
    pub(super) fn named<'t>(&'t self, arn: Arn<'t>, noun: &str) -> Named<'t> {
        self.by_template(arn).unwrap_or_else(|| self.by_kind(arn, noun))
    }

    /// Strict matches come first, then those whose last variable may contain `/` and `:`.
    fn by_template<'t>(&'t self, arn: Arn<'t>) -> Option<Named<'t>> {
        let assets = self.templates.get(arn.service)?;
        [false, true].into_iter().find_map(|loose| {
            assets.iter().find_map(|asset| {
                let (id, vars) = asset.arn.as_ref()?.captures(arn.text, loose)?;
                Some(Named { asset: Arc::clone(asset), id, vars })
            })
        })
    }

    fn by_kind<'t>(&self, arn: Arn<'t>, noun: &str) -> Named<'t> {
        let (kind, id) = arn.resource.split_once(['/', ':']).unwrap_or(("", arn.resource));
        if let Some(asset) = self.by_name(arn.service, kind) {
            let id = id.rsplit('/').next().unwrap_or(id);
            return Named { asset: Arc::clone(asset), id, vars: Vec::new() };
        }
        let kind = if kind.is_empty() { noun } else { kind };
        Named { asset: Arc::new(unclassified(arn.service, kind, Vec::new())), id, vars: Vec::new() }
    }
}
