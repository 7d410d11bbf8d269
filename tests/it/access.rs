//! Credentials, through the real binary: tokens, scopes, browsers' cookies and tickets, revocation.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::program::{Finished, catchment, finish};
use crate::support::server::{Server, folder, serve};
use crate::support::trail::create_group;

const OTHER_ACCOUNT: &str = "444455556666";

/// A gateway with one event in each of two accounts.
struct Case {
    folder: tempfile::TempDir,
    config: String,
}

impl Case {
    fn new(more: &str) -> Self {
        let folder = folder();
        let records = folder.path().join("trail");
        std::fs::create_dir(&records).unwrap();
        let ours = create_group("ours");
        let mut theirs = create_group("theirs");
        theirs["recipientAccountId"] = OTHER_ACCOUNT.into();
        theirs["userIdentity"]["accountId"] = OTHER_ACCOUNT.into();
        std::fs::write(records.join("records.jsonl"), format!("{ours}\n{theirs}\n")).unwrap();
        let data = folder.path().join("data");
        let config =
            format!("data_dir = {data:?}\n{more}\n[sources.trail.file]\npath = {records:?}\npoll_millis = 10\n");
        Self { folder, config }
    }

    fn token(&self, arguments: &[&str]) -> Finished {
        let path = self.folder.path().join("catchment.toml");
        std::fs::write(&path, &self.config).unwrap();
        finish(catchment().arg("token").args(arguments).arg("--config").arg(path), b"")
    }

    fn create(&self, arguments: &[&str]) -> String {
        let made = self.token(&[&["create"], arguments].concat());
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        made.stdout.trim().to_owned()
    }

    fn serve(&self) -> Server {
        Server::start(serve(self.folder.path(), &self.config))
    }
}

