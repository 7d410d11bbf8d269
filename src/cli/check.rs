//! `catchment check`: validates the configuration and the rules without running the gateway.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::config::{self, DEFAULT_FILE, Environment, Finding, Flags, LoadError, Origin, Severity};
use crate::normalize::{CatalogError, Engine};

const EXAMPLES: &str = "\
Examples:
  catchment check
  catchment check --config catchment.toml --deny-warnings
  catchment check --print-default > catchment.toml

Reads the configuration and the environment as `serve` would, the secrets they refer to, and the
rules. Makes no network connection. Exits with 64 if anything is wrong.";

/// Validate the configuration and the rules; report every mistake with file, line and key
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A folder of rules that add to the built-in ones or override them
    #[arg(long, value_name = "DIR")]
    normalizers: Option<PathBuf>,
    /// Print a configuration file with every key, its default and its meaning, and check nothing
    #[arg(long, conflicts_with_all = ["config", "normalizers", "deny_warnings"])]
    print_default: bool,
    /// Treat warnings as errors
    #[arg(long)]
    deny_warnings: bool,
}

pub(super) fn run(arguments: &Arguments, environment: &Environment, output: &mut dyn Write) -> Result<(), Failure> {
    if arguments.print_default {
        return Ok(output.write_all(DEFAULT_FILE.as_bytes())?);
    }
    let flags =
        Flags { config: arguments.config.clone(), normalizers: arguments.normalizers.clone(), ..Flags::default() };
    let (file, mut findings, rules) = match config::load(&flags, environment) {
        Ok(loaded) => (loaded.file, loaded.warnings, loaded.config.normalizers.dir),
        Err(LoadError::Invalid(findings)) => (None, findings, arguments.normalizers.clone()),
        Err(error @ LoadError::Unreadable { .. }) => return Err(error.into()),
    };
    findings.extend(check_rules(rules.as_deref()));
    report(&findings, arguments.deny_warnings, file.as_deref(), output)
}

/// Compiles the built-in rules and those of the folder.
fn check_rules(folder: Option<&Path>) -> Vec<Finding> {
    match Engine::load(folder).and_then(|engine| engine.check()) {
        Ok(()) => Vec::new(),
        Err(CatalogError::Mistakes(mistakes)) => mistakes
            .iter()
            .map(|mistake| {
                let origin = Origin::File { name: mistake.file.as_str().into(), line: mistake.line };
                Finding::error(&mistake.key, Some(origin), &mistake.message)
            })
            .collect(),
        Err(error @ CatalogError::Unreadable { .. }) => {
            vec![Finding::error("normalizers.dir", None, &error.to_string())]
        }
    }
}

fn report(
    findings: &[Finding],
    deny_warnings: bool,
    file: Option<&Path>,
    output: &mut dyn Write,
) -> Result<(), Failure> {
    for finding in findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(output, "{severity}: {finding}")?;
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = findings.len() - errors;
    let counts = format!("{}, {}", plural(errors, "error"), plural(warnings, "warning"));
    if errors > 0 {
        return Err(Failure::Check(counts));
    }
    if warnings > 0 && deny_warnings {
        return Err(Failure::Check(format!("{counts}, and --deny-warnings is given")));
    }
    let file = file.map_or_else(|| "no configuration file".to_owned(), |file| file.display().to_string());
    Ok(writeln!(output, "{file}: {counts}")?)
}

fn plural(count: usize, noun: &str) -> String {
    match count {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}
