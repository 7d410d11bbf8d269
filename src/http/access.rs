//! Authentication: the credential of a request, and what the response may contain.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::assets::{AssetBody, in_scope};
use super::error::ApiError;
use super::params::NoParams;
use super::{App, Shared};
use crate::auth::{Access, Credential, Grant, Refusal, SESSION};
use crate::hub::{Filter, Projection, View};
use crate::inventory::Held;
use crate::model::{EventHead, Time};

/// The cookie that carries a browser's session.
const COOKIE: &str = "catchment_session";

/// The client's address. Every request carries it as an extension.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The credential of the request, as an extension that handlers extract.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Arc<Grant>);

impl Caller {
    /// Takes one of this credential's stream slots, until the permit is dropped.
    ///
    /// # Errors
    /// When as many of its streams are open as `auth.streams_per_token` permits.
    pub(super) fn open_stream(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.0.open_stream().ok_or(ApiError::TooManyStreamsOfOne)
    }

    /// Logs who opens a stream, and from where, if a credential was needed for that.
    pub(super) fn log_stream(&self, peer: Option<Peer>) {
        let Some(credential) = self.0.holder() else { return };
        let peer = peer.map(|peer| tracing::field::display(peer.0.ip()));
        // Escaped, as a provider of JWTs might let anything through.
        tracing::info!(target: "audit", peer, credential = %credential.escape_debug(), "stream opened");
    }

    /// Cancelled when the credential ends; `None` for one that does not.
    pub(super) fn until_ended(&self) -> Option<CancellationToken> {
        self.0.can_end().then(|| self.0.ended().clone())
    }

    /// Restricts the requested filter to the credential's scope.
    ///
    /// # Errors
    /// When the credential hides members and the filter has a `where` expression, which could read them.
    pub(super) fn confine(&self, filter: Filter) -> Result<Filter, ApiError> {
        let scope = self.0.scope();
        if scope.hidden().is_some() && filter.has_condition() {
            let reason = "this credential does not see every member, and an expression could read any";
            return Err(ApiError::bad_parameter("where", reason));
        }
        Ok(filter.within(scope.filter()))
    }

    /// The requested projection, minus the members that the credential hides.
    pub(super) fn project(&self, asked: Option<Arc<Projection>>) -> Option<Arc<Projection>> {
        match (asked, self.0.scope().hidden()) {
            (Some(asked), Some(hidden)) => Some(Arc::new(Arc::unwrap_or_clone(asked).then(hidden))),
            (asked, hidden) => asked.or_else(|| hidden.cloned()),
        }
    }

    /// Whether the scope includes an event, given as JSON.
    pub(super) fn sees_event(&self, json: &[u8]) -> Result<bool, ApiError> {
        let Some(filter) = self.0.scope().filter() else { return Ok(true) };
        let head = EventHead::parse(json).map_err(internal)?;
        Ok(filter.matches(&View::new(&head, json)))
    }

    /// The filter for the assets in scope; `None`: all are.
    ///
    /// # Errors
    /// When the scope depends on changes (who, how, when): the present state of an asset can't be restricted by that.
    pub(super) fn assets(&self) -> Result<Option<&Arc<Filter>>, ApiError> {
        let filter = self.0.scope().filter();
        if filter.is_none_or(|filter| filter.is_about_assets()) { Ok(filter) } else { Err(ApiError::OutOfScope) }
    }

    /// Whether an asset is in scope.
    ///
    /// # Errors
    /// As [`assets`](Self::assets).
    pub(super) fn sees_asset(&self, asset: &Held) -> Result<bool, ApiError> {
        Ok(in_scope(&asset.outline(), self.assets()?.map(AsRef::as_ref)))
    }

    /// Whether the credential hides no member of events and assets.
    pub(super) fn sees_every_member(&self) -> bool {
        self.0.scope().hidden().is_none()
    }

    /// Removes the members that the credential hides from a response about an asset. Hidden members are named as in an
    /// event.
    pub(super) fn asset<'a>(&self, body: AssetBody<'a>) -> Result<Shown<AssetBody<'a>>, ApiError> {
        let Some(hidden) = self.0.scope().hidden() else { return Ok(Shown::Whole(body)) };
        let mut body = serde_json::to_value(body).map_err(internal)?;
        let mut data = Map::new();
        if let Value::Object(members) = &mut body {
            for name in ["configuration", "configuration_state"] {
                data.extend(members.remove_entry(name));
            }
        }
        data.insert("asset".to_owned(), body);
        let mut shown = Vec::new();
        let event = serde_json::to_vec(&json!({ "data": data })).map_err(internal)?;
        hidden.apply(&event, &mut shown).map_err(internal)?;
        let mut event: Value = serde_json::from_slice(&shown).map_err(internal)?;
        let mut data = event.get_mut("data").map(Value::take).unwrap_or_default();
        let mut asset = data.get_mut("asset").map(Value::take).unwrap_or_default();
        if let (Value::Object(asset), Value::Object(mut data)) = (&mut asset, data) {
            data.remove("asset");
            asset.extend(data);
        }
        Ok(Shown::Cut(asset))
    }

    /// Refuses a credential with a scope, for resources that belong to no asset and so can't be restricted to one.
    pub(super) fn sees_everything(&self) -> Result<(), ApiError> {
        if self.0.scope().is_everything() { Ok(()) } else { Err(ApiError::OutOfScope) }
    }
}

