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

/// Limits of one credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute, which is also the burst.
    pub requests_per_minute: NonZeroU32,
    /// Concurrent event streams.
    pub streams: usize,
}

/// The rights of a valid credential.
#[derive(Debug)]
pub struct Grant {
    /// The name of the token, or the subject of the JWT.
    holder: Option<String>,
    scope: Scope,
    expires: Option<Time>,
    ended: CancellationToken,
    requests: Option<DefaultDirectRateLimiter>,
    streams: Arc<Semaphore>,
}

impl Grant {
    pub(super) fn new(holder: Option<String>, scope: Scope, expires: Option<Time>, limits: Limits) -> Self {
        Self {
            holder,
            scope,
            expires,
            ended: CancellationToken::new(),
            requests: Some(RateLimiter::direct(Quota::per_minute(limits.requests_per_minute))),
            streams: Arc::new(Semaphore::new(limits.streams.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// The same rights within other limits. It ends with this one; streams that are already open count against this
    /// one's limit.
    pub(super) fn within(&self, limits: Limits) -> Self {
        Self { ended: self.ended.clone(), ..Self::new(self.holder.clone(), self.scope.clone(), self.expires, limits) }
    }

    /// The grant of everybody while no credential is needed.
    pub(super) fn anonymous() -> Self {
        Self {
            holder: None,
            scope: Scope::default(),
            expires: None,
            ended: CancellationToken::new(),
            requests: None,
            streams: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    /// Whose it is, for the log: the name of the token, or the subject of the JWT. `None` if no credential was needed.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }

    /// The scope of what it may see.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Cancelled when the credential is revoked or expires; its streams end then.
    #[must_use]
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Whether the credential can end while the server runs.
    #[must_use]
    pub fn can_end(&self) -> bool {
        self.requests.is_some()
    }

    /// Takes a stream slot, until the permit is dropped; `None` if the limit is reached.
    #[must_use]
    pub fn open_stream(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().ok()
    }

    /// Counts a request against the rate limit. The error is the time until the next one is permitted.
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
