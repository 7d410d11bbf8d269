//! Resolution of references: which asset an ARN or an id means, wherever it occurs.
//!
//! ARNs: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::eval::{Place, partition, unclassified};
use super::plan::AssetPlan;
use super::template::{Parts, Template};
use crate::model::{AssetName, Association, FastMap, RelationChange};

/// Peculiarities of some services' ARNs, from `normalizers/aws/associations.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ArnRules {
    /// Service → characters. What follows one of them in the id, a version or a part, is cut off: `{ lambda = ":" }`.
    #[serde(default)]
    cut: FastMap<String, String>,
    /// Services whose ids may be preceded by a path: `role/service-role/deployer` is `deployer`.
    #[serde(default)]
    paths: Vec<String>,
    /// Service → kinds of ARNs that name no asset: `{ sts = ["assumed-role"] }`.
    #[serde(default)]
    none: FastMap<String, Vec<String>>,
}

/// Templates of the resource part of ARNs, by kind.
type Patterns = FastMap<Box<str>, Vec<(Template, Arc<AssetPlan>)>>;

/// The asset types, by ARN and by id prefix.
#[derive(Debug, Default)]
pub(super) struct References {
    /// By service, then by kind, which is empty if the resource begins with a variable; those with the most literal
    /// text first.
    by_arn: FastMap<Box<str>, Patterns>,
    /// Service and resource of an asset type's own ARN, by provider type.
    own: FastMap<String, (String, Template)>,
    by_id_prefix: FastMap<Box<str>, Arc<AssetPlan>>,
    rules: ArnRules,
}

/// A resolved reference.
#[derive(Debug)]
pub(super) struct Referred {
    pub(super) asset: Arc<AssetPlan>,
    pub(super) id: String,
    pub(super) name: AssetName,
    pub(super) region: String,
}

impl Referred {
    pub(super) fn association(self, relation: Arc<str>, change: Option<RelationChange>) -> Association {
        let neutral_type = self.asset.kind.neutral_type.as_str().into();
        Association { relation, neutral_type, id: self.id, name: self.name, change, at: None }
    }
}

impl References {
    pub(super) fn new(assets: &HashMap<Box<str>, Arc<AssetPlan>>, rules: ArnRules) -> Self {
        let mut prefixes: HashMap<_, Vec<_>> = HashMap::new();
        let mut patterns: HashMap<_, Vec<_>> = HashMap::new();
        let mut own = FastMap::default();
        for asset in assets.values() {
            if let Some(prefix) = &asset.id_prefix {
                prefixes.entry(prefix.clone()).or_default().push(Arc::clone(asset));
            }
            if let Some((service, resource)) = arn_pattern(asset) {
                let text = without_names(&resource.to_string());
                own.insert(asset.kind.provider_type.clone(), (service.clone(), resource.clone()));
                patterns.entry((service, text)).or_default().push((resource, Arc::clone(asset)));
            }
        }
        let mut by_arn: FastMap<Box<str>, Patterns> = FastMap::default();
        // A pattern shared by several types identifies none of them.
        for ((service, text), found) in patterns.into_iter().filter_map(|(key, found)| Some((key, only(found)?))) {
            let kind = kind_of(&text).filter(|kind| !kind.contains('{')).unwrap_or_default();
            by_arn.entry(service.into()).or_default().entry(kind.into()).or_default().push(found);
        }
        for patterns in by_arn.values_mut().flat_map(FastMap::values_mut) {
            patterns.sort_by_cached_key(|(pattern, _)| (std::cmp::Reverse(pattern.literal_len()), pattern.to_string()));
        }
        let by_id_prefix = prefixes.into_iter().filter_map(|(prefix, found)| Some((prefix, only(found)?))).collect();
        Self { by_arn, own, by_id_prefix, rules }
    }

    /// The type of asset for an id's prefix, which extends to the last hyphen, inclusive.
    pub(super) fn by_id_prefix(&self, id: &str) -> Option<&Arc<AssetPlan>> {
        let end = id.rfind('-')?;
        self.by_id_prefix.get(id.get(..=end)?)
    }

    /// Resolves an ARN, or an id with a known prefix. `place` fills in what the text leaves out.
    pub(super) fn find(&self, text: &str, place: &Place<'_>) -> Option<Referred> {
        if text.starts_with("arn:") {
            return self.by_arn(text, place);
        }
        let asset = self.by_id_prefix(text)?;
        referred(asset, text, &[], place)
    }

