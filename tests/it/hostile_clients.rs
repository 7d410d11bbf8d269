//! Clients that mean ill, or that are broken: none of them takes the server from the others, and none is read in two
//! ways. Over raw sockets, to the real binary.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::certificates::Authority;
use crate::support::program::{allow_open_files, catchment, finish};
use crate::support::server::{PATIENCE, Server, clients, folder};
use crate::support::trail::{add, create_group, create_group_of_size};

fn configuration(folder: &Path, http: &str) -> String {
    format!(
        "data_dir = {:?}\n[http]\n{http}\n[sources.trail.file]\npath = {:?}\npoll_millis = 10\n",
        folder.join("data"),
        folder.join("trail.ndjson"),
    )
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends bytes, and gives all that comes until the server closes the connection, which it must.
fn exchange(server: &Server, request: &[u8]) -> String {
    let mut socket = connect(server.address());
    // It may be closed before all is sent.
    let _ = socket.write_all(request);
    rest(&mut socket)
}

fn rest(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match socket.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}; the connection is still open after {:?}", String::from_utf8_lossy(&answer)),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of each answer.
fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.match_indices("HTTP/1.").map(|(at, _)| &answers[at..]);
    // A body may tell of HTTP/1.1, too.
    heads.filter_map(|head| head.split(' ').nth(1)?.parse().ok()).collect()
}

const NEXT: &str = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Every request is followed by another: a second answer means that the server found where the first ended.
#[test]
fn a_request_is_read_in_one_way_or_not_at_all() {
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), ""));
    let post =
        |headers: &str, body: &str| format!("POST /v1/logout HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n{body}");
    let get = |line: &str, headers: &str| format!("{line}\r\nhost: localhost\r\n{headers}\r\n");
    let long = "x".repeat(40_000);
    for (what, request, expected) in [
        ("a length", post("content-length: 5\r\n", "AAAAA"), &[204, 200][..]),
        ("chunks, after which the connection ends", post("transfer-encoding: chunked\r\n", "0\r\n\r\n"), &[204]),
        ("a length, then chunks", post("content-length: 4\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"), &[204]),
        ("chunks, then a length", post("transfer-encoding: chunked\r\ncontent-length: 4\r\n", "0\r\n\r\n"), &[204]),
        ("two lengths", post("content-length: 5\r\ncontent-length: 6\r\n", "AAAAA"), &[400]),
        ("two lengths in one", post("content-length: 5, 6\r\n", "AAAAA"), &[400]),
        ("a length with a sign", post("content-length: +5\r\n", "AAAAA"), &[400]),
        ("a length below zero", post("content-length: -1\r\n", ""), &[400]),
        ("a length in hexadecimal", post("content-length: 0x5\r\n", "AAAAA"), &[400]),
        ("no length", post("content-length:\r\n", ""), &[400]),
        ("a length beyond all numbers", post("content-length: 99999999999999999999\r\n", ""), &[400]),
        ("an unknown coding", post("transfer-encoding: xchunked\r\n", "0\r\n\r\n"), &[400]),
        ("a coding after chunked", post("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"), &[400]),
        ("identity, then a length", post("transfer-encoding: identity\r\ncontent-length: 5\r\n", "AAAAA"), &[400]),
        ("a coding twice", post("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", "0\r\n\r\n"), &[400]),
        (
            "a chunk with a long extension",
            post("transfer-encoding: chunked\r\n", &format!("1;{long}\r\nA\r\n0\r\n\r\n")),
            &[204],
        ),
        ("a chunk's length that is none", post("transfer-encoding: chunked\r\n", "zz\r\n\r\n"), &[204]),
        ("a blank before the colon", post("content-length : 5\r\n", "AAAAA"), &[400]),
        ("a folded line", get("GET /healthz HTTP/1.1", "x: a\r\n b: c\r\n"), &[400]),
        ("a name with a blank", get("GET /healthz HTTP/1.1", "x y: a\r\n"), &[400]),
        ("no name", get("GET /healthz HTTP/1.1", ": a\r\n"), &[400]),
        ("no colon", get("GET /healthz HTTP/1.1", "host localhost\r\n"), &[400]),
        ("a carriage return in a value", get("GET /healthz HTTP/1.1", "x: a\rb: c\r\n"), &[400]),
        ("a NUL in a value", get("GET /healthz HTTP/1.1", "x: a\0b\r\n"), &[400]),
        ("an escape in a value", get("GET /healthz HTTP/1.1", "x: a\x1b[31m\r\n"), &[400]),
        ("bare line feeds", get("GET /healthz HTTP/1.1", "").replace("\r\n", "\n"), &[200, 200]),
        ("an absolute address", get("GET http://localhost/healthz HTTP/1.1", ""), &[200, 200]),
        ("another machine's address", get("GET http://rebound.example.com/v1/assets HTTP/1.1", ""), &[421, 200]),
        ("an address that is none", get("GET http:///healthz HTTP/1.1", ""), &[400]),
        ("a tunnel", get("CONNECT 192.0.2.1:443 HTTP/1.1", ""), &[404, 200]),
        ("all of the server", get("OPTIONS * HTTP/1.1", ""), &[404, 200]),
        ("two hosts", get("GET /healthz HTTP/1.1", "host: rebound.example.com\r\n"), &[400, 200]),
        ("no host", "GET /healthz HTTP/1.1\r\n\r\n".to_owned(), &[400, 200]),
        ("HTTP/1.0, after which the connection ends", "GET /healthz HTTP/1.0\r\n\r\n".to_owned(), &[200]),
        ("a version that there is not", get("GET /healthz HTTP/3.7", ""), &[400]),
        ("a line without a version", "GET /healthz\r\n\r\n".to_owned(), &[400]),
        ("a method that is none", get("G(T /healthz HTTP/1.1", ""), &[400]),
        ("HTTP/2 in the clear", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[]),
        ("TLS", "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03".to_owned(), &[400]),
    ] {
        let answers = exchange(&server, (request + NEXT).as_bytes());
        assert_eq!(statuses(&answers), expected, "{what}: {answers}");
    }
    let large = post("content-length: 1000000000\r\n", "");
    let answer = exchange(&server, large.as_bytes());
    assert_eq!(statuses(&answer), [413], "{answer}");
    assert!(answer.contains("application/problem+json") && answer.contains("\"code\":\"body_too_large\""), "{answer}");
    assert!(server.terminate().success());
}

