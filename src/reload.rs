//! Rules anew while running: SIGHUP reads the folder of rules again. The new rules take over only when they compile and
//! pass the fixtures in the folder; else the old ones stay.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::signal::unix::{self, SignalKind};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::fixture::{self, FixtureError};
use crate::metrics::Metrics;
use crate::normalize::{CatalogError, Engine, Redaction};

/// Why new rules were not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// They do not compile.
    #[error(transparent)]
    Rules(#[from] CatalogError),
    /// Their fixtures can't be read.
    #[error(transparent)]
    Unreadable(#[from] FixtureError),
    /// They fail their fixtures.
    #[error("{} of {cases} fixtures fail, as `catchment test --normalizers DIR` tells in full: {}", failed.len(), failed.join(", "))]
    Fixtures {
        /// How many there are.
        cases: usize,
        /// The names of those that fail.
        failed: Vec<String>,
    },
}

/// The process's SIGHUP. From [`listen`](Hangups::listen) on it no longer ends it.
#[derive(Debug)]
pub struct Hangups(unix::Signal);

impl Hangups {
    /// Begins to listen. Within a runtime.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        unix::signal(SignalKind::hangup()).map(Self)
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Option<()> {
        self.0.recv().await
    }
}

/// Compiles the rules and runs the fixtures that a folder of rules holds, if it holds any.
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

/// Loads the rules again whenever `next` asks for it, until it ends or `stop` is cancelled.
pub async fn run(
    mut next: impl AsyncFnMut() -> Option<()>,
    folder: Option<PathBuf>,
    redaction: Redaction,
    engines: watch::Sender<Arc<Engine>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    while let Some(Some(())) = stop.run_until_cancelled(next()).await {
        let Some(folder) = folder.clone() else {
            warn!("asked to reload the rules, but no folder of rules is configured (normalizers.dir)");
            continue;
        };
        let redaction = redaction.clone();
        let loaded = spawn_blocking(move || load(Some(&folder), &redaction)).await;
        let outcome = match loaded {
            Ok(Ok(engine)) if engine.version() == engines.borrow().version() => {
                info!(version = %engine.version(), "rules reloaded: no difference");
                "success"
            }
            Ok(Ok(engine)) => {
                info!(version = %engine.version(), before = %engines.borrow().version(), "rules reloaded");
                engines.send_replace(engine);
                "success"
            }
            Ok(Err(error)) => {
                error!(%error, "the rules were not reloaded; those before stay in force");
                "failure"
            }
            Err(error) => {
                error!(%error, "reloading the rules broke down; those before stay in force");
                "failure"
            }
        };
        metrics.rule_reloads.with_label_values(&[outcome]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    const RULE: &str = "service = \"ec2.amazonaws.com\"\n[events.CreateVpc]\nskip = \"ours\"\n";

    #[tokio::test]
    async fn rules_that_fail_leave_those_before_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("aws/ours.toml", RULE);
        let (engines, engine) = watch::channel(load(Some(folder.path()), &Redaction::default()).unwrap());
        let version = || engine.borrow().version().to_string();
        let (ask, mut asked) = mpsc::channel(1);
        let (metrics, stop) = (Arc::new(Metrics::new().unwrap()), CancellationToken::new());
        let path = Some(folder.path().to_owned());
        let tracker = tokio_util::task::TaskTracker::new();
        let next = async move || asked.recv().await;
        tracker.spawn(run(next, path, Redaction::default(), engines, Arc::clone(&metrics), stop));
        let count = |outcome: &str| metrics.rule_reloads.with_label_values(&[outcome]).get();
        let reloaded = async |outcome: &str, times: u64| {
            ask.send(()).await.unwrap();
            while count(outcome) < times {
                tokio::task::yield_now().await;
            }
        };
        let first = version();
        write("aws/ours.toml", &RULE.replace("skip", "skp"));
        reloaded("failure", 1).await;
        assert_eq!(version(), first, "a rule that does not compile");

        write("aws/ours.toml", &RULE.replace("ours", "not ours"));
        write("fixtures/aws/ec2/CreateVpc.json", "{ \"record\": {} }");
        reloaded("failure", 2).await;
        assert_eq!(version(), first, "a rule that fails its fixture");

        std::fs::remove_dir_all(folder.path().join("fixtures")).unwrap();
        reloaded("success", 1).await;
        assert_ne!(version(), first);
        drop(ask);
        tracker.close();
        tracker.wait().await;
    }
}
