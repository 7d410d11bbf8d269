//! `[sources.<name>.azure_event_hubs]`.

use std::path::PathBuf;

use azure_messaging_eventhubs::ConnectionString;
use serde::{Deserialize, Deserializer, de};

use crate::model::Time;
use crate::secret::Secret;

/// `[sources.<name>.azure_event_hubs]`. Only namespace and hub are required.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventHubsConfig {
    /// The namespace: `acme`, or its host name `acme.servicebus.windows.net`.
    pub namespace: String,
    /// The event hub in it.
    pub hub: String,
    /// The consumer group; each program that reads the hub should use its own.
    #[serde(default = "consumer_group")]
    pub consumer_group: String,
    /// Where the first start begins: `earliest`, `latest`, or an RFC 3339 time.
    #[serde(default)]
    pub start: Start,
    /// The cloud of the namespace and the identity.
    #[serde(default)]
    pub cloud: Cloud,
    /// The credential; if absent, taken from the environment, see [`Credential`].
    pub credential: Option<Credential>,
    /// Address to connect to instead, such as a private link's: `amqps://host`, optionally with a port.
    pub endpoint: Option<String>,
    /// Most events in flight from a partition.
    #[serde(default = "prefetch")]
    pub prefetch: u32,
    /// Interval of checks for the ends of the partitions and for new partitions, in seconds.
    #[serde(default = "check_secs")]
    pub check_secs: u64,
}

fn consumer_group() -> String {
    "$Default".to_owned()
}

fn prefetch() -> u32 {
    2_000
}

fn check_secs() -> u64 {
    15
}

impl EventHubsConfig {
    /// The defaults, for a hub.
    #[cfg(test)]
    pub(crate) fn new(namespace: impl Into<String>, hub: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            hub: hub.into(),
            consumer_group: consumer_group(),
            start: Start::default(),
            cloud: Cloud::default(),
            credential: None,
            endpoint: None,
            prefetch: prefetch(),
            check_secs: check_secs(),
        }
    }

    /// The host name of the namespace.
    #[must_use]
    pub fn host(&self) -> String {
        if self.namespace.contains('.') {
            self.namespace.to_ascii_lowercase()
        } else {
            format!("{}.{}", self.namespace.to_ascii_lowercase(), self.cloud.suffix())
        }
    }

    /// Invalid settings as pairs of key and message, for `catchment check`.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        if !is_host_or_name(&self.namespace) {
            mistakes.push((
                "namespace",
                format!("{:?} is neither a namespace such as acme nor its host name", self.namespace),
            ));
        }
        // https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules#microsofteventhub
        if !is_entity(&self.hub, 256) {
            mistakes.push(("hub", format!("{:?} is not the name of an event hub", self.hub)));
        }
        if self.consumer_group != "$Default" && !is_entity(&self.consumer_group, 50) {
            mistakes.push(("consumer_group", format!("{:?} is not the name of a consumer group", self.consumer_group)));
        }
        if !(1..=10_000).contains(&self.prefetch) {
            mistakes.push(("prefetch", "must be from 1 to 10000".to_owned()));
        }
        if !(1..=3_600).contains(&self.check_secs) {
            mistakes.push(("check_secs", "must be from 1 to 3600".to_owned()));
        }
        if let Some(problem) = self.endpoint.as_deref().and_then(endpoint_problem) {
            mistakes.push(("endpoint", problem.to_owned()));
        }
        if let Some(Credential::ConnectionString(secret)) = &self.credential
            && let Some(problem) = self.connection_string_problem(secret)
        {
            mistakes.push(("credential.connection_string", problem));
        }
        mistakes
    }

    /// The mistake in a connection string, if any. The message never contains its keys.
    fn connection_string_problem(&self, secret: &Secret) -> Option<String> {
        let parsed: ConnectionString = match secret.expose().parse() {
            Ok(parsed) => parsed,
            Err(_) => {
                return Some(
                    "is not of the form Endpoint=sb://…/;SharedAccessKeyName=…;SharedAccessKey=…; copy it from the \
                     hub's shared access policies"
                        .to_owned(),
                );
            }
        };
        let host = parsed.fully_qualified_namespace.to_ascii_lowercase();
        if host != self.host() {
            return Some(format!("is for the namespace {host}, but namespace says {}", self.host()));
        }
        match parsed.entity_path {
            Some(hub) if !hub.eq_ignore_ascii_case(&self.hub) => {
                Some(format!("is for the event hub {hub}, but hub says {}", self.hub))
            }
            _ => None,
        }
    }
}

