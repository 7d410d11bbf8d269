//! The process's own log: on stderr, for people or as JSON lines, filtered by `CATCHMENT_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// What is logged when `CATCHMENT_LOG` is not set: our own news, and only the worries of libraries. What the Event Hubs
/// SDK warns of, its source tells itself.
pub const DEFAULT_FILTER: &str = "warn,catchment=info,azure_messaging_eventhubs=error";

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text, in colour on a terminal unless `NO_COLOR` is set.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `CATCHMENT_LOG` is no filter.
    #[error("environment variable CATCHMENT_LOG: {0:?} is not a filter such as info, debug or catchment=debug,warn")]
    Filter(String),
    /// Somebody installed a log already.
    #[error("the log of this process is set up twice")]
    Twice,
}

/// Starts the log of the process. `filter` is that of `CATCHMENT_LOG`; without it, `default_filter`.
///
/// # Errors
/// When the filter can't be read, or the log was started before.
pub fn init(format: LogFormat, filter: Option<&str>, default_filter: &str) -> Result<(), TelemetryError> {
    let filter = parse_filter(filter.unwrap_or(default_filter))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        // A stderr that nobody reads any more must not stop the program.
        .log_internal_errors(false);
    let outcome = match format {
        LogFormat::Human => builder.with_ansi(colour()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    outcome.map_err(|_| TelemetryError::Twice)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    // Stricter than the library, which takes any word for the name of a crate: `CATCHMENT_LOG=inof` would be silence.
    let known_level =
        |part: &str| part.contains(['=', ':', '[']) || (!part.is_empty() && part.parse::<LevelFilter>().is_ok());
    let parts: Vec<&str> = filter.split(',').map(str::trim).collect();
    if !parts.iter().copied().all(known_level) {
        return Err(TelemetryError::Filter(filter.to_owned()));
    }
    EnvFilter::try_new(parts.join(",")).map_err(|_| TelemetryError::Filter(filter.to_owned()))
}

/// <https://no-color.org>: any value but an empty one.
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_taken_or_refused_by_name() {
        for filter in ["info", "off", "catchment=debug,warn", "warn, catchment::hub=trace", DEFAULT_FILTER] {
            assert!(parse_filter(filter).is_ok(), "{filter}");
        }
        for filter in ["inof", "", "catchment=loud", "info,,debug"] {
            let error = parse_filter(filter).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("CATCHMENT_LOG") && error.contains(&format!("{filter:?}")), "{error}");
        }
    }
}
