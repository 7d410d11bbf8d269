//! What one record does not show: who is behind temporary credentials, the caller that a copy of a record hides, the
//! deployment that a change is part of, and what is new about it.
//!
//! The memory for this is bounded and durable: its changes commit in the batch of the records that caused them
//! ([`Correlator::take_changes`]) and are restored at start ([`Correlator::restore`]). Nothing here guesses: if the
//! evidence allows two answers, there is none, and `how` says which evidence was used.

mod arm_deployments;
mod deployments;
mod memory;
mod novelty;
mod operations;
mod sessions;
mod shared;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::deployments::Actor;
use self::memory::Memory;
use self::shared::Copied;
use crate::model::{DeploymentBegun, Draft, RecordInfo, Session, Time};

pub use self::novelty::Novelties;
pub use self::operations::{Folded, Operations};

/// The key prefix of operations in progress.
pub const OPERATIONS_PREFIX: &str = operations::KEY_PREFIX;
/// The key prefix of the state behind novelty.
pub const NOVELTY_PREFIX: &str = novelty::KEY_PREFIX;

/// Most sessions remembered, each of about 1 KiB.
const SESSIONS: usize = 100_000;
/// Most records remembered that were written to several accounts.
const SHARED: usize = 20_000;
/// Most roles and principals remembered with recent CloudFormation operations.
const ACTORS: usize = 20_000;

/// Most Azure deployments remembered.
const DEPLOYMENTS: usize = 20_000;

/// The key prefixes of a [`Correlator`]'s state.
pub const KEY_PREFIXES: [&str; 2] = ["aws/", "azure/deployment/"];

/// A remembered fact in its stored form.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Remembered {
    Session(Session),
    Copied(Copied),
    Actor(Actor),
    Deployment(DeploymentBegun),
}

/// Correlates records with one another. Takes them in order.
#[derive(Debug)]
pub struct Correlator {
    sessions: Memory<Session>,
    copies: Memory<Copied>,
    actors: Memory<Actor>,
    begun: Memory<DeploymentBegun>,
    /// Changes to be made durable; `None` if changes are not collected.
    changes: Option<Vec<(String, Option<Bytes>)>>,
}

impl Default for Correlator {
    fn default() -> Self {
        Self::with_limits(SESSIONS, SHARED, ACTORS, DEPLOYMENTS)
    }
}

impl Correlator {
    /// Creates one with limits for sessions, shared records, actors of CloudFormation operations, and Azure
    /// deployments; beyond them the oldest are evicted.
    #[must_use]
    pub fn with_limits(sessions: usize, shared: usize, actors: usize, deployments: usize) -> Self {
        Self {
            sessions: Memory::new("aws/session/", sessions),
            copies: Memory::new("aws/shared/", shared),
            actors: Memory::new("aws/deployments/", actors),
            begun: Memory::new("azure/deployment/", deployments),
            changes: None,
        }
    }

    /// Restores the state of before a restart from its values, in any order, and collects changes from now on.
    ///
    /// # Errors
    /// When a value can't be parsed.
    pub fn restore(&mut self, values: impl IntoIterator<Item = Bytes>) -> Result<(), serde_json::Error> {
        self.changes = Some(Vec::new());
        let mut all = Vec::new();
        for value in values {
            all.push(serde_json::from_slice::<Remembered>(&value)?);
        }
        all.sort_by_key(Remembered::time);
        for remembered in all {
            let (_, forgotten) = self.keep(remembered);
            // The limit is lower than before the restart.
            let forgotten = forgotten.map(|key| (key, None));
            self.changes.as_mut().into_iter().for_each(|changes| changes.extend(forgotten.clone()));
        }
        Ok(())
    }

    /// Remembers issued temporary credentials.
    pub fn note_session(&mut self, session: Session) {
        let known = self.sessions.get(&session.access_key);
        if known.is_some_and(|known| sessions::tells_as_much(known, &session)) {
            return;
        }
        self.remember(Remembered::Session(session));
    }

    /// Remembers the start of an Azure deployment.
    pub fn note_deployment(&mut self, deployment: DeploymentBegun) {
        if arm_deployments::is_first(&self.begun, &deployment) {
            self.remember(Remembered::Deployment(deployment));
        }
    }

    /// Completes the attribution of a change from earlier records, and remembers what it contributes itself.
    pub fn attribute(&mut self, record: &mut RecordInfo, drafts: &[Draft]) {
        if let Some(copied) = shared::complete(&self.copies, record) {
            self.remember(Remembered::Copied(copied));
        }
        sessions::complete(&self.sessions, record);
        if let Some(draft) = drafts.first() {
            deployments::complete(&self.actors, record, &draft.asset.account);
            arm_deployments::complete(&self.begun, record, &draft.asset.id);
        }
        for actor in deployments::told(&self.actors, record, drafts) {
            self.remember(Remembered::Actor(actor));
        }
    }

    /// Takes the changes that must be committed together with the events that depend on them.
    #[must_use]
    pub fn take_changes(&mut self) -> Vec<(String, Option<Bytes>)> {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn remember(&mut self, remembered: Remembered) {
        // Texts and whole numbers are always JSON.
        let value = self.changes.is_some().then(|| serde_json::to_vec(&remembered).unwrap_or_default());
        let (key, forgotten) = self.keep(remembered);
        if let (Some(changes), Some(value)) = (&mut self.changes, value) {
            changes.push((key, Some(value.into())));
            changes.extend(forgotten.map(|key| (key, None)));
        }
    }

    /// Inserts a fact. Returns its key in the log, and that of an evicted one.
    fn keep(&mut self, remembered: Remembered) -> (String, Option<String>) {
        match remembered {
            Remembered::Session(session) => self.sessions.insert(session.access_key.clone(), session),
            Remembered::Copied(copied) => self.copies.insert(copied.id.clone(), copied),
            Remembered::Actor(actor) => self.actors.insert(actor.key.clone(), actor),
            Remembered::Deployment(begun) => self.begun.insert(begun.correlation.clone(), begun),
        }
    }
}

impl Remembered {
    fn time(&self) -> Time {
        match self {
            Self::Session(session) => session.started,
            Self::Copied(copied) => copied.time,
            Self::Actor(actor) => actor.time(),
            Self::Deployment(begun) => begun.time,
        }
    }
}
