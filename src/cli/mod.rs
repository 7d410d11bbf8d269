//! The command line: one file per command, and how errors become exit codes.
//!
//! Exit codes: 0 on success, 1 when the operation failed, 64 (`EX_USAGE`) when the command line, the
//! configuration or a rule is wrong, 2 when open work did not end within the drain deadline or a second signal cut it
//! short.

mod asset;
mod azure;
mod backfill;
mod backup;
mod check;
mod coverage;
mod demo;
mod doctor;
mod explain;
mod import;
mod normalize;
mod records;
mod serve;
mod server;
mod status;
mod test;
mod token;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::app::AppError;
use crate::config::{Environment, HttpConfig, LoadError};
use crate::fixture::FixtureError;
use crate::memory;
use crate::normalize::CatalogError;
use crate::shutdown::{self, Signal, Signals};
use crate::telemetry::{self, LogFormat, TelemetryError};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("CATCHMENT_COMMIT"), ")");

const EXAMPLES: &str = "\
Examples:
  catchment demo                             try it: a fictional organisation, served live
  catchment normalize trail.json.gz | jq     the events of a file's records, without a server
  catchment check --print-default            a configuration file with every key explained
  catchment serve --config catchment.toml    run the gateway
  catchment import config-snapshot.json.gz   fill the inventory from a snapshot
  catchment backup all.backup                back up the whole log while the server runs
  catchment explain record.json              what the rules make of a record, and why
  catchment test --normalizers rules         test a folder of rules against its fixtures
  catchment token create dashboard           a token, so that other machines may connect
  catchment asset NAME --diff 2d 0s          what changed about an asset, by a running server
  catchment status                           the health of a running server
  catchment doctor azure                     find what is missing in the Azure setup

Environment:
  CATCHMENT_CONFIG   the configuration file, like --config
  CATCHMENT_LOG      log level: error, warn, info, debug or trace, or one per module:
                     warn,catchment::source=debug
  CATCHMENT_TOKEN    the token that asset, status and backup present to the server
  CATCHMENT_...      any key of the configuration: CATCHMENT_HTTP__LISTEN=0.0.0.0:8780

Exit codes:
  0    success
  1    the operation failed: a port in use, a file that can't be read
  2    stopped, but open work did not end in time, or a second signal cut it short
  64   the command line, the configuration or a rule is wrong";

/// Turns cloud audit trails into one live, resumable stream of asset changes.
#[derive(Debug, Parser)]
#[command(name = "catchment", version = VERSION, after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    /// Format of the program's own log on standard error: human or json
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Demo(demo::Arguments),
    Normalize(normalize::Arguments),
    Check(check::Arguments),
    Backfill(backfill::Arguments),
    Import(import::Arguments),
    Backup(backup::BackupArguments),
    Restore(backup::RestoreArguments),
    Test(test::Arguments),
    Explain(explain::Arguments),
    Coverage(coverage::Arguments),
    Token(token::Arguments),
    Asset(asset::Arguments),
    Status(status::Arguments),
    Azure(azure::Arguments),
    Doctor(doctor::Arguments),
}

