//! What streams send: frames, filters, where they begin and end.

use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;

use super::testing::{World, build, frame, ids, line};
use super::*;
use crate::hub::testing::gunzip;
use crate::model::Seq;

fn positions(range: std::ops::RangeInclusive<u64>) -> Vec<Seq> {
    range.map(Seq).collect()
}

#[tokio::test]
async fn a_stream_opens_at_once_replays_and_follows() {
    for world in World::by_both_doors(3).await {
        let mut reading = world.open("/v1/events?after=abc.1", &[]).await;
        reading.expect("retry: 2000\n: catchment\n").await;
        reading.expect(frame(2) + &frame(3)).await;
        reading.expect("id: abc.3\nevent: caught-up\ndata: {\"cursor\":\"abc.3\"}\n\n").await;
        world.push(1).await;
        reading.expect(frame(4)).await;
        world.stop.cancel();
        let closing =
            "id: abc.4\nevent: closing\nretry: 2000\ndata: {\"cursor\":\"abc.4\",\"reason\":\"shutdown\"}\n\n";
        reading.expect(closing).await;
        reading.expect_end(true).await;
        assert_eq!(world.request(build("GET", "/v1/events", &[])).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn formats_and_headers() {
    for world in World::by_both_doors(5).await {
        for (uri, accept, expected) in [
            ("/v1/events?limit=1&after=abc.0", "*/*", "text/event-stream"),
            ("/v1/events?limit=1&after=abc.0", "application/x-ndjson", "application/x-ndjson"),
            (
                "/v1/events?limit=1&after=abc.0",
                "text/html, application/X-NDJSON;q=0.9, text/event-stream",
                "application/x-ndjson",
            ),
            ("/v1/events?limit=1&after=abc.0", "text/event-stream, application/x-ndjson", "text/event-stream"),
            ("/v1/events?limit=1&after=abc.0&format=ndjson", "text/event-stream", "application/x-ndjson"),
            ("/v1/events?limit=1&after=abc.0&format=sse", "application/x-ndjson", "text/event-stream"),
        ] {
            let answer = world.get_with(uri, &[("accept", accept)]).await;
            assert_eq!(answer.header("content-type"), expected, "{uri} {accept}");
            assert_eq!(answer.header("cache-control"), "no-cache, no-transform");
            assert_eq!(answer.header("x-accel-buffering"), "no");
            assert_eq!(answer.header("content-encoding"), "");
        }
        let answer = world.get("/v1/events?format=ndjson&after=abc.2&limit=2").await;
        assert_eq!(answer.body, line(3) + &line(4), "lines and nothing else");
    }
}

/// The head and the body, with nothing left of the chunks.
async fn fetch(world: &World, uri: &str, accept_encoding: &str) -> (String, Vec<u8>) {
    let mut socket = TcpStream::connect(world.address()).await.unwrap();
    let request =
        format!("GET {uri} HTTP/1.1\r\nhost: x\r\naccept-encoding: {accept_encoding}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").unwrap();
    let (head, mut rest) = (String::from_utf8(answer[..end].to_vec()).unwrap(), &answer[end + 4..]);
    let mut body = Vec::new();
    loop {
        let line = memchr::memmem::find(rest, b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if length == 0 {
            return (head, body);
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + length]);
        rest = &rest[line + 2 + length + 2..];
    }
}

#[tokio::test]
async fn gzip_is_sent_to_who_wants_it() {
    for (accept, gzip) in [
        ("gzip", true),
        ("deflate, gzip, br, zstd", true),
        ("gzip;q=0.5", true),
        ("br;q=1.0, GZIP; q = 0.8", true),
        ("x-gzip", true),
        ("*", true),
        ("", false),
        ("identity", false),
        ("br, deflate", false),
        ("gzip;q=0", false),
        ("*;q=0", false),
        ("*, gzip;q=0", false),
        ("identity, gzip;q=0.5", false),
        ("gzip;q=no", false),
    ] {
        let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, accept.parse().unwrap())]);
        assert_eq!(stream::accepts_gzip(&headers), gzip, "{accept}");
    }
    let [hyper, plain] = World::by_both_doors(5).await;
    let world = plain;
    for uri in ["/v1/events?after=abc.1&limit=3", "/v1/events?after=abc.1&limit=3&format=ndjson&where=raw.n!%3D3"] {
        let expected = world.get(uri).await;
        assert_eq!(expected.header("vary"), "accept, accept-encoding");
        let (head, body) = fetch(&world, uri, "gzip").await;
        assert!(head.to_ascii_lowercase().contains("content-encoding: gzip"), "{head}");
        assert_eq!(String::from_utf8(gunzip(&body).unwrap()).unwrap(), expected.body, "{uri}");
        let (head, body) = fetch(&world, uri, "identity").await;
        assert!(!head.to_ascii_lowercase().contains("content-encoding"), "{head}");
        assert_eq!(String::from_utf8(body).unwrap(), expected.body, "{uri}");
        let answer = hyper.request(build("GET", uri, &[("accept-encoding", "gzip")])).await;
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        assert_eq!(String::from_utf8(gunzip(&body).unwrap()).unwrap(), expected.body, "{uri}");
    }
}

