//! What the Debian package is made of is there, and fits together.

use std::path::Path;

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
