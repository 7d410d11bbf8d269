//! Compressed input: recognised by its magic number, limited in its expansion, with precise errors for damage.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// The first bytes of every gzip member (<https://www.rfc-editor.org/rfc/rfc1952#section-2.3.1>).
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Expansion up to this many bytes is never questioned.
const UNQUESTIONED_BYTES: u64 = 64 << 20;

/// How the input is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As text.
    None,
    /// One or several gzip members.
    Gzip {
        /// The maximum ratio of expanded to compressed size, applied beyond 64 MiB of text. Logs reach about 30.
        max_expansion: u32,
    },
}

impl Compression {
    /// The content of a gzip file of which only the first byte has been written so far.
    pub const GZIP_START: [u8; 1] = [MAGIC[0]];

    /// Determines the compression by the first bytes of a file.
    #[must_use]
    pub fn of(head: &[u8], max_expansion: u32) -> Self {
        if head.starts_with(&MAGIC) { Self::Gzip { max_expansion } } else { Self::None }
    }
}

/// A fault that ends a compressed input early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GzipError {
    /// It stops in the middle.
    #[error("the compressed data is truncated")]
    Truncated,
    /// It is not gzip, or fails its checksum.
    #[error("the compressed data is corrupt ({0})")]
    Corrupt(String),
    /// It expands beyond the limit.
    #[error("the compressed data expands to more than {0} times its size; raise max_expansion if you trust it")]
    ExpandsTooMuch(u32),
}

impl GzipError {
    /// The code of the rejected piece that reports it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Corrupt(_) => "corrupt_gzip",
            Self::ExpandsTooMuch(_) => "expanded_too_much",
        }
    }

    /// The gzip error inside an I/O error from [`Input`], or the I/O error itself if it is the reader's.
    pub(super) fn of(error: io::Error) -> io::Result<Option<Self>> {
        error.downcast::<Self>().map(Some)
    }
}

/// A reader, preceded by the bytes that were read from it to recognise the compression.
type WithHead<R> = Chain<Cursor<Vec<u8>>, R>;

/// A reader of plain or compressed text. Faults of the compression are I/O errors that contain a [`GzipError`].
#[derive(Debug)]
pub enum Input<R: Read> {
    /// Text.
    Plain(WithHead<R>),
    /// Compressed text.
    Gzip(Box<Gzip<R>>),
}

/// A decompressing reader with a limit of expansion.
#[derive(Debug)]
pub struct Gzip<R: Read> {
    decoder: MultiGzDecoder<BufReader<Counted<WithHead<R>>>>,
    expanded: u64,
    max_expansion: u32,
}

impl<R: Read> Input<R> {
    /// Determines the compression by the first bytes of the reader.
    ///
    /// # Errors
    /// When the reader fails.
    pub fn detect(mut reader: R, max_expansion: u32) -> io::Result<Self> {
        let mut head = Vec::with_capacity(MAGIC.len());
        reader.by_ref().take(MAGIC.len() as u64).read_to_end(&mut head)?;
        let compression = Compression::of(&head, max_expansion);
        Ok(Self::with_head(head, reader, compression))
    }

    /// Reads input with a known compression.
    pub fn new(reader: R, compression: Compression) -> Self {
        Self::with_head(Vec::new(), reader, compression)
    }

    #[expect(clippy::disallowed_methods, reason = "this is where expansion is capped")]
    fn with_head(head: Vec<u8>, reader: R, compression: Compression) -> Self {
        let reader = Cursor::new(head).chain(reader);
        match compression {
            Compression::None => Self::Plain(reader),
            Compression::Gzip { max_expansion } => Self::Gzip(Box::new(Gzip {
                decoder: MultiGzDecoder::new(BufReader::with_capacity(64 << 10, Counted { reader, taken: 0 })),
                expanded: 0,
                max_expansion,
            })),
        }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(gzip) => gzip.read(buffer),
        }
    }
}

