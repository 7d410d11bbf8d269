//! Setting Azure up: the Terraform module, the script of `catchment azure plan`, and `catchment doctor azure`, which
//! finds the missing step.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::azure::Azure;
use crate::support::event_hubs::Broker;
use crate::support::program::{Finished, catchment, finish, run};
use crate::support::server::folder;
use crate::support::terraform::{module, references};

/// What the providers' references list as required, and what else is allowed here, by type
/// (azurerm 4: `website/docs/r`, azapi 2: `docs/resources`).
const RESOURCES: [(&str, &[&str], &[&str]); 8] = [
    ("azurerm_resource_group", &["name", "location"], &[]),
    (
        "azurerm_eventhub_namespace",
        &["name", "resource_group_name", "location", "sku"],
        &["capacity", "auto_inflate_enabled", "maximum_throughput_units", "minimum_tls_version"],
    ),
    (
        "azurerm_eventhub",
        &["name", "namespace_name", "resource_group_name", "partition_count", "message_retention"],
        &[],
    ),
    ("azurerm_eventhub_consumer_group", &["name", "namespace_name", "eventhub_name", "resource_group_name"], &[]),
    (
        "azurerm_eventhub_namespace_authorization_rule",
        &["name", "namespace_name", "resource_group_name"],
        &["listen", "send", "manage"],
    ),
    ("azurerm_role_assignment", &["scope", "principal_id"], &["role_definition_name"]),
    ("azapi_resource", &["type", "name", "parent_id", "body"], &["schema_validation_enabled"]),
    (
        "azurerm_monitor_diagnostic_setting",
        &["name", "target_resource_id", "enabled_log"],
        &["eventhub_authorization_rule_id", "eventhub_name"],
    ),
];

#[test]
fn the_terraform_module_is_whole() {
    let module = module("deploy/azure");
    for input in ["root_management_group_name", "resource_group_name", "subscription_id"] {
        let variable = &module[&format!("variable.{input}")];
        assert!(variable["type"].is_string() && variable.get("default").is_none(), "{input} is required: {variable}");
    }
    for output in ["namespace", "hub", "consumer_group", "hub_id", "configuration"] {
        assert!(module[&format!("output.{output}")]["value"].is_string(), "{output}");
    }
    for (name, block) in &module {
        let described = name.starts_with("variable.") || name.starts_with("output.");
        assert!(!described || block["description"].is_string(), "{name} has a description");
        for reference in references(&block.to_string(), &["azurerm_", "azapi_"]) {
            assert!(module.contains_key(&reference), "{name} refers to {reference}, which is nowhere");
        }
        let Some(kind) = name.strip_prefix("resource.").and_then(|name| name.split('.').next()) else { continue };
        let table = RESOURCES.iter().find(|(known, _, _)| *known == kind);
        let (_, required, allowed) = table.unwrap_or_else(|| panic!("{kind} is not in the table"));
        let given: Vec<&str> = block.as_object().unwrap().keys().map(String::as_str).collect();
        for argument in *required {
            assert!(given.contains(argument), "{name} lacks {argument}");
        }
        for argument in given.iter().filter(|argument| !["count", "for_each"].contains(*argument)) {
            assert!(required.contains(argument) || allowed.contains(argument), "{name} has no argument {argument}");
        }
    }
    for name in module.keys().filter(|name| name.starts_with("variable.")) {
        let used = module.values().any(|block| references(&block.to_string(), &["azurerm_", "azapi_"]).contains(name));
        assert!(used, "{name} is used");
    }
}

