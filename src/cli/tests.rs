use clap::CommandFactory;

use std::time::Duration;

use super::*;

fn parse(arguments: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(arguments.split_whitespace()).map(|cli| cli.command)
}

/// Outcome and standard output.
fn outcome(arguments: &str, environment: &[(&str, &str)]) -> (Result<(), Failure>, String) {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    let mut output = Vec::new();
    let outcome = execute(parse(arguments).unwrap(), &environment, &mut output);
    (outcome, String::from_utf8(output).unwrap())
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_explains_itself_with_examples() {
    let mut cli = Cli::command();
    cli.build();
    for command in cli.get_subcommands_mut() {
        let help = command.render_long_help().to_string();
        assert!(help.contains("Examples:\n  catchment") || help.contains("Examples:\n  CATCHMENT"), "{help}");
        let after = command.get_after_help().unwrap().to_string();
        assert!(after.lines().all(|line| line.len() <= 100), "would be wrapped: {after}");
        assert!(command.get_about().is_some_and(|about| about.to_string().len() > 20), "{help}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} --{argument}", command.get_name());
        }
    }
}

#[test]
fn wrong_usage_exits_with_64_and_help_with_0() {
    for (arguments, code) in [
        ("catchment", 64),
        ("catchment run", 64),
        ("catchment serve --lisen x", 64),
        ("catchment serve --listen localhost:80", 64),
        ("catchment serve --ephemeral --data-dir x", 64),
        ("catchment demo --rate 0", 64),
        ("catchment check --print-default --config x", 64),
        ("catchment --help", 0),
        ("catchment serve --help", 0),
        ("catchment --version", 0),
    ] {
        let arguments = arguments.split_whitespace().map(OsString::from);
        assert_eq!(run(arguments.clone(), &Environment::default(), &mut Vec::new()), code, "{arguments:?}");
    }
}

#[test]
fn the_version_names_the_commit() {
    let commit = VERSION.split_once(" (commit ").and_then(|(_, rest)| rest.strip_suffix(')')).unwrap();
    let hex = commit.strip_suffix("-dirty").unwrap_or(commit);
    assert!(commit == "unknown" || (hex.len() >= 12 && hex.bytes().all(|b| b.is_ascii_hexdigit())), "{VERSION}");
}

#[test]
fn each_failure_has_its_exit_code() {
    let output = |kind| Failure::Output(io::Error::from(kind));
    for (failure, code) in [
        (Failure::Usage(String::new()), 64),
        (Failure::Check(String::new()), 64),
        (Failure::Load(LoadError::Invalid(Vec::new())), 64),
        (Failure::Telemetry(TelemetryError::Filter(telemetry::check_filter("inof").unwrap_err())), 64),
        (Failure::run("listen", "in use"), 1),
        (output(io::ErrorKind::StorageFull), 1),
        (output(io::ErrorKind::BrokenPipe), 0),
        (Failure::App(AppError::DrainDeadline(Duration::from_millis(1500))), 2),
        (Failure::Forced(Signal::Interrupt), 2),
    ] {
        assert_eq!(failure.exit_code(), code, "{failure:?}");
    }
}

#[test]
fn the_printed_default_passes_its_own_check() {
    let (result, text) = outcome("catchment check --print-default", &[]);
    assert!(result.is_ok());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catchment.toml");
    std::fs::write(&path, text).unwrap();
    let check = format!("catchment check --config {}", path.display());

    let (result, text) = outcome(&check, &[]);
    assert!(result.is_ok() && text.starts_with("warning: sources: none is configured"), "{text}");
    assert!(text.ends_with("catchment.toml: no errors, 1 warning\n"), "{text}");

    let (result, _) = outcome(&format!("{check} --deny-warnings"), &[]);
    assert_eq!(result.unwrap_err().to_string(), "no errors, 1 warning, and --deny-warnings is given");
}

#[test]
fn check_tells_what_is_wrong_in_any_layer() {
    let variables = [("CATCHMENT_HTTP__MAX_STREAMS", "0"), ("CATCHMENT_CONFIG", "/dev/null")];
    let (result, text) = outcome("catchment check", &variables);
    let expected = "error: environment variable CATCHMENT_HTTP__MAX_STREAMS: http.max_streams: must be at least 1\n";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(result.unwrap_err().exit_code(), 64);

    let (result, _) = outcome("catchment check --config /no/such/file", &variables);
    assert_eq!(result.unwrap_err().exit_code(), 64);
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let command = parse("catchment check --print-default").unwrap();
    assert_eq!(execute(command, &Environment::default(), &mut Closed).unwrap_err().exit_code(), 0);
}
