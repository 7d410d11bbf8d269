//! Checks that types can't express: invalid values, and invalid combinations of values.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{
    AwsConfigConfig, Config, FileConfig, Finding, HttpConfig, LookupEventsConfig, Origin, Severity, SourceConfig,
    SqsConfig, TelemetryConfig,
};
use crate::model::SourceId;
use crate::secret::Secret;
use crate::telemetry::check_filter;
use crate::tls::{self, Tls, TlsConfig};

/// CloudTrail's event history goes back 90 days.
const LOOKUP_HISTORY_SECS: u64 = 90 * 24 * 60 * 60;
/// An event can appear in the event history up to about 15 minutes late.
const LOOKUP_DELAY_SECS: u64 = 15 * 60;
/// LookupEvents allows 2 requests a second, account and region.
const LOOKUP_RATE: f64 = 2.0;
/// With a shorter timeout, messages become visible again during a pause of the process.
const SQS_VISIBILITY_SECS: u64 = 30;
/// Many proxies drop a connection that is idle for a minute.
const PROXY_TIMEOUT_SECS: u64 = 60;
/// By default, Kubernetes kills a pod 30 s after asking it to stop.
const PATIENCE_MILLIS: u64 = 30_000;
/// In a smaller ring, a single large event would take all the room.
const MIN_RING_BYTES: usize = 1024 * 1024;

/// All mistakes in a configuration. Checks that paths exist and reads the TLS files, without changing anything.
pub(super) fn check(config: &Config, origins: &BTreeMap<String, Origin>) -> Vec<Finding> {
    let mut report = Report { origins, findings: Vec::new() };
    check_http(&config.http, &mut report);
    check_auth(config, &mut report);
    check_log(config, &mut report);
    if !is_type_prefix(&config.events.type_prefix) {
        report.error("events.type_prefix", "must be words with dots between them, such as io.catchment or com.example");
    }
    if let Some(dir) = config.normalizers.dir.as_deref().filter(|dir| !dir.is_dir()) {
        report.error("normalizers.dir", &format!("{} is not a folder", dir.display()));
    }
    for mistake in config.redaction.mistakes() {
        report.error(&format!("redaction.{}", mistake.key), &mistake.message);
    }
    check_telemetry(&config.telemetry, &mut report);
    if config.shutdown.drain_millis > PATIENCE_MILLIS {
        report.warn("shutdown.drain_millis", "is longer than the 30 s that most supervisors wait before they kill");
    }
    check_sources(&config.sources, &mut report);
    report.findings
}

struct Report<'a> {
    origins: &'a BTreeMap<String, Origin>,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn add(&mut self, severity: Severity, key: &str, message: &str) {
        // A missing key is reported at the section that should hold it.
        let mut place = key;
        let origin = loop {
            match (self.origins.get(place), place.rsplit_once('.')) {
                (Some(origin), _) => break Some(origin.clone()),
                (None, Some((parent, _))) => place = parent,
                (None, None) => break None,
            }
        };
        self.findings.push(Finding { severity, key: key.to_owned(), origin, message: message.to_owned() });
    }

    fn error(&mut self, key: &str, message: &str) {
        self.add(Severity::Error, key, message);
    }

    fn warn(&mut self, key: &str, message: &str) {
        self.add(Severity::Warning, key, message);
    }
}

fn check_http(http: &HttpConfig, report: &mut Report<'_>) {
    for origin in &http.cors_origins {
        if !is_web_origin(origin) {
            let message =
                format!("{origin:?} is neither * nor an origin such as https://dashboard.example.com (no path)");
            report.error("http.cors_origins", &message);
        }
    }
    match http.heartbeat_secs {
        0 | 3601.. => report.error("http.heartbeat_secs", "must be from 1 to 3600"),
        secs if secs >= PROXY_TIMEOUT_SECS => {
            report.warn("http.heartbeat_secs", "many proxies close a connection that is quiet for 60 s");
        }
        _ => {}
    }
    if http.stalled_after_secs == 0 {
        report.error("http.stalled_after_secs", "must be at least 1");
    }
    if http.max_streams == 0 {
        report.error("http.max_streams", "must be at least 1");
    }
    if !(1..=3600).contains(&http.request_timeout_secs) {
        report.error("http.request_timeout_secs", "must be from 1 to 3600");
    }
    if http.max_connections == 0 {
        report.error("http.max_connections", "must be at least 1");
    } else if http.max_connections < http.max_streams && http.tls.is_none() {
        report.warn("http.max_connections", "is less than http.max_streams, and each stream is a connection");
    }
    if let Some(tls) = &http.tls {
        check_tls(tls, report);
    }
    if http.ring_bytes < MIN_RING_BYTES {
        report.error("http.ring_bytes", "must be at least 1048576 (1 MiB), the size of the largest event");
    }
}

