//! Public clients receive the stream as they are: every event, in order, once, however often the connection breaks.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use catchment::source::demo;
use serde_json::{Value, json};

use crate::support::program::signal;
use crate::support::proxy::{Cut, Proxy};
use crate::support::server::{PATIENCE, Server, clients, folder};
use crate::support::trail::{add, append, create_group, events_of, explain, ids, random};

const CUTS: usize = 10;
const RECORDS: usize = 400;
/// Records that are appended only after the last cut.
const HELD_BACK: usize = 120;
/// Records that are there before the first client.
const AT_FIRST: usize = 40;

/// The shell prints events, one a line; the others print one line of JSON per message of whatever type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// curl and jq.
    Shell,
    /// The same with `--compressed`.
    CompressedShell,
    /// Python's requests, lines of NDJSON.
    Requests,
    /// npm's `eventsource`.
    EventSource,
    HttpxSse,
    SseclientPy,
}

const KINDS: [Kind; 6] =
    [Kind::Shell, Kind::CompressedShell, Kind::Requests, Kind::EventSource, Kind::HttpxSse, Kind::SseclientPy];

impl Kind {
    /// What the client is to run.
    fn command(self, url: &str) -> Command {
        let tools = clients();
        let script = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
        let python = |name: &str| {
            let mut command = Command::new(tools.join("python/bin/python"));
            command.arg(script(name)).arg(url).stdin(Stdio::null());
            command
        };
        match self {
            Self::Shell | Self::CompressedShell => {
                let options = if self.is_compressed() { "-sN --compressed" } else { "-sN" };
                let mut command = Command::new("bash");
                command.args(["-c", &format!("curl {options} \"$0\" | jq -c --unbuffered ."), url]);
                command.stdin(Stdio::null());
                command
            }
            Self::EventSource => {
                // Read from standard input, a module finds its packages in the current folder.
                let mut command = Command::new("node");
                command.args(["--input-type=module", "-", url]).current_dir(&tools);
                command.stdin(std::fs::File::open(script("eventsource.mjs")).unwrap());
                command
            }
            Self::Requests => python("requests_client.py"),
            Self::HttpxSse => python("httpx_sse_client.py"),
            Self::SseclientPy => python("sseclient_py_client.py"),
        }
    }

    /// Whether the client receives lines of NDJSON, and prints each as it is.
    fn has_lines(self) -> bool {
        matches!(self, Self::Shell | Self::CompressedShell | Self::Requests)
    }

    /// Whether the client asks for gzip: most do without being told to.
    fn is_compressed(self) -> bool {
        !matches!(self, Self::Shell | Self::HttpxSse)
    }

    fn format(self) -> &'static str {
        if self.has_lines() { "ndjson" } else { "sse" }
    }

    /// How a heartbeat looks on the wire: as a chunk, and as a stored block in it where the stream is compressed.
    fn heartbeat(self) -> &'static [u8] {
        match (self.has_lines(), self.is_compressed()) {
            (true, false) => b"\r\n\n\r\n",
            (true, true) => b"\r\n\0\x01\0\xfe\xff\n\r\n",
            (false, false) => b"\r\n: hb\n\r\n",
            (false, true) => b"\r\n\0\x05\0\xfa\xff: hb\n\r\n",
        }
    }
}

/// A running client. Killed when dropped, with all that it has started.
struct Client {
    kind: Kind,
    child: Child,
    lines: Receiver<String>,
}

impl Client {
    fn start(kind: Kind, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(100_000);
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { kind, child, lines }
    }

    /// The next message, whatever its type.
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{:?} receives nothing", self.kind));
        let parse = |text: &str| -> Value {
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{:?}: {error}: {line}", self.kind))
        };
        if self.kind.has_lines() {
            return json!({ "type": "message", "data": parse(&line) });
        }
        let mut message = parse(&line);
        message["data"] = parse(message["data"].as_str().unwrap());
        message
    }

    /// What has come and was not taken yet.
    fn rest(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// The next events, which must have these ids. Of other messages only those are allowed that tell that nothing is
    /// missing.
    fn events(&self, ids: &[String]) -> Vec<Value> {
        let mut events = Vec::with_capacity(ids.len());
        while events.len() < ids.len() {
            let message = self.next();
            match message["type"].as_str() {
                Some("message") => {
                    assert_eq!(message["data"]["id"], ids[events.len()], "{:?}, event {}", self.kind, events.len());
                    events.push(message["data"].clone());
                }
                Some("caught-up") => assert!(message["data"]["cursor"].is_string(), "{:?}: {message}", self.kind),
                _ => panic!("{:?}: {message}", self.kind),
            }
        }
        events
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        signal("KILL", -i64::from(self.child.id()));
        let _ = self.child.wait();
    }
}

