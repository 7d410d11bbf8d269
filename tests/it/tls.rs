//! HTTPS: over either version of HTTP, with certificates that are replaced while streams are open, and with clients that
//! must show one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::certificates::{Authority, Pair};
use crate::support::program::{catchment, finish};
use crate::support::server::{Frame, PATIENCE, Server, clients, folder, next_frame};
use crate::support::trail::{add, create_group, create_group_of_size};

/// Both versions, as curl asks for them and as it tells which it got.
const VERSIONS: [(&str, &str); 2] = [("--http1.1", "1.1"), ("--http2", "2")];
const ALL: &str = "/v1/events?since=2020-01-01T00:00:00Z";

/// A gateway with a certificate of an authority of its own.
struct Case {
    folder: tempfile::TempDir,
    authority: Authority,
    pair: Pair,
}

impl Case {
    fn new() -> Self {
        let folder = folder();
        let authority = Authority::new(folder.path(), "authority");
        let pair = authority.issue("server");
        Self { folder, authority, pair }
    }

    fn trail(&self) -> PathBuf {
        self.folder.path().join("trail.ndjson")
    }

    /// `more` follows the keys of `[http.tls]`; `http` stands in `[http]`.
    fn command(&self, http: &str, more: &str) -> Command {
        self.command_at("127.0.0.1:0", http, more)
    }

    fn command_at(&self, listen: &str, http: &str, more: &str) -> Command {
        let Pair { certificate, key } = &self.pair;
        let config = format!(
            "data_dir = {:?}\n[http]\nlisten = {listen:?}\n{http}\n[http.tls]\ncertificate = {certificate:?}\nprivate_key = {key:?}\n{more}\n\
             [sources.trail.file]\npath = {:?}\npoll_millis = 10\n",
            self.folder.path().join("data"),
            self.trail(),
        );
        let path = self.folder.path().join("catchment.toml");
        std::fs::write(&path, config).unwrap();
        let mut command = catchment();
        command.arg("serve").arg("--config").arg(path);
        command
    }

    /// What curl needs to trust the server.
    fn trust(&self) -> Vec<String> {
        vec!["--cacert".to_owned(), self.authority.certificate().display().to_string()]
    }

    fn serve(&self, http: &str, more: &str) -> Server {
        Server::start_https(self.command(http, more), &self.trust())
    }
}

/// A request by curl: its exit code, and what it printed with `--write-out` at the end.
fn curl(arguments: &[impl AsRef<std::ffi::OsStr>], url: &str, write_out: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "60", "-w", &format!("\n{write_out}")]).args(arguments).arg(url);
    let told = finish(&mut command, b"");
    let (body, end) = told.stdout.rsplit_once('\n').unwrap_or_else(|| panic!("{told:?}"));
    (told.code, body.to_owned(), end.to_owned())
}

