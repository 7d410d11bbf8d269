//! CloudTrail records in files, and the events expected of them.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::program::run;

/// A record that creates a security group: one event, with the id `<event_id>:0`.
pub(crate) fn create_group(event_id: &str) -> Value {
    json!({
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser", "principalId": "AIDAEXAMPLE", "accountId": "123456789012", "userName": "jane",
            "arn": "arn:aws:iam::123456789012:user/jane",
        },
        "eventTime": "2026-02-03T04:05:06Z", "eventSource": "ec2.amazonaws.com", "eventName": "CreateSecurityGroup",
        "awsRegion": "eu-west-1", "sourceIPAddress": "192.0.2.1", "userAgent": "aws-cli/2.15.0",
        "requestParameters": { "groupName": event_id, "groupDescription": "a group", "vpcId": "vpc-0a1b2c3d" },
        "responseElements": { "_return": true, "groupId": format!("sg-{event_id}") },
        "requestID": format!("request-{event_id}"), "eventID": event_id, "readOnly": false, "eventType": "AwsApiCall",
        "managementEvent": true, "recipientAccountId": "123456789012", "eventCategory": "Management",
    })
}

/// The same, with a user agent of this many bytes.
pub(crate) fn create_group_of_size(event_id: &str, bytes: usize) -> Value {
    let mut record = create_group(event_id);
    record["userAgent"] = json!("x".repeat(bytes));
    record
}

/// Appends a record.
pub(crate) fn add(path: &Path, record: &Value) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(format!("{record}\n").as_bytes()).unwrap();
}

/// Appends lines as a busy writer does: in pieces of any size that end anywhere, with a pause after each.
pub(crate) fn append(path: &Path, lines: &[String], random: &mut fastrand::Rng, pause: Duration) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    let mut text = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"]).collect::<Vec<_>>().concat();
    while !text.is_empty() {
        let rest = text.split_off(random.usize(1..=700).min(text.len()));
        file.write_all(&text).unwrap();
        text = rest;
        std::thread::sleep(pause);
    }
}

/// The expected outcome of each record of the files, in order: that of `catchment normalize --explain`, without faults.
pub(crate) fn explain(paths: &[impl AsRef<OsStr>]) -> Vec<Value> {
    let head = ["normalize", "--explain"].map(OsStr::new);
    let finished = run(head.into_iter().chain(paths.iter().map(AsRef::as_ref)));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished.json_lines()
}

/// The events in the output of `--explain`.
pub(crate) fn events_of(explained: &[Value]) -> Vec<Value> {
    explained.iter().flat_map(|record| record["events"].as_array().unwrap()).cloned().collect()
}

/// The ids of events.
pub(crate) fn ids(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

/// A reproducible random sequence: its seed is printed, and taken from `CATCHMENT_TEST_SEED` if that is set.
pub(crate) fn random() -> fastrand::Rng {
    let given = std::env::var("CATCHMENT_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("to repeat: CATCHMENT_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
