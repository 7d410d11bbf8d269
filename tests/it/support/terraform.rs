//! Terraform modules, parsed as far as a test can without the providers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::program::finish;
use super::server::clients;

/// Every block of a module, by kind and labels: `resource.aws_sqs_queue.logs`. Only `locals` has no labels.
pub(crate) fn module(folder: &str) -> BTreeMap<String, Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(clients().join("python/bin/python"));
    command.arg(root.join("tests/clients/terraform.py")).arg(root.join(folder));
    let parsed = finish(&mut command, b"");
    assert_eq!(parsed.code, Some(0), "{}", parsed.stderr);
    let blocks: Vec<Value> = serde_json::from_str(&parsed.stdout).unwrap();
    let name = |block: &Value| {
        let labels = block["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap());
        std::iter::once(block["kind"].as_str().unwrap()).chain(labels).collect::<Vec<_>>().join(".")
    };
    blocks.iter().map(|block| (name(block), block["arguments"].clone())).collect()
}

/// What an expression refers to, as names of blocks: variables, data, and resources of these providers (`aws_`).
pub(crate) fn references(text: &str, providers: &[&str]) -> Vec<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let reference = |word: &str| match word.split('.').collect::<Vec<_>>().as_slice() {
        ["var", name, ..] => Some(format!("variable.{name}")),
        ["data", kind, name, ..] => Some(format!("data.{kind}.{name}")),
        [kind, name, ..] if !name.is_empty() && providers.iter().any(|provider| kind.starts_with(provider)) => {
            Some(format!("resource.{kind}.{name}"))
        }
        _ => None,
    };
    text.split(|c: char| !is_word(c)).filter_map(reference).collect()
}
