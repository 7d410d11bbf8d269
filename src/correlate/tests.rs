use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{
    Action, AssetKind, AssetName, AssetRef, Assumed, Attribution, Caller, DraftAction, Evidence, Human, Operation,
    Principal, Workload,
};

const MINUTE: i64 = 60_000;

fn at(minutes: i64) -> Time {
    Time::from_millis(1_700_000_000_000 + minutes * MINUTE)
}

fn role(name: &str) -> String {
    format!("arn:aws:iam::111122223333:role/{name}")
}

fn principal(arn: &str) -> Principal {
    Principal { kind: "role".into(), id: None, arn: Some(arn.to_owned()), name: None, account: None }
}

fn human(id: &str, how: &'static str) -> Human {
    Human { id: id.to_owned(), how: how.into() }
}

/// Credentials issued to a session of a role.
fn session(access_key: &str, from: Option<&str>, caller: Caller) -> Session {
    Session {
        access_key: access_key.to_owned(),
        started: at(0),
        expires: Some(at(60)),
        caller: Caller { access_key: from.map(str::to_owned), ..caller },
    }
}

fn record(minutes: i64, access_key: Option<&str>, attribution: Attribution) -> RecordInfo {
    RecordInfo {
        event_id: format!("event-{minutes}"),
        time: at(minutes),
        source: "//aws/111122223333/eu-west-1".to_owned(),
        operation: Operation {
            service: "ec2.amazonaws.com".to_owned(),
            name: "RunInstances".to_owned(),
            event_id: String::new(),
            request_id: None,
            outcome: "success",
        },
        attribution,
        evidence: Evidence { access_key: access_key.map(str::to_owned), ..Evidence::default() },
        raw: Bytes::from_static(b"{}"),
    }
}

fn draft(provider_type: &str, id: &str) -> Draft {
    let kind = AssetKind { provider: "aws", provider_type: provider_type.into(), ..AssetKind::default() };
    Draft {
        action: DraftAction::Known(Action::Update),
        asset: AssetRef {
            kind: Arc::new(kind),
            name: AssetName::from_text(id),
            id: id.to_owned(),
            arn: None,
            arn_is_told: false,
            account: "111122223333".to_owned(),
            region: "eu-west-1".to_owned(),
        },
        steps: Vec::new(),
        partial: false,
        associations: Vec::new(),
        rule: "aws/ec2/RunInstances".into(),
        confidence: crate::model::Confidence::High,
    }
}

fn attributed(correlator: &mut Correlator, mut record: RecordInfo) -> Attribution {
    correlator.attribute(&mut record, &[draft("AWS::EC2::Instance", "i-1")]);
    record.attribution
}

fn of_jane() -> Caller {
    Caller {
        principal: Some(principal("arn:aws:iam::111122223333:user/jane")),
        human: Some(human("jane", "userName")),
        ..Caller::default()
    }
}

fn of_role(name: &str) -> Caller {
    Caller { principal: Some(principal(&role(name))), role_arn: Some(role(name)), ..Caller::default() }
}

#[test]
fn the_person_at_the_end_of_a_chain_of_roles() {
    let mut correlator = Correlator::default();
    // In an order in which trails may deliver them: the last session first.
    correlator.note_session(session("ASIA3", Some("ASIA2"), of_role("second")));
    correlator.note_session(session("ASIA2", Some("ASIA1"), of_role("first")));
    correlator.note_session(session("ASIA1", Some("AKIA"), of_jane()));
    let assumed = Assumed { role_arn: Some(role("third")), session_name: Some("s".to_owned()), chain: Vec::new() };
    let attribution = Attribution { assumed: Some(assumed), ..Attribution::default() };
    let attribution = attributed(&mut correlator, record(5, Some("ASIA3"), attribution));
    assert_eq!(attribution.assumed.unwrap().chain, [role("second"), role("first")]);
    assert_eq!(attribution.human, Some(human("jane", "chain.userName")));
}

