//! `catchment doctor`: looks at each step from the cloud to here, and names the one that is missing.

mod arm;
mod aws;
mod azure;

use std::io::Write;
use std::path::PathBuf;

use super::{Failure, until_signalled};
use crate::config::{self, Config, Environment, Flags};

const EXAMPLES: &str = "\
Examples:
  catchment doctor aws --config catchment.toml
  catchment doctor azure --config catchment.toml
  catchment doctor azure --management-group ROOT    # looks at the diagnostic settings too

Looks only, and changes nothing: Catchment's place in the hub stays as it is. Exits with 1 when a
step is missing; below each such step stands the command that mends it.";

/// Check each step between a cloud and Catchment, and tell how to mend the one that is missing
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Aws(AwsArguments),
    Azure(AzureArguments),
}

/// Check the sources that read from AWS: credentials, queue, rules, topics, bucket, trail
#[derive(Debug, clap::Args)]
struct AwsArguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The trail's bucket, where the queue's policy does not name it
    #[arg(long, value_name = "BUCKET")]
    bucket: Option<String>,
    /// What stands before AWSLogs/ in the bucket
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
}

/// Check a source of the kind `azure_event_hubs`: name, connection, token, rights, records
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct AzureArguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which source, where several are of this kind
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The management group whose diagnostic settings are to be looked at
    #[arg(long, value_name = "ID")]
    management_group: Option<String>,
    /// Another address of Azure Resource Manager than the cloud's own
    #[arg(long, value_name = "URL")]
    resource_manager: Option<String>,
}

pub(super) fn run(arguments: &Arguments, environment: &Environment, output: &mut dyn Write) -> Result<(), Failure> {
    let file = match &arguments.command {
        Command::Aws(arguments) => &arguments.config,
        Command::Azure(arguments) => &arguments.config,
    };
    let flags = Flags { config: file.clone(), ..Flags::default() };
    let config: Config = config::load(&flags, environment)?.config;
    let mut report = Report::default();
    match &arguments.command {
        Command::Aws(arguments) => {
            let sources = aws::choose(&config, arguments.source.as_deref())?;
            run_until_signalled(aws::examine(&sources, arguments, &mut report))?;
        }
        Command::Azure(arguments) => {
            let source = azure::choose(&config, arguments.source.as_deref())?;
            run_until_signalled(azure::examine(&source, arguments, &mut report))?;
        }
    }
    output.write_all(report.text.as_bytes())?;
    match report.missing {
        0 => Ok(()),
        1 => Err(Failure::run("check the source", "one step is missing")),
        steps => Err(Failure::run("check the source", format!("{steps} steps are missing"))),
    }
}

fn run_until_signalled(examination: impl Future<Output = ()>) -> Result<(), Failure> {
    until_signalled(async |stop| {
        stop.run_until_cancelled(Box::pin(examination)).await;
        Ok(())
    })
}

/// What was found, step by step.
#[derive(Debug, Default)]
struct Report {
    text: String,
    missing: usize,
}

impl Report {
    fn fine(&mut self, step: &str, found: &str) {
        self.line("ok", step, found);
    }

    /// Something that may be as it should be, or could not be looked at.
    fn note(&mut self, step: &str, found: &str, remedy: &str) {
        self.line("note", step, found);
        self.remedy(remedy);
    }

    fn missing(&mut self, step: &str, found: &str, remedy: &str) {
        self.missing += 1;
        self.line("MISSING", step, found);
        self.remedy(remedy);
    }

    /// Adds what was found elsewhere.
    fn add(&mut self, other: Self) {
        self.text.push_str(&other.text);
        self.missing += other.missing;
    }

    fn heading(&mut self, text: &str) {
        self.text.push_str(&format!("{text}\n"));
    }

    fn line(&mut self, mark: &str, step: &str, found: &str) {
        self.text.push_str(&format!("{mark:<8} {step}: {found}\n"));
    }

    fn remedy(&mut self, remedy: &str) {
        for line in remedy.lines() {
            self.text.push_str(&format!("         {line}\n"));
        }
    }
}
