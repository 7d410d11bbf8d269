//! The command line as a shell sees it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use catchment::source::demo;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::support::program::catchment;
use crate::support::schema::assert_valid;
use crate::support::server::folder;

fn run(arguments: &[&str]) -> Output {
    catchment().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

fn lines(output: &[u8]) -> Vec<Value> {
    text(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn subjects(events: &[Value]) -> Vec<Value> {
    events.iter().map(|event| json!([event["id"], event["subject"]])).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn version_and_help_are_for_people() {
    let version = run(&["--version"]);
    assert_eq!(code(&version), 0);
    assert!(text(&version.stdout).starts_with(concat!("catchment ", env!("CARGO_PKG_VERSION"), " (commit ")));
    for arguments in [
        vec!["--help"],
        vec!["serve", "--help"],
        vec!["demo", "--help"],
        vec!["normalize", "--help"],
        vec!["check", "--help"],
    ] {
        let help = run(&arguments);
        assert_eq!(code(&help), 0);
        assert!(text(&help.stdout).contains("Examples:"), "{arguments:?}");
    }
}

#[test]
fn exit_codes() {
    let folder = folder();
    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, "data_dir = \"x\"\n[sources.trail.file]\npath = \"/var/log\"\npathh = \"y\"\n").unwrap();
    let wrong = wrong.to_str().unwrap();
    for (arguments, expected) in [
        (vec!["serve", "--no-such-flag"], 64),
        (vec!["serve", "--config", wrong], 64),
        (vec!["check", "--config", wrong], 64),
        (vec!["check", "--config", "/no/such/file.toml"], 64),
        (vec!["normalize", "/no/such/file.json"], 1),
        (vec!["normalize", "--omit", "nonsense", "-"], 64),
        (vec!["serve", "--ephemeral", "--listen", "192.0.2.1:80"], 1),
    ] {
        let output = run(&arguments);
        assert_eq!(code(&output), expected, "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty() || !output.stdout.is_empty(), "{arguments:?} says why");
    }
    let told = text(&run(&["check", "--config", wrong]).stdout) + &text(&run(&["serve", "--config", wrong]).stderr);
    for part in ["wrong.toml", "line 4", "sources.trail.file.pathh"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn the_default_configuration_is_one_that_check_accepts() {
    let folder = folder();
    let printed = run(&["check", "--print-default"]);
    assert_eq!(code(&printed), 0);
    let path = folder.path().join("default.toml");
    std::fs::write(&path, &printed.stdout).unwrap();
    let checked = run(&["check", "--config", path.to_str().unwrap()]);
    assert_eq!(code(&checked), 0, "{}{}", text(&checked.stdout), text(&checked.stderr));
    // No source is configured, which is worth a warning.
    assert_eq!(code(&run(&["check", "--deny-warnings", "--config", path.to_str().unwrap()])), 64);
}

#[test]
fn a_mistake_in_a_rule_names_file_line_and_key() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("aws")).unwrap();
    let rule = "service = \"x.amazonaws.com\"\n\n[events.CreateX]\naction = \"create\"\nasset = \"AWS::X::Y\"\nid = [\"no pointer\"]\n";
    std::fs::write(folder.path().join("aws/x.toml"), rule).unwrap();
    let normalizers = folder.path().to_str().unwrap();
    for arguments in [vec!["check", "--normalizers", normalizers], vec!["normalize", "--normalizers", normalizers, "-"]]
    {
        let output = run(&arguments);
        assert_eq!(code(&output), 64, "{arguments:?}");
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(told.contains("aws/x.toml") && told.contains("events.CreateX"), "{told}");
        assert!(told.contains("line 3") || told.contains("x.toml:3"), "{told}");
    }
}

#[test]
fn a_rule_of_ones_own_overrides_the_built_in_one() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("aws")).unwrap();
    let rule = "service = \"iam.amazonaws.com\"\n[events.CreateUser]\nskip = \"users are made elsewhere\"\n";
    std::fs::write(folder.path().join("aws/ours.toml"), rule).unwrap();
    let story = "fixtures/stories/intrusion";
    let output = run(&["normalize", "--explain", "--normalizers", folder.path().to_str().unwrap(), story]);
    let skipped = lines(&output.stdout).iter().any(|line| line["reason"] == "users are made elsewhere");
    assert!(skipped, "{}", text(&output.stdout));
}

/// One record in every wrapper that people have it in.
#[test]
fn records_are_found_however_they_are_wrapped() {
    let folder = folder();
    let records = demo::generate(3, 40);
    let values: Vec<Value> = records.iter().map(|record| serde_json::from_str(record).unwrap()).collect();
    let wrapped = |wrap: &dyn Fn(&Value) -> Value| {
        values.iter().map(|value| wrap(value).to_string()).collect::<Vec<_>>().join("\n")
    };
    let lookup: Vec<_> = values
        .iter()
        .map(|value| json!({ "EventId": value["eventID"], "CloudTrailEvent": value.to_string() }))
        .collect();
    let inputs = [
        ("lines.jsonl", records.join("\n").into_bytes()),
        ("records.json", json!({ "Records": values }).to_string().into_bytes()),
        ("pretty.json", serde_json::to_vec_pretty(&json!({ "Records": values })).unwrap()),
        ("array.json", json!(values).to_string().into_bytes()),
        ("records.json.gz", gzip(json!({ "Records": values }).to_string().as_bytes())),
        ("eventbridge.jsonl", wrapped(&|value| json!({ "version": "0", "detail-type": "AWS API Call via CloudTrail", "source": "aws.ec2", "detail": value })).into_bytes()),
        ("lookup.json", json!({ "Events": lookup, "NextToken": "x" }).to_string().into_bytes()),
    ];
    let mut expected = None;
    for (name, bytes) in inputs {
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let by_name = run(&["normalize", path.to_str().unwrap()]);
        assert_eq!(code(&by_name), 0, "{name}: {}", text(&by_name.stderr));
        let events = lines(&by_name.stdout);
        events.iter().for_each(assert_valid);
        let found = subjects(&events);
        assert!(found.len() > 30, "{name}: {} events", found.len());
        assert_eq!(*expected.get_or_insert_with(|| found.clone()), found, "{name}");
        assert_eq!(subjects(&lines(&piped(&["normalize", "-"], &bytes).stdout)), found, "{name} through a pipe");
    }
    // The folder: every file holds the same records, so all but the first are duplicates.
    let all = run(&["normalize", "--explain", folder.path().to_str().unwrap()]);
    let told = lines(&all.stdout);
    assert_eq!(told.len(), 7 * values.len(), "a line for every record");
    for line in &told {
        let keys: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["events", "file", "index", "outcome", "reason", "rule"]);
        let outcome = line["outcome"].as_str().unwrap();
        assert!(["changes", "skipped", "duplicate"].contains(&outcome), "{line}");
        assert_eq!(outcome == "changes", !line["events"].as_array().unwrap().is_empty(), "{line}");
        assert_eq!(outcome == "changes", line["reason"].is_null(), "{line}");
    }
}

fn piped(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = catchment()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    output
}

#[test]
fn members_can_be_left_out() {
    let output = run(&["normalize", "--omit", "raw,attribution.user_agent", "fixtures/stories/intrusion"]);
    for event in lines(&output.stdout) {
        assert!(event["data"].get("raw").is_none() && event["data"]["attribution"].get("user_agent").is_none());
        assert!(event["data"].get("configuration").is_some() && event["id"].is_string());
    }
}

#[test]
fn a_reader_that_has_enough_ends_it_quietly() {
    let folder = folder();
    let path = folder.path().join("trail.jsonl");
    std::fs::write(&path, demo::generate(4, 5_000).join("\n")).unwrap();
    let script = format!(
        "{} normalize {} | head -n 1 > /dev/null; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_catchment"),
        path.display()
    );
    let output = Command::new("bash").arg("-c").arg(script).output().unwrap();
    assert_eq!((text(&output.stdout).trim(), text(&output.stderr).trim()), ("0", ""));
}

