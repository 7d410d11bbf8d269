//! The byte loop: scans JSON text, tracks strings and nesting, and finds where a value ends. It checks only as much of
//! the grammar as is needed to find the next record after a broken one; the validity of a record is checked when it is
//! parsed.

use std::mem;

use memchr::memchr3;

/// Members of a top-level object that contain records if they are arrays.
const CONTAINERS: [&[u8]; 4] = [b"Records", b"records", b"Events", b"value"];

/// Nesting up to which brackets are matched by kind; deeper ones are only counted. (Deeper records are rejected by the
/// parser.)
const MATCHED_DEPTH: u32 = 128;

/// Why a walk stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// All bytes have been scanned.
    More,
    /// After the bracket that closes the outermost level.
    Closed,
    /// After the `[` of an array of records.
    Container,
    /// Between elements, at an object or `]`.
    Boundary,
    /// At a `{` in the first column where JSON allows none: the text before it was cut off.
    CutOff,
    /// At something invalid, described here.
    Malformed(&'static str),
}

/// What is being scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A top-level object: a record, unless it turns out to contain an array of them.
    Object,
    /// A record in an array.
    Element,
    /// Something in an array that is not an object, up to the next object or the array's end.
    Junk,
}

/// The state of a walk, kept from one piece of input to the next.
#[derive(Debug)]
pub(super) struct Walker {
    kind: Kind,
    depth: u32,
    /// One bit per level: set if the level is an object.
    objects: u128,
    in_string: bool,
    escaped: bool,
    /// The last byte was a line break outside a string.
    line_start: bool,
    /// The last byte outside strings that was not white space; `"` for a string.
    last: u8,
    key: Key,
}

