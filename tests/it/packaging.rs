//! What the Debian package is made of is there, and fits together.

use std::path::Path;

use crate::support::program::{catchment, finish};

fn manifest() -> toml::Value {
    toml::from_str(include_str!("../../Cargo.toml")).unwrap()
}

/// The files of a pattern, of which the last part may be `*` with an ending.
fn files(pattern: &str) -> usize {
    let Some((folder, ending)) = pattern.split_once('*') else { return usize::from(Path::new(pattern).is_file()) };
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file() && path.to_string_lossy().ends_with(ending)).count()
}

#[test]
fn the_debian_package_has_its_files_in_their_places() {
    let manifest = manifest();
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut places = Vec::new();
    for asset in deb["assets"].as_array().unwrap() {
        let [from, to] = [0, 1].map(|at| asset[at].as_str().unwrap());
        let is_built = from == "target/release/catchment";
        assert!(is_built || files(from) > 0, "{from} is not there");
        places.push(match to.strip_suffix('/') {
            Some(folder) => format!("/{folder}/{}", from.rsplit('/').next().unwrap()),
            None => format!("/{to}"),
        });
    }
    for kept in deb["conf-files"].as_array().unwrap() {
        assert!(places.iter().any(|place| place == kept.as_str().unwrap()), "{kept} is not in the package: {places:?}");
    }
    let unit = &deb["systemd-units"];
    let name = format!("{}.service", unit["unit-name"].as_str().unwrap());
    let unit = std::fs::read_to_string(Path::new(unit["unit-scripts"].as_str().unwrap()).join(name)).unwrap();
    for needed in ["/usr/bin/catchment", "/etc/catchment/catchment.toml"] {
        assert!(unit.contains(needed) && places.iter().any(|place| place == needed), "{needed}");
    }
}

/// The text of `Name=` in a unit.
fn directive<'u>(unit: &'u str, name: &str) -> &'u str {
    unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_else(|| panic!("no {name}="))
}

#[test]
fn commands_find_the_data_of_the_packaged_service() {
    let configuration = "deploy/debian/catchment.toml";
    let checked = finish(catchment().args(["check", "--config", configuration]), b"");
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    let parsed: toml::Value = toml::from_str(&std::fs::read_to_string(configuration).unwrap()).unwrap();
    let unit = std::fs::read_to_string("deploy/systemd/catchment.service").unwrap();
    let data = format!("/var/lib/{}", directive(&unit, "StateDirectory"));
    assert_eq!(parsed["data_dir"].as_str(), Some(data.as_str()));
    assert_eq!(directive(&unit, "Environment"), format!("CATCHMENT_DATA_DIR={data}"));
    let page = directive(&unit, "Documentation").strip_prefix("file:///usr/share/doc/catchment/").unwrap();
    assert!(Path::new(page).is_file(), "{page}");
}

/// The stop of a supervisor must not cut short what the configuration allows.
#[test]
fn supervisors_wait_longer_than_a_stop_may_take() {
    let default: toml::Value = toml::from_str(include_str!("../../config/catchment.default.toml")).unwrap();
    let drain = default["shutdown"]["drain_millis"].as_integer().unwrap() / 1_000;
    let unit = std::fs::read_to_string("deploy/systemd/catchment.service").unwrap();
    assert!(directive(&unit, "TimeoutStopSec").parse::<i64>().unwrap() > drain);
    let manifest = std::fs::read_to_string("deploy/kubernetes/catchment.yaml").unwrap();
    let grace = manifest.lines().find_map(|line| line.trim().strip_prefix("terminationGracePeriodSeconds: ")).unwrap();
    assert!(grace.parse::<i64>().unwrap() > drain);
}
