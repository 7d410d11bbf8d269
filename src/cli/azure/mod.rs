//! `catchment azure plan`: prints the steps that stream Azure's logs to an event hub.

mod steps;

use std::io::Write;

pub(super) use self::steps::{ENTRA_SETTINGS, ENTRA_VERSION, Log, MANAGEMENT_GROUP_VERSION, Step, Target};
use super::Failure;
use crate::source::azure_event_hubs::config::Cloud;

const EXAMPLES: &str = "\
Examples:
  catchment azure plan --management-group ROOT --subscription 00000000-0000-0000-0000-000000000001 \\
    --resource-group logs > azure-logs.sh     # read it, then run it where you are signed in with az

Prints a shell script and runs nothing. docs/azure.md lists the permissions each step
needs; deploy/azure does the same with Terraform; `catchment doctor azure` finds missing steps.";

/// Set up Azure to stream its activity log and Entra's audit log
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Plan(PlanArguments),
}

/// Print a script that streams the logs of a management group and of Entra ID to an event hub
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct PlanArguments {
    /// The management group to cover; the root group, whose id is the tenant's, covers everything
    #[arg(long, value_name = "ID")]
    management_group: String,
    /// The subscription for the event hub
    #[arg(long, value_name = "ID")]
    subscription: String,
    /// The resource group for it; created if missing
    #[arg(long, value_name = "NAME")]
    resource_group: String,
    /// The region of the event hub
    #[arg(long, value_name = "REGION", default_value = "westeurope")]
    location: String,
    /// The Event Hubs namespace, unique across Azure [default: catchment- and the subscription's
    /// first eight digits]
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// The event hub
    #[arg(long, value_name = "NAME", default_value = steps::DEFAULT_HUB)]
    hub: String,
    /// The object id of the identity that Catchment runs as
    #[arg(long, value_name = "OBJECT_ID")]
    principal: Option<String>,
    /// The cloud: public, us_government or china
    #[arg(long, value_name = "CLOUD", default_value = "public", value_parser = cloud)]
    cloud: Cloud,
}

pub(super) fn cloud(text: &str) -> Result<Cloud, String> {
    use serde::Deserialize;
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};
    let text: StrDeserializer<'_, Error> = text.into_deserializer();
    Cloud::deserialize(text).map_err(|error| error.to_string())
}

pub(super) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<(), Failure> {
    let Command::Plan(plan) = &arguments.command;
    let target = plan.target()?;
    Ok(print(&target, &target.steps(&plan.location, plan.principal.as_deref()), output)?)
}

impl PlanArguments {
    fn target(&self) -> Result<Target, Failure> {
        let digits: String = self.subscription.chars().take(8).collect();
        let target = Target {
            management_group: Some(self.management_group.clone()),
            subscription: Some(self.subscription.clone()),
            resource_group: Some(self.resource_group.clone()),
            namespace: self.namespace.clone().unwrap_or_else(|| format!("catchment-{digits}")),
            hub: self.hub.clone(),
            cloud: self.cloud,
        };
        target.check(&self.location, self.principal.as_deref()).map_err(Failure::Usage)?;
        Ok(target)
    }
}

fn print(target: &Target, steps: &[Step], output: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        output,
        "#!/bin/sh\n# Streams Azure's activity log and Entra's audit log to an event hub. Read before use.\nset -eu"
    )?;
    for (number, step) in (1..).zip(steps) {
        writeln!(output, "\n# {number}. {}", step.title)?;
        for line in &step.why {
            writeln!(output, "#    {line}")?;
        }
        writeln!(output, "{}", step.command)?;
    }
    writeln!(output, "\n# Then, in catchment.toml:\n#\n#   [sources.azure.azure_event_hubs]")?;
    writeln!(output, "#   namespace = \"{}\"\n#   hub = \"{}\"", target.namespace, target.hub)?;
    writeln!(output, "#   consumer_group = \"{}\"\n#", steps::CONSUMER_GROUP)?;
    writeln!(output, "# and `catchment doctor azure` checks each step.")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Holder {
        #[command(flatten)]
        arguments: Arguments,
    }

    const REQUIRED: [&str; 8] = [
        "catchment",
        "plan",
        "--management-group",
        "00000000-0000-0000-0000-00000000000a",
        "--subscription",
        "00000000-0000-0000-0000-000000000001",
        "--resource-group",
        "logs",
    ];

    fn plan(more: &[&str]) -> Result<String, Failure> {
        let arguments = Holder::parse_from(REQUIRED.iter().chain(more)).arguments;
        let mut output = Vec::new();
        run(&arguments, &mut output).map(|()| String::from_utf8(output).unwrap())
    }

    #[test]
    fn every_step_is_there_in_order_with_its_values() {
        let text = plan(&["--principal", "00000000-0000-0000-0000-0000000000bb"]).unwrap();
        let mut rest = text.as_str();
        for part in [
            "az group create --subscription 00000000-0000-0000-0000-000000000001 --name logs --location westeurope",
            "az eventhubs namespace create",
            "--name catchment-00000000",
            "az eventhubs eventhub create",
            "--retention-time-in-hours 168",
            "az eventhubs eventhub consumer-group create",
            "az eventhubs namespace authorization-rule create",
            "az role assignment create --role 'Azure Event Hubs Data Receiver'",
            "--assignee-object-id 00000000-0000-0000-0000-0000000000bb",
            "az rest --method put --url 'https://management.azure.com/providers/Microsoft.Management/managementGroups/\
             00000000-0000-0000-0000-00000000000a/providers/Microsoft.Insights/diagnosticSettings/catchment?\
             api-version=2020-01-01-preview'",
            "\"category\":\"Administrative\"",
            "diagnostic-settings subscription create",
            "providers/microsoft.aadiam/diagnosticSettings/catchment?api-version=2017-04-01",
            "\"category\":\"AuditLogs\"",
            "namespace = \"catchment-00000000\"",
            "consumer_group = \"catchment\"",
        ] {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part} is missing after the parts before it:\n{text}"));
            rest = &rest[at + part.len()..];
        }
    }

    #[test]
    fn the_clouds_have_their_own_addresses() {
        let text = plan(&["--cloud", "us_government"]).unwrap();
        assert!(text.contains("https://management.usgovcloudapi.net/") && !text.contains("azure.com"), "{text}");
    }

    #[test]
    fn nothing_that_a_shell_would_run_gets_into_the_script() {
        for (flag, value) in [
            ("--namespace", "acme$(id)"),
            ("--hub", "a;b"),
            ("--location", "west europe"),
            ("--principal", "jane@example.com"),
        ] {
            let error = plan(&[flag, value]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(value), "{error}");
        }
    }
}
