//! Bodies of requests: no resource takes one, so none is read. A small one, which some clients send with every `POST`,
//! does no harm.

use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Body;

use super::error::ApiError;

/// What hyper reads past, where it has come already, to keep the connection.
const MAX_BYTES: u64 = 64 * 1024;

/// Refuses a body that says it is large. After one that does not say how large it is, the connection ends: where two
/// readers could differ on where the next request begins (RFC 9112, section 6.1), there is none.
pub(super) async fn bound(request: Request, next: Next) -> Response {
    let length = request.body().size_hint().lower();
    if length > MAX_BYTES {
        return ApiError::BodyTooLarge { length }.into_response();
    }
    let is_framed = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = next.run(request).await;
    if is_framed {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
