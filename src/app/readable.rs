//! Whether the log can be read. Without readers of older events a failure would go unnoticed; with this check,
//! readiness shows it before the next subscriber meets it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::http::{Latch, Readiness};
use crate::log::{EventLog, LogError};
use crate::model::Seq;

/// How often the log is tested, similar to the probes of orchestrators.
const EVERY: Duration = Duration::from_secs(5);
/// A read that takes longer counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// The name of the part in `/readyz`.
const PART: &str = "log";

/// Reads from the log at intervals until `stop` is cancelled. The server is not ready while that fails, and from this
/// call until the first success.
pub(super) fn watch(
    log: Arc<dyn EventLog>,
    readiness: Readiness,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let mut state = Watched { latch: Some(readiness.latch(PART)), readiness, told: false };
    async move {
        let looking = async {
            loop {
                state.look(&log).await;
                sleep(EVERY).await;
            }
        };
        stop.run_until_cancelled(looking).await;
    }
}

struct Watched {
    readiness: Readiness,
    /// Held while the log can't be read.
    latch: Option<Latch>,
    told: bool,
}

impl Watched {
    async fn look(&mut self, log: &Arc<dyn EventLog>) {
        let log = Arc::clone(log);
        let mut reading = pin!(spawn_blocking(move || read_somewhere(log.as_ref())));
        let outcome = match timeout(PATIENCE, &mut reading).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.failed(&format!("no answer within {} s", PATIENCE.as_secs()));
                // One read at a time: a blocked one occupies a thread.
                reading.await
            }
        };
        match outcome.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string())) {
            Ok(()) => self.succeeded(),
            Err(cause) => self.failed(&cause),
        }
    }

    fn failed(&mut self, cause: &str) {
        if self.latch.is_none() {
            self.latch = Some(self.readiness.latch(PART));
        }
        if !std::mem::replace(&mut self.told, true) {
            error!(cause, "the log can't be read: not ready until it can; look at the disk");
        }
    }

    fn succeeded(&mut self) {
        if let Some(latch) = self.latch.take() {
            latch.release();
        }
        if std::mem::take(&mut self.told) {
            info!("the log can be read again");
        }
    }
}

/// Reads a random block, since the newest ones are in memory, where a failing disk does not show. Lost events don't
/// count: they are reported elsewhere, and those around them can be read.
fn read_somewhere(log: &dyn EventLog) -> Result<(), LogError> {
    let (floor, tail) = (log.floor(), *log.tail().borrow());
    if tail < floor {
        return Ok(());
    }
    let after = Seq(fastrand::u64(floor.0.saturating_sub(1)..tail.0));
    match log.read(after, 1) {
        // The server is stopping.
        Err(LogError::Closed) | Ok(_) => Ok(()),
        Err(error) if error.is_gone() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::TestLog;

    /// Lets blocking work finish, and advances the clock by two checks.
    async fn two_looks() {
        for _ in 0..2 {
            sleep(EVERY + Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn what_can_not_be_read_is_not_ready_and_what_can_again_is() {
        let (log, readiness) = (TestLog::new(8), Readiness::default());
        log.push(20);
        let shared: Arc<dyn EventLog> = log.clone();
        let mut state = Watched { latch: Some(readiness.latch(PART)), readiness: readiness.clone(), told: false };
        assert_eq!(readiness.missing(), [PART], "until it was looked at");
        for failing in [false, true, true, false, false, true] {
            log.fail(failing);
            let before = log.reads();
            state.look(&shared).await;
            assert_eq!(log.reads(), before + 1);
            assert_eq!(readiness.missing().is_empty(), !failing);
        }
    }

    #[tokio::test]
    async fn an_empty_log_and_one_that_retention_empties_are_readable() {
        let log = TestLog::new(8);
        read_somewhere(log.as_ref()).unwrap();
        log.fail(true);
        read_somewhere(log.as_ref()).unwrap();
        log.push(3);
        assert!(read_somewhere(log.as_ref()).is_err());
        log.drop_before(Seq(4));
        read_somewhere(log.as_ref()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_at_again_and_again_until_the_stop() {
        let (log, readiness, stop) = (TestLog::new(8), Readiness::default(), CancellationToken::new());
        log.push(20);
        let watching = watch(log.clone(), readiness.clone(), stop.clone());
        assert_eq!(readiness.missing(), [PART], "before the first look");
        let script = async {
            two_looks().await;
            assert!(readiness.missing().is_empty());
            log.fail(true);
            two_looks().await;
            assert_eq!(readiness.missing(), [PART]);
            log.fail(false);
            two_looks().await;
            assert!(readiness.missing().is_empty());
            stop.cancel();
        };
        tokio::join!(watching, script);
    }
}
