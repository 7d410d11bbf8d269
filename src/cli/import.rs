//! `catchment import`: fills the inventory from files.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Failure, until_signalled};
use crate::app::{self, Imported};
use crate::config::{self, Config, Environment, Flags};
use crate::model::{TallyCounts, Time};
use crate::source::import::{self, FileReport, Job, JobFile, Place, Report};

const EXAMPLES: &str = "\
Examples:
  catchment import instances.json iam.json
  catchment import --as-of 2026-01-31T06:00:00Z config-snapshot.json.gz
  aws iam get-account-authorization-details | catchment import -
  az graph query -q 'Resources' --first 1000 | catchment import -

The form of each file is detected: AWS Config snapshots, history files and query results; Cloud
Control; output of aws ... describe, list and get; Azure Resource Graph rows; az resource list;
Microsoft Graph exports (with --account for the tenant); Terraform state; and Catchment's own
assets and events. A file may hold several documents of any form, also one per line.

A running server imports the files through its data directory; if none is running, this command
imports them itself. Newer state in the inventory is kept. Importing a file twice changes nothing.";

/// Fill the inventory from snapshots, lists and exports
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The files, plain or .gz; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The time the files describe, where they do not say [default: modification time of the file]
    #[arg(long, value_name = "TIME")]
    as_of: Option<Time>,
    /// The account, subscription or tenant of items that name none
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// The region of items that name none
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Also emit an event for each difference from the inventory
    #[arg(long)]
    events: bool,
    /// The server's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The server's data directory [default: from the configuration]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// How often to look for the report of a running server.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn run(arguments: Arguments, environment: &Environment, output: &mut dyn Write) -> Result<(), Failure> {
    let Arguments { files, as_of, account, region, events, config, data_dir } = arguments;
    let flags = Flags { config, data_dir, ..Flags::default() };
    let config = config::load(&flags, environment)?.config;
    if config.ephemeral {
        let message = "an import needs a data directory: the configuration says ephemeral = true";
        return Err(Failure::Usage(message.to_owned()));
    }
    let (mut job_files, mut contents) = (Vec::new(), Vec::new());
    for path in &files {
        let (content, written) = open(path)?;
        let name = path.to_string_lossy().into_owned();
        job_files.push(JobFile { name, as_of: as_of.unwrap_or(written) });
        contents.push(content);
    }
    let job = Job { files: job_files, account, region, events };
    let folder = import::folder(&config.data_dir);
    let written = job.write(&folder, contents);
    let (name, place) =
        written.map_err(|error| Failure::run(format!("copy the files to {}", folder.display()), error))?;
    let imported = until_signalled(async |stop| work(&config, &folder, &name, &place, output, stop).await);
    imported.inspect_err(|_| {
        // The server must not begin an import that this command has given up.
        let _ = place.remove();
    })
}

/// The content and its modification time; now for standard input.
fn open(path: &Path) -> Result<(Box<dyn Read>, Time), Failure> {
    let unreadable = |error: io::Error| Failure::run(format!("read {}", path.display()), error);
    if path.as_os_str() == "-" {
        return Ok((Box::new(io::stdin()), time(SystemTime::now())));
    }
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Failure::Usage(format!("{}: a folder; name the files in it", path.display())));
    }
    Ok((Box::new(file), time(metadata.modified().map_err(unreadable)?)))
}

fn time(at: SystemTime) -> Time {
    let millis = at.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    Time::from_millis(millis)
}

async fn work(
    config: &Config,
    folder: &Path,
    name: &str,
    place: &Place,
    output: &mut dyn Write,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let found = import::find(folder, name).map_err(|error| Failure::run("read the import", error))?;
    let by = match found {
        Some(begun) => app::import(config, begun, stop.clone()).await?,
        None => Imported::ByServer,
    };
    if by == Imported::ByServer {
        writeln!(output, "the running server imports; it shows in /v1/sources as import-{name}")?;
    }
    let report = loop {
        let report = place.report().map_err(|error| Failure::run("read the report of the import", error))?;
        match report {
            Some(report) => break report,
            None if stop.is_cancelled() => return Err(Failure::run("import", "stopped; what was imported stays")),
            None => {
                stop.run_until_cancelled(sleep(LOOK_EVERY)).await;
            }
        }
    };
    tell(&report, output)?;
    place.remove().map_err(|error| Failure::run("delete the import's folder", error))?;
    verdict(&report)
}

fn tell(report: &Report, output: &mut dyn Write) -> io::Result<()> {
    for FileReport { name, counts, error } in &report.files {
        let TallyCounts { imported, updated, unchanged, older, rejected, unknown_types } = counts;
        let unknown: u64 = unknown_types.values().sum();
        writeln!(
            output,
            "{name}: {imported} imported, {updated} updated, {unchanged} unchanged, {older} older than the inventory, \
             {unknown} of unknown type, {rejected} rejected"
        )?;
        for (kind, count) in unknown_types {
            writeln!(output, "  unknown type {kind}: {count}")?;
        }
        if let Some(error) = error {
            writeln!(output, "  {error}")?;
        }
    }
    Ok(())
}

fn verdict(report: &Report) -> Result<(), Failure> {
    let unreadable = report.files.iter().filter(|file| file.error.is_some()).count();
    let rejected: u64 = report.files.iter().map(|file| file.counts.rejected).sum();
    match (unreadable, rejected) {
        (0, 0) => Ok(()),
        (0, rejected) => Err(Failure::Check(format!(
            "{rejected} items or assets in them were rejected; /v1/quarantine of the server tells why, one by one"
        ))),
        (unreadable, _) => Err(Failure::Check(format!("{unreadable} of the files can't be read as documents"))),
    }
}
