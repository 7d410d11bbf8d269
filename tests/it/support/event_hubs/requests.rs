//! `$cbs`, to which tokens are put, and `$management`, for properties of hubs and partitions
//! (<https://learn.microsoft.com/azure/event-hubs/event-hubs-management-libraries> and the SDKs' own).

use std::sync::{Arc, Mutex};

use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties};
use fe2o3_amqp_types::primitives::{Array, OrderedMap, SimpleValue, Symbol, Timestamp, Value};
use tokio::sync::mpsc;

use super::Connection;
use super::amqp::{LinkInfo, Msg, entity_path, now_ms, simple_text, text};
use super::links::{answer_receiver, answer_sender, is_closed, is_receiver_closed};

/// Open reply links of one session: (node, the client's address, its queue).
pub(super) type Replies = Arc<Mutex<Vec<(String, String, mpsc::Sender<Msg>)>>>;

/// Status, description, body.
type Answer = (u16, String, Value);

pub(super) async fn reply_link(mut link: Sender, mut replies: mpsc::Receiver<Msg>) {
    loop {
        tokio::select! {
            reply = replies.recv() => match reply {
                Some(reply) => if link.send_batchable(reply).await.is_err() { return },
                None => return,
            },
            end = link.on_detach() => return answer_sender(link, is_closed(&end)).await,
        }
    }
}

pub(super) async fn request_link(connection: Arc<Connection>, mut link: Receiver, info: LinkInfo, replies: Replies) {
    let is_cbs = info.path.trim_end_matches('/').ends_with("$cbs");
    let end = loop {
        let delivery = match link.recv::<Body<Value>>().await {
            Ok(delivery) => delivery,
            Err(end) => break is_receiver_closed(&end),
        };
        connection.inner.unless_silent().await;
        if link.accept(&delivery).await.is_err() {
            return;
        }
        let message: Msg = delivery.into_message();
        let answer = if is_cbs { put_token(&connection, &message) } else { management(&connection, &message) };
        let asked = message.properties.unwrap_or_default();
        let reply = reply(&asked, answer);
        let queue = {
            let mut replies = replies.lock().unwrap();
            replies.retain(|(_, _, queue)| !queue.is_closed());
            // pyamqp names no reply-to: then the newest reply link of the same node is used.
            let same_node = || replies.iter().rev().filter(|(node, _, _)| *node == info.path);
            let named = same_node().find(|(_, address, _)| Some(address) == asked.reply_to.as_ref());
            named.or_else(|| same_node().next()).map(|(_, _, queue)| queue.clone())
        };
        if let Some(queue) = queue {
            let _ = queue.send(reply).await;
        }
    };
    answer_receiver(link, end).await;
}

fn reply(asked: &Properties, (status, words, body): Answer) -> Msg {
    let mut properties: OrderedMap<String, SimpleValue> = OrderedMap::new();
    for key in ["status-code", "statusCode"] {
        properties.insert(key.to_owned(), SimpleValue::Int(i32::from(status)));
    }
    for key in ["status-description", "statusDescription"] {
        properties.insert(key.to_owned(), SimpleValue::String(words.clone()));
    }
    if status == 404 {
        properties.insert("error-condition".to_owned(), SimpleValue::Symbol(Symbol::from("amqp:not-found")));
    }
    let correlation_id = asked.message_id.clone().or_else(|| asked.correlation_id.clone());
    Message::builder()
        .properties(Properties {
            correlation_id: correlation_id.or(Some(MessageId::Ulong(0))),
            to: asked.reply_to.clone(),
            ..Properties::default()
        })
        .application_properties(ApplicationProperties(properties))
        .body(Body::Value(AmqpValue(body)))
        .build()
}

fn property<'a>(message: &'a Msg, key: &str) -> Option<&'a SimpleValue> {
    message.application_properties.as_ref().and_then(|properties| properties.0.get(key))
}

fn text_property(message: &Msg, key: &str) -> String {
    property(message, key).and_then(simple_text).unwrap_or_default()
}

