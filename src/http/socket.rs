//! A connection's socket as hyper has it, with an eye on what it writes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A socket that tells its [`Watch`] what becomes of writes.
pub(super) struct Socket {
    io: TokioIo<TcpStream>,
    watch: Watch,
}

/// What is known of a socket's writes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Arc<Mutex<Writes>>);

#[derive(Debug, Default)]
struct Writes {
    /// hyper has written something and not flushed it.
    unflushed: bool,
    /// Since when the socket has taken nothing of what hyper has for it.
    blocked: Option<Instant>,
}

impl Watch {
    /// Whether the socket has got all that hyper wrote.
    pub(super) fn is_flushed(&self) -> bool {
        !self.writes(|writes| writes.unflushed)
    }

    /// Returns when the socket has taken nothing for so long, though something waits.
    pub(super) async fn stalled(&self, after: Duration) {
        loop {
            let wait = match self.writes(|writes| writes.blocked) {
                Some(since) => after.saturating_sub(since.elapsed()),
                None => after,
            };
            if wait.is_zero() {
                return;
            }
            tokio::time::sleep(wait).await;
        }
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

impl Socket {
    pub(super) fn new(stream: TcpStream, watch: Watch) -> Self {
        Self { io: TokioIo::new(stream), watch }
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.io.into_inner()
    }
}

impl Read for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch.wrote(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when it has written all it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        if outcome.is_ready() {
            self.watch.writes(|writes| writes.unflushed = false);
        }
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
