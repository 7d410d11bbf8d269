//! `GET /v1/events/{id}`: one event.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::access::Caller;
use super::error::ApiError;
use super::params::Params;
use super::stream::parse_projection;
use super::{App, Shared};
use crate::hub::{Projection, blocking};
use crate::model::{Cursor, Seq};

/// `GET /v1/events/{id}`, by CloudEvents id or by position.
pub(super) async fn event(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, ApiError> {
    // What is no UTF-8 when it is decoded is the id of nothing.
    let Path(id) = id.map_err(|_| ApiError::EventNotFound { id: uri.path().to_owned() })?;
    let mut params = Params::parse(&uri)?;
    let projection = caller.project(parse_projection(&mut params)?);
    params.finish()?;
    let not_found = || ApiError::EventNotFound { id: id.clone() };
    let seq = find(&app, &id).await?.ok_or_else(not_found)?;
    let (_, json) = app.state.hub.events(vec![seq]).await?.into_iter().next().ok_or_else(not_found)?;
    if !caller.sees_event(&json)? {
        return Err(not_found());
    }
    let json = project(json, projection.as_deref())?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response())
}

async fn find(app: &App, id: &str) -> Result<Option<Seq>, ApiError> {
    if let Ok(cursor) = id.parse::<Cursor>() {
        return Ok((cursor.epoch == app.state.hub.epoch()).then_some(cursor.seq));
    }
    let (log, id) = (app.state.log.clone(), id.to_owned());
    Ok(blocking(move || log.find(&id)).await?)
}

/// Applies the projection to an event; without one, all of it.
pub(super) fn project(json: Bytes, projection: Option<&Projection>) -> Result<Bytes, ApiError> {
    let Some(projection) = projection else { return Ok(json) };
    let mut out = Vec::with_capacity(json.len());
    projection.apply(&json, &mut out).map_err(|error| ApiError::Internal { cause: error.to_string() })?;
    Ok(out.into())
}
