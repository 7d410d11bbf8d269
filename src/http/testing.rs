//! A whole interface over a small log, for tests.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::{HeaderMap, HeaderName, Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::{AppState, HttpConfig, Readiness, ServeConfig, router, serve};
use crate::auth::{Access, AuthConfig};
use crate::history::History;
use crate::hub::testing::{TestLog, event, moment};
use crate::hub::{FanOut, FanOutConfig, Hub, HubConfig};
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
    /// The address, if requests go over sockets.
    address: Option<SocketAddr>,
    pub(super) tracker: TaskTracker,
}

/// A complete response.
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
    /// A server with this many events in its log.
    pub(super) async fn new(events: u64) -> Self {
        Self::with(events, |_| {}).await
    }

    pub(super) async fn with(events: u64, change: impl FnOnce(&mut HttpConfig)) -> Self {
        let log = TestLog::new(8);
        let stop = CancellationToken::new();
        let events_log = Arc::clone(&log) as Arc<dyn EventLog>;
        let tracker = TaskTracker::new();
        let hub = Hub::start(events_log.clone(), &HubConfig::default(), &tracker, stop.clone());
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
            config: Arc::new(arc_swap::ArcSwap::from_pointee(config)),
        };
        let router = router(state.clone()).unwrap();
        let world = Self { log, hub, router, state, stop, address: None, tracker };
        world.push(events).await;
        world
    }

    /// The same twice: one whose requests go straight to the router, whose responses are what hyper would write; and
    /// one over sockets, where streams leave hyper.
    pub(super) async fn by_both_doors(events: u64) -> [Self; 2] {
        [Self::new(events).await, Self::new(events).await.served().await]
    }

    /// Serves requests over sockets from now on.
    pub(super) async fn served(mut self) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = Some(listener.local_addr().unwrap());
        let stalled_after = Duration::from_secs(60);
        let config = FanOutConfig { shards: NonZeroUsize::new(2).unwrap(), stalled_after };
        let fan_out = FanOut::start(&self.hub, &config, &self.state.metrics, &self.tracker, &self.stop);
        let config = ServeConfig { stalled_after, ..ServeConfig::default() };
        let metrics = Arc::clone(&self.state.metrics);
        self.tracker.spawn(serve(listener, self.router.clone(), fan_out, metrics, config, self.stop.clone()));
        self
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address.expect("a world that is served")
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

    /// A complete response; for streams only if they end.
    pub(super) async fn get(&self, uri: &str) -> Answer {
        self.get_with(uri, &[]).await
    }

    pub(super) async fn get_with(&self, uri: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", uri, headers).await
    }

    pub(super) async fn send(&self, method: &str, uri: &str, headers: &[(&str, &str)]) -> Answer {
        if let Some(address) = self.address {
            let mut client = Client::request(address, method, uri, headers).await;
            let body = client.rest().await;
            return Answer { status: client.status, headers: client.headers, body };
        }
        let response = self.request(build(method, uri, headers)).await;
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    /// Opens a stream.
    pub(super) async fn open(&self, uri: &str, headers: &[(&str, &str)]) -> Reading {
        if let Some(address) = self.address {
            let client = Client::request(address, "GET", uri, headers).await;
            assert_eq!(client.status, StatusCode::OK);
            assert_eq!(client.headers.get("connection").unwrap(), "close", "it has left hyper");
            return Reading { source: Source::Socket(client), text: String::new() };
        }
        let response = self.request(build("GET", uri, headers)).await;
        assert_eq!(response.status(), StatusCode::OK);
        Reading { source: Source::Body(response.into_body().into_data_stream()), text: String::new() }
    }
}

/// The NDJSON line of an event.
pub(super) fn line(number: u64) -> String {
    format!("{}\n", std::str::from_utf8(&event(number).json).unwrap())
}

/// The SSE frame of an event.
pub(super) fn frame(number: u64) -> String {
    format!("id: abc.{number}\ndata: {}\n", line(number))
}

