//! What a credential permits.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::scope::Scope;
use crate::model::Time;

/// How much the bearer of one credential may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests a minute; as many may come at once.
    pub requests_per_minute: NonZeroU32,
    /// Event streams open at once.
    pub streams: usize,
}

/// A credential that was found good.
#[derive(Debug)]
pub struct Grant {
    scope: Scope,
    expires: Option<Time>,
    ended: CancellationToken,
    requests: Option<DefaultDirectRateLimiter>,
    streams: Arc<Semaphore>,
}

impl Grant {
    pub(super) fn new(scope: Scope, expires: Option<Time>, limits: Limits) -> Self {
        Self {
            scope,
            expires,
            ended: CancellationToken::new(),
            requests: Some(RateLimiter::direct(Quota::per_minute(limits.requests_per_minute))),
            streams: Arc::new(Semaphore::new(limits.streams.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// The same within other limits. It ends with this one; streams that are open count here.
    pub(super) fn within(&self, limits: Limits) -> Self {
        Self { ended: self.ended.clone(), ..Self::new(self.scope.clone(), self.expires, limits) }
    }

    /// Everybody's, where no credential is asked for.
    pub(super) fn anonymous() -> Self {
        Self {
            scope: Scope::default(),
            expires: None,
            ended: CancellationToken::new(),
            requests: None,
            streams: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    /// What it may see.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Cancelled when it is revoked or expires: what was begun with it ends then.
    #[must_use]
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Whether it can end while the server runs.
    #[must_use]
    pub fn can_end(&self) -> bool {
        self.requests.is_some()
    }

    /// A place for one more stream.
    #[must_use]
    pub fn open_stream(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().ok()
    }

    /// Counts a request; an error tells how long to wait for the next.
    pub(super) fn count_request(&self) -> Result<(), Duration> {
        let Some(requests) = &self.requests else { return Ok(()) };
        requests.check().map_err(|refused| refused.wait_time_from(DefaultClock::default().now()))
    }

    pub(super) fn is_over(&self, now: Time) -> bool {
        self.ended.is_cancelled() || self.expires.is_some_and(|expires| expires <= now)
    }

    pub(super) fn expires(&self) -> Option<Time> {
        self.expires
    }
}
