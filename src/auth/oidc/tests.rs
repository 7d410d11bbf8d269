use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::Json;
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::*;

/// A provider on the loopback interface that publishes one key at a time.
struct Provider {
    issuer: String,
    key: Arc<std::sync::Mutex<(String, EncodingKey)>>,
    fetches: Arc<AtomicUsize>,
}

fn new_key() -> EncodingKey {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    EncodingKey::from_ec_der(pkcs8.as_ref())
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}/tenant", listener.local_addr().unwrap());
        let key = Arc::new(std::sync::Mutex::new(("one".to_owned(), new_key())));
        let fetches = Arc::new(AtomicUsize::new(0));
        let discovery = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") });
        let (published, counted) = (Arc::clone(&key), Arc::clone(&fetches));
        let keys = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let (kid, key) = &*published.lock().unwrap();
            let mut jwk = Jwk::from_encoding_key(key, Algorithm::ES256).unwrap();
            jwk.common.key_id = Some(kid.clone());
            let body = Json(json!({ "keys": [jwk] }));
            async { body }
        };
        let router = axum::Router::new()
            .route("/tenant/.well-known/openid-configuration", get(async || Json(discovery)))
            .route("/tenant/keys", get(keys));
        TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
        Self { issuer, key, fetches }
    }

    fn config(&self) -> OidcConfig {
        let grant = |value: &str, scope| ClaimGrant { value: value.to_owned(), scope };
        OidcConfig {
            issuer: self.issuer.clone(),
            audience: "catchment".to_owned(),
            jwks_url: None,
            claim: "/groups".to_owned(),
            clock_skew_secs: 60,
            grants: vec![grant("security", ScopeText::default()), grant("payments", payments())],
        }
    }

    fn oidc(&self) -> Oidc {
        Oidc::new(self.config(), "io.catchment").unwrap()
    }

    /// A token that is good but for what `change` puts into its claims.
    fn token(&self, change: &[(&str, Value)]) -> String {
        let mut claims = json!({
            "iss": self.issuer, "aud": ["catchment", "other"], "exp": now() + 600, "nbf": now() - 10,
            "sub": "00u1", "email": "jane@example.com", "groups": ["staff", "security"],
        });
        for (name, value) in change {
            claims[*name] = value.clone();
        }
        let (kid, key) = &*self.key.lock().unwrap();
        let header = Header { kid: Some(kid.clone()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, key).unwrap()
    }
}

/// What the grant to `payments` shows.
fn payments() -> ScopeText {
    ScopeText([("account".to_owned(), "111122223333".to_owned())].into())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_good_token_gives_the_first_grant_that_its_claim_names() {
    let provider = Provider::start().await;
    let oidc = provider.oidc();
    let bearer = oidc.check(&provider.token(&[])).await.unwrap();
    assert!(bearer.scope.is_everything());
    let bearer = oidc.check(&provider.token(&[("groups", json!("payments"))])).await.unwrap();
    assert_eq!(bearer.scope, payments().compile("io.catchment").unwrap());
    let refusal = oidc.check(&provider.token(&[("groups", json!(["staff"]))])).await.unwrap_err();
    assert_eq!(refusal, JwtRefusal::NoGrant { claim: "/groups".to_owned() });
    assert_eq!(provider.fetches.load(Ordering::Relaxed), 1, "the keys are fetched once");
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_told() {
    let provider = Provider::start().await;
    let oidc = provider.oidc();
    for (change, expected) in [
        (("iss", json!("https://elsewhere.example.com")), "InvalidIssuer"),
        (("aud", json!("another")), "InvalidAudience"),
        (("exp", json!(now() - 61)), "ExpiredSignature"),
        (("nbf", json!(now() + 90)), "ImmatureSignature"),
        (("exp", json!("tomorrow")), "JSON"),
    ] {
        let name = change.0;
        let refusal = oidc.check(&provider.token(&[change])).await.unwrap_err();
        assert!(matches!(&refusal, JwtRefusal::Invalid(text) if text.contains(expected)), "{name}: {refusal}");
    }
    let within = [("exp", json!(now() - 30)), ("nbf", json!(now() + 30))];
    assert!(oidc.check(&provider.token(&within)).await.is_ok(), "the tolerance covers half a minute");
}

#[tokio::test]
async fn a_signature_that_is_not_the_providers_gives_nothing() {
    let provider = Provider::start().await;
    let oidc = provider.oidc();
    let good = provider.token(&[]);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let swapped: String = signature.chars().rev().collect();
    let claims = json!({ "iss": provider.issuer, "aud": "catchment", "exp": now() + 60, "groups": "security" });
    let symmetric = encode(&Header::default(), &claims, &EncodingKey::from_secret(b"guess")).unwrap();
    let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::ES256) };
    let stranger = encode(&header, &claims, &new_key()).unwrap();
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap());
    for token in [&format!("{head}.{swapped}"), &symmetric, &stranger, &unsigned, "a.b.c", "", "x"] {
        assert!(matches!(oidc.check(token).await, Err(JwtRefusal::Invalid(_))), "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_fetched_but_not_at_every_guess() {
    let provider = Provider::start().await;
    let oidc = provider.oidc();
    oidc.check(&provider.token(&[])).await.unwrap();
    *provider.key.lock().unwrap() = ("two".to_owned(), new_key());
    let rotated = provider.token(&[]);
    assert!(oidc.check(&rotated).await.is_err(), "within the pause nothing is fetched");
    assert_eq!(provider.fetches.load(Ordering::Relaxed), 1);
    tokio::time::advance(FETCH_PAUSE).await;
    tokio::time::resume();
    oidc.check(&rotated).await.unwrap();
    assert_eq!(provider.fetches.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_provider_that_is_away_is_no_verdict_on_the_token() {
    let provider = Provider::start().await;
    let mut config = provider.config();
    config.jwks_url = Some("http://127.0.0.1:9/keys".to_owned());
    let oidc = Oidc::new(config, "io.catchment").unwrap();
    assert!(matches!(oidc.check(&provider.token(&[])).await, Err(JwtRefusal::Unavailable(_))));
}

#[test]
fn every_mistake_of_the_section_is_told() {
    let config = OidcConfig {
        issuer: "http://login.example.com".to_owned(),
        audience: String::new(),
        jwks_url: Some("http://localhost.example.com/keys".to_owned()),
        claim: "groups".to_owned(),
        clock_skew_secs: 60,
        grants: vec![ClaimGrant {
            value: "a".to_owned(),
            scope: ScopeText([("acount".to_owned(), "1".to_owned())].into()),
        }],
    };
    let keys: Vec<&str> = config.mistakes("io.catchment").into_iter().map(|mistake| mistake.key).collect();
    let expected =
        ["auth.oidc.claim", "auth.oidc.issuer", "auth.oidc.jwks_url", "auth.oidc.audience", "auth.oidc.grants"];
    assert_eq!(keys, expected);
}
