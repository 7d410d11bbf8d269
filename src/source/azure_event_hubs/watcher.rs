//! Polls the hub as a whole, over its own connection: its partitions, and their ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::client::{Connect, Connection, Ends, Properties};
use super::error::HubError;
use super::{Message, SourceEnded};
use crate::retry::Backoff;

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Polls the hub's properties and the ends of its partitions.
pub(super) struct Watcher {
    pub(super) connect: Arc<dyn Connect>,
    pub(super) every: Duration,
    pub(super) messages: mpsc::Sender<Message>,
}

impl Watcher {
    pub(super) async fn run(self) -> SourceEnded {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut connection = None;
        loop {
            let (message, wait) = match self.look(&mut connection).await {
                Ok((hub, ends)) => {
                    backoff.reset();
                    (Message::Looked { hub, ends }, self.every)
                }
                Err(error) => {
                    // A failed connection is not reused.
                    if let Some(failed) = connection.take() {
                        failed.close().await;
                    }
                    (Message::Blind { error }, backoff.next_wait())
                }
            };
            if self.messages.send(message).await.is_err() {
                return SourceEnded;
            }
            sleep(wait).await;
        }
    }

    async fn look(
        &self,
        connection: &mut Option<Box<dyn Connection>>,
    ) -> Result<(Properties, BTreeMap<String, Ends>), HubError> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.connect.connect().await?),
        };
        let hub = connection.properties().await?;
        let mut ends = BTreeMap::new();
        for partition in &hub.partitions {
            ends.insert(partition.clone(), connection.ends(partition).await?);
        }
        Ok((hub, ends))
    }
}
