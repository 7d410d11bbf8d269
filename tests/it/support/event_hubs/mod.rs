//! Stands in for Azure Event Hubs: real AMQP 1.0 on loopback
//! (<https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-protocol-guide>).
//!
//! Implements SASL (accepting everything), claims-based security at `$cbs`, requests at `$management`, readers of
//! partitions with start positions and epochs, and senders, single and batched. Not implemented: checking of
//! signatures, TLS, and AMQP over WebSockets.

mod amqp;
mod links;
mod requests;
mod store;

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fe2o3_amqp::acceptor::{ConnectionAcceptor, SessionAcceptor};
use fe2o3_amqp_types::definitions::Error as AmqpError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use self::amqp::{AnySasl, fields, now_ms, unauthorized};
use self::store::Hub;

/// An event for all open links.
#[derive(Clone, Debug)]
enum Fault {
    /// Every reader's link is detached, with or without a condition and description.
    DetachReaders(Option<(&'static str, &'static str)>),
    /// Every connection is closed in order.
    CloseConnections(&'static str, &'static str),
}

/// Hub, consumer group and partition.
type ReaderKey = (String, String, usize);

/// Open readers of a partition: link, epoch, and the sender by which to disconnect it.
type Readers = HashMap<ReaderKey, Vec<(u64, Option<i64>, oneshot::Sender<AmqpError>)>>;

struct Inner {
    hubs: Mutex<HashMap<String, Arc<Hub>>>,
    faults: broadcast::Sender<Fault>,
    sockets: Mutex<HashMap<u64, std::net::TcpStream>>,
    readers: Mutex<Readers>,
    /// Start positions that readers have requested.
    filters: Mutex<Vec<String>>,
    token_status: Mutex<Option<(u16, String)>>,
    /// Tokens put before this time are no longer valid.
    tokens_from: watch::Sender<i64>,
    /// Whether nothing is answered or sent.
    silent: watch::Sender<bool>,
    /// The delay before each event.
    pace: watch::Sender<Duration>,
    ids: AtomicU64,
    /// Readers' links with a lower number deliver nothing any more.
    hanging_below: AtomicU64,
    tasks: TaskTracker,
}

impl Inner {
    fn hub(&self, name: &str) -> Option<Arc<Hub>> {
        self.hubs.lock().unwrap().get(&name.to_lowercase()).cloned()
    }

    /// Waits as long as the broker is silent.
    async fn unless_silent(&self) {
        let _ = self.silent.subscribe().wait_for(|silent| !silent).await;
    }
}

/// The broker; stopped when dropped.
pub(crate) struct Broker {
    inner: Arc<Inner>,
    address: SocketAddr,
    listening: Option<AbortHandle>,
}

impl Broker {
    /// Starts on a free port, with hubs of so many partitions.
    pub(crate) async fn start(hubs: &[(&str, usize)]) -> Self {
        let hubs = hubs.iter().map(|(name, partitions)| (name.to_lowercase(), Arc::new(Hub::new(name, *partitions))));
        let inner = Arc::new(Inner {
            hubs: Mutex::new(hubs.collect()),
            faults: broadcast::channel(64).0,
            sockets: Mutex::default(),
            readers: Mutex::default(),
            filters: Mutex::default(),
            token_status: Mutex::default(),
            tokens_from: watch::channel(0).0,
            silent: watch::channel(false).0,
            pace: watch::channel(Duration::ZERO).0,
            ids: AtomicU64::new(1),
            hanging_below: AtomicU64::new(0),
            tasks: TaskTracker::new(),
        });
        let mut broker = Self { inner, address: ([127, 0, 0, 1], 0).into(), listening: None };
        broker.listen().await;
        broker
    }

    /// Opens the port, which stays the same. Events are kept.
    pub(crate) async fn listen(&mut self) {
        let listener = loop {
            // A port that was just released may take a moment.
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        self.address = listener.local_addr().unwrap();
        let inner = Arc::clone(&self.inner);
        let tasks = inner.tasks.clone();
        let accept = async move {
            while let Ok((socket, _)) = listener.accept().await {
                inner.tasks.spawn(connection(Arc::clone(&inner), socket));
            }
        };
        self.listening = Some(tasks.spawn(accept).abort_handle());
    }

    /// Ends as in a crash: the port is closed, and every connection cut.
    pub(crate) fn stop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
        self.cut_connections();
    }

