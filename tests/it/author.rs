//! The tools of who writes rules, as they are used: in a folder of one's own.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::program::{Finished, catchment, finish};
use crate::support::server::Server;
use crate::support::trail::add;

const RULES: &str = r#"
service = "pipes.example.amazonaws.com"

[assets."Ours::Pipe"]
type = "compute.function"
name = "pipes/pipe/{id}"

[events.OpenPipe]
action = "create"
asset  = "Ours::Pipe"
id     = "/requestParameters/pipe"
apply  = [{ op = "replace", from = "/requestParameters" }]
"#;

/// A folder `rules` with a case of its only rule.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "rules/aws/pipes.toml", RULES);
    let envelope = json!({ "eventSource": "pipes.example.amazonaws.com", "eventName": "OpenPipe", "awsRegion": "eu-west-1",
        "recipientAccountId": "111122223333", "userIdentity": { "type": "Root" } });
    let case = json!({ "record": { "requestParameters": { "pipe": "orders", "size": 3 } },
        "near": [{ "why": "no pipe named", "unset": ["/requestParameters/pipe"], "expect": "quarantined: no asset named" }] });
    write(folder.path(), "rules/fixtures/aws/pipes/_envelope.json", &envelope.to_string());
    write(folder.path(), "rules/fixtures/aws/pipes/OpenPipe.json", &case.to_string());
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn run(folder: &Path, words: &str) -> Finished {
    finish(catchment().args(words.split(' ')).current_dir(folder), b"")
}