impl Walker {
    /// A walk that starts at an object's `{` or at junk.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            depth: 0,
            objects: 0,
            in_string: false,
            escaped: false,
            line_start: false,
            last: b'[',
            key: Key::default(),
        }
    }

    /// A walk that continues after an array of records in a top-level object.
    pub(super) fn after_container() -> Self {
        Self { depth: 1, objects: 1, last: b']', ..Self::new(Kind::Object) }
    }

    /// Continues at `data[at]`. Returns where and why it stopped.
    pub(super) fn walk(&mut self, data: &[u8], mut at: usize) -> (usize, Stop) {
        // Reset here, as the walk may end inside a string, before it is set again.
        let mut line_start = if mem::take(&mut self.line_start) { at } else { usize::MAX };
        if self.in_string {
            match self.string(data, at) {
                Ok(end) => at = end,
                Err(stop) => return stop,
            }
        }
        while let Some(&byte) = data.get(at) {
            match byte {
                b'"' => match self.open_string(data, at) {
                    Ok(end) => {
                        at = end;
                        continue;
                    }
                    Err(stop) => return stop,
                },
                b'\n' => line_start = at + 1,
                b' ' | b'\t' | b'\r' => {}
                b'{' | b'[' => {
                    if let Some(stop) = self.open(byte, at == line_start) {
                        let taken = usize::from(stop == Stop::Container);
                        return (at + taken, stop);
                    }
                }
                b'}' | b']' => {
                    if let Some(stop) = self.close(byte) {
                        let taken = usize::from(stop == Stop::Closed);
                        return (at + taken, stop);
                    }
                }
                _ => self.last = byte,
            }
            at += 1;
        }
        self.line_start = line_start == at;
        (at, Stop::More)
    }

    fn open(&mut self, byte: u8, first_column: bool) -> Option<Stop> {
        if self.depth == 0 && self.kind == Kind::Junk && byte == b'{' {
            return Some(Stop::Boundary);
        }
        if byte == b'{' && self.depth > 0 && !self.object_may_follow() {
            return Some(if first_column { Stop::CutOff } else { Stop::Malformed("an object where none can be") });
        }
        if byte == b'[' && self.depth == 1 && self.last == b':' && self.key.is_container() {
            return Some(Stop::Container);
        }
        if self.depth < MATCHED_DEPTH {
            let bit = 1_u128 << self.depth;
            self.objects = if byte == b'{' { self.objects | bit } else { self.objects & !bit };
        }
        self.depth = self.depth.saturating_add(1);
        self.last = byte;
        None
    }

    fn object_may_follow(&self) -> bool {
        match self.last {
            b':' | b'[' => true,
            b',' => !matches!(self.innermost_is_object(), Some(true)),
            _ => false,
        }
    }

    /// `None` if the nesting is too deep to know.
    fn innermost_is_object(&self) -> Option<bool> {
        let level = self.depth.checked_sub(1).filter(|level| *level < MATCHED_DEPTH)?;
        Some(self.objects >> level & 1 == 1)
    }

    fn close(&mut self, byte: u8) -> Option<Stop> {
        if self.depth == 0 {
            return Some(if byte == b']' { Stop::Boundary } else { Stop::Malformed("a } that closes nothing") });
        }
        if self.innermost_is_object().is_some_and(|object| object != (byte == b'}')) {
            return Some(Stop::Malformed("brackets that do not match"));
        }
        self.depth -= 1;
        self.last = byte;
        (self.depth == 0 && self.kind != Kind::Junk).then_some(Stop::Closed)
    }

    /// Scans a string from its `"`. Returns the index after its end.
    #[inline]
    fn open_string(&mut self, data: &[u8], at: usize) -> Result<usize, (usize, Stop)> {
        self.key.open = self.depth == 1 && self.kind == Kind::Object && self.last != b':';
        self.key.length = 0;
        self.in_string = true;
        self.last = b'"';
        self.string(data, at + 1)
    }

    #[inline]
    fn string(&mut self, data: &[u8], mut at: usize) -> Result<usize, (usize, Stop)> {
        if self.escaped {
            match data.get(at) {
                None => return Err((at, Stop::More)),
                Some(b'\n') => {}
                Some(_) => at += 1,
            }
            self.escaped = false;
        }
        loop {
            let rest = data.get(at..).unwrap_or_default();
            let Some(run) = string_stop(rest) else {
                self.key.extend(rest);
                return Err((data.len(), Stop::More));
            };
            self.key.extend(rest.get(..run).unwrap_or_default());
            at += run;
            match rest.get(run) {
                Some(b'"') => {
                    self.in_string = false;
                    return Ok(at + 1);
                }
                Some(b'\\') => {
                    // A name with an escape is none of those that are looked for.
                    self.key.length = Key::TOO_LONG;
                    match rest.get(run + 1) {
                        None => {
                            self.escaped = true;
                            return Err((at + 1, Stop::More));
                        }
                        Some(b'\n') => at += 1,
                        Some(_) => at += 2,
                    }
                }
                _ => return Err((at, Stop::Malformed("a line break inside a string"))),
            }
        }
    }
}

