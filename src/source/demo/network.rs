//! Network resources of the demo: VPCs, subnets, routes, addresses and security groups.

use serde_json::json;

use super::people::Who;
use super::scribe::{Call, Scribe, items, tag_set, tag_specification};
use super::site::{Address, Group, RouteTable, Rule, Site, Subnet, Vpc};

const MOST_VPCS: usize = 3;
const MOST_SUBNETS: usize = 9;
const MOST_GROUPS: usize = 10;
const MOST_RULES: usize = 8;
const MOST_ROUTES: usize = 4;
const MOST_ADDRESSES: usize = 4;

/// The principal that changes infrastructure, mostly the pipeline.
pub(super) fn engineer(scribe: &mut Scribe) -> Who {
    const ENGINEERS: [Who; 10] = [
        Who::Terraform,
        Who::Terraform,
        Who::Terraform,
        Who::Terraform,
        Who::Terraform,
        Who::CloudEngineer,
        Who::CloudEngineer,
        Who::PlatformAdmin,
        Who::SreOnCall,
        Who::ReleaseBot,
    ];
    scribe.pick(&ENGINEERS).copied().unwrap_or(Who::Terraform)
}

pub(super) fn create_vpc(scribe: &mut Scribe, site: &mut Site, who: Who, name: &str, octet: u8) -> String {
    let (id, cidr) = (scribe.id("vpc"), format!("10.{octet}.0.0/16"));
    let tags = [("Name", name), ("environment", site.environment)];
    let request = json!({
        "cidrBlock": cidr, "instanceTenancy": "default", "amazonProvidedIpv6CidrBlock": false,
        "tagSpecificationSet": tag_specification("vpc", &tags),
    });
    let association = scribe.id("vpc-cidr-assoc");
    let response = json!({ "vpc": {
        "vpcId": id, "state": "pending", "ownerId": site.place.account, "cidrBlock": cidr,
        "cidrBlockAssociationSet": items(vec![json!({
            "cidrBlock": cidr, "associationId": association, "cidrBlockState": { "state": "associated" },
        })]),
        "ipv6CidrBlockAssociationSet": {}, "dhcpOptionsId": "dopt-0a1b2c3d4e5f60718", "instanceTenancy": "default",
        "tagSet": tag_set(&tags), "isDefault": false,
    }});
    scribe.record(site.place, who, Call::new("ec2", "CreateVpc", request, response));
    site.vpcs.push(Vpc { id: id.clone(), octet });
    id
}

pub(super) fn create_internet_gateway(scribe: &mut Scribe, site: &mut Site, who: Who, vpc: &str) -> String {
    let id = scribe.id("igw");
    let name = format!("{}-internet", site.short);
    let tags = [("Name", name.as_str())];
    let request = json!({ "tagSpecificationSet": tag_specification("internet-gateway", &tags) });
    let response = json!({ "internetGateway": {
        "internetGatewayId": id, "ownerId": site.place.account, "attachmentSet": {}, "tagSet": tag_set(&tags),
    }});
    scribe.record(site.place, who, Call::new("ec2", "CreateInternetGateway", request, response));
    let request = json!({ "internetGatewayId": id, "vpcId": vpc });
    scribe.record(site.place, who, Call::ec2_done("AttachInternetGateway", request));
    site.gateways.push(id.clone());
    id
}

pub(super) fn create_subnet(
    scribe: &mut Scribe,
    site: &mut Site,
    who: Who,
    vpc: &str,
    name: &str,
    base: bool,
) -> Option<String> {
    let network = site.vpcs.iter().find(|network| network.id == vpc)?.octet;
    let octet = (1..=250).find(|octet| !site.subnets.iter().any(|other| other.vpc == vpc && other.octet == *octet))?;
    let zone = format!("{}{}", site.place.region, scribe.word(&["a", "b"]));
    let (id, cidr) = (scribe.id("subnet"), format!("10.{network}.{octet}.0/24"));
    let tags = [("Name", name), ("environment", site.environment)];
    let request = json!({
        "vpcId": vpc, "cidrBlock": cidr, "availabilityZone": zone,
        "tagSpecificationSet": tag_specification("subnet", &tags),
    });
    let response = json!({ "subnet": {
        "subnetId": id, "subnetArn": site.arn("ec2", &format!("subnet/{id}")), "state": "available", "vpcId": vpc,
        "cidrBlock": cidr, "ipv6CidrBlockAssociationSet": {}, "availableIpAddressCount": 251, "availabilityZone": zone,
        "ownerId": site.place.account, "defaultForAz": false, "mapPublicIpOnLaunch": false,
        "assignIpv6AddressOnCreation": false, "tagSet": tag_set(&tags), "ipv6Native": false, "enableDns64": false,
    }});
    scribe.record(site.place, who, Call::new("ec2", "CreateSubnet", request, response));
    site.subnets.push(Subnet { id: id.clone(), vpc: vpc.to_owned(), octet, zone, public: false, base });
    Some(id)
}

