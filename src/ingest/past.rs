//! What the log tells of an asset's earlier changes, for a record that comes late.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::warn;

use crate::inventory::{ConfigurationState, PastChange, PreviousState};
use crate::log::{EventLog, LogError};
use crate::model::{AssetName, Draft, Seq, Time};
use crate::normalize::{Engine, Outcome};

/// How many events of an asset are looked at.
const FURTHEST: usize = 32;

/// The asset's events back to the newest that is not after `time`. What can't be read is left out: the late record then
/// leaves the asset as it is.
pub(super) fn past(log: &dyn EventLog, engine: &Engine, asset: &AssetName, time: Time) -> Vec<PastChange> {
    let mut found = Vec::new();
    if let Err(error) = read(log, engine, asset, time, &mut found) {
        warn!(%error, %asset, "the asset's history can't be read for a late record");
    }
    found
}

fn read(
    log: &dyn EventLog,
    engine: &Engine,
    asset: &AssetName,
    time: Time,
    found: &mut Vec<PastChange>,
) -> Result<(), LogError> {
    for seq in log.history(asset, None, FURTHEST)? {
        let block = match log.read(Seq(seq.0.saturating_sub(1)), 1) {
            Err(LogError::BelowFloor { .. }) => return Ok(()),
            read => read?,
        };
        let Some(json) = block.first().and_then(|block| block.event(seq)) else { return Ok(()) };
        let Ok(event) = serde_json::from_slice::<Event<'_>>(&json) else { return Ok(()) };
        let is_before = event.time <= time;
        found.push(event.change(engine));
        if is_before {
            return Ok(());
        }
    }
    Ok(())
}

/// An event, as far as it matters.
#[derive(Deserialize)]
struct Event<'a> {
    id: String,
    time: Time,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    configuration: Option<&'a RawValue>,
    configuration_state: ConfigurationState,
    #[serde(borrow)]
    previous_configuration: Option<&'a RawValue>,
    previous_state: PreviousState,
    #[serde(borrow)]
    raw: &'a RawValue,
}

impl Event<'_> {
    fn change(self, engine: &Engine) -> PastChange {
        let document = |json: Option<&RawValue>| json.map(|json| Bytes::copy_from_slice(json.get().as_bytes()));
        PastChange {
            draft: self.draft(engine),
            time: self.time,
            previous_state: self.data.previous_state,
            previous_configuration: document(self.data.previous_configuration),
            configuration: document(self.data.configuration),
            configuration_state: self.data.configuration_state,
            event_id: self.id,
        }
    }

    /// The draft that the event was made of: the record is in it, and to normalize is a pure function.
    fn draft(&self, engine: &Engine) -> Option<Draft> {
        let index: usize = self.id.rsplit_once(':')?.1.parse().ok()?;
        match engine.normalize(self.data.raw.get().as_bytes()) {
            Outcome::Changes { mut drafts, .. } if index < drafts.len() => Some(drafts.swap_remove(index)),
            _ => None,
        }
    }
}
