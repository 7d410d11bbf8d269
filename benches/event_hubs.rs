//! How fast events get from an event hub into the log, and how long they take from the hub to a subscriber.
//!
//! The hub is the tests' stand-in, in this process; the gateway is the program itself, in another process. They share
//! the machine's cores. For comparison, in the same run, the SDK alone reads the same events and discards them.
//!
//! `cargo bench --bench event_hubs`; `CATCHMENT_BENCH_QUICK=1` shortens it, `CATCHMENT_BENCH_PROGRAM` names another
//! build of the program.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/support/event_hubs/mod.rs"]
mod event_hubs;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use azure_messaging_eventhubs::{ConsumerClient, OpenReceiverOptions, StartLocation, StartPosition};
use event_hubs::Broker;
use tokio_stream::StreamExt;
use tokio_util::task::TaskTracker;

const CONNECTION: &str =
    "Endpoint=sb://acme.servicebus.windows.net/;SharedAccessKeyName=listen;SharedAccessKey=bm90IGEga2V5";

fn main() {
    let quick = std::env::var_os("CATCHMENT_BENCH_QUICK").is_some();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        println!("| partitions | records an event | bytes a record | SDK alone: events/s | into the log: events/s | records/s |");
        println!("|---:|---:|---:|---:|---:|---:|");
        for (partitions, records, events) in [(1, 1, 60_000), (4, 1, 60_000), (1, 10, 8_000), (4, 10, 8_000)] {
            throughput(partitions, records, if quick { events / 10 } else { events }).await;
        }
        println!();
        latency(if quick { 3 } else { 30 }).await;
    });
}

/// A record that creates a security group, of about 1.5 KB.
fn record(number: usize) -> String {
    let filler = "a group of machines that take requests from the outside; ".repeat(8);
    format!(
        r#"{{"eventVersion":"1.11","userIdentity":{{"type":"AssumedRole","principalId":"AROAEXAMPLE:deployer","arn":"arn:aws:sts::111122223333:assumed-role/deployer/deployer","accountId":"111122223333","sessionContext":{{"sessionIssuer":{{"type":"Role","principalId":"AROAEXAMPLE","arn":"arn:aws:iam::111122223333:role/deployer","accountId":"111122223333","userName":"deployer"}},"attributes":{{"creationDate":"2026-02-03T04:00:00Z","mfaAuthenticated":"false"}}}}}},"eventTime":"2026-02-03T04:05:06Z","eventSource":"ec2.amazonaws.com","eventName":"CreateSecurityGroup","awsRegion":"eu-west-1","sourceIPAddress":"192.0.2.1","userAgent":"APN/1.0 HashiCorp/1.0 Terraform/1.9.0","requestParameters":{{"groupName":"group-{number}","groupDescription":"{filler}","vpcId":"vpc-0a1b2c3d"}},"responseElements":{{"_return":true,"groupId":"sg-{number:017x}"}},"requestID":"request-{number}","eventID":"benchmark-record-{number:012}","readOnly":false,"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"111122223333","eventCategory":"Management"}}"#
    )
}

