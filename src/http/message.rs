//! Checks of every request as an HTTP message, before routing. hyper checks the syntax of heads. No resource accepts a
//! body, so none is read; a small one, which some clients send with every `POST`, does no harm.

use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Body;

use super::error::ApiError;

/// No resource takes a body: smaller ones are ignored, larger ones refused.
const MAX_BODY_BYTES: u64 = 64 * 1024;

/// Refuses a request without exactly one host (RFC 9112, section 3.2), and one with a large body. After a body of
/// undeclared length the connection is closed, so that two readers can't disagree on where the next request begins
/// (section 6.1).
pub(super) async fn check(request: Request, next: Next) -> Response {
    if request.version() == Version::HTTP_11 && request.headers().get_all(header::HOST).iter().count() != 1 {
        return ApiError::BadHost.into_response();
    }
    let length = request.body().size_hint().lower();
    if length > MAX_BODY_BYTES {
        return ApiError::BodyTooLarge { length }.into_response();
    }
    let is_framed = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = next.run(request).await;
    if is_framed {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
