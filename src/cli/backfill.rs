//! `catchment backfill`: asks for the log files that a trail's bucket holds already.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use super::Failure;
use crate::config::{self, Config, Environment, Flags, SourceConfig};
use crate::source::aws_backfill::{self, Job};

const EXAMPLES: &str = "\
Examples:
  catchment backfill --bucket example-trail --from 2026-01-01 --to 2026-01-31
  catchment backfill --bucket example-trail --from 2026-01-01 --to 2026-01-31 \\
      --account 111122223333 --region eu-west-1 --region us-east-1 --records-per-second 500

Writes a job into the data directory. A running server begins it within seconds, one that is
stopped with its next start; it goes on after a crash where it was, and shows in /v1/sources
as backfill-<job>. It reads day by day, and in each day account by account and region by region,
at most so many records a second, beside the live sources. What is in the log already is
dropped by its event id, so that asking twice does no harm; what is new goes out with
\"late\": true. To end it early, delete the job's file.";

/// Read the log files that a trail's bucket in S3 holds already, into the log of the server
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The trail's bucket
    #[arg(long, value_name = "BUCKET")]
    bucket: String,
    /// What stands before AWSLogs/ in the bucket
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
    /// The first day (UTC), as the bucket's folders tell it
    #[arg(long, value_name = "DATE")]
    from: jiff::civil::Date,
    /// The last day
    #[arg(long, value_name = "DATE")]
    to: jiff::civil::Date,
    /// Only this account; may be given several times
    #[arg(long = "account", value_name = "ACCOUNT")]
    accounts: Vec<String>,
    /// Only this region; may be given several times
    #[arg(long = "region", value_name = "REGION")]
    regions: Vec<String>,
    /// Records read per second, at most
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    records_per_second: u32,
    /// The source of kind aws_s3_sqs whose credentials, role and endpoints serve [default: the only one]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The configuration file of the server
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory of the server, where it is not that of the configuration
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments, environment: &Environment, output: &mut dyn Write) -> Result<(), Failure> {
    let Arguments { bucket, prefix, from, to, accounts, regions, records_per_second, source, config, data_dir } =
        arguments;
    if to < from {
        return Err(Failure::Usage(format!("--to {to} is before --from {from}")));
    }
    let is_account = |account: &String| account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    if let Some(account) = accounts.iter().find(|account| !is_account(account)) {
        return Err(Failure::Usage(format!("--account {account} is no account's number of 12 digits")));
    }
    let flags = Flags { config, data_dir, ..Flags::default() };
    let config = config::load(&flags, environment)?.config;
    if config.ephemeral {
        let message = "a backfill needs a data directory: the configuration says ephemeral = true";
        return Err(Failure::Usage(message.to_owned()));
    }
    let source = choose_source(&config, source)?;
    let prefix = if prefix.is_empty() || prefix.ends_with('/') { prefix } else { format!("{prefix}/") };
    let job = Job { bucket, prefix, from, to, accounts, regions, records_per_second, source };
    let folder = aws_backfill::folder(&config.data_dir);
    let (name, path) =
        job.write(&folder).map_err(|error| Failure::run(format!("write {}", folder.display()), error))?;
    let path = path.display();
    Ok(writeln!(
        output,
        "{path}: a running server begins it within seconds, and deletes the file when it is complete;\n\
         /v1/sources tells how far backfill-{name} has come"
    )?)
}

/// The named source, or the only one that can serve.
fn choose_source(config: &Config, named: Option<String>) -> Result<Option<String>, Failure> {
    let of_s3 = config.sources.iter().filter(|(_, source)| matches!(source, SourceConfig::AwsS3Sqs(_)));
    let names: BTreeSet<String> = of_s3.map(|(name, _)| name.to_string()).collect();
    match named {
        Some(name) if names.contains(&name) => Ok(Some(name)),
        Some(name) => Err(Failure::Usage(format!("--source {name}: no source of this name and kind aws_s3_sqs"))),
        None if names.len() > 1 => {
            let names: Vec<String> = names.into_iter().collect();
            Err(Failure::Usage(format!("--source is needed: one of {}", names.join(", "))))
        }
        None => Ok(names.into_iter().next()),
    }
}
