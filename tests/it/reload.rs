//! SIGHUP: what is safe to change takes effect while the program runs, and what is wrong changes nothing.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::program::finish;
use crate::support::server::{Server, folder};
use crate::support::trail::{add, create_group};

struct Case {
    folder: tempfile::TempDir,
    server: Server,
}

impl Case {
    fn new(rest: &str) -> Self {
        let folder = folder();
        for name in ["a", "b"] {
            add(&folder.path().join(name), &create_group(&format!("{name}1")));
        }
        let server = Server::serve(folder.path(), &config(folder.path(), rest));
        Self { folder, server }
    }

    /// Writes another configuration and reloads it.
    fn reload(&self, rest: &str, outcome: &str) {
        let label = format!("outcome=\"{outcome}\"");
        let count = || self.server.metric("catchment_config_reloads_total", &label);
        let before = count();
        std::fs::write(self.folder.path().join("catchment.toml"), config(self.folder.path(), rest)).unwrap();
        self.server.log_lines();
        self.server.signal("HUP");
        self.server.wait_until("reloaded", || count() > before);
    }

    fn source(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        format!("[sources.{name}.file]\npath = {path:?}\npoll_millis = 10\n")
    }

    fn sources(&self) -> Vec<String> {
        let told = self.server.get_json("/v1/sources");
        told["sources"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    }

    fn groups(&self) -> Vec<String> {
        let name = |event: &Value| event["data"]["asset"]["display_name"].as_str().unwrap_or_default().to_owned();
        self.server.all_events().iter().map(name).collect()
    }
}

fn config(folder: &Path, rest: &str) -> String {
    format!("data_dir = {:?}\n{rest}", folder.join("data"))
}

#[test]
fn sources_come_go_and_go_on_where_they_were() {
    let case = Case::new("");
    assert!(case.sources().is_empty());
    let (a, b) = (case.source("a"), case.source("b"));
    case.reload(&a, "success");
    case.server.wait_until("a is read", || case.groups() == ["a1"]);
    case.reload(&format!("{a}{b}"), "success");
    case.server.wait_until("b is read", || case.groups() == ["a1", "b1"]);
    case.reload(&b, "success");
    assert_eq!(case.sources(), ["b"]);
    assert!(!case.server.get("/metrics").1.contains("catchment_source_up{source=\"a\"}"));
    add(&case.folder.path().join("a"), &create_group("a2"));
    add(&case.folder.path().join("b"), &create_group("b2"));
    case.server.wait_until("only b is read on", || case.groups() == ["a1", "b1", "b2"]);
    // One that comes back, and one whose configuration changed, are at their positions.
    case.reload(&format!("{a}{}", b.replace("= 10", "= 20")), "success");
    case.server.wait_until("a goes on", || case.groups() == ["a1", "b1", "b2", "a2"]);
    add(&case.folder.path().join("b"), &create_group("b3"));
    case.server.wait_until("b goes on", || case.groups().len() == 5);
    assert_eq!(case.server.metric("catchment_records_total", "outcome=\"duplicate\""), 0.0);
}

#[test]
fn what_is_wrong_changes_nothing_and_what_takes_a_restart_is_told() {
    let case = Case::new("");
    case.reload("[http]\nheartbeat_secs = 0\nmax_strems = 3\n[sources.c.file]\npath = \"x\"\n", "failure");
    case.server.wait_for_log(&["line 4: http.max_strems: unknown key", "nothing was reloaded"]);
    assert!(case.sources().is_empty());
    case.reload("[redaction]\npatterns = [\"(\"]\n[http]\nheartbeat_secs = 0\n", "failure");
    case.server.wait_for_log(&["line 5: http.heartbeat_secs", "line 3: redaction.patterns"]);
    case.reload("[http]\nring_bytes = 2097152\nmax_streams = 1\n[events]\ntype_prefix = \"com.example\"\n", "success");
    case.server.wait_for_log(&["http.ring_bytes", "\"events\"", "needs a restart", "\"changed\":\"http.max_streams\""]);
    let _first = case.server.stream("/v1/events", &[]);
    assert_eq!(case.server.get("/v1/events?limit=1").0, 503, "one more than there may be");
    case.reload("[http]\nmax_streams = 2\n", "success");
    assert_eq!(case.server.get("/v1/events?limit=1&since=1970-01-01T00:00:00Z&until=0s").0, 200);
}

#[test]
fn redaction_log_and_access_change_at_once() {
    let case = Case::new("");
    let a = case.source("a");
    case.reload(&format!("[telemetry]\nlog = \"debug\"\n[redaction]\nnames = [\"groupDescription\"]\n{a}"), "success");
    case.server.wait_until("a is read", || case.groups() == ["a1"]);
    assert_eq!(
        case.server.all_events()[0]["data"]["raw"]["requestParameters"]["groupDescription"],
        json!("[redacted]")
    );
    // A record that comes again is told of at that level.
    add(&case.folder.path().join("a"), &create_group("a1"));
    let mut log = String::new();
    case.server.wait_until("it is told", || {
        log.push_str(&case.server.log_lines().join("\n"));
        log.contains("seen before")
    });
    // From now on nobody is let in without a JWT; so its metrics can't tell.
    let oidc = "[auth.oidc]\nissuer = \"https://login.example.com\"\naudience = \"x\"\ngrants = [{ value = \"*\" }]\n";
    let text = config(case.folder.path(), &format!("{oidc}{a}"));
    std::fs::write(case.folder.path().join("catchment.toml"), text).unwrap();
    case.server.signal("HUP");
    case.server.wait_until("it asks for one", || case.server.get("/v1/sources").0 == 401);
}

#[test]
fn who_may_read_from_a_page_and_how_much_stays_free_change_at_once() {
    let case = Case::new("");
    let a = case.source("a");
    case.reload(&format!("[log]\nmin_free_bytes = 9223372036854775807\n{a}"), "success");
    let waits_for = || case.server.get_json("/readyz")["log_waits_for"].as_str().map(str::to_owned);
    case.server.wait_until("it waits for room", || waits_for().is_some());
    assert!(case.groups().is_empty());
    case.reload(
        &format!("[log]\nmin_free_bytes = 0\n[http]\ncors_origins = [\"https://dash.example.com\"]\n{a}"),
        "success",
    );
    case.server.wait_for_log(&["\"changed\":\"http.cors_origins,log.min_free_bytes\""]);
    case.server.wait_until("a is read", || case.groups() == ["a1"]);
    let allowed = |origin: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-s", "-D", "-", "-H", &format!("Origin: {origin}")]).arg(case.server.url("/healthz"));
        finish(&mut curl, b"").stdout.contains(&format!("access-control-allow-origin: {origin}"))
    };
    assert!(allowed("https://dash.example.com") && !allowed("https://other.example.com"));
    case.reload(&a, "success");
    assert!(!allowed("https://dash.example.com"));
}
