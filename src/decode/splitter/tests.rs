use std::io::Write;

use proptest::prelude::*;

use super::*;

/// A reader that returns its input in pieces of the given sizes, repeatedly; a size of 0 is a temporary end.
struct Trickle<'a> {
    input: &'a [u8],
    sizes: Vec<usize>,
    turn: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, mut buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes[self.turn % self.sizes.len()].min(self.input.len()).min(buffer.len());
        self.turn += 1;
        let (given, rest) = self.input.split_at(size);
        self.input = rest;
        buffer.write(given)
    }
}

fn split(input: &[u8]) -> Vec<Piece> {
    let mut splitter = Splitter::new(input);
    let mut pieces = Vec::new();
    while let Some(piece) = splitter.next_piece().unwrap() {
        pieces.push(piece);
    }
    pieces.extend(splitter.finish());
    assert!(splitter.finish().is_none() && !splitter.is_in_container());
    pieces
}

fn split_trickled(input: &[u8], sizes: Vec<usize>) -> Vec<Piece> {
    let mut splitter = Splitter::new(Trickle { input, sizes, turn: 0 });
    let mut pieces = Vec::new();
    while splitter.read_offset() < input.len() as u64 {
        pieces.extend(splitter.next_piece().unwrap());
    }
    while let Some(piece) = splitter.next_piece().unwrap() {
        pieces.push(piece);
    }
    pieces.extend(splitter.finish());
    pieces
}

/// Records as text, rejects as `!code text`.
fn told(input: &[u8]) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    split(input)
        .iter()
        .map(|piece| match piece {
            Piece::Record { bytes, .. } => text(bytes),
            Piece::Rejected { code, bytes, .. } => format!("!{code} {}", text(bytes)),
        })
        .collect()
}

