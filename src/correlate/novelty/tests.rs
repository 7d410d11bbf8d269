use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{
    Action, AssetKind, AssetName, AssetRef, Assumed, Confidence, DraftAction, Evidence, Human, Operation, Principal,
};

const DAY: i64 = 24 * 60;

/// A change, with the properties that matter to novelty.
#[derive(Clone, Debug)]
struct Change {
    minute: i64,
    user: &'static str,
    ip: &'static str,
    method: &'static str,
    asset_type: &'static str,
    account: &'static str,
    region: &'static str,
}

/// Monday, 2024-01-01, at noon, and the same change at each noon after it.
const USUAL: Change = Change {
    minute: 12 * 60,
    user: "jane",
    ip: "192.0.2.1",
    method: "terraform",
    asset_type: "compute.instance",
    account: "111122223333",
    region: "eu-west-1",
};

fn record(change: &Change) -> RecordInfo {
    let principal = Principal {
        kind: "user".into(),
        id: None,
        arn: Some(format!("arn:aws:iam::111122223333:user/{}", change.user)),
        name: Some(change.user.to_owned()),
        account: None,
    };
    RecordInfo {
        event_id: "e".to_owned(),
        time: Time::from_millis(1_704_067_200_000 + change.minute * MINUTE_MILLIS),
        source: String::new(),
        operation: Operation {
            service: String::new(),
            name: String::new(),
            event_id: String::new(),
            request_id: None,
            outcome: "success",
        },
        attribution: Attribution {
            method: change.method.into(),
            ip: Some(change.ip.to_owned()),
            principal: Some(principal),
            ..Attribution::default()
        },
        evidence: Evidence::default(),
        raw: Bytes::new(),
    }
}

fn draft(change: &Change) -> Draft {
    let kind = AssetKind { neutral_type: change.asset_type.to_owned(), ..AssetKind::default() };
    Draft {
        action: DraftAction::Known(Action::Update),
        asset: AssetRef {
            kind: Arc::new(kind),
            name: AssetName::from_text("asset://aws/x"),
            id: "x".to_owned(),
            arn: None,
            arn_is_told: false,
            account: change.account.to_owned(),
            region: change.region.to_owned(),
        },
        steps: Vec::new(),
        partial: false,
        associations: Vec::new(),
        rule: "x".into(),
        confidence: Confidence::High,
    }
}

fn take(novelties: &mut Novelties, change: &Change) -> Option<Vec<&'static str>> {
    let told = novelties.take(&record(change), &[draft(change)]);
    told.first().map(|novelty| novelty.names().collect())
}

fn limits(learning_days: u32, facts: usize) -> NoveltyLimits {
    NoveltyLimits { learning_days, facts }
}

/// A memory that saw the usual change on each of so many days.
fn after_days(days: i64) -> Novelties {
    let mut novelties = Novelties::new(limits(14, 1_000));
    for day in 0..days {
        let told = take(&mut novelties, &Change { minute: USUAL.minute + day * DAY, ..USUAL });
        assert_eq!(told, (day >= 14).then(Vec::new), "day {day}");
    }
    novelties
}

#[test]
fn nothing_is_told_while_learning() {
    let strange = Change { user: "joe", ip: "203.0.113.9", region: "ap-south-1", ..USUAL };
    assert_eq!(take(&mut after_days(14), &Change { minute: USUAL.minute + 14 * DAY - 1, ..strange.clone() }), None);
    let told = take(&mut after_days(14), &Change { minute: USUAL.minute + 14 * DAY, ..strange });
    assert_eq!(told, Some(vec!["principal", "ip_anywhere", "region"]));
}

#[test]
fn each_facet_is_told_once() {
    let now = Change { minute: USUAL.minute + 20 * DAY, ..USUAL };
    for (change, expected) in [
        (now.clone(), vec![]),
        (Change { ip: "192.0.2.2", ..now.clone() }, vec!["ip", "ip_anywhere"]),
        (Change { method: "console", ..now.clone() }, vec!["method"]),
        (Change { asset_type: "identity.user", ..now.clone() }, vec!["asset_type"]),
        (Change { region: "ap-south-1", ..now.clone() }, vec!["region"]),
        (Change { account: "444455556666", region: "ap-south-1", ..now.clone() }, vec![]),
        (Change { method: "unknown", region: "-", ip: "::ffff:192.0.2.1", ..now.clone() }, vec![]),
    ] {
        let mut novelties = after_days(20);
        assert_eq!(take(&mut novelties, &change), Some(expected), "{change:?}");
        assert_eq!(take(&mut novelties, &change), Some(vec![]), "again: {change:?}");
    }
    let mut novelties = after_days(20);
    let night = Change { minute: now.minute + 12 * 60, ..now };
    for _ in 0..3 {
        assert_eq!(take(&mut novelties, &night), Some(vec!["hours"]), "as long as it is unusual");
    }
}