/// Memory does not grow with the input: a stream without end, as far as the program can tell.
#[test]
fn memory_stays_bounded_on_a_long_input() {
    const MEGABYTES: usize = 150;
    let mut child = catchment().args(["normalize", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (id, stdout) = (child.id(), child.stdout.take().unwrap());
    // Reads, mostly, as in real trails, in one endless document on one line.
    let writer = std::thread::spawn(move || {
        let records = demo::generate(6, 20);
        let change = records.iter().find(|record| record.contains("\"CreateVpc\"")).unwrap();
        let mut record: Value = serde_json::from_str(change).unwrap();
        record["readOnly"] = json!(true);
        let chunk = format!("{record},").repeat(500);
        stdin.write_all(b"{\"Records\":[").unwrap();
        for _ in 0..MEGABYTES * 1_000_000 / chunk.len() {
            stdin.write_all(chunk.as_bytes()).unwrap();
        }
        let resident = resident_megabytes(id);
        record["readOnly"] = json!(false);
        stdin.write_all(format!("{record}]}}").as_bytes()).unwrap();
        resident
    });
    let events = BufReader::new(stdout).lines().count();
    let resident = writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(events, 1, "the last record is a change");
    assert!(resident < 100, "{resident} MB resident after {MEGABYTES} MB");
}

fn resident_megabytes(process: u32) -> usize {
    let status = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

#[test]
fn a_secret_is_taken_by_reference_and_never_printed() {
    let folder = folder();
    let path = folder.path().join("catchment.toml");
    let literal = "[sources.live.aws_lookup_events]\nregions = [\"eu-west-1\"]\naccess_key_id = \"env:TEST_KEY\"\nsecret_access_key = \"planted-secret\"\n";
    std::fs::write(&path, literal).unwrap();
    let output = catchment().args(["check", "--config"]).arg(&path).env("TEST_KEY", "AKIAEXAMPLE").output().unwrap();
    let told = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(code(&output), 64);
    assert!(
        told.contains("sources.live.aws_lookup_events.secret_access_key") && !told.contains("planted-secret"),
        "{told}"
    );
    std::fs::write(&path, literal.replace("planted-secret", "env:TEST_SECRET")).unwrap();
    let output = catchment()
        .args(["check", "--config"])
        .arg(&path)
        .env("TEST_KEY", "AKIAEXAMPLE")
        .env("TEST_SECRET", "planted-secret")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0);
    assert!(!(text(&output.stdout) + &text(&output.stderr)).contains("planted-secret"));
}
