//! Runs the real binary to its end.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The binary under test, without environment variables that would configure it.
pub(crate) fn catchment() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catchment"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CATCHMENT_") {
            command.env_remove(name);
        }
    }
    command
}

/// Builds a library of `tests/it/support` to be preloaded into the program under test.
pub(crate) fn preloaded(folder: &Path, name: &str) -> PathBuf {
    let library = folder.join(name).with_extension("so");
    let source = Path::new("tests/it/support").join(name).with_extension("c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(compiler.status().unwrap().success());
    library
}

/// Sends a signal to a process, or to a process group if the number is negative; returns whether it exists.
pub(crate) fn signal(name: &str, process: i64) -> bool {
    // The shell's builtin: not every system has a program of this name.
    let script = "kill -s \"$0\" -- \"$1\"";
    let mut shell = Command::new("bash");
    shell.args(["-c", script, name, &process.to_string()]).stderr(Stdio::null());
    shell.status().unwrap().success()
}

/// Lets this process and its children open this many files. The system's usual limit is 1024.
pub(crate) fn allow_open_files(count: usize) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft = line.split_whitespace().nth(3).unwrap();
    if soft.parse::<usize>().is_ok_and(|soft| soft < count) {
        let process = std::process::id().to_string();
        let limit = format!("--nofile={count}:");
        let status = Command::new("prlimit").args(["--pid", &process, &limit]).status().unwrap();
        assert!(status.success(), "this system does not let a process have {count} files open: {line}");
    }
}

/// The output of a program that has ended.
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
