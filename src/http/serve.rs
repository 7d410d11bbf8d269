//! Accepting connections.
//!
//! An own loop rather than axum's: it sets the sockets' options, drops clients that never finish a request or never
//! take the answer, takes the sockets of streams back from hyper, and waits for its connections when it stops.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Peer;
use super::handover::Handover;
use super::socket::{Socket, Watch};
use crate::hub::{FanOut, PlainStream};

/// Unsent bytes that the kernel takes per connection: a client that does not read costs this, not megabytes.
const NOT_SENT_BYTES: u32 = 128 * 1024;
/// How long the head of a request may take, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Silence after which a peer that may be gone is probed; NDJSON streams have no heartbeats to find out.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Read and write buffers of a connection. The head of a request must fit in.
const BUFFER_BYTES: usize = 64 * 1024;
/// After accept failed for want of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// How connections are served.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// How long a client may take nothing of an answer before its connection is dropped.
    pub stalled_after: Duration,
}

/// Serves HTTP/1.1 until `stop`: then takes no more connections, lets each finish the answer it is at, and returns
/// when all are closed. Streams go to the fan-out, and end by themselves when [`AppState::stop`](super::AppState::stop)
/// is the same token. A client that does not read its answer can hold this up: the deadline is the caller's, who drops
/// the future.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    fan_out: FanOut,
    config: ServeConfig,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER_BYTES);
    let server = Arc::new(Server { http, service: TowerToHyperService::new(router), fan_out, config, stop });
    while let Some(accepted) = server.stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, peer)) => {
                if let Err(error) = tune(&socket) {
                    tracing::debug!(%error, "socket options not set");
                }
                connections.spawn(connection(Arc::clone(&server), socket, Peer(peer)));
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection accepted; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// What connections share.
struct Server {
    http: http1::Builder,
    service: TowerToHyperService<Router>,
    fan_out: FanOut,
    config: ServeConfig,
    stop: CancellationToken,
}

/// The router, for one connection.
struct Routed {
    router: TowerToHyperService<Router>,
    handover: Handover,
    peer: Peer,
}

impl Service<Request<Incoming>> for Routed {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.handover.clone());
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}

type Http = http1::Connection<Socket, Routed>;

async fn connection(server: Arc<Server>, socket: TcpStream, peer: Peer) {
    let (handover, watch) = (Handover::default(), Watch::default());
    let service = Routed { router: server.service.clone(), handover: handover.clone(), peer };
    let mut http = Box::new(server.http.serve_connection(Socket::new(socket, watch.clone()), service));
    let outcome = tokio::select! {
        biased;
        outcome = until_handover(&mut http, &handover, &watch) => outcome,
        () = server.stop.cancelled() => {
            Pin::new(&mut *http).graceful_shutdown();
            tokio::select! {
                outcome = until_handover(&mut http, &handover, &watch) => outcome,
                () = watch.stalled(server.config.stalled_after) => Ok(None),
            }
        }
        () = watch.stalled(server.config.stalled_after) => {
            tracing::info!(after = ?server.config.stalled_after, "connection dropped: its client took nothing");
            Ok(None)
        }
    };
    match outcome {
        Ok(None) => {}
        Ok(Some(stream)) => {
            // Requests that the client has sent ahead are not read: the head says that the connection ends.
            let socket = http.into_parts().io.into_inner();
            if let Err(error) = server.fan_out.serve(socket, *stream).await {
                tracing::error!(%error, "stream dropped: the fan-out has broken down");
            }
        }
        // Clients go away all the time.
        Err(error) => tracing::debug!(%error, "connection ended"),
    }
}

/// Lets hyper do its work, until a stream leaves it and the head of the answer is on its way; `None` when the
/// connection ended before.
async fn until_handover(
    http: &mut Http,
    handover: &Handover,
    watch: &Watch,
) -> Result<Option<Box<PlainStream>>, hyper::Error> {
    poll_fn(|context| match Pin::new(&mut *http).poll(context) {
        Poll::Ready(outcome) => Poll::Ready(outcome.map(|()| None)),
        // hyper is polled again when the socket takes the rest of the head.
        Poll::Pending if watch.is_flushed() => {
            handover.take().map_or(Poll::Pending, |stream| Poll::Ready(Ok(Some(stream))))
        }
        Poll::Pending => Poll::Pending,
    })
    .await
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_notsent_lowat(NOT_SENT_BYTES)?;
    Ok(())
}

/// Errors of the connection that was about to be accepted, not of the listener (`man 2 accept`).
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
