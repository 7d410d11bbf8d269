//! `catchment backup` and `catchment restore`: the whole log to a file, and back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Failure, local_url, server, until_signalled};
use crate::app;
use crate::config::{self, Environment, Flags};

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

const BACKUP_EXAMPLES: &str = "\
Examples:
  catchment backup /var/backups/catchment-$(date +%F).backup
  catchment backup - | ssh backup.example.com 'cat > catchment.backup'
  catchment backup --url https://catchment.example.com all.backup

Writes events, assets, source positions and everything else in the log, as of one moment. A running
server at the configured address or at --url is asked for it, with the token in CATCHMENT_TOKEN,
and continues meanwhile; if none is running, this command reads the data directory. The file is
verified before it gets its final name. Not included: configuration, rules and tokens.json.";

const RESTORE_EXAMPLES: &str = "\
Examples:
  catchment restore catchment-2026-02-03.backup --data-dir /var/lib/catchment
  ssh backup.example.com cat catchment.backup | catchment restore - --data-dir new

Run it as the user that the server runs as, or as root: then the files belong to the owner of the
data directory, or of the nearest directory above it. Sources continue from their positions at the
time of the backup. Reconnecting subscribers receive a gap frame and then all retained events, with
unchanged event ids.";

/// Back up the whole log to a file, with or without a running server
#[derive(Debug, clap::Args)]
#[command(after_help = BACKUP_EXAMPLES)]
pub(super) struct BackupArguments {
    /// The file, overwritten if it exists; - is standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The server's URL [default: the configured address on this machine, if it is running]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The server's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The server's data directory [default: from the configuration]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Create a data directory from a backup
#[derive(Debug, clap::Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub(super) struct RestoreArguments {
    /// The backup; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The data directory, created if missing, without a log in it [default: from the configuration]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The server's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(
    arguments: BackupArguments,
    environment: &Environment,
    output: &mut dyn Write,
) -> Result<(), Failure> {
    let BackupArguments { file, url, config, data_dir } = arguments;
    let write = |output: &mut dyn Write| match &url {
        Some(url) => fetch(url, environment, output),
        None => {
            let flags = Flags { config: config.clone(), data_dir: data_dir.clone(), ..Flags::default() };
            let config = config::load(&flags, environment)?.config;
            match app::back_up(&config, output)? {
                Some(_) => Ok(()),
                None => fetch(&local_url(&config.http)?, environment, output),
            }
        }
    };
    if file == Path::new("-") {
        return write(output);
    }
    let failed = |error: io::Error| Failure::run(format!("write {}", file.display()), error);
    let mut part = file.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = write_checked(&part, write);
    if written.is_err() {
        // An incomplete file is worthless.
        let _ = fs::remove_file(&part);
    }
    let said = written?;
    fs::rename(&part, &file).map_err(failed)?;
    Ok(writeln!(output, "{}: {said}", file.display())?)
}

/// Writes a file that only its owner may read, and checks it by reading it back. Returns a description of its content.
fn write_checked(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::run(format!("write {}", path.display()), error);
    // What an earlier one left behind may have another owner, and be readable by others.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let mut output = BufWriter::new(file);
    write(&mut output)?;
    let file = output.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let head = app::check_backup(&mut BufReader::new(File::open(path).map_err(failed)?))?;
    Ok(format!("events up to {}, {bytes} bytes, as of {}", head.tail, head.taken))
}

/// Writes a backup fetched from a server.
fn fetch(url: &str, environment: &Environment, output: &mut dyn Write) -> Result<(), Failure> {
    let address = format!("{}/v1/backup", url.trim_end_matches('/'));
    let bearer = environment.token().map(str::to_owned);
    until_signalled(async |stop| {
        let work = Box::pin(receive(&address, bearer, output));
        let stopped = || Err(Failure::run("back up", "stopped"));
        stop.run_until_cancelled(work).await.unwrap_or_else(stopped)
    })
}

async fn receive(address: &str, bearer: Option<String>, output: &mut dyn Write) -> Result<(), Failure> {
    let failed = |cause: &dyn std::fmt::Display| Failure::run(format!("get {address}"), cause);
    let client = reqwest::Client::builder().read_timeout(SILENCE).redirect(reqwest::redirect::Policy::none());
    let mut request = client.build().map_err(|error| failed(&error))?.get(address);
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    let mut answer = request.send().await.map_err(|error| failed(&error.without_url()))?;
    if !answer.status().is_success() {
        let status = answer.status();
        let problem = answer.text().await.unwrap_or_default();
        let problem: serde_json::Value = serde_json::from_str(&problem).unwrap_or_default();
        return Err(failed(&match problem["detail"].as_str() {
            Some(_) => format!("{} (status {})", server::detail(&problem), status.as_u16()),
            None => {
                format!("status {}, and the answer is not Catchment's; check the server's URL (--url)", status.as_u16())
            }
        }));
    }
    while let Some(piece) = answer.chunk().await.map_err(|error| failed(&error.without_url()))? {
        output.write_all(&piece)?;
    }
    Ok(())
}

pub(super) fn restore(
    arguments: RestoreArguments,
    environment: &Environment,
    output: &mut dyn Write,
) -> Result<(), Failure> {
    let flags = Flags { config: arguments.config, data_dir: arguments.data_dir, ..Flags::default() };
    let data_dir = config::load(&flags, environment)?.config.data_dir;
    let mut input: Box<dyn Read> = if arguments.file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let failed = |error| Failure::run(format!("open {}", arguments.file.display()), error);
        Box::new(BufReader::new(File::open(&arguments.file).map_err(failed)?))
    };
    let restored = app::restore(&data_dir, &mut input)?;
    let app::BackupSummary { taken, floor, tail, entries, damaged } = restored;
    let (events, place) = (tail.next().0.saturating_sub(floor.0), data_dir.display());
    writeln!(output, "{place}: {events} events up to {tail}, {entries} entries, as of {taken}")?;
    if damaged > 0 {
        writeln!(output, "{damaged} runs of events were damaged in the log that was backed up; subscribers get a gap")?;
    }
    Ok(())
}
