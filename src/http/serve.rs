//! Accepting connections.
//!
//! An own loop rather than axum's: it sets the sockets' options, holds the number of connections, drops clients that
//! never finish a request or never take the answer, takes the sockets of streams back from hyper, and waits for its
//! connections when it stops.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Peer;
use super::connection;
use super::places::{Full, Places};
use crate::hub::FanOut;
use crate::metrics::Metrics;
use crate::tls::Tls;

/// Unsent bytes that the kernel buffers per connection (`TCP_NOTSENT_LOWAT`), so that a client that does not read costs
/// this and not megabytes.
const NOT_SENT_BYTES: u32 = 128 * 1024;
/// TCP keepalive: idle time before a peer is probed. NDJSON streams have no heartbeats to notice a dead one.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);
/// Most bytes of a request head; over HTTP/1.1 also the size of a connection's buffers. hyper itself limits HTTP/1.1 to
/// 100 fields.
pub(super) const HEAD_BYTES: u32 = 64 * 1024;
/// Pause after `accept` failed for lack of a resource, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// Interval between warnings that there are too many connections.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Limits of connections.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// How long a client may not read a pending response before its connection is reset.
    pub stalled_after: Duration,
    /// How long a request head may take to arrive, and how long an idle connection is kept.
    pub request_timeout: Duration,
    /// Connections that may be open at once, streams included.
    pub max_connections: usize,
    /// The same per client address, or IPv6 /64 network; `None`: no limit.
    pub max_connections_per_address: Option<NonZeroUsize>,
    /// The certificate for HTTPS; `None`: plain HTTP.
    pub tls: Option<Arc<Tls>>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            stalled_after: Duration::from_secs(300),
            request_timeout: Duration::from_secs(75),
            max_connections: 25_000,
            max_connections_per_address: None,
            tls: None,
        }
    }
}

/// Serves plain HTTP/1.1, or HTTP/2 and HTTP/1.1 over TLS, until `stop` is cancelled. Then it accepts no more
/// connections, lets each finish its current response, and returns when all are closed. Plain streams go to the
/// fan-out; all streams end by themselves if [`AppState::stop`](super::AppState::stop) is the same token. A client that
/// does not read can delay the return; the caller enforces a deadline by dropping the future.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    fan_out: FanOut,
    metrics: Arc<Metrics>,
    config: ServeConfig,
    stop: CancellationToken,
) {
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(config.request_timeout)
        .max_header_size(HEAD_BYTES as usize)
        .max_buf_size(HEAD_BYTES as usize);
    let open = metrics.connections.clone();
    let places = Places::new(config.max_connections, config.max_connections_per_address, open);
    let (service, connections) = (TowerToHyperService::new(router), TaskTracker::new());
    let server = Arc::new(Server { http1, service, fan_out, metrics, config, connections, stop });
    let mut refusals = Refusals::default();
    while let Some(accepted) = server.stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, peer)) => match places.take(peer.ip()) {
                Ok(place) => {
                    if let Err(error) = tune(&socket) {
                        tracing::debug!(%error, "socket options not set");
                    }
                    let connection = connection::serve(Arc::clone(&server), socket, Peer(peer), place);
                    server.connections.spawn(connection);
                }
                // Closed at once: what waits to be refused would hold what there is too little of.
                Err(full) => refusals.tell(full, peer, &server),
            },
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; retrying");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    server.connections.close();
    server.connections.wait().await;
}

/// The state shared by all connections.
pub(super) struct Server {
    pub(super) http1: http1::Builder,
    pub(super) service: TowerToHyperService<Router>,
    pub(super) fan_out: FanOut,
    pub(super) metrics: Arc<Metrics>,
    pub(super) config: ServeConfig,
    /// The tasks of connections, and those of HTTP/2 requests.
    pub(super) connections: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// Connections refused since the last warning.
#[derive(Default)]
struct Refusals {
    count: u64,
    told: Option<Instant>,
}

impl Refusals {
    fn tell(&mut self, full: Full, peer: SocketAddr, server: &Server) {
        let (reason, key) = match full {
            Full::InAll => ("max_connections", "http.max_connections"),
            Full::OfAddress => ("max_connections_per_address", "http.max_connections_per_address"),
        };
        server.metrics.refused_connections.with_label_values(&[reason]).inc();
        self.count += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            tracing::warn!(%peer, limit = key, refused = self.count, "connections refused: too many are open");
            *self = Self { count: 0, told: Some(Instant::now()) };
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_notsent_lowat(NOT_SENT_BYTES)?;
    Ok(())
}

/// Whether an error concerns the connection about to be accepted, not the listener (`man 2 accept`).
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
