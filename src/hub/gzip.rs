//! gzip (<https://www.rfc-editor.org/rfc/rfc1952>) made of pieces that many connections share.
//!
//! A piece is compressed without looking at what went before, and ends with a full flush on a whole byte
//! (<https://www.rfc-editor.org/rfc/rfc1951>), so that pieces follow one another in any order, for anybody. What differs
//! from one connection to the next is the checksum at the end, and that of a sequence follows from those of its pieces.

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

/// The gzip header of a stream: no name, no time, no flags.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// Higher levels take twice as long and make JSON events hardly smaller.
const LEVEL: u32 = 3;
/// Texts up to this length are stored uncompressed: a Huffman table would cost as much as it saves.
const STORED_BYTES: usize = 128;
/// Longest text of one stored block.
const STORED_BLOCK: usize = u16::MAX as usize;

/// The compressed form of one text, as a piece of a deflate stream.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) sum: Checksum,
}

impl Piece {
    /// Compresses a text.
    pub(super) fn of(text: &[u8]) -> Self {
        let compressed = if text.len() > STORED_BYTES { deflate(text) } else { None };
        let bytes = compressed.unwrap_or_else(|| stored(text)).into();
        Self { bytes, sum: Checksum::of(text) }
    }
}

/// The end of a stream: last block, and the gzip trailer for the checksum of all its texts.
pub(super) fn trailer(sum: Checksum) -> [u8; 10] {
    let [a, b, c, d] = sum.crc.to_le_bytes();
    let [e, f, g, h] = sum.bytes.to_le_bytes();
    // An empty last block with fixed codes comes first.
    [3, 0, a, b, c, d, e, f, g, h]
}

/// `None` if it does not get smaller.
fn deflate(text: &[u8]) -> Option<Vec<u8>> {
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    let mut out = Vec::with_capacity(text.len() / 3 + 64);
    loop {
        let taken = usize::try_from(compress.total_in()).ok()?;
        compress.compress_vec(text.get(taken..)?, &mut out, FlushCompress::Full).ok()?;
        if out.len() >= text.len() {
            return None;
        }
        // With room left over, all was taken and the flush is done.
        if out.len() < out.capacity() {
            return Some(out);
        }
        out.reserve(text.len() / 4 + 64);
    }
}

fn stored(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 5 * (text.len() / STORED_BLOCK + 1));
    for block in text.chunks(STORED_BLOCK) {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    out
}

/// CRC-32 and length of a text. Those of two texts can be combined to that of their concatenation.
///
/// A CRC is the remainder of a polynomial: appending a text multiplies it by a power of x, which depends on the length
/// of the appended text, and adds that text's CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    crc: u32,
    /// The length modulo 2^32, as in the gzip trailer.
    bytes: u32,
    /// x^(8 × length) modulo the polynomial.
    power: u32,
}

/// Polynomials have the coefficient of x^0 in the highest bit.
const ONE: u32 = 1 << 31;
const X8: u32 = 1 << 23;
const POLYNOMIAL: u32 = 0xedb8_8320;

impl Checksum {
    /// The checksum of the empty text.
    pub(super) const EMPTY: Self = Self { crc: 0, bytes: 0, power: ONE };

    fn of(text: &[u8]) -> Self {
        let mut crc = flate2::Crc::new();
        crc.update(text);
        let (mut power, mut square, mut length) = (ONE, X8, text.len());
        while length > 0 {
            if length % 2 == 1 {
                power = multiply(power, square);
            }
            square = multiply(square, square);
            length /= 2;
        }
        Self { crc: crc.sum(), bytes: crc.amount(), power }
    }

    /// The checksum of this text followed by `next`.
    #[must_use]
    pub(super) fn then(self, next: Self) -> Self {
        Self {
            crc: multiply(self.crc, next.power) ^ next.crc,
            bytes: self.bytes.wrapping_add(next.bytes),
            power: multiply(self.power, next.power),
        }
    }
}

fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for power in (0..32).rev() {
        // Without branches, which would be foretold badly.
        product ^= b & 0_u32.wrapping_sub(a >> power & 1);
        b = b >> 1 ^ POLYNOMIAL & 0_u32.wrapping_sub(b & 1);
    }
    product
}

#[cfg(test)]
pub(crate) mod testing {
    use std::io::{Result, Write};

    use flate2::write::GzDecoder;

    /// Fails if the checksum or the length is wrong, or the end is missing.
    pub(crate) fn decode(stream: &[u8]) -> Result<Vec<u8>> {
        let mut decoder = GzDecoder::new(Vec::new());
        decoder.write_all(stream)?;
        decoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::decode;
    use super::*;
    use proptest::prelude::*;

    fn stream(pieces: &[&Piece]) -> Vec<u8> {
        let sum = pieces.iter().fold(Checksum::EMPTY, |sum, piece| sum.then(piece.sum));
        let mut stream = HEADER.to_vec();
        pieces.iter().for_each(|piece| stream.extend_from_slice(&piece.bytes));
        stream.extend_from_slice(&trailer(sum));
        stream
    }

    #[test]
    fn short_texts_are_stored_and_long_ones_are_small() {
        let heartbeat = Piece::of(b": hb\n");
        assert_eq!(&heartbeat.bytes[..], b"\0\x05\0\xfa\xff: hb\n");
        let text = br#"{"id":"e:0","type":"update"}"#.repeat(1000);
        let piece = Piece::of(&text);
        assert!(piece.bytes.len() < text.len() / 50, "{}", piece.bytes.len());
        assert!(piece.bytes.ends_with(&[0, 0, 0xff, 0xff]), "a full flush ends it on a whole byte");
        assert_eq!(decode(&stream(&[])).unwrap(), b"");
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        let (a, b) = (Piece::of(b"a"), Piece::of(b"b"));
        let mut ended = stream(&[&a, &b]);
        assert_eq!(decode(&ended).unwrap(), b"ab");
        let crc = ended.len() - 8;
        ended[crc] ^= 1;
        assert!(decode(&ended).is_err());
    }

    fn texts() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            (prop::collection::vec(any::<u8>(), 1..20), 0..9000_usize).prop_map(|(text, times)| text.repeat(times)),
            // Nothing can be saved.
            any::<u64>().prop_map(|seed| {
                let mut random = fastrand::Rng::with_seed(seed);
                (0..200_000).map(|_| random.u8(..)).collect()
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// A piece decompresses the same after any other.
        #[test]
        fn any_pieces_in_any_order_are_one_stream(texts in prop::collection::vec(texts(), 1..5), order in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let pieces: Vec<Piece> = texts.iter().map(|text| Piece::of(text)).collect();
            let order: Vec<usize> = order.iter().map(|index| index.index(pieces.len())).collect();
            let sent: Vec<&Piece> = order.iter().map(|index| &pieces[*index]).collect();
            let expected: Vec<u8> = order.iter().flat_map(|index| texts[*index].clone()).collect();
            prop_assert_eq!(decode(&stream(&sent)).unwrap(), expected);
        }

        #[test]
        fn joined_checksums_are_that_of_the_whole(a in texts(), b in texts(), c in texts()) {
            let joined = Checksum::of(&a).then(Checksum::of(&b)).then(Checksum::of(&c));
            prop_assert_eq!(joined, Checksum::of(&[a, b, c].concat()));
            prop_assert_eq!(Checksum::EMPTY.then(joined), joined);
        }
    }
}
