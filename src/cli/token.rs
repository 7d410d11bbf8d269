//! `catchment token`: creates, lists and revokes the tokens of clients.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::Failure;
use crate::auth::{ScopeText, TokenError, TokenFile};
use crate::config::{self, Environment, Flags};
use crate::model::{Time, parse_duration};

const EXAMPLES: &str = "\
Examples:
  catchment token create siem
  catchment token create payments --scope account=111122223333,444455556666 --hide raw --expires 90d
  catchment token list
  catchment token revoke siem

  curl -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:8780/v1/events

A token is printed once; only its SHA-256 hash is stored, in tokens.json in the data directory. A
running server notices changes within a second. Streams of a revoked or expired token receive no
further events and end at the next event or heartbeat. As soon as one token exists, every request
needs one.";

/// Create, list and revoke client tokens
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
    /// The server's configuration file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The server's data directory [default: from the configuration]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a token and print it
    Create {
        /// Name of the token: a-z, 0-9, ., _ and -
        name: String,
        /// Restrict what it sees with a filter parameter: account=111122223333; repeatable, all must match
        #[arg(long = "scope", value_name = "PARAMETER=LIST", value_parser = parameter)]
        scope: Vec<(String, String)>,
        /// Members of events and assets to hide from it: raw,configuration
        #[arg(long, value_name = "LIST")]
        hide: Option<String>,
        /// Expiry: 90d, 12h, or a time such as 2027-01-01T00:00:00Z [default: never]
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
    /// List all tokens, one per line
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token and end the streams it opened
    Revoke {
        /// The token's name
        name: String,
    },
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form account=111122223333"))?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn run(arguments: Arguments, environment: &Environment, output: &mut dyn Write) -> Result<(), Failure> {
    let flags = Flags { config: arguments.config, data_dir: arguments.data_dir, ..Flags::default() };
    let config = config::load(&flags, environment)?.config;
    let file = match &config.auth.tokens_file {
        Some(path) => TokenFile::new(path.clone()),
        None if config.ephemeral => {
            let message = "the configuration says ephemeral = true: name a file for the tokens, auth.tokens_file";
            return Err(Failure::Usage(message.to_owned()));
        }
        None => TokenFile::of(&config.data_dir),
    };
    match arguments.action {
        Action::Create { name, scope, hide, expires } => {
            let scope = scope_of(scope, hide)?;
            scope.compile(&config.events.type_prefix).map_err(|error| Failure::Usage(error.to_string()))?;
            let now = now();
            let expires = expires.map(|text| end(&text, now)).transpose()?;
            let token = file.create(&name, scope, now, expires).map_err(failed)?;
            tracing::info!(target: "audit", token = name, "token made");
            Ok(writeln!(output, "{token}")?)
        }
        Action::List { json } => list(&file, json, output),
        Action::Revoke { name } => {
            file.revoke(&name).map_err(failed)?;
            Ok(writeln!(
                output,
                "{name} is revoked; a running server refuses it within a second, and ends its streams"
            )?)
        }
    }
}

fn scope_of(parameters: Vec<(String, String)>, hide: Option<String>) -> Result<ScopeText, Failure> {
    let mut scope = BTreeMap::new();
    for (name, value) in parameters.into_iter().chain(hide.map(|hide| ("hide".to_owned(), hide))) {
        if scope.insert(name.clone(), value).is_some() {
            return Err(Failure::Usage(format!("--scope {name} is given twice; separate several values by commas")));
        }
    }
    Ok(ScopeText(scope))
}

fn end(text: &str, now: Time) -> Result<Time, Failure> {
    let after = parse_duration(text).and_then(|duration| i64::try_from(duration.as_millis()).ok());
    let end = match after {
        Some(millis) => Time::from_millis(now.millis().saturating_add(millis)),
        None => {
            text.parse().map_err(|error| Failure::Usage(format!("--expires {error}, nor a duration such as 90d")))?
        }
    };
    if end <= now {
        return Err(Failure::Usage(format!("--expires {text} lies in the past")));
    }
    Ok(end)
}

fn list(file: &TokenFile, as_json: bool, output: &mut dyn Write) -> Result<(), Failure> {
    let tokens = file.read().map_err(failed)?;
    let now = now();
    for token in &tokens {
        let expired = token.expires.is_some_and(|expires| expires <= now);
        if as_json {
            let line = json!({
                "name": token.name, "created": token.created, "expires": token.expires, "expired": expired,
                "scope": token.scope,
            });
            writeln!(output, "{line}")?;
            continue;
        }
        let end = match token.expires {
            Some(expires) if expired => format!("expired {expires}"),
            Some(expires) => format!("until {expires}"),
            None => "until it is revoked".to_owned(),
        };
        let scope: Vec<String> = token.scope.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let scope = if scope.is_empty() { "everything".to_owned() } else { scope.join(" ") };
        writeln!(output, "{}  since {}  {end}  {scope}", token.name, token.created)?;
    }
    if tokens.is_empty() && !as_json {
        writeln!(output, "no token: {} has none", file.path().display())?;
    }
    Ok(())
}

fn failed(error: TokenError) -> Failure {
    match error {
        TokenError::Name { .. } | TokenError::Taken { .. } | TokenError::Unknown { .. } => {
            Failure::Usage(error.to_string())
        }
        error => Failure::run("keep the tokens", error),
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