/// The client that docs/API.md shows for a shell, run again whenever it ends. `handle` prints the event.
fn documented_shell_client(folder: &Path, proxy: &Proxy, position: &str, compressed: bool) -> Command {
    let text = std::fs::read_to_string("docs/API.md").unwrap();
    let (_, code) =
        text.split_once("# A shell client that never misses an event\n").expect("a shell client in the docs");
    let (code, _) = code.split_once("```").unwrap();
    assert!(code.contains("localhost:8780"), "{code}");
    let code = code.replace("localhost:8780", &proxy.address().to_string());
    let code = if compressed { code.replace("curl -sN", "curl -sN --compressed") } else { code };
    let print = "handle() { printf '%s\\n' \"$1\"; }";
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("position"), position).unwrap();
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("{print}\nwhile :; do\n{code}\nsleep 0.05\ndone")).current_dir(folder);
    command.stdin(Stdio::null());
    command
}

fn configuration(folder: &Path) -> String {
    format!(
        "data_dir = {:?}\n[sources.trail.file]\npath = {:?}\npoll_millis = 10\n",
        folder.join("data"),
        folder.join("trail.ndjson"),
    )
}

#[test]
fn every_client_receives_every_event_once_and_in_order_over_ten_broken_connections() {
    let mut random = random();
    let folder = folder();
    let trail = folder.path().join("trail.ndjson");
    let records = demo::generate(random.u64(..), RECORDS);
    let (early, late) = records.split_at(RECORDS - HELD_BACK);
    std::fs::write(&trail, early[..AT_FIRST].join("\n") + "\n").unwrap();
    let first = events_of(&explain(&[&trail]))[0]["id"].as_str().unwrap().to_owned();
    let server = Server::serve(folder.path(), &configuration(folder.path()));
    server.wait_until("the first records taken", || server.records() == AT_FIRST as u64);

    let running: Vec<_> = KINDS
        .map(|kind| {
            let cut = |_| Cut { events: random.usize(0..=20), bytes: random.usize(0..900) };
            let proxy = Proxy::start(server.address(), (0..CUTS).map(cut).collect());
            let command = match kind {
                Kind::Shell | Kind::CompressedShell => documented_shell_client(
                    &folder.path().join(format!("{kind:?}")),
                    &proxy,
                    &first,
                    kind.is_compressed(),
                ),
                _ => {
                    let parameters = format!("since=2020-01-01T00:00:00Z&format={}", kind.format());
                    kind.command(&format!("http://{}/v1/events?{parameters}", proxy.address()))
                }
            };
            (Client::start(kind, command), proxy)
        })
        .into();
    append(&trail, &early[AT_FIRST..], &mut random, Duration::from_millis(1));
    for (client, proxy) in &running {
        server.wait_until(&format!("{:?} cut off ten times", client.kind), || proxy.cuts() == CUTS);
    }
    append(&trail, late, &mut random, Duration::ZERO);

    let expected = ids(&events_of(&explain(&[&trail])));
    assert!(expected.len() > RECORDS / 2, "the records are changes: {}", expected.len());
    for (client, proxy) in &running {
        // The shell clients begin after the first event.
        let skipped = usize::from(matches!(client.kind, Kind::Shell | Kind::CompressedShell));
        let received = client.events(&expected[skipped..]);
        let logged = server.all_events();
        assert!(received == logged[skipped..], "{:?}: an event was changed on its way", client.kind);
        assert_eq!(client.rest(), [""; 0], "{:?}: nothing after the last event", client.kind);
        let compressed = proxy.passed(b"content-encoding: gzip") > 0;
        assert_eq!(compressed, client.kind.is_compressed(), "{:?}", client.kind);
    }
}

#[test]
fn heartbeats_are_no_events_to_any_client() {
    let folder = folder();
    let trail = folder.path().join("trail.ndjson");
    add(&trail, &create_group("first"));
    let server = Server::serve(folder.path(), &configuration(folder.path()));
    server.wait_until("the first record taken", || server.records() == 1);
    let running = KINDS.map(|kind| {
        let proxy = Proxy::start(server.address(), Vec::new());
        let parameters = format!("since=2020-01-01T00:00:00Z&heartbeat=1&format={}", kind.format());
        let command = kind.command(&format!("http://{}/v1/events?{parameters}", proxy.address()));
        (Client::start(kind, command), proxy)
    });
    let wait_for_heartbeats = |count: usize| {
        for (client, proxy) in &running {
            let heartbeats = || proxy.passed(client.kind.heartbeat());
            server.wait_until(&format!("{count} heartbeats to {:?}", client.kind), || heartbeats() >= count);
        }
    };
    wait_for_heartbeats(3);
    add(&trail, &create_group("second"));
    wait_for_heartbeats(5);
    add(&trail, &create_group("third"));
    for (client, _) in &running {
        let mut messages: Vec<Value> = Vec::new();
        while messages.last().is_none_or(|message| message["data"]["id"] != "third:0") {
            messages.push(client.next());
        }
        let told: Vec<_> = messages.iter().map(|message| json!([message["type"], message["data"]["id"]])).collect();
        let mut expected = vec![json!(["message", "first:0"]), json!(["caught-up", null])];
        expected.extend(["second:0", "third:0"].map(|id| json!(["message", id])));
        if client.kind.has_lines() {
            expected.remove(1);
        }
        assert_eq!(told, expected, "{:?}", client.kind);
    }
}
