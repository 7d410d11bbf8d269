//! Quarantined records: one sealed value each (see the `codec` module).
//!
//! The plain part is the [`fingerprint`] (16 bytes). The packed part is source, location, index, code, reason, moment
//! and the record's bytes.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::codec::{Damage, Fields, Sealer, Unsealer, plain, put_bytes};
use crate::model::{Origin, Rejected, SourceId, Time};

/// Records of this length may be truncated, so that their bytes alone do not identify them.
const WHOLE: usize = 1 << 20;
/// Most distinct codes interned when records are read back; the program has a few dozen.
const CODE_LIMIT: usize = 256;
const FINGERPRINT: usize = 16;

/// Identifies a rejected record by its bytes and the reason, so that a file that is read again or renamed is
/// quarantined only once. If the bytes are missing or truncated, the origin counts too.
pub(super) fn fingerprint(rejected: &Rejected) -> [u8; FINGERPRINT] {
    let mut hash = Xxh3::new();
    hash.update(rejected.code.as_bytes());
    hash.update(&[0]);
    if rejected.bytes.is_empty() || rejected.bytes.len() >= WHOLE {
        hash.update(rejected.origin.source.0.as_bytes());
        hash.update(&[0]);
        hash.update(rejected.origin.location.as_bytes());
        hash.update(&rejected.origin.index.to_be_bytes());
    }
    hash.update(&rejected.bytes);
    hash.digest128().to_be_bytes()
}

/// Encodes a record.
pub(super) fn encode(sealer: &mut Sealer, rejected: &Rejected, fingerprint: &[u8; FINGERPRINT]) -> io::Result<Vec<u8>> {
    let origin = &rejected.origin;
    sealer.seal(|packed| {
        put_bytes(packed, origin.source.0.as_bytes());
        put_bytes(packed, origin.location.as_bytes());
        packed.extend_from_slice(&origin.index.to_be_bytes());
        put_bytes(packed, rejected.code.as_bytes());
        put_bytes(packed, rejected.reason.as_bytes());
        packed.extend_from_slice(&rejected.observed.millis().to_be_bytes());
        put_bytes(packed, &rejected.bytes);
        Ok(fingerprint.to_vec())
    })
}

/// The fingerprint of an encoded record.
pub(super) fn fingerprint_of(sealed: &[u8]) -> Result<&[u8], Damage> {
    plain(sealed, FINGERPRINT)
}

/// Decodes a record.
pub(super) fn decode(unsealer: &mut Unsealer, sealed: &[u8]) -> Result<Rejected, Damage> {
    let packed = unsealer.packed(sealed, FINGERPRINT)?;
    let mut fields = Fields(&packed);
    // The order of the fields here is the order of the bytes.
    Ok(Rejected {
        origin: Origin {
            source: SourceId::from(fields.text()?),
            location: Arc::from(fields.text()?),
            index: fields.u64()?,
        },
        code: code(fields.text()?),
        reason: fields.text()?.to_owned(),
        observed: Time::from_millis(fields.i64()?),
        bytes: Bytes::copy_from_slice(fields.bytes()?),
    })
}

/// Interns a code that was read back, since codes are static texts. Each distinct one is leaked once, at most
/// [`CODE_LIMIT`] of them.
fn code(text: &str) -> &'static str {
    static CODES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut codes = CODES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = codes.get(text) {
        return known;
    }
    if codes.len() >= CODE_LIMIT {
        return "other";
    }
    let code: &'static str = Box::leak(Box::from(text));
    codes.insert(code);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::rejected;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes(location in "\\PC{0,40}", reason in "\\PC{0,80}", index in any::<u64>(),
                                   bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let base = rejected(&bytes, 5);
            let origin = Origin { location: location.into(), index, ..base.origin };
            let record = Rejected { origin, reason, ..base };
            let print = fingerprint(&record);
            let sealed = encode(&mut Sealer::default(), &record, &print).unwrap();
            prop_assert_eq!(fingerprint_of(&sealed), Ok(print.as_slice()));
            let back = decode(&mut Unsealer::default(), &sealed).unwrap();
            prop_assert_eq!(format!("{back:?}"), format!("{record:?}"));
        }
    }

    #[test]
    fn the_place_counts_only_where_the_bytes_are_not_whole() {
        let moved = |record: &Rejected| {
            let origin = Origin { location: "elsewhere".into(), ..record.origin.clone() };
            Rejected { origin, ..record.clone() }
        };
        let whole = rejected(b"{broken", 1);
        assert_eq!(fingerprint(&whole), fingerprint(&moved(&whole)));
        for bytes in [Vec::new(), vec![b'x'; WHOLE]] {
            let part = rejected(&bytes, 1);
            assert_ne!(fingerprint(&part), fingerprint(&moved(&part)), "{} bytes", bytes.len());
        }
        assert_ne!(fingerprint(&whole), fingerprint(&Rejected { code: "too_large", ..whole.clone() }));
    }
}