impl Command {
    /// The filter of the log without `CATCHMENT_LOG`. Commands that end by themselves report in their output, not in
    /// the log.
    fn default_filter(&self) -> &'static str {
        match self {
            Self::Serve(_) | Self::Demo(_) => telemetry::DEFAULT_FILTER,
            Self::Normalize(_)
            | Self::Check(_)
            | Self::Backfill(_)
            | Self::Import(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Test(_)
            | Self::Explain(_)
            | Self::Coverage(_)
            | Self::Token(_)
            | Self::Asset(_)
            | Self::Status(_)
            | Self::Azure(_) => "warn",
            // The report contains what the SDK would log.
            Self::Doctor(_) => "error",
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The rules are wrong.
    #[error(transparent)]
    Rules(#[from] CatalogError),
    /// The fixtures can't be read.
    #[error(transparent)]
    Fixtures(#[from] FixtureError),
    /// `CATCHMENT_LOG` is wrong.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// `check` or `test` found something.
    #[error("{0}")]
    Check(String),
    /// The gateway did not start, or stopped unasked.
    #[error(transparent)]
    App(#[from] AppError),
    /// Something could not be done.
    #[error("{action}: {cause}")]
    Run {
        /// What was tried: `listen on 127.0.0.1:8780`.
        action: String,
        /// The cause.
        cause: String,
    },
    /// Standard output can't be written.
    #[error("write to standard output: {0}")]
    Output(#[from] io::Error),
    /// A second signal came.
    #[error("cut short by a second signal, {0}")]
    Forced(Signal),
}

impl Failure {
    /// A [`Run`](Failure::Run) failure.
    pub fn run(action: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::Run { action: action.into(), cause: cause.to_string() }
    }

    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            // It is no failure if a reader such as `head` has read enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::App(AppError::Rules(_) | AppError::Http(_) | AppError::Tls(_) | AppError::Auth(_)) => 64,
            Self::App(AppError::DrainDeadline(_)) => 2,
            Self::Run { .. } | Self::App(_) | Self::Output(_) => 1,
            Self::Forced(_) => 2,
            Self::Usage(_)
            | Self::Load(_)
            | Self::Rules(_)
            | Self::Fixtures(_)
            | Self::Telemetry(_)
            | Self::Check(_) => 64,
        }
    }
}

/// The program: command line and environment in, exit code out.
#[must_use]
pub fn main() -> ExitCode {
    memory::use_small_pages();
    run(std::env::args_os(), &Environment::of_process(), &mut io::stdout()).into()
}

fn run(arguments: impl IntoIterator<Item = OsString>, environment: &Environment, output: &mut dyn Write) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // If this can't be printed, nothing can be reported.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
                _ => 64,
            };
        }
    };
    let outcome = match cli.command {
        // Its configuration contains the filter of the log.
        Command::Serve(arguments) => serve::run(arguments, cli.log_format, environment),
        command => telemetry::init(cli.log_format, environment.log_filter().as_deref(), command.default_filter(), None)
            .map_err(Failure::from)
            .and_then(|_| execute(command, environment, output)),
    };
    match outcome {
        Ok(()) => 0,
        Err(failure) => {
            let code = failure.exit_code();
            if code != 0 {
                let _ = writeln!(io::stderr(), "catchment: {failure}");
            }
            code
        }
    }
}

fn execute(command: Command, environment: &Environment, output: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Command::Serve(_) => Ok(()),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Normalize(arguments) => normalize::run(&arguments, output),
        Command::Check(arguments) => check::run(&arguments, environment, output),
        Command::Backfill(arguments) => backfill::run(arguments, environment, output),
        Command::Import(arguments) => import::run(arguments, environment, output),
        Command::Backup(arguments) => backup::run(arguments, environment, output),
        Command::Restore(arguments) => backup::restore(arguments, environment, output),
        Command::Token(arguments) => token::run(arguments, environment, output),
        Command::Asset(arguments) => asset::run(&arguments, environment, output),
        Command::Status(arguments) => status::run(&arguments, environment, output),
        Command::Azure(arguments) => azure::run(&arguments, output),
        Command::Doctor(arguments) => doctor::run(&arguments, environment, output),
        Command::Test(arguments) => test::run(&arguments, output),
        Command::Explain(arguments) => explain::run(&arguments, output),
        Command::Coverage(arguments) => coverage::run(&arguments, output),
    }?;
    output.flush().map_err(Failure::from)
}

/// The URL of the server on this machine, by its configuration.
///
/// # Errors
/// When it serves HTTPS: its certificate is for its name, which only its operator knows.
fn local_url(http: &HttpConfig) -> Result<String, Failure> {
    if http.tls.is_some() {
        let message = "the configured server speaks HTTPS; give its name: --url https://catchment.example.com:8780";
        return Err(Failure::Usage(message.to_owned()));
    }
    Ok(clear_url(http.listen))
}

/// The `http` URL of a server on this machine that listens on `address`.
fn clear_url(address: SocketAddr) -> String {
    // A wildcard address is one to listen on, not one to connect to.
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(host, address.port()))
}

/// Runs work that ends when the token is cancelled. The first signal cancels it; a second one abandons the work.
fn until_signalled(work: impl AsyncFnOnce(CancellationToken) -> Result<(), Failure>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::run("start the runtime", error))?;
    let outcome = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut signals = Signals::listen().map_err(|error| Failure::run("listen for signals", error))?;
        tokio::select! {
            biased;
            outcome = Box::pin(work(stop.clone())) => outcome,
            signal = shutdown::watch(async || signals.next().await, &stop) => Err(Failure::Forced(signal)),
        }
    });
    // Threads that still block have had their deadline.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests;