/// Each piece can be decoded when it comes: nothing is held back until more comes.
#[tokio::test]
async fn compressed_events_are_readable_at_once() {
    let world = World::new(3).await;
    let request = build("GET", "/v1/events?after=abc.1", &[("accept-encoding", "gzip")]);
    let mut pieces = world.request(request).await.into_body().into_data_stream();
    let (mut inflate, mut stream) = (flate2::Decompress::new(false), Vec::new());
    let mut read = async |skip: usize| {
        let piece = pieces.next().await.unwrap().unwrap();
        stream.extend_from_slice(&piece);
        let mut text = Vec::with_capacity(1 << 16);
        inflate.decompress_vec(&piece[skip..], &mut text, flate2::FlushDecompress::Sync).unwrap();
        String::from_utf8(text).unwrap()
    };
    assert_eq!(read(10).await, "retry: 2000\n: catchment\n");
    assert_eq!(read(0).await, frame(2) + &frame(3));
    assert!(read(0).await.starts_with("id: abc.3\nevent: caught-up\n"));
    world.push(1).await;
    assert_eq!(read(0).await, frame(4));
    world.stop.cancel();
    assert!(read(0).await.ends_with("\"reason\":\"shutdown\"}\n\n"));
    assert!(String::from_utf8(gunzip(&stream).unwrap()).unwrap().contains("event: closing"), "it has its end");
}

#[tokio::test]
async fn filters_projections_and_bounds() {
    for world in World::by_both_doors(100).await {
        let count = async |query: &str| {
            world.get(&format!("/v1/events?format=ndjson&until=0s&{query}")).await.body.lines().count()
        };
        assert_eq!(count("").await, 100, "a bounded read without a start begins with the oldest");
        assert_eq!(count("type=create").await, 33);
        assert_eq!(count("type=create,io.catchment.asset.delete").await, 66);
        assert_eq!(count("asset_type=network.*&provider=aws&account=123837392027&region=us-east-1").await, 100);
        assert_eq!(count("asset=asset://aws/123837392027/us-east-1/ec2/security-group/sg-3").await, 10);
        assert_eq!(count("principal=jane&method=cli").await, 100);
        assert_eq!(count("principal=joe").await, 0);
        assert_eq!(count("where=action%20in%20%5B%27create%27,%27delete%27%5D").await, 66);
        assert_eq!(count("type=create&where=data.raw.n%20%3E%2050").await, 17);
        assert_eq!(count("where=raw.n%20%3C%2011%20%7C%7C%20attribution.principal.name%20!%3D%20%22jane%22").await, 10);
        assert_eq!(count("since=20m").await, 11, "the clock stands ten minutes after event 100");
        let window = "format=ndjson&since=2023-07-10T13:23:20Z&until=2023-07-10T13:26:20Z";
        let answer = world.get(&format!("/v1/events?{window}&fields=id")).await;
        let ids: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(ids.iter().map(|event| &event["id"]).collect::<Vec<_>>(), ["e-90:0", "e-91:0", "e-92:0"]);
        assert!(ids.iter().all(|event| event.get("data").is_none()));
        let answer = world.get("/v1/events?format=ndjson&after=e-7:0&limit=1&omit=raw").await;
        assert_eq!(answer.body, line(8).replace(",\"raw\":{\"n\":8}", ""));
    }
}

