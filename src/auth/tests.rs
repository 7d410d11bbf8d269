use std::cell::Cell;

use super::*;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(1_700_000_000_000) };
}

fn now() -> Time {
    Time::from_millis(NOW.get())
}

fn pass(seconds: i64) {
    NOW.set(NOW.get() + seconds * 1_000);
}

struct Case {
    _folder: tempfile::TempDir,
    file: TokenFile,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { file: TokenFile::of(folder.path()), _folder: folder }
    }

    fn access(&self, config: AuthConfig) -> Arc<Access> {
        Access::new(config, Some(self.file.clone()), "io.catchment".to_owned(), now).unwrap()
    }

    fn token(&self, name: &str, expires: Option<i64>) -> String {
        let expires = expires.map(|seconds| Time::from_millis(NOW.get() + seconds * 1_000));
        self.file.create(name, ScopeText::default(), now(), expires).unwrap()
    }
}

async fn admit(access: &Access, credential: Credential<'_>) -> Result<Arc<Grant>, Refusal> {
    access.admit(Some(credential), PEER).await
}

#[tokio::test]
async fn without_any_credential_everybody_is_let_in_and_with_one_nobody_without() {
    let case = Case::new();
    let access = case.access(AuthConfig::default());
    assert!(access.is_local_only());
    assert!(!access.admit(None, PEER).await.unwrap().can_end());
    let token = case.token("soc", None);
    access.look().unwrap();
    assert!(!access.is_local_only());
    assert_eq!(access.admit(None, PEER).await.unwrap_err(), Refusal::Missing);
    assert!(admit(&access, Credential::Bearer(&token)).await.unwrap().can_end());
    let open = case.access(AuthConfig { anonymous: true, ..AuthConfig::default() });
    assert!(open.admit(None, PEER).await.is_ok());
    let wrong = admit(&open, Credential::Bearer("catchment_x")).await;
    assert_eq!(wrong.unwrap_err(), Refusal::Unknown("token"), "a wrong one is wrong, though none is needed");
}

#[tokio::test]
async fn a_revoked_or_expired_token_ends_what_it_began() {
    let case = Case::new();
    let (revoked, expiring) = (case.token("revoked", None), case.token("expiring", Some(60)));
    let kept = case.token("kept", None);
    let access = case.access(AuthConfig::default());
    let mut grants = Vec::new();
    for token in [&revoked, &expiring, &kept] {
        grants.push(admit(&access, Credential::Bearer(token)).await.unwrap());
    }
    let (session, _) = access.issue_session(&grants[0]).unwrap();
    case.file.revoke("revoked").unwrap();
    pass(60);
    access.look().unwrap();
    let ended: Vec<bool> = grants.iter().map(|grant| grant.ended().is_cancelled()).collect();
    assert_eq!(ended, [true, true, false]);
    for token in [&revoked, &expiring] {
        assert_eq!(admit(&access, Credential::Bearer(token)).await.unwrap_err(), Refusal::Unknown("token"));
    }
    assert_eq!(admit(&access, Credential::Session(&session)).await.unwrap_err(), Refusal::Unknown("session"));
    assert!(admit(&access, Credential::Bearer(&kept)).await.is_ok());
}

#[tokio::test]
async fn an_unreadable_file_changes_nothing() {
    let case = Case::new();
    let token = case.token("soc", None);
    let access = case.access(AuthConfig::default());
    std::fs::write(case.file.path(), "not json").unwrap();
    assert!(access.look().is_err());
    assert!(admit(&access, Credential::Bearer(&token)).await.is_ok());
    assert!(Access::new(AuthConfig::default(), Some(case.file.clone()), String::new(), now).is_err());
}

