//! `catchment doctor`: checks each step from the cloud to this gateway, and names the one that is missing.

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
  catchment doctor azure --management-group ROOT    # checks the diagnostic settings too

Changes nothing: Catchment's position in the hub stays as it is. Exits with 1 if a step is missing;
the command that fixes it is printed below each such step.";

/// Check each step between a cloud and Catchment, and say how to fix what is missing
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
    /// Check only this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The trail's bucket, if the queue's policy does not name it
    #[arg(long, value_name = "BUCKET")]
    bucket: Option<String>,
    /// Key prefix before AWSLogs/ in the bucket
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
}

/// Check an azure_event_hubs source: name, connection, token, permissions, records
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct AzureArguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which source, if there are several of this kind
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Also check the diagnostic settings of this management group
    #[arg(long, value_name = "ID")]
    management_group: Option<String>,
    /// Another endpoint for Azure Resource Manager
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

/// The findings, step by step.
#[derive(Debug, Default)]
struct Report {
    text: String,
    missing: usize,
}

impl Report {
    fn fine(&mut self, step: &str, found: &str) {
        self.line("ok", step, found);
    }

    /// Reports something that may be correct, or could not be checked.
    fn note(&mut self, step: &str, found: &str, remedy: &str) {
        self.line("note", step, found);
        self.remedy(remedy);
    }

    fn missing(&mut self, step: &str, found: &str, remedy: &str) {
        self.missing += 1;
        self.line("MISSING", step, found);
        self.remedy(remedy);
    }

    /// Adds the findings of another report.
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
