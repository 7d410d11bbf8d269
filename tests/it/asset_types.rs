//! `docs/asset-types.md` against the taxonomy and the rules that it is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::Table;

fn table(path: &Path) -> Table {
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn rule_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rule_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
}

/// Neutral type → the provider types that stand beside it.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page = std::fs::read_to_string("docs/asset-types.md").unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let quoted = |cells: &str| cells.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    rows.map(|(neutral, cells)| (neutral.to_owned(), quoted(cells))).collect()
}

#[test]
fn every_type_and_what_goes_by_it_is_documented() {
    let taxonomy = table(Path::new("normalizers/taxonomy.toml"));
    let documented = documented();
    let known: BTreeSet<_> =
        taxonomy["types"].as_table().unwrap().keys().filter(|name| *name != "unclassified").collect();
    assert_eq!(documented.keys().collect::<BTreeSet<_>>(), known, "normalizers/generate/run writes the page");
    let of_azure = taxonomy["azure"].as_table().unwrap().keys();
    let strangers: Vec<_> = of_azure.filter(|name| name.contains("::")).collect();
    assert!(strangers.is_empty(), "[azure] of the taxonomy holds types of AWS: {strangers:?}");
    let mut files = Vec::new();
    for provider in ["aws", "azure"].map(|provider| Path::new("normalizers").join(provider)) {
        if provider.is_dir() {
            rule_files(&provider, &mut files);
        }
    }
    let mut missing = Vec::new();
    for path in files {
        let file = table(&path);
        for (provider_type, asset) in file.get("assets").and_then(|assets| assets.as_table()).into_iter().flatten() {
            let Some(neutral) = asset.get("type").and_then(|neutral| neutral.as_str()) else { continue };
            if !documented[neutral].contains(provider_type) {
                missing.push(format!("{neutral}: {provider_type} of {}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "normalizers/generate/run writes the page; missing:\n{}", missing.join("\n"));
}
