//! One connection, from its first byte to its last: in the clear, where streams leave hyper for the fan-out, or over
//! TLS, where hyper writes every answer, over HTTP/2 or HTTP/1.1 as the two sides agree (ALPN).

use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::access::Peer;
use super::handover::Handover;
use super::http2::{Paced, Requests, Taking, builder};
use super::places::Place;
use super::serve::Server;
use super::socket::{Socket, Watch};
use crate::hub::PlainStream;
use crate::tls::Tls;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A closing HTTP/2 connection without an open request for this long has nothing more in flight. Waiting before GOAWAY
/// helps clients that take it for the end, though responses may still follow.
const MOMENT: Duration = Duration::from_millis(50);
/// How long a client may keep a connection open after GOAWAY and its last response; the server's stop waits for it.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

type Encrypted = TokioIo<TlsStream<Socket>>;

/// The router as a hyper service, for one connection.
struct Routed {
    router: TowerToHyperService<Router>,
    /// Where a stream that leaves hyper is put; `None` if streams must stay with hyper.
    handover: Option<Handover>,
    peer: Peer,
}

impl Routed {
    fn route(
        &self,
        mut request: Request<Incoming>,
    ) -> <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future {
        if let Some(handover) = &self.handover {
            request.extensions_mut().insert(handover.clone());
        }
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}

impl Service<Request<Incoming>> for Routed {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.route(request)
    }
}

/// [`Routed`] for HTTP/2, with bodies that detect a client that does not read.
struct RoutedPaced(Routed);

impl Service<Request<Incoming>> for RoutedPaced {
    type Response = Response<Paced>;
    type Error = <Routed as Service<Request<Incoming>>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answer = self.0.route(request);
        Box::pin(async move { Ok(answer.await?.map(|body: Body| Paced::new(body, Taking::of_task()))) })
    }
}

/// Serves a connection until it ends. Buffers are allocated when its first byte has arrived.
pub(super) async fn serve(server: Arc<Server>, socket: TcpStream, peer: Peer, place: Place) {
    let mut first = [0];
    let begins = tokio::time::timeout(server.config.request_timeout, socket.peek(&mut first));
    let Some(Ok(Ok(1))) = server.stop.run_until_cancelled(begins).await else { return };
    match server.config.tls.clone() {
        None => Box::pin(plain(&server, socket, peer, place)).await,
        Some(_) if first.iter().all(u8::is_ascii_uppercase) => tell_of_tls(&socket),
        Some(tls) => Box::pin(encrypted(&server, &tls, socket, peer)).await,
    }
}

/// Responds to plain HTTP on an HTTPS port. A request begins with a capital letter; a TLS record does not.
fn tell_of_tls(socket: &TcpStream) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\r\n\
        {\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\"code\":\"tls_needed\",\
        \"detail\":\"this port speaks HTTPS: ask https://\"}";
    // What has come is taken first: a socket that is closed on top of it takes the answer back.
    let _ = socket.try_read(&mut [0; 4096]);
    let _ = socket.try_write(ANSWER);
}

type Http = http1::Connection<TokioIo<Socket>, Routed>;

async fn plain(server: &Server, socket: TcpStream, peer: Peer, place: Place) {
    let (handover, watch) = (Handover::default(), Watch::default());
    let service = server.routed(Some(handover.clone()), peer);
    let socket = TokioIo::new(Socket::new(socket, watch.clone()));
    let mut http = Box::new(server.http1.serve_connection(socket, service));
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
            server.tell_of_stalled(peer);
            Ok(None)
        }
    };
    match outcome {
        Ok(None) => {}
        Ok(Some(stream)) => {
            // Requests that the client has sent ahead are not read: the head says that the connection ends.
            let socket = http.into_parts().io.into_inner().into_inner();
            if let Err(error) = server.fan_out.serve(socket, stream.holding(place)).await {
                tracing::error!(%error, "stream dropped: the fan-out has failed");
            }
        }
        // Clients go away all the time.
        Err(error) => tracing::debug!(%error, "connection ended"),
    }
}

/// Drives hyper until a stream is handed over and the response head is written; `None` if the connection ended before.
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

