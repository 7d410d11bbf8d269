//! Sealed values: how blocks and quarantined records are laid out as bytes.
//!
//! ```text
//! offset  bytes  what
//!      0      1  format, 1
//!      1      8  XXH3-64 of all that follows
//!      9      4  length of the packed part before compression
//!     13      n  plain part: n is fixed by the kind of value
//!   13+n         packed part: one zstd frame
//! ```
//! Numbers are big-endian. Texts and byte strings have their length in front, as four bytes.

use std::fmt::Display;
use std::io;

use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::compress_bound;

/// The format byte that this version writes, and the only one it reads.
pub(super) const FORMAT: u8 = 1;
const CHECKED_FROM: usize = 9;
const PLAIN_FROM: usize = 13;
/// Compression time is negligible beside the fsync; higher levels take twice as long and save a tenth of the size.
const LEVEL: i32 = 1;
/// Buffers are shrunk to this many bytes after a larger value.
const KEPT_BYTES: usize = 2 << 20;

/// Why a stored value can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("it is truncated")]
    Short,
    #[error("its format is {0}, this program reads format {FORMAT}")]
    Format(u8),
    #[error("its checksum does not match its content")]
    Checksum,
    #[error("it does not decompress: {0}")]
    Compression(String),
    #[error("its fields are inconsistent")]
    Fields,
}

/// Encodes sealed values. Reuses the compressor and its buffers.
#[derive(Default)]
pub(super) struct Sealer {
    compressor: Option<Compressor<'static>>,
    packed: Vec<u8>,
    frame: Vec<u8>,
}

impl Sealer {
    /// Seals a value. `pack` writes the part to be compressed into an empty buffer, and returns the plain part.
    pub(super) fn seal(&mut self, pack: impl FnOnce(&mut Vec<u8>) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        self.packed.clear();
        let plain = pack(&mut self.packed)?;
        let length = u32::try_from(self.packed.len())
            .map_err(|_| io::Error::other(format!("a value of {} bytes is too large to store", self.packed.len())))?;
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(Compressor::new(LEVEL)?),
        };
        self.frame.reserve(compress_bound(self.packed.len()));
        compressor.compress_to_buffer(&self.packed, &mut self.frame)?;
        let mut sealed = Vec::with_capacity(PLAIN_FROM + plain.len() + self.frame.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&[0; 8]);
        sealed.extend_from_slice(&length.to_be_bytes());
        sealed.extend_from_slice(&plain);
        sealed.extend_from_slice(&self.frame);
        let checksum = sealed.get(CHECKED_FROM..).map_or(0, xxh3_64);
        if let Some(place) = sealed.get_mut(1..CHECKED_FROM) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
        // What a single large value took is given back.
        for buffer in [&mut self.packed, &mut self.frame] {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        }
        Ok(sealed)
    }
}

/// Decodes sealed values. Reuses the decompressor.
#[derive(Default)]
pub(super) struct Unsealer(Option<Decompressor<'static>>);

impl Unsealer {
    /// Verifies the checksum and returns the packed part, decompressed.
    pub(super) fn packed(&mut self, sealed: &[u8], plain_length: usize) -> Result<Vec<u8>, Damage> {
        let mut fields = Fields(check(sealed)?);
        // The checksum held, so the length is what was written and no bomb.
        let length = usize::try_from(fields.u32()?).map_err(|_| Damage::Fields)?;
        fields.take(plain_length)?;
        let failed = |error: io::Error| Damage::Compression(error.to_string());
        let decompressor = match &mut self.0 {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(failed)?),
        };
        let packed = decompressor.decompress(fields.0, length).map_err(failed)?;
        if packed.len() == length { Ok(packed) } else { Err(Damage::Fields) }
    }
}

/// Verifies the checksum of the whole value and returns its plain part.
pub(super) fn plain(sealed: &[u8], length: usize) -> Result<&[u8], Damage> {
    let mut fields = Fields(check(sealed)?);
    fields.u32()?;
    fields.take(length)
}

/// Verifies format and checksum, and returns the bytes that the checksum covers.
fn check(sealed: &[u8]) -> Result<&[u8], Damage> {
    let mut fields = Fields(sealed);
    match fields.u8()? {
        FORMAT => {}
        other => return Err(Damage::Format(other)),
    }
    let checksum = fields.u64()?;
    if checksum == xxh3_64(fields.0) { Ok(fields.0) } else { Err(Damage::Checksum) }
}

/// Reads fields one after the other; holds the rest.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(Damage::Short)?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (front, rest) = self.0.split_first_chunk().ok_or(Damage::Short)?;
        self.0 = rest;
        Ok(*front)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Damage> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Damage> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Damage::Fields)?)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damage::Fields)
    }
}

/// Appends a byte string that [`Fields::bytes`] reads.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // What is longer than u32::MAX is refused when the whole is sealed.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Advice for error messages about damage.
pub(super) const RESTORE: &str = "check the disk, and restore the directory from a copy or start with an empty one";

/// An error message: what is damaged, how, and what to do.
pub(super) fn advice(what: impl Display, damage: &Damage) -> String {
    format!("{what} is damaged: {damage}; {RESTORE}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(plain: &[u8], packed: &[u8]) -> Vec<u8> {
        let pack = |buffer: &mut Vec<u8>| {
            buffer.extend_from_slice(packed);
            Ok(plain.to_vec())
        };
        Sealer::default().seal(pack).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(plain_part in prop::collection::vec(any::<u8>(), 0..40),
                                packed in prop::collection::vec(any::<u8>(), 0..4000)) {
            let sealed = sealed(&plain_part, &packed);
            prop_assert_eq!(plain(&sealed, plain_part.len()), Ok(plain_part.as_slice()));
            prop_assert_eq!(Unsealer::default().packed(&sealed, plain_part.len()), Ok(packed));
        }

        #[test]
        fn every_flipped_bit_is_found(packed in prop::collection::vec(any::<u8>(), 0..200),
                                      at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut sealed = sealed(b"plain", &packed);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(plain(&sealed, 5).is_err());
            prop_assert!(Unsealer::default().packed(&sealed, 5).is_err());
        }

        #[test]
        fn no_bytes_upset_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0..50_usize) {
            prop_assert!(plain(&bytes, length).is_err());
            prop_assert!(Unsealer::default().packed(&bytes, length).is_err());
        }
    }

    #[test]
    fn another_format_is_named() {
        let mut sealed = sealed(&[], b"x");
        sealed[0] = 7;
        assert_eq!(plain(&sealed, 0), Err(Damage::Format(7)));
    }
}
