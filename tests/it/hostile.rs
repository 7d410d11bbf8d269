//! No input, however malformed, stops the program: each record ends as an event, a skip, or in quarantine with a reason.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};

use catchment::decode::{Decoder, Piece};
use catchment::ingest::{Processed, Processor};
use catchment::inventory::Inventory;
use catchment::model::Time;
use catchment::normalize::Engine;
use catchment::source::demo;
use proptest::prelude::*;
use serde_json::{Value, json};

static ENGINE: LazyLock<Arc<Engine>> = LazyLock::new(|| Arc::new(Engine::load(None).unwrap()));
static RECORDS: LazyLock<Vec<String>> = LazyLock::new(|| demo::generate(11, 400));

/// The whole way of a text: cut into records, each processed. Gives one outcome per piece.
fn outcomes(text: &[u8]) -> Vec<String> {
    let mut processor =
        Processor::new(Arc::clone(&ENGINE), Arc::new(Inventory::new()), "io.catchment".to_owned(), 10_000);
    let outcome = |piece| match piece {
        Piece::Record { bytes, .. } => match processor.process(&bytes, Time::default(), |_| Ok::<_, Infallible>(false))
        {
            Ok(Processed::Changes { events, .. }) => {
                assert!(!events.is_empty());
                for event in events {
                    assert!(!event.json.contains(&b'\n'), "one line");
                    serde_json::from_slice::<Value>(&event.json).expect("an event is JSON");
                }
                "changes".to_owned()
            }
            Ok(Processed::Skipped { reason, .. }) => format!("skipped: {reason}"),
            Ok(Processed::Folded) => "folded".to_owned(),
            Ok(Processed::Duplicate { .. }) => "duplicate".to_owned(),
            Ok(Processed::Rejected { code, reason, .. }) => {
                assert!(!reason.is_empty());
                format!("quarantined: {code}")
            }
        },
        Piece::Rejected { code, reason, .. } => {
            assert!(!reason.is_empty());
            format!("quarantined: {code}")
        }
    };
    Decoder::new(text, 100).unwrap().pieces().map(Result::unwrap).map(outcome).collect()
}

fn change(pointer: &str, value: Value) -> String {
    let text = RECORDS.iter().find(|record| record.contains("AuthorizeSecurityGroupIngress")).unwrap();
    let mut record: Value = serde_json::from_str(text).unwrap();
    *record.pointer_mut(pointer).unwrap() = value;
    record.to_string()
}

#[test]
fn what_becomes_of_each_hostile_record() {
    let good = change("/eventVersion", json!("1.11"));
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_objects = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    let with = |member: &str| good.replacen('{', &format!("{{{member},"), 1);
    for (what, text, expected) in [
        ("a good record", good.clone(), "changes"),
        ("deep in a member that no rule reads", with(&format!("\"unread\":{deep}")), "quarantined: unfit_text"),
        ("deep objects", with(&format!("\"additionalEventData\":{deep_objects}")), "quarantined: unfit_text"),
        (
            "deep parameters",
            good.replace("\"requestParameters\":{", &format!("\"requestParameters\":{{\"x\":{deep_objects},")),
            "quarantined: ",
        ),
        ("a member twice", with("\"eventName\":\"CreateTags\""), "quarantined: not_json"),
        ("a name twice in parameters", good.replace("\"groupId\":", "\"groupId\":\"sg-1\",\"groupId\":"), "changes"),
        (
            "a lone surrogate",
            change("/userAgent", json!("SURROGATE")).replace("SURROGATE", "\\ud800x"),
            "quarantined: unfit_text",
        ),
        ("a pair of surrogates", change("/userAgent", json!("PAIR")).replace("PAIR", "\\ud83d\\ude00"), "changes"),
        ("an escaped NUL", change("/userAgent", json!("a\0b")), "changes"),
        ("a raw NUL", change("/userAgent", json!("a#b")).replace("a#b", "a\0b"), "quarantined: not_json"),
        ("a string of almost 1 MiB", change("/userAgent", json!("x".repeat(1_000_000))), "changes"),
        ("a record above 1 MiB", change("/userAgent", json!("x".repeat(1 << 20))), "quarantined: too_large"),
        ("parameters that are a number", change("/requestParameters", json!(5)), ""),
        ("parameters that are a list", change("/requestParameters", json!([[], {}, null])), ""),
        ("an identity that is a text", change("/userIdentity", json!("root")), "changes"),
        ("an identity that is null", change("/userIdentity", Value::Null), "changes"),
        ("a time that is none", change("/eventTime", json!("yesterday")), "quarantined: no_event_time"),
        ("a time that is a number", change("/eventTime", json!(1.5e9)), "quarantined: no_event_time"),
        (
            "a source of another provider",
            change("/eventSource", json!("Ecs.aliyuncs.com")),
            "quarantined: unknown_format",
        ),
        ("no name", change("/eventName", Value::Null), "quarantined: unknown_format"),
        ("a name that is a URL", change("/eventName", json!("https://example.com/?a=b")), ""),
        (
            "a huge number",
            change("/requestParameters/groupId", json!(0)).replace("\"groupId\":0", "\"groupId\":1e999"),
            "quarantined: not_json",
        ),
        ("cut off", good[..good.len() / 2].to_owned(), "quarantined: truncated"),
        ("not an object", "[1, \"x\", null]".to_owned(), "quarantined: not_a_record"),
    ] {
        let found = outcomes(text.as_bytes());
        assert!(!found.is_empty(), "{what}: nothing");
        assert!(found.iter().all(|outcome| outcome.starts_with(expected)), "{what}: {found:?}");
    }
    let mut bytes = good.into_bytes();
    bytes[20] = 0xff;
    assert!(outcomes(&bytes)[0].starts_with("quarantined"), "bytes that are no UTF-8");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Records with bytes changed, cut out, or put in anywhere.
    #[test]
    fn mangled_records_never_panic(
        which in 0_usize..400,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..40, "\\PC{0,3}|[\\[\\]{}\":,\\\\]{1,3}"), 1..4),
    ) {
        let mut text = RECORDS[which % RECORDS.len()].clone().into_bytes();
        for (at, removed, inserted) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, inserted.bytes());
        }
        let _ = outcomes(&text);
    }

    /// Records with a member replaced by anything.
    #[test]
    fn mistyped_records_never_panic(which in 0_usize..400, member in any::<prop::sample::Index>(), kind in 0_u8..7) {
        let mut record: Value = serde_json::from_str(&RECORDS[which % RECORDS.len()]).unwrap();
        let mut pointers = Vec::new();
        collect_pointers(&record, String::new(), &mut pointers);
        let value = [json!(null), json!(true), json!(-1.5), json!(""), json!([]), json!({}), json!([{ "items": {} }])][kind as usize].clone();
        *record.pointer_mut(&pointers[member.index(pointers.len())]).unwrap() = value;
        let found = outcomes(record.to_string().as_bytes());
        prop_assert_eq!(found.len(), 1, "one record, one outcome");
    }
}

fn collect_pointers(value: &Value, at: String, pointers: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                collect_pointers(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), pointers);
            }
        }
        Value::Array(elements) => {
            for (index, value) in elements.iter().enumerate() {
                collect_pointers(value, format!("{at}/{index}"), pointers);
            }
        }
        _ => {}
    }
    if !at.is_empty() {
        pointers.push(at);
    }
}
