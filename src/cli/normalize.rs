//! `catchment normalize`: records in, events out, no server.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use super::Failure;

const EXAMPLES: &str = "\
Examples:
  catchment normalize trail.json.gz | jq .data.asset
  catchment normalize /var/log/cloudtrail --omit raw | jq -r '[.time, .subject] | @tsv'
  zcat trail/*.gz | catchment normalize --explain

Takes log files as CloudTrail writes them ({\"Records\": [...]}), a JSON array, a single record,
or records one after another, plain or gzip. Prints one event per line, in the order of the
records. All files together share one inventory, which begins empty. Nothing is stored, and
nothing is asked of the cloud.";

/// Turn audit records from files or standard input into events, one per line on standard output
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Files or folders; - is standard input, which is also read when none is named
    #[arg(value_name = "FILES")]
    pub(super) files: Vec<PathBuf>,
    /// Tell instead, for every record, what became of it and which rule decided so
    #[arg(long)]
    pub(super) explain: bool,
    /// A folder of rules that add to the built-in ones or override them
    #[arg(long, value_name = "DIR")]
    pub(super) normalizers: Option<PathBuf>,
    /// What the type of every event begins with
    #[arg(long, value_name = "PREFIX", default_value = "io.catchment")]
    pub(super) type_prefix: String,
    /// Members of data to leave out, with commas between: raw,previous_configuration
    #[arg(long, value_name = "MEMBERS", value_delimiter = ',')]
    pub(super) omit: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<(), Failure> {
    if arguments.files.is_empty() && io::stdin().is_terminal() {
        let message = "name the files to read, or pipe records in: catchment normalize trail.json.gz";
        return Err(Failure::Usage(message.to_owned()));
    }
    let mut output = BufWriter::with_capacity(64 * 1024, output);
    normalize(arguments, &mut output)?;
    Ok(output.flush()?)
}

/// Writes the events of all files to `output`, one per line. A failed write is a [`Failure::Output`].
fn normalize(arguments: &Arguments, output: &mut dyn Write) -> Result<(), Failure> {
    let _ =
        (&arguments.files, arguments.explain, &arguments.normalizers, &arguments.type_prefix, &arguments.omit, output);
    Err(Failure::run("normalize", "not wired yet"))
}