/// A stream by curl. Ended when dropped.
struct Stream {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Stream {
    fn open(server: &Server, arguments: &[String], position: Option<&str>) -> Self {
        let mut command = Command::new("curl");
        command.args(["-sN", "--max-time", "60"]).args(arguments).arg(server.url(ALL));
        if let Some(position) = position {
            command.args(["-H", &format!("Last-Event-ID: {position}")]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next event; its id and the frame's.
    fn event(&mut self) -> (String, String) {
        let event = self.by_ref().find(|frame| frame.event.is_none()).expect("an event");
        (event.json()["id"].as_str().unwrap().to_owned(), event.id.unwrap())
    }
}

impl Iterator for Stream {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        next_frame(&mut self.lines)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with(mut arguments: Vec<String>, more: &[&str]) -> Vec<String> {
    arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    arguments
}

#[test]
fn both_versions_of_http_are_spoken_and_none_in_the_clear() {
    let case = Case::new();
    add(&case.trail(), &create_group("first"));
    let server = case.serve("cors_origins = [\"https://dash.example.com\"]", "");
    server.wait_until("the record taken", || server.records() == 1);
    for (version, name) in VERSIONS {
        let arguments = with(case.trust(), &[version, "-H", "Origin: https://dash.example.com", "-D", "-"]);
        let (code, answer, told) = curl(&arguments, &server.url("/v1/assets"), "%{http_version} %{http_code}");
        assert_eq!((code, told), (Some(0), format!("{name} 200")), "{answer}");
        assert!(answer.contains("access-control-allow-origin: https://dash.example.com"), "{answer}");
        let bounded = server.url(&format!("{ALL}&format=ndjson&limit=1"));
        let (code, lines, _) = curl(&with(case.trust(), &[version, "--compressed"]), &bounded, "");
        let event: Value = serde_json::from_str(lines.trim()).unwrap();
        assert_eq!((code, event["id"].as_str()), (Some(0), Some("first:0")), "{version}");
        // Problems look the same.
        let (_, problem, told) = curl(&with(case.trust(), &[version]), &server.url("/v1/events?x=1"), "%{http_code}");
        let problem: Value = serde_json::from_str(&problem).unwrap();
        assert_eq!((told.as_str(), problem["code"].as_str()), ("400", Some("unknown_parameter")), "{version}");
        // A name that is not this machine's gives away a page of another site, whichever way the name comes.
        let rebound = with(case.trust(), &[version, "-H", "Host: rebound.example.com"]);
        let (_, problem, told) = curl(&rebound, &server.url("/v1/assets"), "%{http_code}");
        assert_eq!(told, "421", "{version}: {problem}");
    }
    let clear = server.url("/healthz").replace("https:", "http:");
    let (_, answer, told) = curl(&[""; 0], &clear, "%{http_code}");
    assert!(told == "400" && answer.contains("\"code\":\"tls_needed\""), "{answer} {told}");
    let (code, ..) = curl(&["-v"], &server.url("/healthz"), "");
    assert_eq!(code, Some(60), "an authority that nobody trusts");
    assert!(server.terminate().success());
}

#[test]
fn a_stream_goes_on_after_each_break_and_ends_with_the_server() {
    let case = Case::new();
    let server = case.serve("", "");
    for (version, _) in VERSIONS {
        let arguments = with(case.trust(), &[version]);
        let before: Vec<String> = server.all_events().iter().map(|event| event["id"].to_string()).collect();
        let mut position = None;
        let mut seen = Vec::new();
        for round in 0..3 {
            let mut stream = Stream::open(&server, &arguments, position.as_deref());
            for part in 0..3 {
                add(&case.trail(), &create_group(&format!("{}-{round}-{part}", version.trim_matches('-'))));
                while position.is_none() && seen.len() < before.len() {
                    seen.push(format!("{:?}", stream.event().0));
                }
                let (id, at) = stream.event();
                seen.push(format!("{id:?}"));
                position = Some(at);
            }
        }
        let logged: Vec<String> = server.all_events().iter().map(|event| event["id"].to_string()).collect();
        assert_eq!(seen, logged, "{version}");
    }
    let streams = VERSIONS.map(|(version, _)| Stream::open(&server, &with(case.trust(), &[version]), None));
    let streams = streams.map(|mut stream| {
        assert!(stream.by_ref().any(|frame| frame.event.as_deref() == Some("caught-up")));
        stream
    });
    assert!(server.terminate().success());
    for mut stream in streams {
        let last = stream.by_ref().last().expect("a last frame");
        assert_eq!((last.event.as_deref(), &last.json()["reason"]), (Some("closing"), &Value::from("shutdown")));
        assert!(stream.child.wait().unwrap().success(), "the answer is complete");
    }
}

/// Python's httpx over HTTP/2, which its own code reconnects.
#[test]
fn httpx_receives_every_event_over_a_restart() {
    let case = Case::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = || Server::start_https(case.command_at(&format!("127.0.0.1:{port}"), "", ""), &case.trust());
    add(&case.trail(), &create_group("first"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/httpx_http2_client.py");
    let mut client = Command::new(clients().join("python/bin/python"));
    client.arg(script).arg(format!("https://localhost:{port}{ALL}")).arg(case.authority.certificate());
    let server = start();
    let mut client = client.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let messages = BufReader::new(client.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut messages = messages.map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let mut next = || {
        let message = messages.by_ref().find(|message| message["type"] == "message").expect("a message");
        serde_json::from_str::<Value>(message["data"].as_str().unwrap()).unwrap()["id"].clone()
    };
    assert_eq!(next(), "first:0");
    assert!(server.terminate().success());
    add(&case.trail(), &create_group("second"));
    let server = start();
    assert_eq!(next(), "second:0");
    add(&case.trail(), &create_group("third"));
    assert_eq!(next(), "third:0");
    client.kill().unwrap();
    client.wait().unwrap();
    assert!(server.terminate().success());
}

/// The serial number of the certificate that a new connection is shown.
fn shown(server: &Server) -> String {
    let script = format!(
        "openssl s_client -connect 127.0.0.1:{} -servername localhost </dev/null 2>/dev/null | openssl x509 -noout -serial",
        server.address().port()
    );
    finish(Command::new("sh").args(["-c", &script]), b"").stdout
}

#[test]
fn a_certificate_is_replaced_under_open_streams_and_a_broken_one_is_not_taken() {
    let case = Case::new();
    let server = case.serve("", "");
    let first = shown(&server);
    assert!(first.starts_with("serial="), "{first}");
    let mut old = VERSIONS.map(|(version, _)| Stream::open(&server, &with(case.trust(), &[version]), None));
    for stream in &mut old {
        assert!(stream.any(|frame| frame.event.as_deref() == Some("caught-up")));
    }
    case.authority.issue("renewed").replace(&case.pair);
    server.wait_until("the new certificate shown", || shown(&server) != first);
    let renewed = shown(&server);
    assert_eq!(server.metric("catchment_tls_reloads_total", "success"), 1.0);

    // The certificate of another key: no server could use it.
    let other = case.authority.issue("other");
    std::fs::copy(&other.certificate, &case.pair.certificate).unwrap();
    server.wait_until("the broken pair refused", || server.metric("catchment_tls_reloads_total", "failure") == 1.0);
    let told = server.log_lines().join("\n");
    assert!(told.contains("the previous ones stay in force") && told.contains("is not the key of the first"), "{told}");
    assert_eq!(shown(&server), renewed);

    add(&case.trail(), &create_group("after"));
    for stream in &mut old {
        assert_eq!(stream.event().0, "after:0", "a stream that began before goes on");
    }
    drop(old);
    assert!(server.terminate().success());
    let started = finish(case.command("", "").args(["--log-format", "json"]), b"");
    assert_eq!(started.code, Some(64), "a server does not start with a broken pair: {}", started.stderr);
    assert!(started.stderr.contains("http.tls.private_key"), "{}", started.stderr);
}

#[test]
fn a_client_certificate_is_a_gate() {
    let case = Case::new();
    let clients = Authority::new(case.folder.path(), "clients");
    let (good, stranger) = (clients.issue("jane"), Authority::new(case.folder.path(), "strangers").issue("stranger"));
    let show = |pair: &Pair| {
        let [certificate, key] = [&pair.certificate, &pair.key].map(|path| path.display().to_string());
        with(case.trust(), &["--cert", &certificate, "--key", &key])
    };
    let gate = |mode: &str| format!("client_ca = {:?}\n{mode}", clients.certificate());
    for required in ["", "client_certificates = \"required\""] {
        // No credential is configured, and yet it listens where it is told to: nobody comes in without a certificate.
        let server = Server::start_https(case.command_at("0.0.0.0:0", "", &gate(required)), &show(&good));
        assert!(server.address().ip().is_unspecified());
        for (version, _) in VERSIONS {
            let status = |arguments: Vec<String>| {
                let (code, _, status) = curl(&with(arguments, &[version]), &server.url("/v1/assets"), "%{http_code}");
                (code == Some(0), status)
            };
            assert_eq!(status(show(&good)), (true, "200".to_owned()));
            assert_eq!(status(with(show(&good), &["-H", "Host: gateway.example.com"])), (true, "200".to_owned()));
            assert_eq!(status(case.trust()), (false, "000".to_owned()), "{version}: none");
            assert_eq!(status(show(&stranger)), (false, "000".to_owned()), "{version}: another authority's");
        }
        assert_eq!(server.metric("catchment_http_refused_connections_total", "tls"), 4.0);
        let told = server.log_lines().join("\n");
        assert!(told.contains("connection refused") && told.contains("\"target\":\"audit\""), "{told}");
        assert!(server.terminate().success());
    }
    let optional = gate("client_certificates = \"optional\"");
    let server = Server::start_https(case.command_at("0.0.0.0:0", "", &optional), &case.trust());
    assert!(server.address().ip().is_loopback(), "whoever likes comes in");
    let succeeds = |arguments: Vec<String>| curl(&arguments, &server.url("/v1/assets"), "").0 == Some(0);
    assert!(succeeds(case.trust()) && succeeds(show(&good)));
    assert!(!succeeds(show(&stranger)), "what is shown must be good");
    assert!(server.terminate().success());
}

/// The configuration and the commands that ask a server know of HTTPS.
#[test]
fn commands_tell_what_is_wrong_with_tls() {
    let case = Case::new();
    let config = case.folder.path().join("catchment.toml");
    case.command("", "");
    std::fs::set_permissions(&case.pair.key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let check = || finish(catchment().args(["check", "--config"]).arg(&config), b"");
    let told = check();
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.stdout.contains("http.tls.private_key: every user of this machine can read the key"), "{told:?}");
    let asked = finish(catchment().args(["asset", "asset://aws/1", "--config"]).arg(&config), b"");
    assert_eq!(asked.code, Some(64));
    assert!(asked.stderr.contains("speaks HTTPS") && asked.stderr.contains("--url https://"), "{}", asked.stderr);
    std::fs::remove_file(&case.pair.key).unwrap();
    let told = check();
    assert_eq!(told.code, Some(64));
    let expected = format!("http.tls.private_key: read {}: No such file", case.pair.key.display());
    assert!(told.stdout.contains(&expected), "{told:?}");
}

/// One stream that is not read does not hold up another of the same connection, and ends alone.
#[test]
fn a_stalled_stream_is_reset_and_its_neighbour_goes_on() {
    let case = Case::new();
    for n in 0..40 {
        add(&case.trail(), &create_group_of_size(&format!("large-{n}"), 20_000));
    }
    let server = case.serve("stalled_after_secs = 2\nheartbeat_secs = 1", "");
    server.wait_until("the records taken", || server.records() == 40);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/http2_stalled.py");
    let mut client = Command::new(clients().join("python/bin/python"));
    client.arg(script).arg(server.address().port().to_string()).arg(case.authority.certificate()).arg(ALL);
    let mut client = client.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(client.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let read = told.next().unwrap();
    assert!(read["read"].as_u64().unwrap() > 40 * 20_000, "{read}");
    assert!(read["stalled"].as_u64().unwrap() <= 65_535, "as much as the window takes: {read}");
    let reset = told.find(|told| told.get("data").is_none()).unwrap();
    assert_eq!(reset["reset"], true, "{reset}");
    assert_eq!(server.metric("catchment_stream_stalled_total", ""), 1.0);
    assert!(server.log_lines().iter().any(|line| line.contains("response reset: the client read nothing")));
    add(&case.trail(), &create_group("after"));
    assert!(told.any(|told| told["data"].as_str().is_some_and(|data| data.contains("after:0"))));
    client.kill().unwrap();
    client.wait().unwrap();
    assert!(server.terminate().success());
}

/// No request, no connection: neither one that has asked before nor one that never did.
#[test]
fn an_idle_connection_is_closed() {
    let case = Case::new();
    let server = case.serve("request_timeout_secs = 1", "");
    let port = server.address().port();
    for protocol in ["h2", "http/1.1"] {
        let mut idle = Command::new("openssl");
        idle.args(["s_client", "-quiet", "-alpn", protocol, "-connect", &format!("127.0.0.1:{port}")]);
        let mut idle = idle.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        server.wait_until(&format!("{protocol} closed"), || idle.try_wait().unwrap().is_some());
    }
    // Nor is a connection that never says a word of TLS.
    let silent = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let began = std::time::Instant::now();
    assert_eq!(std::io::Read::read(&mut &silent, &mut [0; 16]).unwrap_or(0), 0);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(server.terminate().success());
}
