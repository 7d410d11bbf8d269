//! Keeps a source running: restarts it after an error, with growing delays, and publishes its state.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Clock, Intake, Source, SourceError, SourceState, StatusHandle};
use crate::metrics::Metrics;
use crate::retry::Backoff;

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How often the status is copied to the metrics.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Runs `source` on `tracker` until it has delivered everything or `stop` is cancelled. After an error it is run again
/// with exponential backoff from one second to one minute, which is reset by a run of more than a minute. A source that
/// panics is not run again until the next start, since its state is lost.
pub fn supervise(
    tracker: &TaskTracker,
    source: Box<dyn Source>,
    intake: Intake,
    status: StatusHandle,
    metrics: Arc<Metrics>,
    clock: Clock,
    stop: CancellationToken,
) {
    let supervisor = Supervisor { status, metrics, clock, stop };
    let running = tracker.spawn(supervisor.clone().run(source, intake));
    tracker.spawn(async move {
        if let Err(error) = running.await {
            supervisor.broke_down(&error);
        }
    });
}

#[derive(Clone)]
struct Supervisor {
    status: StatusHandle,
    metrics: Arc<Metrics>,
    clock: Clock,
    stop: CancellationToken,
}

impl Supervisor {
    async fn run(self, mut source: Box<dyn Source>, intake: Intake) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let begun = Instant::now();
            self.enter(SourceState::Running);
            tracing::info!(source = %self.status.source(), "source started");
            match self.run_once(source.as_mut(), &intake).await {
                Ok(()) => return self.ended(),
                // The pipeline closes while sources stop: no failure of the source.
                Err(SourceError::Log(_)) if self.stop.is_cancelled() => return self.ended(),
                Err(error) => {
                    if begun.elapsed() > LONGEST_WAIT {
                        backoff.reset();
                    }
                    let wait = backoff.next_wait();
                    self.failed(&error, wait);
                    if self.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                        return self.ended();
                    }
                }
            }
        }
    }

    /// Runs the source, and copies its status to the metrics meanwhile.
    async fn run_once(&self, source: &mut dyn Source, intake: &Intake) -> Result<(), SourceError> {
        let mut run = std::pin::pin!(source.run(intake.clone(), self.status.clone(), self.stop.clone()));
        let mut report = interval(REPORT_EVERY);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                outcome = &mut run => return outcome,
                _ = report.tick() => self.report(),
            }
        }
    }

    fn enter(&self, state: SourceState) {
        self.status.update(|status| status.state = state);
        self.report();
    }

    fn ended(&self) {
        let state = if self.stop.is_cancelled() { SourceState::Stopped } else { SourceState::Finished };
        self.enter(state);
        tracing::info!(source = %self.status.source(), ?state, "source ended");
    }

    fn failed(&self, error: &SourceError, wait: Duration) {
        let name = self.status.source();
        tracing::warn!(source = %name, %error, wait_secs = wait.as_secs_f64(), "source failed; retrying");
        self.metrics.source_failures.with_label_values(&[&name.0]).inc();
        self.tell(error.to_string());
        self.enter(SourceState::Retrying);
    }

    fn broke_down(&self, error: &tokio::task::JoinError) {
        tracing::error!(source = %self.status.source(), %error, "source panicked; restart the program to run it again");
        self.metrics.source_failures.with_label_values(&[&self.status.source().0]).inc();
        self.tell(format!("panicked ({error}); restart the program to run it again"));
        self.enter(SourceState::Stopped);
    }

    fn tell(&self, error: String) {
        let now = self.clock.now();
        self.status.update(|status| {
            status.last_error = Some(error);
            status.last_error_at = Some(now);
        });
    }

    fn report(&self) {
        let name: &str = &self.status.source().0;
        self.status.update(|status| {
            let up = matches!(status.state, SourceState::Starting | SourceState::Running);
            self.metrics.source_up.with_label_values(&[name]).set(i64::from(up));
            if let Some(lag) = status.lag_secs {
                self.metrics.source_lag_seconds.with_label_values(&[name]).set(lag);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::log::LogError;
    use crate::model::Time;
    use crate::source::{SourceStatus, StatusBoard};

    /// The scripted runs of a source; the last is repeated.
    #[derive(Clone, Copy)]
    enum Act {
        Fail,
        LogFails,
        Finish,
        WaitForStop,
        Panic,
    }

    struct Scripted(Vec<Act>);

    #[async_trait]
    impl Source for Scripted {
        async fn run(&mut self, _: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
            let act = if self.0.len() > 1 { self.0.remove(0) } else { self.0[0] };
            match act {
                Act::Fail => Err(SourceError::Upstream { action: "list /x".to_owned(), cause: "no".to_owned() }),
                Act::LogFails => {
                    stop.cancelled().await;
                    Err(SourceError::Log(LogError::Closed))
                }
                Act::Finish => Ok(()),
                Act::WaitForStop => {
                    status.update(|status| status.lag_secs = Some(7.0));
                    stop.cancelled().await;
                    Ok(())
                }
                Act::Panic => panic!("as scripted"),
            }
        }
    }

    struct Stage {
        tracker: TaskTracker,
        board: StatusBoard,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    }

    impl Stage {
        fn begin(script: &[Act]) -> Self {
            let (tracker, board, stop) = (TaskTracker::new(), StatusBoard::default(), CancellationToken::new());
            let metrics = Arc::new(Metrics::new().unwrap());
            let (intake, _receiver) = Intake::new(1, 1);
            let status = board.register("trail".into(), "file");
            let clock = Clock::from_fn(|| Time::from_millis(5));
            let source = Box::new(Scripted(script.to_vec()));
            supervise(&tracker, source, intake, status, Arc::clone(&metrics), clock, stop.clone());
            tracker.close();
            Self { tracker, board, metrics, stop }
        }

        fn status(&self) -> SourceStatus {
            self.board.snapshot().remove(&"trail".into()).unwrap()
        }

        fn up(&self) -> i64 {
            self.metrics.source_up.with_label_values(&["trail"]).get()
        }

        fn failures(&self) -> u64 {
            self.metrics.source_failures.with_label_values(&["trail"]).get()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_source_is_started_again() {
        let stage = Stage::begin(&[Act::Fail, Act::Fail, Act::WaitForStop]);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!((stage.status().state, stage.up(), stage.failures()), (SourceState::Retrying, 0, 1));
        assert_eq!(stage.status().last_error.as_deref(), Some("list /x: no"));
        assert_eq!(stage.status().last_error_at, Some(Time::from_millis(5)));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!((stage.status().state, stage.up(), stage.failures()), (SourceState::Running, 1, 2));
        assert!((stage.metrics.source_lag_seconds.with_label_values(&["trail"]).get() - 7.0).abs() < 0.1);
        stage.stop.cancel();
        stage.tracker.wait().await;
        assert_eq!((stage.status().state, stage.up(), stage.failures()), (SourceState::Stopped, 0, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_the_source_has_no_more_or_is_stopped() {
        let stage = Stage::begin(&[Act::Fail, Act::Finish]);
        stage.tracker.wait().await;
        assert_eq!((stage.status().state, stage.up()), (SourceState::Finished, 0));

        let stage = Stage::begin(&[Act::Fail]);
        tokio::time::sleep(Duration::from_secs(300)).await;
        let failures = stage.failures();
        assert!((8..20).contains(&failures), "the wait grows to a minute: {failures}");
        let begun = Instant::now();
        stage.stop.cancel();
        stage.tracker.wait().await;
        assert_eq!((stage.status().state, begun.elapsed()), (SourceState::Stopped, Duration::ZERO));

        let stage = Stage::begin(&[Act::LogFails]);
        stage.stop.cancel();
        stage.tracker.wait().await;
        assert_eq!((stage.status().state, stage.failures()), (SourceState::Stopped, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_told() {
        let stage = Stage::begin(&[Act::Panic]);
        stage.tracker.wait().await;
        assert_eq!((stage.status().state, stage.up(), stage.failures()), (SourceState::Stopped, 0, 1));
        assert!(stage.status().last_error.unwrap().contains("panicked"));
    }
}