    /// Resolves an id of the given type. If it is an ARN, its own place counts, and its own type unless it has the form
    /// of the given one.
    pub(super) fn of_kind(
        &self,
        asset: &Arc<AssetPlan>,
        id: &str,
        vars: &[(&str, &str)],
        place: &Place<'_>,
    ) -> Option<Referred> {
        let Some(arn) = Arn::parse(id, place) else { return referred(asset, id, vars, place) };
        // Some types have similar ARNs: then the type given by the rule decides.
        let own = self.own.get(&asset.kind.provider_type).filter(|(service, _)| service == arn.service);
        let as_said = own.and_then(|(_, pattern)| self.captured(pattern, asset, &arn));
        as_said.or_else(|| self.known(&arn)).or_else(|| {
            let short = arn.resource.rsplit(['/', ':']).next().unwrap_or(arn.resource);
            referred(asset, short, vars, &arn.place())
        })
    }

    /// Resolves an ARN, even if no rule file defines its type.
    pub(super) fn by_arn(&self, arn: &str, place: &Place<'_>) -> Option<Referred> {
        let arn = Arn::parse(arn, place)?;
        self.known(&arn).or_else(|| {
            let kind = kind_of(arn.resource)?;
            let id = arn.resource.get(kind.len() + 1..)?;
            let nameless = self.rules.none.get(arn.service).is_some_and(|kinds| kinds.iter().any(|none| none == kind));
            let named = !nameless && is_definite(id);
            named.then(|| referred(&Arc::new(unclassified(arn.service, kind, Vec::new())), id, &[], &arn.place()))?
        })
    }

    /// Resolves an ARN, if a rule file defines its type.
    pub(super) fn known_arn(&self, arn: &str, place: &Place<'_>) -> Option<Referred> {
        self.known(&Arn::parse(arn, place)?)
    }

    /// As [`known_arn`](Self::known_arn), for a parsed ARN.
    pub(super) fn known(&self, arn: &Arn<'_>) -> Option<Referred> {
        let of_service = self.by_arn.get(arn.service)?;
        let kinds = kind_of(arn.resource).into_iter().chain([""]);
        let mut patterns = kinds.filter_map(|kind| of_service.get(kind)).flatten();
        patterns.find_map(|(pattern, asset)| self.captured(pattern, asset, arn))
    }

    fn captured(&self, pattern: &Template, asset: &Arc<AssetPlan>, arn: &Arn<'_>) -> Option<Referred> {
        let captured = pattern.capture(arn.resource)?;
        let id = captured.iter().find_map(|(name, value)| (*name == "id").then_some(*value))?;
        let id = self.without_path(arn.service, self.cut(arn.service, id));
        is_definite(id).then(|| referred(asset, id, &captured, &arn.place()))?
    }

    fn cut<'i>(&self, service: &str, id: &'i str) -> &'i str {
        let end = self.rules.cut.get(service).and_then(|stops| id.find(|letter| stops.contains(letter)));
        end.and_then(|end| id.get(..end)).unwrap_or(id)
    }

    fn without_path<'i>(&self, service: &str, id: &'i str) -> &'i str {
        let has_path = self.rules.paths.iter().any(|known| known == service);
        if has_path { id.rsplit('/').next().unwrap_or(id) } else { id }
    }
}

fn referred(asset: &Arc<AssetPlan>, id: &str, vars: &[(&str, &str)], place: &Place<'_>) -> Option<Referred> {
    let Place { account, region, .. } = *place;
    let parts = Parts { partition: partition(region), region, account, id, vars };
    Some(Referred {
        name: asset.asset_name(&parts)?,
        asset: Arc::clone(asset),
        id: id.to_owned(),
        region: if asset.global { "-".to_owned() } else { region.to_owned() },
    })
}

/// The parts of an ARN that identify an asset.
#[derive(Clone, Copy)]
pub(super) struct Arn<'a> {
    pub(super) service: &'a str,
    region: &'a str,
    account: &'a str,
    resource: &'a str,
}

impl<'a> Arn<'a> {
    /// Parses an ARN. Account and region are those of `place` if the ARN leaves them out.
    pub(super) fn parse(text: &'a str, place: &Place<'a>) -> Option<Self> {
        let mut parts = text.strip_prefix("arn:")?.splitn(5, ':');
        let (_partition, service, region, account) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let resource = parts.next().filter(|resource| !resource.is_empty())?;
        let or = |part: &'a str, otherwise: &'a str| if part.is_empty() { otherwise } else { part };
        Some(Self { service, region: or(region, place.region), account: or(account, place.account), resource })
    }

    fn place(&self) -> Place<'a> {
        Place { service: self.service, account: self.account, region: self.region }
    }
}

/// Whether an id means one asset: it contains no wildcard, no placeholder and no white space.
fn is_definite(id: &str) -> bool {
    !id.is_empty() && !id.contains(['*', '?', '$', '{']) && !id.contains(char::is_whitespace)
}

/// `security-group` of `security-group/sg-0123`; `None` if there is only one part.
fn kind_of(resource: &str) -> Option<&str> {
    resource.split_once(['/', ':']).map(|(kind, _)| kind)
}

