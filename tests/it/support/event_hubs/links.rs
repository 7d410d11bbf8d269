//! Links: readers of partitions, and senders.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use fe2o3_amqp::acceptor::{LinkAcceptor, LinkEndpoint, ListenerSessionHandle, SupportedReceiverSettleModes};
use fe2o3_amqp::link::{DetachError, RecvError};
use fe2o3_amqp::{Delivery, Receiver, Sender};
use fe2o3_amqp_types::definitions::Error as AmqpError;
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::message::__private::Deserializable;
use fe2o3_amqp_types::primitives::Value;
use tokio::sync::{mpsc, oneshot};

use super::amqp::{LinkInfo, Msg, error, fields, not_found, stolen, text, too_many, unauthorized};
use super::requests::{Replies, reply_link, request_link};
use super::store::{Hub, Partition};
use super::{Connection, Fault, Inner, ReaderKey};

/// The format of a message that contains others, one in each data section.
const BATCH_FORMAT: u32 = 0x8001_3700;

/// Readers without epoch that may share a partition in a consumer group.
const MAX_READERS: usize = 5;

pub(super) async fn session(connection: Arc<Connection>, mut session: ListenerSessionHandle) {
    // The service settles on its first disposition, whatever the client asks (pyamqp asks for `second`).
    let links = LinkAcceptor::builder()
        .supported_receiver_settle_modes(SupportedReceiverSettleModes::First)
        .max_message_size(1_048_576_u64)
        .properties(fields(&[("product", "stand-in")]))
        .build();
    let (replies, tasks) = (Replies::default(), connection.inner.tasks.clone());
    while let Some(attach) = session.next_incoming_attach().await {
        let info = LinkInfo::from(&attach);
        let connection = Arc::clone(&connection);
        match links.accept_incoming_attach(attach, &mut session).await {
            Ok(LinkEndpoint::Sender(link)) if info.path.contains('$') && !info.path.contains("/Partitions/") => {
                let (queue, queued) = mpsc::channel(64);
                replies.lock().unwrap().push((info.path, info.target, queue));
                tasks.spawn(reply_link(link, queued));
            }
            Ok(LinkEndpoint::Sender(link)) => {
                tasks.spawn(reader(connection, link, info));
            }
            Ok(LinkEndpoint::Receiver(link)) if info.path.contains('$') => {
                tasks.spawn(request_link(connection, link, info, Arc::clone(&replies)));
            }
            Ok(LinkEndpoint::Receiver(link)) => {
                tasks.spawn(writer(connection, link, info));
            }
            Err(_) => {}
        }
    }
}

/// The partition of `hub/ConsumerGroups/<group>/Partitions/<n>`.
fn partition_of(inner: &Inner, path: &str) -> Result<(Arc<Partition>, ReaderKey), AmqpError> {
    let parts: Vec<&str> = path.split('/').collect();
    let [hub, groups, group, partitions, number] = parts.as_slice() else { return Err(not_found(path)) };
    if !groups.eq_ignore_ascii_case("ConsumerGroups") || !partitions.eq_ignore_ascii_case("Partitions") {
        return Err(not_found(path));
    }
    let found = inner.hub(hub).zip(number.parse().ok());
    let found = found.and_then(|(hub, number)| Some((hub.partition(number)?, hub.name.clone(), number)));
    let (partition, hub, number) = found.ok_or_else(|| not_found(path))?;
    Ok((partition, (hub, (*group).to_owned(), number)))
}

/// Registers a reader of a partition, and disconnects others if the epoch requires it
/// (<https://learn.microsoft.com/azure/event-hubs/event-hubs-features#epoch>).
fn register(
    inner: &Inner,
    key: &ReaderKey,
    id: u64,
    info: &LinkInfo,
) -> Result<oneshot::Receiver<AmqpError>, AmqpError> {
    let mut readers = inner.readers.lock().unwrap();
    let open = readers.entry(key.clone()).or_default();
    match (info.epoch, open.iter().filter_map(|(_, epoch, _)| *epoch).max()) {
        (mine, Some(theirs)) if mine.is_none_or(|mine| mine < theirs) => {
            return Err(stolen(&format!("Receiver '{}' with a higher epoch of '{theirs}' already exists.", info.name)));
        }
        (None, None) if open.len() >= MAX_READERS => {
            return Err(too_many("Exceeded the maximum number of allowed receivers per partition, which is 5."));
        }
        (Some(mine), _) => {
            for (_, _, displaced) in open.drain(..) {
                let _ = displaced.send(stolen(&format!("New receiver with higher epoch of '{mine}' is created.")));
            }
        }
        _ => {}
    }
    let (sender, displaced) = oneshot::channel();
    open.push((id, info.epoch, sender));
    Ok(displaced)
}

