//! The steps of the Azure setup, each with its command. Both the plan and the doctor use them.

use serde_json::{Value, json};

use crate::source::azure_event_hubs::config::Cloud;

/// The event hub, unless another name is given.
pub(super) const DEFAULT_HUB: &str = "catchment";

/// Catchment's own consumer group, the diagnostic settings' name, and that of the rule they send by.
pub(super) const CONSUMER_GROUP: &str = "catchment";
const SETTING: &str = "catchment";
const RULE: &str = "diagnostic-settings";

/// Minimum and maximum number of throughput units. One accepts 1 MB/s, some 600 records per second.
const UNITS: (u32, u32) = (1, 4);
/// Their number can be increased later only in the premium tier.
const PARTITIONS: u32 = 4;
/// The maximum of the standard tier: how long Catchment may be down without losing an event.
const RETENTION_HOURS: u32 = 168;

/// A log that records changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// Azure's activity log.
    Activity,
    /// Entra's audit log.
    Entra,
}

impl Log {
    /// The category of its changes.
    pub(crate) fn category(self) -> &'static str {
        match self {
            Self::Activity => "Administrative",
            Self::Entra => "AuditLogs",
        }
    }
}

/// A step: what to do, and how.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) title: &'static str,
    pub(crate) why: Vec<String>,
    pub(crate) command: String,
}

/// Where the logs come from and where they go. Unknown values are words in capitals in the commands.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) management_group: Option<String>,
    pub(crate) subscription: Option<String>,
    pub(crate) resource_group: Option<String>,
    pub(crate) namespace: String,
    pub(crate) hub: String,
    pub(crate) cloud: Cloud,
}

