//! Storage resources of the demo: buckets, and the keys that encrypt them.

use serde_json::{Value, json};

use super::network::engineer;
use super::people::Who;
use super::scribe::{Call, Place, Scribe, s3_host, wire_date};
use super::site::{Bucket, Key, Site};
use crate::model::Time;

const XMLNS: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
const MOST_BUCKETS: usize = 7;
const MOST_KEYS: usize = 5;

/// A call on a bucket: the query that selects its part, the body under its XML name, and the host.
fn s3(scribe: &mut Scribe, place: Place, who: Who, name: &'static str, bucket: &str, parts: Value) {
    let mut request = json!({ "bucketName": bucket, "Host": s3_host(bucket, place.region) });
    if let (Value::Object(request), Value::Object(parts)) = (&mut request, parts) {
        request.extend(parts);
    }
    let mut call = Call::new("s3", name, request, Value::Null).on_bucket(bucket);
    if name != "CreateBucket" {
        call = call.resource(place.account, "AWS::S3::Bucket", &format!("arn:aws:s3:::{bucket}"));
    }
    scribe.record(place, who, call);
}

pub(super) fn create_bucket(scribe: &mut Scribe, site: &mut Site, who: Who, name: String) {
    let mut parts = json!({});
    if site.place.region != "us-east-1" {
        parts["CreateBucketConfiguration"] = json!({ "xmlns": XMLNS, "LocationConstraint": site.place.region });
    }
    s3(scribe, site.place, who, "CreateBucket", &name, parts);
    site.buckets.push(Bucket { name, policy: false, versioned: false });
}

/// Sets whether public access is blocked.
pub(super) fn block_public_access(scribe: &mut Scribe, site: &Site, who: Who, bucket: &str, block: bool) {
    if block {
        let configuration = json!({
            "xmlns": XMLNS, "BlockPublicAcls": true, "IgnorePublicAcls": true, "BlockPublicPolicy": true,
            "RestrictPublicBuckets": true,
        });
        let parts = json!({ "publicAccessBlock": "", "PublicAccessBlockConfiguration": configuration });
        s3(scribe, site.place, who, "PutBucketPublicAccessBlock", bucket, parts);
    } else {
        s3(scribe, site.place, who, "DeleteBucketPublicAccessBlock", bucket, json!({ "publicAccessBlock": "" }));
    }
}

pub(super) fn encrypt(scribe: &mut Scribe, site: &Site, who: Who, bucket: &str) -> Option<()> {
    let key = site.arn("kms", &format!("key/{}", site.keys.iter().find(|key| key.base)?.id));
    let parts = json!({ "encryption": "", "ServerSideEncryptionConfiguration": {
        "xmlns": XMLNS,
        "Rule": {
            "ApplyServerSideEncryptionByDefault": { "SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key },
            "BucketKeyEnabled": true,
        },
    }});
    s3(scribe, site.place, who, "PutBucketEncryption", bucket, parts);
    Some(())
}

/// Allows reading for a role of the account, or with `"*"` for everybody.
pub(super) fn put_policy(scribe: &mut Scribe, site: &mut Site, who: Who, bucket: &str, reader: &str) -> Option<()> {
    let principal = if reader == "*" { json!("*") } else { json!({ "AWS": reader }) };
    let parts = json!({ "policy": "", "bucketPolicy": {
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": "Read", "Effect": "Allow", "Principal": principal,
            "Action": ["s3:GetObject", "s3:ListBucket"],
            "Resource": [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")],
        }],
    }});
    site.buckets.iter_mut().find(|held| held.name == bucket)?.policy = true;
    s3(scribe, site.place, who, "PutBucketPolicy", bucket, parts);
    Some(())
}

pub(super) fn delete_policy(scribe: &mut Scribe, site: &mut Site, who: Who, bucket: &str) -> Option<()> {
    site.buckets.iter_mut().find(|held| held.name == bucket)?.policy = false;
    s3(scribe, site.place, who, "DeleteBucketPolicy", bucket, json!({ "policy": "" }));
    Some(())
}

pub(super) fn new_bucket(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.buckets.len() >= MOST_BUCKETS {
        return None;
    }
    let base = scribe.word(&["artifacts", "exports", "reports", "uploads", "logs"]);
    let name = scribe.name(&format!("{}-{base}", site.short));
    let who = engineer(scribe);
    create_bucket(scribe, site, who, name.clone());
    block_public_access(scribe, site, who, &name, true);
    encrypt(scribe, site, who, &name)
}

pub(super) fn drop_bucket(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.buckets, |scribe, bucket| !scribe.pinned.contains(&bucket.name))?;
    if site.buckets.len() <= 2 {
        return None;
    }
    let bucket = site.buckets.remove(index);
    let who = engineer(scribe);
    s3(scribe, site.place, who, "DeleteBucket", &bucket.name, json!({}));
    Some(())
}

