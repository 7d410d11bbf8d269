//! Reloading configuration and rules on SIGHUP, all or nothing. New rules take effect if they compile and pass the
//! fixtures in their folder. [`KEYS`] says for each key whether it needs a restart.

use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use tokio::signal::unix::{self, SignalKind};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{Config, LoadError, Loaded};
use crate::fixture::{self, FixtureError};
use crate::metrics::Metrics;
use crate::normalize::{CatalogError, Engine, Redaction};

/// Why new rules were rejected.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// They don't compile.
    #[error(transparent)]
    Rules(#[from] CatalogError),
    /// Their fixtures can't be read.
    #[error(transparent)]
    Unreadable(#[from] FixtureError),
    /// They fail their fixtures.
    #[error("{} of {cases} fixtures fail (see `catchment test --normalizers DIR`): {}", failed.len(), failed.join(", "))]
    Fixtures {
        /// The number of fixtures.
        cases: usize,
        /// The names of failing fixtures.
        failed: Vec<String>,
    },
}

/// The process's SIGHUP signals. After [`listen`](Hangups::listen) they no longer end the process.
#[derive(Debug)]
pub struct Hangups(unix::Signal);

impl Hangups {
    /// Installs the handler. Must be called within a runtime.
    ///
    /// # Errors
    /// When the handler can't be installed.
    pub fn listen() -> io::Result<Self> {
        unix::signal(SignalKind::hangup()).map(Self)
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Option<()> {
        self.0.recv().await
    }
}

/// Compiles the rules, and runs the fixtures in the folder of rules, if any.
///
/// # Errors
/// When the rules don't compile, or fail a fixture.
pub fn load(folder: Option<&Path>, redaction: &Redaction) -> Result<Arc<Engine>, ReloadError> {
    let engine = Arc::new(Engine::redacting(folder, redaction)?);
    let cases = match folder {
        Some(folder) => fixture::find(&folder.join("fixtures"))?,
        None => Vec::new(),
    };
    let fails = |case: &&fixture::CaseFile| !case.run(&engine, false).failures.is_empty();
    let failed: Vec<_> = cases.iter().filter(fails).map(|case| case.name.clone()).collect();
    if failed.is_empty() { Ok(engine) } else { Err(ReloadError::Fixtures { cases: cases.len(), failed }) }
}

/// Loads the configuration again.
pub type Reread = Arc<dyn Fn() -> Result<Loaded, LoadError> + Send + Sync>;

/// A key, or a section of similar keys: whether it differs, and if it needs a restart, how its previous value is kept.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    differs: fn(&Config, &Config) -> bool,
    keep: Option<fn(&Config, &mut Config)>,
}

macro_rules! live {
    ($name:literal, $($path:tt).+) => {
        Key { name: $name, differs: |a, b| a.$($path).+ != b.$($path).+, keep: None }
    };
}

macro_rules! fixed {
    ($name:literal, $($path:tt).+) => {
        Key {
            name: $name,
            differs: |a, b| a.$($path).+ != b.$($path).+,
            keep: Some(|before, after| after.$($path).+.clone_from(&before.$($path).+)),
        }
    };
}

/// Every key, and whether it needs a restart. Changes of tokens and certificates are noticed independently.
pub const KEYS: &[Key] = &[
    fixed!("data_dir", data_dir),
    fixed!("ephemeral", ephemeral),
    fixed!("http.listen", http.listen),
    live!("http.cors_origins", http.cors_origins),
    live!("http.heartbeat_secs", http.heartbeat_secs),
    live!("http.max_streams", http.max_streams),
    fixed!("http.stalled_after_secs", http.stalled_after_secs),
    fixed!("http.request_timeout_secs", http.request_timeout_secs),
    fixed!("http.max_connections", http.max_connections),
    fixed!("http.max_connections_per_address", http.max_connections_per_address),
    fixed!("http.ring_bytes", http.ring_bytes),
    fixed!("http.tls", http.tls),
    fixed!("auth.tokens_file", auth.tokens_file),
    live!("auth.anonymous", auth.anonymous),
    live!("auth.query_tokens", auth.query_tokens),
    live!("auth.requests_per_minute", auth.requests_per_minute),
    live!("auth.streams_per_token", auth.streams_per_token),
    live!("auth.oidc", auth.oidc),
    live!("log.retention_days", log.retention_days),
    live!("log.retention_bytes", log.retention_bytes),
    live!("log.min_free_bytes", log.min_free_bytes),
    fixed!("events", events),
    fixed!("novelty", novelty),
    live!("normalizers", normalizers),
    live!("redaction", redaction),
    live!("telemetry.log", telemetry.log),
    fixed!("telemetry.otlp_endpoint", telemetry.otlp_endpoint),
    fixed!("telemetry.otlp_sampling", telemetry.otlp_sampling),
    fixed!("shutdown", shutdown),
    live!("sources", sources),
];

/// Reloads configuration and rules.
pub struct Reloader {
    /// The current configuration.
    pub current: Config,
    /// Loads the configuration.
    pub reread: Reread,
    /// Publishes new rules.
    pub engines: watch::Sender<Arc<Engine>>,
    /// Counts reloads.
    pub metrics: Arc<Metrics>,
}

impl Reloader {
    /// Reloads whenever `next` yields, until it ends or `stop` is cancelled, which also aborts a reload in progress.
    /// `apply` is called with the new configuration.
    pub async fn run<E: fmt::Display>(
        mut self,
        mut next: impl AsyncFnMut() -> Option<()>,
        apply: impl AsyncFn(Config) -> Result<(), E>,
        stop: CancellationToken,
    ) {
        while let Some(Some(())) = stop.run_until_cancelled(next()).await {
            let Some(reloaded) = stop.run_until_cancelled(self.reload(&apply)).await else { return };
            let outcome = if reloaded { "success" } else { "failure" };
            self.metrics.config_reloads.with_label_values(&[outcome]).inc();
        }
    }

    async fn reload<E: fmt::Display>(&mut self, apply: &impl AsyncFn(Config) -> Result<(), E>) -> bool {
        const STAYS: &str = "nothing was reloaded; the previous configuration and rules stay in force";
        let reread = Arc::clone(&self.reread);
        let loaded = match spawn_blocking(move || reread()).await {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(LoadError::Invalid(findings))) => {
                findings.iter().for_each(|finding| error!(%finding, "configuration: {STAYS}"));
                return false;
            }
            Ok(Err(error)) => {
                error!(%error, "configuration: {STAYS}");
                return false;
            }
            Err(error) => {
                error!(%error, "reading the configuration panicked: {STAYS}");
                return false;
            }
        };
        loaded.warnings.iter().for_each(|finding| warn!(%finding, "configuration"));
        let (config, fixed) = self.settled(loaded.config);
        let engine = match self.rules(&config).await {
            Ok(engine) => engine,
            Err(error) => {
                error!(%error, "rules: {STAYS}");
                return false;
            }
        };
        // Before sources that start now deliver anything.
        let before = self.take_rules(engine, self.current.redaction != config.redaction);
        if let Err(error) = apply(config.clone()).await {
            error!(%error, "the configuration was applied only in part");
            self.engines.send_replace(before);
            return false;
        }
        for key in fixed {
            warn!(key, "needs a restart; the previous value stays in force");
        }
        let live: Vec<_> =
            KEYS.iter().filter(|key| (key.differs)(&self.current, &config)).map(|key| key.name).collect();
        info!(changed = live.join(","), "configuration reloaded");
        self.current = config;
        true
    }

    /// The configuration that can apply without a restart, and the changed keys that can't.
    fn settled(&self, mut config: Config) -> (Config, Vec<&'static str>) {
        let mut fixed = Vec::new();
        for key in KEYS {
            if let Some(keep) = key.keep.filter(|_| (key.differs)(&self.current, &config)) {
                keep(&self.current, &mut config);
                fixed.push(key.name);
            }
        }
        (config, fixed)
    }

    async fn rules(&self, config: &Config) -> Result<Arc<Engine>, String> {
        let (folder, redaction) = (config.normalizers.dir.clone(), config.redaction.clone());
        let loaded = spawn_blocking(move || load(folder.as_deref(), &redaction)).await;
        let outcome =
            loaded.map_err(|error| error.to_string()).and_then(|loaded| loaded.map_err(|error| error.to_string()));
        self.metrics.rule_reloads.with_label_values(&[if outcome.is_ok() { "success" } else { "failure" }]).inc();
        outcome
    }

    /// Publishes new rules, and returns the previous ones.
    fn take_rules(&self, engine: Arc<Engine>, redacts_otherwise: bool) -> Arc<Engine> {
        let before = Arc::clone(&self.engines.borrow());
        if engine.version() != before.version() || redacts_otherwise {
            info!(version = %engine.version(), before = %before.version(), "rules reloaded");
            self.engines.send_replace(engine);
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const RULE: &str = "service = \"ec2.amazonaws.com\"\n[events.CreateVpc]\nskip = \"ours\"\n";

    fn reloader(current: &Config, next: Arc<Mutex<Config>>) -> (Reloader, watch::Receiver<Arc<Engine>>) {
        let (engines, engine) = watch::channel(load(current.normalizers.dir.as_deref(), &current.redaction).unwrap());
        let reread: Reread = Arc::new(move || Ok(Loaded::unchanged(next.lock().unwrap().clone())));
        let metrics = Arc::new(Metrics::new().unwrap());
        (Reloader { current: current.clone(), reread, engines, metrics }, engine)
    }

    #[tokio::test]
    async fn rules_that_fail_leave_all_that_was_before_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("aws/ours.toml", RULE);
        let mut current = Config::default();
        current.normalizers.dir = Some(folder.path().to_owned());
        let mut next = current.clone();
        next.http.heartbeat_secs = 7;
        let (mut reloader, engine) = reloader(&current, Arc::new(Mutex::new(next)));
        let version = || engine.borrow().version().to_string();
        let applied = Mutex::new(Vec::new());
        let apply = async |config: Config| {
            applied.lock().unwrap().push(config.http.heartbeat_secs);
            Ok::<_, String>(())
        };
        let first = version();
        write("aws/ours.toml", &RULE.replace("skip", "skp"));
        assert!(!reloader.reload(&apply).await, "a rule that does not compile");
        write("aws/ours.toml", &RULE.replace("ours", "not ours"));
        write("fixtures/aws/ec2/CreateVpc.json", "{ \"record\": {} }");
        assert!(!reloader.reload(&apply).await, "a rule that fails its fixture");
        assert_eq!((version(), applied.lock().unwrap().len()), (first.clone(), 0));
        std::fs::remove_dir_all(folder.path().join("fixtures")).unwrap();
        assert!(reloader.reload(&apply).await);
        assert_ne!(version(), first);
        assert_eq!(*applied.lock().unwrap(), [7]);
    }

    #[tokio::test]
    async fn a_reload_that_is_under_way_does_not_hold_up_the_stop() {
        let current = Config::default();
        let (reloader, _engine) = reloader(&current, Arc::new(Mutex::new(current.clone())));
        let (stop, metrics) = (CancellationToken::new(), Arc::clone(&reloader.metrics));
        let apply = async |_| {
            stop.cancel();
            std::future::pending::<Result<(), String>>().await
        };
        reloader.run(async || Some(()), apply, stop.clone()).await;
        assert!(stop.is_cancelled());
        assert_eq!(metrics.config_reloads.with_label_values(&["success"]).get(), 0);
    }

    #[tokio::test]
    async fn what_takes_a_restart_stays_and_is_told_every_time() {
        let current = Config::default();
        let mut next = current.clone();
        next.events.type_prefix = "com.example".to_owned();
        next.redaction.names = vec!["pin".to_owned()];
        let (mut reloader, mut engine) = reloader(&current, Arc::new(Mutex::new(next.clone())));
        assert_eq!(reloader.settled(next.clone()).1, ["events"]);
        assert!(
            reloader
                .reload(&async |config: Config| {
                    assert_eq!(config.events.type_prefix, "io.catchment");
                    Ok::<_, String>(())
                })
                .await
        );
        assert!(engine.has_changed().unwrap(), "other redaction, other rules");
        engine.mark_unchanged();
        assert_eq!(reloader.settled(next).1, ["events"]);
        assert_eq!(reloader.current.redaction.names, ["pin"]);
    }

    /// Changes of a key that is missing in the table would be ignored silently.
    #[test]
    fn every_key_is_in_the_table() {
        for line in crate::config::DEFAULT_FILE.lines().map(|line| line.trim_start_matches("# ")) {
            let Some(section) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) else { continue };
            let section = section.split('.').next().unwrap();
            let known = |key: &Key| key.name == section || key.name.starts_with(&format!("{section}."));
            assert!(section.contains([' ', '{', '"']) || KEYS.iter().any(known), "{section}");
        }
        let whole = |name: &str| KEYS.iter().any(|key| key.name == name);
        for section in ["http", "auth", "log", "telemetry"] {
            let begin = crate::config::DEFAULT_FILE.find(&format!("\n[{section}]")).unwrap() + 2;
            let text = &crate::config::DEFAULT_FILE[begin..];
            let text = text.split("\n[").next().unwrap().split("\n# [").next().unwrap();
            for line in text.lines().skip(1).map(|line| line.trim_start_matches("# ")) {
                if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains([' ', '{'])) {
                    assert!(whole(&format!("{section}.{key}")), "{section}.{key}");
                }
            }
        }
    }
}
