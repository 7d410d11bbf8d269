//! Who may see what: bearer tokens of our own, JWTs of an OpenID Connect provider, and what stands in for them in a
//! browser.
//!
//! A credential is found good once per request and becomes a [`Grant`]: its [`Scope`] is ANDed to whatever is asked
//! for, its limits bound how much that is, and what it began ends with it. Where no credential is configured, nobody is
//! asked for one; the gateway then listens on a loopback address only.

mod grant;
mod oidc;
mod scope;
mod session;
mod token;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

pub use grant::{Grant, Limits};
pub use oidc::{ClaimGrant, JwtRefusal, OidcConfig, OidcError, OidcMistake};
pub use scope::{Scope, ScopeError, ScopeText};
pub use token::{PREFIX, TokenError, TokenFile, TokenHash, TokenRecord};

use crate::model::Time;
use oidc::Oidc;
use session::Passes;

/// How soon a created or revoked token takes effect.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Lifetime of a browser's session.
pub const SESSION: Duration = Duration::from_secs(12 * 3600);
/// Lifetime of a ticket.
const TICKET: Duration = Duration::from_secs(60);
/// Most valid JWTs cached, so that each signature is verified once.
const MAX_JWTS: usize = 10_000;
/// Invalid credentials permitted per address and minute.
const FAILURES_PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();

/// `[auth]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// The tokens file; by default `tokens.json` in the data directory.
    pub tokens_file: Option<PathBuf>,
    /// Serve everything to everybody who can reach the address, without credentials.
    pub anonymous: bool,
    /// Accept tokens as `access_token` in the query too (RFC 6750, section 2.3), although proxies log them there.
    pub query_tokens: bool,
    /// Requests per minute with one credential.
    pub requests_per_minute: NonZeroU32,
    /// Concurrent event streams with one credential.
    pub streams_per_token: usize,
    /// `[auth.oidc]`.
    pub oidc: Option<OidcConfig>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            tokens_file: None,
            anonymous: false,
            query_tokens: false,
            requests_per_minute: NonZeroU32::new(1_200).unwrap_or(NonZeroU32::MIN),
            streams_per_token: 10_000,
            oidc: None,
        }
    }
}

/// Why authentication can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The tokens can't be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The scope of a token is invalid.
    #[error("token {name}: {cause}; revoke it and create another")]
    Scope {
        /// The token's name.
        name: String,
        /// What is wrong.
        cause: ScopeError,
    },
    /// `[auth.oidc]` is invalid.
    #[error(transparent)]
    Oidc(#[from] OidcError),
}

