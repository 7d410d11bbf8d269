//! Backup while events come in, restore elsewhere, and going on from there.

use std::collections::{BTreeSet, HashSet};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::program::{catchment, finish, run};
use crate::support::server::{Frame, Server, folder};
use crate::support::trail::{add, create_group, ids};

fn configuration(folder: &Path, data: &str) -> String {
    format!(
        "data_dir = {:?}\n[sources.trail.file]\npath = {:?}\npoll_millis = 10\n",
        folder.join(data),
        folder.join("trail.jsonl")
    )
}

fn write(folder: &Path, numbers: std::ops::Range<usize>) {
    for number in numbers {
        add(&folder.join("trail.jsonl"), &create_group(&format!("{number:04}")));
    }
}

fn without_observed(mut event: Value) -> Value {
    event["data"].as_object_mut().unwrap().remove("observed").unwrap();
    event
}

fn assets(server: &Server) -> Value {
    server.get_json("/v1/assets?include=configuration&limit=1000")["assets"].clone()
}

/// `catchment backup FILE` of a running server.
fn back_up(server: &Server, file: &Path) {
    let finished = run(["backup".as_ref(), file.as_os_str(), "--url".as_ref(), server.url("").as_ref()]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("events up to"), "{}", finished.stdout);
}

fn restore(file: &Path, data: &Path) -> String {
    let finished = run(["restore".as_ref(), file.as_os_str(), "--data-dir".as_ref(), data.as_os_str()]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished.stdout
}

#[test]
fn a_backup_under_load_is_one_moment_and_sources_go_on_from_it() {
    const BEFORE: usize = 300;
    const DURING: usize = 600;
    let folder = folder();
    let path = folder.path();
    write(path, 0..BEFORE);
    add(&path.join("trail.jsonl"), &serde_json::json!({ "eventVersion": "1.11", "eventID": "no record" }));
    let server = Server::serve(path, &configuration(path, "data"));
    server.wait_until("some events", || server.metric("catchment_log_tail_sequence", "") >= BEFORE as f64);
    let file = path.join("all.backup");
    // What an interrupted one left behind, for everybody to read.
    let left = path.join("all.backup.part");
    std::fs::write(&left, "").unwrap();
    std::fs::set_permissions(&left, Permissions::from_mode(0o644)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| write(path, BEFORE..BEFORE + DURING));
        back_up(&server, &file);
    });
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "only its owner may read it");
    server.wait_until("all", || server.metric("catchment_log_tail_sequence", "") >= (BEFORE + DURING) as f64);
    let (all, held) = (server.all_events(), assets(&server));
    let epoch = epoch(&server);
    assert!(server.terminate().success());

    let said = restore(&file, &path.join("elsewhere"));
    assert!(said.contains(" events up to "), "{said}");
    // Without its source it is what was backed up, neither more nor less.
    let bare = format!("data_dir = {:?}\n", path.join("elsewhere"));
    let restored = Server::serve(path, &bare);
    let then = restored.all_events();
    assert!(then.len() >= BEFORE && then.len() <= BEFORE + DURING, "{}", then.len());
    assert_eq!(then, all[..then.len()], "the events up to the backup, as they were");
    assert_eq!(restored.get_json("/v1/quarantine")["records"].as_array().unwrap().len(), 1);
    let names: HashSet<String> = ids(&then).into_iter().map(|id| id.replace(":0", "")).collect();
    let assets_then: Vec<Value> = assets(&restored).as_array().unwrap().clone();
    assert_eq!(assets_then.len(), then.len(), "every asset of those events, and no other");
    assert!(assets_then.iter().all(|asset| names.contains(asset["id"].as_str().unwrap().trim_start_matches("sg-"))));
    // A subscriber of the other log is told.
    let mut frames = restored.stream("/v1/events", &[("last-event-id", &format!("{epoch}.5"))]);
    let Frame { event, data, .. } = frames.next().unwrap();
    assert_eq!(event.as_deref(), Some("gap"));
    assert!(data.contains(r#""reason":"epoch""#), "{data}");
    drop(frames);
    assert!(restored.terminate().success());

    // With it, it goes on from where the source was then: nothing is lost, nothing comes twice.
    let restored = Server::serve(path, &configuration(path, "elsewhere"));
    restored.wait_until("all", || restored.metric("catchment_log_tail_sequence", "") >= (BEFORE + DURING) as f64);
    let after: Vec<Value> = restored.all_events().into_iter().map(without_observed).collect();
    assert_eq!(after, all.into_iter().map(without_observed).collect::<Vec<_>>());
    assert_eq!(restored.metric("catchment_records_total", "duplicate"), 0.0, "it did not read everything anew");
    assert_eq!(assets(&restored).as_array().unwrap().len(), held.as_array().unwrap().len());
}

fn epoch(server: &Server) -> String {
    let mut frames = server.stream("/v1/events?since=1970-01-01T00:00:00Z", &[]);
    frames.next().unwrap().id.unwrap().split('.').next().unwrap().to_owned()
}

#[test]
fn without_a_server_the_data_directory_is_read() {
    let folder = folder();
    let path = folder.path();
    write(path, 0..20);
    let server = Server::serve(path, &configuration(path, "data"));
    server.wait_until("all", || server.metric("catchment_log_tail_sequence", "") >= 20.0);
    let all = server.all_events();
    assert!(server.terminate().success());
    let data = path.join("data");
    let mut command = catchment();
    command.args(["backup", "-", "--data-dir"]).arg(&data).stdout(Stdio::piped());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let restored = finish(catchment().args(["restore", "-", "--data-dir"]).arg(path.join("new")), &output.stdout);
    assert_eq!(restored.code, Some(0), "{}", restored.stderr);
    let server = Server::serve(path, &format!("data_dir = {:?}\n", path.join("new")));
    assert_eq!(server.all_events(), all);
}

#[test]
fn what_is_no_whole_backup_is_refused_and_leaves_nothing() {
    let folder = folder();
    let path = folder.path();
    write(path, 0..20);
    let server = Server::serve(path, &configuration(path, "data"));
    server.wait_until("all", || server.metric("catchment_log_tail_sequence", "") >= 20.0);
    let file = path.join("all.backup");
    back_up(&server, &file);
    let whole = std::fs::read(&file).unwrap();
    let data = path.join("new");
    let refused = |content: &[u8], why: &str| {
        std::fs::write(&file, content).unwrap();
        let finished = run(["restore".as_ref(), file.as_os_str(), "--data-dir".as_ref(), data.as_os_str()]);
        assert_eq!(finished.code, Some(1), "{}", finished.stdout);
        assert!(finished.stderr.contains(why), "{why}: {}", finished.stderr);
        assert!(!data.join("log").exists() && !data.join("log.new").exists());
    };
    refused(&whole[..whole.len() - 1], "truncated");
    refused(&whole[..whole.len() / 2], "truncated");
    refused(b"[]", "not a catchment backup");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    refused(&changed, "damaged");

    std::fs::write(&file, &whole).unwrap();
    restore(&file, &data);
    let again = run(["restore".as_ref(), file.as_os_str(), "--data-dir".as_ref(), data.as_os_str()]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("contains a log already"), "{}", again.stderr);

    let nowhere = run(["backup".as_ref(), file.as_os_str(), "--data-dir".as_ref(), path.join("nowhere").as_os_str()]);
    assert_eq!(nowhere.code, Some(1));
    assert!(nowhere.stderr.contains("there is no log in"), "{}", nowhere.stderr);
    assert_eq!(std::fs::read(&file).unwrap(), whole, "the file of before stays");
}

/// The owners of a folder and of all that is in it.
fn owners(folder: &Path) -> BTreeSet<(u32, u32)> {
    let own = folder.metadata().unwrap();
    let mut owners = BTreeSet::from([(own.uid(), own.gid())]);
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let found = entry.symlink_metadata().unwrap();
        owners.insert((found.uid(), found.gid()));
        if found.is_dir() {
            owners.append(&mut self::owners(&entry));
        }
    }
    owners
}

