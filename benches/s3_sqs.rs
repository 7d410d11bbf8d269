//! Log files through S3 and SQS into the durable log, compared with `catchment normalize` on the same files; and the
//! memory that a large object takes. `cargo bench --bench s3_sqs [-- RECORDS]`.
//!
//! S3 and SQS are a lean stand-in on the loopback interface, which takes CPU time from the gateway.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement, not a program"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use catchment::source::demo;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

const RECORDS_A_FILE: usize = 500;

/// The stand-in's state: messages, each for one object, and the objects.
#[derive(Default)]
struct Service {
    objects: BTreeMap<String, Vec<u8>>,
    waiting: VecDeque<String>,
    deleted: usize,
    requests: BTreeMap<String, usize>,
    first: Option<Instant>,
}

fn start(service: &Arc<Mutex<Service>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = Arc::clone(service);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let service = Arc::clone(&service);
            std::thread::spawn(move || serve(&client, &service));
        }
    });
    address
}

/// Answers one request after the other until the connection is closed.
fn serve(client: &TcpStream, service: &Mutex<Service>) {
    client.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(client);
    loop {
        let (mut line, mut length, mut target) = (String::new(), 0, String::new());
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "x-amz-target" => target = value.trim().rsplit('.').next().unwrap().to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let answer = if target.is_empty() {
            let key =
                line.split(' ').nth(1).unwrap().split('?').next().unwrap().trim_start_matches("/trail/").to_owned();
            let mut service = service.lock().unwrap();
            *service.requests.entry("GetObject".to_owned()).or_default() += 1;
            service.objects.get(&key).cloned().unwrap_or_else(|| panic!("no object {key}"))
        } else {
            queue(&target, &serde_json::from_slice(&body).unwrap(), service).to_string().into_bytes()
        };
        let head = format!("HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: {}\r\n\r\n", answer.len());
        if (&*client).write_all(&[head.as_bytes(), &answer].concat()).is_err() {
            return;
        }
    }
}

fn queue(operation: &str, request: &Value, service: &Mutex<Service>) -> Value {
    let mut service = service.lock().unwrap();
    *service.requests.entry(operation.to_owned()).or_default() += 1;
    match operation {
        "ReceiveMessage" => {
            service.first.get_or_insert_with(Instant::now);
            let count = service.waiting.len().min(10);
            let keys: Vec<String> = service.waiting.drain(..count).collect();
            if keys.is_empty() {
                drop(service);
                std::thread::sleep(Duration::from_millis(200));
            }
            let message = |key: &String| {
                let body = json!({ "s3Bucket": "trail", "s3ObjectKey": [key] }).to_string();
                json!({ "MessageId": key, "ReceiptHandle": key, "Body": body, "Attributes": { "ApproximateReceiveCount": "1" } })
            };
            json!({ "Messages": keys.iter().map(message).collect::<Vec<_>>() })
        }
        "DeleteMessageBatch" => {
            let entries = request["Entries"].as_array().unwrap();
            service.deleted += entries.len();
            let done: Vec<Value> = entries.iter().map(|entry| json!({ "Id": entry["Id"] })).collect();
            json!({ "Successful": done, "Failed": [] })
        }
        "ChangeMessageVisibilityBatch" => json!({ "Successful": [], "Failed": [] }),
        _ => json!({ "Attributes": {} }),
    }
}