fn put_token(connection: &Connection, message: &Msg) -> Answer {
    let token = match &message.body {
        Body::Value(value) => text(&value.0).unwrap_or_default(),
        _ => String::new(),
    };
    let end = token_end(&token, property(message, "expiration")).unwrap_or(now_ms() + 3_600_000);
    let scripted = connection.inner.token_status.lock().unwrap().clone();
    let (status, words) = scripted.unwrap_or_else(|| {
        if token.is_empty() {
            (401, "InvalidSignature: no token".to_owned())
        } else if end <= now_ms() {
            (401, "ExpiredToken: the token is expired.".to_owned())
        } else {
            (202, "Accepted".to_owned())
        }
    });
    if status == 202 {
        let path = entity_path(&text_property(message, "name")).to_lowercase();
        connection.tokens.send_modify(|tokens| {
            tokens.insert(path, (now_ms(), end));
        });
    }
    (status, words, Value::Null)
}

/// A SAS token contains its expiry; that of a JWT is passed beside it, in seconds or milliseconds.
fn token_end(token: &str, expiration: Option<&SimpleValue>) -> Option<i64> {
    let fields = token.split(['&', ' ']);
    let own = fields.filter_map(|field| field.strip_prefix("se=")).find_map(|end| end.parse::<i64>().ok());
    let end = own.or(match expiration {
        Some(SimpleValue::Timestamp(time)) => Some(time.milliseconds()),
        Some(SimpleValue::Long(n)) => Some(*n),
        Some(SimpleValue::Int(n)) => Some(i64::from(*n)),
        _ => None,
    })?;
    Some(if end < 100_000_000_000 { end * 1_000 } else { end })
}

fn management(connection: &Connection, message: &Msg) -> Answer {
    let (name, kind) = (text_property(message, "name"), text_property(message, "type"));
    let not_found = |what: &str| (404, format!("The messaging entity '{what}' could not be found."), Value::Null);
    if text_property(message, "operation") != "READ" {
        return (400, "only READ is known".to_owned(), Value::Null);
    }
    let Some(hub) = connection.inner.hub(&name) else { return not_found(&name) };
    // The SDKs put their token on the hub or on a path below it; either is accepted.
    let paths: Vec<String> = connection.tokens.borrow().keys().cloned().collect();
    let covers = |path: &&String| path.split('/').next() == Some(&hub.name.to_lowercase());
    if !paths.iter().filter(covers).any(|path| connection.authorize(path).is_ok()) {
        return (
            401,
            "Unauthorized access. 'Listen' claim(s) are required to perform this operation.".to_owned(),
            Value::Null,
        );
    }
    let mut map: OrderedMap<Value, Value> = OrderedMap::new();
    let mut put = |key: &str, value: Value| map.insert(Value::String(key.to_owned()), value);
    let time = |millis: i64| Value::Timestamp(Timestamp::from_milliseconds(millis));
    put("name", Value::String(hub.name.clone()));
    put("type", Value::String(kind.clone()));
    match kind.as_str() {
        "com.microsoft:eventhub" => {
            let count = hub.partition_count();
            put("created_at", time(hub.created_ms));
            put("partition_count", Value::Int(i32::try_from(count).unwrap()));
            put("partition_ids", Value::Array(Array((0..count).map(|id| Value::String(id.to_string())).collect())));
            put("georeplication_factor", Value::Int(1));
        }
        "com.microsoft:partition" => {
            let id = text_property(message, "partition");
            let Some(partition) = id.parse().ok().and_then(|number| hub.partition(number)) else {
                return not_found(&id);
            };
            let ends = partition.ends();
            put("partition", Value::String(id));
            put("begin_sequence_number", Value::Long(ends.first));
            put("begin_sequence_number_epoch", Value::Int(-1));
            put("last_enqueued_sequence_number", Value::Long(ends.last));
            put("last_enqueued_sequence_number_epoch", Value::Int(-1));
            put("last_enqueued_offset", Value::String(ends.last_offset.to_string()));
            put("last_enqueued_time_utc", time(ends.last_time_ms));
            put("is_partition_empty", Value::Bool(ends.is_empty));
        }
        other => return (400, format!("unknown type {other}"), Value::Null),
    }
    (200, "OK".to_owned(), Value::Map(map))
}