#[test]
fn what_root_restores_belongs_to_the_owner_of_the_directory() {
    const NOBODY: u32 = 65_534;
    let folder = folder();
    let path = folder.path();
    write(path, 0..5);
    let server = Server::serve(path, &configuration(path, "data"));
    server.wait_until("all", || server.metric("catchment_log_tail_sequence", "") >= 5.0);
    let file = path.join("all.backup");
    back_up(&server, &file);
    assert!(server.terminate().success());
    let cut = path.join("cut.backup");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&cut, &whole[..whole.len() - 1]).unwrap();

    let home = path.join("home");
    let there = home.join("there");
    std::fs::create_dir_all(&there).unwrap();
    if rustix::process::geteuid().is_root() {
        for folder in [&home, &there] {
            chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        assert_eq!(owners(&home), BTreeSet::from([(NOBODY, NOBODY)]));
    }
    // Who is not root leaves files of its own, which are those of the owner as well.
    let owner = owners(&home);
    assert_eq!(owner.len(), 1);
    restore(&file, &there);
    assert_eq!(owners(&home), owner);
    // The same where the directory and one above it have to be created, also when the first try fails.
    let missing = home.join("not/there");
    let refused = run(["restore".as_ref(), cut.as_os_str(), "--data-dir".as_ref(), missing.as_os_str()]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert_eq!(owners(&home), owner);
    restore(&file, &missing);
    assert_eq!(owners(&home), owner);
}