#[test]
fn both_ways_of_setting_up_do_the_same() {
    let module = module("deploy/azure");
    let planned = run([
        "azure",
        "plan",
        "--management-group=00000000-0000-0000-0000-00000000000a",
        "--subscription=00000000-0000-0000-0000-000000000001",
        "--resource-group=logs",
        "--principal=00000000-0000-0000-0000-0000000000bb",
    ]);
    assert_eq!(planned.code, Some(0), "{}", planned.stderr);
    let script = planned.stdout;
    let one_of = |name: &str, argument: &str| module[name][argument].as_str().unwrap().to_owned();
    let namespace = &module["resource.azurerm_eventhub_namespace.logs"];
    let days = module["variable.retention_days"]["default"].as_u64().unwrap();
    for part in [
        format!("--sku {}", namespace["sku"].as_str().unwrap()),
        format!("--capacity {}", namespace["capacity"]),
        format!("--maximum-throughput-units {}", module["variable.maximum_throughput_units"]["default"]),
        format!("--partition-count {}", module["variable.partition_count"]["default"]),
        format!("--retention-time-in-hours {}", days * 24),
        format!("--location {}", one_of("variable.location", "default")),
        format!("--name {}", one_of("variable.hub_name", "default")),
        format!("--name {}", one_of("resource.azurerm_eventhub_consumer_group.catchment", "name")),
        format!(
            "--name {} --rights Manage Send Listen",
            one_of("resource.azurerm_eventhub_namespace_authorization_rule.diagnostic_settings", "name")
        ),
        format!("--role '{}'", one_of("resource.azurerm_role_assignment.catchment", "role_definition_name")),
    ] {
        assert!(script.contains(&part), "{part} is in both");
    }
    for setting in ["management_group_setting", "entra_setting"] {
        let resource = &module[&format!("resource.azapi_resource.{setting}")];
        let (kind, version) = resource["type"].as_str().unwrap().split_once('@').unwrap();
        let url = format!("/providers/{kind}/{}?api-version={version}'", resource["name"].as_str().unwrap());
        assert!(script.contains(&url), "{url} is in both");
        let properties = resource["body"]["properties"].as_object().unwrap();
        assert!(properties.keys().all(|key| script.contains(&format!("\"{key}\""))), "{properties:?}");
    }
    // The shell takes it for a script.
    let checked = finish(Command::new("sh").arg("-n"), script.as_bytes());
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
}

const GROUP_SETTINGS: &str =
    "/providers/Microsoft.Management/managementGroups/root/providers/Microsoft.Insights/diagnosticSettings";
const ENTRA_SETTINGS: &str = "/providers/microsoft.aadiam/diagnosticSettings";

/// A diagnostic setting as Resource Manager lists it.
fn setting(category: &str) -> Value {
    let rule = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/logs/providers/Microsoft.EventHub/\
                namespaces/acme/authorizationRules/diagnostic-settings";
    json!({ "value": [{ "name": "catchment", "properties": {
        "eventHubAuthorizationRuleId": rule, "eventHubName": "activity",
        "logs": [{ "category": category, "enabled": true }],
    }}]})
}

