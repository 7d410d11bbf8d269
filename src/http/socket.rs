//! A connection's socket, which tracks the progress of its writes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A socket that tells its [`Watch`] what becomes of writes. Under TLS it is what carries the records.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    watch: Watch,
}

/// What is known of a socket's writes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Arc<Mutex<Writes>>);

#[derive(Debug, Default)]
struct Writes {
    /// hyper has written something and not flushed it.
    unflushed: bool,
    /// Since when the socket has taken nothing of what there is for it.
    blocked: Option<Instant>,
}

impl Watch {
    /// Whether the socket has got all that hyper wrote.
    pub(super) fn is_flushed(&self) -> bool {
        !self.writes(|writes| writes.unflushed)
    }

    /// Returns when the socket has taken nothing for so long, though something waits.
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

/// Returns when a state has lasted for so long. `since` tells when it began; `None`: it does not hold now.
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

    /// hyper flushes when it has written all it has.
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
