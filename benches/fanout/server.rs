//! The server that is measured: log in memory, hub, fan-out and HTTP interface, in a process of its own.

use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catchment::auth::{Access, AuthConfig};
use catchment::history::History;
use catchment::http::{AppState, Readiness, ServeConfig, router, serve};
use catchment::hub::{FanOut, FanOutConfig, Hub, HubConfig};
use catchment::inventory::Inventory;
use catchment::log::{Batch, EventLog, MemoryLog, NewEvent, Retention};
use catchment::metrics::Metrics;
use catchment::model::{Action, AssetName, EventHead, Novelty, Time};
use catchment::normalize::Engine;
use catchment::source::StatusBoard;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::load::event;

/// Set in the process that is the server.
pub(crate) const ROLE: &str = "CATCHMENT_BENCH_FANOUT_SERVER";

/// Serves until standard input ends. A line there, `<number> <count>`, publishes so many events, each a commit of its
/// own.
pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let log = Arc::new(MemoryLog::new(Retention::default(), Arc::clone(&metrics))) as Arc<dyn EventLog>;
    let address = runtime.block_on(start(Arc::clone(&log), metrics));
    println!("{address}");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (number, count) = line.split_once(' ').unwrap();
        let (number, count): (u64, u64) = (number.parse().unwrap(), count.parse().unwrap());
        for pending in (number..number + count).map(|number| log.append(batch(number)).unwrap()).collect::<Vec<_>>() {
            runtime.block_on(pending).unwrap();
        }
    }
}

async fn start(log: Arc<dyn EventLog>, metrics: Arc<Metrics>) -> SocketAddr {
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let hub = Hub::start(Arc::clone(&log), &HubConfig::default(), &tracker, stop.clone());
    let stalled_after = Duration::from_secs(300);
    let fan_out = FanOut::start(&hub, &FanOutConfig::new(stalled_after), &metrics, &tracker, &stop);
    let (inventory, engine) = (Arc::new(Inventory::new()), Arc::new(Engine::load(None).unwrap()));
    let router = router(AppState {
        hub,
        history: History::new(Arc::clone(&log), Arc::clone(&inventory), watch::channel(engine).1),
        log,
        inventory,
        sources: StatusBoard::default(),
        metrics: Arc::clone(&metrics),
        access: Access::new(
            AuthConfig { anonymous: true, ..AuthConfig::default() },
            None,
            String::new(),
            Time::default,
        )
        .unwrap(),
        readiness: Readiness::default(),
        stop: stop.clone(),
        clock: Time::default,
        config: Arc::default(),
    })
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = ServeConfig { stalled_after, max_connections: usize::MAX, ..ServeConfig::default() };
    tracker.spawn(serve(listener, router, fan_out, metrics, config, stop));
    address
}

fn batch(number: u64) -> Batch {
    let asset = "asset://aws/111122223333/eu-west-1/ec2/security-group/sg-1";
    let head = EventHead {
        id: format!("{number}:0"),
        time: Time::default(),
        observed: Time::default(),
        action: Action::Update,
        asset: AssetName::from_text(asset),
        asset_type: "network.security_group".to_owned(),
        provider: "aws".to_owned(),
        account: "111122223333".to_owned(),
        region: "eu-west-1".to_owned(),
        principals: Vec::new(),
        method: "cli".to_owned(),
        novelty: Novelty::default(),
    };
    Batch { events: vec![NewEvent { head, json: Bytes::from(event(number)) }], ..Batch::default() }
}
