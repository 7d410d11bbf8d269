//! A connection's socket, which tracks the progress of its writes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A socket that reports the progress of writes to its [`Watch`]. With TLS it carries the encrypted records.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    watch: Watch,
}

/// The progress of a socket's writes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Arc<Mutex<Writes>>);

#[derive(Debug, Default)]
struct Writes {
    /// Whether hyper has written something that it has not flushed.
    unflushed: bool,
    /// Since when the socket has accepted no byte although some are pending; `None` while it accepts.
    blocked: Option<Instant>,
}

impl Watch {
    /// Whether the socket has accepted everything that hyper wrote.
    pub(super) fn is_flushed(&self) -> bool {
        !self.writes(|writes| writes.unflushed)
    }

    /// Returns when bytes have been pending for this long and the socket accepted none.
    pub(super) async fn stalled(&self, after: Duration) {
        lasting(|| self.writes(|writes| writes.blocked), after).await;
    }

    fn writes<T>(&self, act: impl FnOnce(&mut Writes) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        self.writes(|writes| {
            writes.unflushed = true;
            match outcome {
                Poll::Pending => _ = writes.blocked.get_or_insert_with(Instant::now),
                Poll::Ready(_) => writes.blocked = None,
            }
        });
    }
}

/// Returns when a state has lasted for this long. `since` returns when it began, `None` while it does not hold.
pub(super) async fn lasting(since: impl Fn() -> Option<Instant>, after: Duration) {
    loop {
        let wait = since().map_or(after, |since| after.saturating_sub(since.elapsed()));
        if wait.is_zero() {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}

impl Socket {
    pub(super) fn new(stream: TcpStream, watch: Watch) -> Self {
        Self { stream, watch }
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch.wrote(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes after it has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        if outcome.is_ready() {
            self.watch.writes(|writes| writes.unflushed = false);
        }
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
