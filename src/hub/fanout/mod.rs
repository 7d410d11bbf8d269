//! Serves streams that own their socket: plain HTTP/1.1, after the head of the answer.
//!
//! A few tasks, the shards, serve all such streams; a stream has no task, no queue and no buffer of its own. It is a
//! `slot`: a socket, a cursor and a place in the shard's arrays. A shard that wakes looks once at what is new, finds
//! the slots whose filter passes some of it, and gives each a turn: whatever lies between its cursor and the tail goes
//! out in one system call, as slices of the chunks that all share, or out of a file with them (`files`). So an event
//! that comes alone is sent at once, and under load a call carries many. A socket that takes no more is left alone until
//! the kernel tells that it does; its slot keeps what it was at, which is at most the rest of one event.

mod ready;
mod shard;
mod slot;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::reader::Reader;
use super::wire::{OpenStream, Wire};
use super::{Hub, Subscription};
use crate::metrics::Metrics;
use shard::Shard;

/// Streams queued for a shard; handing over one more waits.
const ARRIVALS: usize = 256;

/// A stream whose response head has been sent, and nothing of its body.
#[derive(Debug)]
pub struct PlainStream {
    reader: Reader,
    wire: Wire,
    open: OpenStream,
    /// Dropped when the stream ends.
    held: Option<Box<dyn fmt::Debug + Send>>,
}

impl PlainStream {
    /// Takes over a subscription from which nothing has been read.
    #[must_use]
    pub fn new(subscription: Subscription, wire: Wire, open: OpenStream) -> Self {
        Self { reader: subscription.into_reader(), wire, open, held: None }
    }

    /// Attaches a value to be dropped when the stream ends, such as its connection's slot.
    #[must_use]
    pub fn holding(self, held: impl fmt::Debug + Send + 'static) -> Self {
        Self { held: Some(Box::new(held)), ..self }
    }
}

/// Settings of the fan-out.
#[derive(Clone, Debug)]
pub struct FanOutConfig {
    /// How long a client may not read pending bytes before its connection is reset.
    pub stalled_after: Duration,
    /// Number of tasks that share the streams.
    pub shards: NonZeroUsize,
}

impl FanOutConfig {
    /// One shard per core.
    #[must_use]
    pub fn new(stalled_after: Duration) -> Self {
        Self { stalled_after, shards: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN) }
    }
}

/// The handle to the shards. Cheap to clone. They end when all clones are dropped and all streams are closed.
#[derive(Clone, Debug)]
pub struct FanOut {
    shards: Arc<[mpsc::Sender<(TcpStream, PlainStream)>]>,
    next: Arc<AtomicUsize>,
}

impl FanOut {
    /// Starts the shards on `tracker`. When `stop` is cancelled they close their streams.
    #[must_use]
    pub fn start(
        hub: &Arc<Hub>,
        config: &FanOutConfig,
        metrics: &Arc<Metrics>,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let start = |_| {
            let (sender, arrivals) = mpsc::channel(ARRIVALS);
            let shard = Shard::new(Arc::clone(hub), config.stalled_after, Arc::clone(metrics), stop.clone());
            // A shard gives way by itself, where it means to.
            tracker.spawn(tokio::task::coop::unconstrained(shard.run(arrivals)));
            sender
        };
        Self { shards: (0..config.shards.get()).map(start).collect(), next: Arc::default() }
    }

    /// Hands a stream to a shard; waits while its queue is full.
    ///
    /// # Errors
    /// When the shard's task has ended unexpectedly.
    pub async fn serve(&self, socket: TcpStream, stream: PlainStream) -> io::Result<()> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let Some(shard) = self.shards.get(next) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        shard.send((socket, stream)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