fn check_tls(config: &TlsConfig, report: &mut Report<'_>) {
    if config.client_ca.is_none() && config.client_certificates.is_some() {
        report.error("http.tls.client_certificates", "needs client_ca, the authorities that issue them");
    }
    match Tls::load(config.clone()) {
        Ok(loaded) => {
            if let Some(warning) = tls::expiry_warning(loaded.expires(), tls::now()) {
                report.warn("http.tls.certificate", &format!("{warning} ({})", loaded.expires()));
            }
        }
        Err(error) => report.error(&format!("http.tls.{}", error.key()), &error.to_string()),
    }
    if config.private_key.metadata().is_ok_and(|file| file.permissions().mode() & 0o007 != 0) {
        report.warn("http.tls.private_key", "every user of this machine can read the key; remove that with chmod o=");
    }
}

fn check_telemetry(telemetry: &TelemetryConfig, report: &mut Report<'_>) {
    if let Some(Err(error)) = telemetry.log.as_deref().map(check_filter) {
        report.error("telemetry.log", &error.to_string());
    }
    check_url("otlp_endpoint", telemetry.otlp_endpoint.as_deref(), &|field| format!("telemetry.{field}"), report);
    if !(0.0..=1.0).contains(&telemetry.otlp_sampling) {
        report.error("telemetry.otlp_sampling", "must be from 0 to 1");
    }
}

fn check_auth(config: &Config, report: &mut Report<'_>) {
    let auth = &config.auth;
    if auth.anonymous && !config.http.listen.ip().is_loopback() {
        report.warn("auth.anonymous", "whoever reaches the address can read every event");
    }
    if auth.anonymous && auth.oidc.is_some() {
        report.warn("auth.anonymous", "makes auth.oidc pointless: a request without a credential sees everything");
    }
    if auth.query_tokens {
        report.warn("auth.query_tokens", "tokens in URLs end up in the logs of proxies and browsers");
    }
    if auth.streams_per_token == 0 {
        report.error("auth.streams_per_token", "must be at least 1");
    }
    if let Some(oidc) = &auth.oidc {
        for mistake in oidc.mistakes(&config.events.type_prefix) {
            report.error(mistake.key, &mistake.message);
        }
        if oidc.grants.is_empty() {
            report.error(
                "auth.oidc.grants",
                "names no value of the claim, so no JWT grants access; \"*\" matches any value",
            );
        }
    }
}

fn check_log(config: &Config, report: &mut Report<'_>) {
    if config.data_dir.as_os_str().is_empty() {
        report.error("data_dir", "must name a folder");
    } else if config.data_dir.exists() && !config.data_dir.is_dir() {
        report.error("data_dir", &format!("{} is not a folder", config.data_dir.display()));
    }
    if config.log.retention_days == 0 && config.log.retention_bytes == 0 {
        report.warn("log.retention_bytes", "without a limit of age or size the log grows until the disk is full");
    }
    if config.ephemeral && report.origins.contains_key("data_dir") {
        report.warn("ephemeral", "data_dir is set too but not used: events are kept in memory only");
    }
}

fn check_sources(sources: &BTreeMap<SourceId, SourceConfig>, report: &mut Report<'_>) {
    if sources.is_empty() {
        report.warn("sources", "none is configured, so there will be no events");
    }
    let mut paths: BTreeMap<&Path, &SourceId> = BTreeMap::new();
    let mut queues: BTreeMap<&str, &SourceId> = BTreeMap::new();
    for (name, source) in sources {
        if !is_source_name(&name.0) {
            let key = format!("sources.{name}");
            report.error(&key, "a source's name is 1 to 63 of a-z, 0-9, _ and -");
        }
        let key = |field: &str| format!("sources.{name}.{}.{field}", source.kind());
        match source {
            SourceConfig::File(file) => {
                check_file(file, &key, report);
                if let Some(other) = paths.insert(&file.path, name) {
                    report.warn(&key("path"), &format!("source {other} reads it too; its records are kept once"));
                }
            }
            SourceConfig::AwsLookupEvents(lookup) => check_lookup_events(lookup, &key, report),
            SourceConfig::AwsS3Sqs(sqs) | SourceConfig::AwsEventbridgeSqs(sqs) => {
                check_sqs(sqs, &key, report);
                if let Some(other) = queues.insert(&sqs.queue_url, name) {
                    let message = format!("source {other} reads it too; each message goes to one of them");
                    report.warn(&key("queue_url"), &message);
                }
            }
            SourceConfig::AzureEventHubs(hub) => {
                for (field, message) in hub.mistakes() {
                    report.error(&key(field), &message);
                }
            }
            SourceConfig::AwsConfig(config) => check_aws_config(config, &key, report),
            SourceConfig::AzureResourceGraph(graph) => {
                graph.mistakes().into_iter().for_each(|(field, message)| report.error(&key(field), &message));
                check_sweeps(graph.every_secs, graph.requests_per_second, &key, report);
                check_url("endpoint_url", graph.endpoint_url.as_deref(), &key, report);
            }
        }
    }
}

