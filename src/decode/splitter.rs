//! Splits text into records without knowing their layout in advance: a document `{"Records":[…]}` (also `records`,
//! `Events` or `value`, with other members around it), a top-level array, one record per line, or objects one after
//! another in any layout; several of these in one input; byte order marks and CRLF.
//!
//! Memory is bounded by [`MAX_RECORD_BYTES`] and one read: a longer record is skipped and reported with its first
//! bytes. Where the text is broken, the rest of the line is rejected, with all following lines up to one that begins
//! with an object; so a broken line costs only itself. A document on one line has no following line, so its rest is
//! rejected.

use std::io::{self, Read};

use bytes::Bytes;
use memchr::memchr;

use super::walker::{Kind, Stop, Walker};
use super::{KEPT_BYTES, MAX_RECORD_BYTES, Piece, Position};

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Maximum white space in bytes after a top-level `[` before it is clear what it opens.
const LOOK_AHEAD_BYTES: u64 = 4 << 10;

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The state of the splitter at its place in the text.
#[derive(Debug)]
enum State {
    /// Outside all records and containers.
    Between,
    /// Within a byte order mark, after that many of its bytes.
    Mark(usize),
    /// After a top-level `[` (at that offset), which opens an array only if an object or its end follows: log lines of
    /// all kinds begin with brackets. It may follow garbage that has not been reported yet.
    Bracket { start: u64, after_garbage: bool },
    /// Within an array, between its elements.
    Elements,
    /// Within an object, or something else in an array.
    Walking,
    /// Within a line that is not JSON.
    Garbage,
    /// At the start of a line after garbage.
    GarbageLine,
}

/// The array that elements belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Array {
    None,
    TopLevel,
    InObject,
}

/// The record or garbage being read: where it starts, and why it will be rejected, if that is known.
#[derive(Debug)]
struct Item {
    start: u64,
    /// Its first bytes, once it is too long to be kept in the buffer.
    head: Option<Vec<u8>>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    NotARecord,
    NotJson(&'static str),
    Truncated(&'static str),
}

/// Splits the text from a reader into [`Piece`]s.
#[derive(Debug)]
pub struct Splitter<R> {
    reader: R,
    buffer: Vec<u8>,
    /// How much of the buffer is filled, and how much of that has been scanned.
    filled: usize,
    at: usize,
    /// The offset of the buffer's first byte in the input.
    base: u64,
    state: State,
    array: Array,
    walker: Walker,
    item: Option<Item>,
    position: Position,
}

impl<R: Read> Splitter<R> {
    /// Reads from the start of an input.
    pub fn new(reader: R) -> Self {
        Self::starting_at(reader, 0)
    }

    /// Continues at an `offset` outside all records and containers, where the reader must be.
    pub fn starting_at(reader: R, offset: u64) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            filled: 0,
            at: 0,
            base: offset,
            state: State::Between,
            array: Array::None,
            walker: Walker::new(Kind::Object),
            item: None,
            position: Position { offset, skip: 0 },
        }
    }

    /// The next piece; `None` if the reader has no more at present.
    ///
    /// # Errors
    /// When the reader fails. Text read before is kept.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.scan() {
                return Ok(Some(piece));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// The last piece, when [`next_piece`](Splitter::next_piece) returned `None` and no more input will come. The
    /// splitter is then outside all records and containers, at the end.
    pub fn finish(&mut self) -> Option<Piece> {
        let cut = match self.state {
            State::Between => return None,
            State::Elements => Some("the input ends inside an array of records"),
            State::Walking if self.item.is_none() => {
                Some("the input ends after an array of records, inside its object")
            }
            State::Walking => Some("the input ends inside a record"),
            State::Mark(_) | State::Bracket { .. } | State::Garbage | State::GarbageLine => None,
        };
        if self.item.is_none() {
            self.begin(self.offset(), None);
        }
        if let (Some(cut), Some(item)) = (cut, &mut self.item) {
            item.fault.get_or_insert(Fault::Truncated(cut));
        }
        self.leave_containers();
        Some(self.reject(self.offset()))
    }

    /// The position after the last piece returned, at which splitting can resume.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Whether the input so far ends inside an array of records, or the object around it.
    pub fn is_in_container(&self) -> bool {
        self.array != Array::None
    }

    /// Bytes of input read so far.
    pub fn read_offset(&self) -> u64 {
        self.base + self.filled as u64
    }

