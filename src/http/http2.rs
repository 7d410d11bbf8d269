//! HTTP/2 (RFC 9113) with limits: on what a connection may request, and on how long a client may leave one response
//! unread while it reads others on the same connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::serve::{HEAD_BYTES, KEEPALIVE};
use super::socket::lasting;
use crate::metrics::Metrics;

/// Concurrent requests on one connection (`SETTINGS_MAX_CONCURRENT_STREAMS`).
const MAX_STREAMS: u32 = 256;
/// Requests that the client reset before they were accepted; beyond it the connection is closed (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// Streams that we reset because of protocol errors by the client; beyond it the connection is closed.
const MAX_OWN_RESETS: usize = 256;
/// Flow-control window for request bodies, in bytes. Small, since no resource takes one.
const RECEIVE_WINDOW: u32 = 65_535;
/// Bytes of a response that hyper buffers beyond the client's window.
const SEND_BYTES: usize = 64 * 1024;
/// Bytes of a response given to hyper at once: one DATA frame, so that each further poll is a sign of life.
const PIECE_BYTES: usize = 16 * 1024;

/// The settings of an HTTP/2 connection, whose requests run on `requests`.
pub(super) fn builder(requests: Requests, stalled_after: Duration) -> http2::Builder<Requests> {
    let mut http = http2::Builder::new(requests);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_OWN_RESETS)
        .initial_stream_window_size(RECEIVE_WINDOW)
        .initial_connection_window_size(RECEIVE_WINDOW)
        .max_header_list_size(HEAD_BYTES)
        .max_send_buf_size(SEND_BYTES)
        // A slow client answers when it has taken what is before the question: it is allowed as much as to take it.
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(stalled_after);
    http
}

tokio::task_local! {
    /// The state of the response that this task produces.
    static TAKING: Taking;
}

/// The requests of one connection, each of which hyper runs as a task here. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
    stalled_after: Duration,
    open: Open,
}

impl Requests {
    pub(super) fn new(tasks: TaskTracker, metrics: Arc<Metrics>, stalled_after: Duration) -> Self {
        Self { tasks, metrics, stalled_after, open: Open::default() }
    }

    /// Returns when no request has been open for this long.
    pub(super) async fn idle(&self, after: Duration) {
        lasting(|| self.open.idle(), after).await;
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Requests {
    fn execute(&self, answer: F) {
        let (open, taking) = (self.open.one_more(), Taking::default());
        let (metrics, stalled_after) = (Arc::clone(&self.metrics), self.stalled_after);
        self.tasks.spawn(TAKING.scope(taking.clone(), async move {
            let _open = open;
            tokio::select! {
                () = answer => {}
                // Dropping what answers resets the stream.
                () = taking.stalled(stalled_after) => {
                    tracing::info!(after = ?stalled_after, "response reset: the client read nothing");
                    metrics.stream_stalled.inc();
                }
            }
        }));
    }
}

/// The number of open requests.
#[derive(Clone, Debug, Default)]
struct Open(Arc<Mutex<Count>>);

#[derive(Debug)]
struct Count {
    open: usize,
    /// Since when there has been none; `None` while there is one.
    idle: Option<Instant>,
}

impl Default for Count {
    fn default() -> Self {
        Self { open: 0, idle: Some(Instant::now()) }
    }
}

/// Counts an open request until dropped.
struct OpenOne(Open);

impl Open {
    fn one_more(&self) -> OpenOne {
        let mut count = self.count();
        count.open += 1;
        count.idle = None;
        OpenOne(self.clone())
    }

    fn idle(&self) -> Option<Instant> {
        self.count().idle
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenOne {
    fn drop(&mut self) {
        let mut count = self.0.count();
        count.open -= 1;
        if count.open == 0 {
            count.idle = Some(Instant::now());
        }
    }
}

/// Since when hyper has held a piece of the response without polling for the next; `None` while it has not.
#[derive(Clone, Debug, Default)]
pub(super) struct Taking(Arc<Mutex<Option<Instant>>>);

impl Taking {
    /// The one of the current task.
    pub(super) fn of_task() -> Self {
        TAKING.try_with(Clone::clone).unwrap_or_default()
    }

    async fn stalled(&self, after: Duration) {
        lasting(|| *self.since(), after).await;
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A response body in pieces of one frame, which shows whether the client reads: hyper polls for the next piece when
/// the client's window has room for the one before.
pub(super) struct Paced {
    body: Body,
    /// The rest of the inner body's last chunk.
    rest: Bytes,
    taking: Taking,
}

impl Paced {
    pub(super) fn new(body: Body, taking: Taking) -> Self {
        Self { body, rest: Bytes::new(), taking }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        *self.taking.since() = None;
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(length);
        *self.taking.since() = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, of_body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower().saturating_add(rest));
        if let Some(upper) = of_body.upper().and_then(|upper| upper.checked_add(rest)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(body: &mut Paced) -> Option<Bytes> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
        Some(frame.unwrap().into_data().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_given_in_pieces_and_is_stalled_while_none_is_asked_for() {
        let (taking, text) = (Taking::default(), vec![7; PIECE_BYTES * 2 + 1]);
        let mut body = Paced::new(Body::from(text.clone()), taking.clone());
        let patience = Duration::from_secs(10);
        let stalled =
            async |taking: &Taking| tokio::time::timeout(patience * 3, taking.stalled(patience)).await.is_ok();
        assert!(!stalled(&taking).await, "nothing was given");
        let mut got = Vec::new();
        while let Some(piece) = next(&mut body).await {
            assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES);
            got.extend_from_slice(&piece);
            assert_eq!(body.size_hint().exact(), Some((text.len() - got.len()) as u64));
            assert_eq!(body.is_end_stream(), got.len() == text.len());
            let began = Instant::now();
            assert!(stalled(&taking).await);
            assert_eq!(began.elapsed(), patience, "counted from the last piece");
        }
        assert_eq!(got, text);
        assert!(!stalled(&taking).await, "all was taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_while_no_request_is_open() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let requests = Requests::new(TaskTracker::new(), metrics, Duration::from_secs(5));
        let patience = Duration::from_secs(10);
        let idle = async || tokio::time::timeout(patience * 2, requests.idle(patience)).await.is_ok();
        assert!(idle().await, "from the beginning");
        let (answered, answer) = tokio::sync::oneshot::channel::<()>();
        requests.execute(async { drop(answer.await) });
        requests.execute(async {});
        assert!(!idle().await);
        answered.send(()).unwrap();
        let began = Instant::now();
        assert!(idle().await);
        assert_eq!(began.elapsed(), patience, "counted from the last answer");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_dropped() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let tasks = TaskTracker::new();
        let requests = Requests::new(tasks.clone(), Arc::clone(&metrics), Duration::from_secs(5));
        requests.execute(async {
            let mut body = Paced::new(Body::from("text"), Taking::of_task());
            next(&mut body).await;
            // As hyper waits for a window that never opens.
            std::future::pending::<()>().await;
        });
        requests.execute(async {
            let mut body = Paced::new(Body::from("text"), Taking::of_task());
            while next(&mut body).await.is_some() {
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
        });
        tasks.close();
        tasks.wait().await;
        assert_eq!(metrics.stream_stalled.get(), 1);
    }
}
