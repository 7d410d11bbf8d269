//! Records that come late, as trails deliver them: applied in their place, also after a kill.

use serde_json::{Value, json};

use crate::support::program::catchment;
use crate::support::server::{Server, folder};
use crate::support::trail::{add, create_group};

const GROUP: &str = "asset://aws/123456789012/eu-west-1/ec2/security-group/sg-web";

/// A rule of the group's, opened at a second.
fn opened(port: u16, second: u32) -> Value {
    let mut record = create_group("web");
    let members = json!({
        "eventID": format!("open-{port}"), "eventTime": format!("2026-02-03T04:05:{second:02}Z"),
        "eventName": "AuthorizeSecurityGroupIngress", "requestParameters": { "groupId": "sg-web" },
        "responseElements": { "_return": true, "securityGroupRuleSet": { "items": [{
            "groupOwnerId": "123456789012", "groupId": "sg-web", "securityGroupRuleId": format!("sgr-{port}"),
            "isEgress": false, "ipProtocol": "tcp", "fromPort": port, "toPort": port, "cidrIpv4": "203.0.113.0/24" }] } },
    });
    record.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    record
}

fn ports(configuration: &Value) -> Vec<u64> {
    let rules = configuration["rules"].as_array().unwrap();
    let mut ports: Vec<_> = rules.iter().filter_map(|rule| rule["fromPort"].as_u64()).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn a_late_record_finds_its_place_with_and_without_a_kill_in_between() {
    let folder = folder();
    let (data, trail) = (folder.path().join("data"), folder.path().join("trail.ndjson"));
    let configuration = format!("data_dir = {data:?}\n[sources.trail.file]\npath = {trail:?}\npoll_millis = 10\n");
    add(&trail, &create_group("web"));
    add(&trail, &opened(443, 30));
    let server = Server::serve(folder.path(), &configuration);
    server.wait_until("told", || server.all_events().len() == 2);
    add(&trail, &opened(22, 20));
    server.wait_until("told", || server.all_events().len() == 3);
    server.kill();

    add(&trail, &opened(80, 10));
    let server = Server::serve(folder.path(), &configuration);
    server.wait_until("told", || server.all_events().len() == 4);
    let events = server.all_events();
    let told = |id: &str| events.iter().find(|event| event["id"] == format!("open-{id}:0")).unwrap()["data"].clone();
    for (id, late, before, after) in
        [("443", false, vec![], vec![443]), ("22", true, vec![], vec![22]), ("80", true, vec![], vec![80])]
    {
        let data = told(id);
        assert_eq!(data["late"], late, "{id}");
        assert_eq!(data["previous_state"], "present", "{id}");
        assert_eq!((ports(&data["previous_configuration"]), ports(&data["configuration"])), (before, after), "{id}");
    }
    let asset = server.get_json(&format!("/v1/assets/{GROUP}"));
    assert_eq!(ports(&asset["configuration"]), [22, 80, 443]);
    assert_eq!((&asset["last_event"], &asset["configuration_state"]), (&json!("open-443:0"), &json!("complete")));

    // What was held when: by event time, whenever it was told.
    let at = |second: u32| server.get_json(&format!("/v1/assets/{GROUP}?as_of=2026-02-03T04:05:{second:02}Z"));
    for (second, expected) in
        [(9, vec![]), (10, vec![80]), (20, vec![22, 80]), (29, vec![22, 80]), (30, vec![22, 80, 443])]
    {
        let then = at(second);
        assert_eq!(ports(&then["configuration"]), expected, "{second}");
        assert_eq!(then["as_of"], format!("2026-02-03T04:05:{second:02}.000Z"));
    }
    let before = server.get(&format!("/v1/assets/{GROUP}?as_of=2026-02-03T04:05:05Z"));
    assert_eq!(before.0, 404, "{}", before.1);
    let blame = server.get_json(&format!("/v1/assets/{GROUP}/blame"));
    for port in [22, 80, 443] {
        let field = |value: &Value| value["value"] == port && value["path"].as_str().unwrap().ends_with("/fromPort");
        let field = blame["fields"].as_array().unwrap().iter().find(|one| field(one)).unwrap();
        assert_eq!(field["set_by"]["event"], format!("open-{port}:0"));
        assert_eq!(field["set_by"]["operation"], "AuthorizeSecurityGroupIngress");
    }

    // The same for people.
    let asset = |arguments: &[&str]| {
        let mut command = catchment();
        command.args(["asset", GROUP, "--url", &server.url("")]).args(arguments);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text, problem) = asset(&[]);
    assert_eq!((code, &*problem), (Some(0), ""), "{text}");
    assert!(text.starts_with(GROUP) && text.contains("AuthorizeSecurityGroupIngress ("), "{text}");
    let json: Value = serde_json::from_str(&asset(&["--at", "2026-02-03T04:05:20Z", "--json"]).1).unwrap();
    assert_eq!((ports(&json["configuration"]), &json["as_of"]), (vec![22, 80], &json!("2026-02-03T04:05:20.000Z")));
    let (code, text, _) = asset(&["--diff", "2026-02-03T04:05:15Z", "2026-02-03T04:05:25Z"]);
    let changed: Vec<&str> = text.lines().filter(|line| line.starts_with(['+', '-'])).collect();
    assert_eq!((code, changed.len()), (Some(0), 3), "{text}");
    assert!(changed[2].starts_with("+ /rules/-") && changed[2].contains(r#""fromPort":22"#), "{text}");
    let (code, _, problem) = asset(&["--at", "2026-02-03T04:00:00Z"]);
    assert!(code == Some(1) && problem.contains("nothing is known of asset"), "{problem}");
    let (code, _, problem) = asset(&["--at", "yesterday"]);
    assert!(code == Some(1) && problem.contains("parameter as_of"), "{problem}");
}
