//! The command line as a user meets it: exit codes, what is printed and what is not, every kind of input.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use catchment::source::demo;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::support::lookup_events_server::{LookupEventsServer, Mishap};
use crate::support::program::{Finished, catchment, finish, run};
use crate::support::server::{Server, folder};
use crate::support::trail::{create_group, events_of, ids};

/// Runs `catchment` in a folder without a configuration, with these words and variables.
fn run_in(folder: &Path, words: &str, variables: &[(&str, &str)]) -> Finished {
    let mut command = catchment();
    command.args(words.split_whitespace()).envs(variables.iter().copied()).current_dir(folder);
    finish(&mut command, b"")
}

#[test]
fn exit_codes_tell_success_failure_and_mistakes_apart() {
    let folder = folder();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    write("good.toml", "data_dir = \"data\"\n");
    write("bad.toml", "data_dirr = \"data\"\n");
    write("record.json", &create_group("first").to_string());
    fs::create_dir(folder.path().join("rules")).unwrap();
    for (words, variables, code, told) in [
        ("--version", &[][..], 0, ""),
        ("serve --help", &[], 0, ""),
        ("check --config good.toml", &[], 0, ""),
        ("normalize record.json", &[], 0, ""),
        ("normalize", &[], 0, ""),
        ("normalize missing.json", &[], 1, "read missing.json: No such file"),
        (&format!("serve --ephemeral --listen {taken}"), &[], 1, &format!("listen on {taken}: Address already in use")),
        (&format!("demo --listen {taken}"), &[], 1, "Address already in use"),
        ("serve --data-dir record.json", &[], 64, "data_dir: record.json is not a folder"),
        ("", &[], 64, "Usage:"),
        ("sevre", &[], 64, "unrecognized subcommand 'sevre'"),
        ("serve --listen localhost", &[], 64, "is not an IP address and port"),
        ("serve --config bad.toml", &[], 64, "bad.toml, line 1: data_dirr: unknown key (did you mean data_dir?)"),
        ("serve --config missing.toml", &[], 64, "read configuration missing.toml: No such file"),
        ("check --config bad.toml", &[], 64, "1 error"),
        ("check --config good.toml --deny-warnings", &[], 64, "--deny-warnings is given"),
        ("check", &[("CATCHMENT_HTTP__MAX_STREAMS", "many")], 64, "1 error"),
        ("normalize record.json", &[("CATCHMENT_LOG", "loud,,=")], 64, "CATCHMENT_LOG"),
        ("normalize --normalizers missing record.json", &[], 64, "missing"),
        ("normalize --omit rawr record.json", &[], 64, "rawr"),
    ] {
        let finished = run_in(folder.path(), words, variables);
        assert_eq!(finished.code, Some(code), "catchment {words}: {}", finished.stderr);
        assert!(finished.stderr.contains(told), "catchment {words}: {}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "catchment {words}: {}", finished.stderr);
        if code == 0 {
            assert_eq!(finished.stderr, "", "catchment {words}");
        } else {
            assert_ne!(finished.stderr, "", "catchment {words}");
        }
    }
}

/// Without our own time.
fn events(finished: &Finished) -> Vec<Value> {
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    let mut events = finished.json_lines();
    for event in &mut events {
        event["data"].as_object_mut().unwrap().remove("observed").unwrap();
    }
    events
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn normalize_takes_records_however_they_come() {
    let texts = demo::generate(3, 60);
    let records: Vec<Value> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let lines = texts.join("\n");
    let document = |records: &[Value]| json!({ "Records": records }).to_string();
    let bridged = |record: &Value| {
        let event = json!({
            "version": "0", "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718", "source": "aws.ec2", "account": "111122223333",
            "detail-type": "AWS API Call via CloudTrail", "region": "eu-west-1", "resources": [], "detail": record,
        });
        event.to_string() + "\n"
    };
    let looked_up = |record: &Value| {
        json!({
            "EventId": record["eventID"], "EventName": record["eventName"], "ReadOnly": record["readOnly"].to_string(),
            "EventTime": 1_767_225_600.0, "EventSource": record["eventSource"], "Username": "jane", "Resources": [],
            "CloudTrailEvent": record.to_string(),
        })
    };
    let answer = json!({ "Events": records.iter().map(looked_up).collect::<Vec<_>>(), "NextToken": "x" });

    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("tree/2026/01")).unwrap();
    fs::write(path("tree/2026/01/a.json"), document(&records[..20])).unwrap();
    fs::write(path("tree/2026/01/b.json.gz"), gzip(document(&records[20..40]).as_bytes())).unwrap();
    fs::write(path("tree/2026/c.ndjson"), texts[40..].join("\n")).unwrap();
    fs::write(path("tree/README"), "no records").unwrap();
    for (name, bytes) in [
        ("lines.ndjson", lines.clone().into_bytes()),
        ("lines.gz", gzip(lines.as_bytes())),
        ("document.json", document(&records).into_bytes()),
        ("document.json.gz", gzip(document(&records).as_bytes())),
        ("indented.json", serde_json::to_vec_pretty(&json!({ "Records": records })).unwrap()),
        ("array.json", json!(records).to_string().into_bytes()),
        ("concatenated.json", texts.concat().into_bytes()),
        ("eventbridge.ndjson", records.iter().map(bridged).collect::<String>().into_bytes()),
        ("lookup_events.json", serde_json::to_vec_pretty(&answer).unwrap()),
    ] {
        fs::write(path(name), bytes).unwrap();
    }

    let expected = events(&run([OsStr::new("normalize"), path("lines.ndjson").as_os_str()]));
    assert!(expected.len() > 30, "{}", expected.len());
    for name in [
        "tree",
        "lines.gz",
        "document.json",
        "document.json.gz",
        "indented.json",
        "array.json",
        "concatenated.json",
        "eventbridge.ndjson",
        "lookup_events.json",
    ] {
        let found = events(&run([OsStr::new("normalize"), path(name).as_os_str()]));
        assert_eq!(ids(&found), ids(&expected), "{name}");
        // What a JSON parser of the test's own wrote anew has its numbers and members otherwise.
        assert!(found == expected, "{name}: the same events");
    }
    for (arguments, input) in [
        (&["normalize"][..], lines.as_bytes()),
        (&["normalize", "-"], &gzip(document(&records).as_bytes())),
        (&["normalize", "--type-prefix", "io.catchment", "-"], answer.to_string().as_bytes()),
    ] {
        assert!(events(&finish(catchment().args(arguments), input)) == expected, "{arguments:?}");
    }
    let (first, last) = (path("first.json"), path("last.json"));
    fs::write(&first, document(&records[..30])).unwrap();
    fs::write(&last, document(&records[30..])).unwrap();
    let found = events(&run([OsStr::new("normalize"), first.as_os_str(), last.as_os_str()]));
    assert!(found == expected, "files share one inventory");
}

#[test]
fn explain_accounts_for_every_record() {
    let mut failed = create_group("failed");
    failed["errorCode"] = json!("Client.UnauthorizedOperation");
    let mut read = create_group("read");
    read["eventName"] = json!("DescribeInstances");
    read["readOnly"] = json!(true);
    let lines = [
        create_group("first").to_string(),
        read.to_string(),
        failed.to_string(),
        create_group("first").to_string(),
        r#"{"eventVersion":"1.11","eventID":"no more"}"#.to_owned(),
        "not a record".to_owned(),
        create_group("second").to_string(),
        r#"{"eventVersion":"#.to_owned(),
    ];
    let finished = finish(catchment().args(["normalize", "--explain", "--omit", "raw"]), lines.join("\n").as_bytes());
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    let explained = finished.json_lines();
    let told: Vec<_> = explained
        .iter()
        .map(|line| {
            let members: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(members, ["events", "file", "index", "outcome", "reason", "rule"], "{line}");
            let ids = ids(line["events"].as_array().unwrap());
            let reason = line["reason"].as_str().map(|reason| reason.split([':', '(']).next().unwrap().trim());
            json!([line["file"], line["index"], line["outcome"], reason, line["rule"], ids])
        })
        .collect();
    let rule = "aws/ec2/CreateSecurityGroup";
    let expected = [
        json!(["-", 0, "changes", null, rule, ["first:0"]]),
        json!(["-", 1, "skipped", "read-only call", null, []]),
        json!(["-", 2, "skipped", "failed call", null, []]),
        json!(["-", 3, "duplicate", "event id first was seen before", null, []]),
        json!(["-", 4, "quarantined", "unknown_format", null, []]),
        json!(["-", 5, "quarantined", "not_a_record", null, []]),
        json!(["-", 6, "changes", null, rule, ["second:0"]]),
        json!(["-", 7, "quarantined", "truncated", null, []]),
    ];
    assert_eq!(told, expected);
    assert!(explained.iter().all(|line| (line["outcome"] == "changes") == line["reason"].is_null()));
    assert_eq!(events_of(&explained)[0]["data"].get("raw"), None, "--omit holds here too");
    let omit = ["normalize", "--omit", "raw,attribution.user_agent"];
    let event = finish(catchment().args(omit), lines[0].as_bytes()).json_lines().remove(0);
    assert!(event["data"].get("raw").is_none() && event["data"]["attribution"].get("user_agent").is_none());
    assert!(event["data"]["configuration"].is_object() && event["data"]["attribution"]["ip"].is_string());

    let plain = finish(catchment().arg("normalize"), lines.join("\n").as_bytes());
    assert_eq!(ids(&plain.json_lines()), ["first:0", "second:0"]);
    assert!(plain.stderr.contains("records=3") && plain.stderr.contains("--explain"), "{}", plain.stderr);
}

/// Resident memory of a process at its highest, in MiB.
fn highest_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// The memory that a single record takes: the program's own and that of its rules.
fn memory_for_one(record: &str) -> u64 {
    let mut child = catchment().arg("normalize").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    // Enough that the answer begins before the end, and no more than the pipes hold.
    let copies = 20;
    for number in 0..copies {
        let line = record.replacen("\"eventID\":\"", &format!("\"eventID\":\"{number:04}"), 1) + "\n";
        stdin.write_all(line.as_bytes()).unwrap();
    }
    stdin.flush().unwrap();
    let mut event = String::new();
    stdout.read_line(&mut event).unwrap();
    let memory = highest_memory(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    memory
}

#[test]
fn a_stream_of_any_length_takes_the_same_memory() {
    const STREAM_BYTES: usize = 200 << 20;
    /// Beside the program and its rules: what a single record takes.
    const MOST_MIB: u64 = 48;
    /// The ids of the records, by which duplicates are told, and what changed lately, of which 12 MiB are kept.
    const GROWTH_MIB: u64 = 28;
    let (reads, changes): (Vec<_>, Vec<_>) =
        demo::generate(5, 4_000).into_iter().partition(|record| record.contains("\"readOnly\":true"));
    let id = |record: &String| serde_json::from_str::<Value>(record).unwrap()["eventID"].as_str().unwrap().to_owned();
    // Most of a trail is reads.
    let mix: Vec<_> = changes.iter().take(200).flat_map(|change| reads.iter().take(19).chain([change])).collect();
    let mix: Vec<_> = mix.into_iter().map(|record| (record, id(record))).collect();

    let mut child = catchment().arg("normalize").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let process = child.id();
    let mut stdin = child.stdin.take().unwrap();
    let stdout = BufReader::with_capacity(1 << 20, child.stdout.take().unwrap());
    let one = memory_for_one(&changes[0]);
    let events = std::thread::spawn(move || stdout.split(b'\n').map(Result::unwrap).count());
    let (mut written, mut number, mut early) = (0, 0_u32, None);
    for (record, id) in mix.iter().cycle() {
        let line = record.replacen(id.as_str(), &format!("{number:08}{}", &id[8..]), 1) + "\n";
        stdin.write_all(line.as_bytes()).unwrap();
        written += line.len();
        number += 1;
        if written > STREAM_BYTES / 10 && early.is_none() {
            early = Some(highest_memory(process));
        }
        if written > STREAM_BYTES {
            break;
        }
    }
    let late = highest_memory(process);
    drop(stdin);
    let status = child.wait().unwrap();
    let events = events.join().unwrap();
    assert!(status.success());
    assert!(events >= number as usize / 20, "{events} events of {number} records");
    let early = early.unwrap();
    assert!(late <= one + MOST_MIB, "{late} MiB, {one} MiB for one record");
    assert!(late <= early + GROWTH_MIB, "{early} MiB after a tenth, {late} MiB in the end");
}

#[test]
fn a_reader_that_has_enough_ends_it_quietly() {
    let folder = folder();
    let file = folder.path().join("trail.ndjson");
    fs::write(&file, demo::generate(7, 400).join("\n")).unwrap();
    for explain in ["", "--explain"] {
        let script = format!("\"$0\" normalize {explain} \"$1\" | head -n 2; echo \"${{PIPESTATUS[0]}}\"");
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(script).arg(catchment().get_program()).arg(&file);
        let finished = finish(&mut bash, b"");
        let lines: Vec<_> = finished.stdout.lines().collect();
        assert_eq!((lines.len(), lines[2], finished.stderr.as_str()), (3, "0", ""), "{explain}");
        assert!(lines[..2].iter().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{explain}");
    }
}

#[test]
fn the_printed_default_configuration_can_be_used() {
    let folder = folder();
    let printed = run(["check", "--print-default"]);
    assert_eq!(printed.code, Some(0));
    let path = folder.path().join("catchment.toml");
    fs::write(&path, &printed.stdout).unwrap();
    let checked = run_in(folder.path(), "check --config catchment.toml", &[]);
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{}", checked.stdout);
    assert!(checked.stdout.ends_with("catchment.toml: no errors, 1 warning\n"), "{}", checked.stdout);
    assert_eq!(
        run_in(folder.path(), "check", &[]).stdout,
        checked.stdout.replace("catchment.toml:", "./catchment.toml:")
    );
    let mut serve = catchment();
    serve.args(["serve", "--listen", "127.0.0.1:0"]).current_dir(folder.path());
    let server = Server::start(serve);
    assert!(server.terminate().success());
    assert!(folder.path().join("catchment-data").is_dir());
}

#[test]
fn mistakes_in_the_configuration_name_file_line_and_key() {
    let folder = folder();
    fs::write(
        folder.path().join("catchment.toml"),
        "data_dir = \"x\"\n\n[http]\nheartbeat_sec = 5\n\n[sources.trail.file]\npath = \"/\"\nfolow = false\n",
    )
    .unwrap();
    for command in ["check --config catchment.toml", "serve --config catchment.toml"] {
        let finished = run_in(folder.path(), command, &[]);
        assert_eq!(finished.code, Some(64), "{command}");
        let told = finished.stdout + &finished.stderr;
        for mistake in [
            "catchment.toml, line 4: http.heartbeat_sec: unknown key (did you mean heartbeat_secs?)",
            "catchment.toml, line 8: sources.trail.file.folow: unknown key (did you mean follow?)",
        ] {
            assert!(told.contains(mistake), "{command}: {told}");
        }
    }
    assert!(!folder.path().join("x").exists(), "nothing was begun");
}

#[test]
fn a_mistake_in_a_rule_names_file_line_and_key() {
    let folder = folder();
    let rules = folder.path().join("rules");
    fs::create_dir_all(rules.join("aws")).unwrap();
    fs::write(folder.path().join("record.json"), create_group("first").to_string()).unwrap();
    let rule = "service = \"ec2.amazonaws.com\"\n\n[events.CreateSecurityGroup]\naction = \"create\"\n\
                asset = \"AWS::EC2::SecurityGroup\"\nid = [\"/responseElements/groupId | shout\"]\n";
    fs::write(rules.join("aws/ours.toml"), rule).unwrap();
    for words in [
        "normalize --normalizers rules record.json",
        "check --normalizers rules",
        "serve --ephemeral --listen 127.0.0.1:0 --normalizers rules",
    ] {
        let finished = run_in(folder.path(), words, &[]);
        assert_eq!(finished.code, Some(64), "{words}: {}", finished.stderr);
        let told = finished.stdout + &finished.stderr;
        let place = ["aws/ours.toml, line 6", "aws/ours.toml:6"];
        assert!(place.iter().any(|place| told.contains(place)), "{words}: {told}");
        assert!(told.contains("events.CreateSecurityGroup.id: unknown transform \"shout\""), "{words}: {told}");
    }
    // Mended, it takes the place of the built-in rule.
    let skip = "service = \"ec2.amazonaws.com\"\n[events.CreateSecurityGroup]\nskip = \"ours\"\n";
    for (rule, expected) in [
        (rule.replace(" | shout", "").replace("\"create\"", "\"update\""), json!(["changes", null, "update"])),
        (skip.to_owned(), json!(["skipped", "ours", null])),
    ] {
        fs::write(rules.join("aws/ours.toml"), rule).unwrap();
        let finished = run_in(folder.path(), "normalize --explain --normalizers rules record.json", &[]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let told = &finished.json_lines()[0];
        assert_eq!(json!([told["outcome"], told["reason"], told["events"][0]["data"]["action"]]), expected);
    }
}

/// With everything logged, a refused request included.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_never_printed() {
    const SECRETS: [&str; 3] = ["wJalrXUtnFEMIK7MDENG", "IQoJb3JpZ2luX2VjEXAMPLE", "AKIAWRITTENDOWN"];
    let service = LookupEventsServer::start().await;
    service.script(&[Mishap::Deny]);
    let folder = folder();
    let key = folder.path().join("key");
    fs::write(&key, format!("{}\n", SECRETS[0])).unwrap();
    let config = format!(
        "data_dir = {:?}\n[sources.live.aws_lookup_events]\nregions = [\"eu-west-1\"]\nendpoint_url = {:?}\n\
         access_key_id = \"env:KEY_ID\"\nsecret_access_key = \"file:{}\"\nsession_token = \"env:TOKEN\"\n",
        folder.path().join("data"),
        service.url,
        key.display(),
    );
    let path = folder.path().join("catchment.toml");
    fs::write(&path, &config).unwrap();
    let with_secrets = |command: &mut Command| {
        command.env("KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("TOKEN", SECRETS[1]).env("CATCHMENT_LOG", "trace");
    };
    let mut printed = String::new();

    let mut check = catchment();
    with_secrets(check.arg("check").arg("--config").arg(&path));
    let checked = finish(&mut check, b"");
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    printed += &(checked.stdout + &checked.stderr);

    let mut serve = crate::support::server::serve(folder.path(), &config);
    with_secrets(&mut serve);
    let server = Server::start(serve);
    server.wait_until("refused", || server.get("/v1/sources").1.contains("grant cloudtrail:LookupEvents"));
    assert_eq!(service.requests().len(), 1, "signed with the secrets");
    printed += &server.get("/v1/sources").1;
    printed += &server.get("/metrics").1;
    server.signal("TERM");
    server.wait_until("stopped", || {
        printed += &server.log_lines().join("\n");
        printed.contains("\"message\":\"stopped\"")
    });
    assert!(printed.contains("LookupEvents"), "much is logged");

    // Written into the configuration itself, it is refused, and not repeated.
    fs::write(&path, config.replace("env:KEY_ID", SECRETS[2])).unwrap();
    let mut check = catchment();
    with_secrets(check.arg("check").arg("--config").arg(&path));
    let checked = finish(&mut check, b"");
    assert_eq!(checked.code, Some(64));
    assert!(
        checked.stdout.contains("access_key_id: a secret can't be written in the configuration"),
        "{}",
        checked.stdout
    );
    printed += &(checked.stdout + &checked.stderr);
    for secret in SECRETS {
        assert!(!printed.contains(secret), "{secret} is printed");
    }
}
