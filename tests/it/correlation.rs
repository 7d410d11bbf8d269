//! Who is behind a change, told by other records than its own, also across a restart.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::server::{Server, folder};
use crate::support::trail::{add, create_group};

fn configuration(folder: &Path) -> String {
    let (data, trail) = (folder.join("data"), folder.join("trail.ndjson"));
    format!("data_dir = {data:?}\n[sources.trail.file]\npath = {trail:?}\npoll_millis = 10\n")
}

/// A session of a role, as records name their caller.
fn session(role: &str, access_key: &str) -> Value {
    json!({ "type": "AssumedRole", "principalId": format!("AROAEXAMPLE:{role}-session"), "accessKeyId": access_key,
        "arn": format!("arn:aws:sts::123456789012:assumed-role/{role}/{role}-session"), "accountId": "123456789012" })
}

/// AssumeRole: a read, as CloudTrail marks it, and no change.
fn assume(event_id: &str, by: Value, role: &str, handed_out: &str) -> Value {
    let mut record = create_group(event_id);
    let members = json!({
        "userIdentity": by, "eventSource": "sts.amazonaws.com", "eventName": "AssumeRole", "readOnly": true,
        "requestParameters": { "roleArn": format!("arn:aws:iam::123456789012:role/{role}"), "roleSessionName": format!("{role}-session") },
        "responseElements": { "credentials": { "accessKeyId": handed_out, "sessionToken": "the-token", "expiration": "Feb 3, 2026, 5:05:06 AM" } },
    });
    record.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    record
}

fn changed_by(event_id: &str, by: Value) -> Value {
    let mut record = create_group(event_id);
    record["userIdentity"] = by;
    record
}

#[test]
fn the_person_behind_a_chain_of_roles_outlives_a_kill() {
    let folder = folder();
    let trail = folder.path().join("trail.ndjson");
    let configuration = configuration(folder.path());
    let jane = create_group("any")["userIdentity"].clone();
    let mut jane = jane;
    jane["accessKeyId"] = json!("AKIAEXAMPLE");
    let lambda = json!({ "type": "AWSService", "invokedBy": "lambda.amazonaws.com" });
    add(&trail, &assume("assume-1", jane, "build", "ASIABUILD"));
    add(&trail, &assume("assume-2", session("build", "ASIABUILD"), "deploy", "ASIADEPLOY"));
    add(&trail, &assume("assume-3", lambda, "report", "ASIAREPORT"));

    let server = Server::serve(folder.path(), &configuration);
    server.wait_until("read", || server.metric("catchment_records_total", "skipped") as u64 == 3);
    assert!(server.all_events().is_empty(), "to take a role changes no asset");
    // The position of the source and what was remembered are one commit; a change after it proves that it is on disk.
    add(&trail, &create_group("sync"));
    server.wait_until("durable", || server.all_events().len() == 1);
    server.kill();

    add(&trail, &changed_by("by-deploy", session("deploy", "ASIADEPLOY")));
    add(&trail, &changed_by("by-report", session("report", "ASIAREPORT")));
    add(&trail, &changed_by("by-stranger", session("deploy", "ASIAOTHER")));
    let server = Server::serve(folder.path(), &configuration);
    server.wait_until("read", || server.all_events().len() == 4);
    let events = server.all_events();
    let attribution = |id: &str| {
        let event = events.iter().find(|event| event["id"] == format!("{id}:0")).unwrap();
        event["data"]["attribution"].clone()
    };

    let deploy = attribution("by-deploy");
    assert_eq!(deploy["assumed"]["chain"], json!(["arn:aws:iam::123456789012:role/build"]));
    assert_eq!(deploy["human"], json!({ "id": "jane", "how": "chain.userName" }));
    let report = attribution("by-report");
    assert_eq!(report["human"], Value::Null);
    assert_eq!(report["workload"]["kind"], "lambda_function");
    assert_eq!(report["workload"]["how"], "assumeRole");
    assert_eq!(report["workload"]["name"], "asset://aws/123456789012/eu-west-1/lambda/function/report-session");
    let stranger = attribution("by-stranger");
    assert_eq!((&stranger["human"], &stranger["assumed"]["chain"]), (&Value::Null, &json!([])));

    let of_jane = server.events("since=1970-01-01T00:00:00Z&until=0s&principal=jane");
    assert!(of_jane.iter().any(|event| event["id"] == "by-deploy:0"), "a person is found behind the roles");
}