/// The index of the first quote, backslash or line break. Most strings are short: they are examined here, eight bytes
/// at a time; only longer ones are worth a call.
#[inline]
fn string_stop(text: &[u8]) -> Option<usize> {
    const SHORT: usize = 32;
    let mut at = 0;
    while at < SHORT
        && let Some(Ok(eight)) = text.get(at..at + 8).map(<[u8; 8]>::try_from)
    {
        let stops = stops(u64::from_le_bytes(eight));
        if stops != 0 {
            return Some(at + stops.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr3(b'"', b'\\', b'\n', text.get(at..)?).map(|found| at + found)
}

/// The lowest bit that is set is in the first of eight bytes that is a quote, a backslash or a line break
/// (<https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord>).
#[inline]
fn stops(eight: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let is = |byte: u8| {
        let other = eight ^ (ONES * u64::from(byte));
        other.wrapping_sub(ONES) & !other
    };
    (is(b'"') | is(b'\\') | is(b'\n')) & HIGH
}

/// The name of the current member at the first level of a top-level object, as far as needed to recognise the
/// [`CONTAINERS`].
#[derive(Debug, Default)]
struct Key {
    open: bool,
    length: usize,
    text: [u8; 8],
}

impl Key {
    const TOO_LONG: usize = usize::MAX;

    #[inline]
    fn extend(&mut self, run: &[u8]) {
        if !self.open || run.is_empty() {
            return;
        }
        let end = self.length.saturating_add(run.len());
        match self.text.get_mut(self.length..end) {
            Some(room) => {
                room.copy_from_slice(run);
                self.length = end;
            }
            None => self.length = Self::TOO_LONG,
        }
    }

    fn is_container(&self) -> bool {
        self.open && self.text.get(..self.length).is_some_and(|text| CONTAINERS.contains(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(kind: Kind, text: &str) -> (usize, Stop) {
        Walker::new(kind).walk(text.as_bytes(), 0)
    }

    #[test]
    fn finds_the_end_of_an_object() {
        for text in [r#"{}"#, r#"{"a":"}"}"#, r#"{"a":"\"}"}"#, r#"{"a":"\\"}"#, r#"{"a":[{"b":[1,{}]}],"c":null}"#] {
            assert_eq!(walk(Kind::Object, &format!("{text} x")), (text.len(), Stop::Closed), "{text}");
        }
    }

    #[test]
    fn recognises_a_container_at_the_first_level_only() {
        for text in [
            r#"{"Records":["#,
            r#"{"a":[1],"b":{"c":2}, "records" : ["#,
            r#"{"NextToken":"Records","Events":["#,
            r#"{"value":["#,
        ] {
            assert_eq!(walk(Kind::Object, &format!("{text}]")), (text.len(), Stop::Container), "{text}");
            assert_ne!(walk(Kind::Element, &format!("{text}]}}")).1, Stop::Container, "{text}");
        }
        for text in [
            r#"{"a":{"Records":[]}}"#,
            r#"{"Records":{}}"#,
            r#"{"Record":[]}"#,
            r#"{"Recordss":[]}"#,
            r#"{"\u0052ecords":[]}"#,
            r#"{"Rec\u006frds":[]}"#,
            r#"{"a":"Records","b":[]}"#,
        ] {
            assert_eq!(walk(Kind::Object, text), (text.len(), Stop::Closed), "{text}");
        }
    }

    #[test]
    fn stops_where_json_cannot_go_on() {
        for (text, at) in [
            ("{\"a\":[}", 6),
            ("{\"a\":1]", 6),
            ("{\"a\":\"x\ny\"}", 7),
            ("{\"a\":\"x\\\ny\"}", 8),
            ("{\"a\":1 {\"b\":2}}", 7),
            ("{\"a\":1,{\"b\":2}}", 7),
        ] {
            let (stopped, stop) = walk(Kind::Object, text);
            assert!(matches!(stop, Stop::Malformed(_)), "{text:?} {stop:?}");
            assert_eq!(stopped, at, "{text:?}");
        }
        assert_eq!(walk(Kind::Object, "{\"a\":1,\n{\"b\":2}"), (8, Stop::CutOff));
        assert_eq!(walk(Kind::Object, "{\"a\":[\n{},\n{}\n]\n}").1, Stop::Closed, "first columns in sound JSON");
    }

    #[test]
    fn a_walk_does_not_depend_on_how_the_text_arrives() {
        for (text, expected) in [
            ("{\n\"\"{\"a\":1}", (4, Stop::Malformed("an object where none can be"))),
            ("{\n\"a\"\n{\"a\":1}", (6, Stop::CutOff)),
            ("{\n {\"a\":1}", (3, Stop::Malformed("an object where none can be"))),
            (r#"{"\"Records":[]}"#, (16, Stop::Closed)),
            (r#"{"Rec\\ords":[]}"#, (16, Stop::Closed)),
            (r#"{"Records":[]}"#, (12, Stop::Container)),
            ("{\"a\\\n\"}", (4, Stop::Malformed("a line break inside a string"))),
        ] {
            let data = text.as_bytes();
            assert_eq!(Walker::new(Kind::Object).walk(data, 0), expected, "{text:?} at once");
            let mut walker = Walker::new(Kind::Object);
            let mut at = 0;
            let by_byte = (1..=data.len()).find_map(|end| {
                let (reached, stop) = walker.walk(&data[..end], at);
                at = reached;
                (stop != Stop::More).then_some((reached, stop))
            });
            assert_eq!(by_byte, Some(expected), "{text:?} byte by byte");
        }
    }

    #[test]
    fn deep_nesting_costs_neither_stack_nor_time() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(walk(Kind::Object, &deep), (deep.len(), Stop::Closed));
    }
}
