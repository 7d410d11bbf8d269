//! Connections that streams are handed over with, their number and their end.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::testing::{World, frame, line};
use super::*;

/// Waits for what comes about soon.
async fn eventually(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

#[tokio::test]
async fn streams_are_counted_and_bounded() {
    let world = async || World::with(3, |config| config.max_streams = 2).await;
    for (world, framing) in [(world().await, 0), (world().await.served().await, "xxx\r\n\r\n".len() as u64)] {
        let metrics = Arc::clone(&world.state.metrics);
        let mut first = world.open("/v1/events?after=abc.0", &[]).await;
        let second = world.open("/v1/events", &[]).await;
        let refused = world.get("/v1/events").await;
        assert_eq!(refused.problem(), (503, "too_many_streams".to_owned()));
        assert_eq!(refused.header("retry-after"), "5");
        assert_eq!(metrics.stream_clients.get(), 2);
        drop(second);
        eventually("the client that went is missed", || metrics.stream_clients.get() == 1).await;
        first.expect(format!("retry: 2000\n: catchment\n{}{}{}", frame(1), frame(2), frame(3))).await;
        eventually("the events are counted", || metrics.stream_events.get() == 3).await;
        let bytes: u64 = (1..=3).map(|n| frame(n).len() as u64 + framing).sum();
        assert_eq!(metrics.stream_bytes.get(), bytes);
        let text = world.get("/metrics").await.body;
        assert!(text.contains(r#"catchment_http_requests_total{route="/v1/events",status="503"} 1"#), "{text}");
        assert!(text.contains("catchment_log_tail_sequence 3"), "{text}");
    }
}

/// Sends bytes, and gives what comes until the connection ends.
async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_connection_that_is_handed_over_ends_with_its_stream_and_others_go_on() {
    let world = World::new(3).await.served().await;
    let get = "GET /v1/events?after=abc.0&limit=2&format=ndjson HTTP/1.1\r\nhost: x\r\n\r\n";
    let stream = exchange(world.address(), get).await;
    let (head, body) = stream.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("connection: close"), "{head}");
    assert!(head.contains("transfer-encoding: chunked") && body.ends_with("\r\n0\r\n\r\n"), "{stream}");

    // What a client sends ahead is not answered after an answer that closes.
    assert_eq!(exchange(world.address(), &get.repeat(2)).await.matches("HTTP/1.1").count(), 1);

    // Requests before the stream, on the same connection, and one whose stream is refused.
    let other = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let refused = "GET /v1/events?limit=x HTTP/1.1\r\nhost: x\r\n\r\n";
    let head = "HEAD /v1/events HTTP/1.1\r\nhost: x\r\n\r\n";
    let answers = exchange(world.address(), &[other, refused, head, other, get].concat()).await;
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "400", "200", "200", "200"], "{answers}");
    assert!(answers.ends_with(body), "{answers}");

    // Without chunks the end of the connection is the end of the body: hyper's.
    let old = exchange(world.address(), &get.replace("HTTP/1.1", "HTTP/1.0")).await;
    assert!(!old.contains("transfer-encoding") && old.ends_with(&(line(1) + &line(2))), "{old}");
    assert_eq!(world.state.metrics.stream_clients.get(), 0);
}

/// Reads until `text` has come; `false` when the connection ends before.
async fn read_until(stream: &mut TcpStream, text: &str) -> bool {
    let (mut got, mut buffer) = (String::new(), [0; 4096]);
    while !got.contains(text) {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(read) => got.push_str(std::str::from_utf8(&buffer[..read]).unwrap()),
        }
    }
    true
}

#[tokio::test]
async fn stop_ends_a_thousand_streams_at_once() {
    let world = World::new(1).await.served().await;
    let address = world.address();
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        streams.push(stream);
    }
    for stream in &mut streams {
        assert!(read_until(stream, "event: caught-up").await);
    }
    assert_eq!(world.state.metrics.stream_clients.get(), 1_000);
    let began = Instant::now();
    world.stop.cancel();
    world.tracker.close();
    world.tracker.wait().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for stream in &mut streams {
        assert!(read_until(stream, "event: closing").await);
        assert!(!read_until(stream, "anything else").await, "the connection is closed");
    }
    assert_eq!(world.state.metrics.stream_clients.get(), 0);
    assert!(TcpStream::connect(address).await.is_err());
}