/// An event of the hub, with so many records.
fn event(first: usize, records: usize) -> Vec<u8> {
    let records: Vec<String> = (first..first + records).map(record).collect();
    format!(r#"{{"records":[{}]}}"#, records.join(",")).into_bytes()
}

async fn throughput(partitions: usize, records: usize, events: usize) {
    let broker = Broker::start(&[("activity", partitions)]).await;
    for number in 0..events {
        broker.append("activity", number % partitions, &event(number * records, records));
    }
    let (alone, took) = (sdk_alone(&broker, partitions, events).await, into_the_log(&broker, events * records).await);
    let rate = |count: usize, took: Duration| count as f64 / took.as_secs_f64();
    println!(
        "| {partitions} | {records} | {} | {:.0} | {:.0} | {:.0} |",
        record(0).len(),
        rate(events, alone),
        rate(events, took),
        rate(events * records, took)
    );
}

/// Reads all partitions with the SDK, configured as by the source, and discards the events.
async fn sdk_alone(broker: &Broker, partitions: usize, events: usize) -> Duration {
    let begun = Instant::now();
    let tasks = TaskTracker::new();
    for partition in 0..partitions {
        let (endpoint, count) = (broker.endpoint(), events / partitions);
        tasks.spawn(async move {
            let builder = ConsumerClient::builder().with_custom_endpoint(endpoint);
            let client = builder.open_with_connection_string(CONNECTION, Some("activity")).await.unwrap();
            let options = OpenReceiverOptions {
                prefetch: Some(2_000),
                start_position: Some(StartPosition { location: StartLocation::Earliest, inclusive: false }),
                ..OpenReceiverOptions::default()
            };
            let receiver = client.open_receiver_on_partition(partition.to_string(), Some(options)).await.unwrap();
            let mut received = std::pin::pin!(receiver.stream_events());
            for _ in 0..count {
                received.next().await.unwrap().unwrap();
            }
        });
    }
    tasks.close();
    tasks.wait().await;
    begun.elapsed()
}

/// The program with the hub as its source; stopped when dropped.
struct Gateway {
    address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Gateway {
    fn start(broker: &Broker) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let named = std::env::var_os("CATCHMENT_BENCH_PROGRAM").map(PathBuf::from);
        let program = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_catchment")));
        let mut command = Command::new(program);
        // The program takes every variable with its prefix for a configuration key.
        command.env_remove("CATCHMENT_BENCH_QUICK").env_remove("CATCHMENT_BENCH_PROGRAM");
        command.args(["serve", "--log-format", "json", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(configuration(folder.path(), broker)).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = log.next().unwrap().unwrap();
            let fields: serde_json::Value = serde_json::from_str(&line).unwrap();
            let found = fields["address"].as_str().or(fields["fields"]["address"].as_str());
            if let Some(address) = found {
                break address.parse().unwrap();
            }
        };
        std::thread::spawn(move || log.for_each(drop));
        Self { address, child, _folder: folder }
    }

    /// The newest event in the log.
    fn tail(&self) -> usize {
        let metrics = get(self.address, "/metrics").lines().map_while(Result::ok).find_map(|line| {
            line.strip_prefix("catchment_log_tail_sequence ").map(|value| value.parse::<f64>().unwrap())
        });
        metrics.unwrap_or_default() as usize
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(folder: &Path, broker: &Broker) -> PathBuf {
    std::fs::write(folder.join("connection"), CONNECTION).unwrap();
    let text = format!(
        "data_dir = {:?}\n[sources.azure.azure_event_hubs]\nnamespace = \"acme\"\nhub = \"activity\"\n\
         endpoint = {:?}\ncredential.connection_string = \"file:{}\"\n",
        folder.join("data"),
        broker.endpoint(),
        folder.join("connection").display(),
    );
    let path = folder.join("catchment.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn get(address: SocketAddr, path: &str) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    BufReader::new(socket)
}

async fn into_the_log(broker: &Broker, records: usize) -> Duration {
    let gateway = tokio::task::block_in_place(|| Gateway::start(broker));
    let begun = Instant::now();
    // The first links may be open before the measurement starts: what was read by then does not count.
    let before = tokio::task::block_in_place(|| gateway.tail());
    while tokio::task::block_in_place(|| gateway.tail()) < records {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed().mul_f64(records as f64 / (records - before) as f64)
}

/// 1,000 records a second for some seconds: the time from the append to the hub to the arrival at a subscriber.
async fn latency(secs: usize) {
    const RATE: usize = 1_000;
    let broker = Broker::start(&[("activity", 4)]).await;
    let gateway = tokio::task::block_in_place(|| Gateway::start(&broker));
    let sent = Arc::<Mutex<HashMap<usize, Instant>>>::default();
    let address = gateway.address;
    let count = RATE * secs;
    let reader = std::thread::spawn({
        let sent = Arc::clone(&sent);
        move || receive(address, count, &sent)
    });
    // By then the subscriber and the links are connected.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    for number in 0..count {
        tokio::time::sleep_until((begun + Duration::from_secs_f64(number as f64 / RATE as f64)).into()).await;
        let event = event(number, 1);
        sent.lock().unwrap().insert(number, Instant::now());
        broker.append("activity", number % 4, &event);
    }
    let mut waits = tokio::task::spawn_blocking(|| reader.join().unwrap()).await.unwrap();
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("from hub to subscriber, {RATE} records/s for {secs} s, 4 partitions:");
    println!(
        "p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, all within {:.1} ms",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

/// The latency of each record at one subscriber of the SSE stream.
fn receive(address: SocketAddr, count: usize, sent: &Mutex<HashMap<usize, Instant>>) -> Vec<Duration> {
    const ID: &str = "\"id\":\"benchmark-record-";
    let mut waits = Vec::with_capacity(count);
    for line in get(address, "/v1/events?omit=raw").lines() {
        let line = line.unwrap();
        let Some(at) = line.find(ID).filter(|_| line.starts_with("data:")) else { continue };
        let now = Instant::now();
        let number: usize = line[at + ID.len()..][..12].parse().unwrap();
        waits.push(now - sent.lock().unwrap().remove(&number).unwrap());
        if waits.len() == count {
            break;
        }
    }
    waits
}
