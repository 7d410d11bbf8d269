//! `catchment backfill`: requests the log files that a trail's bucket already holds.

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

Writes a job into the data directory. A running server starts it within seconds, otherwise the
next start does; after a crash it resumes. /v1/sources lists it as backfill-<job>. It reads day by
day, then account by account and region by region, beside the live sources. Events that are in
the log already are dropped by their id, so running it twice does no harm; new ones are marked
\"late\": true. To cancel it, delete the job's file.";

/// Read the log files that a trail's S3 bucket already holds into the server's log
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The trail's bucket
    #[arg(long, value_name = "BUCKET")]
    bucket: String,
    /// Key prefix before AWSLogs/ in the bucket
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
    /// The first day (UTC), by the date in the object keys
    #[arg(long, value_name = "DATE")]
    from: jiff::civil::Date,
    /// The last day, inclusive
    #[arg(long, value_name = "DATE")]
    to: jiff::civil::Date,
    /// Only this account; repeatable
    #[arg(long = "account", value_name = "ACCOUNT")]
    accounts: Vec<String>,
    /// Only this region; repeatable
    #[arg(long = "region", value_name = "REGION")]
    regions: Vec<String>,
    /// Maximum number of records read per second
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    records_per_second: u32,
    /// The aws_s3_sqs source whose credentials, role and endpoints to use [default: the only one]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The server's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The server's data directory [default: from the configuration]
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
        return Err(Failure::Usage(format!("--account {account} is not an account id of 12 digits")));
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
        "{path}: a running server starts it within seconds, and deletes the file when it is complete;\n\
         /v1/sources shows the progress of backfill-{name}"
    )?)
}

/// The named source, or the only suitable one.
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