impl<R: Read> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other(GzipError::Truncated),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                io::Error::other(GzipError::Corrupt(error.to_string()))
            }
            _ => error,
        })?;
        self.expanded += read as u64;
        let taken = self.decoder.get_ref().get_ref().taken;
        let allowed = taken.saturating_mul(u64::from(self.max_expansion)).max(UNQUESTIONED_BYTES);
        if self.expanded > allowed {
            return Err(io::Error::other(GzipError::ExpandsTooMuch(self.max_expansion)));
        }
        Ok(read)
    }
}

/// Counts what is read through it.
#[derive(Debug)]
struct Counted<R> {
    reader: R,
    taken: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.taken += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression as Level, write::GzEncoder};

    use super::super::{Decoder, Piece, Position};
    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn lines(count: usize) -> Vec<u8> {
        (0..count).flat_map(|n| format!("{{\"n\":{n},\"noise\":{}}}\n", fastrand::u64(..)).into_bytes()).collect()
    }

    fn codes(input: &[u8]) -> (usize, Vec<&'static str>) {
        let (mut records, mut rejected) = (0, Vec::new());
        for piece in Decoder::new(input, 200).unwrap().pieces() {
            match piece.unwrap() {
                Piece::Record { .. } => records += 1,
                Piece::Rejected { code, .. } => rejected.push(code),
            }
        }
        (records, rejected)
    }

    #[test]
    fn several_members_are_one_text() {
        let mut input = gzip(&lines(10));
        input.extend(gzip(&lines(5)));
        assert_eq!(codes(&input), (15, vec![]));
        assert_eq!(codes(b""), (0, vec![]));
        assert_eq!(codes(&[0x1f]), (0, vec!["not_a_record"]));
    }

    #[test]
    fn what_lies_before_the_damage_is_taken() {
        let whole = gzip(&lines(1_000));
        for length in [2, 5, 11, 100, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
            let (records, rejected) = codes(&whole[..length]);
            assert_eq!(rejected.last(), Some(&"truncated"), "{length} bytes: {rejected:?}");
            assert!(rejected.len() <= 2 && (length < whole.len() / 2 || records > 100), "{length}: {records}");
        }
        let mut broken = whole.clone();
        broken[whole.len() / 2] ^= 0x55;
        let rejected = codes(&broken).1;
        assert!(rejected.contains(&"corrupt_gzip") || rejected.contains(&"truncated"), "{rejected:?}");
        let mut trailed = whole;
        trailed.extend(b"text after the last member");
        assert_eq!(codes(&trailed), (1_000, vec!["corrupt_gzip"]));
    }

    #[test]
    fn a_bomb_is_stopped() {
        let bomb = gzip(&vec![b' '; 65 << 20]);
        assert!(bomb.len() < 1 << 20);
        assert_eq!(codes(&bomb), (0, vec!["expanded_too_much"]));
    }

    #[test]
    fn reading_is_taken_up_again() {
        let input =
            gzip(&[b"{\"n\":0}\n{\"Records\":[".as_slice(), b"{\"n\":1},{\"n\":2},{\"n\":3}]}\n{\"n\":4}"].concat());
        let mut first = Decoder::new(input.as_slice(), 200).unwrap();
        for seen in 0..=5 {
            let position = first.position();
            let compression = Compression::Gzip { max_expansion: 200 };
            let rest: Vec<_> = Decoder::resume(input.as_slice(), compression, position).unwrap().pieces().collect();
            assert_eq!(rest.len(), 5 - seen, "{position:?}");
            assert_eq!(first.next_piece().unwrap().is_some(), seen < 5);
        }
        assert_eq!(first.position(), Position { offset: 53, skip: 0 });
    }

    #[test]
    fn faults_of_the_reader_stay_errors() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::PermissionDenied))
            }
        }
        let whole = gzip(&lines(10));
        let mut decoder = Decoder::new(whole[..40].chain(Broken), 200).unwrap();
        assert_eq!(decoder.next_piece().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