#[test]
fn a_head_has_bounds() {
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), ""));
    let get = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    for (what, request, expected) in [
        ("as many fields as there may be", get("/healthz", &fields(99)), &[200, 200][..]),
        ("one more", get("/healthz", &fields(100)), &[431]),
        ("many more", get("/healthz", &fields(50_000)), &[431]),
        ("a long field", get("/healthz", &format!("x: {}\r\n", "y".repeat(100_000))), &[431]),
        ("a long address", get(&format!("/{}", "y".repeat(100_000)), ""), &[431]),
        (
            "a position that is none",
            get("/v1/events", &format!("last-event-id: {}\r\n", "1".repeat(50_000))),
            &[400, 200],
        ),
        ("a longer one", get("/v1/events", &format!("last-event-id: {}\r\n", "1".repeat(100_000))), &[431]),
        ("a long token", get("/v1/events", &format!("authorization: Bearer {}\r\n", "1".repeat(50_000))), &[401, 200]),
        (
            "long cookies",
            get("/v1/events", &format!("cookie: catchment_session={}\r\n", "1".repeat(50_000))),
            &[401, 200],
        ),
    ] {
        let answers = exchange(&server, (request + NEXT).as_bytes());
        assert_eq!(statuses(&answers), expected, "{what}: {}", &answers[..answers.len().min(2_000)]);
        if expected == [431] {
            let head = answers.to_lowercase();
            assert!(head.contains("content-length: 0\r\n") && head.contains("connection: close\r\n"), "{answers}");
        }
        if expected == [400, 200] {
            assert!(answers.contains("\"code\":\"bad_cursor\"") && answers.len() < 2_000, "{answers}");
        }
    }
    assert!(server.terminate().success());
}

