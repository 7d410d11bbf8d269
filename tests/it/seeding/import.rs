//! What an import holds and reports, with and without a running server.

use std::path::PathBuf;

use serde_json::json;

use super::{ACCOUNT, SUBSCRIPTION, TENANT, aws, configuration, import, seeds};
use crate::support::program::Finished;
use crate::support::server::{Server, folder};
use crate::support::trail::{add, create_group};

#[test]
fn what_a_seed_tells_is_held_reported_and_free_of_secrets() {
    let folder = folder();
    let given = ["--as-of", "2026-02-03T04:00:00Z", "--account", ACCOUNT, "--region", "eu-west-1"];
    let first = import(folder.path(), &given, &seeds());
    let line = |finished: &Finished, file: &str| {
        finished.stdout.lines().find(|line| line.contains(file)).unwrap_or_default().to_owned()
    };
    let said = line(&first, "config-snapshot.json");
    assert!(
        said.ends_with("2 imported, 0 updated, 0 unchanged, 0 older than the inventory, 1 of unknown type, 0 rejected"),
        "{said}"
    );
    assert!(first.stdout.contains("unknown type AWS::Config::ResourceCompliance: 1"), "{}", first.stdout);
    assert!(first.stdout.contains("unknown type random_password: 1"), "{}", first.stdout);
    let again = import(folder.path(), &given, &seeds());
    assert!(again.stdout.contains("unchanged") && !again.stdout.contains(" 1 imported"), "{}", again.stdout);
    assert!(line(&again, "config-snapshot.json").contains("0 imported, 0 updated, 2 unchanged"), "{}", again.stdout);

    let server = Server::serve(folder.path(), &configuration(folder.path()));
    assert_eq!(server.all_events().len(), 0, "a seed gives no event");
    let asset = |name: &str| server.get_json(&format!("/v1/assets/{name}"));
    let function = asset(&aws("eu-west-1/lambda/function/resize"));
    assert_eq!(function["configuration"]["environment"]["variables"]["DB_PASSWORD"], "[redacted]");
    let bucket = asset(&aws("-/s3/bucket/example-orders"));
    assert_eq!(bucket["changed"], "2026-02-03T03:00:00.000Z", "the item tells its own time");
    assert_eq!(bucket["configuration"]["policy"]["Statement"][0]["Action"], "s3:GetObject");
    assert_eq!(bucket["tags"], json!({ "team": "payments" }));
    let group = asset(&aws("eu-west-1/ec2/security-group/sg-0a1b2c3d4e5f60718"));
    assert_eq!((&group["configuration_state"], &group["display_name"]), (&json!("complete"), &json!("web")));
    assert_eq!(group["configuration"]["rules"].as_array().unwrap().len(), 3);
    let role = asset(&aws("-/iam/role/deployer"));
    assert_eq!(role["arn"], "arn:aws:iam::111122223333:role/ops/deployer");
    let machine = asset(&format!(
        "asset://azure/{SUBSCRIPTION}/-/resourcegroups/shop/providers/microsoft.compute/virtualmachines/vm1"
    ));
    assert_eq!(machine["configuration"]["properties"]["hardwareProfile"]["vmSize"], "Standard_B2s");
}

#[test]
fn a_running_server_imports_and_older_seeds_leave_what_is_newer() {
    let folder = folder();
    let trail = folder.path().join("trail.ndjson");
    add(&trail, &create_group("web"));
    let server = Server::serve(folder.path(), &configuration(folder.path()));
    server.wait_until("told", || server.all_events().len() == 1);
    let name = "asset://aws/123456789012/eu-west-1/ec2/security-group/sg-web";
    let held = server.get_json(&format!("/v1/assets/{name}"));

    let older = folder.path().join("older.json");
    let group = |description: &str| {
        json!({ "SecurityGroups": [{ "GroupId": "sg-web", "GroupName": "web", "OwnerId": "123456789012",
        "Description": description, "VpcId": "vpc-0a1b2c3d", "IpPermissions": [], "IpPermissionsEgress": [], "Tags": [] }] })
    };
    std::fs::write(&older, group("older").to_string()).unwrap();
    let imported = import(folder.path(), &["--as-of", "2026-02-03T04:00:00Z", "--region", "eu-west-1"], &[older]);
    assert_eq!(imported.code, Some(0), "{}", imported.stderr);
    assert!(imported.stdout.contains("the running server imports"), "{}", imported.stdout);
    assert!(imported.stdout.contains("0 updated, 0 unchanged, 1 older"), "{}", imported.stdout);
    assert_eq!(server.get_json(&format!("/v1/assets/{name}")), held);

    let newer = folder.path().join("newer.json");
    std::fs::write(&newer, group("newer").to_string()).unwrap();
    let arguments = ["--as-of", "2026-02-04T04:00:00Z", "--region", "eu-west-1", "--events"];
    let imported = import(folder.path(), &arguments, &[newer]);
    assert!(imported.stdout.contains("0 imported, 1 updated"), "{} {}", imported.stdout, imported.stderr);
    server.wait_until("told", || server.all_events().len() == 2);
    let event = server.all_events().pop().unwrap();
    crate::support::schema::assert_valid(&event);
    let data = &event["data"];
    assert_eq!(event["time"], "2026-02-04T04:00:00.000Z");
    assert_eq!((&data["action"], &data["previous_state"]), (&json!("update"), &json!("present")));
    let attribution = &data["attribution"];
    assert_eq!((&attribution["method"], &attribution["detected_by"]), (&json!("unknown"), &json!("inventory")));
    let description =
        data["changes"].as_array().unwrap().iter().find(|change| change["path"] == "/description").unwrap();
    assert_eq!((&description["old"], &description["value"]), (&json!("a group"), &json!("newer")));
    assert!(
        std::fs::read_dir(folder.path().join("data/import")).unwrap().next().is_none(),
        "nothing is left of the jobs"
    );
}

