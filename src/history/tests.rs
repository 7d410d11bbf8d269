use std::convert::Infallible;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::ingest::{Processed, Processor};
use crate::inventory::ConfigurationState;
use crate::log::{Batch, MemoryLog, NewEvent, Retention};
use crate::metrics::Metrics;

static RULES: LazyLock<Arc<Engine>> = LazyLock::new(|| Arc::new(Engine::load(None).unwrap()));

const GROUP: &str = "asset://aws/111122223333/eu-west-1/ec2/security-group/sg-web";

/// What happens to the group.
#[derive(Clone, Debug)]
enum Call {
    Create,
    Open(u16),
    Close(u16),
    Tag(u8),
    Describe(u8),
    Delete,
}

fn at(seconds: i64) -> Time {
    Time::from_millis(1_770_000_000_000 + seconds * 1_000)
}

fn event_id(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// The record of a call, after the shape that CloudTrail gives it.
fn record(number: usize, seconds: i64, call: &Call) -> Value {
    let rule = |port| {
        json!({ "groupId": "sg-web", "groupOwnerId": "111122223333", "securityGroupRuleId": format!("sgr-{port}"),
                "isEgress": false, "ipProtocol": "tcp", "fromPort": port, "toPort": port, "cidrIpv4": "203.0.113.0/24" })
    };
    let (name, request, response) = match call {
        Call::Create => (
            "CreateSecurityGroup",
            json!({ "groupName": "web", "groupDescription": "of the web", "vpcId": "vpc-1" }),
            json!({ "_return": true, "groupId": "sg-web" }),
        ),
        Call::Open(port) => (
            "AuthorizeSecurityGroupIngress",
            json!({ "groupId": "sg-web" }),
            json!({ "securityGroupRuleSet": { "items": [rule(*port)] } }),
        ),
        Call::Close(port) => (
            "RevokeSecurityGroupIngress",
            json!({ "groupId": "sg-web", "ipPermissions": { "items": [{ "ipProtocol": "tcp", "fromPort": port, "toPort": port,
                    "ipRanges": { "items": [{ "cidrIp": "203.0.113.0/24" }] } }] } }),
            json!({ "_return": true }),
        ),
        Call::Tag(value) => (
            "CreateTags",
            json!({ "resourcesSet": { "items": [{ "resourceId": "sg-web" }] },
                    "tagSet": { "items": [{ "key": "team", "value": format!("t{value}") }] } }),
            json!({ "_return": true }),
        ),
        Call::Describe(value) => (
            "UpdateSecurityGroupRuleDescriptionsIngress",
            json!({ "UpdateSecurityGroupRuleDescriptionsIngressRequest": { "GroupId": "sg-web", "SecurityGroupRuleDescription": {
                    "tag": 1, "SecurityGroupRuleId": "sgr-22", "Description": format!("d{value}") } } }),
            json!({ "_return": true }),
        ),
        Call::Delete => ("DeleteSecurityGroup", json!({ "groupId": "sg-web" }), json!({ "_return": true })),
    };
    json!({
        "eventVersion": "1.08", "eventSource": "ec2.amazonaws.com", "awsRegion": "eu-west-1", "eventName": name,
        "recipientAccountId": "111122223333", "eventID": event_id(number), "eventTime": at(seconds),
        "sourceIPAddress": "192.0.2.10", "userAgent": "aws-cli/2.0.0", "eventType": "AwsApiCall",
        "userIdentity": { "type": "IAMUser", "accountId": "111122223333", "principalId": "AIDAEXAMPLE",
                          "arn": "arn:aws:iam::111122223333:user/jane", "userName": "jane" },
        "requestParameters": request, "responseElements": response,
    })
}

/// A log and an inventory that took records in the order given.
struct World {
    history: History,
    inventory: Arc<Inventory>,
}

impl World {
    fn of(records: impl IntoIterator<Item = Value>) -> Self {
        let (log, inventory) = (log(), Arc::new(Inventory::new()));
        take(&*log, &inventory, records);
        Self::over(log, inventory)
    }

    fn over(log: Arc<dyn EventLog>, inventory: Arc<Inventory>) -> Self {
        let rules = watch::channel(Arc::clone(&RULES)).1;
        Self { history: History::new(log, Arc::clone(&inventory), rules), inventory }
    }

    fn as_of(&self, time: Time) -> Option<(Value, ConfigurationState, Value)> {
        match self.history.as_of(&AssetName::from_text(GROUP), time).unwrap() {
            AsOf::Known(held) => Some(seen(&held)),
            AsOf::NotYet(_) | AsOf::Never => None,
        }
    }

    fn blame(&self, time: Option<Time>) -> Option<Vec<Field>> {
        match self.history.blame(&AssetName::from_text(GROUP), time).unwrap() {
            AsOf::Known(blame) => Some(blame.fields),
            AsOf::NotYet(_) | AsOf::Never => None,
        }
    }

    /// The number of the record that set a value; `None` where none is known to have.
    fn set_by(&self, path: &str) -> Option<Option<usize>> {
        let field = self.blame(None).unwrap().into_iter().find(|field| field.path.as_str() == path)?;
        Some(field.set_by.map(|by| by.event[24..36].parse().unwrap()))
    }
}

fn log() -> Arc<MemoryLog> {
    Arc::new(MemoryLog::new(Retention::default(), Arc::new(Metrics::new().unwrap())))
}

/// Takes records into a log and an inventory; gives what was held after each.
fn take(log: &dyn EventLog, inventory: &Arc<Inventory>, records: impl IntoIterator<Item = Value>) -> Vec<Arc<Held>> {
    let mut processor = Processor::new(Arc::clone(&RULES), Arc::clone(inventory), "io.catchment".to_owned(), 100);
    let mut held = Vec::new();
    for record in records {
        let Ok(processed) = processor.process(record.to_string().as_bytes(), at(0), |_| Ok::<_, Infallible>(false));
        let Processed::Changes { events, .. } = processed else { panic!("{processed:?}") };
        append(log, events);
        held.extend(inventory.get(&AssetName::from_text(GROUP)));
    }
    held
}

fn append(log: &dyn EventLog, events: Vec<NewEvent>) {
    drop(log.append(Batch { events, ..Batch::default() }).unwrap());
}

fn seen(held: &Held) -> (Value, ConfigurationState, Value) {
    let configuration = held.configuration().map(|json| serde_json::from_slice(json).unwrap());
    (configuration.unwrap_or_default(), held.state(), held.tags().to_value())
}

fn ports(configuration: &Value) -> Vec<u64> {
    let rules = configuration["rules"].as_array().unwrap();
    // Every group lets everything out, from its beginning.
    rules.iter().filter(|rule| rule["isEgress"] == false).filter_map(|rule| rule["fromPort"].as_u64()).collect()
}

#[test]
fn an_asset_at_a_time() {
    let calls = [Call::Create, Call::Open(22), Call::Open(443), Call::Close(22), Call::Delete, Call::Create];
    let world = World::of(calls.iter().enumerate().map(|(n, call)| record(n, 10 * n as i64, call)));
    let ports_at = |seconds| world.as_of(at(seconds)).map(|(configuration, ..)| ports(&configuration));
    assert_eq!(ports_at(-1), None, "it was created later");
    for (seconds, expected) in [(10, vec![22]), (19, vec![22]), (20, vec![22, 443]), (39, vec![443])] {
        assert_eq!(ports_at(seconds), Some(expected), "{seconds}");
    }
    let deleted = world.as_of(at(45)).unwrap();
    assert_eq!((deleted.0, deleted.1), (Value::Null, ConfigurationState::Deleted));
    assert_eq!(world.as_of(at(1_000)), Some(seen(&world.inventory.get(&AssetName::from_text(GROUP)).unwrap())));
    let other = world.history.as_of(&AssetName::from_text("asset://aws/1/-/iam/user/x"), at(0)).unwrap();
    assert!(matches!(other, AsOf::Never));
}

#[test]
fn what_was_there_before_the_oldest_event_that_is_kept() {
    let inventory = Arc::new(Inventory::new());
    take(&*log(), &inventory, [record(0, 0, &Call::Create), record(1, 10, &Call::Open(22))]);
    // Retention dropped the first two.
    let log = log();
    take(&*log, &inventory, [record(2, 30, &Call::Open(443))]);
    let world = World::over(log, inventory);
    assert_eq!(world.as_of(at(29)).map(|(configuration, ..)| ports(&configuration)), Some(vec![22]));
    assert_eq!(world.as_of(at(-1)), None, "before it was seen first");
    assert_eq!((world.set_by("/rules/1/fromPort"), world.set_by("/rules/2/fromPort")), (Some(None), Some(Some(2))));
}

#[test]
fn each_value_and_who_set_it() {
    let calls = [
        Call::Create,
        Call::Open(22),
        Call::Open(443),
        Call::Describe(1),
        Call::Tag(1),
        Call::Close(443),
        Call::Tag(2),
    ];
    let world = World::of(calls.iter().enumerate().map(|(n, call)| record(n, 10 * n as i64, call)));
    assert_eq!(world.set_by("/groupName"), Some(Some(0)));
    assert_eq!(world.set_by("/rules/1/fromPort"), Some(Some(1)));
    assert_eq!(world.set_by("/rules/1/description"), Some(Some(3)));
    assert_eq!(world.set_by("/tags/team"), Some(Some(6)));
    assert_eq!(world.set_by("/rules/2/fromPort"), None, "it was closed");
    let field = world.blame(None).unwrap().into_iter().find(|field| field.path.as_str() == "/tags/team").unwrap();
    let by = field.set_by.unwrap();
    assert_eq!((by.operation.as_str(), by.method.as_str(), by.time), ("CreateTags", "cli", at(60)));
    assert_eq!((by.principal.as_deref(), by.ip.as_deref()), (Some("jane"), Some("192.0.2.10")));
    let earlier = world.blame(Some(at(45))).unwrap();
    let tag = earlier.iter().find(|field| field.path.as_str() == "/tags/team").unwrap();
    assert_eq!((&tag.value, tag.set_by.as_ref().map(|by| by.time)), (&json!("t1"), Some(at(40))));
}

/// The inventory has forgotten how the asset came to be what it is: a late record has no place in it, but has one in the
/// history.
#[test]
fn a_record_whose_place_the_inventory_did_not_know_has_one_here() {
    let (log, before) = (log(), Arc::new(Inventory::new()));
    let held = take(&*log, &before, [record(0, 0, &Call::Create), record(1, 40, &Call::Open(443))]);
    let inventory = Arc::new(Inventory::new());
    inventory.restore(held[1].stored().clone()).unwrap();
    take(&*log, &inventory, [record(2, 20, &Call::Open(22))]);
    let world = World::over(log, inventory);
    let ports_at = |seconds| ports(&world.as_of(at(seconds)).unwrap().0);
    assert_eq!((ports_at(19), ports_at(20), ports_at(39)), (vec![], vec![22], vec![22]));
    assert_eq!((world.set_by("/groupName"), world.set_by("/rules/1/fromPort")), (Some(Some(0)), Some(Some(1))));
}

/// An event whose record its rule no longer understands in the same way is taken by its own words.
#[test]
fn rules_may_have_changed_since() {
    let (log, inventory) = (log(), Arc::new(Inventory::new()));
    let mut processor = Processor::new(Arc::clone(&RULES), Arc::clone(&inventory), "io.catchment".to_owned(), 100);
    for (number, seconds, call) in [(0, 0, Call::Create), (1, 20, Call::Open(443)), (2, 10, Call::Open(22))] {
        let record = record(number, seconds, &call).to_string();
        let Ok(processed) = processor.process(record.as_bytes(), at(0), |_| Ok::<_, Infallible>(false));
        let Processed::Changes { mut events, .. } = processed else { panic!("{processed:?}") };
        for event in &mut events {
            let mut json: Value = serde_json::from_slice(&event.json).unwrap();
            json["data"]["raw"] = json!({ "no": "record" });
            event.json = json.to_string().into();
        }
        append(&*log, events);
    }
    let world = World::over(log, inventory);
    let configuration = |seconds| world.as_of(at(seconds)).unwrap();
    assert_eq!(ports(&configuration(10).0), [22]);
    // What is held now needs no event; what was held a moment before it changed, by the words of the events, would.
    let runs = Runs::of(world.history.log.times(&AssetName::from_text(GROUP), 10).unwrap());
    let (events, _) = world.history.read(&runs, 1..3).unwrap();
    let last = replay(&events, at(0)).pop().unwrap();
    let (configuration, state, _) = seen(&last.held);
    assert_eq!((ports(&configuration), state), (vec![22, 443], ConfigurationState::Partial));
}

fn call() -> impl Strategy<Value = Call> {
    let port = || prop::sample::select(vec![22_u16, 80, 443]);
    prop_oneof![
        1 => Just(Call::Create),
        4 => port().prop_map(Call::Open),
        3 => port().prop_map(Call::Close),
        3 => (0_u8..3).prop_map(Call::Tag),
        2 => (0_u8..3).prop_map(Call::Describe),
        1 => Just(Call::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// In whatever order the records of a history came, every moment of it is what it was had they come in order, and so
    /// is who set what.
    #[test]
    fn the_past_does_not_hang_on_the_order_of_arrival(
        calls in prop::collection::vec(call(), 1..12),
        places in prop::collection::vec(any::<prop::sample::Index>(), 12),
    ) {
        let records: Vec<_> = calls.iter().enumerate().map(|(n, call)| record(n, 10 * n as i64, call)).collect();
        let (log, inventory) = (log(), Arc::new(Inventory::new()));
        let held = take(&*log, &inventory, records.clone());
        let in_order = World::over(log, inventory);
        let mut shuffled = Vec::new();
        for (record, place) in records.into_iter().zip(&places) {
            shuffled.insert(place.index(shuffled.len() + 1), record);
        }
        let world = World::of(shuffled);
        for (n, held) in held.iter().enumerate() {
            let time = at(10 * n as i64 + 5);
            prop_assert_eq!(world.as_of(time), Some(seen(held)), "at {}", time);
            prop_assert_eq!(in_order.as_of(time), Some(seen(held)), "in order, at {}", time);
            prop_assert_eq!(world.blame(Some(time)), in_order.blame(Some(time)), "at {}", time);
        }
        prop_assert_eq!(world.as_of(at(-1)), None);
        prop_assert_eq!(world.blame(None), in_order.blame(None));
    }
}