/// `function:{}:{}` of `function:{function}:{id}`.
fn without_names(pattern: &str) -> String {
    let mut inside = false;
    let kept = pattern.chars().filter(|letter| {
        inside = (inside || *letter == '{') && *letter != '}';
        !inside || *letter == '{'
    });
    kept.collect()
}

fn only<T>(found: Vec<T>) -> Option<T> {
    let [only] = <[T; 1]>::try_from(found).ok()?;
    Some(only)
}

/// Service and resource of an asset type's ARN: from its template, else from its name, which has the same form.
fn arn_pattern(asset: &AssetPlan) -> Option<(String, Template)> {
    let (service, resource) = match &asset.arn {
        Some(template) => {
            let text = template.to_string();
            let mut parts = text.splitn(6, ':').skip(2);
            (parts.next()?.to_owned(), parts.nth(2)?.to_owned())
        }
        None => {
            let text = asset.name.to_string();
            let (service, resource) = text.split_once('/')?;
            (service.to_owned(), resource.to_owned())
        }
    };
    Some((service, Template::parse(&resource)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::Engine;

    const PLACE: Place<'static> = Place { service: "x", account: "111122223333", region: "eu-west-1" };

    #[test]
    fn an_arn_leads_to_the_asset_that_its_own_events_name() {
        let engine = Engine::load(None).unwrap();
        let name = |text| {
            let found = engine.catalog.aws.references.find(text, &PLACE)?;
            Some(format!("{} {}", found.asset.kind.provider_type, found.name))
        };
        for (arn, expected) in [
            (
                "arn:aws:ec2:eu-west-1:111122223333:subnet/subnet-0a1b2c3d",
                "AWS::EC2::Subnet asset://aws/111122223333/eu-west-1/ec2/subnet/subnet-0a1b2c3d",
            ),
            (
                "arn:aws:iam::444455556666:role/service-role/deployer",
                "AWS::IAM::Role asset://aws/444455556666/-/iam/role/deployer",
            ),
            (
                "arn:aws:iam::aws:policy/ReadOnlyAccess",
                "AWS::IAM::ManagedPolicy asset://aws/aws/-/iam/policy/ReadOnlyAccess",
            ),
            ("arn:aws:s3:::logs/2024/*", "AWS::S3::Bucket asset://aws/111122223333/-/s3/bucket/logs"),
            (
                "arn:aws:kms:us-east-1:111122223333:key/0a1b",
                "AWS::KMS::Key asset://aws/111122223333/us-east-1/kms/key/0a1b",
            ),
            (
                "arn:aws:kms:us-east-1:111122223333:alias/app",
                "AWS::KMS::Alias asset://aws/111122223333/us-east-1/kms/alias/alias%2Fapp",
            ),
            (
                "arn:aws:ecs:eu-west-1:111122223333:service/blue/web",
                "AWS::ECS::Service asset://aws/111122223333/eu-west-1/ecs/service/blue/web",
            ),
            (
                "arn:aws:lambda:eu-west-1:111122223333:function:resize:7",
                "AWS::Lambda::Function asset://aws/111122223333/eu-west-1/lambda/function/resize",
            ),
            (
                "arn:aws:sns:eu-west-1:111122223333:alarms:0a1b2c3d",
                "AWS::SNS::Topic asset://aws/111122223333/eu-west-1/sns/topic/alarms",
            ),
            (
                "arn:aws:nimble:eu-west-1:111122223333:studio/s-1",
                "nimble:studio asset://aws/111122223333/eu-west-1/nimble/studio/s-1",
            ),
            (
                "sg-0a1b2c3d",
                "AWS::EC2::SecurityGroup asset://aws/111122223333/eu-west-1/ec2/security-group/sg-0a1b2c3d",
            ),
            (
                "tgw-attach-0a1b2c3d",
                "AWS::EC2::TransitGatewayAttachment asset://aws/111122223333/eu-west-1/ec2/transit-gateway-attachment/tgw-attach-0a1b2c3d",
            ),
        ] {
            assert_eq!(name(arn).as_deref(), Some(expected), "{arn}");
        }
        for arn in [
            "arn:aws:iam::111122223333:root",
            "arn:aws:sts::111122223333:assumed-role/deployer/ci",
            "arn:aws:s3:::*",
            "arn:aws:iam::111122223333:role/*",
            "arn:aws:dynamodb:eu-west-1:111122223333:table/${table}",
            "arn:aws:ec2",
            "arn:",
            "plain-0a1b2c3d",
            "sg",
        ] {
            assert_eq!(name(arn), None, "{arn}");
        }
    }

    #[test]
    fn patterns_are_alike_whatever_their_parts_are_called() {
        assert_eq!(without_names("function:{function}:{id}"), "function:{}:{}");
        assert_eq!(without_names("key/x"), "key/x");
    }
}