#[test]
fn what_the_record_tells_itself_is_stronger_than_the_chain_but_not_a_guess() {
    let mut correlator = Correlator::default();
    correlator.note_session(session("ASIA1", None, of_jane()));
    for (told, expected) in [
        (human("alice", "sourceIdentity"), human("alice", "sourceIdentity")),
        (human("bob@example.com", "sessionName"), human("jane", "chain.userName")),
    ] {
        let attribution = Attribution { human: Some(told), ..Attribution::default() };
        let attribution = attributed(&mut correlator, record(5, Some("ASIA1"), attribution));
        assert_eq!(attribution.human, Some(expected));
    }
}

#[test]
fn a_guess_of_the_chain_is_no_evidence() {
    let mut correlator = Correlator::default();
    let caller = Caller { human: Some(human("x@example.com", "sessionName")), ..of_role("first") };
    correlator.note_session(session("ASIA1", None, caller));
    assert_eq!(attributed(&mut correlator, record(5, Some("ASIA1"), Attribution::default())).human, None);
}

#[test]
fn a_session_tells_nothing_of_calls_outside_its_time() {
    let mut correlator = Correlator::default();
    correlator.note_session(session("ASIA1", None, of_jane()));
    for (minutes, found) in [(-6, false), (-4, true), (64, true), (66, false)] {
        let attribution = attributed(&mut correlator, record(minutes, Some("ASIA1"), Attribution::default()));
        assert_eq!(attribution.human.is_some(), found, "{minutes} minutes");
    }
}

#[test]
fn sessions_that_name_each_other_end() {
    let mut correlator = Correlator::default();
    correlator.note_session(session("ASIA1", Some("ASIA2"), of_role("a")));
    correlator.note_session(session("ASIA2", Some("ASIA1"), of_role("b")));
    let attribution = attributed(&mut correlator, record(5, Some("ASIA1"), Attribution::default()));
    assert_eq!(attribution.assumed.unwrap().chain.len(), 10);
}

#[test]
fn the_workload_for_which_the_provider_took_the_role() {
    let mut correlator = Correlator::default();
    let workload = Workload {
        kind: "lambda_function".into(),
        id: "report".to_owned(),
        name: Some(AssetName::from_text("asset://aws/111122223333/eu-west-1/lambda/function/report")),
        how: "assumeRole".into(),
    };
    let caller = Caller { workload: Some(workload.clone()), ..Caller::default() };
    correlator.note_session(session("ASIA1", None, caller));
    correlator.note_session(session("ASIA2", Some("ASIA1"), of_role("report")));
    let direct = attributed(&mut correlator, record(5, Some("ASIA1"), Attribution::default()));
    assert_eq!(direct.workload, Some(workload.clone()));
    let onward = attributed(&mut correlator, record(5, Some("ASIA2"), Attribution::default()));
    assert_eq!(onward.workload, Some(Workload { how: "chain.assumeRole".into(), ..workload }));
}

#[test]
fn the_copy_that_names_the_caller_replaces_the_one_that_hides_it() {
    let mut correlator = Correlator::default();
    let hidden = Caller { principal: Some(Principal { arn: None, ..principal("") }), ..Caller::default() };
    correlator.note_session(session("ASIA1", None, hidden.clone()));
    correlator.note_session(session("ASIA1", None, of_jane()));
    correlator.note_session(session("ASIA1", None, hidden));
    let attribution = attributed(&mut correlator, record(5, Some("ASIA1"), Attribution::default()));
    assert_eq!(attribution.human, Some(human("jane", "chain.userName")));
}

#[test]
fn the_owners_copy_of_a_record_gets_its_caller_from_the_callers_copy() {
    let mut correlator = Correlator::default();
    let shared = |attribution| {
        let mut record = record(1, None, attribution);
        record.evidence.shared_event_id = Some("shared-1".to_owned());
        record
    };
    let told = Attribution {
        principal: Some(principal("arn:aws:iam::444455556666:user/jane")),
        human: Some(human("jane", "userName")),
        ..Attribution::default()
    };
    let hidden = Principal { kind: "account".into(), id: None, arn: None, name: None, account: None };
    let hidden = Attribution { principal: Some(hidden), ..Attribution::default() };
    assert_eq!(attributed(&mut correlator, shared(hidden.clone())), hidden, "nothing is known yet");
    attributed(&mut correlator, shared(told.clone()));
    let completed = attributed(&mut correlator, shared(hidden));
    assert_eq!((completed.principal, completed.human), (told.principal, told.human));
}

