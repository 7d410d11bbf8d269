//! All of `catchment serve`: records from a source through normalizer, inventory and durable log to one SSE subscriber;
//! compared with appending the very same events to the log alone, in the same run and in turns. Then, at half that
//! rate, the latency of an event from the source to the subscriber.
//!
//! The gateway runs in this process, with a source that delivers given records. The CPU time is that of the process
//! without the subscriber's thread.
//!
//! `cargo bench --bench serve`; `CATCHMENT_BENCH_QUICK=1` shortens it, `CATCHMENT_BENCH_ROUNDS=20` logs 20 times
//! 100,000 records, and `CATCHMENT_BENCH_LOGGED=10000000` begins with a log of that many events (about 6 GB on disk),
//! which shows whether the cost grows with the log; `CATCHMENT_BENCH_DIR` chooses the disk.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::cast_precision_loss, missing_docs)]

mod cpu;

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use catchment::app::{self, ExtraSource};
use catchment::config::Config;
use catchment::log::{Batch, EmbeddedLog, EventLog, NewEvent, Pending, Retention};
use catchment::memory;
use catchment::metrics::Metrics;
use catchment::model::{AssetName, EventHead, Origin, RawRecord, Seq, SourceId};
use catchment::source::{Delivery, Intake, Source, SourceError, StatusHandle, demo};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

const DELIVERY: usize = 500;
/// Deliveries in flight, as in the sources for queues and event hubs.
const IN_FLIGHT: usize = 8;
/// Events appended to the log alone in each round.
const ALONE: usize = 20_000;
/// Records reserved for the second part.
const PACED: usize = 100_000;
/// The prefix of an event in an SSE stream, where each event is an HTTP chunk.
const DATA: &str = "data: ";
const PACE: Duration = Duration::from_millis(5);

