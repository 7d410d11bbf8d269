//! `catchment serve`: runs the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Failure, until_signalled};
use crate::app::{self, Setup};
use crate::config::{self, Environment, Flags, Loaded};
use crate::reload::Reread;
use crate::telemetry::{self, DEFAULT_FILTER, LogFormat, otlp};

const EXAMPLES: &str = "\
Examples:
  catchment serve
  catchment serve --config /etc/catchment/catchment.toml --listen 0.0.0.0:8780
  CATCHMENT_SOURCES__TRAIL__FILE__PATH=/var/log/cloudtrail catchment serve --ephemeral

Without --config, the file is that of CATCHMENT_CONFIG, else ./catchment.toml, else
/etc/catchment/catchment.toml; the last two are optional. An environment variable overrides a
key of the file, and the options above override both.

SIGHUP reloads configuration and rules; if anything is wrong, it is logged and nothing changes.
SIGTERM or Ctrl-C stops the sources, makes pending records durable, and then ends the streams.
Killing the process at any moment loses nothing that was acknowledged.";

/// Run the gateway: read the configured sources, keep the log, serve the stream
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// IP address and port to serve HTTP on [default: 127.0.0.1:8780]
    #[arg(long, value_name = "ADDRESS", value_parser = config::parse_address)]
    listen: Option<SocketAddr>,
    /// Folder for the log; created if missing [default: ./catchment-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep the log in memory only; it is lost on exit
    #[arg(long, conflicts_with = "data_dir")]
    ephemeral: bool,
    /// A folder of rules that add to the built-in ones or override them
    #[arg(long, value_name = "DIR")]
    normalizers: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments, format: LogFormat, environment: &Environment) -> Result<(), Failure> {
    let Arguments { config, listen, data_dir, ephemeral, normalizers } = arguments;
    let flags = Flags { config, listen, data_dir, ephemeral, normalizers };
    let Loaded { config, file, warnings } = config::load(&flags, environment)?;
    let collector = config.telemetry.collector();
    let failed = |error| Failure::run("set up the export of spans", error);
    let (spans, export) = collector.map(|it| otlp::spans(&it).map_err(failed)).transpose()?.unzip();
    let given = environment.log_filter();
    let filter = given.as_deref().or(config.telemetry.log.as_deref());
    let log = telemetry::init(format, filter, DEFAULT_FILTER, spans)?;
    match &file {
        Some(file) => tracing::info!(file = %file.display(), "configuration read"),
        None => tracing::info!("no configuration file; defaults, environment and command line only"),
    }
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let filter = given.is_none().then_some(log);
    let environment = environment.clone();
    let reread: Reread = Arc::new(move || config::load(&flags, &environment));
    let setup = Setup { reread: Some(reread), filter, spans: export, extra: None };
    until_signalled(async |stop| Ok(app::run(config, setup, |_| {}, stop).await?))
}