#[test]
fn another_principal_has_its_own_memory() {
    let mut novelties = after_days(20);
    let joe = Change { user: "joe", minute: USUAL.minute + 20 * DAY, ..USUAL };
    assert_eq!(take(&mut novelties, &joe), Some(vec!["principal"]), "who is new has nothing else that is");
    let later = Change { minute: joe.minute + 13 * DAY, method: "console", ..joe.clone() };
    assert_eq!(take(&mut novelties, &later), Some(vec![]), "still learning");
    let later = Change { minute: joe.minute + 14 * DAY, method: "cli", ..joe };
    assert_eq!(take(&mut novelties, &later), Some(vec!["method"]));
}

#[test]
fn sessions_of_a_role_are_one_principal_and_persons_behind_it_others() {
    let mut change = record(&USUAL).attribution;
    let role = "arn:aws:iam::111122223333:role/ci";
    change.assumed = Some(Assumed { role_arn: Some(role.to_owned()), ..Assumed::default() });
    assert_eq!(who(&change), Some(role));
    change.human = Some(Human { id: "jane@example.com".to_owned(), how: "sessionName".into() });
    assert_eq!(who(&change), Some(role), "anyone can name a session so");
    change.human = Some(Human { id: "jane@example.com".to_owned(), how: "sourceIdentity".into() });
    assert_eq!(who(&change), Some("jane@example.com"));
}

#[test]
fn an_ipv6_address_is_its_network() {
    assert_eq!(address("2001:db8:1:2::1"), address("2001:db8:1:2:ffff::9"));
    assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
    assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    assert_ne!(address("one"), address("other"));
}

#[test]
fn the_changes_of_one_record_are_new_together() {
    let mut novelties = after_days(20);
    let change = Change { minute: USUAL.minute + 20 * DAY, asset_type: "network.vpc", ..USUAL };
    let told = novelties.take(&record(&change), &[draft(&change), draft(&USUAL), draft(&change)]);
    assert_eq!(told, [Novelty::ASSET_TYPE, Novelty::default(), Novelty::ASSET_TYPE]);
}

#[test]
fn what_is_older_teaches_and_a_backfill_ends_the_learning() {
    let mut novelties = Novelties::new(limits(14, 1_000));
    assert_eq!(take(&mut novelties, &USUAL), None);
    assert_eq!(take(&mut novelties, &Change { minute: USUAL.minute - 30 * DAY, ip: "192.0.2.7", ..USUAL }), None);
    assert_eq!(take(&mut novelties, &Change { ip: "192.0.2.7", ..USUAL }), Some(vec![]));
    assert_eq!(take(&mut novelties, &Change { ip: "192.0.2.8", ..USUAL }), Some(vec!["ip", "ip_anywhere"]));
}

#[test]
fn a_memory_too_small_for_the_learning_period_tells_nothing() {
    const ADDRESSES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let run = |facts| {
        let mut novelties = Novelties::new(limits(14, facts));
        let mut told = Vec::new();
        for n in 0..400_i64 {
            let ip = ADDRESSES[usize::try_from(n).unwrap() % ADDRESSES.len()];
            told.push(take(&mut novelties, &Change { minute: USUAL.minute + n * DAY, ip, ..USUAL }));
            assert!(novelties.remembered() <= facts.max(2), "{facts}");
        }
        told
    };
    // Each address returns every eight days: never new, however little is remembered.
    for facts in [0, 1, 4, 16, 40, 1_000] {
        assert!(run(facts).iter().flatten().all(Vec::is_empty), "{facts}");
    }
    assert!(run(16).iter().skip(20).all(Option::is_none), "it reaches back for less than fourteen days");
    assert!(run(1_000).iter().skip(20).all(Option::is_some));
}