#[tokio::test]
async fn passes_stand_for_their_token() {
    let case = Case::new();
    let token = case.token("soc", Some(30));
    let access = case.access(AuthConfig::default());
    let grant = admit(&access, Credential::Bearer(&token)).await.unwrap();
    let (ticket, expires) = access.issue_ticket(&grant).unwrap();
    assert_eq!(expires, Time::from_millis(NOW.get() + 30_000), "not later than the token");
    assert!(Arc::ptr_eq(&grant, &admit(&access, Credential::Ticket(&ticket)).await.unwrap()));
    assert!(admit(&access, Credential::Ticket(&ticket)).await.is_err(), "a ticket is for one use");
    let (session, _) = access.issue_session(&grant).unwrap();
    assert!(admit(&access, Credential::Session(&session)).await.is_ok());
    assert!(admit(&access, Credential::Ticket(&session)).await.is_err(), "one kind is not the other");
    access.end_session(&session);
    assert!(admit(&access, Credential::Session(&session)).await.is_err());
}

#[tokio::test]
async fn guesses_and_requests_are_counted() {
    let case = Case::new();
    let token = case.token("soc", None);
    let limit = NonZeroU32::new(5).unwrap();
    let access = case.access(AuthConfig { requests_per_minute: limit, ..AuthConfig::default() });
    let mut outcomes = Vec::new();
    for _ in 0..6 {
        outcomes.push(admit(&access, Credential::Bearer(&token)).await.is_ok());
    }
    assert_eq!(outcomes, [true, true, true, true, true, false]);
    for guess in 0..FAILURES_PER_MINUTE.get() {
        let refusal = admit(&access, Credential::Bearer(&format!("catchment_{guess}"))).await.unwrap_err();
        assert_eq!(refusal, Refusal::Unknown("token"));
    }
    let refusal = admit(&access, Credential::Bearer("catchment_last")).await.unwrap_err();
    assert!(matches!(refusal, Refusal::TooManyFailures { .. }));
    let elsewhere = IpAddr::from([192, 0, 2, 1]);
    let refusal = access.admit(Some(Credential::Bearer("catchment_last")), elsewhere).await.unwrap_err();
    assert_eq!(refusal, Refusal::Unknown("token"), "other addresses are counted by themselves");
}

#[test]
fn streams_of_one_credential_are_bounded() {
    let limits = Limits { requests_per_minute: NonZeroU32::MIN, streams: 2 };
    let grant = Grant::new(None, Scope::default(), None, limits);
    let held: Vec<_> = (0..2).map(|_| grant.open_stream().unwrap()).collect();
    assert!(grant.open_stream().is_none());
    drop(held);
    assert!(grant.open_stream().is_some());
}

#[tokio::test]
async fn the_last_token_that_is_revoked_opens_nothing() {
    let case = Case::new();
    case.token("soc", None);
    let access = case.access(AuthConfig::default());
    case.file.revoke("soc").unwrap();
    access.look().unwrap();
    assert_eq!(access.admit(None, PEER).await.unwrap_err(), Refusal::Missing);
    assert!(!access.is_local_only());
}

#[tokio::test]
async fn other_settings_hold_from_the_next_request_on() {
    let case = Case::new();
    let token = case.token("soc", None);
    let access = case.access(AuthConfig { streams_per_token: 1, ..AuthConfig::default() });
    let grant = admit(&access, Credential::Bearer(&token)).await.unwrap();
    let _stream = grant.open_stream().unwrap();
    assert!(grant.open_stream().is_none());
    access.reconfigure(AuthConfig { streams_per_token: 2, anonymous: true, ..AuthConfig::default() }).unwrap();
    let more = admit(&access, Credential::Bearer(&token)).await.unwrap();
    assert!(more.open_stream().is_some() && access.admit(None, PEER).await.is_ok());
    case.file.revoke("soc").unwrap();
    access.look().unwrap();
    assert!(grant.ended().is_cancelled() && more.ended().is_cancelled(), "what began under either ends");
    let wrong =
        AuthConfig { oidc: Some(toml::from_str("issuer = \"x\"\naudience = \"\"").unwrap()), ..AuthConfig::default() };
    assert!(access.reconfigure(wrong).is_err());
    assert!(access.admit(None, PEER).await.is_ok(), "those before stay in force");
}
