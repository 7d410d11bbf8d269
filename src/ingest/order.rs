//! The order in which the records of one delivery are completed.

use crate::model::RawRecord;
use crate::normalize::Outcome;

/// Sorts the records of a delivery by event time, since files hold them in no order. Records of the same time keep
/// their order; those that change nothing have no time here and come first. `K` is whatever else is known of each
/// record.
pub(super) fn in_order<K>(records: Vec<RawRecord>, outcomes: Vec<(Outcome, K)>) -> Vec<(RawRecord, (Outcome, K))> {
    let mut taken: Vec<_> = records.into_iter().zip(outcomes).collect();
    taken.sort_by_key(|(_, (outcome, _))| outcome.time());
    taken
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, OnceLock};

    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::ingest::{Processed, Processor};
    use crate::inventory::Inventory;
    use crate::model::{AssetName, Origin, Time};
    use crate::normalize::Engine;

    fn engine() -> Arc<Engine> {
        static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
        Arc::clone(ENGINE.get_or_init(|| Arc::new(Engine::load(None).unwrap())))
    }

    fn record(second: u32, id: &str, name: &str, request: Value, response: Value) -> Value {
        json!({
            "eventVersion": "1.08", "eventID": id, "eventTime": format!("2026-02-03T04:05:{second:02}Z"),
            "eventSource": "ec2.amazonaws.com", "eventName": name, "awsRegion": "eu-west-1",
            "recipientAccountId": "111122223333", "userIdentity": { "type": "Root", "accountId": "111122223333" },
            "requestParameters": request, "responseElements": response,
        })
    }

    /// A security group is created, and in each of the following seconds a port is opened.
    fn history(ports: u16) -> Vec<Value> {
        let group = json!({ "groupName": "web", "groupDescription": "web", "vpcId": "vpc-1" });
        let mut records = vec![record(0, "made", "CreateSecurityGroup", group, json!({ "groupId": "sg-1" }))];
        records.extend((1..=ports).map(|port| {
            let rule = json!({ "groupId": "sg-1", "securityGroupRuleId": format!("sgr-{port}"), "isEgress": false,
                "ipProtocol": "tcp", "fromPort": port, "toPort": port, "cidrIpv4": "203.0.113.0/24" });
            let response = json!({ "_return": true, "securityGroupRuleSet": { "items": [rule] } });
            let request = json!({ "groupId": "sg-1" });
            record(port.into(), &format!("open-{port}"), "AuthorizeSecurityGroupIngress", request, response)
        }));
        records
    }

    fn delivery(records: &[Value]) -> (Vec<RawRecord>, Vec<(Outcome, ())>) {
        let raw = |(index, record): (u64, &Value)| RawRecord {
            bytes: Bytes::from(record.to_string()),
            origin: Origin { source: "trail".into(), location: "a.json".into(), index },
        };
        let records: Vec<_> = (0..).zip(records).map(raw).collect();
        let outcomes = records.iter().map(|record| (engine().normalize(&record.bytes), ())).collect();
        (records, outcomes)
    }

    #[test]
    fn records_of_one_second_stay_in_their_order_and_none_is_lost() {
        let mut records = history(3);
        records[1]["eventTime"] = records[3]["eventTime"].clone();
        let mut read = records[2].clone();
        read["readOnly"] = true.into();
        read["eventName"] = "DescribeSecurityGroups".into();
        records.extend([read, json!("no record")]);
        records.reverse();
        let (records, outcomes) = delivery(&records);
        let order: Vec<u64> = in_order(records, outcomes).iter().map(|(record, _)| record.origin.index).collect();
        assert_eq!(order, [0, 1, 5, 3, 2, 4]);
    }

    proptest! {
        /// In whatever order a file holds its records, the events are those of a sorted file, and none is late.
        #[test]
        fn the_disorder_of_a_delivery_makes_nothing_late(
            order in (1_u16..20).prop_flat_map(|ports| Just((0..=usize::from(ports)).collect::<Vec<_>>()).prop_shuffle()),
        ) {
            let orderly = history(u16::try_from(order.len() - 1).unwrap());
            let told = |records: &[Value]| {
                let inventory = Arc::new(Inventory::new());
                let mut processor = Processor::new(engine(), Arc::clone(&inventory), "io.catchment".to_owned(), 100);
                let (records, outcomes) = delivery(records);
                let mut events: Vec<Bytes> = Vec::new();
                for (_, (outcome, ())) in in_order(records, outcomes) {
                    let seen = |_: &str| Ok::<_, Infallible>(false);
                    let Ok(Processed::Changes { events: told, .. }) = processor.complete(outcome, Time::default(), seen) else {
                        panic!("no change")
                    };
                    events.extend(told.into_iter().map(|event| event.json));
                }
                let name = AssetName::new("aws", "111122223333", "eu-west-1", "ec2/security-group/sg-1");
                (events, inventory.get(&name).unwrap().stored().clone())
            };
            let shuffled: Vec<Value> = order.iter().map(|index| orderly[*index].clone()).collect();
            let (events, held) = told(&shuffled);
            let late = |event: &Bytes| serde_json::from_slice::<Value>(event).unwrap()["data"]["late"] == true;
            prop_assert!(!events.iter().any(late));
            prop_assert_eq!((events, held), told(&orderly));
        }
    }
}
