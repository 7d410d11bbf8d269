//! Stands in for the services around an event hub: the endpoint from which a managed identity gets its tokens
//! (<https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference>), and Azure
//! Resource Manager.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

const HEADER: &str = "as the platform gave it";

#[derive(Default)]
struct Cloud {
    /// The audience of each requested token.
    asked: Vec<String>,
    /// Resource Manager's responses by path, in lower case.
    resources: HashMap<String, (u16, Value)>,
    refuses_tokens: bool,
}

/// The servers; stopped when dropped.
pub(crate) struct Azure {
    pub(crate) url: String,
    cloud: Arc<Mutex<Cloud>>,
    task: AbortHandle,
}

impl Azure {
    /// Starts on a free port.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cloud = Arc::<Mutex<Cloud>>::default();
        let router = Router::new().route("/identity", get(token)).fallback(resource).with_state(Arc::clone(&cloud));
        let task = TaskTracker::new().spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self { url, cloud, task }
    }

    /// Gives a command the environment of an app with a managed identity.
    pub(crate) fn identify(&self, command: &mut Command) {
        command.env("IDENTITY_ENDPOINT", format!("{}/identity", self.url)).env("IDENTITY_HEADER", HEADER);
    }

    pub(crate) fn refuse_tokens(&self) {
        self.cloud.lock().unwrap().refuses_tokens = true;
    }

    /// Sets Resource Manager's response for a path.
    pub(crate) fn answer(&self, path: &str, status: u16, body: Value) {
        self.cloud.lock().unwrap().resources.insert(path.to_lowercase(), (status, body));
    }

    /// The audiences of the requested tokens.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.cloud.lock().unwrap().asked.clone()
    }
}

impl Drop for Azure {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn token(
    State(cloud): State<Arc<Mutex<Cloud>>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let mut cloud = cloud.lock().unwrap();
    if cloud.refuses_tokens || headers.get("x-identity-header").is_none_or(|header| header != HEADER) {
        let body = json!({ "statusCode": 400, "message": "No managed identity was found for this app." });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    }
    let resource = query.get("resource").cloned().unwrap_or_default();
    cloud.asked.push(resource.clone());
    let expires_on = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3_600;
    let token = json!({
        "access_token": format!("token for {resource}"), "expires_on": expires_on.to_string(), "resource": resource,
        "token_type": "Bearer", "client_id": "00000000-0000-0000-0000-0000000000cc",
    });
    Json(token).into_response()
}

async fn resource(State(cloud): State<Arc<Mutex<Cloud>>>, uri: Uri, headers: HeaderMap) -> Response {
    let bearer = "Bearer token for https://management.azure.com";
    let is_known = headers.get("authorization").is_some_and(|given| given.as_bytes() == bearer.as_bytes());
    if !is_known || !uri.query().is_some_and(|query| query.starts_with("api-version=20")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let found = cloud.lock().unwrap().resources.get(&uri.path().to_lowercase()).cloned();
    let (status, body) = found.unwrap_or((404, json!({ "error": { "code": "NotFound" } })));
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}