async fn reader(connection: Arc<Connection>, mut link: Sender, info: LinkInfo) {
    let inner = Arc::clone(&connection.inner);
    let id = inner.ids.fetch_add(1, SeqCst);
    let ready = connection.authorize(&info.path).and_then(|()| {
        let (partition, key) = partition_of(&inner, &info.path)?;
        let next = partition.resolve(info.filter.as_deref())?;
        let displaced = register(&inner, &key, id, &info)?;
        Ok((partition, key, next, displaced))
    });
    let (partition, key, next, displaced) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            let _ = link.close_with_error(error).await;
            return;
        }
    };
    inner.filters.lock().unwrap().extend(info.filter.clone());
    let mut faults = inner.faults.subscribe();
    let end = tokio::select! {
        closed = push(&inner, &mut link, id, &partition, next) => Err(closed),
        displaced = displaced => Ok(displaced.ok()),
        () = connection.expired(&info.path) => Ok(Some(unauthorized("ExpiredToken: the token is expired."))),
        end = async {
            loop {
                if let Ok(Fault::DetachReaders(end)) = faults.recv().await {
                    return end.map(|(condition, words)| error(condition, words));
                }
            }
        } => Ok(end),
    };
    if let Some(open) = inner.readers.lock().unwrap().get_mut(&key) {
        open.retain(|reader| reader.0 != id);
    }
    match end {
        Ok(Some(error)) => drop(link.close_with_error(error).await),
        Ok(None) => drop(link.detach().await),
        Err(closed) => answer_sender(link, closed).await,
    }
}

/// Responds to a detach in kind: a client that has closed its link responds to a plain detach by attaching again, and
/// waits for a close.
pub(super) async fn answer_sender(link: Sender, closed: bool) {
    if closed {
        drop(link.close().await);
    } else {
        drop(link.detach().await);
    }
}

/// The same for a receiver.
pub(super) async fn answer_receiver(link: Receiver, closed: bool) {
    if closed {
        drop(link.close().await);
    } else {
        drop(link.detach().await);
    }
}

/// Whether the client closed the link, rather than only detach it.
pub(super) fn is_closed(end: &DetachError) -> bool {
    matches!(end, DetachError::ClosedByRemote | DetachError::RemoteClosedWithError(_))
}

/// The same for a receiver.
pub(super) fn is_receiver_closed(end: &RecvError) -> bool {
    use fe2o3_amqp::link::LinkStateError::{RemoteClosed, RemoteClosedWithError};
    matches!(end, RecvError::LinkStateError(RemoteClosed | RemoteClosedWithError(_)))
}

/// Sends the partition's events, present and future, until the client detaches; returns whether it closed the link.
async fn push(inner: &Inner, link: &mut Sender, id: u64, partition: &Partition, mut next: i64) -> bool {
    let mut grown = partition.grown.subscribe();
    loop {
        grown.borrow_and_update();
        let events = partition.read(next, 256);
        for event in &events {
            inner.unless_silent().await;
            let pace = *inner.pace.borrow();
            if !pace.is_zero() {
                tokio::time::sleep(pace).await;
            }
            if id < inner.hanging_below.load(SeqCst) {
                return is_closed(&link.on_detach().await);
            }
            if link.send_batchable_ref(&event.sendable).await.is_err() {
                return false;
            }
            next = event.sequence + 1;
        }
        if events.is_empty() {
            tokio::select! {
                _ = grown.changed() => {}
                end = link.on_detach() => return is_closed(&end),
            }
        }
    }
}

/// `hub` (any partition) or `hub/Partitions/<n>`.
async fn writer(connection: Arc<Connection>, mut link: Receiver, info: LinkInfo) {
    let parts: Vec<&str> = info.path.split('/').collect();
    let fixed = parts.get(2).and_then(|number| number.parse::<usize>().ok());
    let hub = parts.first().and_then(|name| connection.inner.hub(name));
    let hub = hub.filter(|hub| fixed.is_none_or(|number| number < hub.partition_count()));
    let ready = connection.authorize(&info.path).and_then(|()| hub.ok_or_else(|| not_found(&info.path)));
    let hub = match ready {
        Ok(hub) => hub,
        Err(error) => {
            let _ = link.close_with_error(error).await;
            return;
        }
    };
    let end = loop {
        let delivery = match link.recv::<Body<Value>>().await {
            Ok(delivery) => delivery,
            Err(end) => break is_receiver_closed(&end),
        };
        let settled = match unpack(&delivery) {
            Ok(events) => {
                let number = fixed.unwrap_or_else(|| hub.choose(partition_key(delivery.message()).as_deref()));
                keep(&hub, number, events);
                link.accept(&delivery).await
            }
            Err(problem) => link.reject(&delivery, error("amqp:decode-error", &problem)).await,
        };
        if settled.is_err() {
            break false;
        }
    };
    answer_receiver(link, end).await;
}

fn keep(hub: &Hub, number: usize, events: Vec<Msg>) {
    let partition = hub.partition(number).unwrap();
    for event in events {
        partition.append(event);
    }
}

fn partition_key(message: &Msg) -> Option<String> {
    let annotations = message.message_annotations.as_ref()?;
    let found = annotations.0.iter().find(|(key, _)| **key == OwnedKey::from("x-opt-partition-key"));
    found.and_then(|(_, value)| text(value))
}

/// One message, or the messages that a client packed into one transfer.
fn unpack(delivery: &Delivery<Body<Value>>) -> Result<Vec<Msg>, String> {
    if *delivery.message_format() != Some(BATCH_FORMAT) {
        return Ok(vec![delivery.message().clone()]);
    }
    let Body::Data(sections) = delivery.body() else { return Err("a batch without data sections".to_owned()) };
    let decode = |bytes: &[u8]| serde_amqp::from_slice::<Deserializable<Msg>>(bytes);
    sections.iter().map(|section| decode(&section.0).map(|it| it.0).map_err(|error| error.to_string())).collect()
}