/// A credential as presented by a client.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// `Authorization: Bearer`.
    Bearer(&'a str),
    /// A ticket, in the query.
    Ticket(&'a str),
    /// A browser's session, in a cookie.
    Session(&'a str),
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request has no credential.
    #[error("a credential is required: Authorization: Bearer with a token from catchment token create")]
    Missing,
    /// The credential is unknown, revoked or expired; its kind.
    #[error("the {0} is unknown; it may have expired or been revoked")]
    Unknown(&'static str),
    /// The JWT was refused.
    #[error(transparent)]
    Jwt(#[from] JwtRefusal),
    /// The credential has exceeded its request rate.
    #[error("the request limit of this credential is exceeded")]
    TooManyRequests {
        /// Time until the next request is permitted.
        retry_after: Duration,
    },
    /// The address has tried too many invalid credentials.
    #[error("too many wrong credentials from this address")]
    TooManyFailures {
        /// Time until the next try is permitted.
        retry_after: Duration,
    },
}

/// Authenticates requests.
#[derive(Debug)]
pub struct Access {
    settings: ArcSwap<Settings>,
    type_prefix: String,
    file: Option<TokenFile>,
    tokens: RwLock<Vec<Known>>,
    /// Whether a credential has ever been configured. From then on one is required, so that revoking the last token
    /// does not open the server.
    guarded: AtomicBool,
    jwts: Mutex<HashMap<TokenHash, Arc<Grant>>>,
    sessions: Passes,
    tickets: Passes,
    failures: DefaultKeyedRateLimiter<IpAddr>,
    anonymous: Arc<Grant>,
    clock: fn() -> Time,
}

/// The part that can be reconfigured at run time.
#[derive(Debug)]
struct Settings {
    config: AuthConfig,
    oidc: Option<Oidc>,
}

impl Settings {
    fn new(config: AuthConfig, type_prefix: &str) -> Result<Self, AuthError> {
        let oidc = config.oidc.clone().map(|oidc| Oidc::new(oidc, type_prefix)).transpose()?;
        Ok(Self { config, oidc })
    }

    fn limits(&self) -> Limits {
        Limits { requests_per_minute: self.config.requests_per_minute, streams: self.config.streams_per_token }
    }
}

#[derive(Debug)]
struct Known {
    record: TokenRecord,
    grant: Arc<Grant>,
}

impl Access {
    /// Reads the tokens and sets up authentication. `file` is the default tokens file; `None` for a gateway without a
    /// data directory.
    ///
    /// # Errors
    /// When the tokens can't be read, or a scope or `[auth.oidc]` is invalid.
    pub fn new(
        config: AuthConfig,
        file: Option<TokenFile>,
        type_prefix: String,
        clock: fn() -> Time,
    ) -> Result<Arc<Self>, AuthError> {
        let file = config.tokens_file.clone().map(TokenFile::new).or(file);
        let settings = Settings::new(config, &type_prefix)?;
        let guarded = AtomicBool::new(settings.oidc.is_some());
        let access = Self {
            settings: ArcSwap::from_pointee(settings),
            type_prefix,
            file,
            tokens: RwLock::default(),
            guarded,
            jwts: Mutex::default(),
            sessions: Passes::new("session_", SESSION, false),
            tickets: Passes::new("ticket_", TICKET, true),
            failures: RateLimiter::keyed(Quota::per_minute(FAILURES_PER_MINUTE)),
            anonymous: Arc::new(Grant::anonymous()),
            clock,
        };
        if let Some(file) = &access.file {
            access.take(file.read()?)?;
        }
        Ok(Arc::new(access))
    }

    /// Applies a changed `[auth]`. Tokens stay valid, within the new limits. If `[auth.oidc]` changed, the grants of
    /// JWTs end and their bearers must present them again.
    ///
    /// # Errors
    /// When `[auth.oidc]` is invalid; nothing changes then.
    pub fn reconfigure(&self, config: AuthConfig) -> Result<(), AuthError> {
        let before = self.settings.load_full();
        if before.config == config {
            return Ok(());
        }
        let settings = Arc::new(Settings::new(config, &self.type_prefix)?);
        if settings.oidc.is_some() {
            self.guarded.store(true, Ordering::Relaxed);
        }
        let (limits, other_provider) = (settings.limits(), settings.config.oidc != before.config.oidc);
        self.settings.store(settings);
        for known in &mut *self.tokens.write().unwrap_or_else(PoisonError::into_inner) {
            known.grant = Arc::new(known.grant.within(limits));
        }
        if other_provider {
            let mut jwts = self.jwts.lock().unwrap_or_else(PoisonError::into_inner);
            jwts.drain().for_each(|(_, grant)| grant.ended().cancel());
        }
        Ok(())
    }

    /// Whether no credential is configured or ever was, so that none can be required.
    #[must_use]
    pub fn is_unconfigured(&self) -> bool {
        !self.guarded.load(Ordering::Relaxed)
    }

    /// The number of valid tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        let now = (self.clock)();
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).iter().filter(|it| !it.grant.is_over(now)).count()
    }

    /// Whether everybody is admitted because no credential exists, rather than by `auth.anonymous`.
    #[must_use]
    pub fn is_local_only(&self) -> bool {
        !self.settings.load().config.anonymous && self.is_unconfigured()
    }

    /// Whether `access_token` in the query is accepted.
    #[must_use]
    pub fn takes_query_tokens(&self) -> bool {
        self.settings.load().config.query_tokens
    }

    /// Authenticates a request from `peer`, and counts it against the credential's rate limit.
    ///
    /// # Errors
    /// With the reason, for client and log.
    pub async fn admit(&self, credential: Option<Credential<'_>>, peer: IpAddr) -> Result<Arc<Grant>, Refusal> {
        let Some(credential) = credential else {
            let open = self.settings.load().config.anonymous || self.is_unconfigured();
            return if open { Ok(Arc::clone(&self.anonymous)) } else { Err(Refusal::Missing) };
        };
        let now = (self.clock)();
        let grant = match self.find(credential, now).await {
            Ok(grant) => grant,
            Err(refusal) => return Err(self.failed(refusal, peer)),
        };
        grant.count_request().map_err(|retry_after| Refusal::TooManyRequests { retry_after })?;
        Ok(grant)
    }

    async fn find(&self, credential: Credential<'_>, now: Time) -> Result<Arc<Grant>, Refusal> {
        match credential {
            Credential::Ticket(ticket) => self.tickets.redeem(ticket, now).ok_or(Refusal::Unknown("ticket")),
            Credential::Session(session) => self.sessions.redeem(session, now).ok_or(Refusal::Unknown("session")),
            Credential::Bearer(token) => {
                let settings = self.settings.load_full();
                match &settings.oidc {
                    Some(oidc) if !token.starts_with(PREFIX) => self.jwt(oidc, settings.limits(), token, now).await,
                    _ => self.token(token, now).ok_or(Refusal::Unknown("token")),
                }
            }
        }
    }

    /// Compares every token, so that timing reveals nothing.
    fn token(&self, token: &str, now: Time) -> Option<Arc<Grant>> {
        let hash = TokenHash::of(token);
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for known in &*tokens {
            if known.record.sha256.is(&hash) {
                found = Some(&known.grant);
            }
        }
        found.filter(|grant| !grant.is_over(now)).cloned()
    }

    async fn jwt(&self, oidc: &Oidc, limits: Limits, token: &str, now: Time) -> Result<Arc<Grant>, Refusal> {
        let hash = TokenHash::of(token);
        let known = self.jwts.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        if let Some(grant) = known.filter(|grant| !grant.is_over(now)) {
            return Ok(grant);
        }
        let bearer = oidc.check(token).await?;
        let grant = Arc::new(Grant::new(bearer.subject, bearer.scope, Some(bearer.expires), limits));
        let mut jwts = self.jwts.lock().unwrap_or_else(PoisonError::into_inner);
        if jwts.len() >= MAX_JWTS {
            jwts.retain(|_, grant| !grant.is_over(now));
        }
        if jwts.len() < MAX_JWTS {
            // Two requests at once: the first one's limits count for both.
            return Ok(Arc::clone(jwts.entry(hash).or_insert(grant)));
        }
        Ok(grant)
    }

    /// Counts an invalid credential against the address. A failure of the identity provider does not count.
    fn failed(&self, refusal: Refusal, peer: IpAddr) -> Refusal {
        if matches!(refusal, Refusal::Jwt(JwtRefusal::Unavailable(_) | JwtRefusal::NoGrant { .. })) {
            return refusal;
        }
        match self.failures.check_key(&peer) {
            Ok(()) => refusal,
            Err(refused) => {
                Refusal::TooManyFailures { retry_after: refused.wait_time_from(DefaultClock::default().now()) }
            }
        }
    }

    /// Issues a ticket that opens one stream within a minute, for an EventSource that can't send headers. Returns it
    /// with its expiry.
    ///
    /// # Errors
    /// When the system provides no random bytes.
    pub fn issue_ticket(&self, grant: &Arc<Grant>) -> Result<(String, Time), TokenError> {
        self.tickets.issue(grant, (self.clock)())
    }

    /// Starts a session with the rights of the credential. Returns the value for the cookie with its expiry.
    ///
    /// # Errors
    /// When the system provides no random bytes.
    pub fn issue_session(&self, grant: &Arc<Grant>) -> Result<(String, Time), TokenError> {
        self.sessions.issue(grant, (self.clock)())
    }

    /// Ends a session.
    pub fn end_session(&self, session: &str) {
        self.sessions.withdraw(session);
    }

    /// Applies changes of the tokens file and ends expired grants, until `stop` is cancelled.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut failure = None;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let access = Arc::clone(&self);
            // Reading the file may block.
            let Ok(outcome) = tokio::task::spawn_blocking(move || access.look()).await else { continue };
            let told = outcome.err().map(|error| error.to_string());
            if let Some(error) = told.as_ref().filter(|_| told != failure) {
                tracing::error!(error, "the tokens can't be read; the previous ones stay in force");
            }
            failure = told;
        }
    }

    fn look(&self) -> Result<(), AuthError> {
        let now = (self.clock)();
        let outcome = self.file.as_ref().map_or(Ok(()), |file| self.take(file.read()?));
        for known in &*self.tokens.read().unwrap_or_else(PoisonError::into_inner) {
            if known.grant.is_over(now) {
                known.grant.ended().cancel();
            }
        }
        self.jwts.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, grant| {
            let over = grant.is_over(now);
            if over {
                grant.ended().cancel();
            }
            !over
        });
        self.sessions.sweep(now);
        self.tickets.sweep(now);
        self.failures.retain_recent();
        outcome
    }

    /// Replaces the tokens. The grants of missing ones end at once.
    fn take(&self, records: Vec<TokenRecord>) -> Result<(), AuthError> {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        if tokens.iter().map(|known| &known.record).eq(&records) {
            return Ok(());
        }
        if !records.is_empty() {
            self.guarded.store(true, Ordering::Relaxed);
        }
        let limits = self.settings.load().limits();
        let mut next = Vec::with_capacity(records.len());
        for record in records {
            let kept = tokens.iter().find(|known| known.record == record).map(|known| Arc::clone(&known.grant));
            let grant = match kept {
                Some(grant) => grant,
                None => {
                    let failed = |cause| AuthError::Scope { name: record.name.clone(), cause };
                    let scope = record.scope.compile(&self.type_prefix).map_err(failed)?;
                    Arc::new(Grant::new(Some(record.name.clone()), scope, record.expires, limits))
                }
            };
            next.push(Known { record, grant });
        }
        for known in std::mem::replace(&mut *tokens, next) {
            if !tokens.iter().any(|token| Arc::ptr_eq(&token.grant, &known.grant)) {
                tracing::info!(target: "audit", token = %known.record.name, "token ended");
                known.grant.ended().cancel();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
