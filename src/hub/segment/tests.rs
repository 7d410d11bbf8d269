use super::*;
use crate::hub::filter::Filter;
use crate::hub::matching::Filters;
use crate::hub::testing::{block, event};
use proptest::prelude::*;

const EPOCH: Epoch = Epoch(0xabc);
const ALL: Room = Room { events: u64::MAX, bytes: usize::MAX };
const NDJSON: Encoding = Encoding { format: Format::Ndjson, projection: None, gzip: false };

fn segment(first: u64, count: u64) -> Arc<Segment> {
    Arc::new(Segment::encode(EPOCH, Seq(first - 1), vec![block(first, count)]).unwrap().unwrap())
}

fn everything() -> InternedFilter {
    Filters::default().intern(Filter::default())
}

fn creates() -> InternedFilter {
    let parse = |name| (name == "type").then(|| "create".to_owned());
    Filters::default().intern(Filter::parse("p", parse).unwrap())
}

fn select(segment: &Arc<Segment>, after: u64, filter: &InternedFilter, room: Room) -> Selected {
    let mut selected = Selected::after(Seq(after));
    let passing = if segment.base { segment.passing(filter) } else { Passing::All };
    segment.select(&passing, room, &mut selected);
    selected
}

/// What a client makes of chunks.
fn unchunked(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while !bytes.is_empty() {
        let head = memchr::memmem::find(bytes, b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..head]).unwrap(), 16).unwrap();
        let body = &bytes[head + 2..];
        text.push_str(std::str::from_utf8(&body[..length]).unwrap());
        assert_eq!(&body[length..length + 2], b"\r\n");
        bytes = &body[length + 2..];
    }
    text
}

#[test]
fn chunks_and_text_are_the_same_events() {
    let sse = segment(7, 2);
    let ndjson = Arc::new(sse.encode_as(EPOCH, &NDJSON));
    let json: Vec<String> = (7..9).map(|n| String::from_utf8(event(n).json.to_vec()).unwrap()).collect();
    for (segment, expected) in [
        (&sse, format!("id: abc.7\ndata: {}\n\nid: abc.8\ndata: {}\n\n", json[0], json[1])),
        (&ndjson, format!("{}\n{}\n", json[0], json[1])),
    ] {
        let selected = select(segment, 6, &everything(), ALL);
        assert_eq!((selected.events, selected.last(), selected.scanned), (2, Some(Seq(8)), Seq(8)));
        assert_eq!(selected.text(), expected);
        let chunks: Vec<&[u8]> = selected.chunks().collect();
        assert_eq!((chunks.len(), chunks[0].len()), (1, selected.bytes), "adjacent events are one slice");
        assert_eq!(unchunked(chunks[0]), expected);
        assert_eq!(select(segment, 7, &everything(), ALL).text(), expected[expected.len() / 2..]);
    }
}

#[test]
fn room_is_kept_and_what_was_passed_over_is_not_looked_at_again() {
    let segment = segment(1, 10);
    let room = Room { events: 3, bytes: usize::MAX };
    assert_eq!(select(&segment, 2, &everything(), room).scanned, Seq(5));
    let room = Room { events: u64::MAX, bytes: 1 };
    let one = select(&segment, 2, &everything(), room);
    assert_eq!((one.scanned, one.events), (Seq(3), 1), "one event is always taken");
    let create = select(&segment, 0, &creates(), room);
    assert_eq!((create.scanned, create.events, create.last()), (Seq(5), 1, Some(Seq(3))), "the next is 6");
    let rest = select(&segment, 9, &creates(), ALL);
    assert_eq!((rest.scanned, rest.events), (Seq(10), 0));
}

#[test]
fn matches_made_before_give_what_the_filter_gives() {
    let filters = Filters::default();
    let parse = |name| (name == "type").then(|| "create".to_owned());
    let filter = filters.intern(Filter::parse("p", parse).unwrap());
    let (plain, matched) = (segment(1, 10), segment(1, 10));
    matched.match_filters(&filters);
    for after in 0..=10 {
        let (a, b) = (select(&plain, after, &filter, ALL), select(&matched, after, &filter, ALL));
        assert_eq!((a.text(), a.scanned), (b.text(), b.scanned));
        assert_eq!(matched.any_after(Seq(after), &matched.passing(&filter)), a.events > 0);
    }
}

#[test]
fn what_the_caller_has_is_skipped_and_pages_end_segments() {
    let blocks = vec![block(120, 5), block(125, 5), block(130, 5)];
    let segment = Segment::encode(EPOCH, Seq(122), blocks).unwrap().unwrap();
    assert_eq!((segment.first(), segment.last()), (Seq(123), Seq(129)));
    assert!(Segment::encode(EPOCH, Seq(9), vec![block(5, 5)]).unwrap().is_none());
}

#[test]
fn a_carriage_return_between_tokens_does_not_break_the_frame() {
    let mut block = block(1, 1);
    block.lines = Bytes::from_static(b"{\"a\":\r1}\n");
    let segment = Segment::encode(EPOCH, Seq(0), vec![block]).unwrap().unwrap();
    assert_eq!(segment.chunks, "1a\r\nid: abc.1\ndata: {\"a\": 1}\n\n\r\n");
}

#[test]
fn lines_and_heads_must_agree() {
    for lines in ["", "{}\n{}\n"] {
        let mut block = block(1, 1);
        block.lines = Bytes::from_static(lines.as_bytes());
        assert!(Segment::encode(EPOCH, Seq(0), vec![block]).is_err(), "{lines:?}");
    }
}

proptest! {
    /// However a write is cut off: what went out, the rest of the event it was cut in, and what is selected
    /// after it are together what was selected.
    #[test]
    fn a_write_that_is_cut_off_goes_on_where_it_was(filtered in any::<bool>(), cut in 0.0..=1.0_f64) {
        let filter = if filtered { creates() } else { everything() };
        let segments = [segment(1, 7), segment(8, 4), segment(12, 9)];
        let select = |after: Seq| {
            let mut selected = Selected::after(after);
            for segment in segments.iter().filter(|segment| segment.last() > after) {
                segment.select(&segment.passing(&filter), ALL, &mut selected);
            }
            selected
        };
        let selected = select(Seq(0));
        let whole = selected.chunks().collect::<Vec<_>>().concat();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let sent = (whole.len() as f64 * cut) as usize;
        let progress = selected.progress(sent);
        let after = select(progress.last.unwrap_or(Seq(0)));
        prop_assert_eq!(progress.events + after.events, selected.events);
        let mut got = whole[..sent].to_vec();
        got.extend_from_slice(&progress.rest);
        got.extend(after.chunks().collect::<Vec<_>>().concat());
        prop_assert_eq!(got, whole);
    }
}