#[test]
fn what_is_in_use_outlives_what_is_not() {
    let mut facts = Facts::new(100);
    facts.note(1, 7);
    for n in 2..1_000 {
        facts.note(n, 7 + Minute::try_from(n).unwrap());
        facts.note(1, 1_000);
        assert!(facts.len() <= 100);
    }
    assert_eq!(facts.known_since(1), Some(7));
    assert_eq!(facts.known_since(2), None);
    let from = facts.complete_from();
    let forgotten = (2..1_000).rev().find(|n| facts.known_since(*n).is_none()).unwrap();
    assert!(u32::try_from(forgotten).unwrap() + 7 <= from, "{forgotten} was seen after {from}");
}

/// Applies changes as the log does.
fn keep(log: &mut HashMap<String, Bytes>, changes: Vec<(String, Option<Bytes>)>) {
    for (key, value) in changes {
        match value {
            Some(value) => log.insert(key, value),
            None => log.remove(&key),
        };
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let one = (
        -600..6_000_i64,
        prop::sample::select(vec!["jane", "joe", "ci"]),
        prop::sample::select(vec!["192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1", "x"]),
        prop::sample::select(vec!["console", "cli", "unknown"]),
        prop::sample::select(vec!["compute.instance", "identity.user", "network.vpc"]),
        prop::sample::select(vec!["111122223333", "444455556666"]),
        prop::sample::select(vec!["eu-west-1", "us-east-1", "-"]),
    );
    let change = one.prop_map(|(step, user, ip, method, asset_type, account, region)| Change {
        minute: step,
        user,
        ip,
        method,
        asset_type,
        account,
        region,
    });
    prop::collection::vec(change, 1..200).prop_map(|mut changes| {
        let mut minute = 50 * DAY;
        for change in &mut changes {
            minute += change.minute;
            change.minute = minute;
        }
        changes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever the process is restarted, the result is the same: nothing counts as new that was seen before.
    #[test]
    fn a_restart_changes_nothing(
        changes in changes(),
        restarts in prop::collection::vec(prop::bool::weighted(0.2), 200),
        facts in prop::sample::select(vec![8_usize, 60, 10_000]),
    ) {
        let limits = limits(3, facts);
        let mut log = HashMap::new();
        let (mut steady, mut restarted) = (Novelties::new(limits), Novelties::new(limits));
        prop_assert_eq!(restarted.restore([]), 0);
        for (change, restart) in changes.iter().zip(restarts) {
            prop_assert_eq!(take(&mut steady, change), take(&mut restarted, change));
            keep(&mut log, restarted.take_changes());
            if restart {
                restarted = Novelties::new(limits);
                prop_assert_eq!(restarted.restore(log.values().cloned()), 0);
            }
        }
        prop_assert_eq!(steady.remembered(), restarted.remembered());
        let pages = facts / facts::PAGE + 4;
        prop_assert!(log.keys().filter(|key| key.starts_with(FACTS_PREFIX)).count() <= pages, "pages are given back");
    }

    /// Nothing that counts as new was there before.
    #[test]
    fn a_first_is_a_first(changes in changes(), learning in 0..5_u32, facts in prop::sample::select(vec![30_usize, 10_000])) {
        let mut novelties = Novelties::new(limits(learning, facts));
        let earliest = |n: usize| changes[..n].iter().map(|change| change.minute).min();
        for (n, change) in changes.iter().enumerate() {
            let Some(told) = take(&mut novelties, change) else { continue };
            let since = earliest(n).unwrap_or(change.minute);
            prop_assert!(since.min(change.minute) + i64::from(learning) * DAY <= change.minute);
            for facet in told {
                let is_same = |other: &&Change| match facet {
                    "principal" => other.user == change.user && other.account == change.account,
                    "ip" => other.user == change.user && other.ip == change.ip,
                    "ip_anywhere" => other.ip == change.ip,
                    "asset_type" => other.user == change.user && other.asset_type == change.asset_type,
                    "method" => other.user == change.user && other.method == change.method,
                    "region" => other.account == change.account && other.region == change.region,
                    _ => false,
                };
                let before = changes[..n].iter().rev().find(is_same);
                // A small memory may have forgotten it.
                let known = before.filter(|_| facts > changes.len() * 8);
                prop_assert!(known.is_none(), "{facet} of {change:?} after {known:?}");
            }
        }
    }

    #[test]
    fn no_bytes_upset_the_reader(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20)) {
        let mut novelties = Novelties::default();
        novelties.restore(values.into_iter().map(Bytes::from));
        take(&mut novelties, &USUAL);
        let _ = novelties.take_changes();
    }
}
