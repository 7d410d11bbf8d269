//! Errors of a hub, with advice.

use std::error::Error;

use azure_core_amqp::error::{AmqpErrorCondition, AmqpErrorKind};
use azure_core_amqp::{AmqpDescribedError, AmqpError};
use azure_messaging_eventhubs::EventHubsError;
use azure_messaging_eventhubs::error::ErrorKind;

/// Longer messages of a service are cut to this length.
const MAX_WORDS: usize = 600;

/// Why a connection, a request or a link failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// Access was denied, or the resource does not exist. A retry won't help until somebody changes something.
    #[error("refused: {words}; {}", lack.advice())]
    Refused {
        /// The service's message.
        words: String,
        /// What is missing.
        lack: Lack,
    },
    /// Another consumer has taken over the link.
    #[error(
        "another consumer took the partition: {0}; give each program that reads the hub a consumer group of its own"
    )]
    Stolen(String),
    /// The service or the network has failed; a retry may help.
    #[error("{0}")]
    Unavailable(String),
    /// There was no response in time.
    #[error("{what}: no answer within {secs} s")]
    Silent {
        /// The request.
        what: &'static str,
        /// The timeout.
        secs: u64,
    },
    /// The partition has events that are not delivered.
    #[error("the link delivers nothing: there are events up to number {last}, but none arrived for {secs} s")]
    Stalled {
        /// The newest event's sequence number.
        last: i64,
        /// How long none was delivered.
        secs: u64,
    },
}

/// What is missing when a hub refuses access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A token.
    Credential,
    /// The right to read.
    Role,
    /// The namespace, the hub or the consumer group.
    Hub,
}

impl Lack {
    fn advice(self) -> &'static str {
        match self {
            Self::Credential => "check the source's credential, and the environment variables that it needs",
            Self::Role => {
                "grant the identity the role Azure Event Hubs Data Receiver on the hub or its namespace; a new grant \
                 takes some minutes"
            }
            Self::Hub => "check namespace, hub and consumer_group: one of them does not exist",
        }
    }
}

impl HubError {
    /// Classifies a failure to get a token.
    pub(super) fn credential(error: &azure_core::Error) -> Self {
        Self::Refused { words: words(error), lack: Lack::Credential }
    }

    /// Classifies an error of the SDK.
    pub(super) fn of(error: &EventHubsError) -> Self {
        if let ErrorKind::ConsumerDisconnected(described) = &error.kind {
            return Self::Stolen(described.as_ref().map_or_else(String::new, description));
        }
        let mut causes = std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source());
        causes.find_map(told).unwrap_or_else(|| Self::Unavailable(words(error)))
    }
}

/// Classifies one error of a chain of causes, if it can be by itself.
fn told(error: &(dyn Error + 'static)) -> Option<HubError> {
    if let Some(error) = error.downcast_ref::<azure_core::Error>()
        && matches!(error.kind(), azure_core::error::ErrorKind::Credential)
    {
        return Some(HubError::credential(error));
    }
    match error.downcast_ref::<AmqpError>()?.kind() {
        AmqpErrorKind::AmqpDescribedError(described) => Some(by_condition(described)),
        AmqpErrorKind::ManagementStatusCode(status, words) => {
            Some(by_status(u16::from(*status), words.as_deref().unwrap_or_default()))
        }
        _ => None,
    }
}

/// Classifies by AMQP condition
/// (<https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-troubleshoot>; Event Hubs has the same).
fn by_condition(described: &AmqpDescribedError) -> HubError {
    let words = description(described);
    match described.condition {
        AmqpErrorCondition::UnauthorizedAccess => HubError::Refused { words, lack: Lack::Role },
        AmqpErrorCondition::NotFound | AmqpErrorCondition::ResourceDeleted => {
            HubError::Refused { words, lack: Lack::Hub }
        }
        AmqpErrorCondition::LinkStolen => HubError::Stolen(words),
        _ => HubError::Unavailable(words),
    }
}

/// Classifies by status code of `$cbs` and `$management`, which use those of HTTP.
fn by_status(status: u16, words: &str) -> HubError {
    let words = format!("{words} (status {status})");
    match status {
        401 | 403 => HubError::Refused { words, lack: Lack::Role },
        404 => HubError::Refused { words, lack: Lack::Hub },
        _ => HubError::Unavailable(words),
    }
}

fn description(described: &AmqpDescribedError) -> String {
    let condition: &str = (&described.condition).into();
    match &described.description {
        Some(words) => cut(&format!("{words} ({condition})")),
        None => condition.to_owned(),
    }
}

/// An error with its causes, on one line. An error that repeats its cause's message is not repeated.
fn words(error: &(dyn Error + 'static)) -> String {
    let mut told = String::new();
    for error in std::iter::successors(Some(error), |&error| error.source()) {
        let words = error.to_string();
        if !told.contains(&words) {
            if !told.is_empty() {
                told.push_str(": ");
            }
            told.push_str(&words);
        }
    }
    cut(&told)
}

fn cut(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refusal(error: &HubError) -> bool {
        matches!(error, HubError::Refused { .. })
    }

    fn described(condition: AmqpErrorCondition) -> EventHubsError {
        let described = AmqpDescribedError::new(condition, Some("as it says".to_owned()), Default::default());
        let inner = AmqpError::from(AmqpErrorKind::AmqpDescribedError(described));
        // In the form in which the SDK wraps it.
        let wrapped = azure_core::Error::with_error(azure_core::error::ErrorKind::Other, inner, "failed to ensure");
        EventHubsError::from(AmqpError::from(wrapped))
    }

    #[test]
    fn conditions_are_told_apart_through_what_wraps_them() {
        let refused = HubError::of(&described(AmqpErrorCondition::UnauthorizedAccess));
        assert!(is_refusal(&refused) && refused.to_string().contains("Data Receiver"), "{refused}");
        let missing = HubError::of(&described(AmqpErrorCondition::NotFound));
        assert!(is_refusal(&missing) && missing.to_string().contains("does not exist"), "{missing}");
        assert!(matches!(HubError::of(&described(AmqpErrorCondition::LinkStolen)), HubError::Stolen(_)));
        let busy = HubError::of(&described(AmqpErrorCondition::ServerBusyError));
        assert_eq!(busy, HubError::Unavailable("as it says (com.microsoft:server-busy)".to_owned()));
    }

    #[test]
    fn a_credential_without_a_token_is_told() {
        let error = azure_core::Error::with_message(azure_core::error::ErrorKind::Credential, "no identity here");
        let error = HubError::of(&EventHubsError::from(AmqpError::from(error)));
        assert!(is_refusal(&error) && error.to_string().contains("no identity here"), "{error}");
    }

    #[test]
    fn statuses_mean_what_they_mean_in_http() {
        assert!(is_refusal(&by_status(401, "")) && is_refusal(&by_status(404, "")));
        assert!(!is_refusal(&by_status(503, "")));
    }
}