fn check_aws_config(config: &AwsConfigConfig, key: &dyn Fn(&str) -> String, report: &mut Report<'_>) {
    config.mistakes().into_iter().for_each(|(field, message)| report.error(&key(field), &message));
    if !is_region(&config.region) {
        report.error(&key("region"), &format!("{:?} is not a region such as eu-west-1", config.region));
    }
    check_sweeps(config.every_secs, config.requests_per_second, key, report);
    check_url("endpoint_url", config.endpoint_url.as_deref(), key, report);
    check_url("sts_endpoint_url", config.sts_endpoint_url.as_deref(), key, report);
    check_credentials([&config.access_key_id, &config.secret_access_key, &config.session_token], key, report);
}

fn check_sweeps(every_secs: u64, requests_per_second: f64, key: &dyn Fn(&str) -> String, report: &mut Report<'_>) {
    if !(60..=31_536_000).contains(&every_secs) {
        report.error(&key("every_secs"), "must be from 60 to 31536000");
    }
    if !(0.01..=100.0).contains(&requests_per_second) {
        report.error(&key("requests_per_second"), "must be from 0.01 to 100");
    }
}

fn check_file(file: &FileConfig, key: &dyn Fn(&str) -> String, report: &mut Report<'_>) {
    if file.path.as_os_str().is_empty() {
        report.error(&key("path"), "must name a file or a folder");
    } else if !file.path.exists() {
        report.warn(&key("path"), &format!("{} does not exist (yet)", file.path.display()));
    }
    if file.poll_millis < 10 {
        report.error(&key("poll_millis"), "must be at least 10");
    }
}

fn check_lookup_events(lookup: &LookupEventsConfig, key: &dyn Fn(&str) -> String, report: &mut Report<'_>) {
    check_places(lookup, key, report);
    if !(1..=86_400).contains(&lookup.poll_secs) {
        report.error(&key("poll_secs"), "must be from 1 to 86400");
    }
    if lookup.lookback_secs > LOOKUP_HISTORY_SECS {
        report.error(&key("lookback_secs"), "must be at most 7776000: CloudTrail's event history is 90 days long");
    }
    if lookup.overlap_secs > LOOKUP_HISTORY_SECS {
        report.error(&key("overlap_secs"), "must be at most 7776000: CloudTrail's event history is 90 days long");
    } else if lookup.overlap_secs < LOOKUP_DELAY_SECS {
        report.warn(&key("overlap_secs"), "events appear up to 15 minutes late: below 900, late ones are missed");
    }
    if !(0.01..=100.0).contains(&lookup.requests_per_second) {
        report.error(&key("requests_per_second"), "must be from 0.01 to 100");
    } else if lookup.requests_per_second > LOOKUP_RATE {
        report
            .warn(&key("requests_per_second"), "CloudTrail allows 2 in each account and region, and refuses the rest");
    }
    check_url("endpoint_url", lookup.endpoint_url.as_deref(), key, report);
    check_url("sts_endpoint_url", lookup.sts_endpoint_url.as_deref(), key, report);
    let keys = [&lookup.access_key_id, &lookup.secret_access_key, &lookup.session_token];
    check_credentials(keys, key, report);
}

