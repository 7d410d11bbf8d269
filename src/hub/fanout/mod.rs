//! Serves streams that own their socket: plain HTTP/1.1, after the head of the answer.
//!
//! A few tasks, the shards, serve all such streams; a stream has no task, no queue and no buffer of its own. It is a
//! `slot`: a socket, a cursor and a place in the shard's arrays. A shard that wakes looks once at what is new, finds
//! the slots whose filter passes some of it, and gives each a turn: whatever lies between its cursor and the tail goes
//! out in one system call, as slices of the chunks that all share. So an event that comes alone is sent at once, and
//! under load a call carries many. A socket that takes no more is left alone until the kernel tells that it does; its
//! slot keeps what it was at, which is at most the rest of one event.

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

/// Streams that may wait for a shard to take them; who hands over one more waits.
const ARRIVALS: usize = 256;

/// A stream whose answer's head is sent, and nothing of its body.
#[derive(Debug)]
pub struct PlainStream {
    reader: Reader,
    wire: Wire,
    open: OpenStream,
    /// Dropped when the stream is over.
    held: Option<Box<dyn fmt::Debug + Send>>,
}

impl PlainStream {
    /// Goes on with a subscription that nothing was taken from.
    #[must_use]
    pub fn new(subscription: Subscription, wire: Wire, open: OpenStream) -> Self {
        Self { reader: subscription.into_reader(), wire, open, held: None }
    }

    /// Keeps something until the stream is over: its connection's place among those that may be open.
    #[must_use]
    pub fn holding(self, held: impl fmt::Debug + Send + 'static) -> Self {
        Self { held: Some(Box::new(held)), ..self }
    }
}

/// How the fan-out behaves.
#[derive(Clone, Debug)]
pub struct FanOutConfig {
    /// How long a client may take nothing of what waits for it, before its stream is let go.
    pub stalled_after: Duration,
    /// Tasks that share the streams.
    pub shards: NonZeroUsize,
}

impl FanOutConfig {
    /// A shard for every core.
    #[must_use]
    pub fn new(stalled_after: Duration) -> Self {
        Self { stalled_after, shards: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN) }
    }
}

/// Where streams are handed over. Cheap to clone. The shards end when all clones are gone and all streams are closed.
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

    /// Takes a stream over; waits while many are coming.
    ///
    /// # Errors
    /// When a shard has broken down.
    pub async fn serve(&self, socket: TcpStream, stream: PlainStream) -> io::Result<()> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let Some(shard) = self.shards.get(next) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        shard.send((socket, stream)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
