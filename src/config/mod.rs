//! The configuration: its keys, and how its layers are merged.
//!
//! Later layers win: the defaults (listed with comments in `config/catchment.default.toml`), the file, the environment,
//! the command line. The file is that of `--config`, else of `CATCHMENT_CONFIG`, else `./catchment.toml`, else
//! `/etc/catchment/catchment.toml`; the last two only if they exist. Environment variables are `CATCHMENT_` and the key
//! in upper case, with `__` between levels: `CATCHMENT_HTTP__LISTEN`.
//!
//! Nothing is guessed: an unknown key, an invalid value and an unknown variable are errors that name the key and the
//! line, or the variable.

mod check;
mod document;
mod layers;
mod source;
mod suggest;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

pub use layers::{Environment, Flags, LoadError, Loaded, load};
pub use source::{
    AwsConfigConfig, EventHubsConfig, FileConfig, LookupEventsConfig, ResourceGraphConfig, SourceConfig, SqsConfig,
};

use crate::auth::AuthConfig;
use crate::model::{NoveltyLimits, SourceId};
use crate::normalize::Redaction;
use crate::telemetry::otlp::Collector;
use crate::tls::TlsConfig;

/// The commented default configuration, printed by `catchment check --print-default`.
pub const DEFAULT_FILE: &str = include_str!("../../config/catchment.default.toml");

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory of the log, created if missing.
    pub data_dir: PathBuf,
    /// Keep the log in memory instead; it is lost when the process ends.
    pub ephemeral: bool,
    /// `[http]`.
    pub http: HttpConfig,
    /// `[auth]`.
    pub auth: AuthConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[events]`.
    pub events: EventsConfig,
    /// `[novelty]`.
    pub novelty: NoveltyLimits,
    /// `[normalizers]`.
    pub normalizers: NormalizersConfig,
    /// `[redaction]`.
    pub redaction: Redaction,
    /// `[telemetry]`.
    pub telemetry: TelemetryConfig,
    /// `[shutdown]`.
    pub shutdown: ShutdownConfig,
    /// `[sources.<name>.<kind>]`, by name.
    pub sources: BTreeMap<SourceId, SourceConfig>,
}

/// The HTTP interface.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port to listen on. Port 0 takes any free one.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Origins of web pages that may use the API: `https://dashboard.example.com`, or `*` for all.
    pub cors_origins: Vec<String>,
    /// Interval of heartbeats on a quiet stream, in seconds.
    pub heartbeat_secs: u64,
    /// Most concurrent streams; further ones get 503.
    pub max_streams: usize,
    /// Seconds that a client may not read pending data before its connection is reset.
    pub stalled_after_secs: u64,
    /// Seconds that a request head may take to arrive, and that an idle connection is kept.
    pub request_timeout_secs: u64,
    /// Most concurrent connections, including those of streams; further ones are closed immediately.
    pub max_connections: usize,
    /// The same per client address, or IPv6 /64 network; 0 for no limit.
    pub max_connections_per_address: usize,
    /// Bytes of encoded events kept in memory for streams that are nearly live; others read from the log.
    pub ring_bytes: usize,
    /// `[http.tls]`; without it, plain HTTP.
    pub tls: Option<TlsConfig>,
}

/// How long the log keeps events.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Age at which events are dropped, in days; 0 for no limit.
    pub retention_days: u32,
    /// Size at which the oldest events are dropped, in bytes; 0 for no limit.
    pub retention_bytes: u64,
    /// Bytes to keep free on the file system; with less, no events are accepted. 0 for no reserve.
    pub min_free_bytes: u64,
}

impl LogConfig {
    /// The age limit, if any.
    #[must_use]
    pub fn retention_age(&self) -> Option<Duration> {
        (self.retention_days > 0).then(|| Duration::from_secs(u64::from(self.retention_days) * 24 * 60 * 60))
    }

    /// The size limit, if any.
    #[must_use]
    pub fn retention_size(&self) -> Option<u64> {
        (self.retention_bytes > 0).then_some(self.retention_bytes)
    }
}

/// How events are named.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// The prefix of the CloudEvents `type`: `<prefix>.asset.create`.
    pub type_prefix: String,
}

/// The rules.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NormalizersConfig {
    /// A folder with rules that extend or override the built-in ones.
    pub dir: Option<PathBuf>,
}

/// The program's own log and traces.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// The log filter, in the form of `CATCHMENT_LOG`, which overrides it.
    pub log: Option<String>,
    /// The OpenTelemetry collector for spans, by OTLP over HTTP: `http://127.0.0.1:4318`.
    pub otlp_endpoint: Option<String>,
    /// The fraction of traces to send, from 0 to 1.
    pub otlp_sampling: f64,
}

impl TelemetryConfig {
    /// The collector, if configured.
    #[must_use]
    pub fn collector(&self) -> Option<Collector> {
        let endpoint = self.otlp_endpoint.clone()?;
        Some(Collector { endpoint, sampling: self.otlp_sampling })
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log: None, otlp_endpoint: None, otlp_sampling: 1.0 }
    }
}

/// Stopping.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// How long draining may take after the first signal, in milliseconds.
    pub drain_millis: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./catchment-data"),
            ephemeral: false,
            http: HttpConfig::default(),
            auth: AuthConfig::default(),
            log: LogConfig::default(),
            events: EventsConfig::default(),
            novelty: NoveltyLimits::default(),
            normalizers: NormalizersConfig::default(),
            redaction: Redaction::default(),
            telemetry: TelemetryConfig::default(),
            shutdown: ShutdownConfig::default(),
            sources: BTreeMap::new(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8780)),
            cors_origins: Vec::new(),
            heartbeat_secs: 15,
            max_streams: 20_000,
            stalled_after_secs: 300,
            request_timeout_secs: 75,
            max_connections: 25_000,
            max_connections_per_address: 0,
            ring_bytes: 64 * 1024 * 1024,
            tls: None,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { retention_days: 30, retention_bytes: 10 * 1024 * 1024 * 1024, min_free_bytes: 256 * 1024 * 1024 }
    }
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self { type_prefix: "io.catchment".to_owned() }
    }
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain_millis: 1500 }
    }
}

/// Parses an address with port.
///
/// # Errors
/// When the text is not an IP address with a port. Host names are not resolved.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address and port such as 127.0.0.1:8780 or [::]:8780"))
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_address(&text).map_err(de::Error::custom)
}

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File {
        /// The file's name as given.
        name: Arc<str>,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line } => write!(f, "{name}, line {line}"),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// The severity of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// It can be used, but is probably a mistake.
    Warning,
}

/// A mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The severity.
    pub severity: Severity,
    /// The key with its full path; empty if it concerns no key.
    pub key: String,
    /// The origin of its value; `None` for a default.
    pub origin: Option<Origin>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Finding {
    /// An error.
    #[must_use]
    pub fn error(key: &str, origin: Option<Origin>, message: &str) -> Self {
        Self { severity: Severity::Error, key: key.to_owned(), origin, message: message.to_owned() }
    }
}

impl fmt::Display for Finding {
    /// `catchment.toml, line 12: sources.trail.file.pathh: unknown key; known keys are …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests;
