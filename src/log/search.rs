//! Binary search for the position of a point in time.

use super::codec::Unsealer;
use super::{LogError, block};
use crate::model::{Seq, Time};

/// Finds the first event in `floor..=tail` observed at or after a moment, one past the tail if none was, by binary
/// search. Reads one block per step; relies on `observed` never decreasing.
///
/// `block_at` returns the block that holds an event with the position of its first event, or `None` if retention has
/// just dropped it. If a block is damaged, the result may be an earlier event, never a later one.
pub(super) fn first_observed_since<B: AsRef<[u8]>>(
    observed: Time,
    floor: Seq,
    tail: Seq,
    mut block_at: impl FnMut(Seq) -> Result<Option<(Seq, B)>, LogError>,
) -> Result<Seq, LogError> {
    // The answer is in `low..=high`.
    let (mut low, mut high) = (floor.0, tail.next().0);
    while low < high {
        let middle = low + (high - low) / 2;
        let (first, sealed) = match block_at(Seq(middle)) {
            Ok(Some(found)) => found,
            Ok(None) => {
                low = middle + 1;
                continue;
            }
            Err(error) if error.is_gone() => {
                high = middle;
                continue;
            }
            Err(error) => return Err(error),
        };
        match block::header(sealed.as_ref()) {
            Ok(header) if header.last_observed < observed => low = first.0 + header.count,
            Ok(header) if header.first_observed < observed => {
                let block = block::decode(&mut Unsealer::default(), first, sealed.as_ref());
                let heads = block.map(|block| block.heads).unwrap_or_default();
                let earlier = heads.iter().take_while(|head| head.observed < observed).count();
                return Ok(Seq(first.0.max(low) + earlier as u64));
            }
            _ => high = first.0.max(low),
        }
    }
    Ok(Seq(low))
}