/// The names in paths lead to assets and events, never to files, however they are written.
#[test]
fn a_path_leads_nowhere_else() {
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), ""));
    let up = "../".repeat(12);
    for path in [
        format!("/v1/assets/{up}etc/passwd"),
        format!("/v1/schema/{up}etc/passwd"),
        format!("/v1/events/{}etc%2fpasswd", "..%2f".repeat(12)),
        format!("/v1/schema/{}etc%2Fpasswd", "%2e%2e%2F".repeat(12)),
        "/v1/schema/asset-event-1.json%00.html".to_owned(),
        "/v1/assets/%2e%2e/%2e%2e/metrics".to_owned(),
        "/v1/assets/%252e%252e%252fmetrics".to_owned(),
        "/v1/assets/%c0%ae%c0%ae%c0%af".to_owned(),
        "/v1/assets/%00".to_owned(),
        "/v1/assets/asset://..%2f..%2fetc".to_owned(),
        "/v1/assets/asset://aws/1/%0d%0aset-cookie:%20a=b".to_owned(),
        "/v1/assets/%ff%fe/history".to_owned(),
        "/v1/events/%ff".to_owned(),
        "/v1/events/%".to_owned(),
        "/v1/schema/%ff".to_owned(),
        "//v1/events".to_owned(),
        "/v1//events".to_owned(),
        "/v1/events/..;/metrics".to_owned(),
        "/V1/EVENTS".to_owned(),
        "/\\..\\..\\etc\\passwd".to_owned(),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = exchange(&server, request.as_bytes());
        let found = statuses(&answer);
        assert!(matches!(found[..], [400 | 404]), "{path}: {answer}");
        let head = answer.split("\r\n\r\n").next().unwrap();
        assert!(!answer.contains("root:") && !head.contains("set-cookie:"), "{path}: {answer}");
        // What hyper refuses has no body; what we do says why.
        let told = answer.contains("application/problem+json") || answer.contains("content-length: 0");
        assert!(told, "{path}: {answer}");
    }
    assert!(server.terminate().success());
}

#[test]
fn a_slow_client_is_given_up() {
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), "request_timeout_secs = 2"));
    let within = |began: Instant, what: &str| {
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(20), "{what}: {took:?}");
    };
    // A byte now and then keeps nothing open.
    let began = Instant::now();
    let mut slow = connect(server.address());
    for byte in b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ".iter().chain(std::iter::repeat(&b'y')) {
        std::thread::sleep(Duration::from_millis(100));
        if slow.write_all(&[*byte]).is_err() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "still open");
    }
    within(began, "a slow head");
    // Nor does having asked before.
    let mut idle = connect(server.address());
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let began = Instant::now();
    assert_eq!(statuses(&rest(&mut idle)), [200]);
    within(began, "an idle connection");
    // A body is not waited for: the answer comes at once.
    let began = Instant::now();
    let mut slow = connect(server.address());
    slow.write_all(b"POST /v1/logout HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n").unwrap();
    assert_eq!(statuses(&rest(&mut slow)), [204]);
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(server.terminate().success());
}

/// Ten thousand connections without a request, while others are answered as ever.
#[test]
fn idle_connections_cost_little_and_are_closed() {
    const CONNECTIONS: usize = 10_000;
    allow_open_files(CONNECTIONS + 1_000);
    let folder = folder();
    let http = "max_connections = 12000\nrequest_timeout_secs = 60";
    let server = Server::serve(folder.path(), &configuration(folder.path(), http));
    let before = server.resident_kib();
    let sockets: Vec<_> = (0..CONNECTIONS).map(|_| connect(server.address())).collect();
    let open = || server.metric("catchment_http_connections", "");
    server.wait_until("all accepted", || open() >= CONNECTIONS as f64);
    let each = (server.resident_kib() - before) * 1024 / CONNECTIONS as u64;
    eprintln!("an idle connection takes {each} bytes of the server's memory");
    assert!(each < 8 * 1024, "an idle connection takes {each} bytes");
    assert_eq!(server.get("/readyz").0, 200);
    drop(sockets);
    server.wait_until("all closed", || open() <= 1.0);
    assert!(server.terminate().success());
}

#[test]
fn more_connections_than_there_may_be_are_closed_at_once() {
    let folder = folder();
    for (limit, reason) in [
        ("max_connections = 20", "max_connections"),
        ("max_connections_per_address = 20", "max_connections_per_address"),
    ] {
        let server = Server::serve(folder.path(), &configuration(folder.path(), limit));
        // Streams count as well.
        let streams: Vec<_> = (0..10).map(|_| server.stream("/v1/events", &[])).collect();
        let mut idle = Vec::new();
        server.wait_until("full", || {
            idle.push(connect(server.address()));
            server.try_get("/readyz").is_none()
        });
        assert_eq!(rest(&mut connect(server.address())), "", "one too many");
        drop(streams);
        server.wait_until("let in again", || server.try_get("/readyz").is_some());
        assert!(server.metric("catchment_http_refused_connections_total", &format!("\"{reason}\"")) >= 2.0);
        let told = server.wait_for_log(&["too many are open"]);
        assert!(told.lines().any(|line| line.contains("too many are open") && line.contains(reason)), "{told}");
        assert!(server.terminate().success());
    }
}

