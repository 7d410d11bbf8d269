//! The story of a short intrusion, told by the stream of the real binary: a user is created and granted access to
//! databases, a security group is opened to an address, closed again, and the user is removed.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::server::{Server, folder};

const STORY: &str = "fixtures/stories/intrusion";
const GROUP: &str = "asset://aws/111122223333/eu-west-1/ec2/security-group/sg-0c4d5e6f708192a3b";
const USER: &str = "asset://aws/111122223333/-/iam/user/backup-svc";

fn configuration(folder: &Path, data: &str) -> String {
    format!(
        "data_dir = {:?}\n[sources.trail.file]\npath = {:?}\npoll_millis = 20\n",
        folder.join(data),
        folder.join("trail"),
    )
}

fn copy_story(to: &Path) -> usize {
    std::fs::create_dir_all(to).unwrap();
    let mut records = 0;
    for entry in std::fs::read_dir(STORY).unwrap() {
        let path = entry.unwrap().path();
        let document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        records += document["Records"].as_array().unwrap().len();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    records
}

/// Who did what, from where and with what.
fn step(event: &Value) -> Value {
    let attribution = &event["data"]["attribution"];
    json!([
        event["data"]["operation"]["name"],
        event["data"]["action"],
        event["subject"],
        attribution["principal"]["name"],
        attribution["human"]["id"],
        attribution["ip"],
        attribution["method"],
    ])
}

#[test]
fn the_stream_tells_each_step_and_replaying_the_files_changes_nothing() {
    let folder = folder();
    let records = copy_story(&folder.path().join("trail")) as u64;
    let server = Server::serve(folder.path(), &configuration(folder.path(), "data"));
    server.wait_until("all records taken", || server.records() >= records);
    let events = server.all_events();

    let admin = "AWSReservedSSO_Administrator_0a1b2c3d4e5f6071";
    let person = "platform-admin@example.com";
    let key = "asset://aws/111122223333/-/iam/access-key/AKIAEXAMPLEBACKUPSVC";
    let expected = json!([
        ["CreateSecurityGroup", "create", GROUP, "deployer", null, "192.0.2.10", "terraform"],
        ["AuthorizeSecurityGroupIngress", "update", GROUP, "deployer", null, "192.0.2.10", "terraform"],
        ["CreateUser", "create", USER, admin, person, "198.51.100.66", "console"],
        ["CreateAccessKey", "create", key, admin, person, "198.51.100.66", "console"],
        ["AttachUserPolicy", "update", USER, admin, person, "198.51.100.66", "console"],
        ["AuthorizeSecurityGroupIngress", "update", GROUP, "backup-svc", "backup-svc", "203.0.113.66", "cli"],
        ["RevokeSecurityGroupIngress", "update", GROUP, "backup-svc", "backup-svc", "203.0.113.66", "cli"],
        ["DetachUserPolicy", "update", USER, admin, person, "198.51.100.66", "console"],
        ["DeleteAccessKey", "delete", key, admin, person, "198.51.100.66", "console"],
        ["DeleteUser", "delete", USER, admin, person, "198.51.100.66", "console"],
    ]);
    assert_eq!(events.iter().map(step).collect::<Value>(), expected);

    let data = |at: usize| events[at]["data"].clone();
    let opened = data(5);
    let rules_before = data(1)["configuration"]["rules"].clone();
    assert_eq!(opened["previous_configuration"]["rules"], rules_before, "the rules before it was opened");
    assert_eq!(opened["changes"].as_array().unwrap().len(), 1);
    assert_eq!(opened["changes"][0]["op"], "add");
    assert_eq!(opened["changes"][0]["value"]["cidrIpv4"], "203.0.113.66/32");
    assert_eq!(opened["configuration_state"], "complete");
    let closed = data(6);
    assert_eq!(closed["configuration"]["rules"], rules_before, "as if nothing had been");
    assert_eq!(closed["changes"][0]["op"], "remove");
    assert_eq!(closed["changes"][0]["old"]["cidrIpv4"], "203.0.113.66/32");
    assert_eq!(
        data(4)["configuration"]["attachedPolicies"][0]["policyArn"],
        "arn:aws:iam::aws:policy/AmazonRDSFullAccess"
    );
    assert_eq!(data(9)["configuration"], Value::Null);
    assert_eq!(data(9)["previous_configuration"]["userName"], "backup-svc");

    // The same records again, under other file names: every one of them is known.
    for entry in std::fs::read_dir(STORY).unwrap() {
        let path = entry.unwrap().path();
        let again = format!("again-{}", path.file_name().unwrap().to_string_lossy());
        std::fs::copy(&path, folder.path().join("trail").join(again)).unwrap();
    }
    server.wait_until("the copies taken", || server.records() >= 2 * records);
    assert_eq!(server.all_events(), events, "replaying changes nothing");

    // And over a restart: nothing is read twice, and the inventory is there again.
    assert!(server.terminate().success());
    let server = Server::serve(folder.path(), &configuration(folder.path(), "data"));
    let encoded = percent(GROUP);
    let group = server.get_json(&format!("/v1/assets/{encoded}"));
    assert_eq!(group["configuration"]["rules"], rules_before);
    let history = server.get_json(&format!("/v1/assets/{encoded}/history"));
    assert_eq!(history["events"].as_array().map(Vec::len), Some(4));
    assert_eq!(server.all_events(), events);
}

/// Percent-encodes everything but letters and digits.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