impl Target {
    /// Refuses values that are not valid in Azure, naming their flag. So those that pass are safe in a shell.
    pub(super) fn check(&self, location: &str, principal: Option<&str>) -> Result<(), String> {
        let word = |extra: &'static str| {
            move |text: &str| {
                let legal = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
                matches!(text.len(), 1..=90) && text.chars().all(legal) && !text.starts_with('-')
            }
        };
        let is_id = |text: &str| {
            let groups: Vec<&str> = text.split('-').collect();
            let hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
            groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(hex)
        };
        let wrong = |flag: &str, value: &str, what: &str| Err(format!("{flag} {value:?} is not {what}"));
        match self {
            Self { management_group: Some(id), .. } if !word("-_.")(id) => {
                wrong("--management-group", id, "the id of a management group")
            }
            Self { subscription: Some(id), .. } if !is_id(id) => {
                wrong("--subscription", id, "a subscription's id, such as 00000000-0000-0000-0000-000000000001")
            }
            Self { resource_group: Some(name), .. } if !word("-_.")(name) => {
                wrong("--resource-group", name, "the name of a resource group")
            }
            Self { namespace, .. } if !word("-")(namespace) => {
                wrong("--namespace", namespace, "the name of an Event Hubs namespace")
            }
            Self { hub, .. } if !word("-_.")(hub) => wrong("--hub", hub, "the name of an event hub"),
            _ if !word("")(location) => wrong("--location", location, "a region such as westeurope"),
            _ => match principal {
                Some(id) if !is_id(id) => wrong("--principal", id, "the object id of an identity"),
                _ => Ok(()),
            },
        }
    }

    /// All steps, in order.
    pub(super) fn steps(&self, location: &str, principal: Option<&str>) -> Vec<Step> {
        let mut steps = vec![
            self.make_group(location),
            self.make_namespace(location),
            self.make_hub(),
            self.make_consumer_group(CONSUMER_GROUP),
            self.make_rule(),
            self.grant(principal),
            self.stream_management_group(),
        ];
        steps.extend([self.stream_subscriptions(), self.stream_entra()]);
        steps
    }

    fn subscription_or_word(&self) -> &str {
        self.subscription.as_deref().unwrap_or("SUBSCRIPTION")
    }

    fn group(&self) -> &str {
        self.resource_group.as_deref().unwrap_or("RESOURCE_GROUP")
    }

    /// The flags that place a command in the resource group.
    fn place(&self) -> String {
        format!("--subscription {} --resource-group {}", self.subscription_or_word(), self.group())
    }

    fn namespace_id(&self) -> String {
        let (subscription, group, namespace) = (self.subscription_or_word(), self.group(), &self.namespace);
        format!(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.EventHub/namespaces/{namespace}"
        )
    }

    /// The path of the management group's diagnostic settings
    /// (<https://learn.microsoft.com/rest/api/monitor/management-group-diagnostic-settings>).
    pub(crate) fn management_group_settings(&self) -> String {
        let group = self.management_group.as_deref().unwrap_or("MANAGEMENT_GROUP");
        format!(
            "/providers/Microsoft.Management/managementGroups/{group}/providers/Microsoft.Insights/diagnosticSettings"
        )
    }

    fn make_group(&self, location: &str) -> Step {
        Step {
            title: "A resource group for the event hub",
            why: vec![],
            command: format!(
                "az group create --subscription {} --name {} --location {location}",
                self.subscription_or_word(),
                self.group()
            ),
        }
    }

    fn make_namespace(&self, location: &str) -> Step {
        let (least, most) = UNITS;
        Step {
            title: "An Event Hubs namespace",
            why: vec![format!(
                "Standard, because Basic keeps events for a day only; it grows from {least} to {most} throughput units."
            )],
            command: format!(
                "az eventhubs namespace create {} --name {} --location {location} \\\n  --sku Standard --capacity {least} \
                 --enable-auto-inflate true --maximum-throughput-units {most} --minimum-tls-version 1.2",
                self.place(),
                self.namespace
            ),
        }
    }

    /// The event hub.
    pub(crate) fn make_hub(&self) -> Step {
        Step {
            title: "The event hub",
            why: vec![format!(
                "Events are kept for {} days: as long as Catchment may be down without missing one.",
                RETENTION_HOURS / 24
            )],
            command: format!(
                "az eventhubs eventhub create {} --namespace-name {} --name {} \\\n  --partition-count {PARTITIONS} \
                 --cleanup-policy Delete --retention-time-in-hours {RETENTION_HOURS}",
                self.place(),
                self.namespace,
                self.hub
            ),
        }
    }

    pub(crate) fn make_consumer_group(&self, name: &str) -> Step {
        Step {
            title: "A consumer group of Catchment's own",
            why: vec![],
            command: format!(
                "az eventhubs eventhub consumer-group create {} --namespace-name {} --eventhub-name {} \\\n  --name {name}",
                self.place(),
                self.namespace,
                self.hub
            ),
        }
    }

    fn make_rule(&self) -> Step {
        Step {
            title: "An authorization rule with which Azure Monitor sends",
            why: vec!["Diagnostic settings need all three rights, on the namespace.".to_owned()],
            command: format!(
                "az eventhubs namespace authorization-rule create {} --namespace-name {} \\\n  --name {RULE} --rights Manage Send Listen",
                self.place(),
                self.namespace
            ),
        }
    }

    /// The permission to read.
    pub(crate) fn grant(&self, principal: Option<&str>) -> Step {
        let principal = principal.unwrap_or("OBJECT_ID");
        let mut why = vec!["It allows reading events, and nothing else. A new grant takes some minutes.".to_owned()];
        if principal == "OBJECT_ID" {
            why.push("OBJECT_ID is the object id of the identity that Catchment runs as.".to_owned());
        }
        Step {
            title: "The right to read, for the identity that Catchment runs as",
            why,
            command: format!(
                "az role assignment create --role 'Azure Event Hubs Data Receiver' \\\n  --assignee-object-id {principal} \
                 --assignee-principal-type ServicePrincipal \\\n  --scope {}/eventhubs/{}",
                self.namespace_id(),
                self.hub
            ),
        }
    }

    /// The body of a diagnostic setting.
    fn setting(&self, log: Log) -> Value {
        json!({ "properties": {
            "eventHubAuthorizationRuleId": format!("{}/authorizationRules/{RULE}", self.namespace_id()),
            "eventHubName": self.hub,
            "logs": [{ "category": log.category(), "enabled": true }],
        }})
    }

    fn put(&self, path: &str, version: &str, log: Log) -> String {
        let resource_manager = self.cloud.resource_manager();
        format!(
            "az rest --method put --url '{resource_manager}{path}/{SETTING}?api-version={version}' \\\n  --body '{}'",
            self.setting(log)
        )
    }

    /// The activity log of the management group.
    pub(crate) fn stream_management_group(&self) -> Step {
        Step {
            title: "The activity log of the management group",
            why: vec![
                "Changes to the group itself and to what belongs to it: role assignments, policies, its subscriptions."
                    .to_owned(),
                "Whoever runs this needs Monitoring Contributor on the group.".to_owned(),
            ],
            command: self.put(&self.management_group_settings(), MANAGEMENT_GROUP_VERSION, Log::Activity),
        }
    }

    /// The activity logs of the subscriptions.
    pub(crate) fn stream_subscriptions(&self) -> Step {
        let group = self.management_group.as_deref().unwrap_or("MANAGEMENT_GROUP");
        let rule = format!("{}/authorizationRules/{RULE}", self.namespace_id());
        let logs = json!([{ "category": Log::Activity.category(), "enabled": true }]);
        Step {
            title: "The activity logs of the subscriptions below it",
            why: vec![
                "Changes to resources. If the group's setting sends these too, a record that arrives twice counts once."
                    .to_owned(),
                "To be run again when a subscription is added.".to_owned(),
            ],
            command: format!(
                "az account management-group entities list --query \"[?type=='/subscriptions' && \
                 contains(parentNameChain || \\`[]\\`, '{group}')].name\" --output tsv |\nwhile read -r id; do\n  \
                 az monitor diagnostic-settings subscription create --subscription \"$id\" --name {SETTING} \
                 --location global \\\n    --event-hub-auth-rule {rule} \\\n    --event-hub-name {} --logs '{logs}'\ndone",
                self.hub
            ),
        }
    }

    /// The audit log of Entra ID.
    pub(crate) fn stream_entra(&self) -> Step {
        Step {
            title: "The audit log of Entra ID",
            why: vec![
                "Changes to users, groups, applications, roles, policies. Whoever runs this needs Security Administrator"
                    .to_owned(),
                "in Entra ID.".to_owned(),
            ],
            command: self.put(ENTRA_SETTINGS, ENTRA_VERSION, Log::Entra),
        }
    }
}