/// In the clear, and over TLS, where the answer has other ways into memory.
#[test]
fn clients_that_never_read_take_bounded_memory_and_are_let_go() {
    const READERS: usize = 40;
    let folder = folder();
    for n in 0..200 {
        add(&folder.path().join("trail.ndjson"), &create_group_of_size(&format!("large-{n}"), 100_000));
    }
    let authority = Authority::new(folder.path(), "authority");
    let pair = authority.issue("server");
    let tls = format!("[http.tls]\ncertificate = {:?}\nprivate_key = {:?}", pair.certificate, pair.key);
    for (door, tls) in [("in the clear", ""), ("over TLS", tls.as_str())] {
        let mut http = "stalled_after_secs = 3\nring_bytes = 4194304\n".to_owned();
        http.push_str(tls);
        let path = folder.path().join("catchment.toml");
        std::fs::write(&path, configuration(folder.path(), &http)).unwrap();
        let mut command = catchment();
        command.arg("serve").arg("--config").arg(path).args(["--listen", "127.0.0.1:0"]);
        let server = if tls.is_empty() {
            Server::start(command)
        } else {
            let trust = ["--cacert".to_owned(), authority.certificate().display().to_string()];
            Server::start_https(command, &trust)
        };
        server.wait_until("the records taken", || server.metric("catchment_log_tail_sequence", "") == 200.0);
        let before = server.resident_kib();
        let request = "GET /v1/events?since=2020-01-01T00:00:00Z HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let mut sockets = Vec::new();
        let mut programs = Vec::new();
        for _ in 0..READERS {
            if tls.is_empty() {
                let mut socket = connect(server.address());
                socket.write_all(request.as_bytes()).unwrap();
                sockets.push(socket);
            } else {
                // Stops reading when nobody reads what it prints.
                let mut openssl = Command::new("openssl");
                openssl.args(["s_client", "-quiet", "-alpn", "http/1.1", "-connect", &server.address().to_string()]);
                openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
                let mut openssl = openssl.spawn().unwrap();
                openssl.stdin.as_mut().unwrap().write_all(request.as_bytes()).unwrap();
                programs.push(openssl);
            }
        }
        server.wait_until("all open", || server.metric("catchment_stream_clients", "") == READERS as f64);
        server.wait_until("all let go", || server.metric("catchment_stream_clients", "") == 0.0);
        // What was read for them from the log is in there as well.
        let grown = server.resident_kib().saturating_sub(before) / 1024;
        eprintln!("{READERS} clients that never read took {grown} MiB {door}");
        assert!(grown < 100, "{door}: {grown} MiB of answers that have 800 MB");
        let mut reasons = 0;
        server.wait_until("each told of", || {
            let told = server.log_lines();
            reasons += told.iter().filter(|line| line.contains("the client read nothing")).count();
            reasons == READERS
        });
        for mut program in programs {
            let _ = program.kill();
            let _ = program.wait();
        }
        assert!(server.terminate().success());
    }
}

#[test]
fn floods_over_http2_end_their_connection_or_are_held() {
    let folder = folder();
    let authority = Authority::new(folder.path(), "authority");
    let pair = authority.issue("server");
    let http = format!("[http.tls]\ncertificate = {:?}\nprivate_key = {:?}", pair.certificate, pair.key);
    let path = folder.path().join("catchment.toml");
    std::fs::write(&path, configuration(folder.path(), &http)).unwrap();
    let mut command = catchment();
    command.arg("serve").arg("--config").arg(path).args(["--listen", "127.0.0.1:0"]);
    let trust = ["--cacert".to_owned(), authority.certificate().display().to_string()];
    let server = Server::start_https(command, &trust);
    let before = server.resident_kib();
    // RFC 9113, section 7: 0xb is ENHANCE_YOUR_CALM. Frames that are only to be answered are answered one by one: who
    // sends more waits.
    for (flood, ends) in [("reset", true), ("continuation", true), ("ping", false), ("settings", false)] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/http2_hostile.py");
        let mut client = Command::new(clients().join("python/bin/python"));
        client.arg(script).arg(server.address().port().to_string()).arg(authority.certificate()).arg(flood);
        let told = finish(&mut client, b"");
        let outcome: Value = serde_json::from_str(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told:?}"));
        eprintln!("{flood}: {outcome}");
        if ends {
            assert_eq!(
                (&outcome["ended"], &outcome["code"]),
                (&Value::from(true), &Value::from(0xb)),
                "{flood}: {outcome}"
            );
            assert!(outcome["sent"].as_u64().unwrap() < 20_000, "{flood}: {outcome}");
        }
        assert_eq!(server.get("/readyz").0, 200, "{flood}");
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB");
    assert!(server.terminate().success());
}