/// A response body as the credential may see it.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Shown<T> {
    /// Unchanged.
    Whole(T),
    /// Without the hidden members.
    Cut(Value),
}

/// Middleware that authenticates: passes a request with a valid credential on, with its [`Caller`] as an extension.
pub(super) async fn admit(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let shown = match Given::take(&mut request, &app.state.access) {
        Ok(shown) => shown,
        Err(error) => return refuse(&app, error, &request, peer),
    };
    let grant = match app.state.access.admit(shown.as_ref().map(Given::credential), peer).await {
        Ok(grant) => grant,
        Err(refusal) => return refuse(&app, refusal.into(), &request, peer),
    };
    let asks_nobody = app.state.access.is_local_only() && !app.state.config.load().asks_for_certificates;
    if shown.is_none() && asks_nobody && !names_this_machine(&request) {
        return refuse(&app, ApiError::ForeignHost, &request, peer);
    }
    request.extensions_mut().insert(Caller(grant));
    next.run(request).await
}

/// Counts and logs a refused request, without its credential, and makes the response.
fn refuse(app: &App, error: ApiError, request: &Request, peer: IpAddr) -> Response {
    app.state.metrics.http_refusals.with_label_values(&[error.code()]).inc();
    // Debug escapes what a client might hide in a path.
    let path = request.uri().path();
    tracing::warn!(target: "audit", %peer, method = %request.method(), ?path, reason = %error, "request refused");
    error.into_response()
}

/// The credential that a request presents.
enum Given {
    Bearer(String),
    Ticket(String),
    Session(String),
}

impl Given {
    /// Extracts the credential: `Authorization`, then the query, then the cookie. One in the query is removed from the
    /// URI, so that it reaches no log.
    fn take(request: &mut Request, access: &Access) -> Result<Option<Self>, ApiError> {
        let query = take_query(request.uri_mut(), &["ticket", "access_token"]);
        if let Some(value) = request.headers().get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(bearer).ok_or(ApiError::BadAuthorization)?;
            return Ok(Some(Self::Bearer(token.to_owned())));
        }
        match query {
            Some(("ticket", ticket)) => return Ok(Some(Self::Ticket(ticket))),
            Some((_, token)) if access.takes_query_tokens() => return Ok(Some(Self::Bearer(token))),
            Some(_) => return Err(ApiError::QueryToken),
            None => {}
        }
        Ok(cookie(request.headers()).map(|session| Self::Session(session.to_owned())))
    }

    fn credential(&self) -> Credential<'_> {
        match self {
            Self::Bearer(token) => Credential::Bearer(token),
            Self::Ticket(ticket) => Credential::Ticket(ticket),
            Self::Session(session) => Credential::Session(session),
        }
    }
}

/// The token of `Bearer <token>`; the scheme is case-insensitive (RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(name, value)| (name == COOKIE).then_some(value))
}

/// Removes the named parameters from the query, and returns the first of them with its value.
fn take_query(uri: &mut Uri, names: &[&'static str]) -> Option<(&'static str, String)> {
    let query = uri.query()?;
    let name_of = |pair: &str| {
        let name = pair.split('=').next().unwrap_or(pair);
        names.iter().find(|wanted| **wanted == name).copied()
    };
    let found = query.split('&').find_map(|pair| {
        let value = pair.split_once('=').map_or("", |(_, value)| value);
        // Tokens are made of letters that need no escape.
        name_of(pair).map(|name| (name, value.to_owned()))
    })?;
    let kept: Vec<&str> = query.split('&').filter(|pair| name_of(pair).is_none()).collect();
    let path = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    if let Ok(shorter) = Uri::from_parts(parts) {
        *uri = shorter;
    }
    Some(found)
}

/// Whether the request names the loopback interface. A foreign page can make a browser query a local server under a
/// domain of its own (DNS rebinding), but can't hide that domain: it is in `Host`, in an absolute URI, or in HTTP/2's
/// `:authority`.
fn names_this_machine(request: &Request) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().ok());
    let authority = request.uri().authority().map(|authority| Some(authority.as_str()));
    hosts.chain(authority).all(|host| host.is_some_and(is_this_machine))
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[derive(Serialize)]
struct TicketBody {
    ticket: String,
    expires: Time,
}