#[tokio::test]
async fn an_expression_is_refused_where_it_is_wrong() {
    let world = World::new(1).await;
    let problem = world.get("/v1/events?where=late%20%7C%7C%20asset.typ%20%3D%3D%20%27x%27").await.json();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("parameter where: there is no typ here; there are name, type, "), "{detail}");
    assert!(detail.ends_with(", at line 1, column 14"), "{detail}");
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    for world in World::by_both_doors(2).await {
        for (query, code, parameter) in [
            ("limt=1", "unknown_parameter", "limt"),
            ("limit=1&limit=2", "repeated_parameter", "limit"),
            ("limit=0", "bad_parameter", "limit"),
            ("limit=x", "bad_parameter", "limit"),
            ("heartbeat=0", "bad_parameter", "heartbeat"),
            ("heartbeat=3601", "bad_parameter", "heartbeat"),
            ("since=yesterday", "bad_parameter", "since"),
            ("until=", "bad_parameter", "until"),
            ("type=created", "bad_parameter", "type"),
            ("type=", "bad_parameter", "type"),
            ("asset=sg-1", "bad_parameter", "asset"),
            ("where=asset.typ%3D%3D%27x%27", "bad_parameter", "where"),
            ("where=", "bad_parameter", "where"),
            ("omit=nothing", "bad_parameter", "omit"),
            ("fields=raw&omit=raw", "bad_parameter", "omit"),
            ("format=xml", "bad_parameter", "format"),
            ("after=nothing", "unknown_position", "after"),
            ("last_event_id=12", "bad_cursor", "last_event_id"),
        ] {
            let answer = world.get(&format!("/v1/events?{query}")).await;
            let problem = answer.json();
            assert_eq!((answer.status, &problem["code"]), (StatusCode::BAD_REQUEST, &Value::from(code)), "{query}");
            assert_eq!(problem["parameter"], parameter, "{query}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert_eq!((&problem["type"], &problem["status"]), (&Value::from("about:blank"), &Value::from(400)));
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(parameter)), "{problem}");
        }
    }
}

#[tokio::test]
async fn resume_by_header_and_query() {
    for world in World::by_both_doors(20).await {
        let read = async |query: &str, header: &str| {
            let answer = world.get_with(&format!("/v1/events?limit=3{query}"), &[("last-event-id", header)]).await;
            answer.body
        };
        assert_eq!(ids(&read("", "abc.5").await)[..3], positions(6..=8));
        assert_eq!(ids(&read("&last_event_id=abc.9&after=abc.1&since=2h", "abc.5").await)[..3], positions(6..=8));
        assert_eq!(ids(&read("&last_event_id=abc.9&after=abc.1&since=2h", "").await)[..3], positions(10..=12));
        assert_eq!(ids(&read("&last_event_id=&after=abc.1&since=2h", "").await)[..3], positions(2..=4));
        for bad in ["12", "abc", "ABC.1", "abc.01", "abc.1 ", "abc.-1", "abc.1.2", "e-1:0", "0abc.1", "\u{e9}.1"] {
            let answer = world.get_with("/v1/events?limit=1", &[("last-event-id", bad)]).await;
            if bad.trim() == "abc.1" {
                continue;
            }
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
            assert_eq!(answer.json()["code"], "bad_cursor", "{bad}");
        }
    }
}

#[tokio::test]
async fn a_duration_does_not_cut_off_what_a_resumed_stream_missed() {
    for world in World::by_both_doors(100).await {
        let uri = "/v1/events?since=20m&limit=90";
        assert_eq!(ids(&world.get_with(uri, &[("last-event-id", "abc.10")]).await.body)[..90], positions(11..=100));
        let uri = "/v1/events?since=2023-07-10T13:23:20Z&limit=5";
        assert_eq!(ids(&world.get_with(uri, &[("last-event-id", "abc.10")]).await.body)[..5], positions(90..=94));
    }
}

