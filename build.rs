//! Hands the commit to the compiler as `CATCHMENT_COMMIT`: twelve hex digits, with `-dirty` where what is compiled
//! differs from it; `unknown` where there is no git. A package built from an archive may set the variable itself.

use std::path::Path;
use std::process::Command;

/// What goes into the binary, and so can make it differ from the commit.
const COMPILED: [&str; 7] = ["Cargo.toml", "Cargo.lock", "build.rs", "config", "normalizers", "schema", "src"];

fn main() {
    println!("cargo::rerun-if-env-changed=CATCHMENT_COMMIT");
    let given = std::env::var("CATCHMENT_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(commit).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=CATCHMENT_COMMIT={commit}");
}

fn commit() -> Option<String> {
    // An archive unpacked inside another repository is not that repository's commit.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::env::var_os("CARGO_MANIFEST_DIR")?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // The place of HEAD, of the branch and of the index differs in a linked worktree; git knows.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "index", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for path in COMPILED.iter().filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(COMPILED);
    let dirty = git(&status).is_some_and(|changes| !changes.is_empty());
    Some(if dirty { format!("{head}-dirty") } else { head })
}

fn git(arguments: &[&str]) -> Option<String> {
    // Without the option, `status` may write the index, which would make every build run this again.
    let output = Command::new("git").arg("--no-optional-locks").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