/// `POST /v1/tickets`: issues a ticket that opens one stream with `GET /v1/events?ticket=…`.
pub(super) async fn ticket(
    State(app): State<Shared>,
    axum::Extension(caller): axum::Extension<Caller>,
    _: NoParams,
) -> Result<Response, ApiError> {
    let (ticket, expires) = app.state.access.issue_ticket(&caller.0).map_err(internal)?;
    Ok((NO_STORE, Json(TicketBody { ticket, expires })).into_response())
}

/// `POST /v1/login`: starts a session with the credential of this request, and sets its cookie.
pub(super) async fn login(
    State(app): State<Shared>,
    axum::Extension(caller): axum::Extension<Caller>,
    _: NoParams,
) -> Result<Response, ApiError> {
    let (session, _) = app.state.access.issue_session(&caller.0).map_err(internal)?;
    Ok((StatusCode::NO_CONTENT, NO_STORE, set_cookie(&session, SESSION.as_secs())?).into_response())
}

/// `POST /v1/logout`: ends the session and clears its cookie.
pub(super) async fn logout(State(app): State<Shared>, headers: HeaderMap, _: NoParams) -> Result<Response, ApiError> {
    if let Some(session) = cookie(&headers) {
        app.state.access.end_session(session);
    }
    Ok((StatusCode::NO_CONTENT, NO_STORE, set_cookie("", 0)?).into_response())
}

const NO_STORE: [(HeaderName, HeaderValue); 1] = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

/// The attributes keep the cookie from scripts, from other sites, and from plain HTTP except to localhost.
fn set_cookie(value: &str, max_age: u64) -> Result<[(HeaderName, HeaderValue); 1], ApiError> {
    let cookie = format!("{COOKIE}={value}; Path=/; Max-Age={max_age}; HttpOnly; Secure; SameSite=Strict");
    HeaderValue::from_str(&cookie).map(|value| [(header::SET_COOKIE, value)]).map_err(internal)
}

fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::Internal { cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_of_the_address_is_no_longer_in_it() {
        for (before, found, after) in [
            ("/v1/events?ticket=t", Some(("ticket", "t")), "/v1/events"),
            ("/v1/events?type=create&ticket=t&limit=1", Some(("ticket", "t")), "/v1/events?type=create&limit=1"),
            ("/v1/events?access_token=a&ticket=t", Some(("access_token", "a")), "/v1/events"),
            ("/v1/events?ticketed=t", None, "/v1/events?ticketed=t"),
            ("/v1/events", None, "/v1/events"),
        ] {
            let mut uri: Uri = before.parse().unwrap();
            let taken = take_query(&mut uri, &["ticket", "access_token"]);
            assert_eq!(taken.as_ref().map(|(name, value)| (*name, value.as_str())), found, "{before}");
            assert_eq!(uri.to_string(), after, "{before}");
        }
    }

    #[test]
    fn only_bearer_is_taken() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for value in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(bearer(value), None, "{value}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; catchment_session=s; c=d"));
        assert_eq!(cookie(&headers), Some("s"));
        headers.remove(header::COOKIE);
        assert_eq!(cookie(&headers), None);
    }

    #[test]
    fn only_names_of_the_loopback_interface_are_this_machine() {
        let request = |host: &str| Request::builder().header("host", host).body(axum::body::Body::empty()).unwrap();
        for host in ["localhost", "LOCALHOST:8780", "127.0.0.1:1", "127.9.9.9", "[::1]:8780"] {
            assert!(names_this_machine(&request(host)), "{host}");
        }
        for host in ["example.com", "127.0.0.1.example.com", "localhost.example.com:80", "192.0.2.1", "[2001:db8::1]:1"]
        {
            assert!(!names_this_machine(&request(host)), "{host}");
        }
    }

    #[test]
    fn no_name_of_a_request_is_another_machines() {
        let request = |uri: &str, host: Option<&str>| {
            let request = Request::builder().uri(uri);
            let request = host.into_iter().fold(request, |request, host| request.header("host", host));
            names_this_machine(&request.body(axum::body::Body::empty()).unwrap())
        };
        assert!(request("/", None), "HTTP/1.0");
        assert!(request("https://localhost:1/", None), "HTTP/2");
        assert!(!request("https://rebound.example.com/", None));
        assert!(!request("http://rebound.example.com/", Some("localhost")));
        assert!(!request("http://localhost/", Some("rebound.example.com")));
        assert!(!request("https://localhost@rebound.example.com/", None));
    }
}
