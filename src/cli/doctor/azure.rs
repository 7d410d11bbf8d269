//! `catchment doctor azure`: every step from name resolution to the records in the hub.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::super::Failure;
use super::super::azure::{ENTRA_SETTINGS, ENTRA_VERSION, Log, MANAGEMENT_GROUP_VERSION, Step, Target};
use super::arm::{self, Answer};
use super::{AzureArguments, Report};
use crate::config::{Config, SourceConfig};
use crate::model::Time;
use crate::source::Clock;
use crate::source::azure_event_hubs::EventHubsConfig;
use crate::source::azure_event_hubs::probe::{self, HubError, Lack, Probe};

/// AMQP over TLS.
const PORT: u16 = 5671;
/// What helps when there is no token.
const CREDENTIAL: &str = "give the machine an identity, or the source another credential: docs/azure.md";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Azure Monitor may take a quarter of an hour to deliver. If there was no change for an hour, it is worth making one.
const STALE_MILLIS: i64 = 60 * 60 * 1_000;

/// The source to check.
pub(super) fn choose(config: &Config, name: Option<&str>) -> Result<EventHubsConfig, Failure> {
    let hubs = config.sources.iter().filter_map(|(id, source)| match source {
        SourceConfig::AzureEventHubs(hub) => Some((&*id.0, hub)),
        _ => None,
    });
    let hubs: Vec<(&str, &EventHubsConfig)> = hubs.collect();
    let names = || hubs.iter().map(|(id, _)| *id).collect::<Vec<_>>().join(", ");
    match (name, hubs.as_slice()) {
        (_, []) => Err(Failure::Usage("the configuration has no source of the kind azure_event_hubs".to_owned())),
        (None, [(_, hub)]) => Ok((*hub).clone()),
        (None, _) => Err(Failure::Usage(format!("choose one of several with --source: {}", names()))),
        (Some(name), _) => match hubs.iter().find(|(id, _)| *id == name) {
            Some((_, hub)) => Ok((*hub).clone()),
            None => Err(Failure::Usage(format!("--source {name} is none of {}", names()))),
        },
    }
}

/// Checks step by step, as far as each allows the next.
pub(super) async fn examine(config: &EventHubsConfig, arguments: &AzureArguments, report: &mut Report) {
    let target = target(config, arguments);
    if reach(config, report).await && is_identified(config, report).await {
        look_into(config, &target, report).await;
    }
    look_at_settings(config, &target, arguments, report).await;
}

fn target(config: &EventHubsConfig, arguments: &AzureArguments) -> Target {
    Target {
        management_group: arguments.management_group.clone(),
        subscription: None,
        resource_group: None,
        namespace: config.host().split('.').next().unwrap_or_default().to_owned(),
        hub: config.hub.clone(),
        cloud: config.cloud,
    }
}

/// Host and port to connect to.
fn address(config: &EventHubsConfig) -> (String, u16) {
    let Some(endpoint) = &config.endpoint else { return (config.host(), PORT) };
    let authority = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, authority)| authority);
    let authority = authority.trim_end_matches('/');
    match authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => (host.trim_matches(['[', ']']).to_owned(), port),
        None => (authority.trim_matches(['[', ']']).to_owned(), PORT),
    }
}

async fn reach(config: &EventHubsConfig, report: &mut Report) -> bool {
    let (host, port) = address(config);
    let addresses: Vec<_> = match lookup_host((host.as_str(), port)).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            let remedy = "check namespace (az eventhubs namespace list --output table), and the DNS of a private link";
            report.missing("name", &format!("{host} does not resolve: {error}"), remedy);
            return false;
        }
    };
    let ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    report.fine("name", &format!("{host} is {}", ips.join(", ")));
    let problem = match timeout(CONNECT_TIMEOUT, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(_)) => {
            report.fine("port", &format!("{port} is open"));
            return true;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
    };
    let remedy = format!(
        "allow connections from this machine to port {port}, also in the namespace's network rules:\naz eventhubs namespace network-rule-set list --resource-group RESOURCE_GROUP --namespace-name {host}"
    );
    report.missing("port", &format!("{port} of {host} can't be reached: {problem}"), &remedy);
    false
}

async fn is_identified(config: &EventHubsConfig, report: &mut Report) -> bool {
    const SCOPE: &str = "https://eventhubs.azure.net/.default";
    match probe::token(config, SCOPE).await {
        None => report.fine("token", "not needed: the source has a connection string"),
        Some(Ok(_)) => report.fine("token", "Microsoft Entra ID issues one"),
        Some(Err(error)) => {
            report.missing("token", &error, CREDENTIAL);
            return false;
        }
    }
    true
}

async fn look_into(config: &EventHubsConfig, target: &Target, report: &mut Report) {
    let probe = match Probe::connect(config.clone()).await {
        Ok(probe) => probe,
        Err(error) => {
            let remedy = "the server there is not Event Hubs, or something on the way intercepts TLS";
            return report.missing("connection", &error.to_string(), remedy);
        }
    };
    report.fine("connection", "TLS and AMQP are up");
    match probe.hub().await {
        Ok(partitions) => {
            report.fine("hub", &format!("{} has {} partitions", config.hub, partitions.len()));
            look_at_records(&probe, &partitions, (config, target), report).await;
        }
        Err(error) => report.missing("hub", &error.to_string(), &remedy(&error, || target.make_hub().command, target)),
    }
    probe.close().await;
}

/// What helps against an error; `make` is what makes what does not exist.
fn remedy(error: &HubError, make: impl FnOnce() -> String, target: &Target) -> String {
    match error {
        HubError::Refused { lack: Lack::Credential, .. } => CREDENTIAL.to_owned(),
        HubError::Refused { lack: Lack::Role, .. } => target.grant(None).command,
        HubError::Refused { lack: Lack::Hub, .. } => make(),
        _ => "this may pass: run the doctor again".to_owned(),
    }
}

