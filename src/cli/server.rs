//! A client of a running server, for the commands that print its answers.

use std::path::PathBuf;
use std::time::Duration;

use azure_core::http::{Method, Request, Url, new_http_client};
use serde_json::Value;

use super::{Failure, local_url};
use crate::config::{self, Environment, Flags};

const TIMEOUT: Duration = Duration::from_secs(60);

/// The options that locate a running server.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The server's URL [default: the configured address on this machine]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The server's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A running server.
pub(super) struct Server {
    base: String,
    bearer: Option<String>,
}

impl Server {
    /// The server at `place`; requests carry the token in `CATCHMENT_TOKEN`.
    pub(super) fn at(place: &Place, environment: &Environment) -> Result<Self, Failure> {
        let base = match &place.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => {
                let flags = Flags { config: place.config.clone(), ..Flags::default() };
                local_url(&config::load(&flags, environment)?.config.http)?
            }
        };
        Ok(Self { base, bearer: environment.token().map(|token| format!("Bearer {token}")) })
    }

    /// The answer to `GET path`: the body, or the problem document of a refusal.
    pub(super) async fn get(&self, path: &str) -> Result<Result<Value, Value>, Failure> {
        let failed = |cause: &dyn std::fmt::Display| Failure::run(format!("ask {}", self.base), cause);
        let url = Url::parse(&format!("{}{path}", self.base)).map_err(|error| failed(&error))?;
        let mut request = Request::new(url, Method::Get);
        if let Some(bearer) = &self.bearer {
            request.insert_header("authorization", bearer.clone());
        }
        let answer = async {
            let answer = new_http_client(None).execute_request(&request).await?;
            let status = u16::from(answer.status());
            Ok::<_, azure_core::Error>((status, answer.into_body().collect().await?))
        };
        let answer = tokio::time::timeout(TIMEOUT, Box::pin(answer)).await;
        let (status, body) = answer
            .map_err(|_| failed(&format!("no answer within {} s", TIMEOUT.as_secs())))?
            .map_err(|error| failed(&error))?;
        match serde_json::from_slice::<Value>(&body) {
            Ok(answer) if status == 200 => Ok(Ok(answer)),
            Ok(problem) if problem["code"].is_string() => Ok(Err(problem)),
            _ => Err(failed(&format!(
                "status {status}, and the answer is not Catchment's; check the server's URL (--url)"
            ))),
        }
    }

    /// Turns a problem document into a failure.
    pub(super) fn refused(&self, problem: &Value) -> Failure {
        Failure::run(format!("ask {}", self.base), detail(problem))
    }
}

/// The detail of a problem document, with the way to give a command its credential if that is what is missing.
pub(super) fn detail(problem: &Value) -> String {
    let detail = text(&problem["detail"]);
    match problem["code"].as_str() {
        Some("unauthorized" | "bad_credential") => format!("{detail}; commands present the token in CATCHMENT_TOKEN"),
        _ => detail,
    }
}

/// Text as it is; anything else as JSON.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Replaces control characters, so that text from providers and servers can't control the terminal.
pub(super) fn harmless(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
