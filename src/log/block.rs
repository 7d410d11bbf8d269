//! Blocks: runs of consecutive events, stored as one sealed value each (see the `codec` module).
//!
//! The plain part is the number of events (4 bytes), when the first and the last of them were observed (8 bytes each,
//! milliseconds) and the length of the heads (4 bytes). The packed part is the heads, then the lines. The heads are
//! kept although the lines hold the same facts: a replay through a filter looks at nothing else, and reading them
//! takes a fifth of the time of parsing the lines. Compressed together with the lines they cost some 20 bytes each.

use std::io;

use bytes::Bytes;

use super::codec::{Damage, Fields, Sealer, Unsealer, plain, put_bytes};
use super::{Block, NewEvent};
use crate::model::{Action, AssetName, EventHead, Novelty, Seq, Time};

/// Most events in a block.
pub(super) const MAX_EVENTS: usize = 1024;
/// Most bytes of lines in a block. A larger event has a block of its own.
pub(super) const MAX_LINES: usize = 1 << 20;
const PLAIN: usize = 24;

/// The part of a block that can be read without decompression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) count: u64,
    pub(super) first_observed: Time,
    pub(super) last_observed: Time,
    heads_length: usize,
}

/// Splits events into runs of one block each.
pub(super) fn split(mut events: &[NewEvent]) -> impl Iterator<Item = &[NewEvent]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |event: &&NewEvent| {
            bytes += event.json.len() + 1;
            bytes <= MAX_LINES
        };
        let length = events.iter().take(MAX_EVENTS).take_while(fits).count().max(1);
        let (run, rest) = events.split_at_checked(length)?;
        events = rest;
        Some(run)
    })
}

/// Encodes a run of events.
pub(super) fn encode(sealer: &mut Sealer, events: &[NewEvent]) -> io::Result<Vec<u8>> {
    sealer.seal(|packed| {
        events.iter().for_each(|event| put_head(packed, &event.head));
        let heads_length = packed.len();
        packed.reserve(events.iter().map(|event| event.json.len() + 1).sum());
        for event in events {
            debug_assert!(!event.json.contains(&b'\n'), "an event is one line");
            packed.extend_from_slice(&event.json);
            packed.push(b'\n');
        }
        let observed = |event: Option<&NewEvent>| event.map_or(0, |event| event.head.observed.millis()).to_be_bytes();
        let mut plain = Vec::with_capacity(PLAIN);
        plain.extend_from_slice(&narrow(events.len())?);
        plain.extend_from_slice(&observed(events.first()));
        plain.extend_from_slice(&observed(events.last()));
        plain.extend_from_slice(&narrow(heads_length)?);
        Ok(plain)
    })
}

fn narrow(length: usize) -> io::Result<[u8; 4]> {
    u32::try_from(length).map(u32::to_be_bytes).map_err(io::Error::other)
}

/// Reads a block's header, and verifies the checksum of the whole block.
pub(super) fn header(sealed: &[u8]) -> Result<Header, Damage> {
    let mut fields = Fields(plain(sealed, PLAIN)?);
    Ok(Header {
        count: u64::from(fields.u32()?),
        first_observed: Time::from_millis(fields.i64()?),
        last_observed: Time::from_millis(fields.i64()?),
        heads_length: usize::try_from(fields.u32()?).map_err(|_| Damage::Fields)?,
    })
}

/// Decodes a whole block.
pub(super) fn decode(unsealer: &mut Unsealer, first: Seq, sealed: &[u8]) -> Result<Block, Damage> {
    let header = header(sealed)?;
    let packed = Bytes::from(unsealer.packed(sealed, PLAIN)?);
    let mut fields = Fields(packed.get(..header.heads_length).ok_or(Damage::Fields)?);
    let heads = (0..header.count).map(|_| take_head(&mut fields)).collect::<Result<Vec<_>, _>>()?;
    Ok(Block { first, heads, lines: packed.slice(header.heads_length..) })
}

