//! Periodically drops the events that retention no longer covers, with protection against a clock that jumps.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::log::{EventLog, LogError};
use crate::model::{Seq, Time};
use crate::source::Clock;

/// Interval of retention by age.
const EVERY: Duration = Duration::from_secs(60);
/// How far the clock may deviate between two passes before that counts as a jump.
const TOLERANCE: Duration = Duration::from_secs(600);
/// How long a clock that jumped must stay consistent before events are dropped by it.
const DOUBT: Duration = Duration::from_secs(3_600);

/// Applies retention until `stop` is cancelled. `max_age` is the age limit, if any.
pub(super) async fn retain(log: Arc<dyn EventLog>, max_age: Option<Duration>, clock: Clock, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    let mut steady = SteadyClock::default();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let (log, at, now) = (Arc::clone(&log), Instant::now(), clock.now());
        let work = move || {
            if steady.is_new() && is_all_too_old(&*log, max_age, now)? {
                warn!(%now, "even the newest event is older than log.retention_days: nothing is dropped for an hour, in case the clock is wrong");
                steady.doubt(at, Time::from_millis(i64::MIN));
            }
            log.retain(steady.time(at, now))?;
            Ok::<_, LogError>(steady)
        };
        match spawn_blocking(work).await {
            Ok(Ok(kept)) => steady = kept,
            Ok(Err(error)) => warn!(%error, "retention failed; retrying later"),
            Err(error) => error!(%error, "retention panicked"),
        }
    }
}

/// Whether the age limit would drop every event.
fn is_all_too_old(log: &dyn EventLog, max_age: Option<Duration>, now: Time) -> Result<bool, LogError> {
    let tail = *log.tail().borrow();
    let Some(max_age) = max_age.filter(|_| tail >= log.floor() && tail > Seq(0)) else { return Ok(false) };
    let age = i64::try_from(max_age.as_millis()).unwrap_or(i64::MAX);
    let oldest = Time::from_millis(now.millis().saturating_sub(age));
    Ok(log.first_observed_since(oldest)? > tail)
}

/// A clock that ignores jumps of the system clock while they are in doubt.
#[derive(Clone, Copy, Debug, Default)]
struct SteadyClock {
    /// When the system clock was read last, and its time.
    last: Option<(Instant, Time)>,
    /// Until when the system clock is doubted; an instant, and the time assumed for that instant.
    doubt: Option<(Instant, Instant, Time)>,
}

impl SteadyClock {
    fn is_new(&self) -> bool {
        self.last.is_none() && self.doubt.is_none()
    }

    /// Continues from `time` at the instant `at`, for as long as the doubt lasts.
    fn doubt(&mut self, at: Instant, time: Time) {
        self.doubt = Some((at + DOUBT, at, time));
    }

    /// The time to use when the system clock reads `now`.
    fn time(&mut self, at: Instant, now: Time) -> Time {
        if let Some((then, before)) = self.last.replace((at, now)) {
            let steady = later(before, at.saturating_duration_since(then));
            if now.millis().abs_diff(steady.millis()) > u64::try_from(TOLERANCE.as_millis()).unwrap_or(u64::MAX) {
                warn!(expected = %steady, %now, "the clock has jumped; retention follows it only if it stays so for an hour");
                // After several jumps, the time before the first is still the most trustworthy.
                let believed = self.doubted(then).map_or(before, |time| time);
                self.doubt(then, believed);
            }
        }
        self.doubted(at).unwrap_or(now)
    }

    fn doubted(&self, at: Instant) -> Option<Time> {
        let (until, since, time) = self.doubt?;
        (at < until).then(|| later(time, at.saturating_duration_since(since)))
    }
}

fn later(time: Time, passed: Duration) -> Time {
    Time::from_millis(time.millis().saturating_add(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::log::testing::event;
    use crate::log::{Batch, MemoryLog, Retention};
    use crate::metrics::Metrics;

    const DAY: i64 = 86_400_000;
    const YEAR: i64 = 365 * DAY;

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    #[test]
    fn a_clock_that_goes_on_is_believed_and_one_that_jumps_is_not_at_first() {
        let (start, mut clock) = (Instant::now(), SteadyClock::default());
        let mut ask = |minute: u64, now: i64| clock.time(start + minutes(minute), Time::from_millis(now)).millis();
        let minute = 60_000;
        assert_eq!(ask(0, 0), 0);
        assert_eq!(ask(1, minute + 5_000), minute + 5_000, "a second or two off is no jump");
        assert_eq!(ask(2, 5 * YEAR), 2 * minute + 5_000, "a jump ahead");
        assert_eq!(ask(3, 5 * YEAR + minute), 3 * minute + 5_000);
        assert_eq!(ask(4, 4 * minute), 4 * minute + 5_000, "and back");
        assert_eq!(ask(5, 9 * YEAR), 5 * minute + 5_000, "one after another");
        for minute_of_doubt in 6..64 {
            let told = ask(minute_of_doubt, 9 * YEAR + (i64::try_from(minute_of_doubt).unwrap() - 5) * minute);
            assert_eq!(told, i64::try_from(minute_of_doubt).unwrap() * minute + 5_000);
        }
        assert_eq!(ask(65, 9 * YEAR + 60 * minute), 9 * YEAR + 60 * minute, "it stayed so for an hour");
    }

    fn log(observed: i64) -> Arc<MemoryLog> {
        let retention = Retention { max_age: Some(Duration::from_secs(86_400)), ..Retention::default() };
        let log = MemoryLog::new(retention, Arc::new(Metrics::new().unwrap()));
        let events = vec![event(0, "a", observed)];
        drop(log.append(Batch { events, ..Batch::default() }).unwrap());
        Arc::new(log)
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_of_years_drops_nothing_within_an_hour_and_an_old_log_neither() {
        for (observed, begins) in [(0, 0), (0, 5 * YEAR)] {
            let log = log(observed);
            let told = Arc::new(AtomicI64::new(begins));
            let clock = {
                let told = Arc::clone(&told);
                Clock::from_fn(move || Time::from_millis(told.load(Ordering::SeqCst)))
            };
            let stop = CancellationToken::new();
            let task =
                retain(Arc::clone(&log) as Arc<dyn EventLog>, Some(Duration::from_secs(86_400)), clock, stop.clone());
            let watch = async {
                let mut kept = 0;
                while log.floor() == Seq(1) && kept < 600 {
                    tokio::time::sleep(minutes(1)).await;
                    kept += 1;
                    if kept == 2 {
                        told.store(5 * YEAR, Ordering::SeqCst);
                    }
                    told.fetch_add(60_000, Ordering::SeqCst);
                    // A pass does its work on another thread, for which the paused clock does not wait.
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                stop.cancel();
                kept
            };
            let ((), kept) = tokio::join!(task, watch);
            assert!((58..=65).contains(&kept), "dropped after {kept} minutes, from {begins}");
        }
    }
}