    /// The offset of the next byte to scan.
    fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Reads more input; `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.buffer.len() - self.filled < READ_BYTES / 2 {
            self.make_room();
        }
        loop {
            match self.reader.read(self.buffer.get_mut(self.filled..).unwrap_or_default()) {
                Ok(read) => {
                    self.filled += read;
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves the text that is still needed to the start of the buffer.
    fn make_room(&mut self) {
        let mut keep_from = self.at;
        if let Some(item) = &mut self.item
            && item.head.is_none()
        {
            let index = |offset: u64| usize::try_from(offset.saturating_sub(self.base)).unwrap_or(self.at).min(self.at);
            let start = index(item.start);
            let end = if let State::Bracket { start, .. } = self.state { index(start) } else { self.at };
            if end - start > MAX_RECORD_BYTES {
                item.head = self.buffer.get(start..start + KEPT_BYTES).map(<[u8]>::to_vec);
            } else {
                keep_from = start;
            }
        }
        self.buffer.copy_within(keep_from..self.filled, 0);
        self.base += keep_from as u64;
        self.at -= keep_from;
        self.filled -= keep_from;
        if self.buffer.len() - self.filled < READ_BYTES {
            self.buffer.resize(self.filled + READ_BYTES, 0);
        }
    }

    /// Scans the buffer up to the end of a piece or of the buffer.
    fn scan(&mut self) -> Option<Piece> {
        while self.at < self.filled {
            let piece = match self.state {
                State::Between => self.between(),
                State::Mark(taken) => self.mark(taken),
                State::Bracket { start, after_garbage } => self.bracket(start, after_garbage),
                State::Elements => self.elements(),
                State::Walking => self.walk(),
                State::Garbage => self.garbage(),
                State::GarbageLine => self.garbage_line(),
            };
            if piece.is_some() {
                return piece;
            }
        }
        None
    }

    fn peek(&self) -> u8 {
        self.buffer.get(self.at).copied().unwrap_or_default()
    }

    fn begin(&mut self, start: u64, fault: Option<Fault>) {
        self.item = Some(Item { start, head: None, fault });
    }

    fn begin_walk(&mut self, kind: Kind) {
        let fault = (kind == Kind::Junk).then_some(Fault::NotARecord);
        self.begin(self.offset(), fault);
        self.walker = Walker::new(kind);
        self.state = State::Walking;
    }

    fn between(&mut self) -> Option<Piece> {
        match self.peek() {
            // Commas and record separators (RFC 7464) may occur between objects.
            b' ' | b'\t' | b'\r' | b'\n' | b',' | 0x1e => self.at += 1,
            b'{' => self.begin_walk(Kind::Object),
            b'[' => {
                self.begin(self.offset(), Some(Fault::NotARecord));
                self.state = State::Bracket { start: self.offset(), after_garbage: false };
                self.at += 1;
            }
            byte if byte == BYTE_ORDER_MARK[0] => self.state = State::Mark(0),
            _ => {
                self.begin(self.offset(), Some(Fault::NotARecord));
                self.state = State::Garbage;
            }
        }
        None
    }

    fn mark(&mut self, taken: usize) -> Option<Piece> {
        if taken == 0 {
            self.begin(self.offset(), Some(Fault::NotARecord));
        }
        if BYTE_ORDER_MARK.get(taken) != Some(&self.peek()) {
            self.state = State::Garbage;
            return None;
        }
        self.at += 1;
        self.state = State::Mark(taken + 1);
        if taken + 1 == BYTE_ORDER_MARK.len() {
            self.item = None;
            self.state = State::Between;
        }
        None
    }

    fn bracket(&mut self, start: u64, after_garbage: bool) -> Option<Piece> {
        match self.peek() {
            b' ' | b'\t' | b'\r' | b'\n' if self.offset() - start < LOOK_AHEAD_BYTES => self.at += 1,
            b'{' => {
                self.position = Position { offset: start, skip: 0 };
                let garbage = after_garbage.then(|| self.reject(start));
                self.item = None;
                self.array = Array::TopLevel;
                self.state = State::Elements;
                return garbage;
            }
            b']' if !after_garbage => {
                self.at += 1;
                self.item = None;
                self.leave_containers();
            }
            _ => self.state = State::Garbage,
        }
        None
    }

    fn elements(&mut self) -> Option<Piece> {
        match self.peek() {
            b' ' | b'\t' | b'\r' | b'\n' | b',' => self.at += 1,
            b'{' => self.begin_walk(Kind::Element),
            b']' => {
                self.at += 1;
                if self.array == Array::InObject {
                    self.walker = Walker::after_container();
                    self.state = State::Walking;
                } else {
                    self.leave_containers();
                }
            }
            _ => self.begin_walk(Kind::Junk),
        }
        None
    }

    fn walk(&mut self) -> Option<Piece> {
        let (at, stop) = self.walker.walk(self.buffer.get(..self.filled).unwrap_or_default(), self.at);
        self.at = at;
        match stop {
            Stop::More => None,
            Stop::Closed => self.closed(),
            Stop::Container => {
                self.item = None;
                self.array = Array::InObject;
                self.state = State::Elements;
                None
            }
            Stop::Boundary => {
                self.state = State::Elements;
                self.count_piece();
                Some(self.reject(self.offset()))
            }
            Stop::CutOff => {
                self.set_fault(Fault::Truncated("the record breaks off, and another one begins on the next line"));
                self.leave_containers();
                Some(self.reject(self.offset()))
            }
            Stop::Malformed(what) => {
                self.set_fault(Fault::NotJson(what));
                self.array = Array::None;
                self.state = State::Garbage;
                None
            }
        }
    }

    /// Called after the last bracket of an object: returns the record.
    fn closed(&mut self) -> Option<Piece> {
        if self.item.is_none() {
            // The object around an array of records.
            self.leave_containers();
            return None;
        }
        self.state = if self.array == Array::None { State::Between } else { State::Elements };
        let (start, length, bytes) = self.cut(self.offset());
        self.count_piece();
        let end_offset = self.offset();
        let reject = |code, reason| Piece::Rejected { code, reason, bytes: bytes.clone(), end_offset };
        Some(if length > MAX_RECORD_BYTES as u64 {
            let reason = format!(
                "the record at byte {start} has {length} bytes, more than {MAX_RECORD_BYTES}; its first {KEPT_BYTES} are kept"
            );
            reject("too_large", reason)
        } else if let Err(error) = std::str::from_utf8(&bytes) {
            reject("not_utf8", format!("the record at byte {start} is not UTF-8 after {} bytes", error.valid_up_to()))
        } else {
            Piece::Record { bytes, end_offset }
        })
    }

    fn garbage(&mut self) -> Option<Piece> {
        match memchr(b'\n', self.buffer.get(self.at..self.filled).unwrap_or_default()) {
            Some(line) => {
                self.at += line + 1;
                self.state = State::GarbageLine;
            }
            None => self.at = self.filled,
        }
        None
    }

    fn garbage_line(&mut self) -> Option<Piece> {
        match self.peek() {
            b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
            b'{' => {
                self.leave_containers();
                return Some(self.reject(self.offset()));
            }
            b'[' => {
                self.state = State::Bracket { start: self.offset(), after_garbage: true };
                self.at += 1;
            }
            _ => self.state = State::Garbage,
        }
        None
    }

    fn set_fault(&mut self, fault: Fault) {
        if self.item.is_none() {
            self.begin(self.offset(), None);
        }
        if let Some(item) = &mut self.item {
            item.fault = Some(fault);
        }
    }

    /// Leaves all containers, at the next byte to scan.
    fn leave_containers(&mut self) {
        self.state = State::Between;
        self.array = Array::None;
        self.position = Position { offset: self.offset(), skip: 0 };
    }

    fn count_piece(&mut self) {
        self.position = match self.array {
            Array::None => Position { offset: self.offset(), skip: 0 },
            Array::TopLevel | Array::InObject => Position { skip: self.position.skip + 1, ..self.position },
        };
    }

    /// Ends the item at an offset. Returns its start, its length, and its bytes or the first of them.
    fn cut(&mut self, end_offset: u64) -> (u64, u64, Bytes) {
        let item = self.item.take().unwrap_or(Item { start: end_offset, head: None, fault: None });
        let length = end_offset.saturating_sub(item.start);
        if let Some(head) = item.head {
            return (item.start, length, Bytes::from(head));
        }
        let index = |offset: u64| usize::try_from(offset.saturating_sub(self.base)).unwrap_or(self.at).min(self.at);
        let (start, end) = (index(item.start), index(end_offset));
        let kept = if end - start > MAX_RECORD_BYTES { start + KEPT_BYTES } else { end };
        (item.start, length, Bytes::copy_from_slice(self.buffer.get(start..kept).unwrap_or_default()))
    }

    /// Ends the item at an offset and rejects it.
    fn reject(&mut self, end_offset: u64) -> Piece {
        let fault = self.item.as_ref().and_then(|item| item.fault).unwrap_or(Fault::NotARecord);
        let (start, length, bytes) = self.cut(end_offset);
        let what = match fault {
            Fault::NotARecord => "a JSON object was expected",
            Fault::NotJson(what) | Fault::Truncated(what) => what,
        };
        let code = match fault {
            Fault::NotARecord => "not_a_record",
            Fault::NotJson(_) => "not_json",
            Fault::Truncated(_) => "truncated",
        };
        let kept = if length > MAX_RECORD_BYTES as u64 {
            format!(", the first {KEPT_BYTES} of which are kept")
        } else {
            String::new()
        };
        let reason = format!("{what}: {length} bytes from byte {start} are not a record{kept}");
        Piece::Rejected { code, reason, bytes, end_offset }
    }
}

#[cfg(test)]
mod tests;