#[test]
fn what_cannot_be_taken_is_told() {
    let folder = folder();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let cut = file("cut.json", r#"{"Vpcs":[{"VpcId":"vpc-0a1b2c3d"},"#);
    let nameless = file("volume.json", r#"{"Volumes":[{"VolumeId":"vol-0a1b2c3d","AvailabilityZone":"eu-west-1a"}]}"#);
    let strange =
        file("strange.ndjson", "{\"id\":\"x\"}\n{\"Vpcs\":[{\"VpcId\":\"vpc-1\",\"OwnerId\":\"111122223333\"}]}\n");
    let imported = import(folder.path(), &["--region", "eu-west-1"], &[cut, nameless, strange]);
    assert_eq!(imported.code, Some(64), "{}", imported.stdout);
    assert!(
        imported.stdout.contains("cut.json: 0 imported"),
        "a file that is cut off gives nothing: {}",
        imported.stdout
    );
    assert!(imported.stdout.contains("not a JSON document: EOF"), "{}", imported.stdout);
    assert!(
        imported.stdout.contains(
            "volume.json: 0 imported, 0 updated, 0 unchanged, 0 older than the inventory, 0 of unknown type, 1 rejected"
        ),
        "{}",
        imported.stdout
    );
    assert!(imported.stdout.contains("strange.ndjson: 1 imported"), "{}", imported.stdout);
    let server = Server::serve(folder.path(), &configuration(folder.path()));
    let quarantine = server.get_json("/v1/quarantine");
    let codes: Vec<_> = quarantine["records"].as_array().unwrap().iter().map(|record| record["code"].clone()).collect();
    assert_eq!(codes.len(), 2, "{quarantine}");
    assert!(codes.contains(&json!("no_account")) && codes.contains(&json!("unknown_seed")), "{codes:?}");
}

#[test]
fn each_faulty_asset_of_an_item_is_counted_and_told() {
    let folder = folder();
    let group = |name: &str| {
        let id = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}");
        json!({ "attributes": { "id": id, "name": name }, "sensitive_attributes": [] })
    };
    let instances = [group("a/first"), group("good"), group("a/second")];
    let resource = json!({ "mode": "managed", "type": "azurerm_resource_group", "name": "g", "instances": instances });
    let state = json!({ "version": 4, "terraform_version": "1.9.8", "resources": [resource] });
    let file = folder.path().join("state.json");
    std::fs::write(&file, state.to_string()).unwrap();
    let imported = import(folder.path(), &[], &[file]);
    assert_eq!(imported.code, Some(64), "{}", imported.stdout);
    assert!(imported.stdout.contains("state.json: 1 imported, 0 updated"), "{}", imported.stdout);
    assert!(imported.stdout.contains("0 of unknown type, 2 rejected"), "{}", imported.stdout);
    assert!(imported.stderr.contains("2 items or assets in them were rejected"), "{}", imported.stderr);
    let server = Server::serve(folder.path(), &configuration(folder.path()));
    let quarantine = server.get_json("/v1/quarantine");
    let reasons: Vec<_> = quarantine["records"].as_array().unwrap().iter().map(|record| &record["reason"]).collect();
    assert_eq!(reasons.len(), 2, "{quarantine}");
    for id in ["a/first", "a/second"] {
        assert!(reasons.iter().any(|reason| reason.as_str().unwrap().contains(id)), "{id}: {quarantine}");
    }
}

#[test]
fn objects_of_the_directory_and_the_servers_own_assets_come_back() {
    let folder = folder();
    let files = ["users", "groups"].map(|name| PathBuf::from(format!("fixtures/seeds/msgraph-{name}.json")));
    let imported = import(folder.path(), &["--as-of", "2026-02-03T04:00:00Z", "--account", TENANT], &files);
    assert_eq!(imported.code, Some(0), "{} {}", imported.stdout, imported.stderr);
    let server = Server::serve(folder.path(), &configuration(folder.path()));
    let group = format!("asset://azure/{TENANT}/-/entra/group/0f1e2d3c-0000-4000-8000-0000000000cc");
    let held = server.get_json(&format!("/v1/assets/{group}"));
    let member = json!({ "id": "0f1e2d3c-0000-4000-8000-0000000000bb", "name": "jane@example.com", "type": "User" });
    assert_eq!(held["configuration"]["members"], json!([member]));
    let (_, page) = server.get("/v1/assets?include=configuration");
    server.terminate();

    let other = crate::support::server::folder();
    let export = other.path().join("assets.json");
    std::fs::write(&export, page).unwrap();
    let imported = import(other.path(), &[], &[export]);
    assert!(imported.stdout.contains("2 imported"), "{} {}", imported.stdout, imported.stderr);
    let server = Server::serve(other.path(), &configuration(other.path()));
    assert_eq!(server.get_json(&format!("/v1/assets/{group}")), held);
}
