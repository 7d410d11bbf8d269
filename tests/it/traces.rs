//! Spans over OTLP, as a collector gets them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::support::server::{Server, folder};
use crate::support::trail::{add, create_group};

/// Takes what is sent to it.
#[derive(Default)]
struct Collected {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |it: &KeyValue| match it.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|it| (it.key.clone(), text(it))).collect()
}

fn collector() -> (SocketAddr, Arc<Mutex<Collected>>) {
    let (listener, collected) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(Mutex::<Collected>::default()));
    let (address, into) = (listener.local_addr().unwrap(), Arc::clone(&collected));
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (socket, into) = (socket.unwrap(), Arc::clone(&into));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(socket);
                while let Some(body) = request(&mut reader) {
                    let sent = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
                    let mut into = into.lock().unwrap();
                    for resource in sent.resource_spans {
                        into.resource = attributes(&resource.resource.unwrap().attributes);
                        into.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
                    }
                    reader
                        .get_mut()
                        .write_all(
                            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
                        )
                        .unwrap();
                }
            });
        }
    });
    (address, collected)
}

/// The body of the next request; `None` when the connection has ended.
fn request(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    assert!(line.starts_with("POST /v1/traces "), "{line}");
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

fn config(folder: &std::path::Path, address: SocketAddr) -> String {
    let (data, trail) = (folder.join("data"), folder.join("trail"));
    format!(
        "data_dir = {data:?}\n[telemetry]\notlp_endpoint = \"http://{address}\"\n[sources.trail.file]\npath = {trail:?}\npoll_millis = 10\n"
    )
}

#[test]
fn a_collector_gets_what_became_of_deliveries_and_of_requests() {
    let (address, collected) = collector();
    let folder = folder();
    add(&folder.path().join("trail"), &create_group("one"));
    let server = Server::serve(folder.path(), &config(folder.path(), address));
    server.wait_until("the event is there", || server.all_events().len() == 1);
    let named = |name: &str| collected.lock().unwrap().spans.iter().find(|span| span.name == name).cloned();
    server.wait_until("spans of the delivery", || {
        ["delivery", "normalize", "append"].iter().all(|name| named(name).is_some())
    });
    let delivery = named("delivery").unwrap();
    let told = attributes(&delivery.attributes);
    assert_eq!([&told["source"], &told["records"], &told["events"]], ["trail", "1", "1"], "{told:?}");
    for child in ["normalize", "append"] {
        let child = named(child).unwrap();
        assert_eq!((&child.parent_span_id, &child.trace_id), (&delivery.span_id, &delivery.trace_id), "{}", child.name);
        // What is appended becomes durable after the loop has gone on.
        let (from, to) = (child.start_time_unix_nano, child.end_time_unix_nano);
        assert!(delivery.start_time_unix_nano <= from && from < to, "{}", child.name);
    }
    assert_eq!(server.get("/v1/sources?x=1").0, 400);
    let refused = || {
        let of_route =
            |span: &&Span| attributes(&span.attributes).get("http.route").is_some_and(|it| it == "/v1/sources");
        collected.lock().unwrap().spans.iter().find(of_route).map(|span| attributes(&span.attributes))
    };
    // What is left is sent when the program stops.
    assert_eq!(server.terminate().code(), Some(0));
    let refused = refused().expect("the span of the request");
    assert_eq!([&refused["http.request.method"], &refused["http.response.status_code"]], ["GET", "400"], "{refused:?}");
    let resource = &collected.lock().unwrap().resource;
    assert_eq!([&resource["service.name"], &resource["service.version"]], ["catchment", env!("CARGO_PKG_VERSION")]);
}

#[test]
fn a_collector_that_is_away_changes_nothing_but_a_line_of_the_log() {
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = folder();
    let trail = folder.path().join("trail");
    for n in 0..200 {
        add(&trail, &create_group(&format!("e{n}")));
    }
    let server = Server::serve(folder.path(), &config(folder.path(), away));
    server.wait_until("all events", || server.all_events().len() == 200);
    let mut told = Vec::new();
    server.wait_until("it is told", || {
        told.extend(server.log_lines());
        told.iter().any(|line| line.contains("spans can't be sent"))
    });
    server.get("/v1/sources");
    assert_eq!(server.terminate().code(), Some(0), "it stops in time");
}
