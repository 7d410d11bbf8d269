//! Stands in for CloudTrail's LookupEvents, over HTTP in the SDK's protocol: JSON 1.1, pages newest first, tokens that
//! are valid only with the parameters they were issued for, the documented errors, events that appear late, and
//! scripted faults.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// A fault in place of a response.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mishap {
    /// `ThrottlingException`.
    Throttle,
    /// Status 500.
    Fail,
    /// Status 200 with half a page.
    Garble,
    /// The connection stays open without a response.
    Hang,
    /// `InvalidNextTokenException`.
    ExpireToken,
    /// `AccessDeniedException`.
    Deny,
}

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) region: String,
    /// The id of the key that signed it.
    pub(crate) access_key: String,
    pub(crate) token: Option<String>,
}

#[derive(Debug)]
struct Event {
    region: String,
    id: String,
    time: i64,
    visible_from: Instant,
}

#[derive(Debug, Default)]
struct Service {
    events: Vec<Event>,
    mishaps: VecDeque<Mishap>,
    requests: Vec<Request>,
}

/// The server; stopped when dropped.
#[derive(Debug)]
pub(crate) struct LookupEventsServer {
    pub(crate) url: String,
    service: Arc<Mutex<Service>>,
    task: AbortHandle,
}

impl LookupEventsServer {
    /// Starts on a free port.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = Arc::<Mutex<Service>>::default();
        let app = Router::new().route("/", post(answer)).with_state(Arc::clone(&service));
        let task = TaskTracker::new().spawn(async move { axum::serve(listener, app).await }).abort_handle();
        Self { url, service, task }
    }

    /// Adds an event that happened so many seconds ago, and appears after a while.
    pub(crate) fn add(&self, region: &str, id: &str, secs_ago: i64, shows_after: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let time = i64::try_from(now).unwrap() - secs_ago;
        let (region, id) = (region.to_owned(), id.to_owned());
        let event = Event { region, id, time, visible_from: Instant::now() + shows_after };
        self.service.lock().unwrap().events.push(event);
    }

    /// Sets the faults of the next requests.
    pub(crate) fn script(&self, mishaps: &[Mishap]) {
        self.service.lock().unwrap().mishaps.extend(mishaps);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.service.lock().unwrap().requests.clone()
    }
}

impl Drop for LookupEventsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(service): State<Arc<Mutex<Service>>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if !header("x-amz-target").ends_with("CloudTrail_20131101.LookupEvents") {
        return refuse("UnknownOperationException", "");
    }
    // Credential=AKID/20240102/eu-west-1/cloudtrail/aws4_request
    let authorization = header(header::AUTHORIZATION.as_str());
    let credential: Vec<_> = authorization.trim_start_matches("AWS4-HMAC-SHA256 Credential=").split('/').collect();
    let [access_key, _, region, ..] = credential[..] else {
        return refuse("MissingAuthenticationTokenException", "Request is missing Authentication Token");
    };
    let Ok(parameters) = serde_json::from_slice::<Value>(&body) else {
        return refuse("SerializationException", "");
    };
    let mishap = {
        let mut service = service.lock().unwrap();
        let token = parameters["NextToken"].as_str().map(str::to_owned);
        let (region, access_key) = (region.to_owned(), access_key.to_owned());
        service.requests.push(Request { region, access_key, token });
        service.mishaps.pop_front()
    };
    match mishap {
        None => page(&service.lock().unwrap(), region, &parameters),
        Some(Mishap::Throttle) => refuse("ThrottlingException", "Rate exceeded"),
        Some(Mishap::Fail) => (StatusCode::INTERNAL_SERVER_ERROR, "oops").into_response(),
        Some(Mishap::Garble) => reply(StatusCode::OK, "{\"Events\":[{\"EventId\":\"x\"".to_owned()),
        Some(Mishap::Hang) => std::future::pending().await,
        Some(Mishap::ExpireToken) => refuse("InvalidNextTokenException", "Invalid token"),
        Some(Mishap::Deny) => refuse(
            "AccessDeniedException",
            "User: arn:aws:iam::123456789012:user/x is not authorized to perform: cloudtrail:LookupEvents",
        ),
    }
}

fn page(service: &Service, region: &str, parameters: &Value) -> Response {
    // Times are numbers, with or without a fraction.
    let secs = |name: &str, default: f64| parameters[name].as_f64().unwrap_or(default);
    let (start, end) = (secs("StartTime", 0.0), secs("EndTime", f64::MAX));
    if start > end {
        return refuse("InvalidTimeRangeException", "The start time is after the end time");
    }
    let limit = parameters["MaxResults"].as_u64().unwrap_or(50);
    if !(1..=50).contains(&limit) {
        return refuse("InvalidMaxResultsException", "MaxResults must be from 1 to 50");
    }
    let bound_to = format!("{region}/{start}/{end}/{limit}");
    let offset = match parameters["NextToken"].as_str().map(|token| token.rsplit_once('#')) {
        None => 0,
        Some(Some((bound, offset))) if bound == bound_to => offset.parse().unwrap(),
        Some(_) => return refuse("InvalidNextTokenException", "Token given for other parameters"),
    };
    let shows = |event: &&Event| {
        event.region == region && (start..=end).contains(&(event.time as f64)) && event.visible_from <= Instant::now()
    };
    let mut found: Vec<_> = service.events.iter().filter(shows).collect();
    found.sort_by_key(|event| std::cmp::Reverse(event.time));
    let to = found.len().min(offset + usize::try_from(limit).unwrap());
    let mut answer = json!({ "Events": found[offset..to].iter().map(|event| listed(event)).collect::<Vec<_>>() });
    if to < found.len() {
        answer["NextToken"] = json!(format!("{bound_to}#{to}"));
    }
    reply(StatusCode::OK, answer.to_string())
}

fn listed(event: &Event) -> Value {
    let record = json!({
        "eventVersion": "1.11", "eventID": event.id, "eventSource": "ec2.amazonaws.com",
        "eventName": "RunInstances", "awsRegion": event.region, "recipientAccountId": "123456789012",
    });
    json!({
        "EventId": event.id, "EventName": "RunInstances", "ReadOnly": "false", "AccessKeyId": "ASIAX",
        "EventTime": event.time as f64, "EventSource": "ec2.amazonaws.com", "Username": "jane",
        "Resources": [{ "ResourceType": "AWS::EC2::Instance", "ResourceName": "i-0" }],
        "CloudTrailEvent": record.to_string(),
    })
}

fn refuse(kind: &str, message: &str) -> Response {
    reply(StatusCode::BAD_REQUEST, json!({ "__type": kind, "message": message }).to_string())
}

fn reply(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/x-amz-json-1.1")], body).into_response()
}
