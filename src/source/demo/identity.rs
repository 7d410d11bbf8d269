//! IAM resources of the demo: users, access keys, roles and policies, all logged in us-east-1.

use serde_json::{Value, json};

use super::people::Who;
use super::scribe::{Call, Scribe};
use super::site::{Policy, Role, Site, User};

const MOST_USERS: usize = 6;
const MOST_ROLES: usize = 8;
const MOST_POLICIES: usize = 6;
const MANAGED: [&str; 4] = [
    "arn:aws:iam::aws:policy/ReadOnlyAccess",
    "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore",
    "arn:aws:iam::aws:policy/CloudWatchAgentServerPolicy",
    "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess",
];

fn iam(scribe: &mut Scribe, site: &Site, who: Who, name: &'static str, request: Value, response: Value) {
    scribe.record(site.place.global(), who, Call::new("iam", name, request, response));
}

/// The principal that manages identities.
fn keeper(scribe: &mut Scribe) -> Who {
    const KEEPERS: [Who; 4] = [Who::Terraform, Who::Terraform, Who::PlatformAdmin, Who::CloudEngineer];
    scribe.pick(&KEEPERS).copied().unwrap_or(Who::Terraform)
}

fn document(actions: &[&str], resource: &str) -> String {
    json!({
        "Version": "2012-10-17",
        "Statement": [{ "Effect": "Allow", "Action": actions, "Resource": resource }],
    })
    .to_string()
}

