//! The resources in one account and region of the fictional organisation.

use super::scribe::Place;

/// One account in its region, with all its resources.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) place: Place,
    /// `production` or `development`, as in tags.
    pub(super) environment: &'static str,
    /// `prod` or `dev`, as in names.
    pub(super) short: &'static str,
    pub(super) vpcs: Vec<Vpc>,
    pub(super) subnets: Vec<Subnet>,
    pub(super) tables: Vec<RouteTable>,
    pub(super) gateways: Vec<String>,
    pub(super) nats: Vec<String>,
    pub(super) addresses: Vec<Address>,
    pub(super) groups: Vec<Group>,
    pub(super) instances: Vec<Instance>,
    pub(super) volumes: Vec<Volume>,
    pub(super) snapshots: Vec<String>,
    pub(super) scaling: Option<ScalingGroup>,
    pub(super) buckets: Vec<Bucket>,
    pub(super) users: Vec<User>,
    pub(super) roles: Vec<Role>,
    pub(super) policies: Vec<Policy>,
    pub(super) functions: Vec<Function>,
    pub(super) keys: Vec<Key>,
    pub(super) topics: Vec<Topic>,
    pub(super) cluster: Option<String>,
    pub(super) definitions: Vec<Definition>,
    pub(super) services: Vec<Service>,
    pub(super) tasks: Vec<String>,
    pub(super) stacks: Vec<Stack>,
}

#[derive(Debug)]
pub(super) struct Vpc {
    pub(super) id: String,
    /// The `n` of `10.n.0.0/16`.
    pub(super) octet: u8,
}

#[derive(Debug)]
pub(super) struct Subnet {
    pub(super) id: String,
    pub(super) vpc: String,
    /// The `n` of `10.x.n.0/24`.
    pub(super) octet: u8,
    pub(super) zone: String,
    pub(super) public: bool,
    /// Part of the initial state; never removed.
    pub(super) base: bool,
}

#[derive(Debug)]
pub(super) struct RouteTable {
    pub(super) id: String,
    pub(super) target: (&'static str, String),
    pub(super) routes: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Address {
    pub(super) id: String,
    /// The association and its instance.
    pub(super) association: Option<(String, String)>,
    /// Used by a NAT gateway; never removed.
    pub(super) base: bool,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: String,
    pub(super) rules: Vec<Rule>,
    pub(super) base: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) port: u16,
    pub(super) source: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    Running,
    Stopped,
}

#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) subnet: String,
    pub(super) zone: String,
    pub(super) groups: Vec<String>,
    pub(super) power: Power,
    pub(super) kind: &'static str,
    pub(super) protected: bool,
    pub(super) scaled: bool,
    pub(super) tags: Vec<&'static str>,
}

#[derive(Debug)]
pub(super) struct Volume {
    pub(super) id: String,
    pub(super) zone: String,
    pub(super) size: u32,
    pub(super) attached: Option<(String, String)>,
}

#[derive(Debug)]
pub(super) struct ScalingGroup {
    pub(super) name: String,
    pub(super) desired: usize,
    pub(super) template: String,
}

#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) policy: bool,
    pub(super) versioned: bool,
}

#[derive(Debug)]
pub(super) struct User {
    pub(super) name: String,
    /// Access keys, and whether they are active.
    pub(super) keys: Vec<(String, bool)>,
    pub(super) policies: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) policies: Vec<String>,
    pub(super) inline: bool,
    /// Used by other resources; never removed.
    pub(super) base: bool,
}

#[derive(Debug)]
pub(super) struct Policy {
    pub(super) arn: String,
    /// Versions, the default one last.
    pub(super) versions: Vec<u32>,
    pub(super) next: u32,
}

#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) role: String,
    pub(super) memory: u32,
    pub(super) timeout: u32,
    pub(super) permissions: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) id: String,
    pub(super) enabled: bool,
    pub(super) rotated: bool,
    pub(super) base: bool,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) arn: String,
    pub(super) subscriptions: Vec<String>,
    /// Part of a stack, and deleted with it.
    pub(super) stacked: bool,
}

#[derive(Debug)]
pub(super) struct Definition {
    pub(super) family: String,
    pub(super) revision: u32,
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) family: String,
    pub(super) revision: u32,
    pub(super) desired: u32,
    pub(super) created: String,
    pub(super) base: bool,
}

#[derive(Debug)]
pub(super) struct Stack {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) topic: String,
}

impl Site {
    pub(super) fn new(place: Place, environment: &'static str, short: &'static str) -> Self {
        Self {
            place,
            environment,
            short,
            vpcs: Vec::new(),
            subnets: Vec::new(),
            tables: Vec::new(),
            gateways: Vec::new(),
            nats: Vec::new(),
            addresses: Vec::new(),
            groups: Vec::new(),
            instances: Vec::new(),
            volumes: Vec::new(),
            snapshots: Vec::new(),
            scaling: None,
            buckets: Vec::new(),
            users: Vec::new(),
            roles: Vec::new(),
            policies: Vec::new(),
            functions: Vec::new(),
            keys: Vec::new(),
            topics: Vec::new(),
            cluster: None,
            definitions: Vec::new(),
            services: Vec::new(),
            tasks: Vec::new(),
            stacks: Vec::new(),
        }
    }

    /// An ARN of this account and region.
    pub(super) fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:aws:{service}:{}:{}:{resource}", self.place.region, self.place.account)
    }

    /// An ARN of IAM.
    pub(super) fn iam_arn(&self, resource: &str) -> String {
        format!("arn:aws:iam::{}:{resource}", self.place.account)
    }

    /// Whether a subnet is in use.
    pub(super) fn is_used(&self, subnet: &Subnet) -> bool {
        subnet.base || self.instances.iter().any(|instance| instance.subnet == subnet.id)
    }

    /// Whether an instance uses a group.
    pub(super) fn is_worn(&self, group: &Group) -> bool {
        group.base || self.instances.iter().any(|instance| instance.groups.contains(&group.id))
    }
}