/// The TLS handshake, within [`HANDSHAKE_TIMEOUT`]. A failure is logged and counted, and gives `None`.
async fn handshake(server: &Server, tls: &Tls, socket: Socket, Peer(peer): Peer) -> Option<TlsStream<Socket>> {
    let accept = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls.server()).accept(socket));
    match server.stop.run_until_cancelled(Box::pin(accept)).await? {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) if concerns_client_certificate(&error) => {
            tracing::warn!(target: "audit", peer = %peer.ip(), reason = %error, "connection refused");
        }
        // Whoever looks which ports are open comes by here.
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
    server.metrics.refused_connections.with_label_values(&["tls"]).inc();
    None
}

/// Whether the handshake failed because of the client's certificate, or for lack of one.
fn concerns_client_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

async fn encrypted(server: &Server, tls: &Tls, socket: TcpStream, peer: Peer) {
    let watch = &Watch::default();
    let Some(stream) = handshake(server, tls, Socket::new(socket, watch.clone()), peer).await else { return };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let (io, service) = (TokioIo::new(stream), server.routed(None, peer));
    if !is_http2 {
        let http = server.http1.serve_connection(io, service);
        return until_over(server, http, http1::Connection::<Encrypted, _>::graceful_shutdown, None, watch, peer).await;
    }
    let stalled_after = server.config.stalled_after;
    let requests = Requests::new(server.connections.clone(), Arc::clone(&server.metrics), stalled_after);
    let http = builder(requests.clone(), stalled_after).serve_connection(io, RoutedPaced(service));
    let wind_down = http2::Connection::<Encrypted, _, _>::graceful_shutdown;
    until_over(server, http, wind_down, Some(&requests), watch, peer).await;
}

/// Serves until the connection ends by itself, its client stalls, or it is to close. `requests` are given for HTTP/2
/// only: over HTTP/1.1 hyper itself closes idle connections.
async fn until_over<C: Future<Output = Result<(), hyper::Error>>>(
    server: &Server,
    http: C,
    wind_down: fn(Pin<&mut C>),
    requests: Option<&Requests>,
    watch: &Watch,
    peer: Peer,
) {
    let mut http = Box::pin(http);
    let mut stalled = pin!(watch.stalled(server.config.stalled_after));
    tokio::select! {
        biased;
        outcome = &mut http => return ended(outcome),
        () = &mut stalled => return server.tell_of_stalled(peer),
        () = end(server, requests) => {}
    }
    wind_down(http.as_mut());
    tokio::select! {
        outcome = &mut http => ended(outcome),
        () = stalled => server.tell_of_stalled(peer),
        () = left_behind(requests) => tracing::debug!(peer = %peer.0, "connection dropped: its client kept it open"),
    }
}

/// Returns when the connection is to close: the server stops, or an HTTP/2 connection has been idle for too long.
async fn end(server: &Server, requests: Option<&Requests>) {
    let Some(requests) = requests else { return server.stop.cancelled().await };
    tokio::select! {
        () = server.stop.cancelled() => {
            // A client that goes on asking, only to hear of it, does not hold up the end.
            let _ = tokio::time::timeout(MOMENT * 5, requests.idle(MOMENT)).await;
        }
        () = requests.idle(server.config.request_timeout) => {}
    }
}

/// Returns when a client that got GOAWAY and all of its responses still keeps the connection open.
async fn left_behind(requests: Option<&Requests>) {
    let Some(requests) = requests else { return pending().await };
    tokio::time::sleep(LEAVE_TIMEOUT).await;
    requests.idle(MOMENT).await;
}

fn ended(outcome: Result<(), hyper::Error>) {
    if let Err(error) = outcome {
        // Clients go away all the time.
        tracing::debug!(%error, "connection ended");
    }
}

impl Server {
    fn routed(&self, handover: Option<Handover>, peer: Peer) -> Routed {
        Routed { router: self.service.clone(), handover, peer }
    }

    fn tell_of_stalled(&self, Peer(peer): Peer) {
        tracing::info!(%peer, after = ?self.config.stalled_after, "connection reset: the client read nothing");
    }
}
