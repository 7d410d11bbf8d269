//! The queue sources in the real binary, against S3, SQS, SNS and EventBridge by moto, with faults in between.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::support::http_proxy::{Fault, HttpProxy, Message};
use crate::support::moto::{ACCOUNT, Moto, REGION};
use crate::support::program::{catchment, finish};
use crate::support::server::{PATIENCE, Server, folder, serve};
use crate::support::trail::{create_group, ids, random};

fn key(account: &str, day: u32, minute: usize, name: &str) -> String {
    let file = format!("{account}_CloudTrail_{REGION}_202602{day:02}T04{minute:02}Z_{name}.json.gz");
    format!("AWSLogs/{account}/CloudTrail/{REGION}/2026/02/{day:02}/{file}")
}

/// A log file with these texts as its records.
fn log_file(records: &[String]) -> Vec<u8> {
    let mut file = GzEncoder::new(Vec::new(), Compression::fast());
    write!(file, r#"{{"Records":[{}]}}"#, records.join(",")).unwrap();
    file.finish().unwrap()
}

fn groups(ids: &[&str]) -> Vec<u8> {
    log_file(&ids.iter().map(|id| create_group(id).to_string()).collect::<Vec<_>>())
}

/// The section of a queue's source; `endpoint` is where all of AWS is.
fn source(name: &str, kind: &str, queue: &str, endpoint: &str) -> String {
    format!(
        "[sources.{name}.{kind}]\nqueue_url = \"{endpoint}/{ACCOUNT}/{queue}\"\nregion = \"{REGION}\"\n\
         wait_secs = 1\nvisibility_secs = 3\nsqs_endpoint_url = \"{endpoint}\"\ns3_endpoint_url = \"{endpoint}\"\n\
         sts_endpoint_url = \"{endpoint}\"\n"
    )
}

/// With credentials, and without anything else of AWS that the environment may hold.
fn with_keys(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("AWS_SECRET_ACCESS_KEY", "not a key");
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

fn start(folder: &std::path::Path, sources: &str) -> Server {
    let configuration = format!("data_dir = {:?}\n{sources}", folder.join("data"));
    Server::start(with_keys(serve(folder, &configuration)))
}

/// Received = changes + skipped + duplicates + quarantined.
fn assert_accounted(server: &Server) -> f64 {
    let of = |outcome: &str| server.metric("catchment_records_total", &format!("outcome=\"{outcome}\""));
    let received = server.metric("catchment_records_received_total", "");
    let sum: f64 = ["changes", "skipped", "duplicate", "quarantined"].into_iter().map(of).sum();
    assert!((sum - received).abs() < 0.5, "{sum} of {received} records are accounted for");
    received
}

fn notices(server: &Server, outcome: &str) -> f64 {
    server.metric("catchment_source_notices_total", &format!("outcome=\"{outcome}\""))
}

/// Has the bucket notify in every way that there is, all into one queue.
fn wire(moto: &Moto) -> (String, String) {
    let queue = moto.queue("trail", &json!({}));
    let topic = moto.query("sns", &[("Action", "CreateTopic"), ("Name", "trail")], "TopicArn");
    let raw = moto.query("sns", &[("Action", "CreateTopic"), ("Name", "raw")], "TopicArn");
    for topic in [&topic, &raw] {
        let subscribe = [("Action", "Subscribe"), ("TopicArn", topic), ("Protocol", "sqs")];
        let endpoint = Moto::queue_arn("trail");
        let parameters: Vec<_> = subscribe.into_iter().chain([("Endpoint", endpoint.as_str())]).collect();
        let subscription = moto.query("sns", &parameters, "SubscriptionArn");
        if topic == &raw {
            let raw_delivery = [
                ("Action", "SetSubscriptionAttributes"),
                ("SubscriptionArn", subscription.as_str()),
                ("AttributeName", "RawMessageDelivery"),
                ("AttributeValue", "true"),
            ];
            moto.query("sns", &raw_delivery, "RequestId");
        }
    }
    let part = |kind: &str, element: &str, arn: &str, prefix: &str| {
        format!(
            "<{kind}><Id>{prefix}</Id><{element}>{arn}</{element}><Event>s3:ObjectCreated:*</Event>\
             <Filter><S3Key><FilterRule><Name>prefix</Name><Value>{prefix}/</Value></FilterRule></S3Key></Filter></{kind}>"
        )
    };
    let configuration = [
        part("QueueConfiguration", "Queue", &Moto::queue_arn("trail"), "direct"),
        part("TopicConfiguration", "Topic", &topic, "topic"),
        part("TopicConfiguration", "Topic", &raw, "by-raw"),
    ];
    let configuration = format!("<NotificationConfiguration>{}</NotificationConfiguration>", configuration.concat());
    moto.bucket("trail");
    moto.put("/trail?notification", configuration.as_bytes());
    // CloudTrail's log files by EventBridge, and its events.
    let pattern = json!({ "source": ["aws.s3", "aws.ec2"] }).to_string();
    moto.call("events", "AWSEvents.PutRule", &json!({ "Name": "trail", "EventPattern": pattern }));
    let targets = json!([{ "Id": "q", "Arn": Moto::queue_arn("trail") }]);
    moto.call("events", "AWSEvents.PutTargets", &json!({ "Rule": "trail", "Targets": targets }));
    (queue, topic)
}

fn put_events(moto: &Moto, source: &str, detail_type: &str, detail: &Value) {
    let entry = json!({ "Source": source, "DetailType": detail_type, "Detail": detail.to_string() });
    let answer = moto.call("events", "AWSEvents.PutEvents", &json!({ "Entries": [entry] }));
    assert_eq!(answer["FailedEntryCount"], 0);
}

#[test]
fn one_queue_takes_every_shape_of_notice() {
    let moto = Moto::start();
    let (queue, topic) = wire(&moto);
    for (minute, way) in ["direct", "topic", "by-raw"].into_iter().enumerate() {
        let key = format!("{way}/{}", key("111122223333", 3, minute, "a"));
        moto.put(&format!("/trail/{key}"), &groups(&[way]));
    }
    // Keys that an URL must encode.
    moto.put("/trail/direct/x%20y/z_CloudTrail_%C3%BC.json.gz", &groups(&["odd-key"]));
    moto.put("/trail/direct/AWSLogs/111122223333/CloudTrail-Digest/d.json.gz", b"{}");
    moto.put("/trail/direct/AWSLogs/111122223333/Config/c.json.gz", b"{}");
    for (name, by) in [("cloudtrail", "topic"), ("bridge", "events")] {
        let key = key("111122223333", 4, 0, name);
        moto.put(&format!("/trail/{key}"), &groups(&[name]));
        if by == "topic" {
            let message = json!({ "s3Bucket": "trail", "s3ObjectKey": [key] }).to_string();
            moto.query("sns", &[("Action", "Publish"), ("TopicArn", &topic), ("Message", &message)], "MessageId");
        } else {
            let detail = json!({ "version": "0", "bucket": { "name": "trail" }, "object": { "key": key } });
            put_events(&moto, "aws.s3", "Object Created", &detail);
        }
    }
    put_events(&moto, "aws.ec2", "AWS API Call via CloudTrail", &create_group("call"));
    // The same event, by EventBridge and later in a log file, is one.
    put_events(&moto, "aws.ec2", "AWS API Call via CloudTrail", &create_group("direct"));

    let folder = folder();
    let endpoint = format!("http://{}", moto.address());
    // By a role, as from another account.
    let role = format!("role_arn = \"arn:aws:iam::{ACCOUNT}:role/reader\"\nexternal_id = \"an id\"\n");
    let server = start(folder.path(), &(source("trail", "aws_s3_sqs", "trail", &endpoint) + &role));
    server.wait_until("queue emptied", || moto.messages(&queue) == 0);
    let found: HashSet<String> = ids(&server.all_events()).into_iter().collect();
    let expected = ["direct", "topic", "by-raw", "odd-key", "cloudtrail", "bridge", "call"];
    assert_eq!(found, expected.map(|id| format!("{id}:0")).into());
    assert_eq!(server.all_events().len(), expected.len(), "each once");
    assert!((assert_accounted(&server) - 8.0).abs() < 0.5);
    assert!(notices(&server, "test message") > 0.5, "S3 sends one when notifications are set up");
    for (outcome, count) in
        [("digest file", 1.0), ("not a CloudTrail log file", 1.0), ("log file", 6.0), ("record", 2.0)]
    {
        assert!((notices(&server, outcome) - count).abs() < 0.5, "{outcome}: {}", notices(&server, outcome));
    }
    assert!(server.metric("catchment_quarantined_records_total", "") < 0.5);
    let source = server.get_json("/v1/sources")["sources"][0].clone();
    assert_eq!((source["state"].as_str(), source["records"].as_u64()), (Some("running"), Some(8)), "{source}");
}

/// What a message's deletion must wait for: the events of its objects, by the message's receipt.
#[derive(Default)]
struct Watch {
    server: Mutex<Option<SocketAddr>>,
    /// The events of an object, or of a message without one, by a text that its body contains.
    expected: Mutex<BTreeMap<String, Vec<String>>>,
    by_receipt: Mutex<HashMap<String, Vec<String>>>,
    early: Mutex<Vec<String>>,
    checked: Mutex<usize>,
}

impl Watch {
    fn see(&self, request: &Message, answer: Option<&Message>) {
        match (request.operation(), answer) {
            ("ReceiveMessage", Some(answer)) => self.received(&answer.body),
            ("DeleteMessageBatch" | "DeleteMessage", None) => self.deleted(&request.body),
            _ => {}
        }
    }

    fn received(&self, answer: &[u8]) {
        let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        for message in answer["Messages"].as_array().into_iter().flatten() {
            let body = message["Body"].as_str().unwrap();
            let expected = self.expected.lock().unwrap();
            let events = expected.iter().filter(|(part, _)| body.contains(part.as_str()));
            let events: Vec<String> = events.flat_map(|(_, events)| events.clone()).collect();
            self.by_receipt.lock().unwrap().insert(message["ReceiptHandle"].as_str().unwrap().to_owned(), events);
        }
    }

    /// Asks the server for every event of the messages, before the queue sees the deletion.
    fn deleted(&self, request: &[u8]) {
        let request: Value = serde_json::from_slice(request).unwrap_or_default();
        let Some(address) = *self.server.lock().unwrap() else { return };
        for entry in request["Entries"].as_array().into_iter().flatten() {
            let by_receipt = self.by_receipt.lock().unwrap();
            let events = by_receipt.get(entry["ReceiptHandle"].as_str().unwrap()).cloned().unwrap_or_default();
            drop(by_receipt);
            // Deliveries become durable in their order: the first and the last tell of those between.
            for id in [events.first(), events.last()].into_iter().flatten() {
                let config = ureq::Agent::config_builder().http_status_as_error(false).build();
                let url = format!("http://{address}/v1/events/{id}:0");
                // It may be killed while it is asked.
                let Ok(answer) = ureq::Agent::new_with_config(config).get(url).call() else { return };
                *self.checked.lock().unwrap() += 1;
                if answer.status().as_u16() != 200 {
                    self.early.lock().unwrap().push(id.clone());
                }
            }
        }
    }
}

/// One fault in so many requests, of every kind.
fn fault(seed: u64) -> impl Fn(&Message) -> Option<Fault> + Send + Sync + 'static {
    let random = Mutex::new(fastrand::Rng::with_seed(seed));
    move |request| {
        let mut random = random.lock().unwrap();
        let is_object = request.operation() == "GET";
        match random.u32(0..48) {
            0 => Some(Fault::Delay(Duration::from_millis(random.u64(1..800)))),
            1 => Some(Fault::Cut),
            2 => Some(Fault::CutAfter),
            3 => Some(Fault::Internal),
            4 if is_object => Some(Fault::SlowDown),
            4 => Some(Fault::Throttle),
            5 | 6 if is_object => Some(Fault::Truncate),
            _ => None,
        }
    }
}

const KILLS: usize = 10;
const OBJECTS_A_ROUND: usize = 8;

/// An object with some records: changes, reads, doubles, and texts that are no records.
fn object(number: usize, random: &mut fastrand::Rng) -> (Vec<u8>, Vec<String>, usize) {
    let (mut records, mut events, mut broken) = (Vec::new(), Vec::new(), 0);
    // One of them takes several deliveries.
    for n in 0..if number % 20 == 7 { 1_200 } else { random.usize(1..40) } {
        let id = format!("o{number:03}-{n:04}");
        let mut record = create_group(&id);
        match random.u32(0..12) {
            0 => record["readOnly"] = json!(true),
            1 => record = json!({ "eventVersion": "1.11", "eventID": id }),
            2 => records.push(record.to_string()),
            _ => {}
        }
        match &record["eventName"] {
            Value::Null => broken += 1,
            _ if record["readOnly"] == json!(true) => {}
            _ => events.push(id),
        }
        records.push(record.to_string());
    }
    (log_file(&records), events, broken)
}

#[test]
fn faults_and_kills_lose_nothing_and_delete_nothing_early() {
    let mut random = random();
    let moto = Moto::start();
    let logs = moto.queue("logs", &json!({}));
    let calls = moto.queue("calls", &json!({}));
    moto.bucket("trail");
    let watch = Arc::new(Watch::default());
    let seen = Arc::clone(&watch);
    let proxy =
        HttpProxy::start(moto.address(), fault(random.u64(..)), move |request, answer| seen.see(request, answer));
    let sources = [
        source("logs", "aws_s3_sqs", "logs", &proxy.url()),
        source("calls", "aws_eventbridge_sqs", "calls", &proxy.url()),
    ];
    let folder = folder();
    let (mut events, mut broken) = (HashSet::new(), 0);
    for round in 0..KILLS {
        for number in round * OBJECTS_A_ROUND..(round + 1) * OBJECTS_A_ROUND {
            let (bytes, ids, rejects) = object(number, &mut random);
            let account = if number % 2 == 0 { "111122223333" } else { "444455556666" };
            let key = key(account, 3, round, &format!("o{number:03}"));
            moto.put(&format!("/trail/{key}"), &bytes);
            moto.send(&logs, &json!({ "s3Bucket": "trail", "s3ObjectKey": [key] }).to_string());
            watch.expected.lock().unwrap().insert(key, ids.clone());
            // Some of them come by EventBridge too, and some calls by it alone.
            let call = format!("call-{number}");
            for id in ids.iter().take(2).chain([&call]) {
                let body = json!({ "detail-type": "AWS API Call via CloudTrail", "detail": create_group(id) });
                moto.send(&calls, &body.to_string());
                watch.expected.lock().unwrap().insert(format!("\"request-{id}\""), vec![id.clone()]);
                events.insert(id.clone());
            }
            events.extend(ids);
            broken += rejects;
        }
        let server = start(folder.path(), &sources.concat());
        *watch.server.lock().unwrap() = Some(server.address());
        std::thread::sleep(Duration::from_millis(random.u64(0..2_500)));
        server.kill();
        *watch.server.lock().unwrap() = None;
    }

    let server = start(folder.path(), &sources.concat());
    *watch.server.lock().unwrap() = Some(server.address());
    // An object that could not be read comes again after half a minute, or more if it was in hand at several kills.
    let deadline = Instant::now() + 5 * PATIENCE;
    while moto.messages(&logs) + moto.messages(&calls) > 0 {
        assert!(Instant::now() < deadline, "the queues are not emptied; log:\n{}", server.log_lines().join("\n"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let found = ids(&server.all_events());
    let missing: Vec<_> = events.iter().filter(|id| !found.contains(&format!("{id}:0"))).collect();
    assert!(missing.is_empty(), "{} of {} events are missing: {missing:?}", missing.len(), events.len());
    assert_eq!(found.len(), events.len(), "each event once");
    assert_accounted(&server);
    let mut quarantined = Vec::new();
    let mut after = String::new();
    loop {
        let page = server.get_json(&format!("/v1/quarantine?limit=200{after}"));
        for record in page["records"].as_array().unwrap() {
            quarantined.push((record["location"].clone(), record["index"].clone()));
        }
        match &page["next"] {
            Value::Null => break,
            next => after = format!("&page_token={}", next.to_string().trim_matches('"')),
        }
    }
    assert_eq!(quarantined.len(), broken, "what is no record is quarantined, once");
    let early = watch.early.lock().unwrap().clone();
    assert!(early.is_empty(), "deleted before they were durable: {early:?}");
    assert!(*watch.checked.lock().unwrap() > 200, "deletions were watched");
    assert!(proxy.faults() > 15, "{} faults", proxy.faults());
    assert!(server.terminate().success());
}

#[test]
fn a_backfill_reads_the_bucket_once_and_marks_it_late() {
    let moto = Moto::start();
    let queue = moto.queue("trail", &json!({}));
    moto.bucket("trail");
    let folder = folder();
    let endpoint = format!("http://{}", moto.address());
    for day in 1..=3 {
        for minute in 0..5 {
            let ids: Vec<String> = (0..20).map(|n| format!("d{day}-{minute}-{n:02}")).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            moto.put(&format!("/trail/{}", key("111122223333", day, minute, "a")), &groups(&ids));
        }
    }
    // One of the files came by the queue already.
    moto.send(&queue, &json!({ "s3Bucket": "trail", "s3ObjectKey": [key("111122223333", 2, 0, "a")] }).to_string());
    let sources = source("trail", "aws_s3_sqs", "trail", &endpoint);
    let server = start(folder.path(), &sources);
    server.wait_until("live file taken", || server.all_events().len() == 20);

    let arguments = ["backfill", "--bucket", "trail", "--from", "2026-02-01", "--to", "2026-02-02"];
    let config = folder.path().join("catchment.toml");
    let mut command = catchment();
    command.args(arguments).arg("--config").arg(&config).args(["--records-per-second", "200"]);
    let finished = finish(&mut command, b"");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let file = finished.stdout.split(": ").next().unwrap().to_owned();
    server.wait_until("backfill begun", || server.all_events().len() > 60);
    assert!(std::path::Path::new(&file).exists(), "its job is there until it is complete");
    server.kill();

    let server = start(folder.path(), &sources);
    server.wait_until("backfill complete", || !std::path::Path::new(&file).exists());
    let events = server.all_events();
    assert_eq!(events.len(), 200, "two days of the three, and what was there already is not there twice");
    assert_eq!(ids(&events).into_iter().collect::<HashSet<_>>().len(), 200);
    for event in &events {
        let live = event["id"].as_str().unwrap().starts_with("d2-0-");
        assert_eq!(event["data"]["late"], json!(!live), "{}", event["id"]);
    }
    let order = ids(&events[20..]);
    assert!(order.is_sorted(), "in the order of time");
    assert_accounted(&server);
}
