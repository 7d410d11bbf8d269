//! Finds the layers of the configuration, merges them, and checks the result.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::Document;
use super::{Config, Finding, Origin, Severity, check};

/// The default locations, in this order.
const DEFAULT_PLACES: [&str; 2] = ["./catchment.toml", "/etc/catchment/catchment.toml"];
/// A larger file is assumed to be a wrong path.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const PREFIX: &str = "CATCHMENT_";
/// Variables that are not configuration keys.
const OTHER_VARIABLES: [&str; 3] = ["CATCHMENT_CONFIG", "CATCHMENT_LOG", "CATCHMENT_TOKEN"];

/// The environment, read once.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Reads the environment of the process; only variables of this program.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
    }

    /// The filter of `CATCHMENT_LOG`, if set.
    #[must_use]
    pub fn log_filter(&self) -> Option<Cow<'_, str>> {
        self.get("CATCHMENT_LOG").map(|filter| filter.to_string_lossy())
    }

    /// The token of `CATCHMENT_TOKEN`, with which commands query a running server.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.get("CATCHMENT_TOKEN")?.to_str()
    }

    fn get(&self, name: &str) -> Option<&OsString> {
        // Many tools unset a variable by making it empty.
        self.0.get(name).filter(|value| !value.is_empty())
    }

    /// The variables that set a key.
    fn keys(&self) -> impl Iterator<Item = (&String, &OsString)> {
        self.0.iter().filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str()) && !is_service_link(name))
    }
}

impl FromIterator<(String, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, OsString)>>(variables: I) -> Self {
        Self(variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect())
    }
}

/// Kubernetes sets these for every service named `catchment`
/// (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>); they have no meaning
/// here.
fn is_service_link(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| {
        rest == "PORT" || rest.starts_with("PORT_") || rest == "SERVICE_HOST" || rest.starts_with("SERVICE_PORT")
    })
}

/// The settings of the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--data-dir`. Turns `ephemeral` off.
    pub data_dir: Option<PathBuf>,
    /// `--ephemeral`.
    pub ephemeral: bool,
    /// `--normalizers`.
    pub normalizers: Option<PathBuf>,
}

/// A valid configuration.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The configuration file; `None` if only environment and command line are used.
    pub file: Option<PathBuf>,
    /// Warnings: settings that are probably mistakes.
    pub warnings: Vec<Finding>,
}

impl Loaded {
    /// A configuration without a file.
    #[must_use]
    pub fn unchanged(config: Config) -> Self {
        Self { config, file: None, warnings: Vec::new() }
    }
}

/// Why the configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("read configuration {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// The configuration is invalid. Warnings come after the errors.
    #[error("{}", lines(.0))]
    Invalid(Vec<Finding>),
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Merges the layers and checks the result. Reads the file and the secrets that it refers to, and checks that paths
/// exist.
///
/// # Errors
/// When the file can't be read; otherwise all mistakes in any layer.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, LoadError> {
    let file = find_file(flags, environment);
    let mut document = match &file {
        Some(path) => parse_file(path)?,
        None => Document::default(),
    };
    overlay_environment(&mut document, environment).map_err(LoadError::Invalid)?;
    let mut config: Config = document.read().map_err(LoadError::Invalid)?;
    let mut origins = document.origins();
    apply(flags, &mut config, &mut origins);

    let mut findings = check::check(&config, &origins);
    findings.sort_by_key(|finding| finding.severity);
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(LoadError::Invalid(findings));
    }
    Ok(Loaded { config, file, warnings: findings })
}

fn find_file(flags: &Flags, environment: &Environment) -> Option<PathBuf> {
    let named = flags.config.clone().or_else(|| environment.get("CATCHMENT_CONFIG").map(PathBuf::from));
    named.or_else(|| DEFAULT_PLACES.iter().map(PathBuf::from).find(|path| path.exists()))
}

fn parse_file(path: &Path) -> Result<Document, LoadError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
    let unreadable = |cause| LoadError::Unreadable { path: path.to_owned(), cause };
    if read.map_err(unreadable)? as u64 > MAX_FILE_BYTES {
        return Err(unreadable(io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes"))));
    }
    let name: Arc<str> = path.display().to_string().into();
    Document::parse(&name, &text).map_err(|finding| LoadError::Invalid(vec![finding]))
}

fn overlay_environment(document: &mut Document, environment: &Environment) -> Result<(), Vec<Finding>> {
    let mut findings = Vec::new();
    for (variable, value) in environment.keys() {
        let origin = || Some(Origin::Environment(variable.clone()));
        let Some(value) = value.to_str() else {
            findings.push(Finding::error("", origin(), "is not UTF-8 text"));
            continue;
        };
        let path: Vec<String> = variable.trim_start_matches(PREFIX).split("__").map(str::to_ascii_lowercase).collect();
        if let Err(finding) = document.overlay(&path, variable, value.to_owned()) {
            findings.push(finding);
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(findings) }
}

fn apply(flags: &Flags, config: &mut Config, origins: &mut BTreeMap<String, Origin>) {
    let mut set = |key: &str, flag| origins.insert(key.to_owned(), Origin::Flag(flag));
    if let Some(listen) = flags.listen {
        config.http.listen = listen;
        set("http.listen", "--listen");
    }
    if let Some(dir) = &flags.data_dir {
        config.data_dir.clone_from(dir);
        config.ephemeral = false;
        set("data_dir", "--data-dir");
        set("ephemeral", "--data-dir");
    }
    if flags.ephemeral {
        config.ephemeral = true;
        set("ephemeral", "--ephemeral");
    }
    if let Some(dir) = &flags.normalizers {
        config.normalizers.dir = Some(dir.clone());
        set("normalizers.dir", "--normalizers");
    }
}
