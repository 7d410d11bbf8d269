//! Accepting connections.
//!
//! An own loop rather than axum's: it sets the sockets' options, drops clients that never finish a request, and waits
//! for its connections when it stops.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

/// Serves HTTP/1.1 until `stop`: then takes no more connections, lets each finish the answer it is at, and returns
/// when all are closed. Streams end by themselves when [`AppState::stop`](super::AppState::stop) is the same token.
/// A client that does not read its answer can hold this up: the deadline is the caller's, who drops the future.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER_BYTES);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = tune(&stream) {
                    tracing::debug!(%error, "socket options not set");
                }
                connections.spawn(connection(stream, service.clone(), http.clone(), stop.clone()));
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

async fn connection(
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    http: http1::Builder,
    stop: CancellationToken,
) {
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        biased;
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        // Clients go away all the time.
        tracing::debug!(%error, "connection ended");
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

/// Errors of the connection that was about to be accepted, not of the listener (`man 2 accept`).
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