fn gzip(records: &[String]) -> Vec<u8> {
    let mut file = GzEncoder::new(Vec::new(), Compression::default());
    write!(file, r#"{{"Records":[{}]}}"#, records.join(",")).unwrap();
    file.finish().unwrap()
}

fn key(account: &str, region: &str, number: usize) -> String {
    format!("AWSLogs/{account}/CloudTrail/{region}/2026/02/03/x_CloudTrail_{number:06}.json.gz")
}

/// Log files as CloudTrail writes them, with their keys: each of one account and region, announced when it is full.
fn log_files(lines: &[String]) -> Vec<(String, Vec<u8>)> {
    let (mut open, mut files) = (BTreeMap::<(String, String), Vec<String>>::new(), Vec::new());
    let mut close = |(account, region): &(String, String), lines: &[String]| {
        files.push((key(account, region, files.len()), gzip(lines)));
    };
    for line in lines {
        let record: Value = serde_json::from_str(line).unwrap();
        let text = |member: &str| record[member].as_str().unwrap().to_owned();
        let place = (text("recipientAccountId"), text("awsRegion"));
        let file = open.entry(place.clone()).or_default();
        file.push(line.clone());
        if file.len() == RECORDS_A_FILE {
            close(&place, file);
            file.clear();
        }
    }
    open.iter().filter(|(_, lines)| !lines.is_empty()).for_each(|(place, lines)| close(place, lines));
    files
}

fn gateway(folder: &Path, address: SocketAddr) -> Child {
    let configuration = format!(
        "data_dir = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n[sources.trail.aws_s3_sqs]\n\
         queue_url = \"http://{address}/1/q\"\nregion = \"eu-west-1\"\nsqs_endpoint_url = \"http://{address}\"\n\
         s3_endpoint_url = \"http://{address}\"\n",
        folder.join("data")
    );
    let path = folder.join("catchment.toml");
    std::fs::write(&path, configuration).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_catchment"));
    command.arg("serve").arg("--config").arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x").spawn().unwrap()
}

fn peak_bytes(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

/// Seconds from the first receive to the last deletion, and the peak of the gateway's memory.
fn through_the_queue(files: Vec<(String, Vec<u8>)>) -> (f64, u64, BTreeMap<String, usize>) {
    let messages = files.len();
    let waiting = files.iter().map(|(key, _)| key.clone()).collect();
    let objects = files.into_iter().collect();
    let service = Arc::new(Mutex::new(Service { objects, waiting, ..Service::default() }));
    let address = start(&service);
    let folder = tempfile::tempdir().unwrap();
    let mut child = gateway(folder.path(), address);
    let took = loop {
        std::thread::sleep(Duration::from_millis(2));
        let service = service.lock().unwrap();
        if service.deleted >= messages {
            break service.first.unwrap().elapsed().as_secs_f64();
        }
    };
    let peak = peak_bytes(&child);
    child.kill().unwrap();
    child.wait().unwrap();
    let requests = service.lock().unwrap().requests.clone();
    (took, peak, requests)
}

fn normalize(folder: &Path) -> f64 {
    let begun = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_catchment"));
    let status = command.arg("normalize").arg(folder).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
    begun.elapsed().as_secs_f64()
}

fn main() {
    let records = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(100_000);
    let lines: Vec<String> = demo::generate(7, records);
    let files = log_files(&lines);
    let folder = tempfile::tempdir().unwrap();
    for (number, (_, bytes)) in files.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number:06}.json.gz")), bytes).unwrap();
    }
    println!("| way | records/s | ratio | peak memory | requests per 1,000 records |\n|---|---|---|---|---|");
    let baseline = normalize(folder.path()).min(normalize(folder.path()));
    println!("| catchment normalize, files to NDJSON | {:.0} | 1.00 | | |", records as f64 / baseline);
    let (took, peak, requests) = through_the_queue(files);
    let count: usize = requests.values().sum();
    println!(
        "| S3 and SQS, objects to durable log | {:.0} | {:.2} | {} MB | {:.1} |",
        records as f64 / took,
        baseline / took,
        peak >> 20,
        count as f64 * 1_000.0 / records as f64
    );
    println!("\nrequests: {requests:?}");
    let (large, count) = large_object(&lines);
    let (took, peak, _) = through_the_queue(vec![(key("111122223333", "eu-west-1", 0), large)]);
    println!("one object of 500 MB, {count} records: {took:.1} s, peak memory {} MB", peak >> 20);
}

/// An object of 500 MB of read-only calls, so that mostly the reading is measured.
fn large_object(lines: &[String]) -> (Vec<u8>, usize) {
    let mut file = GzEncoder::new(Vec::new(), Compression::fast());
    let (mut bytes, mut count, mut separator) = (0, 0, r#"{"Records":["#);
    for line in lines.iter().cycle() {
        let read = line.replacen("\"readOnly\":false", "\"readOnly\":true", 1);
        write!(file, "{separator}{read}").unwrap();
        (bytes, count, separator) = (bytes + read.len(), count + 1, ",");
        if bytes > 500 << 20 {
            break;
        }
    }
    file.write_all(b"]}").unwrap();
    (file.finish().unwrap(), count)
}
