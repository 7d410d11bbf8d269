//! The real binary, run to its end.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The binary under test, without what the environment of the tests says to it.
pub(crate) fn catchment() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catchment"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CATCHMENT_") {
            command.env_remove(name);
        }
    }
    command
}

/// Builds a library of `tests/it/support` that is preloaded into the program under test.
pub(crate) fn preloaded(folder: &Path, name: &str) -> PathBuf {
    let library = folder.join(name).with_extension("so");
    let source = Path::new("tests/it/support").join(name).with_extension("c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(compiler.status().unwrap().success());
    library
}

/// Sends a signal to a process, or to a group of processes when its number is negative. Whether there was one.
pub(crate) fn signal(name: &str, process: i64) -> bool {
    // The shell's own: the program of this name is not on every system.
    let script = "kill -s \"$0\" -- \"$1\"";
    let mut shell = Command::new("bash");
    shell.args(["-c", script, name, &process.to_string()]).stderr(Stdio::null());
    shell.status().unwrap().success()
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Standard output, one JSON value a line.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Runs `catchment` with these arguments.
pub(crate) fn run(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
    finish(catchment().args(arguments), b"")
}

/// Runs a command with this standard input.
pub(crate) fn finish(command: &mut Command, input: &[u8]) -> Finished {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // It may end before it has read everything.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output().unwrap()
    });
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