/// Status, headers (in lower case) and body of a request by curl.
fn curl(server: &Server, path: &str, arguments: &[&str]) -> (u16, String, String) {
    let mut command = Command::new("curl");
    command.args(["-s", "-i", "--max-time", "30"]).args(arguments).arg(server.url(path));
    let told = finish(&mut command, b"");
    let (head, body) = told.stdout.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {told:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn code(body: &str) -> String {
    serde_json::from_str::<Value>(body).unwrap()["code"].as_str().unwrap().to_owned()
}

const BOTH: &str = "/v1/events?format=ndjson&since=2000-01-01T00:00:00Z&limit=2";
const ALL: &str = "/v1/events?format=ndjson&since=2000-01-01T00:00:00Z&until=1s";

/// The accounts of all events that a token sees.
fn accounts(server: &Server, token: &str) -> Vec<String> {
    let (status, _, body) = curl(server, ALL, &["-H", &bearer(token)]);
    assert_eq!(status, 200, "{body}");
    let account = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["data"]["asset"]["account"].as_str().unwrap().to_owned()
    };
    body.lines().map(account).collect()
}

#[test]
fn who_has_no_token_gets_nothing() {
    let case = Case::new("");
    let token = case.create(&["all"]);
    let server = case.serve();
    for path in
        ["/v1/events", "/v1/assets", "/v1/assets/x", "/v1/events/x", "/v1/sources", "/v1/quarantine", "/metrics"]
    {
        let (status, head, body) = curl(&server, path, &[]);
        assert_eq!((status, code(&body).as_str()), (401, "unauthorized"), "{path}");
        assert!(head.contains("www-authenticate: bearer realm=\"catchment\""), "{head}");
        let wrong = bearer("catchment_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        let (status, _, body) = curl(&server, path, &["-H", &wrong]);
        assert_eq!((status, code(&body).as_str()), (401, "bad_credential"), "{path}");
    }
    for path in ["/", "/healthz", "/readyz", "/v1/schema"] {
        assert_eq!(curl(&server, path, &[]).0, 200, "{path}");
    }
    let (status, _, body) = curl(&server, BOTH, &["-H", &bearer(&token)]);
    assert_eq!((status, body.lines().count()), (200, 2));
    let (status, _, body) = curl(&server, &format!("/v1/assets?access_token={token}"), &[]);
    assert_eq!((status, code(&body).as_str()), (401, "query_token"));
    let log = server.wait_for_log(&["request refused", "\"credential\":\"all\"", "stream opened"]);
    assert!(!log.contains(&token[10..]), "{log}");
}

#[test]
fn a_scope_cuts_everything_that_its_token_sees() {
    let case = Case::new("");
    let (all, scoped) =
        (case.create(&["all"]), case.create(&["one", "--scope", &format!("account={OTHER_ACCOUNT}"), "--hide", "raw"]));
    let server = case.serve();
    let (_, _, body) = curl(&server, BOTH, &["-H", &bearer(&all)]);
    let events: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (ours, theirs): (Vec<_>, Vec<_>) =
        events.iter().partition(|event| event["data"]["asset"]["account"] != OTHER_ACCOUNT);
    let (ours, theirs) = (ours[0], theirs[0]);
    assert_eq!(accounts(&server, &scoped), [OTHER_ACCOUNT]);
    let header = bearer(&scoped);
    let ask = |path: &str| curl(&server, path, &["-H", &header]);
    let id = |event: &Value| format!("/v1/events/{}", event["id"].as_str().unwrap());
    let asset = |event: &Value| format!("/v1/assets/{}", event["subject"].as_str().unwrap());
    assert_eq!(ask(&id(ours)).0, 404);
    let (status, _, body) = ask(&id(theirs));
    assert_eq!(status, 200);
    assert!(all.len() == scoped.len() && !body.contains("\"raw\""), "{body}");
    assert_eq!(ask(&asset(ours)).0, 404);
    assert_eq!(ask(&asset(theirs)).0, 200);
    assert_eq!(ask(&format!("{}/history", asset(ours))).0, 404);
    let (status, _, body) = ask(&format!("{}/history", asset(theirs)));
    assert_eq!(status, 200);
    assert!(body.contains(OTHER_ACCOUNT) && !body.contains("\"raw\""), "{body}");
    let by_token = |token: &str| {
        let mut command = catchment();
        command.args(["asset", theirs["subject"].as_str().unwrap(), "--json", "--url", &server.url("")]);
        finish(command.env("CATCHMENT_TOKEN", token), b"")
    };
    assert_eq!(by_token(&all).json_lines()[0]["account"], OTHER_ACCOUNT);
    let told = by_token("").stderr;
    assert!(told.contains("a credential is required") && told.contains("CATCHMENT_TOKEN"), "{told}");
    let (_, _, body) = ask("/v1/assets");
    assert!(
        body.contains(OTHER_ACCOUNT) && !body.contains(ours["data"]["asset"]["account"].as_str().unwrap()),
        "{body}"
    );
    for path in ["/v1/sources", "/v1/quarantine", "/metrics"] {
        let (status, _, body) = ask(path);
        assert_eq!((status, code(&body).as_str()), (403, "out_of_scope"), "{path}");
    }
}

/// A stream by curl, and its lines.
fn open(server: &Server, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = Command::new("curl");
    command.args(["-sN", "--max-time", "60"]).args(arguments).arg(server.url("/v1/events"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

#[test]
fn a_revoked_token_ends_its_streams_and_no_others() {
    let case = Case::new("");
    let (kept, revoked) = (case.create(&["kept"]), case.create(&["revoked"]));
    let server = case.serve();
    let (mut other, _lines) = open(&server, &["-H", &bearer(&kept)]);
    let (mut child, lines) = open(&server, &["-H", &bearer(&revoked)]);
    let mut lines = lines.lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "event: caught-up"));
    assert_eq!(case.token(&["revoke", "revoked"]).code, Some(0));
    let rest: Vec<String> = lines.collect();
    assert!(rest.iter().any(|line| line.contains("\"reason\":\"unauthorized\"")), "{rest:?}");
    assert!(child.wait().unwrap().success());
    assert!(other.try_wait().unwrap().is_none(), "another token's stream goes on");
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(curl(&server, "/v1/assets", &["-H", &bearer(&revoked)]).0, 401);
}

#[test]
fn browsers_come_in_by_cookie_or_ticket() {
    let case = Case::new("");
    let token = case.create(&["web"]);
    let server = case.serve();
    let (status, head, _) = curl(&server, "/v1/login", &["-X", "POST", "-H", &bearer(&token)]);
    assert_eq!(status, 204);
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    for word in ["httponly", "secure", "samesite=strict", "path=/"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    // curl printed in lower case; the session itself is needed as it is.
    let mut login = Command::new("curl");
    login.args(["-s", "-i", "-X", "POST", "-H", &bearer(&token)]).arg(server.url("/v1/login"));
    let told = finish(&mut login, b"").stdout;
    let session = told.split("catchment_session=").nth(1).unwrap().split(';').next().unwrap();
    let cookie = format!("Cookie: catchment_session={session}");
    assert_eq!(curl(&server, "/v1/assets", &["-H", &cookie]).0, 200);
    assert_eq!(curl(&server, "/v1/logout", &["-X", "POST", "-H", &cookie]).0, 204);
    assert_eq!(curl(&server, "/v1/assets", &["-H", &cookie]).0, 401);

    let (status, _, body) = curl(&server, "/v1/tickets", &["-X", "POST", "-H", &bearer(&token)]);
    assert_eq!(status, 200);
    let ticket = serde_json::from_str::<Value>(&body).unwrap()["ticket"].as_str().unwrap().to_owned();
    let path = format!("{BOTH}&ticket={ticket}");
    let (status, _, body) = curl(&server, &path, &[]);
    assert_eq!((status, body.lines().count()), (200, 2));
    assert_eq!(curl(&server, &path, &[]).0, 401, "a ticket is for one use");
}

#[test]
fn without_a_token_only_this_machine_is_served() {
    let case = Case::new("[http]\nlisten = \"0.0.0.0:0\"");
    let config = case.folder.path().join("catchment.toml");
    std::fs::write(&config, &case.config).unwrap();
    let mut command = catchment();
    command.arg("serve").arg("--config").arg(config);
    let server = Server::start(command);
    assert!(server.address().ip().is_loopback());
    assert_eq!(curl(&server, "/v1/assets", &[]).0, 200);
    let (status, _, body) = curl(&server, "/v1/assets", &["-H", "Host: rebound.example.com"]);
    assert_eq!((status, code(&body).as_str()), (421, "foreign_host"));
}

#[test]
fn tokens_are_listed_without_themselves() {
    let case = Case::new("");
    let token = case.create(&["one", "--scope", "account=1,2", "--hide", "raw", "--expires", "90d"]);
    let listed = case.token(&["list"]).stdout;
    assert!(listed.contains("one") && listed.contains("account=1,2 hide=raw") && !listed.contains(&token), "{listed}");
    for (arguments, expected) in [
        (vec!["create", "one"], "token one exists already"),
        (vec!["create", "a b"], "is not a token name"),
        (vec!["create", "two", "--scope", "acount=1"], "a scope has no \"acount\""),
        (vec!["create", "two", "--scope", "account"], "is not of the form"),
        (vec!["create", "two", "--hide", "rwa"], "hide: "),
        (vec!["create", "two", "--expires", "soon"], "nor a duration"),
        (vec!["create", "two", "--expires", "2001-01-01T00:00:00Z"], "lies in the past"),
        (vec!["revoke", "two"], "there is no token two"),
    ] {
        let told = case.token(&arguments);
        assert!(told.code != Some(0) && told.stderr.contains(expected), "{arguments:?}: {told:?}");
    }
}