/// Whatever stands in a request, a record or a name: a line of the log is one event, and nothing in it steers a terminal.
#[test]
fn nobody_writes_lines_of_the_log() {
    let folder = folder();
    // A file with a name that makes a line of its own, and nothing in it that could be read.
    let trail = folder.path().join("trail\nINFO forged \x1b[31m.json.gz");
    std::fs::write(&trail, b"\x1f\x8b\x08\0forged\nforged").unwrap();
    let config = folder.path().join("catchment.toml");
    let text = configuration(folder.path(), "").replace("trail.ndjson", "");
    std::fs::write(&config, text).unwrap();
    let mut record = create_group("forged");
    record["eventName"] = Value::from("Create\nINFO forged\x1b[31m");
    record["eventSource"] = Value::from("ec2\r\nINFO forged.amazonaws.com");
    add(&folder.path().join("records.jsonl"), &record);
    let token = |name: &str| finish(catchment().args(["token", "create", name, "--config"]).arg(&config), b"");
    assert_eq!(token("jane").code, Some(0));
    for name in ["a\nINFO forged", "a\x1b[31m", "a\rb"] {
        let told = token(name);
        assert!(told.code != Some(0) && !told.stderr.contains('\x1b') && !told.stderr.contains("\nINFO"), "{told:?}");
    }
    for format in ["human", "json"] {
        let mut command = catchment();
        command.args(["--log-format", format, "serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
        command.env("CATCHMENT_LOG", "debug").stdout(Stdio::null()).stdin(Stdio::null());
        let file = folder.path().join(format!("{format}.log"));
        let mut server = command.stderr(std::fs::File::create(&file).unwrap()).spawn().unwrap();
        let log = || std::fs::read_to_string(&file).unwrap();
        let until = |what: &str, holds: &dyn Fn() -> bool| {
            let deadline = Instant::now() + PATIENCE;
            while !holds() {
                assert!(Instant::now() < deadline, "still not {what}: {}", log());
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        until("listening", &|| log().contains("listening"));
        let line =
            log().lines().find(|line| line.contains("listening") && line.contains("127.0.0.1:")).unwrap().to_owned();
        let port = line.split("127.0.0.1:").nth(1).unwrap();
        let port: u16 = port.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        for request in [
            "GET /v1/assets/%0aINFO%20forged%1b[31m HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            "GET /v1/assets/\x1b[31mforged HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            "GET /v1/events?ticket=%0aforged HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            "GET /v1/assets HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer \u{9b}31mforged\r\nconnection: close\r\n\r\n",
            "GET /v1/assets HTTP/1.1\r\nhost: \u{9b}31mforged\r\nconnection: close\r\n\r\n",
            "GET /v1/assets HTTP/1.1\r\nhost: localhost\r\nx: \r\nINFO forged\r\n\r\n",
        ] {
            let mut socket = connect(SocketAddr::from(([127, 0, 0, 1], port)));
            socket.write_all(request.as_bytes()).unwrap();
            rest(&mut socket);
        }
        until("all told", &|| log().matches("request refused").count() >= 3 && log().contains("forged"));
        server.kill().unwrap();
        server.wait().unwrap();
        let text = log();
        // The last line may be cut off.
        for line in text.lines().rev().skip(1) {
            assert!(!line.chars().any(|c| c.is_control() && c != '\t'), "{format}: {line:?}");
            match format {
                "json" => _ = serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line:?}")),
                _ => assert!(line.starts_with("20") && line.contains('Z'), "no line of ours: {line:?}"),
            }
        }
    }
}
