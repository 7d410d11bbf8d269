//! The cost of an inventory of up to a million assets of 2 KB: memory, restart, applying a change, its whole way from
//! record to event, and how long a walk over all assets delays writers.
//!
//! For each size, a durable log is filled with the assets and opened in another process, as by `catchment serve`. That
//! process then applies changes to randomly chosen assets, almost none of which changed recently.
//!
//! `cargo bench --bench inventory`; `CATCHMENT_BENCH_QUICK=1` stops at 100,000 assets, `CATCHMENT_BENCH_DIR` chooses
//! the disk.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::cast_precision_loss, missing_docs)]

mod cpu;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use catchment::ingest::{Processed, Processor};
use catchment::inventory::{Inventory, RestoreError};
use catchment::json::Arena;
use catchment::log::{Batch, EmbeddedLog, EventLog, LogError, Retention};
use catchment::memory;
use catchment::metrics::Metrics;
use catchment::model::{Action, AssetKind, AssetName, AssetRef, Confidence, Draft, DraftAction, KeyedSet, Step, Time};
use catchment::normalize::Engine;
use jsonptr::PointerBuf;
use serde_json::json;

const CHILD: &str = "CATCHMENT_BENCH_CHILD";
const BATCH: u64 = 1_000;
const CHANGES: u64 = 20_000;
/// The changes are measured in this many parts, of which the fastest counts: others use this machine too.
const PARTS: u64 = 10;

fn main() {
    memory::use_small_pages();
    if let Some(child) = std::env::var_os(CHILD) {
        let text = child.into_string().unwrap();
        let (count, directory) = text.split_once(' ').unwrap();
        return measure(count.parse().unwrap(), Path::new(directory));
    }
    let quick = std::env::var_os("CATCHMENT_BENCH_QUICK").is_some();
    let root = std::env::var_os("CATCHMENT_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    println!(
        "| assets | bytes each | on disk, MB | restart, s | restart, CPU s | resident, MiB | apply, µs of CPU | record to event, µs of CPU | of walking all, s | longest apply meanwhile, ms |"
    );
    println!(
        "|-------:|-----------:|------------:|-----------:|---------------:|--------------:|-----------------:|---------------------------:|------------------:|----------------------------:|"
    );
    let sizes: &[u64] = if quick { &[1_000, 10_000, 100_000] } else { &[1_000, 10_000, 100_000, 1_000_000] };
    for count in sizes {
        let directory = tempfile::tempdir_in(&root).unwrap();
        let bytes = fill(directory.path(), *count) / count;
        print!("| {count} | {bytes} | {} ", on_disk(directory.path()) / 1_000_000);
        let child = Command::new(std::env::current_exe().unwrap())
            .env(CHILD, format!("{count} {}", directory.path().display()))
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        print!("{}", String::from_utf8_lossy(&child.stdout));
    }
}

