//! The process's own log on standard error, as text or JSON lines, filtered by `CATCHMENT_LOG` or `telemetry.log`; and
//! its spans, which [`otlp`] sends to a collector if one is configured.

pub mod otlp;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

use self::otlp::Spans;

/// The default filter: information from Catchment and the audit log, warnings from libraries. The source for Event Hubs
/// itself reports what the SDK warns of.
pub const DEFAULT_FILTER: &str = "warn,catchment=info,audit=info,azure_messaging_eventhubs=error";

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text, in colour on a terminal unless `NO_COLOR` is set.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// An error when the log is set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `CATCHMENT_LOG` is not a valid filter.
    #[error("environment variable CATCHMENT_LOG: {0}")]
    Filter(FilterError),
    /// A log was installed before.
    #[error("logging is already set up in this process")]
    Twice,
}

/// A text that is not a valid filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a filter such as info, debug or catchment=debug,warn")]
pub struct FilterError(String);

/// Changes the filter of the log at run time. Cheap to clone.
#[derive(Clone)]
pub struct LogFilter(Arc<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl LogFilter {
    /// Sets the filter; `None` is the default one.
    ///
    /// # Errors
    /// When the text is not a valid filter.
    pub fn set(&self, filter: Option<&str>) -> Result<(), FilterError> {
        // This fails only if the log is gone, which could not be reported anyway.
        (self.0)(parse_filter(filter.unwrap_or(DEFAULT_FILTER))?);
        Ok(())
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFilter")
    }
}

/// Sets up the log of the process. `filter` is the value of `CATCHMENT_LOG`; without it, `default_filter` applies. If
/// `spans` are given, spans go to a collector, too.
///
/// # Errors
/// When the filter is not valid, or a log was installed before.
pub fn init(
    format: LogFormat,
    filter: Option<&str>,
    default_filter: &str,
    spans: Option<Spans>,
) -> Result<LogFilter, TelemetryError> {
    let filter = parse_filter(filter.unwrap_or(default_filter)).map_err(TelemetryError::Filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    // A stderr that is no longer read must not stop the program.
    let lines = tracing_subscriber::fmt::layer().with_writer(|| OneLine(io::stderr())).log_internal_errors(false);
    let lines = match format {
        LogFormat::Human => lines.with_ansi(colour()).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let outcome =
        tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans.map(Spans::layer)).try_init();
    outcome.map_err(|_| TelemetryError::Twice)?;
    Ok(LogFilter(Arc::new(move |filter| handle.reload(filter).is_ok())))
}

/// Keeps each event on one line, whatever text of a client or record it contains: nobody must be able to forge a line
/// of the log. The formatter writes an event in one call, and itself escapes terminal control sequences.
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

/// Checks whether a text is a valid filter.
///
/// # Errors
/// When it is not.
pub fn check_filter(filter: &str) -> Result<(), FilterError> {
    parse_filter(filter).map(|_| ())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, FilterError> {
    // Stricter than the library, which takes any word for the name of a crate: `CATCHMENT_LOG=inof` would silence the
    // log.
    let known_level =
        |part: &str| part.contains(['=', ':', '[']) || (!part.is_empty() && part.parse::<LevelFilter>().is_ok());
    let parts: Vec<&str> = filter.split(',').map(str::trim).collect();
    if !parts.iter().copied().all(known_level) {
        return Err(FilterError(filter.to_owned()));
    }
    EnvFilter::try_new(parts.join(",")).map_err(|_| FilterError(filter.to_owned()))
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
            assert!(check_filter(filter).is_ok(), "{filter}");
        }
        for filter in ["inof", "", "catchment=loud", "info,,debug"] {
            let error = TelemetryError::Filter(check_filter(filter).unwrap_err()).to_string();
            assert!(error.contains("CATCHMENT_LOG") && error.contains(&format!("{filter:?}")), "{error}");
        }
    }
}