/// IAM returns documents percent-encoded.
fn encoded(document: &str) -> String {
    percent_encoding::utf8_percent_encode(document, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn some_document(scribe: &mut Scribe) -> String {
    match scribe.rng.u8(..3) {
        0 => document(&["s3:GetObject", "s3:PutObject"], "arn:aws:s3:::*-uploads-*/*"),
        1 => document(&["sqs:SendMessage", "sns:Publish"], "*"),
        _ => document(&["dynamodb:GetItem", "dynamodb:Query"], "*"),
    }
}

pub(super) fn create_role(scribe: &mut Scribe, site: &mut Site, who: Who, name: &str, service: &str, base: bool) {
    let trust = json!({
        "Version": "2012-10-17",
        "Statement": [{ "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": { "Service": service } }],
    })
    .to_string();
    let tags = json!([{ "key": "environment", "value": site.environment }]);
    let request = json!({
        "path": "/", "roleName": name, "assumeRolePolicyDocument": trust, "maxSessionDuration": 3600, "tags": tags,
    });
    let response = json!({ "role": {
        "path": "/", "roleName": name, "roleId": scribe.iam_id("AROA"), "arn": site.iam_arn(&format!("role/{name}")),
        "createDate": scribe.wire_date(), "assumeRolePolicyDocument": encoded(&trust), "maxSessionDuration": 3600,
        "tags": tags,
    }});
    iam(scribe, site, who, "CreateRole", request, response);
    site.roles.push(Role { name: name.to_owned(), policies: Vec::new(), inline: false, base });
}

pub(super) fn attach_to_role(scribe: &mut Scribe, site: &mut Site, who: Who, role: &str, policy: &str) -> Option<()> {
    let held = site.roles.iter_mut().find(|held| held.name == role)?;
    held.policies.push(policy.to_owned());
    iam(scribe, site, who, "AttachRolePolicy", json!({ "roleName": role, "policyArn": policy }), Value::Null);
    Some(())
}

pub(super) fn put_inline(scribe: &mut Scribe, site: &mut Site, who: Who, role: &str) -> Option<()> {
    let document = some_document(scribe);
    site.roles.iter_mut().find(|held| held.name == role)?.inline = true;
    let request = json!({ "roleName": role, "policyName": "access", "policyDocument": document });
    iam(scribe, site, who, "PutRolePolicy", request, Value::Null);
    Some(())
}

pub(super) fn create_policy(scribe: &mut Scribe, site: &mut Site, who: Who, name: &str) -> String {
    let arn = site.iam_arn(&format!("policy/{name}"));
    let document = some_document(scribe);
    let tags = json!([{ "key": "environment", "value": site.environment }]);
    let request = json!({
        "policyName": name, "path": "/", "policyDocument": document, "description": "", "tags": tags,
    });
    let response = json!({ "policy": {
        "policyName": name, "policyId": scribe.iam_id("ANPA"), "arn": arn, "path": "/", "defaultVersionId": "v1",
        "attachmentCount": 0, "permissionsBoundaryUsageCount": 0, "isAttachable": true,
        "createDate": scribe.wire_date(), "updateDate": scribe.wire_date(), "tags": tags,
    }});
    iam(scribe, site, who, "CreatePolicy", request, response);
    site.policies.push(Policy { arn: arn.clone(), versions: vec![1], next: 2 });
    arn
}

pub(super) fn create_user(scribe: &mut Scribe, site: &mut Site, who: Who, name: &str) {
    let response = json!({ "user": {
        "path": "/", "userName": name, "userId": scribe.iam_id("AIDA"), "arn": site.iam_arn(&format!("user/{name}")),
        "createDate": scribe.wire_date(),
    }});
    iam(scribe, site, who, "CreateUser", json!({ "path": "/", "userName": name }), response);
    site.users.push(User { name: name.to_owned(), keys: Vec::new(), policies: Vec::new() });
}

pub(super) fn create_access_key(scribe: &mut Scribe, site: &mut Site, who: Who, user: &str) -> Option<String> {
    let key = scribe.access_key("AKIA");
    site.users.iter_mut().find(|held| held.name == user)?.keys.push((key.clone(), true));
    // CloudTrail leaves the secret key out.
    let response = json!({ "accessKey": {
        "userName": user, "accessKeyId": key, "status": "Active", "createDate": scribe.wire_date(),
    }});
    iam(scribe, site, who, "CreateAccessKey", json!({ "userName": user }), response);
    Some(key)
}

pub(super) fn deactivate_key(scribe: &mut Scribe, site: &mut Site, who: Who, user: &str, key: &str) -> Option<()> {
    let held = site.users.iter_mut().find(|held| held.name == user)?;
    held.keys.iter_mut().find(|held| held.0 == key)?.1 = false;
    let request = json!({ "userName": user, "accessKeyId": key, "status": "Inactive" });
    iam(scribe, site, who, "UpdateAccessKey", request, Value::Null);
    Some(())
}

pub(super) fn delete_access_key(scribe: &mut Scribe, site: &mut Site, who: Who, user: &str, key: &str) -> Option<()> {
    let held = site.users.iter_mut().find(|held| held.name == user)?;
    let index = held.keys.iter().position(|held| held.0 == key)?;
    held.keys.remove(index);
    iam(scribe, site, who, "DeleteAccessKey", json!({ "userName": user, "accessKeyId": key }), Value::Null);
    Some(())
}

pub(super) fn attach_to_user(scribe: &mut Scribe, site: &mut Site, who: Who, user: &str, policy: &str) -> Option<()> {
    site.users.iter_mut().find(|held| held.name == user)?.policies.push(policy.to_owned());
    iam(scribe, site, who, "AttachUserPolicy", json!({ "userName": user, "policyArn": policy }), Value::Null);
    Some(())
}

pub(super) fn detach_from_user(scribe: &mut Scribe, site: &mut Site, who: Who, user: &str, policy: &str) -> Option<()> {
    let held = site.users.iter_mut().find(|held| held.name == user)?;
    let index = held.policies.iter().position(|held| held == policy)?;
    held.policies.remove(index);
    iam(scribe, site, who, "DetachUserPolicy", json!({ "userName": user, "policyArn": policy }), Value::Null);
    Some(())
}

pub(super) fn new_user(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.users.len() >= MOST_USERS {
        return None;
    }
    let base = scribe.word(&["report-reader", "metrics-exporter", "sync-agent", "mail-relay"]);
    let (name, who) = (scribe.name(base), keeper(scribe));
    create_user(scribe, site, who, &name);
    let policy = scribe.word(&MANAGED);
    attach_to_user(scribe, site, who, &name, policy)?;
    create_access_key(scribe, site, who, &name).map(drop)
}

/// Removes everything that belongs to a user, then the user: IAM refuses any other order.
pub(super) fn drop_user(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.users, |scribe, user| !scribe.pinned.contains(&user.name))?;
    let user = site.users.get(index).filter(|_| site.users.len() > 1)?;
    let (name, keys, policies) = (user.name.clone(), user.keys.clone(), user.policies.clone());
    let who = keeper(scribe);
    for (key, _) in keys {
        delete_access_key(scribe, site, who, &name, &key)?;
    }
    for policy in policies {
        detach_from_user(scribe, site, who, &name, &policy)?;
    }
    iam(scribe, site, who, "DeleteUser", json!({ "userName": name }), Value::Null);
    site.users.retain(|user| user.name != name);
    Some(())
}

/// Creates a new access key, and deletes the old one.
pub(super) fn rotate_key(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.users, |scribe, user| !scribe.pinned.contains(&user.name))?;
    let user = site.users.get(index)?;
    let (name, keys) = (user.name.clone(), user.keys.clone());
    let who = keeper(scribe);
    match keys.as_slice() {
        // A user has at most two.
        [(old, false), _] | [_, (old, false)] => delete_access_key(scribe, site, who, &name, old),
        [(old, true), _] => deactivate_key(scribe, site, who, &name, old),
        _ => create_access_key(scribe, site, who, &name).map(drop),
    }
}

