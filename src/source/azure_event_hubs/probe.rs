//! The hub step by step, for `catchment doctor azure`: through the same connections as the source.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt;

use super::batch::{Batch, Cutter};
use super::client::{Connect, Connection, Ends, Sdk};
use super::config::{Credential, EventHubsConfig};
use super::credential::Tokens;
pub use super::error::{HubError, Lack};
use super::place::Place;
use crate::model::Time;

/// Timeout for a token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Limits of sampling records: time, and events per partition.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(5);
const SAMPLE_EVENTS: usize = 200;
/// How far back samples go from the newest event of a partition.
const SAMPLE_SPAN_MILLIS: i64 = 60 * 60 * 1_000;

/// The state of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its id.
    pub id: String,
    /// Number of events in it.
    pub events: u64,
    /// When the newest was enqueued.
    pub newest: Option<Time>,
}

/// A read-only connection to a hub, for `catchment doctor`.
pub struct Probe {
    config: EventHubsConfig,
    connection: Box<dyn Connection>,
}

/// Requests a token of the source's identity for a scope such as `https://management.azure.com/.default`. `None` for a
/// connection string, which has none.
///
/// # Errors
/// The message why there is none.
pub async fn token(config: &EventHubsConfig, scope: &str) -> Option<Result<AccessToken, String>> {
    if matches!(config.credential, Some(Credential::ConnectionString(_))) {
        return None;
    }
    let tokens: Arc<dyn TokenCredential> = match Tokens::new(config.credential.as_ref(), config.cloud) {
        Ok(tokens) => tokens,
        Err(error) => return Some(Err(HubError::credential(&error).to_string())),
    };
    let scopes = [scope];
    let asked = tokio::time::timeout(TOKEN_TIMEOUT, tokens.get_token(&scopes, None)).await;
    Some(match asked {
        Ok(Ok(token)) => Ok(token),
        Ok(Err(error)) => Err(HubError::credential(&error).to_string()),
        Err(_) => Err(format!("no token within {} s", TOKEN_TIMEOUT.as_secs())),
    })
}

impl Probe {
    /// Connects, with TLS and the AMQP handshake but without authorization.
    ///
    /// # Errors
    /// Why that failed.
    pub async fn connect(config: EventHubsConfig) -> Result<Self, HubError> {
        let connection = Sdk::new(config.clone())?.connect().await?;
        Ok(Self { config, connection })
    }

    /// The ids of the hub's partitions.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn hub(&self) -> Result<Vec<String>, HubError> {
        Ok(self.connection.properties().await?.partitions)
    }

    /// The state of a partition. Adds to `categories` the numbers of its newest records by category: `Administrative`,
    /// `AuditLogs`, or `(none)`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn partition(&self, id: &str, categories: &mut BTreeMap<String, u64>) -> Result<Partition, HubError> {
        let ends = self.connection.ends(id).await?;
        let events = u64::try_from(ends.last - ends.first + 1).unwrap_or_default();
        if events > 0 {
            self.sample(id, &ends, categories).await?;
        }
        Ok(Partition { id: id.to_owned(), events, newest: ends.last_enqueued })
    }

    async fn sample(&self, id: &str, ends: &Ends, categories: &mut BTreeMap<String, u64>) -> Result<(), HubError> {
        let since = ends.last_enqueued.map(|newest| newest.millis() - SAMPLE_SPAN_MILLIS);
        let place = since.map_or(Place::Earliest, |millis| Place::Since { millis });
        let cutter = Cutter::new("doctor".into(), &self.config.host(), &self.config.hub, id);
        let mut events = self.connection.read(id, &place).await?;
        let deadline = Instant::now() + SAMPLE_TIMEOUT;
        let mut batch = Batch::default();
        for _ in 0..SAMPLE_EVENTS {
            let Ok(Some(event)) = timeout_at(deadline, events.next()).await else { break };
            let event = event?;
            let is_last = event.sequence >= ends.last;
            cutter.add(&mut batch, None, event, Time::default());
            if is_last {
                break;
            }
        }
        for record in &batch.records {
            *categories.entry(category(&record.bytes)).or_default() += 1;
        }
        Ok(())
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.connection.close().await;
    }
}

fn category(record: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Categorised {
        category: Option<String>,
    }
    let found = serde_json::from_slice::<Categorised>(record).ok().and_then(|record| record.category);
    found.unwrap_or_else(|| "(none)".to_owned())
}
