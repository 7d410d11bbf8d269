//! Values, errors and addresses.

use std::time::{SystemTime, UNIX_EPOCH};

use fe2o3_amqp::acceptor::SaslAcceptor;
use fe2o3_amqp::acceptor::sasl_acceptor::SaslServerFrame;
use fe2o3_amqp_types::definitions::{AmqpError, ConnectionError, Error, ErrorCondition, LinkError, Role};
use fe2o3_amqp_types::messaging::{Body, Message, TargetArchetype};
use fe2o3_amqp_types::performatives::Attach;
use fe2o3_amqp_types::primitives::{Array, OrderedMap, SimpleValue, Symbol, Value};
use fe2o3_amqp_types::sasl::{SaslCode, SaslInit, SaslOutcome, SaslResponse};

pub(super) type Msg = Message<Body<Value>>;

/// Accepts every client: the authorization follows at `$cbs`.
#[derive(Clone)]
pub(super) struct AnySasl;

impl SaslAcceptor for AnySasl {
    fn mechanisms(&self) -> Array<Symbol> {
        Array(["MSSBCBS", "ANONYMOUS", "EXTERNAL", "PLAIN"].map(Symbol::from).to_vec())
    }

    fn on_init(&mut self, _: SaslInit) -> SaslServerFrame {
        SaslServerFrame::Outcome(SaslOutcome { code: SaslCode::Ok, additional_data: None })
    }

    fn on_response(&mut self, _: SaslResponse) -> SaslServerFrame {
        SaslServerFrame::Outcome(SaslOutcome { code: SaslCode::Sys, additional_data: None })
    }
}

/// The properties of a link that a client requests.
#[derive(Clone, Debug)]
pub(super) struct LinkInfo {
    pub(super) name: String,
    /// The broker's node: `hub/ConsumerGroups/group/Partitions/0`.
    pub(super) path: String,
    /// The client's end.
    pub(super) target: String,
    pub(super) filter: Option<String>,
    pub(super) epoch: Option<i64>,
}

impl From<&Attach> for LinkInfo {
    fn from(attach: &Attach) -> Self {
        let target = attach.target.as_ref().and_then(|target| match target.as_ref() {
            TargetArchetype::Target(target) => target.address.clone(),
            #[allow(unreachable_patterns)]
            _ => None,
        });
        let source = attach.source.as_ref().and_then(|source| source.address.clone());
        let node = if attach.role == Role::Receiver { &source } else { &target };
        let filter = attach.source.as_ref().and_then(|source| source.filter.as_ref());
        let filter = filter.and_then(|filter| filter.values().next()).and_then(|value| match value {
            Value::Described(described) => text(&described.value),
            other => text(other),
        });
        let epoch = attach.properties.as_ref().and_then(|p| p.get(&Symbol::from("com.microsoft:epoch")));
        Self {
            name: attach.name.clone(),
            path: entity_path(node.as_deref().unwrap_or_default()),
            target: target.unwrap_or_default(),
            filter,
            epoch: epoch.and_then(integer),
        }
    }
}

pub(super) fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Symbol(symbol) => Some(symbol.0.clone()),
        Value::Binary(bytes) => String::from_utf8(bytes.to_vec()).ok(),
        _ => None,
    }
}

pub(super) fn simple_text(value: &SimpleValue) -> Option<String> {
    match value {
        SimpleValue::String(text) => Some(text.clone()),
        SimpleValue::Symbol(symbol) => Some(symbol.0.clone()),
        SimpleValue::Binary(bytes) => String::from_utf8(bytes.to_vec()).ok(),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Long(n) => Some(*n),
        Value::Int(n) => Some(i64::from(*n)),
        Value::Ulong(n) => i64::try_from(*n).ok(),
        Value::Uint(n) => Some(i64::from(*n)),
        _ => None,
    }
}

/// `amqps://host:port/a/b`, `sb://host/a/b/` or `a/b` → `a/b`.
pub(super) fn entity_path(address: &str) -> String {
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => address,
    };
    path.replace("%24", "$").replace("//", "/").trim_matches('/').to_owned()
}

pub(super) fn fields(pairs: &[(&str, &str)]) -> OrderedMap<Symbol, Value> {
    let mut fields = OrderedMap::new();
    for (key, value) in pairs {
        fields.insert(Symbol::from(*key), Value::String((*value).to_owned()));
    }
    fields
}

pub(super) fn error(condition: &str, words: &str) -> Error {
    let condition = match condition {
        "amqp:connection:forced" => ErrorCondition::ConnectionError(ConnectionError::ConnectionForced),
        "amqp:link:detach-forced" => ErrorCondition::LinkError(LinkError::DetachForced),
        "amqp:link:redirect" => ErrorCondition::LinkError(LinkError::Redirect),
        "amqp:internal-error" => ErrorCondition::AmqpError(AmqpError::InternalError),
        "amqp:unauthorized-access" => ErrorCondition::AmqpError(AmqpError::UnauthorizedAccess),
        "amqp:not-found" => ErrorCondition::AmqpError(AmqpError::NotFound),
        other => ErrorCondition::Custom(Symbol::from(other)),
    };
    Error::new(condition, Some(words.to_owned()), None)
}

pub(super) fn unauthorized(words: &str) -> Error {
    error("amqp:unauthorized-access", words)
}

pub(super) fn not_found(path: &str) -> Error {
    error("amqp:not-found", &format!("The messaging entity '{path}' could not be found."))
}

pub(super) fn stolen(words: &str) -> Error {
    Error::new(LinkError::Stolen, Some(words.to_owned()), None)
}

pub(super) fn too_many(words: &str) -> Error {
    Error::new(AmqpError::ResourceLimitExceeded, Some(words.to_owned()), None)
}