pub(super) fn change_bucket(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.buckets, |scribe, bucket| !scribe.pinned.contains(&bucket.name))?;
    let who = engineer(scribe);
    let bucket = site.buckets.get_mut(index)?;
    let name = bucket.name.clone();
    match scribe.rng.u8(..4) {
        0 => {
            bucket.versioned = !bucket.versioned;
            let status = if bucket.versioned { "Enabled" } else { "Suspended" };
            let parts = json!({ "versioning": "", "VersioningConfiguration": { "xmlns": XMLNS, "Status": status } });
            s3(scribe, site.place, who, "PutBucketVersioning", &name, parts);
            Some(())
        }
        1 => {
            let team = scribe.word(&["platform", "data", "payments"]);
            let tag = json!([{ "Key": "owner", "Value": team }, { "Key": "environment", "Value": site.environment }]);
            let parts = json!({ "tagging": "", "Tagging": { "xmlns": XMLNS, "TagSet": { "Tag": tag } } });
            s3(scribe, site.place, who, "PutBucketTagging", &name, parts);
            Some(())
        }
        2 if bucket.policy => delete_policy(scribe, site, who, &name),
        _ => {
            let role = scribe.index_where(&site.roles, |_, role| role.base)?;
            let reader = site.iam_arn(&format!("role/{}", site.roles.get(role)?.name));
            put_policy(scribe, site, who, &name, &reader)
        }
    }
}

/// A call on a key, which KMS also lists among the resources.
fn kms(scribe: &mut Scribe, site: &Site, who: Who, name: &'static str, id: &str, request: Value, response: Value) {
    let arn = site.arn("kms", &format!("key/{id}"));
    let call = Call::new("kms", name, request, response).resource(site.place.account, "AWS::KMS::Key", &arn);
    scribe.record(site.place, who, call);
}

pub(super) fn create_key(scribe: &mut Scribe, site: &mut Site, who: Who, purpose: &str, base: bool) {
    let id = scribe.uuid();
    let request = json!({
        "description": purpose, "keyUsage": "ENCRYPT_DECRYPT", "keySpec": "SYMMETRIC_DEFAULT", "origin": "AWS_KMS",
        "customerMasterKeySpec": "SYMMETRIC_DEFAULT", "multiRegion": false, "bypassPolicyLockoutSafetyCheck": false,
        "tags": [{ "tagKey": "environment", "tagValue": site.environment }],
    });
    let response = json!({ "keyMetadata": {
        "aWSAccountId": site.place.account, "keyId": id, "arn": site.arn("kms", &format!("key/{id}")),
        "creationDate": scribe.wire_date(), "enabled": true, "description": purpose, "keyUsage": "ENCRYPT_DECRYPT",
        "keyState": "Enabled", "origin": "AWS_KMS", "keyManager": "CUSTOMER", "keySpec": "SYMMETRIC_DEFAULT",
        "customerMasterKeySpec": "SYMMETRIC_DEFAULT", "encryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "multiRegion": false,
    }});
    kms(scribe, site, who, "CreateKey", &id, request, response);
    let alias = format!("alias/{}", scribe.name(&format!("{}-{purpose}", site.short)));
    let request = json!({ "aliasName": alias, "targetKeyId": id });
    let call = Call::new("kms", "CreateAlias", request, Value::Null)
        .resource(site.place.account, "AWS::KMS::Key", &site.arn("kms", &format!("key/{id}")))
        .resource(site.place.account, "AWS::KMS::Alias", &site.arn("kms", &alias));
    scribe.record(site.place, who, call);
    site.keys.push(Key { id, enabled: true, rotated: false, base });
}

pub(super) fn new_key(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    (site.keys.len() < MOST_KEYS).then(|| {
        let purpose = scribe.word(&["exports", "payments", "backups"]);
        create_key(scribe, site, Who::Terraform, purpose, false);
    })
}

pub(super) fn change_key(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.keys, |_, key| !key.base)?;
    let who = engineer(scribe);
    let key = site.keys.get_mut(index)?;
    let id = key.id.clone();
    let name = match scribe.rng.u8(..3) {
        0 if key.enabled && !key.rotated => {
            key.rotated = true;
            "EnableKeyRotation"
        }
        _ if key.enabled => {
            key.enabled = false;
            "DisableKey"
        }
        _ => {
            key.enabled = true;
            "EnableKey"
        }
    };
    let request = if name == "EnableKeyRotation" {
        json!({ "keyId": id, "rotationPeriodInDays": 365 })
    } else {
        json!({ "keyId": id })
    };
    kms(scribe, site, who, name, &id, request, Value::Null);
    Some(())
}

pub(super) fn drop_key(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.keys, |_, key| !key.base)?;
    let id = site.keys.remove(index).id;
    let due = Time::from_millis(scribe.now.millis() + 30 * 86_400_000);
    let request = json!({ "keyId": id, "pendingWindowInDays": 30 });
    let response = json!({
        "keyId": site.arn("kms", &format!("key/{id}")), "keyState": "PendingDeletion", "pendingWindowInDays": 30,
        "deletionDate": wire_date(due),
    });
    kms(scribe, site, Who::PlatformAdmin, "ScheduleKeyDeletion", &id, request, response);
    Some(())
}