fn put_head(out: &mut Vec<u8>, head: &EventHead) {
    out.push(match head.action {
        Action::Create => 0,
        Action::Update => 1,
        Action::Delete => 2,
    });
    out.extend_from_slice(&head.time.millis().to_be_bytes());
    out.extend_from_slice(&head.observed.millis().to_be_bytes());
    let fixed =
        [&head.id, head.asset.as_str(), &head.asset_type, &head.provider, &head.account, &head.region, &head.method];
    fixed.into_iter().for_each(|text| put_bytes(out, text.as_bytes()));
    // Once this byte was the first of the number of principals, and 0.
    out.push(head.novelty.bits());
    let [_, count @ ..] = u32::try_from(head.principals.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&count);
    head.principals.iter().for_each(|text| put_bytes(out, text.as_bytes()));
}

fn take_head(fields: &mut Fields<'_>) -> Result<EventHead, Damage> {
    let action = match fields.u8()? {
        0 => Action::Create,
        1 => Action::Update,
        2 => Action::Delete,
        _ => return Err(Damage::Fields),
    };
    // The order of the fields here is the order of the bytes.
    Ok(EventHead {
        action,
        time: Time::from_millis(fields.i64()?),
        observed: Time::from_millis(fields.i64()?),
        id: fields.text()?.to_owned(),
        asset: AssetName::from_text(fields.text()?),
        asset_type: fields.text()?.to_owned(),
        provider: fields.text()?.to_owned(),
        account: fields.text()?.to_owned(),
        region: fields.text()?.to_owned(),
        method: fields.text()?.to_owned(),
        novelty: Novelty::from_bits(fields.u8()?),
        principals: take_texts(fields)?,
    })
}

fn take_texts(fields: &mut Fields<'_>) -> Result<Vec<String>, Damage> {
    let count = u32::from_be_bytes([0, fields.u8()?, fields.u8()?, fields.u8()?]);
    (0..count).map(|_| fields.text().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::event;
    use proptest::prelude::*;

    fn sized(sizes: &[usize]) -> Vec<NewEvent> {
        let with_size = |(n, size): (usize, &usize)| {
            let event = event(n as u64, "asset://aws/1/-/x", 1000 + n as i64);
            NewEvent { json: Bytes::from(vec![b'x'; *size]), ..event }
        };
        sizes.iter().enumerate().map(with_size).collect()
    }

    #[test]
    fn runs_are_cut_by_count_and_by_bytes() {
        let lengths = |sizes: &[usize]| split(&sized(sizes)).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[10; 1025]), [1024, 1]);
        assert_eq!(lengths(&[MAX_LINES / 2 - 1; 3]), [2, 1]);
        assert_eq!(lengths(&[MAX_LINES / 2; 3]), [1, 1, 1]);
        assert_eq!(lengths(&[5, 3 * MAX_LINES, 5]), [1, 1, 1]);
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(texts in prop::collection::vec(("\\PC{0,30}", "\\PC{0,30}", "[^\n]{0,200}"), 1..20),
                                   principals in prop::collection::vec("\\PC{0,20}", 0..4), novelty in any::<u8>(),
                                   start in -1_000_000..1_000_000_i64) {
            let events: Vec<_> = texts.iter().enumerate().map(|(n, (id, asset, json))| {
                let base = event(n as u64, asset, start + n as i64);
                let novelty = Novelty::from_bits(novelty);
                let head = EventHead { id: id.clone(), principals: principals.clone(), novelty, ..base.head };
                NewEvent { head, json: Bytes::from(json.clone()) }
            }).collect();
            let sealed = encode(&mut Sealer::default(), &events).unwrap();
            let header = header(&sealed).unwrap();
            prop_assert_eq!(header.count, events.len() as u64);
            prop_assert_eq!(header.first_observed, events[0].head.observed);
            prop_assert_eq!(header.last_observed, events[events.len() - 1].head.observed);
            let block = decode(&mut Unsealer::default(), Seq(7), &sealed).unwrap();
            prop_assert_eq!(block.first, Seq(7));
            prop_assert_eq!(block.heads, events.iter().map(|event| event.head.clone()).collect::<Vec<_>>());
            let lines: String = texts.iter().map(|(_, _, json)| format!("{json}\n")).collect();
            prop_assert_eq!(block.lines, Bytes::from(lines));
        }
    }
}
