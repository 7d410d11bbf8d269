//! A whole interface over a small log, for tests.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::{AppState, HttpConfig, Readiness, router};
use crate::auth::{Access, AuthConfig};
use crate::history::History;
use crate::hub::testing::{TestLog, moment};
use crate::hub::{Hub, HubConfig};
use crate::inventory::Inventory;
use crate::log::EventLog;
use crate::metrics::Metrics;
use crate::model::{Seq, Time};
use crate::normalize::Engine;
use crate::source::StatusBoard;

pub(super) struct World {
    pub(super) log: Arc<TestLog>,
    pub(super) hub: Arc<Hub>,
    pub(super) state: AppState,
    pub(super) stop: CancellationToken,
    pub(super) router: Router,
}

/// An answer whose body has ended.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// Status and code of a problem.
    pub(super) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.body);
        (self.status.as_u16(), self.json()["code"].as_str().unwrap_or_default().to_owned())
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl World {
    /// With `events` in the log.
    pub(super) async fn new(events: u64) -> Self {
        Self::with(events, |_| {}).await
    }

    pub(super) async fn with(events: u64, change: impl FnOnce(&mut HttpConfig)) -> Self {
        let log = TestLog::new(8);
        let stop = CancellationToken::new();
        let events_log = Arc::clone(&log) as Arc<dyn EventLog>;
        let hub = Hub::start(events_log.clone(), &HubConfig::default(), &TaskTracker::new(), stop.clone());
        let mut config = HttpConfig::default();
        change(&mut config);
        let access =
            Access::new(AuthConfig { anonymous: true, ..AuthConfig::default() }, None, config.type_prefix.clone(), now)
                .unwrap();
        let inventory = Arc::new(inventory());
        let rules = watch::channel(Arc::clone(&RULES)).1;
        let state = AppState {
            hub: Arc::clone(&hub),
            history: History::new(Arc::clone(&events_log), Arc::clone(&inventory), rules),
            log: events_log,
            inventory,
            sources: StatusBoard::default(),
            metrics: Arc::new(Metrics::new().unwrap()),
            access,
            readiness: Readiness::default(),
            stop: stop.clone(),
            clock: now,
            config,
        };
        let world = Self { log, hub, router: router(state.clone()).unwrap(), state, stop };
        world.push(events).await;
        world
    }

    pub(super) async fn push(&self, count: u64) {
        let target = self.log.push(count);
        while self.hub.tail() < target || !self.hub.is_following() {
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn request(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// A whole answer; for streams, only those that end.
    pub(super) async fn get(&self, uri: &str) -> Answer {
        self.get_with(uri, &[]).await
    }

    pub(super) async fn get_with(&self, uri: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", uri, headers).await
    }

    pub(super) async fn send(&self, method: &str, uri: &str, headers: &[(&str, &str)]) -> Answer {
        let response = self.request(build(method, uri, headers)).await;
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    /// An answer that goes on.
    pub(super) async fn open(&self, uri: &str, headers: &[(&str, &str)]) -> Reading {
        let response = self.request(build("GET", uri, headers)).await;
        assert_eq!(response.status(), StatusCode::OK);
        Reading(response.into_body().into_data_stream())
    }
}

fn build(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

/// An open stream.
pub(super) struct Reading(BodyDataStream);

impl Reading {
    /// The next piece; `None` at the end, an error when the answer is cut off.
    pub(super) async fn next(&mut self) -> Option<Result<String, String>> {
        let piece = self.0.next().await?;
        Some(piece.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).map_err(|error| error.to_string()))
    }

    /// The next piece, which must come.
    pub(super) async fn text(&mut self) -> String {
        self.next().await.expect("the stream goes on").expect("the stream is whole")
    }
}

/// The built-in rules, compiled once for all tests.
static RULES: LazyLock<Arc<Engine>> = LazyLock::new(|| Arc::new(Engine::load(None).unwrap()));

/// The tests' time of day: ten minutes after the hundredth event.
fn now() -> Time {
    moment(110)
}

/// Ten security groups with an alias each; the last is deleted.
fn inventory() -> Inventory {
    let inventory = Inventory::new();
    for n in 0..10_u64 {
        let stored = json!({
            "name": format!("asset://aws/123837392027/us-east-1/ec2/security-group/sg-{n}"),
            "id": format!("sg-{n}"),
            "type": "network.security_group",
            "provider": "aws",
            "provider_type": "AWS::EC2::SecurityGroup",
            "arn": null,
            "arn_is_told": false,
            "account": if n < 5 { "1" } else { "2" },
            "region": "us-east-1",
            "display_name": format!("group {n}"),
            "tags": { "a": 2, "b": 1.50 },
            "state": if n == 9 { "deleted" } else { "complete" },
            "first_seen": moment(1),
            "changed": moment(n),
            "last_event": format!("e-{n}:0"),
            "aliases": [format!("asset://aws/old/{n}")],
            "configuration": (n != 9).then(|| json!({ "rules": [], "z": 1e2 })),
        });
        inventory.restore(stored.to_string().as_bytes()).unwrap();
    }
    inventory
}

/// The `id:` of every frame.
pub(super) fn ids(text: &str) -> Vec<Seq> {
    let ids = text.lines().filter_map(|line| line.strip_prefix("id: abc."));
    ids.map(|id| Seq(id.parse().unwrap())).collect()
}