/// An operation on a stack.
fn operation(correlator: &mut Correlator, minutes: i64, stack: &str, acts_as: Option<&str>, attribution: Attribution) {
    let mut started = record(minutes, None, attribution);
    started.operation.name = "UpdateStack".to_owned();
    started.evidence.acts_as = acts_as.map(str::to_owned);
    correlator.attribute(&mut started, &[draft("AWS::CloudFormation::Stack", stack)]);
}

/// By a user, or by a session of a role.
fn by(arn: &str, person: Option<&str>) -> Attribution {
    let session = arn.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + "/AWSCloudFormation";
    Attribution {
        method: "cloudformation".into(),
        principal: Some(principal(if arn.contains(":role/") { &session } else { arn })),
        assumed: Some(Assumed { role_arn: Some(arn.to_owned()), ..Assumed::default() }),
        human: person.map(|person| human(person, "userName")),
        ..Attribution::default()
    }
}

fn stack_of(attribution: &Attribution) -> Option<(&str, &str)> {
    attribution.deployment.as_ref().map(|deployment| (deployment.id.as_str(), &*deployment.how))
}

#[test]
fn the_stack_and_who_started_it_behind_a_service_role() {
    let mut correlator = Correlator::default();
    let deployer = role("deployer");
    operation(&mut correlator, 0, "web", Some(&deployer), by("arn:aws:iam::111122223333:user/jane", Some("jane")));
    let change = attributed(&mut correlator, record(3, None, by(&deployer, None)));
    assert_eq!(stack_of(&change), Some(("web", "serviceRole")));
    assert_eq!(change.human, Some(human("jane", "deployment.userName")));
    let later = attributed(&mut correlator, record(61, None, by(&deployer, None)));
    assert_eq!(stack_of(&later), None);
    let by_hand = Attribution { method: "cli".into(), ..by(&deployer, None) };
    assert_eq!(stack_of(&attributed(&mut correlator, record(3, None, by_hand))), None);
}

#[test]
fn two_stacks_at_a_time_tell_nothing() {
    let mut correlator = Correlator::default();
    let jane = "arn:aws:iam::111122223333:user/jane";
    operation(&mut correlator, 0, "web", None, by(jane, None));
    assert_eq!(stack_of(&attributed(&mut correlator, record(1, None, by(jane, None)))), Some(("web", "samePrincipal")));
    operation(&mut correlator, 2, "db", None, by(jane, None));
    assert_eq!(stack_of(&attributed(&mut correlator, record(3, None, by(jane, None)))), None);
    // By then the first one is outside the window.
    let later = attributed(&mut correlator, record(61, None, by(jane, None)));
    assert_eq!(stack_of(&later), Some(("db", "samePrincipal")));
}

#[test]
fn a_role_tells_nothing_while_a_stack_with_a_role_of_its_own_may_be_worked_on() {
    let mut correlator = Correlator::default();
    let deployer = role("deployer");
    operation(&mut correlator, 0, "web", Some(&deployer), by("arn:aws:iam::111122223333:user/jane", None));
    operation(&mut correlator, 1, "db", None, by("arn:aws:iam::111122223333:user/bob", None));
    assert_eq!(stack_of(&attributed(&mut correlator, record(3, None, by(&deployer, None)))), None);
}

fn begun(correlation: &str, id: &str, minutes: i64) -> DeploymentBegun {
    DeploymentBegun { correlation: correlation.to_owned(), id: id.to_owned(), time: at(minutes) }
}

