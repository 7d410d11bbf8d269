//! The measured server: in-memory log, hub, fan-out and HTTP interface, in another process.

use std::io::BufRead;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catchment::auth::{Access, AuthConfig, TokenFile};
use catchment::history::History;
use catchment::http::{AppState, Readiness, ServeConfig, router, serve};
use catchment::hub::{FanOut, FanOutConfig, Hub, HubConfig};
use catchment::inventory::Inventory;
use catchment::log::{Batch, EventLog, MemoryLog, NewEvent, Retention};
use catchment::memory;
use catchment::metrics::Metrics;
use catchment::model::{Action, AssetName, EventHead, Novelty, Time};
use catchment::normalize::Engine;
use catchment::source::StatusBoard;
use catchment::tls::{Tls, TlsConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::stream::event;
use crate::tls::{CERTIFICATE, KEY};

/// Set in the server's process: the folder with its tokens and its certificate, if any.
pub(crate) const FOLDER: &str = "CATCHMENT_BENCH_FANOUT_FOLDER";
/// After how many seconds it disconnects clients that don't read.
pub(crate) const STALLED_SECS: &str = "CATCHMENT_BENCH_FANOUT_STALLED_SECS";

/// Serves until standard input ends. A line there, `<number> <count> <accounts>`, publishes so many events, each in its
/// own commit, distributed over so many accounts.
pub(crate) fn run(folder: &Path) {
    memory::use_small_pages();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let log = Arc::new(MemoryLog::new(Retention::default(), Arc::clone(&metrics))) as Arc<dyn EventLog>;
    let address = runtime.block_on(start(folder, Arc::clone(&log), metrics));
    println!("{address}");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let command: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        let [number, count, accounts] = command[..] else { panic!("not a command: {line}") };
        let append = |number| log.append(batch(number, accounts)).unwrap();
        for pending in (number..number + count).map(append).collect::<Vec<_>>() {
            runtime.block_on(pending).unwrap();
        }
    }
}

/// The account with a number.
pub(crate) fn account(number: u64) -> String {
    format!("{number:012}")
}

async fn start(folder: &Path, log: Arc<dyn EventLog>, metrics: Arc<Metrics>) -> SocketAddr {
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let hub = Hub::start(Arc::clone(&log), &HubConfig::default(), &tracker, stop.clone());
    let stalled_after = Duration::from_secs(std::env::var(STALLED_SECS).unwrap().parse().unwrap());
    let fan_out = FanOut::start(&hub, &FanOutConfig::new(stalled_after), &metrics, &tracker, &stop);
    let (inventory, engine) = (Arc::new(Inventory::new()), Arc::new(Engine::load(None).unwrap()));
    let router = router(AppState {
        hub,
        history: History::new(Arc::clone(&log), Arc::clone(&inventory), watch::channel(engine).1),
        log,
        inventory,
        sources: StatusBoard::default(),
        metrics: Arc::clone(&metrics),
        access: access(folder),
        readiness: Readiness::default(),
        stop: stop.clone(),
        clock: Time::default,
        config: Arc::default(),
    })
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (certificate, private_key) = (folder.join(CERTIFICATE), folder.join(KEY));
    let tls = certificate.exists().then(|| {
        let config = TlsConfig { certificate, private_key, client_ca: None, client_certificates: None };
        Arc::new(Tls::load(config).unwrap())
    });
    let config = ServeConfig { stalled_after, max_connections: usize::MAX, tls, ..ServeConfig::default() };
    tracker.spawn(serve(listener, router, fan_out, metrics, config, stop));
    address
}

/// Requires a token if there is one.
fn access(folder: &Path) -> Arc<Access> {
    let tokens = TokenFile::of(folder);
    let anonymous = tokens.read().unwrap().is_empty();
    let requests_per_minute = NonZeroU32::MAX;
    let config = AuthConfig { anonymous, requests_per_minute, streams_per_token: 20_000, ..AuthConfig::default() };
    Access::new(config, Some(tokens), String::new(), Time::default).unwrap()
}

fn batch(number: u64, accounts: u64) -> Batch {
    let account = account(number % accounts);
    let asset = format!("asset://aws/{account}/eu-west-1/ec2/security-group/sg-1");
    let head = EventHead {
        id: format!("{number}:0"),
        time: Time::default(),
        observed: Time::default(),
        action: Action::Update,
        asset: AssetName::from_text(&asset),
        asset_type: "network.security_group".to_owned(),
        provider: "aws".to_owned(),
        account,
        region: "eu-west-1".to_owned(),
        principals: Vec::new(),
        method: "cli".to_owned(),
        novelty: Novelty::default(),
    };
    Batch { events: vec![NewEvent { head, json: Bytes::from(event(number)) }], ..Batch::default() }
}