pub(super) fn new_role(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.roles.len() >= MOST_ROLES {
        return None;
    }
    let base = scribe.word(&["billing-task", "thumbnailer", "report-job", "queue-consumer"]);
    let (name, who) = (scribe.name(base), keeper(scribe));
    let service = scribe.word(&["ecs-tasks.amazonaws.com", "lambda.amazonaws.com", "ec2.amazonaws.com"]);
    create_role(scribe, site, who, &name, service, false);
    put_inline(scribe, site, who, &name)
}

pub(super) fn change_role(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.roles, |_, role| !role.base)?;
    let own = scribe.index(&site.policies).and_then(|index| site.policies.get(index)).map(|policy| policy.arn.clone());
    let policy = own.filter(|_| scribe.rng.bool()).unwrap_or_else(|| scribe.word(&MANAGED).to_owned());
    let who = keeper(scribe);
    let role = site.roles.get_mut(index)?;
    let name = role.name.clone();
    if role.policies.contains(&policy) {
        role.policies.retain(|held| *held != policy);
        iam(scribe, site, who, "DetachRolePolicy", json!({ "roleName": name, "policyArn": policy }), Value::Null);
        return Some(());
    }
    match scribe.rng.u8(..3) {
        0 => put_inline(scribe, site, who, &name),
        1 => {
            let key = scribe.word(&["owner", "cost-centre"]);
            let request = json!({ "roleName": name, "tags": [{ "key": key, "value": "platform" }] });
            iam(scribe, site, who, "TagRole", request, Value::Null);
            Some(())
        }
        _ => attach_to_role(scribe, site, who, &name, &policy),
    }
}

pub(super) fn drop_role(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.roles, |_, role| {
        !role.base && !site.functions.iter().any(|function| function.role == role.name)
    })?;
    let role = site.roles.remove(index);
    let who = keeper(scribe);
    if role.inline {
        let request = json!({ "roleName": role.name, "policyName": "access" });
        iam(scribe, site, who, "DeleteRolePolicy", request, Value::Null);
    }
    for policy in &role.policies {
        let request = json!({ "roleName": role.name, "policyArn": policy });
        iam(scribe, site, who, "DetachRolePolicy", request, Value::Null);
    }
    iam(scribe, site, who, "DeleteRole", json!({ "roleName": role.name }), Value::Null);
    Some(())
}

pub(super) fn new_policy(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    (site.policies.len() < MOST_POLICIES).then(|| {
        let base = scribe.word(&["upload-access", "queue-access", "table-access"]);
        let (name, who) = (scribe.name(base), keeper(scribe));
        create_policy(scribe, site, who, &name);
    })
}

/// Creates a new version of a policy; if there are five, the oldest is deleted first.
pub(super) fn revise_policy(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index(&site.policies)?;
    let document = some_document(scribe);
    let who = keeper(scribe);
    let policy = site.policies.get_mut(index)?;
    let arn = policy.arn.clone();
    let outdated = (policy.versions.len() >= 5).then(|| policy.versions.remove(0));
    let version = policy.next;
    policy.versions.push(version);
    policy.next += 1;
    if let Some(version) = outdated {
        let request = json!({ "policyArn": arn, "versionId": format!("v{version}") });
        iam(scribe, site, who, "DeletePolicyVersion", request, Value::Null);
    }
    let request = json!({ "policyArn": arn, "policyDocument": document, "setAsDefault": true });
    let response = json!({ "policyVersion": {
        "versionId": format!("v{version}"), "isDefaultVersion": true, "createDate": scribe.wire_date(),
    }});
    iam(scribe, site, who, "CreatePolicyVersion", request, response);
    Some(())
}

/// Deletes the older versions of an unattached policy, then the policy: IAM refuses any other order.
pub(super) fn drop_policy(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe
        .index_where(&site.policies, |_, policy| !site.roles.iter().any(|role| role.policies.contains(&policy.arn)))?;
    let mut policy = site.policies.remove(index);
    let who = keeper(scribe);
    policy.versions.pop();
    for version in policy.versions {
        let request = json!({ "policyArn": policy.arn, "versionId": format!("v{version}") });
        iam(scribe, site, who, "DeletePolicyVersion", request, Value::Null);
    }
    iam(scribe, site, who, "DeletePolicy", json!({ "policyArn": policy.arn }), Value::Null);
    Some(())
}
