//! The fictional organisation: its initial state, and what happens in it over time.

use serde_json::{Value, json};

use super::network;
use super::people::Who;
use super::scribe::{Call, Place, Scribe, items};
use super::site::Site;
use super::story::Stories;
use super::{compute, identity, services, storage};
use crate::model::Time;

const PRODUCTION: Place = Place { account: "111122223333", region: "us-east-1" };
const DEVELOPMENT: Place = Place { account: "444455556666", region: "eu-west-1" };

/// Something that can happen. `None`, and nothing happened, if what it needs does not exist.
type Action = fn(&mut Scribe, &mut Site) -> Option<()>;

/// The actions with their relative frequencies. Creation and removal are balanced, and creation is bounded, so that the
/// organisation does not grow forever.
const ACTIONS: [(u32, Action); 48] = [
    (8, network::open_rule),
    (8, network::close_rule),
    (2, network::new_group),
    (2, network::drop_group),
    (2, network::new_subnet),
    (2, network::drop_subnet),
    (2, network::publish_subnet),
    (1, network::new_vpc),
    (1, network::drop_vpc),
    (2, network::new_route),
    (2, network::drop_route),
    (2, network::new_address),
    (2, network::drop_address),
    (5, compute::new_instance),
    (4, compute::drop_instance),
    (5, compute::toggle_instance),
    (4, compute::modify_instance),
    (5, compute::tag_instance),
    (2, compute::new_volume),
    (4, compute::attach_volume),
    (3, compute::detach_volume),
    (1, compute::grow_volume),
    (2, compute::drop_volume),
    (3, compute::new_snapshot),
    (3, compute::drop_snapshot),
    (4, compute::scale),
    (1, compute::limit_scaling),
    (2, storage::new_bucket),
    (2, storage::drop_bucket),
    (6, storage::change_bucket),
    (1, storage::new_key),
    (2, storage::change_key),
    (1, storage::drop_key),
    (2, identity::new_user),
    (1, identity::drop_user),
    (3, identity::rotate_key),
    (2, identity::new_role),
    (4, identity::change_role),
    (1, identity::drop_role),
    (1, identity::new_policy),
    (3, identity::revise_policy),
    (1, identity::drop_policy),
    (2, services::new_function),
    (5, services::change_function),
    (2, services::permit_function),
    (1, services::drop_function),
    (8, look_around),
    (2, be_refused),
];

/// The same for actions on a whole service.
const SERVICE_ACTIONS: [(u32, Action); 10] = [
    (2, services::new_topic),
    (3, services::change_topic),
    (1, services::drop_topic),
    (1, services::new_stack),
    (1, services::drop_stack),
    (2, services::new_service),
    (6, services::release_service),
    (2, services::drop_service),
    (3, services::run_task),
    (3, services::stop_task),
];

/// The organisation, from its first record on.
#[derive(Debug)]
pub(super) struct World {
    scribe: Scribe,
    sites: [Site; 2],
    stories: Stories,
}

impl World {
    /// Creates a world, whose first records are those of its initial state. All depends only on the seed and the given
    /// times.
    pub(super) fn new(seed: u64, now: Time) -> Self {
        let mut scribe = Scribe::new(seed, now);
        let mut sites = [Site::new(PRODUCTION, "production", "prod"), Site::new(DEVELOPMENT, "development", "dev")];
        for (site, octet) in sites.iter_mut().zip([0, 16]) {
            // Nothing is missing: every part finds what it needs among the earlier ones.
            let _ = build(&mut scribe, site, octet);
        }
        Self { stories: Stories::new(now), scribe, sites }
    }

    /// The oldest record that has been written and not taken.
    pub(super) fn take(&mut self) -> Option<String> {
        self.scribe.take()
    }

    /// The next record, generated if none is left.
    pub(super) fn next(&mut self, now: Time) -> String {
        self.scribe.now = now;
        loop {
            if let Some(record) = self.scribe.take() {
                return record;
            }
            self.happen();
        }
    }

    fn happen(&mut self) {
        let Self { scribe, sites: [production, development], stories } = self;
        stories.advance(scribe, production);
        // More happens in production.
        let site = if scribe.rng.u8(..10) < 6 { production } else { development };
        let whole: u32 = ACTIONS.iter().chain(&SERVICE_ACTIONS).map(|(weight, _)| weight).sum();
        let mut drawn = scribe.rng.u32(..whole);
        for (weight, action) in ACTIONS.iter().chain(&SERVICE_ACTIONS) {
            if drawn < *weight {
                action(scribe, site);
                return;
            }
            drawn -= weight;
        }
    }
}