async fn look_at_records(
    probe: &Probe,
    partitions: &[String],
    (config, target): (&EventHubsConfig, &Target),
    report: &mut Report,
) {
    let (mut categories, mut events, mut newest) = (BTreeMap::new(), 0, None::<Time>);
    for id in partitions {
        match probe.partition(id, &mut categories).await {
            Ok(partition) => {
                events += partition.events;
                newest = newest.max(partition.newest);
            }
            Err(error) => {
                let make_group = || target.make_consumer_group(&config.consumer_group).command;
                report.missing("partitions", &format!("{id}: {error}"), &remedy(&error, make_group, target));
                return;
            }
        }
    }
    report.fine("partitions", &format!("all can be read; they have {events} events"));
    let Some(newest) = newest else {
        return report.missing("records", "none has ever arrived", &remedies(target, &[Log::Activity, Log::Entra]));
    };
    let counts: Vec<String> = categories.iter().map(|(category, count)| format!("{category} {count}")).collect();
    let found = format!("the newest is from {newest}; the newest by category: {}", counts.join(", "));
    if Clock::system().now().millis() - newest.millis() > STALE_MILLIS {
        report.note(
            "records",
            &found,
            "nothing for an hour: if something was changed since then, check the settings below",
        );
    } else {
        report.fine("records", &found);
    }
    for log in [Log::Activity, Log::Entra] {
        if !categories.contains_key(log.category()) {
            let found = format!("none of the newest records has the category {}", log.category());
            let remedy = format!("unless there were no such changes, this is missing:\n{}", remedies(target, &[log]));
            report.note("records", &found, &remedy);
        }
    }
}

/// The commands that make Azure send these logs.
fn remedies(target: &Target, logs: &[Log]) -> String {
    let steps = logs.iter().flat_map(|log| match log {
        Log::Activity => vec![target.stream_management_group(), target.stream_subscriptions()],
        Log::Entra => vec![target.stream_entra()],
    });
    steps.map(|Step { command, .. }| command).collect::<Vec<_>>().join("\n")
}

async fn look_at_settings(config: &EventHubsConfig, target: &Target, arguments: &AzureArguments, report: &mut Report) {
    let base = arguments.resource_manager.as_deref().unwrap_or(config.cloud.resource_manager());
    let scope = format!("{}/.default", config.cloud.resource_manager());
    let token = match probe::token(config, &scope).await {
        Some(Ok(token)) => token,
        Some(Err(error)) => return report.note("settings", "can't be checked", &error),
        None => {
            let remedy = "a connection string gives access to the hub only; check the settings in Azure";
            return report.note("settings", "can't be checked", remedy);
        }
    };
    let token = token.token.secret();
    if target.management_group.is_some() {
        let path = target.management_group_settings();
        let answer = arm::get(base, &path, MANAGEMENT_GROUP_VERSION, token).await;
        tell_setting("activity log setting", answer, Log::Activity, target, "Monitoring Reader on the group", report);
    }
    let answer = arm::get(base, ENTRA_SETTINGS, ENTRA_VERSION, token).await;
    tell_setting("Entra setting", answer, Log::Entra, target, "Security Reader in Entra ID", report);
}

fn tell_setting(step: &str, answer: Answer, log: Log, target: &Target, role: &str, report: &mut Report) {
    match answer {
        Answer::Found(settings) if target.is_sent(&settings, log) => {
            report.fine(step, &format!("{} is sent to {}", log.category(), target.hub));
        }
        Answer::Found(_) => {
            let found = format!("no diagnostic setting sends {} to {}", log.category(), target.hub);
            report.missing(step, &found, &remedies(target, &[log]));
        }
        Answer::Forbidden => {
            report.note(
                step,
                "the identity may not read it, and does not need to",
                &format!("to check it, grant the identity {role}"),
            );
        }
        Answer::Failed(error) => report.note(step, "can't be checked", &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_endpoints_where_there_is_one() {
        let mut config = EventHubsConfig::new("acme", "hub");
        assert_eq!(address(&config), ("acme.servicebus.windows.net".to_owned(), 5671));
        for (endpoint, expected) in [
            ("amqps://10.0.0.4", ("10.0.0.4", 5671)),
            ("amqps://broker.example.com:5700/", ("broker.example.com", 5700)),
            ("amqp://[::1]:9", ("::1", 9)),
        ] {
            config.endpoint = Some(endpoint.to_owned());
            assert_eq!(address(&config), (expected.0.to_owned(), expected.1), "{endpoint}");
        }
    }

    #[test]
    fn a_remedy_is_for_what_is_missing() {
        let config = EventHubsConfig::new("acme", "hub");
        let target = Target {
            management_group: None,
            subscription: None,
            resource_group: None,
            namespace: "acme".to_owned(),
            hub: config.hub.clone(),
            cloud: config.cloud,
        };
        let refused = |lack| HubError::Refused { words: "Data Receiver".to_owned(), lack };
        let make = || target.make_consumer_group("mine").command;
        for (error, expected) in [
            (refused(Lack::Credential), "give the machine an identity"),
            (refused(Lack::Role), "az role assignment create"),
            (refused(Lack::Hub), "az eventhubs eventhub consumer-group create"),
            (HubError::Unavailable("busy".to_owned()), "this may pass"),
        ] {
            let remedy = remedy(&error, make, &target);
            assert!(remedy.starts_with(expected), "{error}: {remedy}");
        }
        assert!(make().ends_with("--name mine"));
    }
}
