//! CORS: which pages of other origins may read the interface (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Shared;

/// How long a browser may cache a preflight response: ten minutes.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");
/// Request headers that pages may send beyond the safelisted ones.
const HEADERS: HeaderValue = HeaderValue::from_static("accept, authorization, cache-control, last-event-id");

/// CORS for the pages of [`HttpConfig::cors_origins`](super::HttpConfig::cors_origins), preflight requests included.
/// Without any origin there, no CORS header is sent.
pub(super) async fn share(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let config = app.state.config.load_full();
    if config.cors_origins.is_empty() {
        return next.run(request).await;
    }
    let origin =
        request.headers().get(header::ORIGIN).filter(|origin| is_allowed(origin, &config.cors_origins)).cloned();
    let mut response = match origin {
        Some(_) if is_preflight(&request) => preflight(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    // No cache is to give what one origin was told to another.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

fn is_allowed(origin: &HeaderValue, allowed: &[String]) -> bool {
    allowed.iter().any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
}

/// Any other OPTIONS request is handled by the routes.
fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight() -> Response {
    let told = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, told).into_response()
}