pub(super) fn build(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri).header("host", "x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

/// An open stream.
pub(super) struct Reading {
    source: Source,
    /// Text received and not yet expected.
    text: String,
}

enum Source {
    Body(BodyDataStream),
    Socket(Client),
}

impl Reading {
    /// The next piece; `None` at the end, an error if the response is cut off.
    pub(super) async fn next(&mut self) -> Option<Result<String, String>> {
        match &mut self.source {
            Source::Body(body) => {
                let piece = body.next().await?;
                Some(piece.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).map_err(|error| error.to_string()))
            }
            Source::Socket(client) => client.piece().await,
        }
    }

    /// Asserts what comes next, in however many pieces.
    pub(super) async fn expect(&mut self, text: impl AsRef<str>) {
        let text = text.as_ref();
        while self.text.len() < text.len() {
            let piece = self.next().await.expect("the stream goes on").expect("the stream is whole");
            self.text += &piece;
        }
        assert!(self.text.starts_with(text), "expected {text:?}, got {:?}", self.text);
        self.text.drain(..text.len());
    }

    /// Asserts that the stream ends now: properly if `complete`, else cut off.
    pub(super) async fn expect_end(&mut self, complete: bool) {
        assert_eq!(self.text, "");
        match self.next().await {
            None => assert!(complete, "the answer looks complete"),
            Some(Ok(text)) => panic!("the stream goes on: {text:?}"),
            Some(Err(error)) => assert!(!complete, "the answer is cut off: {error}"),
        }
    }
}

/// A minimal HTTP/1.1 client.
struct Client {
    socket: TcpStream,
    got: Vec<u8>,
    status: StatusCode,
    headers: HeaderMap,
}

impl Client {
    async fn request(address: SocketAddr, method: &str, uri: &str, headers: &[(&str, &str)]) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{method} {uri} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut client = Self { socket, got: Vec::new(), status: StatusCode::OK, headers: HeaderMap::new() };
        let head = client.until("\r\n\r\n").await.expect("an answer");
        let mut lines = head.split("\r\n");
        client.status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            client.headers.append(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        client
    }

    /// Reads up to and including a text; `None` if the connection ends before.
    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self.got.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(at) = found {
                return Some(String::from_utf8(self.got.drain(..at + end.len()).collect()).unwrap());
            }
            if self.socket.read_buf(&mut self.got).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<String> {
        while self.got.len() < length {
            if self.socket.read_buf(&mut self.got).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        Some(String::from_utf8(self.got.drain(..length).collect()).unwrap())
    }

    /// The next chunk; `None` at the last one.
    async fn piece(&mut self) -> Option<Result<String, String>> {
        let cut_off = || Some(Err("cut off".to_owned()));
        let Some(head) = self.until("\r\n").await else { return cut_off() };
        let length = usize::from_str_radix(head.trim_end(), 16).unwrap();
        let Some(text) = self.exactly(length + 2).await else { return cut_off() };
        if length == 0 {
            let closes = self.headers.get("connection").is_some_and(|value| value == "close");
            assert!(!closes || self.ends().await, "the connection ends");
            return None;
        }
        Some(Ok(text.strip_suffix("\r\n").unwrap().to_owned()))
    }

    async fn ends(&mut self) -> bool {
        self.socket.read_buf(&mut self.got).await.unwrap_or(0) == 0
    }

    /// The rest of the body.
    async fn rest(&mut self) -> String {
        if self.headers.contains_key("transfer-encoding") {
            let mut text = String::new();
            while let Some(piece) = self.piece().await {
                text += &piece.unwrap();
            }
            return text;
        }
        let length = self.headers.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        self.exactly(length).await.unwrap()
    }
}

/// The built-in rules, compiled once for all tests.
static RULES: LazyLock<Arc<Engine>> = LazyLock::new(|| Arc::new(Engine::load(None).unwrap()));

/// The tests' current time: ten minutes after the hundredth event.
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
        inventory.restore(stored.to_string().into()).unwrap();
    }
    inventory
}

/// The `id:` of every frame.
pub(super) fn ids(text: &str) -> Vec<Seq> {
    let ids = text.lines().filter_map(|line| line.strip_prefix("id: abc."));
    ids.map(|id| Seq(id.parse().unwrap())).collect()
}
