//! Resources other than the stream, and what holds for all.

use bytes::Bytes;
use serde_json::Value;

use super::schema::ASSET_EVENT_SCHEMA;
use super::testing::{World, line};
use super::*;
use crate::hub::testing::moment;
use crate::log::Quarantined;
use crate::model::{Origin, Rejected, SourceId};

const SG: &str = "asset://aws/123837392027/us-east-1/ec2/security-group/sg-";

#[tokio::test]
async fn one_event() {
    let world = World::new(20).await;
    for id in ["e-7:0", "abc.7", "e-7%3A0"] {
        let answer = world.get(&format!("/v1/events/{id}")).await;
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.body, line(7).trim(), "{id}");
    }
    assert!(!world.get("/v1/events/e-7:0?omit=raw").await.body.contains("raw"));
    for id in ["e-99:0", "abc.21", "77.7", "abc.0"] {
        let answer = world.get(&format!("/v1/events/{id}")).await;
        assert_eq!(answer.problem(), (404, "event_not_found".to_owned()), "{id}");
    }
}

#[tokio::test]
async fn assets_are_listed_page_by_page() {
    let world = World::new(0).await;
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/v1/assets?limit=4{token}")).await.json();
        let assets = page["assets"].as_array().unwrap();
        assert!(assets.iter().all(|asset| asset.get("configuration").is_none()));
        names.extend(assets.iter().map(|asset| asset["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        token = format!("&page_token={next}");
    }
    assert_eq!(names, (0..10).map(|n| format!("sg-{n}")).collect::<Vec<_>>());
    let count =
        async |query: &str| world.get(&format!("/v1/assets?{query}")).await.json()["assets"].as_array().unwrap().len();
    assert_eq!(count("type=network.*&provider=aws&region=us-east-1").await, 10);
    assert_eq!(count("account=1").await, 5);
    assert_eq!(count("type=identity.*").await, 0);
    assert_eq!(count(&format!("prefix={SG}1")).await, 1);
    assert_eq!(count("tag=b").await, 10);
    assert_eq!((count("tag=a=2,b=7").await, count("tag=a=1,c,1.5").await), (10, 0));
    assert_eq!(count(&format!("changed_since={}", moment(8))).await, 2);
    assert_eq!(count("changed_since=108m&tag=a").await, 8);
    for (query, parameter) in
        [("include=tags", "include"), ("tag=", "tag"), ("tag=a,,b", "tag"), ("changed_since=now", "changed_since")]
    {
        let answer = world.get(&format!("/v1/assets?{query}")).await;
        assert_eq!(
            (answer.problem(), answer.json()["parameter"].as_str()),
            ((400, "bad_parameter".into()), Some(parameter))
        );
    }
    assert_eq!(world.get("/v1/assets?asset=x").await.json()["code"], "unknown_parameter");
    let page = world.get("/v1/assets?limit=10&include=configuration").await.body;
    assert!(page.contains(r#""tags":{"a":2,"b":1.5},"configuration":{"rules":[],"z":100.0}"#), "{page}");
    assert!(page.contains(r#""configuration":null,"configuration_state":"deleted""#), "{page}");
}

#[tokio::test]
async fn one_asset_and_its_history() {
    let world = World::new(40).await;
    for name in
        [format!("{SG}3"), format!("{SG}3").replace(':', "%3A").replace('/', "%2F"), "asset://aws/old/3".to_owned()]
    {
        let asset = world.get(&format!("/v1/assets/{name}")).await.json();
        assert_eq!(asset["name"], format!("{SG}3"), "{name}");
        assert_eq!(asset["configuration"]["rules"], serde_json::json!([]));
        let history = world.get(&format!("/v1/assets/{name}/history?limit=3&fields=id")).await.json();
        let ids = history["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned());
        assert_eq!(ids.collect::<Vec<_>>(), ["e-33:0", "e-23:0", "e-13:0"]);
        let token = history["next"].as_str().unwrap();
        let rest = world.get(&format!("/v1/assets/{name}/history?limit=3&page_token={token}")).await.json();
        assert_eq!((rest["events"][0]["id"].as_str(), &rest["next"]), (Some("e-3:0"), &Value::Null));
    }
    for uri in ["/v1/assets/asset://aws/none", "/v1/assets/asset://aws/none/history", "/v1/assets/sg-3"] {
        let answer = world.get(uri).await;
        assert_eq!(answer.problem(), (404, "asset_not_found".to_owned()), "{uri}");
    }
    for past in ["", "/blame"] {
        let answer = world.get(&format!("/v1/assets/{SG}3{past}?as_of=yesterday")).await;
        assert_eq!(
            (answer.problem(), answer.json()["parameter"].as_str()),
            ((400, "bad_parameter".into()), Some("as_of"))
        );
        let unknown = world.get(&format!("/v1/assets/{SG}3{past}?at=1h")).await.problem();
        assert_eq!(unknown, (400, "unknown_parameter".to_owned()));
        let early = world.get(&format!("/v1/assets/{SG}3{past}?as_of={}", moment(0))).await.problem();
        assert_eq!(early, (404, "asset_not_known_then".to_owned()), "{past}");
        let none = world.get(&format!("/v1/assets/asset://aws/none{past}?as_of=1h")).await.problem();
        assert_eq!(none, (404, "asset_not_found".to_owned()), "{past}");
    }
    let now = world.get("/v1/assets/asset://aws/old/3?as_of=1h").await.json();
    assert_eq!((now["id"].as_str(), now["as_of"].as_str()), (Some("sg-3"), Some(&*moment(50).to_string())));
    let stale = world.get(&format!("/v1/assets/{SG}3/history?page_token=77.1")).await.json();
    assert_eq!(stale["parameter"], "page_token");
}

#[tokio::test]
async fn sources_and_quarantine() {
    let world = World::new(0).await;
    world.state.sources.register(SourceId::from("trail"), "file").update(|status| status.records = 5);
    let sources = world.get("/v1/sources").await.json();
    assert_eq!(sources["sources"][0]["name"], "trail");
    assert_eq!(
        (&sources["sources"][0]["kind"], &sources["sources"][0]["records"]),
        (&Value::from("file"), &Value::from(5))
    );

    let rejected = |number: u64, bytes: &'static [u8]| Quarantined {
        number,
        rejected: Rejected {
            origin: Origin { source: SourceId::from("trail"), location: "/var/trail.json".into(), index: number },
            code: "not_json",
            reason: "expected an object".to_owned(),
            bytes: Bytes::from_static(bytes),
            observed: Time::default(),
        },
    };
    world.log.set_quarantine(vec![rejected(1, b"{\"a\":"), rejected(2, b"\xff\\"), rejected(3, b"")]);
    let page = world.get("/v1/quarantine?limit=2").await.json();
    assert_eq!(
        (&page["records"][0]["record"], &page["records"][0]["encoding"]),
        (&Value::from("{\"a\":"), &Value::from("utf-8"))
    );
    assert_eq!(
        (&page["records"][1]["record"], &page["records"][1]["encoding"]),
        (&Value::from("\\xff\\\\"), &Value::from("escaped"))
    );
    assert_eq!(page["next"], "2");
    let page = world.get("/v1/quarantine?limit=2&page_token=2").await.json();
    assert_eq!((&page["records"][0]["number"], &page["next"]), (&Value::from(3), &Value::Null));
}

#[tokio::test]
async fn a_log_in_memory_has_no_backup() {
    assert_eq!(World::new(1).await.get("/v1/backup").await.problem(), (404, "no_backup".to_owned()));
}

#[tokio::test]
async fn health() {
    let world = World::new(1).await;
    assert_eq!(world.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(world.get("/readyz").await.status, StatusCode::OK);
    let latch = world.state.readiness.latch("inventory");
    let answer = world.get("/readyz").await;
    assert_eq!(
        (answer.status, &answer.json()["missing"][0]),
        (StatusCode::SERVICE_UNAVAILABLE, &Value::from("inventory"))
    );
    latch.release();
    assert_eq!(world.get("/readyz").await.status, StatusCode::OK);
    world.stop.cancel();
    let answer = world.get("/readyz").await;
    assert_eq!((answer.status, &answer.json()["stopping"]), (StatusCode::SERVICE_UNAVAILABLE, &Value::from(true)));
    assert_eq!(world.get("/healthz").await.status, StatusCode::OK);
    let answer = world.get("/metrics").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
}

#[tokio::test]
async fn routes_and_methods() {
    let world = World::new(1).await;
    let index = world.get("/").await.json();
    assert!(index["resources"]["/v1/events"].is_string());
    let list = world.get("/v1/schema").await.json();
    let schema = world.get(list["schemas"][0].as_str().unwrap()).await;
    assert_eq!((schema.header("content-type"), schema.body.as_str()), ("application/schema+json", ASSET_EVENT_SCHEMA));
    for uri in ["/v1/schema/none", "/v2", "/v1/events/", "/v1/assets/"] {
        let answer = world.get(uri).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{uri}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{uri}");
    }
    for uri in ["/", "/v1/events", "/v1/events/x", "/v1/assets", "/readyz", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE"] {
            let answer = world.send(method, uri, &[]).await;
            assert_eq!(answer.problem(), (405, "method_not_allowed".to_owned()));
            assert_eq!(answer.header("allow"), "GET,HEAD", "{method} {uri}");
        }
        let answer = world.send("OPTIONS", uri, &[]).await;
        assert_eq!((answer.status, answer.header("allow")), (StatusCode::NO_CONTENT, "GET,HEAD"));
    }
    let answer = world.send("HEAD", "/v1/events", &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "text/event-stream"));
    assert_eq!(world.state.metrics.stream_clients.get(), 0);
    assert_eq!(world.send("HEAD", "/v1/events?limit=x", &[]).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn cross_origin_readers_are_those_allowed() {
    let allowed = ("origin", "https://dash.example.com");
    let closed = World::new(1).await;
    assert_eq!(closed.get_with("/healthz", &[allowed]).await.header("access-control-allow-origin"), "");
    let open = World::with(1, |config| config.cors_origins = vec!["https://dash.example.com".to_owned()]).await;
    assert_eq!(open.get_with("/healthz", &[allowed]).await.header("access-control-allow-origin"), allowed.1);
    let other = open.get_with("/healthz", &[("origin", "https://evil.example.com")]).await;
    assert_eq!(other.header("access-control-allow-origin"), "");
    let preflight =
        [allowed, ("access-control-request-method", "GET"), ("access-control-request-headers", "last-event-id")];
    let answer = open.send("OPTIONS", "/v1/events", &preflight).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (StatusCode::NO_CONTENT, allowed.1));
    assert!(answer.header("access-control-allow-headers").contains("last-event-id"));
    let refused = [("origin", "https://evil.example.com"), preflight[1]];
    assert_eq!(open.send("OPTIONS", "/v1/events", &refused).await.header("access-control-allow-origin"), "");
    let options = open.send("OPTIONS", "/v1/events", &[allowed]).await;
    assert_eq!(options.header("allow"), "GET,HEAD", "what is no preflight is answered as ever");
    let problem = open.get_with("/v1/events?x=1", &[allowed]).await;
    assert_eq!((problem.header("access-control-allow-origin"), problem.header("vary")), (allowed.1, "origin"));

    // Exchanged while it runs.
    for (origins, expected) in [(vec!["*".to_owned()], "https://evil.example.com"), (Vec::new(), "")] {
        open.state.config.store(Arc::new(HttpConfig { cors_origins: origins, ..HttpConfig::default() }));
        let other = open.get_with("/healthz", &[("origin", "https://evil.example.com")]).await;
        assert_eq!(other.header("access-control-allow-origin"), expected);
    }
    let mut state = open.state.clone();
    state.config = Arc::new(ArcSwap::from_pointee(HttpConfig { heartbeat_secs: 0, ..HttpConfig::default() }));
    assert_eq!(router(state).err(), Some(HttpConfigError::Heartbeat { secs: 0 }));
}