/// `catchment doctor azure` on a source that reads the broker as a managed identity.
async fn doctor(azure: &Azure, endpoint: &str) -> Finished {
    let folder = folder();
    let config = folder.path().join("catchment.toml");
    let text = format!(
        "[sources.azure.azure_event_hubs]\nnamespace = \"acme\"\nhub = \"activity\"\nendpoint = {endpoint:?}\n\
         credential.managed_identity = {{}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = catchment();
    azure.identify(&mut command);
    command.args(["doctor", "azure", "--management-group", "root", "--resource-manager", &azure.url]);
    command.arg("--config").arg(&config);
    tokio::task::spawn_blocking(move || finish(&mut command, b"")).await.unwrap()
}

/// The lines of the report that say so: `MISSING`, `note`, `ok`.
fn marked(report: &str, mark: &str) -> Vec<String> {
    let lines = report.lines().filter(|line| line.split(' ').next() == Some(mark));
    lines.map(|line| line[mark.len()..].trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_everything_in_order() {
    let (azure, broker) = (Azure::start().await, Broker::start(&[("activity", 2)]).await);
    azure.answer(GROUP_SETTINGS, 200, setting("Administrative"));
    azure.answer(ENTRA_SETTINGS, 200, setting("AuditLogs"));
    for number in 0..3 {
        broker.append("activity", 0, br#"{"records":[{"category":"Administrative"},{"category":"Policy"}]}"#);
        broker.append("activity", number % 2, br#"{"records":[{"category":"AuditLogs"}]}"#);
    }
    let found = doctor(&azure, &broker.endpoint()).await;
    assert_eq!(found.code, Some(0), "{}{}", found.stdout, found.stderr);
    let steps: Vec<String> =
        marked(&found.stdout, "ok").iter().map(|line| line.split(':').next().unwrap().to_owned()).collect();
    let expected = [
        "name",
        "port",
        "token",
        "connection",
        "hub",
        "partitions",
        "records",
        "activity log setting",
        "Entra setting",
    ];
    assert_eq!(steps, expected, "{}", found.stdout);
    assert!(found.stdout.contains("Administrative 3, AuditLogs 3, Policy 3"), "{}", found.stdout);
    assert!(found.stdout.contains("they have 6 events"), "{}", found.stdout);
    assert_eq!(marked(&found.stdout, "note"), [""; 0], "{}", found.stdout);
    let asked = azure.asked();
    assert!(asked.contains(&"https://eventhubs.azure.net".to_owned()), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_the_missing_step_and_what_mends_it() {
    let azure = Azure::start().await;
    azure.answer(GROUP_SETTINGS, 200, setting("Policy"));
    azure.answer(ENTRA_SETTINGS, 403, json!({ "error": { "code": "AuthorizationFailed" } }));
    let mut broker = Broker::start(&[("activity", 1)]).await;

    // Nothing has arrived, since no setting sends it.
    let found = doctor(&azure, &broker.endpoint()).await;
    assert_eq!(found.code, Some(1));
    let missing = marked(&found.stdout, "MISSING");
    assert!(missing[0].starts_with("records: none has ever arrived"), "{missing:?}");
    assert!(missing[1].starts_with("activity log setting: no diagnostic setting sends Administrative"), "{missing:?}");
    assert_eq!(missing.len(), 2);
    let mends =
        "az rest --method put --url 'https://management.azure.com/providers/Microsoft.Management/managementGroups/root";
    assert!(found.stdout.contains(mends), "{}", found.stdout);
    let notes = marked(&found.stdout, "note");
    assert!(notes[0].starts_with("Entra setting: the identity may not read it"), "{notes:?}");

    // The identity may not read.
    broker.answer_tokens(Some((401, "Unauthorized access. 'Listen' claim(s) are required.")));
    let found = doctor(&azure, &broker.endpoint()).await;
    assert_eq!(found.code, Some(1));
    let missing = marked(&found.stdout, "MISSING");
    assert!(missing[0].starts_with("hub: refused: Unauthorized access"), "{missing:?}");
    assert!(found.stdout.contains("az role assignment create --role 'Azure Event Hubs Data Receiver'"));
    broker.answer_tokens(None);

    // There is no such hub.
    let other = Broker::start(&[("other", 1)]).await;
    let found = doctor(&azure, &other.endpoint()).await;
    assert!(marked(&found.stdout, "MISSING")[0].starts_with("hub: refused: "), "{}", found.stdout);
    assert!(found.stdout.contains("az eventhubs eventhub create"), "{}", found.stdout);

    // Nothing listens there.
    broker.stop();
    let found = doctor(&azure, &broker.endpoint()).await;
    assert!(marked(&found.stdout, "MISSING")[0].starts_with("port: "), "{}", found.stdout);
    assert!(!found.stdout.contains("token"), "what depends on it is not looked at: {}", found.stdout);

    // The machine has no identity.
    broker.listen().await;
    azure.refuse_tokens();
    let found = doctor(&azure, &broker.endpoint()).await;
    assert_eq!(found.code, Some(1));
    let missing = marked(&found.stdout, "MISSING");
    assert!(missing[0].starts_with("token: refused: "), "{missing:?}");
    assert!(missing[0].contains("has not been assigned to this resource"), "{missing:?}");

    // The name is of no host.
    let found = doctor(&azure, "amqps://no-such-host.invalid").await;
    assert!(marked(&found.stdout, "MISSING")[0].starts_with("name: no-such-host.invalid does not resolve"));
}