impl Target {
    /// Whether one of these diagnostic settings, as Azure lists them, sends a log to the hub.
    pub(crate) fn is_sent(&self, settings: &Value, log: Log) -> bool {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_ascii_lowercase();
        let namespace = format!("/namespaces/{}/", self.namespace.to_ascii_lowercase());
        let sends = |setting: &Value| {
            let properties = &setting["properties"];
            let logs = properties["logs"].as_array().map(Vec::as_slice).unwrap_or_default();
            text(&properties["eventHubName"]) == self.hub.to_ascii_lowercase()
                && text(&properties["eventHubAuthorizationRuleId"]).contains(&namespace)
                && logs.iter().any(|it| it["category"] == log.category() && it["enabled"] == true)
        };
        settings["value"].as_array().is_some_and(|settings| settings.iter().any(sends))
    }
}

/// The path of Entra's diagnostic settings
/// (<https://learn.microsoft.com/azure/templates/microsoft.aadiam/2017-04-01/diagnosticsettings>).
pub(crate) const ENTRA_SETTINGS: &str = "/providers/microsoft.aadiam/diagnosticSettings";
pub(crate) const ENTRA_VERSION: &str = "2017-04-01";
pub(crate) const MANAGEMENT_GROUP_VERSION: &str = "2020-01-01-preview";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_counts_only_with_this_hub_and_the_category_switched_on() {
        let target = Target {
            management_group: None,
            subscription: None,
            resource_group: None,
            namespace: "acme".to_owned(),
            hub: "catchment".to_owned(),
            cloud: Cloud::Public,
        };
        let settings = |hub: &str, namespace: &str, category: &str, enabled: bool| {
            let rule =
                format!("/subscriptions/s/providers/microsoft.eventhub/namespaces/{namespace}/authorizationrules/r");
            let logs = json!([{ "category": "Policy", "enabled": true }, { "category": category, "enabled": enabled }]);
            let properties = json!({ "eventHubName": hub, "eventHubAuthorizationRuleId": rule, "logs": logs });
            json!({ "value": [{ "properties": { "workspaceId": "w" } }, { "properties": properties }] })
        };
        assert!(target.is_sent(&settings("Catchment", "ACME", "Administrative", true), Log::Activity));
        assert!(!target.is_sent(&settings("other", "acme", "Administrative", true), Log::Activity));
        assert!(!target.is_sent(&settings("catchment", "acme2", "Administrative", true), Log::Activity));
        assert!(!target.is_sent(&settings("catchment", "acme", "Administrative", false), Log::Activity));
        assert!(!target.is_sent(&settings("catchment", "acme", "Administrative", true), Log::Entra));
        assert!(!target.is_sent(&json!({}), Log::Entra));
    }
}