    /// The endpoint to connect to.
    pub(crate) fn endpoint(&self) -> String {
        format!("amqp://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts every connection without notice.
    pub(crate) fn cut_connections(&self) {
        for (_, socket) in self.inner.sockets.lock().unwrap().drain() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Closes every connection with a condition and description.
    pub(crate) fn close_connections(&self, condition: &'static str, words: &'static str) {
        let _ = self.inner.faults.send(Fault::CloseConnections(condition, words));
    }

    /// Detaches every reader's link, with or without a condition and description.
    pub(crate) fn detach_readers(&self, error: Option<(&'static str, &'static str)>) {
        let _ = self.inner.faults.send(Fault::DetachReaders(error));
    }

    /// Makes every reader's link hang: it stays open and delivers nothing.
    pub(crate) fn hang_readers(&self) {
        let next = self.inner.ids.fetch_add(1, SeqCst);
        self.inner.hanging_below.store(next, SeqCst);
    }

    /// Makes every token that was put so far expire.
    pub(crate) fn expire_tokens(&self) {
        self.inner.tokens_from.send_replace(now_ms() + 1);
    }

    /// Sets the response to every token from now on; `None` accepts it.
    pub(crate) fn answer_tokens(&self, status: Option<(u16, &str)>) {
        *self.inner.token_status.lock().unwrap() = status.map(|(status, words)| (status, words.to_owned()));
    }

    /// Sets whether nothing is answered or sent, while connections stay open.
    pub(crate) fn fall_silent(&self, silent: bool) {
        self.inner.silent.send_replace(silent);
    }

    /// Sets the delay before each event.
    pub(crate) fn slow_down(&self, pace: Duration) {
        self.inner.pace.send_replace(pace);
    }

    /// Appends an event to a partition, and returns its sequence number.
    pub(crate) fn append(&self, hub: &str, partition: usize, body: &[u8]) -> i64 {
        self.inner.hub(hub).unwrap().partition(partition).unwrap().append_bytes(body)
    }

    /// Drops the oldest events of a partition, as retention does, up to the one to keep.
    pub(crate) fn drop_before(&self, hub: &str, partition: usize, sequence: i64) {
        self.inner.hub(hub).unwrap().partition(partition).unwrap().drop_before(sequence);
    }

    /// Adds partitions to a hub.
    pub(crate) fn add_partitions(&self, hub: &str, count: usize) {
        self.inner.hub(hub).unwrap().grow(count);
    }

    /// Deletes a hub and creates it again, empty.
    pub(crate) fn replace_hub(&self, hub: &str, partitions: usize) {
        self.inner.hubs.lock().unwrap().insert(hub.to_lowercase(), Arc::new(Hub::new(hub, partitions)));
        self.detach_readers(Some(("amqp:not-found", "The messaging entity could not be found.")));
    }

    /// Takes a partition from its readers, as a reader with an epoch does.
    pub(crate) fn steal(&self, hub: &str, group: &str, partition: usize) {
        let key = (hub.to_owned(), group.to_owned(), partition);
        for (_, _, displaced) in self.inner.readers.lock().unwrap().remove(&key).unwrap_or_default() {
            let _ = displaced.send(amqp::stolen("New receiver with higher epoch of '1' is created."));
        }
    }

    /// The start positions that readers have requested, in order.
    pub(crate) fn filters(&self) -> Vec<String> {
        self.inner.filters.lock().unwrap().clone()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A client's connection.
struct Connection {
    inner: Arc<Inner>,
    /// The tokens on this connection: entity path → when it was put and when it expires.
    tokens: watch::Sender<HashMap<String, (i64, i64)>>,
}

impl Connection {
    /// The latest expiry among the tokens for a path; names ignore case.
    fn token_end(&self, path: &str) -> Option<i64> {
        let (path, from) = (path.to_lowercase(), *self.inner.tokens_from.borrow());
        let tokens = self.tokens.borrow();
        let covering = tokens.iter().filter(|(held, _)| path == **held || path.starts_with(&format!("{held}/")));
        covering.map(|(_, (put, end))| if *put < from { 0 } else { *end }).max()
    }

    fn authorize(&self, path: &str) -> Result<(), AmqpError> {
        match self.token_end(path) {
            Some(end) if end > now_ms() => Ok(()),
            Some(_) => Err(unauthorized("ExpiredToken: the token is expired.")),
            None => Err(unauthorized("Unauthorized access. 'Listen' claim(s) are required to perform this operation.")),
        }
    }

    /// Resolves when no valid token covers a path any more.
    async fn expired(&self, path: &str) {
        let (mut tokens, mut from) = (self.tokens.subscribe(), self.inner.tokens_from.subscribe());
        loop {
            let left = self.token_end(path).map_or(0, |end| end - now_ms());
            let Ok(left @ 1..) = u64::try_from(left) else { return };
            tokio::select! {
                _ = tokens.changed() => {}
                _ = from.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(left + 1)) => {}
            }
        }
    }
}

async fn connection(inner: Arc<Inner>, socket: TcpStream) {
    inner.unless_silent().await;
    let id = inner.ids.fetch_add(1, SeqCst);
    let _ = socket.set_nodelay(true);
    let Ok(socket) = socket.into_std() else { return };
    if let Ok(other) = socket.try_clone() {
        inner.sockets.lock().unwrap().insert(id, other);
    }
    let Ok(socket) = TcpStream::from_std(socket) else { return };
    let acceptor = ConnectionAcceptor::builder()
        .container_id(format!("stand-in-{id}"))
        .max_frame_size(65_536_u32)
        .channel_max(4_999)
        .idle_time_out(240_000_u32)
        // Also keeps every field of the list on the wire: trailing nulls are left out, and pyamqp counts on them.
        .properties(fields(&[("product", "stand-in")]))
        .sasl_acceptor(AnySasl)
        .build();
    let Ok(mut handle) = acceptor.accept(socket).await else { return };
    let connection = Arc::new(Connection { inner: Arc::clone(&inner), tokens: watch::channel(HashMap::new()).0 });
    let mut faults = inner.faults.subscribe();
    let sessions = SessionAcceptor::builder()
        .handle_max(255)
        .incoming_window(5_000)
        .outgoing_window(5_000)
        .properties(fields(&[("product", "stand-in")]))
        .build();
    loop {
        tokio::select! {
            incoming = handle.next_incoming_session() => {
                let Some(incoming) = incoming else { break };
                let Ok(session) = sessions.accept_incoming_session(incoming, &mut handle).await else { break };
                inner.tasks.spawn(links::session(Arc::clone(&connection), session));
            }
            fault = faults.recv() => if let Ok(Fault::CloseConnections(condition, words)) = fault {
                let _ = handle.close_with_error(amqp::error(condition, words)).await;
                break;
            }
        }
    }
    inner.sockets.lock().unwrap().remove(&id);
}