fn main() {
    memory::use_small_pages();
    let quick = std::env::var_os("CATCHMENT_BENCH_QUICK").is_some();
    let rounds = std::env::var("CATCHMENT_BENCH_ROUNDS").map_or(3, |text| text.parse().unwrap());
    let count = if quick { 20_000 } else { 100_000 };
    let root = std::env::var_os("CATCHMENT_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(&root).unwrap();
    let logged = std::env::var("CATCHMENT_BENCH_LOGGED").map_or(0, |text| text.parse().unwrap());
    fill(&root, directory.path(), logged);
    let gateway = Gateway::start(directory.path());
    println!("| events logged | served: events/s | CPU µs/event | the log alone: events/s | served / alone |");
    println!("|--------------:|-----------------:|-------------:|------------------------:|---------------:|");
    // From one world, so that no record is late.
    let mut records = demo::generate(1, count * rounds + PACED).into_iter();
    let (mut seen, mut rates) = (logged, Vec::new());
    for _ in 0..rounds {
        let records = records.by_ref().take(count).collect();
        let reader = gateway.subscribe(seen);
        let (start, cpu) = (Instant::now(), cpu::of_process(std::process::id()));
        let tail = gateway.hand_over(records, None);
        let read = reader.finish(tail);
        let (took, cpu) = (start.elapsed(), cpu::of_process(std::process::id()) - cpu - read.cpu);
        let events = (tail - seen) as f64;
        let alone = alone(&root, &read.lines);
        let rate = events / took.as_secs_f64();
        let cpu = cpu.as_secs_f64() * 1e6 / events;
        println!("| {tail} | {rate:.0} | {cpu:.1} | {alone:.0} | {:.2} |", rate / alone);
        rates.push(rate);
        seen = tail;
    }
    rates.sort_by(f64::total_cmp);
    latency(&gateway, seen, records, rates[rates.len() / 2] / 2.0, if quick { 3.0 } else { 20.0 });
}

/// Fills the log: some real events, repeated under new ids.
fn fill(root: &Path, directory: &Path, count: u64) {
    if count == 0 {
        return;
    }
    let elsewhere = tempfile::tempdir_in(root).unwrap();
    let gateway = Gateway::start(elsewhere.path());
    let reader = gateway.subscribe(0);
    let tail = gateway.hand_over(demo::generate(2, ALONE), None);
    let real = batch(&reader.finish(tail).lines).events;
    drop(gateway);
    let again = |number: u64| {
        let event = &real[number as usize % real.len()];
        let head = EventHead { id: format!("logged-{number}"), ..event.head.clone() };
        NewEvent { head, json: event.json.clone() }
    };
    let batches = (0..count).step_by(DELIVERY).map(|first| {
        let events = (first..count.min(first + DELIVERY as u64)).map(again).collect();
        Batch { events, ..Batch::default() }
    });
    append_all(&log_in(directory), batches);
}

fn log_in(directory: &Path) -> EmbeddedLog {
    EmbeddedLog::open(directory, Retention::default(), Arc::new(Metrics::new().unwrap())).unwrap()
}

/// Appends batches, with some of them in flight, and waits until all are durable.
fn append_all(log: &EmbeddedLog, batches: impl IntoIterator<Item = Batch>) {
    let (runtime, mut under_way) = (Runtime::new().unwrap(), VecDeque::new());
    for batch in batches {
        under_way.push_back(log.append(batch).unwrap());
        if under_way.len() == IN_FLIGHT {
            let pending: Pending = under_way.pop_front().unwrap();
            runtime.block_on(pending).unwrap();
        }
    }
    for pending in under_way {
        runtime.block_on(pending).unwrap();
    }
}

fn latency(gateway: &Gateway, seen: u64, records: impl Iterator<Item = String>, rate: f64, seconds: f64) {
    let per_delivery = (rate * PACE.as_secs_f64()).max(1.0);
    let reader = gateway.subscribe(seen);
    let records = records.take((rate * seconds) as usize).collect();
    let tail = gateway.hand_over(records, Some(per_delivery as usize));
    let arrived = reader.finish(tail).arrived;
    let published = gateway.published.lock().unwrap();
    let mut took: Vec<f64> = arrived
        .iter()
        .filter_map(|(id, at)| Some(at.duration_since(*published.get(id)?).as_secs_f64() * 1e3))
        .collect();
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!();
    println!(
        "at {rate:.0} records/s, in deliveries of {per_delivery:.0}, from source to subscriber: p50 {:.1} ms, p90 {:.1} ms, \
         p99 {:.1} ms, slowest {:.1} ms, of {} events",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        took.len()
    );
}

/// Appends the same events to the log alone, each with the configuration that the inventory holds after it.
fn alone(root: &Path, lines: &[Vec<u8>]) -> f64 {
    let directory = tempfile::tempdir_in(root).unwrap();
    let log = log_in(directory.path());
    let batches: Vec<Batch> = lines.chunks(DELIVERY).map(batch).collect();
    let start = Instant::now();
    append_all(&log, batches);
    lines.len() as f64 / start.elapsed().as_secs_f64()
}

fn batch(lines: &[Vec<u8>]) -> Batch {
    let mut batch = Batch::default();
    for line in lines {
        let head = EventHead::parse(line).unwrap();
        let event: serde_json::Value = serde_json::from_slice(line).unwrap();
        let name = AssetName::from_text(event["subject"].as_str().unwrap());
        batch.assets.push((name, Bytes::from(event["data"]["configuration"].to_string())));
        batch.events.push(NewEvent { head, json: Bytes::from(line.clone()) });
    }
    batch
}

/// A request to the source: deliver these records, then return the end of the log.
struct Order {
    records: Vec<String>,
    /// Records per delivery, if one is due at every tick.
    paced: Option<usize>,
    done: oneshot::Sender<u64>,
}

type Published = Arc<Mutex<HashMap<String, Instant>>>;

struct Feed {
    orders: mpsc::Receiver<Order>,
    published: Published,
}

#[async_trait]
impl Source for Feed {
    async fn run(&mut self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
        while let Some(Some(order)) = stop.run_until_cancelled(self.orders.recv()).await {
            let mut ticks = tokio::time::interval(PACE);
            let (mut under_way, mut tail) = (VecDeque::new(), Seq(0));
            for records in order.records.chunks(order.paced.unwrap_or(DELIVERY)) {
                if order.paced.is_some() {
                    ticks.tick().await;
                    let now = Instant::now();
                    let ids = records.iter().map(|record| (id_of(record.as_bytes(), r#""eventID":""#), now));
                    self.published.lock().unwrap().extend(ids);
                }
                under_way.push_back(intake.enqueue(delivery(status.source(), records)).await?);
                if under_way.len() == IN_FLIGHT
                    && let Some(pending) = under_way.pop_front()
                {
                    tail = pending.await?;
                }
            }
            for pending in under_way {
                tail = pending.await?;
            }
            let _ = order.done.send(tail.0);
        }
        Ok(())
    }
}

fn delivery(source: &SourceId, records: &[String]) -> Delivery {
    let record = |(index, record): (u64, &String)| RawRecord {
        bytes: Bytes::from(record.clone()),
        origin: Origin { source: source.clone(), location: "bench".into(), index },
    };
    let records = (0..).zip(records).map(record).collect();
    Delivery { source: source.clone(), records, rejected: Vec::new(), cursor: None }
}

/// The provider's event id after `key`, without the number of the asset.
fn id_of(json: &[u8], key: &str) -> String {
    let text = std::str::from_utf8(json).unwrap();
    let rest = &text[text.find(key).unwrap() + key.len()..];
    rest[..rest.find(['"', ':']).unwrap()].to_owned()
}

struct Gateway {
    address: SocketAddr,
    orders: mpsc::Sender<Order>,
    published: Published,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    fn start(directory: &Path) -> Self {
        let mut config = Config { data_dir: directory.to_owned(), ..Config::default() };
        config.shutdown.drain_millis = 30_000;
        config.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let (orders, received) = mpsc::channel(1);
        let published = Published::default();
        let source = Box::new(Feed { orders: received, published: Arc::clone(&published) });
        let extra = ExtraSource { id: "feed".into(), kind: "feed", source };
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let listening = move |address| tell.send(address).unwrap();
            let runtime = Runtime::new().unwrap();
            runtime
                .block_on(Box::pin(app::run(
                    config,
                    app::Setup { extra: Some(extra), ..app::Setup::default() },
                    listening,
                    stopped,
                )))
                .unwrap();
        });
        Self { address: told.recv().unwrap(), orders, published, stop, thread: Some(thread) }
    }

    /// Returns the log's tail once all are durable.
    fn hand_over(&self, records: Vec<String>, paced: Option<usize>) -> u64 {
        let (done, tail) = oneshot::channel();
        self.orders.blocking_send(Order { records, paced, done }).unwrap();
        tail.blocking_recv().unwrap()
    }

    /// Subscribes after the first `seen` events.
    fn subscribe(&self, seen: u64) -> Subscriber {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let request = "GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let wanted = Arc::new(Mutex::new(None));
        let until = Arc::clone(&wanted);
        let (ready, begun) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || read(BufReader::with_capacity(1 << 18, stream), seen, &until, &ready));
        begun.recv().unwrap();
        Subscriber { wanted, thread }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()), "the gateway failed");
    }
}

