//! Which module may use which. The table is the diagram of `docs/ARCHITECTURE.md`; both change in one commit.

use std::collections::BTreeSet;
use std::path::Path;

/// Leaves: anyone may use them.
const LEAVES: [&str; 5] = ["json", "metrics", "model", "retry", "secret"];

/// Module → what it may use besides the leaves.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "app",
        &[
            "auth",
            "config",
            "descriptors",
            "history",
            "http",
            "hub",
            "ingest",
            "inventory",
            "log",
            "normalize",
            "reload",
            "source",
            "telemetry",
            "tls",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "auth",
            "config",
            "correlate",
            "decode",
            "fixture",
            "hub",
            "ingest",
            "inventory",
            "memory",
            "normalize",
            "reload",
            "shutdown",
            "source",
            "telemetry",
        ],
    ),
    ("auth", &["hub"]),
    ("config", &["auth", "normalize", "source", "telemetry", "tls"]),
    ("correlate", &[]),
    ("decode", &[]),
    ("fixture", &["ingest", "inventory", "normalize"]),
    ("history", &["inventory", "log", "normalize"]),
    ("http", &["auth", "history", "hub", "inventory", "log", "source", "tls"]),
    ("hub", &["log"]),
    ("ingest", &["correlate", "history", "inventory", "log", "normalize", "source"]),
    ("inventory", &[]),
    ("json", &[]),
    ("log", &[]),
    ("memory", &[]),
    ("metrics", &[]),
    ("model", &[]),
    ("normalize", &[]),
    ("reload", &["config", "fixture", "normalize"]),
    ("retry", &[]),
    ("secret", &[]),
    ("shutdown", &[]),
    ("source", &["decode", "log"]),
    ("tls", &[]),
];

/// What the pure modules must not touch.
const PURE: [&str; 6] = ["correlate", "decode", "inventory", "json", "model", "normalize"];
const IMPURE: [&str; 7] = ["tokio", "axum", "aws_", "std::env", "SystemTime", "Instant::now", "std::net::Tcp"];

fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `ingest` for `src/ingest/encode.rs`.
fn module_of(path: &Path) -> String {
    let inner = path.strip_prefix("src").unwrap();
    inner.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// The code without comments and without what only tests see.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let has_body = |at: &usize| text[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{'));
    let tests = text.match_indices("#[cfg(test)]\nmod ").map(|(at, _)| at).find(has_body);
    let text = &text[..tests.unwrap_or(text.len())];
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn is_test_only(path: &Path) -> bool {
    let name = path.to_string_lossy();
    ["tests.rs", "testing.rs", "_tests.rs", "conformance.rs"].iter().any(|end| name.ends_with(end))
}

fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or_default();
            used.extend(group.split(',').map(|item| item.trim().split("::").next().unwrap_or_default().to_owned()));
        } else {
            used.insert(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned());
        }
    }
    used.retain(|name| !name.is_empty() && name.chars().next().is_some_and(char::is_lowercase));
    used
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let mut found = Vec::new();
    files(Path::new("src"), &mut found);
    let mut wrong = Vec::new();
    for path in found.iter().filter(|path| !is_test_only(path)) {
        let module = module_of(path);
        if module == "lib" || module == "main" {
            continue;
        }
        let code = code(path);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            if !code.contains("crate::") || module == "telemetry" {
                continue;
            }
            wrong.push(format!("{}: module {module} is not in the table", path.display()));
            continue;
        };
        for used in used_modules(&code) {
            if used != module && !LEAVES.contains(&used.as_str()) && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {module} uses {used}", path.display()));
            }
        }
        if PURE.contains(&module.as_str()) {
            for impure in IMPURE.iter().filter(|impure| code.contains(*impure)) {
                wrong.push(format!("{}: {module} is pure, but uses {impure}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_file_is_compiled() {
    let main = std::fs::read_to_string("tests/it/main.rs").unwrap();
    for entry in std::fs::read_dir("tests/it").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(name == "main" || main.contains(&format!("mod {name};")), "tests/it/main.rs does not name {name}");
    }
}