fn check_places(lookup: &LookupEventsConfig, key: &dyn Fn(&str) -> String, report: &mut Report<'_>) {
    let named = lookup.accounts.iter().filter_map(|account| account.regions.as_ref());
    let needs_regions = lookup.accounts.is_empty() || lookup.accounts.iter().any(|account| account.regions.is_none());
    if needs_regions && lookup.regions.is_empty() {
        report.error(&key("regions"), "must name at least one region, such as [\"us-east-1\"]");
    }
    for (field, regions) in named.map(|regions| ("accounts", regions)).chain([("regions", &lookup.regions)]) {
        let mut seen = BTreeSet::new();
        for region in regions {
            if !is_region(region) {
                report.error(&key(field), &format!("{region:?} is not a region such as eu-west-1"));
            } else if !seen.insert(region) {
                report.error(&key(field), &format!("{region} is listed twice"));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for account in &lookup.accounts {
        match &account.role_arn {
            Some(arn) if !is_role_arn(arn) => {
                let message = format!("{arn:?} is no role's ARN such as arn:aws:iam::111122223333:role/catchment");
                report.error(&key("accounts"), &message);
            }
            None if account.external_id.is_some() => report.error(&key("accounts"), "external_id needs role_arn"),
            _ if !seen.insert(account.number()) => {
                let account = account.number().unwrap_or("the credentials' own account");
                report.error(&key("accounts"), &format!("{account} is listed twice"));
            }
            _ => {}
        }
    }
}

fn check_sqs(sqs: &SqsConfig, key: &dyn Fn(&str) -> String, report: &mut Report<'_>) {
    check_url("queue_url", Some(&sqs.queue_url), key, report);
    for (field, region) in [("region", sqs.queue_region()), ("s3_region", sqs.s3_region.clone())] {
        match region {
            Some(region) if !is_region(&region) => {
                report.error(&key(field), &format!("{region:?} is not a region such as eu-west-1"));
            }
            None if field == "region" => report.error(&key(field), "is needed: the queue's URL does not contain it"),
            _ => {}
        }
    }
    if !(1..=64).contains(&sqs.parallel_objects) {
        report.error(&key("parallel_objects"), "must be from 1 to 64");
    }
    // SQS's limits: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
    if !(1..=43_200).contains(&sqs.visibility_secs) {
        report.error(&key("visibility_secs"), "must be from 1 to 43200 (12 hours)");
    } else if sqs.visibility_secs < SQS_VISIBILITY_SECS {
        report.warn(&key("visibility_secs"), "below 30, a short pause makes messages arrive twice");
    }
    if sqs.wait_secs > 20 {
        report.error(&key("wait_secs"), "must be at most 20");
    }
    if sqs.max_receives == 0 {
        report.error(&key("max_receives"), "must be at least 1");
    }
    if sqs.external_id.is_some() && sqs.role_arn.is_none() {
        report.error(&key("external_id"), "needs role_arn, too");
    }
    if sqs.role_arn.as_deref().is_some_and(|arn| !is_role_arn(arn)) {
        report.error(&key("role_arn"), "must be a role's ARN such as arn:aws:iam::111122223333:role/catchment");
    }
    check_url("sqs_endpoint_url", sqs.sqs_endpoint_url.as_deref(), key, report);
    check_url("s3_endpoint_url", sqs.s3_endpoint_url.as_deref(), key, report);
    check_url("sts_endpoint_url", sqs.sts_endpoint_url.as_deref(), key, report);
    check_credentials([&sqs.access_key_id, &sqs.secret_access_key, &sqs.session_token], key, report);
}

fn check_url(field: &str, url: Option<&str>, key: &dyn Fn(&str) -> String, report: &mut Report<'_>) {
    if url.is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
        report.error(&key(field), "must begin with https:// or http://");
    }
}

/// Whether a text is a role's ARN: `arn:aws-cn:iam::111122223333:role/path/name`.
fn is_role_arn(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    matches!(parts.as_slice(), ["arn", partition, "iam", "", account, resource]
        if partition.starts_with("aws") && is_account(account) && resource.starts_with("role/"))
}

fn is_account(account: &str) -> bool {
    account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit())
}

/// Checks the combination of access key id, secret key and session token.
fn check_credentials(keys: [&Option<Secret>; 3], key: &dyn Fn(&str) -> String, report: &mut Report<'_>) {
    match keys {
        [Some(_), None, _] => report.error(&key("secret_access_key"), "is missing; access_key_id needs it"),
        [None, Some(_), _] => report.error(&key("access_key_id"), "is missing; secret_access_key needs it"),
        [None, None, Some(_)] => {
            report.error(&key("session_token"), "needs access_key_id and secret_access_key, too");
        }
        [Some(_), Some(_), _] | [None, None, None] => {}
    }
}

/// Whether a name matches `[a-z0-9_-]{1,63}`, which needs no quoting in metric labels, log lines and file names.
fn is_source_name(name: &str) -> bool {
    matches!(name.len(), 1..=63) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// Whether a prefix is a reverse-DNS name, as CloudEvents recommends for `type`.
fn is_type_prefix(prefix: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-'))
    };
    prefix.len() <= 200 && prefix.split('.').all(word)
}

/// Whether a text has the form of a region: `us-east-1`, `us-gov-west-1`, `cn-north-1`.
fn is_region(region: &str) -> bool {
    let mut parts = region.rsplit('-');
    let number = parts.next().is_some_and(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    let words: Vec<&str> = parts.collect();
    number && words.len() >= 2 && words.iter().all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase()))
}

/// Whether a text is an origin as browsers send it (RFC 6454, section 6.2), or `*`.
fn is_web_origin(origin: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return origin == "*" };
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    matches!(scheme, "http" | "https") && !authority.is_empty() && authority.bytes().all(legal)
}