struct Subscriber {
    wanted: Arc<Mutex<Option<u64>>>,
    thread: JoinHandle<Read>,
}

/// What a subscriber has read.
#[derive(Default)]
struct Read {
    /// The first events.
    lines: Vec<Vec<u8>>,
    arrived: Vec<(String, Instant)>,
    cpu: Duration,
}

impl Subscriber {
    /// Waits until the event at the log's tail has arrived.
    fn finish(self, tail: u64) -> Read {
        *self.wanted.lock().unwrap() = Some(tail);
        self.thread.join().unwrap()
    }
}

/// Reads events up to the wanted one, then closes the connection.
fn read(
    mut stream: BufReader<TcpStream>,
    mut seen: u64,
    wanted: &Mutex<Option<u64>>,
    ready: &std::sync::mpsc::SyncSender<()>,
) -> Read {
    let cpu = cpu::of_thread();
    stream.get_ref().set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let (mut read, mut line, mut answered, mut began) = (Read::default(), Vec::new(), false, false);
    loop {
        match stream.read_until(b'\n', &mut line) {
            Ok(0) => panic!("the stream ended"),
            Ok(_) if line.starts_with(br#"data: {"specversion""#) => {
                seen += 1;
                let whole = line[DATA.len()..].trim_ascii_end();
                if read.lines.len() < ALONE {
                    read.lines.push(whole.to_vec());
                }
                read.arrived.push((id_of(whole, r#""id":""#), Instant::now()));
                line.clear();
            }
            Ok(_) => {
                answered |= line.starts_with(b"HTTP/1.") && line.windows(5).any(|text| text == b" 200 ");
                line.clear();
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if answered && !began {
                    // From now on no published event is missed.
                    began = true;
                    ready.send(()).unwrap();
                }
                if wanted.lock().unwrap().is_some_and(|wanted| seen >= wanted) {
                    read.cpu = cpu::of_thread() - cpu;
                    return read;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}
