//! The search for a moment.

use super::codec::{Damage, Unsealer};
use super::{LogError, block};
use crate::model::{Seq, Time};

/// The first event in `floor..=tail` observed at or after a moment, one past the tail when none was. Reads one block
/// per halving; relies on `observed` never going back.
///
/// `block_at` gives the block that an event is in with the position of its first event, or nothing when retention
/// has just dropped it.
pub(super) fn first_observed_since<B: AsRef<[u8]>>(
    observed: Time,
    floor: Seq,
    tail: Seq,
    mut block_at: impl FnMut(Seq) -> Result<Option<(Seq, B)>, LogError>,
    damaged: impl Fn(Seq, &Damage) -> LogError,
) -> Result<Seq, LogError> {
    // The answer is in `low..=high`.
    let (mut low, mut high) = (floor.0, tail.next().0);
    while low < high {
        let middle = low + (high - low) / 2;
        let Some((first, sealed)) = block_at(Seq(middle))? else {
            low = middle + 1;
            continue;
        };
        let header = block::header(sealed.as_ref()).map_err(|damage| damaged(first, &damage))?;
        if header.last_observed < observed {
            low = first.0 + header.count;
        } else if header.first_observed >= observed {
            high = first.0.max(low);
        } else {
            let block = block::decode(&mut Unsealer::default(), first, sealed.as_ref())
                .map_err(|damage| damaged(first, &damage))?;
            let earlier = block.heads.iter().take_while(|head| head.observed < observed).count();
            return Ok(Seq(first.0 + earlier as u64));
        }
    }
    Ok(Seq(low))
}
