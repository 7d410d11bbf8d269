//! The process's own log: on stderr, for people or as JSON lines, filtered by `CATCHMENT_LOG`.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

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
        .with_writer(|| OneLine(io::stderr()))
        .with_span_events(FmtSpan::NONE)
        // A stderr that nobody reads any more must not stop the program.
        .log_internal_errors(false);
    let outcome = match format {
        LogFormat::Human => builder.with_ansi(colour()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    outcome.map_err(|_| TelemetryError::Twice)
}

/// Keeps each event on one line, whatever a client or a record has put into what it tells: a line that somebody else has
/// written must not pass for ours. The formatter gives an event at once, and escapes what steers a terminal itself.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn one_line(event: &[u8]) -> Cow<'_, [u8]> {
    let (text, end) = event.strip_suffix(b"\n").map_or((event, &b""[..]), |text| (text, b"\n"));
    if !text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Cow::Borrowed(event);
    }
    let escape = |byte: &u8| match byte {
        b'\n' => b"\\n".to_vec(),
        b'\r' => b"\\r".to_vec(),
        other => vec![*other],
    };
    Cow::Owned(text.iter().flat_map(escape).chain(end.iter().copied()).collect())
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
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stays_on_one_line() {
        for (event, expected) in [
            (&b"INFO told a=1\n"[..], &b"INFO told a=1\n"[..]),
            (b"INFO told a=1\nINFO forged\r\n", b"INFO told a=1\\nINFO forged\\r\n"),
            (b"\n", b"\n"),
            (b"", b""),
            (b"a\rb", b"a\\rb"),
        ] {
            let mut written = Vec::new();
            OneLine(&mut written).write_all(event).unwrap();
            assert_eq!(written, expected);
        }
    }

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