#[test]
fn a_folder_of_rules_is_run_over_its_fixtures() {
    let folder = folder();
    let test = |words: &str| run(folder.path(), words);
    let unwritten = test("test --normalizers rules");
    assert_eq!(unwritten.code, Some(64), "{}", unwritten.stdout);
    assert!(unwritten.stdout.starts_with("FAIL aws/pipes/OpenPipe (rules/fixtures/aws/pipes/OpenPipe.json)\n"));
    assert!(unwritten.stderr.contains("1 of 1 cases failed"), "{}", unwritten.stderr);

    let updated = test("test --normalizers rules --update");
    assert_eq!((updated.code, updated.stderr.as_str()), (Some(0), ""), "{}", updated.stdout);
    let expected: Value = serde_json::from_slice(
        &fs::read(folder.path().join("rules/fixtures/aws/pipes/OpenPipe.expected.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(expected[0]["configuration"], json!({ "pipe": "orders", "size": 3 }));
    assert_eq!(test("test --normalizers rules pipes/Open").stdout, "rules/fixtures: 1 of 1 cases passed\n");

    let rules = fs::read_to_string(folder.path().join("rules/aws/pipes.toml")).unwrap();
    write(folder.path(), "rules/aws/pipes.toml", &rules.replace("action = \"create\"", "action = \"update\""));
    let changed = test("test --normalizers rules");
    assert_eq!(changed.code, Some(64));
    assert!(changed.stdout.contains("- /0/action: \"create\"\n    + /0/action: \"update\"\n"), "{}", changed.stdout);
}

#[test]
fn nothing_to_test_is_a_mistake() {
    let folder = folder();
    for (words, expected) in [
        ("test --normalizers rules RunInstances", "no case of rules/fixtures has RunInstances in its name"),
        ("test", "no case in fixtures"),
        ("test --fixtures nowhere", "no case in nowhere"),
    ] {
        let finished = run(folder.path(), words);
        assert_eq!(finished.code, Some(64), "{words}");
        assert!(finished.stderr.contains(expected), "{words}: {}", finished.stderr);
    }
}

#[test]
fn an_association_may_hang_on_a_condition_and_lead_elsewhere() {
    let folder = folder();
    let associations = r#"
associations = [
  { relation = "uses", type = { by = "id_prefix" }, id = "/requestParameters/parts" },
  { relation = "assumes", type = "AWS::IAM::Role", id = "/requestParameters/role", account = "/requestParameters/owner" },
  { relation = "in", type = "AWS::EC2::VPC", id = "/requestParameters/vpc", region = "/requestParameters/home", when = { "/requestParameters/mode" = "private" } },
]
"#;
    write(folder.path(), "rules/aws/pipes.toml", &(RULES.to_owned() + associations));
    let record = |mode: &str| {
        json!({ "eventSource": "pipes.example.amazonaws.com", "eventName": "OpenPipe", "awsRegion": "eu-west-1",
            "eventTime": "2024-05-06T07:08:09Z", "recipientAccountId": "111122223333",
            "requestParameters": { "pipe": mode, "mode": mode, "parts": ["subnet-0a1b2c3d", "sg-0a1b2c3d", "unknown-1"],
                "role": "deployer", "owner": "444455556666", "vpc": "vpc-0a1b2c3d", "home": "us-east-1" } })
    };
    write(folder.path(), "trail.json", &format!("{}\n{}", record("private"), record("public")));
    let events = run(folder.path(), "normalize --normalizers rules trail.json").json_lines();
    let told = |event: &Value| -> Vec<String> {
        let associations = event["data"]["associations"].as_array().unwrap();
        let by_rule = associations.iter().filter(|told| told.get("at").is_none());
        by_rule
            .map(|told| format!("{} {}", told["relation"].as_str().unwrap(), told["name"].as_str().unwrap()))
            .collect()
    };
    let everywhere = [
        "uses asset://aws/111122223333/eu-west-1/ec2/subnet/subnet-0a1b2c3d",
        "uses asset://aws/111122223333/eu-west-1/ec2/security-group/sg-0a1b2c3d",
        "assumes asset://aws/444455556666/-/iam/role/deployer",
    ];
    assert_eq!(told(&events[1]), everywhere);
    assert_eq!(told(&events[0])[..3], everywhere);
    assert_eq!(told(&events[0])[3..], ["in asset://aws/111122223333/us-east-1/ec2/vpc/vpc-0a1b2c3d"]);
}

#[test]
fn a_hangup_takes_new_rules_when_they_pass_and_keeps_the_old_ones_when_not() {
    let folder = folder();
    let place = folder.path();
    assert_eq!(run(place, "test --normalizers rules --update").code, Some(0));
    let trail = place.join("trail.ndjson");
    let open_pipe = |pipe: &str| {
        let record = json!({ "eventSource": "pipes.example.amazonaws.com", "eventName": "OpenPipe", "awsRegion": "eu-west-1",
            "eventTime": "2024-05-06T07:08:09Z", "eventID": format!("pipe-{pipe}"), "recipientAccountId": "111122223333",
            "requestParameters": { "pipe": pipe } });
        add(&trail, &record);
    };
    open_pipe("one");
    let config = format!(
        "data_dir = {:?}\n[normalizers]\ndir = {:?}\n[sources.trail.file]\npath = {trail:?}\npoll_millis = 10\n",
        place.join("data"),
        place.join("rules"),
    );
    let server = Server::serve(place, &config);
    server.wait_until("the first event", || server.all_events().len() == 1);
    let reloads = |outcome: &str| server.metric("catchment_rule_reloads_total", &format!("outcome=\"{outcome}\""));

    // Another asset type: the fixture no longer holds.
    let other = RULES.replace("\"compute.function\"", "\"compute.instance\"");
    write(place, "rules/aws/pipes.toml", &other);
    server.signal("HUP");
    server.wait_until("the refusal", || reloads("failure") == 1.0);
    open_pipe("two");
    server.wait_until("the second event", || server.all_events().len() == 2);

    assert_eq!(run(place, "test --normalizers rules --update").code, Some(0));
    server.signal("HUP");
    server.wait_until("the reload", || reloads("success") == 1.0);
    open_pipe("three");
    server.wait_until("the third event", || server.all_events().len() == 3);
    let events = server.all_events();
    let told: Vec<_> = events.iter().map(|event| event["data"]["asset"]["type"].as_str().unwrap()).collect();
    assert_eq!(told, ["compute.function", "compute.function", "compute.instance"]);
    let version = |index: usize| &events[index]["data"]["normalizer"]["version"];
    assert_eq!(version(0), version(1));
    assert_ne!(version(1), version(2), "events tell which rules made them");
    assert!(server.terminate().success());
}

const TRAIL: &str = "trail.ndjson";

/// A trail of what the rules know, what they do not, and what is none of theirs.
fn trail(folder: &Path) {
    let record = |service: &str, name: &str, id: &str, request: Value| {
        json!({ "eventSource": service, "eventName": name, "eventID": id, "awsRegion": "eu-west-1",
            "eventTime": "2024-05-06T07:08:09Z", "recipientAccountId": "111122223333",
            "requestParameters": request, "userAgent": "Terraform/1.9.0" })
    };
    let mut refused = record("pipes.example.amazonaws.com", "OpenPipe", "refused", json!({ "pipe": "x" }));
    refused["errorCode"] = json!("AccessDenied");
    let records = [
        record("pipes.example.amazonaws.com", "OpenPipe", "open-1", json!({ "pipe": "orders", "key": "vpc-0a1b2c3d" })),
        record("pipes.example.amazonaws.com", "ClosePipe", "close-1", json!({ "pipeName": "orders" })),
        record("pipes.example.amazonaws.com", "ClosePipe", "close-2", json!({ "pipeName": "bills" })),
        record("pipes.example.amazonaws.com", "OpenPipe", "unnamed", json!({ "size": 3 })),
        refused,
    ];
    write(folder, TRAIL, &records.map(|record| record.to_string()).join("\n"));
}

#[test]
fn a_record_is_explained_source_by_source() {
    let folder = folder();
    let more = "redact = [\"/requestParameters/secret\"]\nwhen = { \"/requestParameters/size\" = [\"3\", \"4*\"], \"/requestParameters/unit\" = [\"cm\", \"!\"] }\n";
    let rules = format!(
        "{RULES}\n[[events.ShapePipe]]\naction = \"update\"\nasset = \"Ours::Pipe\"\nid = [\"/requestParameters/name\", \"/requestParameters/pipe | lower\"]\n{more}\
         apply = [{{ op = \"set\", at = \"/secret\", from = \"/requestParameters/secret\" }}, {{ op = \"set\", at = \"/color\", from = \"/requestParameters/color\" }}]\n\
         [[events.ShapePipe]]\nskip = \"too large\"\nwhen = {{ \"/requestParameters/size\" = \"9\" }}\n"
    );
    write(folder.path(), "rules/aws/pipes.toml", &rules);
    let record = json!({ "eventSource": "pipes.example.amazonaws.com", "eventName": "ShapePipe", "eventID": "shape-1",
        "awsRegion": "eu-west-1", "eventTime": "2024-05-06T07:08:09Z", "recipientAccountId": "111122223333", "userAgent": "Terraform/1.9.0",
        "requestParameters": { "pipe": "Orders", "size": 3, "secret": "swordfish" } });
    write(folder.path(), "record.json", &record.to_string());

    let explained = run(folder.path(), "explain --normalizers rules --json record.json");
    assert_eq!(explained.code, Some(0), "{}", explained.stderr);
    let told = &explained.json_lines()[0];
    assert_eq!(told["outcome"], "changes: 1 by aws/pipes/ShapePipe");
    let [applies, other] = told["rules"].as_array().unwrap().as_slice() else { panic!("two rules: {told:#}") };
    assert_eq!(
        applies["id"],
        json!([{ "source": "/requestParameters/name", "found": null }, { "source": "/requestParameters/pipe | lower", "found": "orders" }])
    );
    assert_eq!(applies["when"][0]["expected"], "3 or 4*");
    assert_eq!(
        applies["when"][1],
        json!({ "found": [{ "source": "/requestParameters/unit", "found": null }], "expected": "cm or ! (absent)", "holds": true })
    );
    let inches = record.to_string().replace("\"size\":3", "\"size\":3,\"unit\":\"inch\"");
    write(folder.path(), "inches.json", &inches);
    let other_unit = &run(folder.path(), "explain --normalizers rules --json inches.json").json_lines()[0];
    assert_eq!(
        (&other_unit["outcome"], &other_unit["rules"][0]["when"][1]["holds"]),
        (&json!("skipped: no rule applies"), &json!(false))
    );
    assert_eq!(applies["apply"][0]["from"][0]["found"], "[redacted]");
    assert_eq!(applies["apply"][0]["result"], "applied");
    assert_eq!(applies["apply"][1]["result"], "left out: nothing found");
    assert_eq!(other["result"], "does not apply: a condition does not hold");
    assert_eq!(told["events"][0]["attribution"]["method"], "terraform");

    let text = run(folder.path(), "explain --normalizers rules record.json").stdout;
    assert!(text.contains("outcome: changes: 1 by aws/pipes/ShapePipe\n"), "{text}");
    assert!(
        text.contains("1. /requestParameters/name → (nothing)\n")
            && text.contains("2. /requestParameters/pipe | lower → orders\n"),
        "{text}"
    );
    assert!(!text.contains("swordfish") && !explained.stdout.contains("swordfish"), "{text}");
}

#[test]
fn one_record_of_a_trail_is_explained_by_its_id() {
    let folder = folder();
    trail(folder.path());
    let explain = |id: &str| {
        let finished = run(folder.path(), &format!("explain --normalizers rules --json --event {id} {TRAIL}"));
        assert_eq!(finished.code, Some(0), "{id}: {}", finished.stderr);
        let [told] = finished.json_lines().try_into().unwrap();
        told
    };
    assert_eq!(explain("refused")["outcome"], "skipped: failed call");
    assert_eq!(explain("unnamed")["outcome"], "quarantined: no_asset_named");
    assert_eq!(explain("unnamed")["rules"][0]["id"], json!([{ "source": "/requestParameters/pipe", "found": null }]));
    assert!(explain("close-1")["why"].as_str().unwrap().starts_with("no rule for this call"));
    let association = &explain("open-1")["events"][0]["associations"][0];
    assert_eq!((&association["relation"], &association["at"]), (&json!("in"), &json!("/key")));
    assert_eq!(run(folder.path(), &format!("explain --event nothing {TRAIL}")).code, Some(1));
}

#[test]
fn coverage_counts_every_record() {
    let folder = folder();
    trail(folder.path());
    let counted = run(folder.path(), &format!("coverage --normalizers rules --json {TRAIL}"));
    assert_eq!(counted.code, Some(0), "{}", counted.stderr);
    let told = &counted.json_lines()[0];
    assert_eq!(told["records"], 5);
    assert_eq!(told["outcomes"], json!({ "changes": 3, "quarantined": 1, "skipped": 1 }));
    let service = "pipes.example.amazonaws.com";
    assert_eq!(
        told["unmapped"],
        json!([{ "service": service, "name": "ClosePipe", "rule": told["unmapped"][0]["rule"], "count": 2 }])
    );
    assert_eq!(
        told["quarantined"],
        json!([{ "code": "no_asset_named", "service": service, "name": "OpenPipe", "count": 1 }])
    );
    assert_eq!(told["skipped"], json!({ "failed call": 1 }));
    let unmatched = told["unmatched"].as_array().unwrap();
    assert!(unmatched.contains(&json!("aws/ec2/RunInstances")) && !unmatched.contains(&json!("aws/pipes/OpenPipe")));

    let text = run(folder.path(), &format!("coverage --normalizers rules {TRAIL}")).stdout;
    assert!(text.starts_with("5 records: 3 changes, 1 quarantined, 1 skipped\n"), "{text}");
    assert!(text.contains("2  pipes.example.amazonaws.com ClosePipe aws/generic/"), "{text}");
}

#[test]
fn the_tutorial_does_what_it_says() {
    let page = fs::read_to_string("docs/writing-rules.md").unwrap();
    let blocks = |language: &str| -> Vec<String> {
        let fence = format!("```{language}\n");
        page.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
    };
    let ([record, envelope, case], [rules]) =
        (blocks("json").try_into().unwrap(), <[String; 1]>::try_from(blocks("toml")).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut whole: Value = serde_json::from_str(&record).unwrap();
    whole["eventTime"] = json!("2024-05-06T07:08:09Z");
    write(folder.path(), "record.json", &whole.to_string());
    write(folder.path(), "rules/aws/grafana.toml", &rules);
    write(folder.path(), "rules/fixtures/aws/grafana/_envelope.json", &envelope);
    write(folder.path(), "rules/fixtures/aws/grafana/CreateWorkspace.json", &case);
    for words in ["test --normalizers rules --update", "test --normalizers rules", "check --normalizers rules"] {
        let finished = run(folder.path(), words);
        assert_eq!(finished.code, Some(0), "{words}: {}{}", finished.stdout, finished.stderr);
    }
    let event = &run(folder.path(), "normalize record.json --normalizers rules").json_lines()[0];
    let data = &event["data"];
    assert_eq!(data["asset"]["name"], "asset://aws/111122223333/eu-west-1/grafana/workspaces/g-0a1b2c3d4e");
    assert_eq!((&data["configuration_state"], &data["asset"]["display_name"]), (&json!("complete"), &json!("ops")));
    let role = json!({ "relation": "assumes", "type": "identity.role", "id": "grafana",
        "name": "asset://aws/111122223333/-/iam/role/grafana", "at": "/workspaceRoleArn" });
    assert_eq!(data["associations"], json!([role]), "the role's ARN becomes an association by itself");
}
