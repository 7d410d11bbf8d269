//! Reads an asset's earlier changes from the log, to place a record that arrives late.

use tracing::warn;

use crate::history::past_change;
use crate::inventory::PastChange;
use crate::log::{EventLog, LogError};
use crate::model::{AssetName, Seq, Time};
use crate::normalize::Engine;

/// Number of an asset's events that are read at most.
const FURTHEST: usize = 32;

/// The asset's events, newest first, back to the newest that is not after `time`. Reading stops at the first event that
/// is gone or can't be read: the late record then leaves the asset unchanged.
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
            Err(error) if error.is_gone() => return Ok(()),
            read => read?,
        };
        let Some(json) = block.first().and_then(|block| block.event(seq)) else { return Ok(()) };
        let Some(change) = past_change(engine, &json) else { return Ok(()) };
        let is_before = change.time <= time;
        found.push(change);
        if is_before {
            return Ok(());
        }
    }
    Ok(())
}