/// Where the first start begins. Later ones resume from the position in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event in the hub.
    #[default]
    Earliest,
    /// With new events only.
    Latest,
    /// With events enqueued at or after this time.
    At(Time),
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            time => time.parse().map(Self::At).map_err(|_| {
                de::Error::custom("is neither earliest nor latest nor a time such as 2026-01-31T12:00:00Z")
            }),
        }
    }
}

/// An Azure cloud, with its own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cloud {
    /// The public cloud.
    #[default]
    Public,
    /// Azure Government.
    UsGovernment,
    /// Azure operated by 21Vianet.
    China,
}

impl<'de> Deserialize<'de> for Cloud {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "public" => Ok(Self::Public),
            "us_government" => Ok(Self::UsGovernment),
            "china" => Ok(Self::China),
            other => Err(de::Error::custom(format!("unknown cloud {other:?}; known are public, us_government, china"))),
        }
    }
}

impl Cloud {
    /// The domain of namespaces
    /// (<https://learn.microsoft.com/azure/azure-government/compare-azure-government-global-azure>).
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Public => "servicebus.windows.net",
            Self::UsGovernment => "servicebus.usgovcloudapi.net",
            Self::China => "servicebus.chinacloudapi.cn",
        }
    }

    /// The base URL of Azure Resource Manager.
    #[must_use]
    pub fn resource_manager(self) -> &'static str {
        match self {
            Self::Public => "https://management.azure.com",
            Self::UsGovernment => "https://management.usgovcloudapi.net",
            Self::China => "https://management.chinacloudapi.cn",
        }
    }
}

/// `[sources.<name>.azure_event_hubs.credential]`, with one of these as its only key.
///
/// Without it, the variables of the Azure SDKs decide: a workload identity if `AZURE_FEDERATED_TOKEN_FILE` is set, a
/// client secret if `AZURE_CLIENT_SECRET` is, a client certificate if `AZURE_CLIENT_CERTIFICATE_PATH` is, else the
/// machine's managed identity (the one of `AZURE_CLIENT_ID` if that is set).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// The managed identity of the machine, container app or function.
    ManagedIdentity(ManagedIdentity),
    /// A Kubernetes service account, federated with an application or identity.
    WorkloadIdentity(WorkloadIdentity),
    /// An application with a secret.
    ClientSecret(ClientSecret),
    /// An application with a certificate.
    ClientCertificate(ClientCertificate),
    /// The user signed in with `az` or `azd`.
    DeveloperTools(DeveloperTools),
    /// A connection string of a shared access policy with the right to listen.
    ConnectionString(Secret),
}

/// `managed_identity = {}`, or with the client id of one of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagedIdentity {
    /// The client id of a user-assigned identity; if absent, the system-assigned one.
    pub client_id: Option<String>,
}

/// `workload_identity = {}`: everything not set here comes from the pod's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadIdentity {
    /// The tenant; if absent, `AZURE_TENANT_ID`.
    pub tenant_id: Option<String>,
    /// The client; if absent, `AZURE_CLIENT_ID`.
    pub client_id: Option<String>,
    /// The file with the service account's token; if absent, `AZURE_FEDERATED_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
}

/// An application's credentials.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSecret {
    /// The tenant (directory).
    pub tenant_id: String,
    /// The application (client).
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
}

/// An application (service principal) with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// The tenant (directory).
    pub tenant_id: String,
    /// The application (client).
    pub client_id: String,
    /// The certificate and its RSA key, concatenated PEM.
    pub certificate: Secret,
}

/// `developer_tools = {}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeveloperTools {}

/// Whether a name is valid: begins and ends with a letter or digit, with dots, dashes and underscores between.
fn is_entity(name: &str, longest: usize) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let bytes = name.as_bytes();
    name.len() <= longest && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().copied().all(inner)
}

