//! `catchment import`: what was there before the first record, and how records go on from it. The documents in `fixtures/seeds/`
//! have the form in which the tools named by their files write them.

mod changes;
mod import;

use std::path::{Path, PathBuf};

use crate::support::program::{Finished, catchment, finish};

const ACCOUNT: &str = "111122223333";
const SUBSCRIPTION: &str = "0f1e2d3c-0000-4000-8000-000000000001";
const TENANT: &str = "0f1e2d3c-0000-4000-8000-0000000000aa";

fn seeds() -> Vec<PathBuf> {
    let files = std::fs::read_dir("fixtures/seeds").unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| !path.ends_with("msgraph-users.json")).collect();
    files.retain(|path| !path.ends_with("msgraph-groups.json"));
    files.sort();
    files
}

/// Imports into the data directory of `folder`.
fn import(folder: &Path, arguments: &[&str], files: &[PathBuf]) -> Finished {
    let mut command = catchment();
    command.arg("import").arg("--data-dir").arg(folder.join("data")).args(arguments).args(files);
    finish(&mut command, b"")
}

fn configuration(folder: &Path) -> String {
    let (data, trail) = (folder.join("data"), folder.join("trail.ndjson"));
    format!("data_dir = {data:?}\n[sources.trail.file]\npath = {trail:?}\npoll_millis = 10\n")
}

fn aws(tail: &str) -> String {
    format!("asset://aws/{ACCOUNT}/{tail}")
}