/// Builds the initial state of an account: network, instances, keys, buckets, identities, services.
fn build(scribe: &mut Scribe, site: &mut Site, octet: u8) -> Option<()> {
    let who = Who::Terraform;
    let short = site.short;
    let vpc = network::create_vpc(scribe, site, who, &format!("{short}-main"), octet);
    let internet = network::create_internet_gateway(scribe, site, who, &vpc);
    let public = network::create_subnet(scribe, site, who, &vpc, &format!("{short}-public"), true)?;
    let private = network::create_subnet(scribe, site, who, &vpc, &format!("{short}-private"), true)?;
    let target = ("gatewayId", internet);
    let table = network::create_route_table(scribe, site, who, &vpc, &format!("{short}-public"), target);
    network::associate(scribe, site, who, &table, &public);
    if short == "prod" {
        let address = network::allocate_address(scribe, site, who, "prod-outbound", true);
        let nat = network::create_nat_gateway(scribe, site, who, &public, &address);
        let target = ("natGatewayId", nat);
        let table = network::create_route_table(scribe, site, who, &vpc, "prod-private", target);
        network::associate(scribe, site, who, &table, &private);
    }
    let web = network::create_group(scribe, site, who, &vpc, &format!("{short}-web"), true);
    network::authorize(scribe, site, who, &web, 443, "10.0.0.0/8", "TLS from the inside")?;
    let data = network::create_group(scribe, site, who, &vpc, &format!("{short}-data"), true);
    network::authorize(scribe, site, who, &data, 5432, "10.0.0.0/16", "database from the application")?;

    storage::create_key(scribe, site, who, "storage", true);
    let role = scribe.name(&format!("{short}-app"));
    identity::create_role(scribe, site, who, &role, "lambda.amazonaws.com", true);
    identity::put_inline(scribe, site, who, &role)?;
    let policy = scribe.name("upload-access");
    let policy = identity::create_policy(scribe, site, who, &policy);
    identity::attach_to_role(scribe, site, who, &role, &policy)?;
    let user = scribe.name("metrics-exporter");
    identity::create_user(scribe, site, Who::PlatformAdmin, &user);
    identity::create_access_key(scribe, site, Who::PlatformAdmin, &user)?;

    storage::new_bucket(scribe, site)?;
    storage::new_bucket(scribe, site)?;
    compute::run_instances(scribe, site, who, std::slice::from_ref(&web), &format!("{short}-web"), 2)?;
    compute::run_instances(scribe, site, who, std::slice::from_ref(&data), &format!("{short}-data"), 1)?;
    compute::new_volume(scribe, site)?;
    compute::attach_volume(scribe, site)?;
    if short == "prod" {
        compute::create_scaling(scribe, site, who, &web)?;
    }
    services::new_function(scribe, site)?;
    services::new_topic(scribe, site)?;
    services::create_cluster(scribe, site, who);
    let family = scribe.name(&format!("{short}-api"));
    services::register_definition(scribe, site, Who::DeployController, &family);
    services::create_service(scribe, site, Who::DeployController, family.clone(), &family, true)
}

/// Read-only calls, frequent in a real trail, which must not become changes.
fn look_around(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let (who, call) = match scribe.rng.u8(..6) {
        0 => {
            let instance = scribe.pick(&site.instances)?.id.clone();
            let request = json!({ "instancesSet": items(vec![json!({ "instanceId": instance })]), "filterSet": {} });
            (Who::DataPipeline, Call::new("ec2", "DescribeInstances", request, Value::Null))
        }
        1 => {
            let request = json!({ "securityGroupSet": {}, "securityGroupIdSet": {}, "filterSet": {} });
            (Who::Terraform, Call::new("ec2", "DescribeSecurityGroups", request, Value::Null))
        }
        2 => {
            let role = scribe.pick(&site.roles)?.name.clone();
            scribe.record(
                site.place.global(),
                Who::Terraform,
                Call::new("iam", "GetRole", json!({ "roleName": role }), Value::Null).read_only(),
            );
            return Some(());
        }
        3 => {
            let bucket = scribe.pick(&site.buckets)?.name.clone();
            let request = json!({
                "bucketName": bucket, "Host": super::scribe::s3_host(&bucket, site.place.region), "acl": "",
            });
            (Who::SecurityAuditor, Call::new("s3", "GetBucketAcl", request, Value::Null).on_bucket(&bucket))
        }
        4 => (Who::DeployController, Call::new("sts", "GetCallerIdentity", Value::Null, Value::Null)),
        _ => {
            let function = scribe.pick(&site.functions)?.name.clone();
            (
                Who::DataEngineer,
                Call::new("lambda", "GetFunction20150331v2", json!({ "functionName": function }), Value::Null),
            )
        }
    };
    scribe.record(site.place, who, call.read_only());
    Some(())
}

/// Calls that AWS refuses, which change nothing.
fn be_refused(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let who = scribe.pick(&[Who::DataAnalyst, Who::AppDeveloper]).copied()?;
    let caller = who.user_arn(site.place.account);
    if scribe.rng.bool() {
        // EC2 shows the request, and hides the reason in a message that only the account's owner can decode.
        let request = json!({ "instancesSet": items(vec![json!({ "instanceId": scribe.pick(&site.instances)?.id })]) });
        let message = format!(
            "You are not authorized to perform this operation. User: {caller} is not authorized to perform: \
             ec2:TerminateInstances because no identity-based policy allows the ec2:TerminateInstances action. \
             Encoded authorization failure message: {}",
            scribe.base64(120)
        );
        let call = Call::new("ec2", "TerminateInstances", request, Value::Null);
        scribe.record(site.place, who, call.refused("Client.UnauthorizedOperation", message));
    } else {
        // IAM does not show even the request.
        let message = format!(
            "User: {caller} is not authorized to perform: iam:CreateUser on resource: user/temporary because no \
             identity-based policy allows the iam:CreateUser action"
        );
        let call = Call::new("iam", "CreateUser", Value::Null, Value::Null).refused("AccessDenied", message);
        scribe.record(site.place.global(), who, call);
    }
    Some(())
}