fn is_host_or_name(name: &str) -> bool {
    let label = |label: &str| {
        let legal = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        matches!(label.len(), 1..=63) && legal && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// The mistake in an endpoint, if any. Tokens are sent unencrypted to the loopback interface only.
fn endpoint_problem(endpoint: &str) -> Option<&'static str> {
    const FORM: &str = "must be of the form amqps://host or amqps://host:port";
    let Some((scheme, authority)) = endpoint.split_once("://") else { return Some(FORM) };
    let authority = authority.trim_end_matches('/');
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    if port.is_some_and(|port| port.parse::<u16>().is_err()) || !(is_ip.is_ok() || is_host_or_name(host)) {
        return Some(FORM);
    }
    match scheme {
        "amqps" => None,
        "amqp" if is_ip.is_ok_and(|ip| ip.is_loopback()) || host == "localhost" => None,
        "amqp" => Some("must be amqps://: over amqp:// the token could be read on the way, except on this machine"),
        _ => Some(FORM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Secret::from_reference(&format!("file:{}", file.path().display())).unwrap()
    }

    fn mistakes(change: impl FnOnce(&mut EventHubsConfig)) -> Vec<(&'static str, String)> {
        let mut config = EventHubsConfig::new("acme", "insights-activity-logs");
        change(&mut config);
        config.mistakes()
    }

    #[test]
    fn a_name_is_completed_to_a_host() {
        let mut config = EventHubsConfig::new("Acme", "hub");
        assert_eq!(config.host(), "acme.servicebus.windows.net");
        config.cloud = Cloud::UsGovernment;
        assert_eq!(config.host(), "acme.servicebus.usgovcloudapi.net");
        config.namespace = "acme.privatelink.example.com".to_owned();
        assert_eq!(config.host(), "acme.privatelink.example.com");
    }

    #[test]
    fn tokens_do_not_travel_in_the_clear() {
        for good in ["amqps://10.0.0.4", "amqps://broker.example.com:5671", "amqp://127.0.0.1:9", "amqp://[::1]:9/"] {
            assert_eq!(endpoint_problem(good), None, "{good}");
        }
        for bad in ["amqp://10.0.0.4", "amqp://127.0.0.1.example.com:5672", "https://x", "x", "amqps://", "amqps://a:b"]
        {
            assert!(endpoint_problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_key() {
        assert_eq!(mistakes(|_| ()), []);
        let keys =
            |change: fn(&mut EventHubsConfig)| mistakes(change).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(|config| config.namespace = "https://acme".to_owned()), ["namespace"]);
        assert_eq!(keys(|config| config.hub = "a/b".to_owned()), ["hub"]);
        assert_eq!(keys(|config| config.consumer_group = "$default ".to_owned()), ["consumer_group"]);
        assert_eq!(keys(|config| config.prefetch = 0), ["prefetch"]);
        assert_eq!(keys(|config| config.check_secs = 0), ["check_secs"]);
        assert_eq!(keys(|config| config.endpoint = Some("acme".to_owned())), ["endpoint"]);
    }

    #[test]
    fn a_connection_string_must_be_for_this_hub_and_is_never_repeated() {
        let with = |text: &'static str| {
            let found = mistakes(|config| config.credential = Some(Credential::ConnectionString(secret(text))));
            assert!(found.iter().all(|(_, message)| !message.contains("hunter2")), "{found:?}");
            found.into_iter().map(|(_, message)| message).collect::<Vec<_>>().join("")
        };
        let key = "SharedAccessKeyName=listen;SharedAccessKey=hunter2=";
        assert_eq!(
            with("Endpoint=sb://acme.servicebus.windows.net/;SharedAccessKeyName=a;SharedAccessKey=hunter2="),
            ""
        );
        assert!(with("hunter2").contains("is not of the form"));
        let other = format!("Endpoint=sb://other.servicebus.windows.net/;{key}").leak();
        assert!(with(other).contains("for the namespace other."));
        let other = format!("Endpoint=sb://acme.servicebus.windows.net/;{key};EntityPath=other").leak();
        assert!(with(other).contains("for the event hub other,"));
    }

    #[test]
    fn start_is_a_word_or_a_time() {
        #[derive(Debug, Deserialize)]
        struct Holder {
            start: Start,
        }
        let read = |text: &str| toml::from_str::<Holder>(text).map(|holder| holder.start);
        assert_eq!(read("start = \"latest\"").unwrap(), Start::Latest);
        let time = "2026-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(read("start = \"2026-01-31T12:00:00Z\"").unwrap(), Start::At(time));
        assert!(read("start = \"newest\"").unwrap_err().message().contains("neither earliest nor latest"));
    }
}
