//! JWTs of an OpenID Connect provider (RFC 7519, <https://openid.net/specs/openid-connect-discovery-1_0.html>).
//!
//! Checked are the signature by the provider's published keys, issuer, audience, and the times with a tolerance. What
//! the bearer may see comes from one claim.

use std::time::Duration;

use jsonptr::{Pointer, PointerBuf};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::RwLock;
use tokio::time::Instant;

use super::scope::{Scope, ScopeText};
use crate::model::Time;

/// Accepted signature algorithms: asymmetric ones only, since the provider's keys are public.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Age at which the provider's keys are fetched again.
const KEYS_FOR: Duration = Duration::from_secs(3600);
/// Minimum interval between two fetches, whatever keys tokens name.
const FETCH_PAUSE: Duration = Duration::from_secs(30);
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest discovery document or key set; typically a few kilobytes.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// `[auth.oidc]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// The issuer, as in the claim `iss`: `https://login.example.com/tenant`.
    pub issuer: String,
    /// The audience that `aud` must contain.
    pub audience: String,
    /// The URL of the key set; by default taken from the provider's discovery document.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// The claim that selects a grant, as a JSON pointer: a text, or a list of texts.
    #[serde(default = "default_claim")]
    pub claim: String,
    /// Tolerated clock skew, in seconds.
    #[serde(default = "default_skew")]
    pub clock_skew_secs: u64,
    /// The grants by value of the claim. The first match applies; without a match the token is refused.
    #[serde(default)]
    pub grants: Vec<ClaimGrant>,
}

/// `[[auth.oidc.grants]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimGrant {
    /// The value of the claim; `*` matches any token.
    pub value: String,
    /// The scope of its bearers; by default everything.
    #[serde(default)]
    pub scope: ScopeText,
}

fn default_claim() -> String {
    "/groups".to_owned()
}

fn default_skew() -> u64 {
    60
}

/// An invalid key of `[auth.oidc]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcMistake {
    /// The key, with its full path.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// Why `[auth.oidc]` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// A setting is invalid.
    #[error("{}: {}", .0.key, .0.message)]
    Mistake(OidcMistake),
    /// The HTTP client can't be created.
    #[error("set up the HTTP client for auth.oidc: {0}")]
    Client(#[from] reqwest::Error),
}

impl OidcConfig {
    /// All mistakes in the section.
    #[must_use]
    pub fn mistakes(&self, type_prefix: &str) -> Vec<OidcMistake> {
        let mut found = Vec::new();
        let mut tell = |key, message| found.push(OidcMistake { key, message });
        if self.claim.is_empty() || PointerBuf::parse(self.claim.as_str()).is_err() {
            let message = format!("{:?} is not a JSON pointer such as /groups or /realm_access/roles", self.claim);
            tell("auth.oidc.claim", message);
        }
        let urls = [("auth.oidc.issuer", Some(&self.issuer)), ("auth.oidc.jwks_url", self.jwks_url.as_ref())];
        for (key, url) in urls {
            if let Some(url) = url.filter(|url| !is_secure(url)) {
                tell(key, format!("{url:?} must begin with https:// (http:// is for loopback addresses only)"));
            }
        }
        if self.audience.is_empty() {
            tell("auth.oidc.audience", "must be the provider's name for this gateway: a client id or a URI".to_owned());
        }
        for ClaimGrant { value, scope } in &self.grants {
            if let Err(cause) = scope.compile(type_prefix) {
                tell("auth.oidc.grants", format!("{value:?}: {cause}"));
            }
        }
        found
    }
}

/// Why a JWT is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtRefusal {
    /// It is not a JWT, or not valid.
    #[error("{0}")]
    Invalid(String),
    /// It is valid, but its claim matches no grant.
    #[error("the token's claim {claim} has no value that grants access here")]
    NoGrant {
        /// The pointer to the claim.
        claim: String,
    },
    /// The provider's keys are not available.
    #[error("the identity provider's keys can't be fetched: {0}")]
    Unavailable(String),
}

/// What a valid JWT says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    /// `sub`.
    pub(super) subject: Option<String>,
    pub(super) scope: Scope,
    pub(super) expires: Time,
}

/// An identity provider with its keys.
#[derive(Debug)]
pub(super) struct Oidc {
    config: OidcConfig,
    claim: PointerBuf,
    grants: Vec<(String, Scope)>,
    client: reqwest::Client,
    keys: RwLock<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    set: Option<JwkSet>,
    /// The last attempt, and the last success.
    tried: Option<Instant>,
    fetched: Option<Instant>,
    failure: Option<String>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
    #[serde(flatten)]
    others: Value,
}