#[test]
fn every_layout_is_understood() {
    let [a, b] = [r#"{"a":1}"#, r#"{"b":{"c":"]}"}}"#];
    for input in [
        format!("{a}\n{b}\n"),
        format!("{a}\r\n{b}"),
        format!("{a}{b}"),
        format!("{a} , {b}"),
        format!("\u{1e}{a}\n\u{1e}{b}\n"),
        format!("\u{feff}{a}\n\u{feff}{b}\n"),
        format!("[{a},{b}]"),
        format!("\u{feff}[\n  {a},\n  {b}\n]\n"),
        format!("[{a}]\n[]\n[{b}]"),
        format!("{{\"Records\":[{a},{b}]}}"),
        format!(" {{ \"Records\" :\t[ {a} ,\r\n {b} ] }} "),
        format!("{{\"records\":[{a},{b}]}}"),
        format!("{{\"Events\":[{a},{b}],\"NextToken\":\"x\"}}"),
        format!("{{\"meta\":{{\"Records\":[1]}},\"n\":[{{}}],\"Records\":[{a}],\"more\":[{{}}],\"Records\":[{b}]}}"),
        format!("{{\"Records\":[{a}]}}{{\"Records\":[{b}]}}"),
        format!("{{\"Records\":[{a}]}}\n{b}\n{{\"Records\":[]}}"),
    ] {
        assert_eq!(told(input.as_bytes()), [a, b], "{input}");
    }
    let pretty = "{\n  \"a\":\n  [\n{\n},\n{\n}\n]\n}";
    assert_eq!(told(format!("{pretty}\n{pretty}\n{a}").as_bytes()), [pretty, pretty, a]);
    for nothing in ["", " \r\n", "\u{feff}", "[]", "[ ]\n", r#"{"Records":[]}"#] {
        assert_eq!(told(nothing.as_bytes()), [""; 0], "{nothing:?}");
    }
}

#[test]
fn a_broken_line_costs_only_itself() {
    for (input, expected) in [
        ("{\"a\":1}\n{\"b\":{\"c\":1\n{\"d\":1}\n", vec!["{\"a\":1}", "!truncated {\"b\":{\"c\":1\n", "{\"d\":1}"]),
        ("{\"b\":\"c\n{\"d\":1}\n", vec!["!not_json {\"b\":\"c\n", "{\"d\":1}"]),
        ("{\"b\":[1}\n{\"d\":1}\n", vec!["!not_json {\"b\":[1}\n", "{\"d\":1}"]),
        ("c\":1}}\n{\"d\":1}\n", vec!["!not_a_record c\":1}}\n", "{\"d\":1}"]),
        ("one\ntwo\n  {\"d\":1}\n", vec!["!not_a_record one\ntwo\n  ", "{\"d\":1}"]),
        ("[12:00] x\n[12:01] y\n{\"d\":1}\n", vec!["!not_a_record [12:00] x\n[12:01] y\n", "{\"d\":1}"]),
        ("x\n[\n{\"d\":1}]\n", vec!["!not_a_record x\n", "{\"d\":1}"]),
        ("x\n[]\n{\"d\":1}\n", vec!["!not_a_record x\n[]\n", "{\"d\":1}"]),
        ("{\"d\":1}}\n{\"d\":1}", vec!["{\"d\":1}", "!not_a_record }\n", "{\"d\":1}"]),
        ("\u{ef}x\n{\"d\":1}", vec!["!not_a_record \u{ef}x\n", "{\"d\":1}"]),
        ("[{\"a\":1},7,[{}],{\"d\":1}]", vec!["{\"a\":1}", "!not_a_record 7,[{}],", "{\"d\":1}"]),
        ("{\"Records\":[{\"a\":1},{\"b\n{\"d\":1}", vec!["{\"a\":1}", "!not_json {\"b\n", "{\"d\":1}"]),
        ("{\"Records\":[{\"a\":1},{\"b\":2\n{\"d\":1}", vec!["{\"a\":1}", "!truncated {\"b\":2\n", "{\"d\":1}"]),
    ] {
        assert_eq!(told(input.as_bytes()), expected, "{input:?}");
    }
}

#[test]
fn a_cut_end_is_told() {
    for (input, expected) in [
        (r#"{"a":1}{"b"#, vec![r#"{"a":1}"#, r#"!truncated {"b"#]),
        (r#"{"Records":[{"a":1},{"b"#, vec![r#"{"a":1}"#, r#"!truncated {"b"#]),
        (r#"{"Records":[{"a":1},"#, vec![r#"{"a":1}"#, "!truncated "]),
        (r#"{"Records":[{"a":1}]"#, vec![r#"{"a":1}"#, "!truncated "]),
        (r#"{"Recor"#, vec![r#"!truncated {"Recor"#]),
        ("[", vec!["!not_a_record ["]),
        ("[7", vec!["!not_a_record [7"]),
        ("\u{feff}x", vec!["!not_a_record x"]),
    ] {
        assert_eq!(told(input.as_bytes()), expected, "{input:?}");
    }
    assert_eq!(told(b"\xef\xbb"), ["!not_a_record \u{fffd}"]);
}

#[test]
fn what_is_too_long_is_passed_over() {
    let long = |length: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(length - 8));
    let exact = long(MAX_RECORD_BYTES);
    assert_eq!(told(format!("[{exact}]").as_bytes()), [exact]);
    for length in [MAX_RECORD_BYTES + 1, 3 * MAX_RECORD_BYTES] {
        for (before, after) in [("", "\n"), ("[", ","), (r#"{"Records":["#, " ")] {
            let input = format!("{before}{}{after}{{\"b\":1}}", long(length));
            let pieces = split(input.as_bytes());
            assert!(
                matches!(&pieces[0], Piece::Rejected { code: "too_large", bytes, reason, end_offset }
                    if bytes.len() == KEPT_BYTES && reason.contains(&length.to_string()) && *end_offset == (before.len() + length) as u64),
                "{:?}",
                pieces[0]
            );
            assert!(matches!(&pieces[1], Piece::Record { bytes, .. } if bytes == r#"{"b":1}"#));
        }
    }
    let garbage = "x".repeat(3 * MAX_RECORD_BYTES);
    assert!(matches!(&split(garbage.as_bytes())[..], [Piece::Rejected { bytes, .. }] if bytes.len() == KEPT_BYTES));
    let bracket = format!("x\n[{}{{\"b\":1}}]", " ".repeat(3 * MAX_RECORD_BYTES));
    assert!(matches!(&split(bracket.as_bytes())[..], [Piece::Rejected { bytes, .. }] if bytes.len() == KEPT_BYTES));
    let prefix = format!(r#"{{"x":"{}","Records":[{{"b":1}}]}}"#, garbage);
    assert_eq!(told(prefix.as_bytes()), [r#"{"b":1}"#], "members before the records may be long");
}

#[test]
fn memory_is_bounded() {
    let record = format!(r#"{{"a":"{}"}},"#, "x".repeat(2_000));
    let input = io::repeat(b' ').take(10).chain(&b"{\"Records\":["[..]);
    let records = record.repeat(10_000);
    let mut splitter = Splitter::new(input.chain(records.as_bytes()).chain(io::repeat(b'"').take(8 << 20)));
    let mut count = 0;
    while splitter.next_piece().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 10_000);
    assert!(splitter.buffer.capacity() <= 3 * MAX_RECORD_BYTES, "{}", splitter.buffer.capacity());
}

#[test]
fn hostile_input_is_told_and_survived() {
    let deep = "[".repeat(100_000);
    for (input, code) in [
        (format!("{{\"a\":{deep}"), "truncated"),
        (deep.clone(), "not_a_record"),
        ("{\"a\":".repeat(100_000), "truncated"),
        (format!("{{\"Records\":[{deep}"), "not_a_record"),
        ("\0".repeat(1_000), "not_a_record"),
        (format!("{{\"Records\":[{}", "1,".repeat(100_000)), "not_a_record"),
    ] {
        let pieces = split(input.as_bytes());
        assert!(matches!(&pieces[..], [Piece::Rejected { code: told, .. }] if *told == code), "{code}: {pieces:?}");
    }
    assert_eq!(told(b"{\"a\":\"\xff\"}\n{\"b\":1}"), ["!not_utf8 {\"a\":\"\u{fffd}\"}", "{\"b\":1}"]);
    for passed in ["{\"a\":\"\0\"}", r#"{"a":"\ud800"}"#, r#"{"a":1,"a":2}"#, "{nonsense}", "{\"a\":\"\\\"\\\\\"}"] {
        assert_eq!(told(passed.as_bytes()), [passed]);
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<i64>().prop_map(Into::into),
        "[a-z\"\\\\\n{}\\[\\]é]{0,6}".prop_map(Into::into),
        Just("Records".into()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec(("[a-zR\"\\\\]{0,7}", inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

fn record() -> impl Strategy<Value = String> {
    (prop::collection::vec(("[a-z\"]{1,6}", json()), 0..5), any::<bool>()).prop_map(|(members, pretty)| {
        let value = serde_json::Value::Object(members.into_iter().filter(|(name, _)| name != "records").collect());
        if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() }
    })
}

/// Records in some layout.
fn part() -> impl Strategy<Value = (String, Vec<String>)> {
    (prop::collection::vec(record(), 0..5), 0..6_u8, "[ \t\r\n]{0,3}").prop_map(|(records, layout, space)| {
        let joined = |separator: &str| records.join(&format!("{space}{separator}{space}"));
        let text = match layout {
            0 => joined("\n"),
            1 => joined(""),
            2 => format!("[{space}{}{space}]", joined(",")),
            3 => format!("{{{space}\"Records\"{space}:[{}]{space}}}", joined(",")),
            4 => format!("{{\"x\":{{\"y\":[{{}}]}},\"records\":[{}],\"z\":[null]}}", joined(",")),
            _ => format!("\u{feff}{{\"Events\":[{}],\"NextToken\":\"]}}\"}}", joined(",")),
        };
        (format!("{text}{space}\n"), records)
    })
}

/// Text of the bytes that matter, in any order.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let word: Vec<&[u8]> = vec![
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"\\",
        b"\n",
        b"\n{",
        b"\n[",
        b":",
        b",",
        b" ",
        b"1",
        b"\"a\":",
        b"\"Records\":[",
        b"{\"Records\":[",
        b"]}",
        b"{\"a\":1}",
        b"\xef\xbb\xbf",
        b"\xef",
        b"\xff",
        b"\0",
        b"\r\n",
        b"x",
    ];
    prop::collection::vec(prop::sample::select(word), 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn every_record_of_a_sound_file_is_found(parts in prop::collection::vec(part(), 0..5)) {
        let input: String = parts.iter().map(|(text, _)| text.as_str()).collect();
        let records: Vec<_> = parts.into_iter().flat_map(|(_, records)| records).collect();
        prop_assert_eq!(told(input.as_bytes()), records, "{}", input);
    }

    #[test]
    fn chunk_boundaries_do_not_matter(input in soup(), sizes in prop::collection::vec(0..7_usize, 1..5)) {
        let sizes = [&sizes[..], &[1]].concat();
        prop_assert_eq!(split(&input), split_trickled(&input, sizes));
    }

    #[test]
    fn chunk_boundaries_do_not_matter_for_sound_files(
        parts in prop::collection::vec(part(), 0..4), sizes in prop::collection::vec(0..40_usize, 1..5),
    ) {
        let input: String = parts.into_iter().map(|(text, _)| text).collect();
        let sizes = [&sizes[..], &[1]].concat();
        prop_assert_eq!(split(input.as_bytes()), split_trickled(input.as_bytes(), sizes));
    }

    #[test]
    fn bytes_outside_of_pieces_are_separators(input in soup()) {
        // Without arrays, there may only be separators between pieces.
        let input: Vec<u8> = input.into_iter().filter(|byte| *byte != b'[').collect();
        let mut end = 0;
        for piece in split(&input) {
            let (bytes, end_offset) = match piece {
                Piece::Record { bytes, end_offset } | Piece::Rejected { bytes, end_offset, .. } => (bytes, end_offset as usize),
            };
            let start = end_offset - bytes.len();
            prop_assert!(start >= end);
            prop_assert_eq!(&input[start..end_offset], &bytes[..]);
            prop_assert!(separators(&input[end..start]), "{:?}", String::from_utf8_lossy(&input[end..start]));
            end = end_offset;
        }
        prop_assert!(separators(&input[end..]));
    }

    #[test]
    fn reading_is_taken_up_after_any_piece(input in soup(), parts in prop::collection::vec(part(), 0..3)) {
        let mut text: Vec<u8> = parts.into_iter().flat_map(|(text, _)| text.into_bytes()).collect();
        text.extend(input);
        let whole = split(&text);
        let mut splitter = Splitter::new(&text[..]);
        for done in 0..whole.len() {
            let Position { offset, skip } = splitter.position();
            let mut resumed = Splitter::starting_at(&text[offset as usize..], offset);
            let mut rest = Vec::new();
            while let Some(piece) = resumed.next_piece().unwrap() {
                rest.push(piece);
            }
            rest.extend(resumed.finish());
            prop_assert_eq!(&whole[done..], rest.get(skip as usize..).unwrap_or_default());
            if splitter.next_piece().unwrap().is_none() {
                break;
            }
        }
    }
}

fn separators(mut bytes: &[u8]) -> bool {
    while let Some(first) = bytes.first() {
        let rest = bytes.strip_prefix(&BYTE_ORDER_MARK);
        match rest {
            Some(rest) => bytes = rest,
            None if b" \t\r\n,\x1e".contains(first) => bytes = &bytes[1..],
            None => return false,
        }
    }
    true
}
