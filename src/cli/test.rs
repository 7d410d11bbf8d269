//! `catchment test`: rules over their fixtures.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Failure;
use crate::fixture::{self, CaseFile};
use crate::normalize::Engine;

const EXAMPLES: &str = "\
Examples:
  catchment test --normalizers rules                      rules against rules/fixtures
  catchment test --normalizers rules ec2/RunInstances     only cases whose names contain this
  catchment test --normalizers rules --update ec2/        rewrite the expected events
  catchment test --fixtures fixtures                      built-in rules against a folder

A case is a file <provider>/<service>/<EventName>.json below the folder: records, and near misses
with their expected outcome. The expected events are beside it in <EventName>.expected.json, which
--update writes; review it before committing. Exits with 64 if a case fails.";

/// Run rules over their fixtures and show differences from the expected events
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Only the cases whose names contain one of these
    #[arg(value_name = "NAMES")]
    names: Vec<String>,
    /// A folder of rules that add to the built-in ones or override them
    #[arg(long, value_name = "DIR")]
    normalizers: Option<PathBuf>,
    /// Folder of test cases [default: fixtures in the folder of rules, else ./fixtures]
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// Rewrite the expected events where they differ
    #[arg(long)]
    update: bool,
}

impl Arguments {
    fn folder(&self) -> PathBuf {
        let beside_rules = self.normalizers.as_ref().map(|rules| rules.join("fixtures")).filter(|path| path.is_dir());
        self.fixtures.clone().or(beside_rules).unwrap_or_else(|| PathBuf::from("fixtures"))
    }

    fn wants(&self, case: &CaseFile) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| case.name.contains(name.as_str()))
    }
}

pub(super) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<(), Failure> {
    let engine = Arc::new(Engine::load(arguments.normalizers.as_deref())?);
    let folder = arguments.folder();
    let cases = chosen(arguments, &folder)?;
    let (mut failed, mut written) = (0, 0);
    for case in &cases {
        let report = case.run(&engine, arguments.update);
        if let Some(path) = &report.written {
            written += 1;
            writeln!(output, "wrote {}", path.display())?;
        }
        if report.failures.is_empty() {
            continue;
        }
        failed += 1;
        writeln!(output, "FAIL {} ({})", case.name, case.path.display())?;
        for failure in &report.failures {
            for (number, line) in failure.lines().enumerate() {
                writeln!(output, "{}{line}", if number == 0 { "  " } else { "    " })?;
            }
        }
    }
    let all = cases.len();
    if failed > 0 {
        return Err(Failure::Check(format!("{failed} of {all} cases failed")));
    }
    let written = if arguments.update { format!(", {written} written") } else { String::new() };
    Ok(writeln!(output, "{}: {all} of {all} cases passed{written}", folder.display())?)
}

/// The chosen cases. It is an error if there are none.
fn chosen(arguments: &Arguments, folder: &Path) -> Result<Vec<CaseFile>, Failure> {
    let cases = fixture::find(folder)?;
    let place = folder.display();
    if cases.is_empty() {
        let message = format!("no case in {place}; a case is a file such as {place}/aws/ec2/RunInstances.json");
        return Err(Failure::Usage(message));
    }
    let chosen: Vec<_> = cases.into_iter().filter(|case| arguments.wants(case)).collect();
    if chosen.is_empty() {
        let names = arguments.names.join(" or ");
        return Err(Failure::Usage(format!("no case of {place} has {names} in its name")));
    }
    Ok(chosen)
}
