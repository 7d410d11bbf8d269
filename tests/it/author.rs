//! The tools of who writes rules, as they are used: in a folder of one's own.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::program::{Finished, catchment, finish};

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
