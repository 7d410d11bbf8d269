//! Every rule against its fixture: a record with the events that it must give, and near misses.
//! `docs/RULES.md` tells the format; `catchment test --update` writes the expected events.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use catchment::fixture;
use catchment::normalize::Engine;

use crate::support::schema::assert_valid;

#[test]
fn every_rule_meets_its_fixture() {
    let engine = Arc::new(Engine::load(None).unwrap_or_else(|error| panic!("{error}")));
    let mut failures = Vec::new();
    let mut covered = BTreeSet::new();
    for case in fixture::find(Path::new("fixtures")).unwrap() {
        let report = case.run(&engine, false);
        report.events.iter().for_each(assert_valid);
        failures.extend(report.failures.iter().map(|failure| format!("{}: {failure}", case.path.display())));
        covered.insert(case.name);
    }
    // Generated rules have generated records: `generated.rs`.
    for rule in engine.rule_names().into_iter().filter(|rule| !rule.starts_with("aws/generated/")) {
        if !covered.contains(&*rule) {
            failures.push(format!("{rule}: no fixture"));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