/// The deployment of an Azure change with a correlation id.
fn deployment_of(correlator: &mut Correlator, correlation: &str, id: &str) -> Option<String> {
    let mut record = record(5, None, Attribution::default());
    record.source = "//azure/0f1e2d3c-0000-4000-8000-000000000001".to_owned();
    record.operation.request_id = Some(correlation.to_owned());
    correlator.attribute(&mut record, &[draft("Microsoft.Compute/disks", id)]);
    let deployment = record.attribution.deployment?;
    assert_eq!((&*deployment.kind, &*deployment.how), ("arm_deployment", "correlationId"));
    Some(deployment.id)
}

#[test]
fn what_bears_a_deployments_correlation_is_a_part_of_it() {
    let mut correlator = Correlator::default();
    correlator.note_deployment(begun("c1", "main", 1));
    // Nested ones begin later, whichever record arrives first.
    correlator.note_deployment(begun("c1", "nested", 2));
    correlator.note_deployment(begun("c2", "nested", 2));
    correlator.note_deployment(begun("c2", "main", 1));
    for correlation in ["c1", "c2"] {
        assert_eq!(deployment_of(&mut correlator, correlation, "disk").as_deref(), Some("main"));
        assert_eq!(deployment_of(&mut correlator, correlation, "nested").as_deref(), Some("main"));
        assert_eq!(deployment_of(&mut correlator, correlation, "MAIN"), None, "it is no part of itself");
    }
    assert_eq!(deployment_of(&mut correlator, "c3", "disk"), None);
    let mut of_aws = record(5, None, Attribution::default());
    of_aws.operation.request_id = Some("c1".to_owned());
    assert_eq!(attributed(&mut correlator, of_aws).deployment, None);
}

#[test]
fn what_is_remembered_outlives_a_restart_within_its_bounds() {
    let mut before = Correlator::with_limits(2, 2, 2, 2);
    before.restore([]).unwrap();
    let mut stored = std::collections::BTreeMap::new();
    for n in 0..4 {
        before.note_session(session(&format!("ASIA{n}"), None, of_jane()));
        operation(&mut before, n, &format!("stack-{n}"), Some(&role(&n.to_string())), Attribution::default());
        before.note_deployment(begun(&format!("c{n}"), "main", n));
        for (key, value) in before.take_changes() {
            assert!(KEY_PREFIXES.iter().any(|prefix| key.starts_with(prefix)), "{key}");
            match value {
                Some(value) => stored.insert(key, value),
                None => stored.remove(&key),
            };
        }
    }
    assert_eq!(stored.len(), 6, "{:?}", stored.keys());
    let mut after = Correlator::with_limits(2, 2, 2, 2);
    after.restore(stored.into_values()).unwrap();
    assert!(after.take_changes().is_empty(), "what is in the log need not be written again");
    for n in 0..4 {
        let found = attributed(&mut after, record(5, Some(&format!("ASIA{n}")), Attribution::default()));
        assert_eq!(found.human.is_some(), n >= 2, "ASIA{n}");
        let change = attributed(&mut after, record(5, None, by(&role(&n.to_string()), None)));
        assert_eq!(change.deployment.is_some(), n >= 2, "stack-{n}");
        assert_eq!(deployment_of(&mut after, &format!("c{n}"), "disk").is_some(), n >= 2, "c{n}");
    }
    assert!(Correlator::default().restore([Bytes::from_static(b"{}")]).is_err());
}

proptest! {
    /// The order in which sessions become known does not matter, nor do repetitions.
    #[test]
    fn sessions_may_come_in_any_order(mut order in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle(), again in 0..6usize) {
        order.push(again);
        let mut correlator = Correlator::default();
        for n in order {
            let from = n.checked_sub(1).map(|before| format!("ASIA{before}"));
            let caller = if n == 0 { of_jane() } else { of_role(&n.to_string()) };
            correlator.note_session(session(&format!("ASIA{n}"), from.as_deref(), caller));
        }
        let attribution = attributed(&mut correlator, record(5, Some("ASIA5"), Attribution::default()));
        let chain: Vec<_> = (1..6).rev().map(|n| role(&n.to_string())).collect();
        prop_assert_eq!(attribution.assumed.unwrap().chain, chain);
        prop_assert_eq!(attribution.human, Some(human("jane", "chain.userName")));
    }
}