#[tokio::test]
async fn what_can_no_longer_be_had_is_told() {
    for world in World::by_both_doors(20).await {
        world.log.drop_before(Seq(11));
        for (cursor, reason) in [("abc.4", "retention"), ("77.4", "epoch"), ("abc.21", "epoch")] {
            let answer = world.get_with("/v1/events?limit=1", &[("last-event-id", cursor)]).await;
            let gap = format!(
                "id: abc.10\nevent: gap\ndata: {{\"from\":\"{cursor}\",\"to\":\"abc.10\",\"reason\":\"{reason}\"}}\n\n"
            );
            assert!(answer.body.contains(&(gap + &frame(11))), "{}", answer.body);
            let answer = world.get(&format!("/v1/events?format=ndjson&limit=1&after={cursor}")).await;
            assert_eq!(answer.problem(), (410, "position_gone".to_owned()));
        }
        let answer = world.get("/v1/events?limit=1&since=7d").await;
        assert!(answer.body.contains("event: gap\ndata: {\"from\":\"abc.0\",\"to\":\"abc.10\""), "{}", answer.body);
        let answer = world.get("/v1/events?limit=1&since=2023-07-10T12:05:20Z").await;
        assert!(!answer.body.contains("event: gap"), "{}", answer.body);
        assert!(world.get("/v1/events?limit=1&since=7d&format=ndjson").await.body.starts_with(&line(11)));
        let text = world.get("/metrics").await.body;
        assert!(text.contains("catchment_stream_gaps_total 4"), "{text}");
    }
}

#[tokio::test]
async fn a_finished_read_ends_and_does_not_begin_again() {
    for world in World::by_both_doors(20).await {
        let uri = "/v1/events?until=1m&type=create";
        let first = world.get(uri).await;
        assert!(
            first
                .body
                .ends_with("event: closing\nretry: 2000\ndata: {\"cursor\":\"abc.20\",\"reason\":\"complete\"}\n\n")
        );
        let again = world.get_with(uri, &[("last-event-id", "abc.20")]).await;
        assert_eq!((again.status, again.body.as_str()), (StatusCode::NO_CONTENT, ""));
        let broken_off = world.get_with(uri, &[("last-event-id", "abc.15")]).await;
        assert_eq!(ids(&broken_off.body)[0], Seq(18), "a read that was broken off goes on");
        world.push(1).await;
        assert_eq!(world.get_with(uri, &[("last-event-id", "abc.20")]).await.status, StatusCode::OK, "a late event");
        let nothing_new = world.get_with(uri, &[("last-event-id", "abc.21")]).await;
        assert_eq!(nothing_new.status, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn lines_that_are_cut_short_do_not_look_complete() {
    for world in World::by_both_doors(20).await {
        let mut bounded = world.open("/v1/events?format=ndjson&after=abc.18&limit=5", &[]).await;
        let mut live = world.open("/v1/events?format=ndjson&after=abc.18", &[]).await;
        for reading in [&mut bounded, &mut live] {
            reading.expect(line(19) + &line(20)).await;
        }
        world.stop.cancel();
        bounded.expect_end(false).await;
        live.expect_end(true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats() {
    for world in World::by_both_doors(0).await {
        let began = tokio::time::Instant::now();
        let mut reading = world.open("/v1/events?heartbeat=7", &[]).await;
        for expected in
            ["retry: 2000\n: catchment\n", "id: abc.0\nevent: caught-up\ndata: {\"cursor\":\"abc.0\"}\n\n", ": hb\n"]
        {
            reading.expect(expected).await;
        }
        assert_eq!(began.elapsed().as_secs(), 7);
        let mut reading = world.open("/v1/events?format=ndjson&heartbeat=7", &[]).await;
        reading.expect("\n").await;
        let mut reading = world.open("/v1/events?format=ndjson", &[]).await;
        let silence = tokio::time::timeout(Duration::from_secs(7200), reading.next()).await;
        assert!(silence.is_err(), "not asked for");
    }
}
