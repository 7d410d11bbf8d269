use std::path::PathBuf;

use super::document::Document;
use super::*;

struct Case {
    dir: tempfile::TempDir,
    environment: Vec<(&'static str, &'static str)>,
    flags: Flags,
}

impl Case {
    fn with(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catchment.toml");
        std::fs::write(&path, text).unwrap();
        Self { dir, environment: Vec::new(), flags: Flags { config: Some(path), ..Flags::default() } }
    }

    fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    fn load(&self) -> Result<Loaded, LoadError> {
        let environment = self.environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        load(&self.flags, &environment)
    }

    /// The error, with the folder left out.
    fn error(&self) -> String {
        self.load().unwrap_err().to_string().replace(&format!("{}/", self.dir.path().display()), "")
    }

    fn warnings(&self) -> String {
        let warnings = self.load().unwrap().warnings;
        let text = warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

const SQS: &str = "[sources.a.aws_s3_sqs]\nqueue_url = \"https://sqs.eu-west-1.amazonaws.com/111122223333/x\"\n";
const TLS: &str = "[http.tls]\ncertificate = \"x\"\nprivate_key = \"x\"\n";
const LOOKUP: &str = "[sources.a.aws_lookup_events]\nregions = [\"eu-west-1\"]\n";

/// Every kind of credential as the comments of the default file write it.
#[test]
fn each_kind_of_credential_is_read() {
    use crate::source::azure_event_hubs::config::Credential;

    let read = |credential: &str| {
        let text =
            format!("[sources.a.azure_event_hubs]\nnamespace = \"acme\"\nhub = \"h\"\ncredential.{credential}\n");
        let config: Config = Document::parse(&"x".into(), &text).unwrap().read().unwrap();
        match config.sources.into_values().next() {
            Some(SourceConfig::AzureEventHubs(hub)) => hub.credential.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(read("managed_identity = {}"), Credential::ManagedIdentity(it) if it.client_id.is_none()));
    assert!(
        matches!(read("managed_identity = { client_id = \"c\" }"), Credential::ManagedIdentity(it) if it.client_id.is_some())
    );
    assert!(matches!(read("workload_identity = {}"), Credential::WorkloadIdentity(_)));
    assert!(matches!(read("developer_tools = {}"), Credential::DeveloperTools(_)));
    assert!(matches!(read("connection_string = \"env:PATH\""), Credential::ConnectionString(_)));
    let secret = "client_secret = { tenant_id = \"t\", client_id = \"c\", client_secret = \"env:PATH\" }";
    assert!(matches!(read(secret), Credential::ClientSecret(_)));
    let certificate = "client_certificate = { tenant_id = \"t\", client_id = \"c\", certificate = \"env:PATH\" }";
    assert!(matches!(read(certificate), Credential::ClientCertificate(_)));
}

#[test]
fn the_default_file_is_the_default() {
    let name: Arc<str> = "catchment.default.toml".into();
    assert_eq!(Document::parse(&name, DEFAULT_FILE).unwrap().read::<Config>().unwrap(), Config::default());
}

/// The same with every comment that holds a key taken for the key: the examples are right too.
#[test]
fn the_examples_of_the_default_file_are_read() {
    let text: String = DEFAULT_FILE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest.starts_with('[') || rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) =>
            {
                rest
            }
            _ => line,
        })
        .filter(|line| !line.contains("\"env:") && !line.contains("\"file:"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let config: Config = Document::parse(&"x".into(), &text).unwrap().read().unwrap();
    let expected = r#"
        [trail.file]
        path = "/var/log/cloudtrail"
        [production.aws_lookup_events]
        regions = ["us-east-1", "eu-west-1"]
        endpoint_url = "https://cloudtrail.us-east-1.amazonaws.com"
        sts_endpoint_url = "https://sts.us-east-1.amazonaws.com"
        [organisation.aws_s3_sqs]
        queue_url = "https://sqs.eu-west-1.amazonaws.com/111122223333/catchment"
        region = "eu-west-1"
        s3_region = "eu-west-1"
        role_arn = "arn:aws:iam::111122223333:role/catchment"
        external_id = "an id that the role's trust policy asks for"
        sqs_endpoint_url = "https://sqs.eu-west-1.amazonaws.com"
        s3_endpoint_url = "https://s3.eu-west-1.amazonaws.com"
        sts_endpoint_url = "https://sts.eu-west-1.amazonaws.com"
        [seconds.aws_eventbridge_sqs]
        queue_url = "https://sqs.eu-west-1.amazonaws.com/111122223333/catchment-events"
        [azure.azure_event_hubs]
        namespace = "acme"
        hub = "insights-activity-logs"
        endpoint = "amqps://10.0.0.4"
        [inventory.aws_config]
        aggregator = "organization"
        region = "eu-west-1"
        role_arn = "arn:aws:iam::111122223333:role/catchment"
        [azure_inventory.azure_resource_graph]
    "#;
    assert_eq!(config.sources, toml::from_str(expected).unwrap(), "the values of the comments are the defaults");
    assert_eq!(config.normalizers.dir, Some(PathBuf::from("/etc/catchment/normalizers")));
    let tls = config.http.tls.unwrap();
    assert!(tls.requires_client_certificate());
    assert_eq!(tls.private_key, PathBuf::from("/etc/catchment/tls/privkey.pem"));
    assert_eq!(config.auth.tokens_file, Some(PathBuf::from("/etc/catchment/tokens.json")));
    let oidc = config.auth.oidc.unwrap();
    assert_eq!(oidc.mistakes("io.catchment"), []);
    assert_eq!((oidc.claim.as_str(), oidc.clock_skew_secs, oidc.grants.len()), ("/groups", 60, 2));
}

#[test]
fn the_default_file_tells_every_key() {
    let sqs = "[sources.c.aws_s3_sqs]\nqueue_url = \"x\"\n";
    let sample = format!(
        "{LOOKUP}{sqs}[sources.b.file]\npath = \"x\"\n{TLS}[log]\n[events]\n[normalizers]\n[redaction]\n[telemetry]\n[shutdown]"
    );
    let keys = Document::parse(&"x".into(), &sample).unwrap().known_keys::<Config>();
    assert!(keys.len() > 25, "{keys:?}");
    for key in keys {
        let name = key.rsplit('.').next().unwrap();
        let told = DEFAULT_FILE.lines().map(|line| line.trim_start_matches("# ")).any(|line| {
            line.starts_with(&format!("{name} = "))
                || line == format!("[{name}]")
                || line == format!("[{key}]")
                || line.starts_with(&format!("[{name}."))
        });
        assert!(told, "{key} is not in config/catchment.default.toml");
    }
}

#[test]
fn later_layers_win() {
    let mut case = Case::with("data_dir = \"/a\"\n[http]\nlisten = \"127.0.0.1:1\"\nheartbeat_secs = 7\n")
        .variable("CATCHMENT_HTTP__LISTEN", "127.0.0.1:2")
        .variable("CATCHMENT_HTTP__MAX_STREAMS", "5")
        .variable("CATCHMENT_HTTP__CORS_ORIGINS", "[\"*\"]")
        .variable("CATCHMENT_DATA_DIR", "17")
        .variable("CATCHMENT_SOURCES__TRAIL__FILE__PATH", "/")
        .variable("CATCHMENT_LOG", "debug")
        .variable("CATCHMENT_PORT_8780_TCP", "tcp://192.0.2.1:8780")
        .variable("OTHER", "1");
    let config = case.load().unwrap().config;
    assert_eq!(config.http.listen.port(), 2);
    assert_eq!((config.http.max_streams, config.http.heartbeat_secs), (5, 7));
    assert_eq!(config.http.cors_origins, ["*"]);
    assert_eq!(config.data_dir, PathBuf::from("17"), "a path may look like a number");
    assert_eq!(config.sources.len(), 1);
    assert_eq!(config.shutdown, ShutdownConfig::default());

    case.flags.listen = Some(SocketAddr::from(([127, 0, 0, 1], 3)));
    case.flags.ephemeral = true;
    let config = case.load().unwrap().config;
    assert_eq!((config.http.listen.port(), config.ephemeral), (3, true));
}

#[test]
fn a_data_dir_on_the_command_line_is_used() {
    let mut case = Case::with("ephemeral = true");
    case.flags.data_dir = Some(PathBuf::from("/b"));
    let config = case.load().unwrap().config;
    assert_eq!((config.data_dir, config.ephemeral), (PathBuf::from("/b"), false));
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let mut case = Case::with("[shutdown]\ndrain_millis = 9\n");
    let path = case.flags.config.take().unwrap();
    let environment = [("CATCHMENT_CONFIG".to_owned(), path.clone().into_os_string())].into_iter().collect();
    let loaded = load(&case.flags, &environment).unwrap();
    assert_eq!((loaded.config.shutdown.drain_millis, loaded.file), (9, Some(path)));
}

#[test]
fn a_named_file_that_is_no_file_is_an_error() {
    let flags = Flags { config: Some(PathBuf::from("/no/such.toml")), ..Flags::default() };
    let error = load(&flags, &Environment::default()).unwrap_err().to_string();
    assert!(error.starts_with("read configuration /no/such.toml: "), "{error}");

    let flags = Flags { config: Some(PathBuf::from("/dev/zero")), ..Flags::default() };
    let error = load(&flags, &Environment::default()).unwrap_err().to_string();
    assert_eq!(error, "read configuration /dev/zero: larger than 1048576 bytes");
}

#[test]
fn every_mistake_is_told_with_key_and_line() {
    let known_file = "known keys are path, follow, poll_millis, max_expansion";
    for (text, expected) in [
        (
            "[sources.trail.file]\npath = \"/\"\npathh = \"x\"\nfolow = true",
            format!(
                "catchment.toml, line 4: sources.trail.file.folow: unknown key (did you mean follow?); {known_file}\n\
                 catchment.toml, line 3: sources.trail.file.pathh: unknown key (did you mean path?); {known_file}"
            ),
        ),
        (
            "\n[sources.trail.file]\nfollow = true",
            "catchment.toml, line 2: sources.trail.file: key path is missing".into(),
        ),
        (
            "[sources.trail.fil]\npath = \"x\"",
            "catchment.toml, line 1: sources.trail.fil: unknown kind fil (did you mean file?); known kinds are file, \
             aws_lookup_events, aws_s3_sqs, aws_eventbridge_sqs, azure_event_hubs, aws_config, azure_resource_graph"
                .into(),
        ),
        (
            "[sources.trail]",
            "catchment.toml, line 1: sources.trail: has no kind; give it one of file, aws_lookup_events, aws_s3_sqs, \
             aws_eventbridge_sqs, azure_event_hubs, aws_config, azure_resource_graph"
                .into(),
        ),
        (
            "[sources.x.file]\npath = \"x\"\n[sources.x.aws_lookup_events]\nregions = []",
            "catchment.toml, line 1: sources.x: has 2 kinds (aws_lookup_events, file); exactly one is possible".into(),
        ),
        (
            "[http]\nlisten = \"localhost:80\"",
            "catchment.toml, line 2: http.listen: \"localhost:80\" is not an IP address and port such as \
             127.0.0.1:8780 or [::]:8780"
                .into(),
        ),
        (
            "[sources]\ntrail = \"file\"",
            "catchment.toml, line 2: sources.trail: is a section with a kind, such as \
             [sources.trail.file|aws_lookup_events|aws_s3_sqs|aws_eventbridge_sqs|azure_event_hubs|aws_config|azure_resource_graph]"
                .into(),
        ),
        ("http = 3", "catchment.toml, line 1: http: is a section, [http], not a value".into()),
        (
            "[log]\nretention_days = -1",
            "catchment.toml, line 2: log.retention_days: invalid value: integer `-1`, expected u32".into(),
        ),
        (
            "[http]\ncors_origins = [1]",
            "catchment.toml, line 2: http.cors_origins: expected a string, found integer `1`".into(),
        ),
        ("\nx = [", "catchment.toml, line 2: unclosed array, expected `]`".into()),
        (
            "[sources.a.aws_lookup_events]\nregions = [\"eu-west-1\"]\naccess_key_id = \"AKIA123\"",
            "catchment.toml, line 3: sources.a.aws_lookup_events.access_key_id: a secret can't be written in the \
             configuration itself: put it into an environment variable or a file, and write \"env:NAME\" or \
             \"file:/path\" here"
                .into(),
        ),
    ] {
        assert_eq!(Case::with(text).error(), expected, "{text}");
    }
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    for (variable, value, expected) in [
        (
            "CATCHMENT_HTP__LISTEN",
            "x",
            "environment variable CATCHMENT_HTP__LISTEN: htp: unknown key (did you mean http?); known",
        ),
        (
            "CATCHMENT_HTTP__HEARTBEAT_SECS",
            "soon",
            "environment variable CATCHMENT_HTTP__HEARTBEAT_SECS: http.heartbeat_secs: expected u64, found string \"soon\"",
        ),
        (
            "CATCHMENT_DATA_DIR__X",
            "1",
            "environment variable CATCHMENT_DATA_DIR__X: data_dir: is a value, not a section",
        ),
        ("CATCHMENT_HTTP", "1", "environment variable CATCHMENT_HTTP: http: is a section, [http], not a value"),
    ] {
        let error = Case::with("data_dir = \"x\"").variable(variable, value).error();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn values_that_make_no_sense_are_errors() {
    for (text, expected) in [
        ("[http]\nheartbeat_secs = 0", "line 2: http.heartbeat_secs: must be from 1 to 3600"),
        ("[http]\nmax_streams = 0", "line 2: http.max_streams: must be at least 1"),
        ("[http]\nstalled_after_secs = 0", "line 2: http.stalled_after_secs: must be at least 1"),
        ("[http]\nrequest_timeout_secs = 0", "line 2: http.request_timeout_secs: must be from 1 to 3600"),
        ("[http]\nmax_connections = 0", "line 2: http.max_connections: must be at least 1"),
        (
            "[http.tls]\ncertificate = \"/no/such\"\nprivate_key = \"/no/such.key\"",
            "line 2: http.tls.certificate: read /no/such: No such file or directory (os error 2); name the file in PEM",
        ),
        (
            "[http.tls]\ncertificate = \"/dev/null\"\nprivate_key = \"/dev/null\"\nclient_certificates = \"required\"",
            "line 4: http.tls.client_certificates: needs client_ca, the authorities",
        ),
        (
            "[http.tls]\ncertificate = \"x\"\nprivate_key = \"x\"\nclient_certificates = \"asked\"",
            "line 4: http.tls.client_certificates: \"asked\" is neither optional nor required",
        ),
        ("[http]\nring_bytes = 1000", "line 2: http.ring_bytes: must be at least 1048576"),
        (
            "[http]\ncors_origins = [\"https://a.example/\"]",
            "line 2: http.cors_origins: \"https://a.example/\" is neither",
        ),
        ("[events]\ntype_prefix = \"io..x\"", "line 2: events.type_prefix: must be words"),
        ("[normalizers]\ndir = \"/no/such\"", "line 2: normalizers.dir: /no/such is not a folder"),
        ("data_dir = \"\"", "line 1: data_dir: must name a folder"),
        ("[sources.Trail.file]\npath = \"/\"", "line 1: sources.Trail: a source's name is"),
        ("[sources.a.file]\npath = \"/\"\npoll_millis = 1", "line 3: sources.a.file.poll_millis: must be at least 10"),
        ("[sources.a.aws_lookup_events]\nregions = []", "line 2: sources.a.aws_lookup_events.regions: must name"),
        ("[sources.a.aws_lookup_events]\nregions = [\"eu\"]", "regions: \"eu\" is not a region such as eu-west-1"),
        (
            "[sources.a.aws_lookup_events]\nregions = [\"eu-west-1\", \"eu-west-1\"]",
            "regions: eu-west-1 is listed twice",
        ),
        ("[sources.a.aws_config]\naggregator = \"\"\nregion = \"eu-west-1\"", "aggregator: must name an aggregator"),
        ("[sources.a.aws_config]\naggregator = \"a\"\nregion = \"eu\"", "region: \"eu\" is not a region"),
        (
            "[sources.a.aws_config]\naggregator = \"a\"\nregion = \"eu-west-1\"\nresource_types = [\"x' OR 'a\"]",
            "resource_types: \"x' OR 'a\" is not a type such as AWS::EC2::SecurityGroup",
        ),
        ("[sources.a.azure_resource_graph]\nevery_secs = 1", "every_secs: must be from 60 to 31536000"),
        ("[sources.a.azure_resource_graph]\nendpoint_url = \"x\"", "endpoint_url: must begin with"),
        (
            "[sources.a.azure_resource_graph]\nsubscriptions = [\"s\"]\nmanagement_groups = [\"m\"]",
            "management_groups: give subscriptions or management_groups, not both",
        ),
        ("L\npoll_secs = 0", "poll_secs: must be from 1 to 86400"),
        ("L\nlookback_secs = 7776001", "lookback_secs: must be at most 7776000"),
        ("L\nrequests_per_second = 0", "requests_per_second: must be from 0.01 to 100"),
        ("L\nendpoint_url = \"localhost\"", "endpoint_url: must begin with"),
        ("L\naccess_key_id = \"env:CARGO\"", "line 1: sources.a.aws_lookup_events.secret_access_key: is missing"),
        ("L\nsession_token = \"env:CARGO\"", "session_token: needs access_key_id"),
        ("[sources.a.aws_lookup_events]\naccounts = [{}]", "regions: must name at least one region"),
        ("L\naccounts = [{ role_arn = \"x\" }]", "accounts: \"x\" is no role's ARN"),
        ("L\naccounts = [{ external_id = \"x\" }]", "accounts: external_id needs role_arn"),
        ("L\naccounts = [{}, {}]", "accounts: the credentials' own account is listed twice"),
        ("L\naccounts = [{ role = \"x\" }]", "accounts: unknown field `role`"),
        ("[sources.a.aws_s3_sqs]\nqueue_url = \"http://127.0.0.1:1/q\"", "aws_s3_sqs.region: is needed"),
        ("Q\nvisibility_secs = 0", "visibility_secs: must be from 1 to 43200"),
        ("Q\nparallel_objects = 0", "parallel_objects: must be from 1 to 64"),
        ("Q\nwait_secs = 21", "wait_secs: must be at most 20"),
        ("Q\nmax_receives = 0", "max_receives: must be at least 1"),
        ("Q\nexternal_id = \"x\"", "external_id: needs role_arn"),
        ("Q\nrole_arn = \"arn:aws:iam::1:role/x\"", "role_arn: must be a role's ARN"),
        ("Q\ns3_endpoint_url = \"s3\"", "s3_endpoint_url: must begin with"),
    ] {
        let error = Case::with(&text.replace("L\n", LOOKUP).replace("Q\n", SQS)).error();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn all_errors_come_at_once() {
    let case =
        Case::with("[http]\nheartbeat_secs = 0\nmax_streams = 0\nlisten = \"0.0.0.0:1\"\n[auth]\nanonymous = true");
    let LoadError::Invalid(findings) = case.load().unwrap_err() else { panic!("the file can be read") };
    let severities: Vec<Severity> = findings.iter().map(|finding| finding.severity).collect();
    assert_eq!(severities[..3], [Severity::Error, Severity::Error, Severity::Warning], "{findings:?}");
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    for (text, expected) in [
        ("", "sources: none is configured"),
        (
            "[http]\nlisten = \"0.0.0.0:8780\"\n[auth]\nanonymous = true",
            "line 4: auth.anonymous: whoever reaches the address can read",
        ),
        ("[auth]\nquery_tokens = true", "line 2: auth.query_tokens: tokens in URLs"),
        ("[http]\nheartbeat_secs = 60", "line 2: http.heartbeat_secs: many proxies"),
        ("[http]\nmax_connections = 100", "line 2: http.max_connections: is less than http.max_streams"),
        ("[log]\nretention_days = 0\nretention_bytes = 0", "line 3: log.retention_bytes: without a limit"),
        ("[shutdown]\ndrain_millis = 60000", "line 2: shutdown.drain_millis: is longer"),
        ("ephemeral = true\ndata_dir = \"x\"", "line 1: ephemeral: data_dir is set too"),
        ("[sources.a.file]\npath = \"/no/such\"", "line 2: sources.a.file.path: /no/such does not exist (yet)"),
        (
            "[sources.a.file]\npath = \"/\"\n[sources.b.file]\npath = \"/\"",
            "line 4: sources.b.file.path: source a reads it too",
        ),
        ("L\noverlap_secs = 60", "overlap_secs: events appear up to 15 minutes late"),
        ("L\nrequests_per_second = 2.5", "requests_per_second: CloudTrail allows 2"),
        ("Q\nvisibility_secs = 10", "visibility_secs: below 30"),
        ("Q\nQ\n", "sources.b.aws_s3_sqs.queue_url: source a reads it too"),
    ] {
        let text = text.replace("L\n", LOOKUP).replacen("Q\n", SQS, 1).replace("Q\n", &SQS.replace(".a.", ".b."));
        let warnings = Case::with(&text).warnings();
        assert!(warnings.contains(expected), "{text}: {warnings}");
    }
    assert_eq!(Case::with("[sources.a.file]\npath = \"/\"").warnings(), "");
}