pub(super) fn create_route_table(
    scribe: &mut Scribe,
    site: &mut Site,
    who: Who,
    vpc: &str,
    name: &str,
    target: (&'static str, String),
) -> String {
    let id = scribe.id("rtb");
    let tags = [("Name", name)];
    let network = site.vpcs.iter().find(|network| network.id == vpc).map_or(0, |network| network.octet);
    let request = json!({ "vpcId": vpc, "tagSpecificationSet": tag_specification("route-table", &tags) });
    let response = json!({ "routeTable": {
        "routeTableId": id, "vpcId": vpc, "ownerId": site.place.account,
        "routeSet": items(vec![json!({
            "destinationCidrBlock": format!("10.{network}.0.0/16"), "gatewayId": "local", "state": "active",
            "origin": "CreateRouteTable",
        })]),
        "associationSet": {}, "propagatingVgwSet": {}, "tagSet": tag_set(&tags),
    }});
    scribe.record(site.place, who, Call::new("ec2", "CreateRouteTable", request, response));
    create_route(scribe, site, who, &id, "0.0.0.0/0", &target);
    site.tables.push(RouteTable { id: id.clone(), target, routes: Vec::new() });
    id
}

fn create_route(
    scribe: &mut Scribe,
    site: &Site,
    who: Who,
    table: &str,
    destination: &str,
    target: &(&'static str, String),
) {
    let request = json!({ "routeTableId": table, "destinationCidrBlock": destination, target.0: target.1 });
    scribe.record(site.place, who, Call::ec2_done("CreateRoute", request));
}

pub(super) fn associate(scribe: &mut Scribe, site: &Site, who: Who, table: &str, subnet: &str) {
    let request = json!({ "routeTableId": table, "subnetId": subnet });
    let response = json!({ "associationId": scribe.id("rtbassoc"), "associationState": { "state": "associated" } });
    scribe.record(site.place, who, Call::new("ec2", "AssociateRouteTable", request, response));
}

pub(super) fn allocate_address(scribe: &mut Scribe, site: &mut Site, who: Who, name: &str, base: bool) -> String {
    let id = scribe.id("eipalloc");
    let request = json!({ "domain": "vpc", "tagSpecificationSet": tag_specification("elastic-ip", &[("Name", name)]) });
    let response = json!({
        "publicIp": format!("203.0.113.{}", scribe.rng.u8(1..190)), "domain": "vpc", "allocationId": id,
        "publicIpv4Pool": "amazon", "networkBorderGroup": site.place.region,
    });
    scribe.record(site.place, who, Call::new("ec2", "AllocateAddress", request, response));
    site.addresses.push(Address { id: id.clone(), association: None, base });
    id
}

pub(super) fn create_nat_gateway(
    scribe: &mut Scribe,
    site: &mut Site,
    who: Who,
    subnet: &str,
    address: &str,
) -> String {
    let (id, token) = (scribe.id("nat"), scribe.uuid());
    let name = format!("{}-outbound", site.short);
    let vpc = site.subnets.iter().find(|other| other.id == subnet).map(|subnet| subnet.vpc.clone());
    let request = json!({ "CreateNatGatewayRequest": {
        "AllocationId": address, "SubnetId": subnet, "ConnectivityType": "public", "ClientToken": token,
        "TagSpecification": {
            "ResourceType": "natgateway", "tag": 1, "Tag": { "Key": "Name", "Value": name, "tag": 1 },
        },
    }});
    let response = json!({ "CreateNatGatewayResponse": {
        "xmlns": "http://ec2.amazonaws.com/doc/2016-11-15/", "requestId": scribe.uuid(), "clientToken": token,
        "natGateway": {
            "natGatewayId": id, "subnetId": subnet, "vpcId": vpc, "state": "pending", "connectivityType": "public",
            "createTime": scribe.now.to_string(),
            "natGatewayAddressSet": { "item": { "allocationId": address, "isPrimary": true, "status": "associating" } },
            "tagSet": { "item": { "key": "Name", "value": name } },
        },
    }});
    scribe.record(site.place, who, Call::new("ec2", "CreateNatGateway", request, response));
    site.nats.push(id.clone());
    id
}

pub(super) fn create_group(
    scribe: &mut Scribe,
    site: &mut Site,
    who: Who,
    vpc: &str,
    name: &str,
    base: bool,
) -> String {
    let id = scribe.id("sg");
    let tags = [("Name", name), ("environment", site.environment)];
    let request = json!({
        "groupName": name, "groupDescription": format!("traffic of {name}"), "vpcId": vpc,
        "tagSpecificationSet": tag_specification("security-group", &tags),
    });
    let response = json!({
        "_return": true, "groupId": id, "tagSet": tag_set(&tags),
        "securityGroupArn": site.arn("ec2", &format!("security-group/{id}")),
    });
    scribe.record(site.place, who, Call::new("ec2", "CreateSecurityGroup", request, response));
    site.groups.push(Group { id: id.clone(), rules: Vec::new(), base });
    id
}

/// Allows TCP from a source to a port.
pub(super) fn authorize(
    scribe: &mut Scribe,
    site: &mut Site,
    who: Who,
    group: &str,
    port: u16,
    source: &str,
    why: &str,
) -> Option<Rule> {
    let rule = Rule { id: scribe.id("sgr"), port, source: source.to_owned() };
    let request = json!({ "groupId": group, "ipPermissions": items(vec![permission(&rule, Some(why))]) });
    let response = json!({ "_return": true, "securityGroupRuleSet": items(vec![json!({
        "groupOwnerId": site.place.account, "groupId": group, "securityGroupRuleId": rule.id, "description": why,
        "isEgress": false, "ipProtocol": "tcp", "fromPort": port, "toPort": port, "cidrIpv4": source,
    })])});
    let held = site.groups.iter_mut().find(|held| held.id == group)?;
    held.rules.push(rule.clone());
    scribe.record(site.place, who, Call::new("ec2", "AuthorizeSecurityGroupIngress", request, response));
    Some(rule)
}

/// Revokes a rule, in one of the two possible ways.
pub(super) fn revoke(scribe: &mut Scribe, site: &mut Site, who: Who, group: &str, rule: &str) -> Option<()> {
    let held = site.groups.iter_mut().find(|held| held.id == group)?;
    let index = held.rules.iter().position(|held| held.id == rule)?;
    let rule = held.rules.remove(index);
    let request = if scribe.one_in(2) {
        json!({ "groupId": group, "ipPermissions": items(vec![permission(&rule, None)]) })
    } else {
        json!({
            "groupId": group,
            "securityGroupRuleIds": items(vec![json!({ "securityGroupRuleId": rule.id })]),
        })
    };
    let response = json!({ "_return": true, "unknownIpPermissionSet": {} });
    scribe.record(site.place, who, Call::new("ec2", "RevokeSecurityGroupIngress", request, response));
    Some(())
}

fn permission(rule: &Rule, why: Option<&str>) -> serde_json::Value {
    let mut range = json!({ "cidrIp": rule.source });
    if let Some(why) = why {
        range["description"] = json!(why);
    }
    json!({
        "ipProtocol": "tcp", "fromPort": rule.port, "toPort": rule.port, "groups": {},
        "ipRanges": items(vec![range]), "ipv6Ranges": {}, "prefixListIds": {},
    })
}

pub(super) fn open_rule(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    const RULES: [(u16, &str, &str); 8] = [
        (443, "10.0.0.0/8", "TLS from the inside"),
        (8080, "10.0.0.0/16", "health checks"),
        (5432, "10.0.0.0/16", "database from the application"),
        (6379, "10.0.0.0/16", "cache from the application"),
        (22, "198.51.100.0/24", "shell from the office"),
        (9100, "10.0.250.0/24", "node metrics"),
        (443, "192.0.2.0/24", "TLS from the partner network"),
        (8443, "198.51.100.128/25", "admin console"),
    ];
    let (port, source, why) = *scribe.pick(&RULES)?;
    let group = scribe.index_where(&site.groups, |_, group| {
        group.rules.len() < MOST_RULES
            && !group.rules.iter().any(|rule| (rule.port, rule.source.as_str()) == (port, source))
    })?;
    let group = site.groups.get(group)?.id.clone();
    let who = engineer(scribe);
    authorize(scribe, site, who, &group, port, source, why).map(drop)
}

pub(super) fn close_rule(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let group = scribe.index_where(&site.groups, |_, group| group.rules.len() > 1)?;
    let group = site.groups.get(group)?;
    let rule = scribe.index_where(&group.rules, |scribe, rule| !scribe.pinned.contains(&rule.id))?;
    let (group, rule) = (group.id.clone(), group.rules.get(rule)?.id.clone());
    let who = engineer(scribe);
    revoke(scribe, site, who, &group, &rule)
}

pub(super) fn new_group(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let vpc = site.vpcs.first().filter(|_| site.groups.len() < MOST_GROUPS)?.id.clone();
    let base = scribe.word(&["billing", "search", "reports", "ingest", "cache", "queue"]);
    let name = scribe.name(&format!("{}-{base}", site.short));
    let who = engineer(scribe);
    let id = create_group(scribe, site, who, &vpc, &name, false);
    authorize(scribe, site, who, &id, 443, "10.0.0.0/8", "TLS from the inside").map(drop)
}

pub(super) fn drop_group(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let group =
        scribe.index_where(&site.groups, |scribe, group| !site.is_worn(group) && !scribe.pinned.contains(&group.id))?;
    let group = site.groups.remove(group);
    let who = engineer(scribe);
    let request = json!({ "groupId": group.id });
    let response = json!({ "_return": true, "groupId": group.id });
    scribe.record(site.place, who, Call::new("ec2", "DeleteSecurityGroup", request, response));
    Some(())
}

pub(super) fn new_subnet(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.subnets.len() >= MOST_SUBNETS {
        return None;
    }
    let vpc = scribe.pick(&site.vpcs)?.id.clone();
    let name = scribe.name(&format!("{}-batch", site.short));
    let who = engineer(scribe);
    create_subnet(scribe, site, who, &vpc, &name, false).map(drop)
}

pub(super) fn drop_subnet(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let subnet = scribe.index_where(&site.subnets, |_, subnet| !site.is_used(subnet))?;
    let subnet = site.subnets.remove(subnet);
    let who = engineer(scribe);
    scribe.record(site.place, who, Call::ec2_done("DeleteSubnet", json!({ "subnetId": subnet.id })));
    Some(())
}

pub(super) fn publish_subnet(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let subnet = scribe.index_where(&site.subnets, |_, subnet| !subnet.base)?;
    let subnet = site.subnets.get_mut(subnet)?;
    subnet.public = !subnet.public;
    let request = json!({ "subnetId": subnet.id, "mapPublicIpOnLaunch": { "value": subnet.public } });
    let who = engineer(scribe);
    scribe.record(site.place, who, Call::ec2_done("ModifySubnetAttribute", request));
    Some(())
}

/// A network for an experiment, in development only.
pub(super) fn new_vpc(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.short != "dev" || site.vpcs.len() >= MOST_VPCS {
        return None;
    }
    let octet = (64..128).find(|octet| !site.vpcs.iter().any(|vpc| vpc.octet == *octet))?;
    let name = scribe.name("dev-sandbox");
    create_vpc(scribe, site, Who::CloudEngineer, &name, octet);
    Some(())
}

pub(super) fn drop_vpc(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let vpc = scribe
        .index_where(&site.vpcs, |_, vpc| vpc.octet >= 64 && !site.subnets.iter().any(|subnet| subnet.vpc == vpc.id))?;
    let vpc = site.vpcs.remove(vpc);
    scribe.record(site.place, Who::CloudEngineer, Call::ec2_done("DeleteVpc", json!({ "vpcId": vpc.id })));
    Some(())
}

pub(super) fn new_route(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let destination = format!("172.{}.0.0/16", scribe.rng.u8(16..32));
    let table = scribe.index_where(&site.tables, |_, table| {
        table.routes.len() < MOST_ROUTES && !table.routes.contains(&destination)
    })?;
    let who = engineer(scribe);
    let (id, target) = site.tables.get(table).map(|table| (table.id.clone(), table.target.clone()))?;
    create_route(scribe, site, who, &id, &destination, &target);
    site.tables.get_mut(table)?.routes.push(destination);
    Some(())
}

pub(super) fn drop_route(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let table = scribe.index_where(&site.tables, |_, table| !table.routes.is_empty())?;
    let table = site.tables.get_mut(table)?;
    let destination = table.routes.pop()?;
    let request = json!({ "routeTableId": table.id, "destinationCidrBlock": destination });
    let who = engineer(scribe);
    scribe.record(site.place, who, Call::ec2_done("DeleteRoute", request));
    Some(())
}

pub(super) fn new_address(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.addresses.len() >= MOST_ADDRESSES {
        return None;
    }
    let instance = scribe.pick(&site.instances)?.id.clone();
    let name = scribe.name(&format!("{}-fixed", site.short));
    let who = engineer(scribe);
    let id = allocate_address(scribe, site, who, &name, false);
    let association = scribe.id("eipassoc");
    let request = json!({ "instanceId": instance, "allocationId": id, "allowReassociation": false });
    let response = json!({ "_return": true, "associationId": association });
    scribe.record(site.place, who, Call::new("ec2", "AssociateAddress", request, response));
    site.addresses.iter_mut().find(|address| address.id == id)?.association = Some((association, instance));
    Some(())
}

pub(super) fn drop_address(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let address = scribe.index_where(&site.addresses, |_, address| !address.base)?;
    let address = site.addresses.remove(address);
    let who = engineer(scribe);
    if let Some((association, _)) = address.association {
        let request = json!({ "associationId": association });
        scribe.record(site.place, who, Call::ec2_done("DisassociateAddress", request));
    }
    let request = json!({ "allocationId": address.id });
    scribe.record(site.place, who, Call::ec2_done("ReleaseAddress", request));
    Some(())
}