/// Writes the assets as the ingest loop would, and returns the total size of their configurations in bytes.
fn fill(directory: &Path, count: u64) -> u64 {
    let (log, inventory, kinds) = (open(directory), Inventory::bounded(64 << 20), Kinds::new());
    let (mut bytes, mut last) = (0, None);
    for start in (0..count).step_by(usize::try_from(BATCH).unwrap()) {
        let mut batch = Batch::default();
        for n in start..(start + BATCH).min(count) {
            let (created, arena) = (DraftAction::Known(Action::Create), Arena::new());
            let mut draft =
                kinds.draft(n, created, |kind, random| vec![Step::Replace(kind.document(n, random).into())]);
            let applied = inventory.apply(Time::from_millis(0), &event_id(n), &mut draft, &|_, _| Vec::new(), &arena);
            let held = applied.held.unwrap();
            bytes += held.configuration().unwrap().len() as u64;
            batch.assets.push((held.name().clone(), held.stored().clone()));
        }
        last = Some(log.append(batch).unwrap());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    last.map(|pending| runtime.block_on(pending).unwrap());
    bytes
}

fn measure(count: u64, directory: &Path) {
    let (start, cpu) = (Instant::now(), cpu::of_process(std::process::id()));
    let log = open(directory);
    let inventory = Arc::new(Inventory::new());
    inventory.restore_all(|take| Ok::<_, Failure>(log.for_each_asset(&mut |_, stored| take(stored))?)).unwrap();
    assert_eq!(inventory.len() as u64, count);
    let (restart, restart_cpu) =
        (start.elapsed().as_secs_f64(), (cpu::of_process(std::process::id()) - cpu).as_secs_f64());
    let resident = resident() >> 20;
    let kinds = Kinds::new();
    let mut random = fastrand::Rng::with_seed(7);
    let mut change = |n: u64| {
        let asset = random.u64(..count);
        let set =
            Step::Set { at: PointerBuf::parse("/tags/owner").unwrap(), value: json!(format!("owner-{n}")).into() };
        let mut draft = kinds.draft(asset, DraftAction::Known(Action::Update), |_, _| vec![set]);
        let (start, arena) = (Instant::now(), Arena::new());
        let time = Time::from_millis(1_000 * i64::try_from(n + 1).unwrap());
        let applied = inventory.apply(time, &event_id(count + n), &mut draft, &|_, _| Vec::new(), &arena);
        let held = applied.held.unwrap();
        std::hint::black_box(held.stored().clone());
        assert_ne!(&applied.changes[..], b"[]");
        start.elapsed()
    };
    // The journal fills first: from then on, each change evicts another asset from it.
    for n in 0..CHANGES {
        change(n);
    }
    let apply = fastest(CHANGES, |n| {
        change(CHANGES + n);
    });
    let walked = AtomicBool::new(false);
    let (walk, longest) = std::thread::scope(|scope| {
        let walker = scope.spawn(|| {
            let (start, mut seen) = (Instant::now(), 0_u64);
            inventory.walk(None, &|_| true, &mut |held| {
                seen += u64::from(held.configuration().is_some());
                true
            });
            walked.store(true, Ordering::Release);
            assert_eq!(seen, count);
            start.elapsed()
        });
        let (mut longest, mut n) = (Duration::ZERO, 2 * CHANGES);
        while !walked.load(Ordering::Acquire) {
            longest = longest.max(change(n));
            n += 1;
        }
        (walker.join().unwrap(), longest)
    });
    // Last: its records are newer than the changes before.
    let whole = whole_way(&inventory, &kinds, count);
    println!(
        "| {restart:.2} | {restart_cpu:.2} | {resident} | {apply:.1} | {whole:.1} | {:.2} | {:.1} |",
        walk.as_secs_f64(),
        longest.as_secs_f64() * 1e3
    );
}

/// CPU time of a change from its record to its event, µs: instances drawn at random get a tag.
fn whole_way(inventory: &Arc<Inventory>, kinds: &Kinds, count: u64) -> f64 {
    let engine = Arc::new(Engine::load(None).unwrap());
    let mut processor = Processor::new(engine, Arc::clone(inventory), "io.catchment".to_owned(), 1 << 17);
    let (mut random, step) = (fastrand::Rng::with_seed(8), kinds.0.len() as u64);
    let records: Vec<String> = (0..2 * CHANGES)
        .map(|n| {
            let instance = random.u64(..count / step) * step;
            tagging(&kinds.draft(instance, DraftAction::Known(Action::Update), |_, _| Vec::new()).asset, n)
        })
        .collect();
    let (before, measured) = records.split_at(records.len() / 2);
    let mut process = |record: &String| {
        let processed = processor.process(record.as_bytes(), Time::default(), |_| Ok::<_, Infallible>(false)).unwrap();
        let Processed::Changes { events, .. } = processed else { panic!("no change: {record}") };
        events
    };
    for record in before {
        let events = process(record);
        let text = std::str::from_utf8(&events[0].json).unwrap();
        assert!(text.contains(r#""previous_state":"present""#), "not an asset of the inventory: {text}");
    }
    fastest(measured.len() as u64, |n| {
        std::hint::black_box(process(&measured[usize::try_from(n).unwrap()]));
    })
}

/// Calls a function with each number below `count`; returns the CPU time of a call in the fastest of the parts, µs.
fn fastest(count: u64, mut call: impl FnMut(u64)) -> f64 {
    let part = count / PARTS;
    let measured = (0..PARTS).map(|index| {
        let cpu = cpu::of_thread();
        (index * part..(index + 1) * part).for_each(&mut call);
        (cpu::of_thread() - cpu).as_secs_f64() / part as f64 * 1e6
    });
    measured.fold(f64::INFINITY, f64::min)
}

/// A record of CloudTrail.
fn tagging(instance: &AssetRef, n: u64) -> String {
    let AssetRef { name, account, region, .. } = instance;
    let id = name.as_str().rsplit('/').next().unwrap();
    json!({
        "eventVersion": "1.11", "eventID": uuid(n), "requestID": uuid(n + 1),
        "eventTime": Time::from_millis(1_772_323_200_000 + 1_000 * i64::try_from(n).unwrap()).to_string(),
        "eventSource": "ec2.amazonaws.com", "eventName": "CreateTags", "awsRegion": region,
        "eventType": "AwsApiCall", "eventCategory": "Management", "managementEvent": true, "readOnly": false,
        "recipientAccountId": account, "sourceIPAddress": "198.51.100.7",
        "userAgent": "APN/1.0 HashiCorp/1.0 Terraform/1.12.2 (+https://www.terraform.io) aws-sdk-go-v2/1.36.3 os/linux",
        "userIdentity": {
            "type": "AssumedRole", "principalId": "AROAEXAMPLEDEPLOY:ci", "accountId": account,
            "arn": format!("arn:aws:sts::{account}:assumed-role/deploy/ci"), "accessKeyId": "ASIAEXAMPLEDEPLOY",
            "sessionContext": {
                "sessionIssuer": { "type": "Role", "principalId": "AROAEXAMPLEDEPLOY", "accountId": account,
                    "arn": format!("arn:aws:iam::{account}:role/deploy"), "userName": "deploy" },
                "attributes": { "creationDate": "2026-03-01T00:00:00Z", "mfaAuthenticated": "false" } } },
        "requestParameters": { "resourcesSet": { "items": [{ "resourceId": id }] },
            "tagSet": { "items": [{ "key": "owner", "value": format!("team-{n}") }] } },
        "responseElements": { "requestId": uuid(n + 1), "_return": true },
    })
    .to_string()
}

#[derive(Debug)]
struct Failure;

impl From<LogError> for Failure {
    fn from(_: LogError) -> Self {
        Self
    }
}

impl From<RestoreError> for Failure {
    fn from(_: RestoreError) -> Self {
        Self
    }
}

fn open(directory: &Path) -> EmbeddedLog {
    EmbeddedLog::open(directory, Retention::default(), Arc::new(Metrics::new().unwrap())).unwrap()
}

fn event_id(n: u64) -> String {
    uuid(n) + ":0"
}

fn uuid(n: u64) -> String {
    let mut random = fastrand::Rng::with_seed(n);
    format!("{:08x}-{:04x}-4000-8000-{:012x}", random.u32(..), random.u16(..), random.u64(..1 << 48))
}

/// The types of the assets.
struct Kinds(Vec<Kind>);

struct Kind {
    service: &'static str,
    kind: Arc<AssetKind>,
}

impl Kinds {
    fn new() -> Self {
        let kind = |service, provider_type: &str, neutral_type: &str| Kind {
            service,
            kind: Arc::new(AssetKind {
                provider: "aws",
                provider_type: provider_type.to_owned(),
                neutral_type: neutral_type.to_owned(),
                display: Vec::new(),
                tags: PointerBuf::parse("/tags").unwrap(),
                uid: Vec::new(),
                sets: vec![KeyedSet {
                    at: PointerBuf::parse("/rules").unwrap(),
                    key: Arc::new([PointerBuf::parse("/securityGroupRuleId").unwrap()]),
                    ignore_case: false,
                }],
            }),
        };
        Self(vec![
            kind("ec2/instance/i-", "AWS::EC2::Instance", "compute.instance"),
            kind("ec2/security-group/sg-", "AWS::EC2::SecurityGroup", "network.security_group"),
            kind("iam/role/r-", "AWS::IAM::Role", "identity.role"),
            kind("lambda/function/f-", "AWS::Lambda::Function", "compute.function"),
        ])
    }

    fn draft(&self, n: u64, action: DraftAction, steps: impl FnOnce(&Kind, &mut fastrand::Rng) -> Vec<Step>) -> Draft {
        let kind = &self.0[usize::try_from(n).unwrap() % self.0.len()];
        let mut random = fastrand::Rng::with_seed(n);
        let account = format!("1111222233{:02}", random.u32(..40));
        let region = ["us-east-1", "eu-west-1", "eu-central-1", "ap-southeast-2"][random.usize(..4)];
        let id = hex(&mut random, 17);
        let name = AssetName::new("aws", &account, region, &format!("{}{id}", kind.service));
        let arn = format!("arn:aws:service:{region}:{account}:{}{id}", kind.service);
        let steps = steps(kind, &mut random);
        let asset = AssetRef {
            kind: Arc::clone(&kind.kind),
            name,
            id,
            arn: Some(arn),
            arn_is_told: false,
            account,
            region: region.to_owned(),
        };
        let (rule, confidence) = ("aws/bench".into(), Confidence::High);
        Draft { action, asset, steps, partial: false, associations: Vec::new(), rule, confidence }
    }
}

fn hex(random: &mut fastrand::Rng, length: usize) -> String {
    (0..length).map(|_| random.char('0'..='9')).collect::<String>()
}

impl Kind {
    /// A configuration as the provider writes it, with unique ids; what all have in common is compressed away.
    fn document(&self, n: u64, random: &mut fastrand::Rng) -> serde_json::Value {
        let team = ["payments", "search", "platform", "identity", "data"][random.usize(..5)];
        let tags =
            json!({ "Name": format!("{team}-{n}"), "team": team, "cost-center": random.u32(..9_000).to_string() });
        let mut id = |prefix: &str| format!("{prefix}{}", hex(random, 17));
        match self.service {
            "ec2/instance/i-" => instance(team, &tags, &mut id),
            "ec2/security-group/sg-" => {
                let rules: Vec<_> = (0..7).map(|rule| security_group_rule(rule, &mut id)).collect();
                json!({ "groupName": format!("{team}-{n}"), "groupDescription": format!("Access to {team}"),
                        "vpcId": id("vpc-"), "rules": rules, "tags": tags })
            }
            "iam/role/r-" => role(n, team, &tags, &mut id),
            _ => function(n, team, &tags, &mut id),
        }
    }
}

fn instance(team: &str, tags: &serde_json::Value, id: &mut dyn FnMut(&str) -> String) -> serde_json::Value {
    let (vpc, subnet, address) = (id("vpc-"), id("subnet-"), format!("10.0.{}", &id("")[..2]));
    json!({
        "amiLaunchIndex": 0, "architecture": "x86_64", "bootMode": "uefi-preferred", "clientToken": id(""),
        "blockDeviceMapping": [{ "deviceName": "/dev/xvda", "ebs": { "attachTime": "2026-03-01T12:00:00.000Z",
            "deleteOnTermination": true, "status": "attached", "volumeId": id("vol-") } }],
        "capacityReservationSpecification": { "capacityReservationPreference": "open" },
        "cpuOptions": { "coreCount": 1, "threadsPerCore": 2 }, "ebsOptimized": false, "enaSupport": true,
        "enclaveOptions": { "enabled": false }, "hypervisor": "xen", "imageId": id("ami-"), "instanceType": "m5.large",
        "groupSet": [{ "groupId": id("sg-"), "groupName": format!("{team}-web") },
                     { "groupId": id("sg-"), "groupName": format!("{team}-ssh") }],
        "iamInstanceProfile": { "arn": format!("arn:aws:iam::111122223333:instance-profile/{team}"), "id": id("AIPA") },
        "instanceId": id("i-"), "keyName": team, "launchTime": "2026-03-01T12:00:00.000Z",
        "maintenanceOptions": { "autoRecovery": "default" }, "monitoring": { "state": "disabled" },
        "metadataOptions": { "httpEndpoint": "enabled", "httpProtocolIpv4": "enabled", "httpTokens": "required",
            "httpPutResponseHopLimit": 2, "instanceMetadataTags": "disabled", "state": "applied" },
        "networkInterfaceSet": [{ "attachment": { "attachTime": "2026-03-01T12:00:00.000Z", "deviceIndex": 0,
            "attachmentId": id("eni-attach-"), "deleteOnTermination": true, "networkCardIndex": 0, "status": "attached" },
            "interfaceType": "interface", "ipv6AddressesSet": [], "macAddress": id(""), "ownerId": "111122223333",
            "networkInterfaceId": id("eni-"), "privateIpAddress": address, "sourceDestCheck": true, "status": "in-use",
            "subnetId": subnet, "vpcId": vpc }],
        "placement": { "availabilityZone": "eu-west-1a", "tenancy": "default" }, "privateIpAddress": address,
        "rootDeviceName": "/dev/xvda", "rootDeviceType": "ebs", "state": { "code": 16, "name": "running" },
        "subnetId": subnet, "vpcId": vpc, "tags": tags, "virtualizationType": "hvm",
    })
}

fn security_group_rule(n: u32, id: &mut dyn FnMut(&str) -> String) -> serde_json::Value {
    json!({ "securityGroupRuleId": id("sgr-"), "groupId": id("sg-"), "groupOwnerId": "111122223333", "isEgress": false,
            "ipProtocol": "tcp", "fromPort": 8_000 + n, "toPort": 8_000 + n, "cidrIpv4": "192.0.2.0/24",
            "description": "from the office", "tagSet": {} })
}

fn role(n: u64, team: &str, tags: &serde_json::Value, id: &mut dyn FnMut(&str) -> String) -> serde_json::Value {
    let statement = |service: &str, resource: String| {
        json!({ "Effect": "Allow", "Action": [format!("{service}:GetItem"), format!("{service}:PutItem"),
                format!("{service}:Query")], "Resource": format!("arn:aws:{service}:eu-west-1:111122223333:{resource}") })
    };
    let policies: Vec<_> = ["dynamodb", "s3", "sqs", "kms", "logs"]
        .into_iter()
        .map(|service| {
            json!({ "policyName": service, "policyDocument": {
            "Version": "2012-10-17", "Statement": [statement(service, id("thing/"))] } })
        })
        .collect();
    json!({ "roleName": format!("{team}-{n}"), "roleId": id("AROA"), "path": "/", "maxSessionDuration": 3_600,
            "arn": format!("arn:aws:iam::111122223333:role/{team}-{n}"), "createDate": "2026-03-01T12:00:00.000Z",
            "assumeRolePolicyDocument": { "Version": "2012-10-17", "Statement": [{ "Effect": "Allow",
                "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" }] },
            "policies": policies, "tags": tags })
}

fn function(n: u64, team: &str, tags: &serde_json::Value, id: &mut dyn FnMut(&str) -> String) -> serde_json::Value {
    let variables: serde_json::Map<_, _> =
        (0..20).map(|n| (format!("SETTING_{n}"), json!(format!("https://{team}.example.com/{}", id(""))))).collect();
    json!({ "functionName": format!("{team}-{n}"), "runtime": "python3.13", "handler": "main.handler", "codeSize": 120_331,
            "functionArn": format!("arn:aws:lambda:eu-west-1:111122223333:function:{team}-{n}"), "timeout": 30,
            "role": format!("arn:aws:iam::111122223333:role/{team}"), "memorySize": 256, "codeSha256": id(""),
            "revisionId": id(""), "packageType": "Zip", "architectures": ["arm64"], "ephemeralStorage": { "size": 512 },
            "environment": { "variables": variables }, "tracingConfig": { "mode": "Active" },
            "vpcConfig": { "vpcId": id("vpc-"), "subnetIds": [id("subnet-"), id("subnet-")],
                "securityGroupIds": [id("sg-")] },
            "tags": tags })
}

fn on_disk(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| if entry.path().is_dir() { on_disk(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    4_096 * text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}