impl Oidc {
    pub(super) fn new(config: OidcConfig, type_prefix: &str) -> Result<Self, OidcError> {
        if let Some(mistake) = config.mistakes(type_prefix).into_iter().next() {
            return Err(OidcError::Mistake(mistake));
        }
        let claim = PointerBuf::parse(config.claim.as_str()).unwrap_or_default();
        let compile = |grant: &ClaimGrant| Some((grant.value.clone(), grant.scope.compile(type_prefix).ok()?));
        let grants = config.grants.iter().filter_map(compile).collect();
        let client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).redirect(reqwest::redirect::Policy::none());
        Ok(Self { claim, grants, client: client.build()?, keys: RwLock::default(), config })
    }

    /// Verifies a token: signature, issuer, audience, times, and a matching grant.
    pub(super) async fn check(&self, token: &str) -> Result<Bearer, JwtRefusal> {
        let invalid = |error: jsonwebtoken::errors::Error| JwtRefusal::Invalid(format!("not a valid JWT: {error}"));
        let header = decode_header(token).map_err(invalid)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(JwtRefusal::Invalid(format!("the signature algorithm {:?} is not accepted", header.alg)));
        }
        let key = self.key(header.kid.as_deref()).await?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.config.clock_skew_secs;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let Claims { exp, others } = decode(token, &key, &validation).map_err(invalid)?.claims;
        let scope = self.scope(&others)?;
        let expires = exp.saturating_add(self.config.clock_skew_secs).saturating_mul(1_000);
        let subject = others.get("sub").and_then(Value::as_str).map(str::to_owned);
        Ok(Bearer { subject, scope, expires: Time::from_millis(i64::try_from(expires).unwrap_or(i64::MAX)) })
    }

    /// The scope of the first grant that matches the claim.
    fn scope(&self, claims: &Value) -> Result<Scope, JwtRefusal> {
        let told: Vec<&str> = match resolve(&self.claim, claims) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let granted = self.grants.iter().find(|(value, _)| value == "*" || told.contains(&value.as_str()));
        let none = || JwtRefusal::NoGrant { claim: self.config.claim.clone() };
        granted.map(|(_, scope)| scope.clone()).ok_or_else(none)
    }

    /// The key named by a token, or the only key if it names none.
    async fn key(&self, kid: Option<&str>) -> Result<DecodingKey, JwtRefusal> {
        {
            let keys = self.keys.read().await;
            let fresh = keys.fetched.is_some_and(|fetched| fetched.elapsed() < KEYS_FOR);
            if let Some(key) = keys.find(kid).filter(|_| fresh) {
                return key;
            }
        }
        let mut keys = self.keys.write().await;
        // Another request may have fetched them meanwhile.
        if keys.tried.is_none_or(|tried| tried.elapsed() >= FETCH_PAUSE) {
            keys.tried = Some(Instant::now());
            match self.fetch().await {
                Ok(set) => *keys = Keys { set: Some(set), fetched: Some(Instant::now()), failure: None, ..*keys },
                Err(failure) => {
                    tracing::warn!(%failure, "the identity provider's keys can't be fetched");
                    keys.failure = Some(failure);
                }
            }
        }
        // Keys that are too old are better than none while the provider can't be reached.
        match (keys.find(kid), &keys.failure) {
            (Some(key), _) => key,
            (None, Some(failure)) => Err(JwtRefusal::Unavailable(failure.clone())),
            (None, None) => Err(JwtRefusal::Invalid("signed by a key that the provider does not publish".to_owned())),
        }
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let url = match &self.config.jwks_url {
            Some(url) => url.clone(),
            None => {
                let issuer = self.config.issuer.trim_end_matches('/');
                let found: Discovery = self.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
                if found.issuer != self.config.issuer {
                    return Err(format!("the discovery document is for the issuer {:?}", found.issuer));
                }
                if !is_secure(&found.jwks_uri) {
                    return Err(format!("jwks_uri of the discovery document is {:?}, not https://", found.jwks_uri));
                }
                found.jwks_uri
            }
        };
        self.get(&url).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let failed = |error: reqwest::Error| format!("GET {url}: {}", error.without_url());
        let mut response = self.client.get(url).send().await.and_then(|got| got.error_for_status()).map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_DOCUMENT_BYTES {
                return Err(format!("GET {url}: longer than {MAX_DOCUMENT_BYTES} bytes"));
            }
        }
        serde_json::from_slice(&body).map_err(|error| format!("GET {url}: {error}"))
    }
}

impl Keys {
    fn find(&self, kid: Option<&str>) -> Option<Result<DecodingKey, JwtRefusal>> {
        let set = self.set.as_ref()?;
        let key = match (kid, set.keys.as_slice()) {
            (Some(kid), _) => set.find(kid)?,
            (None, [only]) => only,
            (None, _) => return None,
        };
        Some(DecodingKey::from_jwk(key).map_err(|error| JwtRefusal::Invalid(format!("its key can't be used: {error}"))))
    }
}

fn resolve<'a>(pointer: &Pointer, claims: &'a Value) -> Option<&'a Value> {
    pointer.resolve(claims).ok()
}

/// Keys fetched over plain HTTP could be anyone's, so only HTTPS or the loopback interface will do.
fn is_secure(url: &str) -> bool {
    let is_loopback = |rest: &str| {
        let after = |host| rest.strip_prefix(host);
        let host_ends = |rest: &str| rest.is_empty() || rest.starts_with([':', '/']);
        ["127.0.0.1", "[::1]", "localhost"].into_iter().filter_map(after).any(host_ends)
    };
    url.starts_with("https://") || url.strip_prefix("http://").is_some_and(is_loopback)
}

#[cfg(test)]
mod tests;
