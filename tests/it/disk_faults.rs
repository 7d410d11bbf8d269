//! A disk that is full, read-only or broken, and a data directory that is taken away: what comes waits, what is there is
//! served, nothing is acknowledged that is not durable, and it goes on by itself.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::program::{finish, preloaded};
use crate::support::server::{Server, folder, serve};
use crate::support::trail::{add, create_group, ids};

const ALL: &str = "since=1970-01-01T00:00:00Z&until=0s";

/// A server with a file to read, on a disk that can be made to fail.
struct Stage {
    folder: TempDir,
    library: PathBuf,
    written: usize,
}

impl Stage {
    fn new() -> Self {
        let folder = folder();
        let library = preloaded(folder.path(), "failing_disk");
        Self { folder, library, written: 0 }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, more: &str) -> Command {
        let trail = self.folder.path().join("trail.jsonl");
        let configuration =
            format!("data_dir = {:?}\n{more}\n[sources.trail.file]\npath = {trail:?}\npoll_millis = 20\n", self.data());
        let mut command = serve(self.folder.path(), &configuration);
        command.env("LD_PRELOAD", &self.library).env("TEST_DISK_ROOT", self.data());
        command.env("TEST_DISK_FAULT", self.folder.path().join("fault"));
        command
    }

    fn start(&self) -> Server {
        Server::start(self.command(""))
    }

    fn break_disk(&self, fault: &str) {
        let part = self.folder.path().join("fault.part");
        std::fs::write(&part, fault).unwrap();
        std::fs::rename(part, self.folder.path().join("fault")).unwrap();
    }

    fn mend_disk(&self) {
        std::fs::remove_file(self.folder.path().join("fault")).unwrap();
    }

    fn write(&mut self, records: usize) {
        for _ in 0..records {
            self.written += 1;
            add(&self.folder.path().join("trail.jsonl"), &create_group(&format!("{:04}", self.written)));
        }
    }

    /// The ids of all that was written.
    fn all(&self) -> HashSet<String> {
        (1..=self.written).map(|number| format!("{number:04}:0")).collect()
    }

    fn wait_for_all(&self, server: &Server) {
        server.wait_until("all events", || server.metric("catchment_log_tail_sequence", "") >= self.written as f64);
        let found = ids(&server.events(ALL));
        assert_eq!(found.len(), self.written, "none is there twice");
        assert_eq!(found.into_iter().collect::<HashSet<_>>(), self.all());
    }
}

fn reason(server: &Server) -> Option<String> {
    server.get_json("/readyz")["log_waits_for"].as_str().map(str::to_owned)
}

/// That the server serves, takes nothing, and says why.
fn waits(server: &Server, why: &str) {
    server.wait_until("waiting for its disk", || reason(server).is_some());
    let told = reason(server).unwrap();
    assert!(told.contains(why), "{told}");
    assert_eq!(server.get_json("/v1/sources")["log_waits_for"].as_str().unwrap(), told);
    assert_eq!(server.metric("catchment_log_writable", ""), 0.0);
    assert!(server.metric("catchment_log_free_bytes", "") > 0.0);
}

/// Every fault of a disk that writes, by what it is called.
fn a_disk_that_fails_for_a_while(fault: &str, why: &str) {
    let mut stage = Stage::new();
    stage.write(5);
    let server = stage.start();
    stage.wait_for_all(&server);
    let mut stream = server.stream(&format!("/v1/events?{}", ALL.split('&').next().unwrap()), &[]);
    let mut seen: Vec<String> = stream.by_ref().take(5).map(|frame| id(&frame.json())).collect();

    stage.break_disk(fault);
    stage.write(20);
    waits(&server, why);
    assert_eq!(server.metric("catchment_log_tail_sequence", ""), 5.0, "nothing is told before it is durable");
    assert_eq!(server.events(ALL).len(), 5, "what is there is served");
    assert_eq!(
        server.get("/v1/assets/asset%3A%2F%2Faws%2F123456789012%2Feu-west-1%2Fec2%2Fsecurity-group%2Fsg-0001").0,
        200
    );
    server.wait_for_log(&["intake is paused"]);

    stage.mend_disk();
    stage.wait_for_all(&server);
    assert_eq!(reason(&server), None);
    assert_eq!(server.metric("catchment_log_writable", ""), 1.0);
    let live = stream.filter(|frame| frame.event.is_none()).map(|frame| id(&frame.json()));
    seen.extend(live.take(20));
    assert_eq!(seen.len(), 25);
    assert_eq!(seen.into_iter().collect::<HashSet<_>>(), stage.all(), "the stream went on");

    stage.write(5);
    stage.wait_for_all(&server);
    server.kill();
    let server = stage.start();
    stage.wait_for_all(&server);
    assert!(server.terminate().success());
}

fn id(event: &Value) -> String {
    event["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_full_disk_stops_intake_and_nothing_else() {
    a_disk_that_fails_for_a_while("w 28", "No space left on device");
}

#[test]
fn a_disk_over_its_quota_stops_intake_and_nothing_else() {
    a_disk_that_fails_for_a_while("wo 122", "quota exceeded");
}

#[test]
fn a_disk_that_becomes_read_only_stops_intake_and_nothing_else() {
    a_disk_that_fails_for_a_while("wso 30", "Read-only file system");
}

#[test]
fn a_sync_that_fails_is_not_taken_for_done() {
    a_disk_that_fails_for_a_while("s 5", "Input/output error");
}

#[test]
fn a_disk_that_is_full_at_the_start_is_served_from() {
    let mut stage = Stage::new();
    stage.write(5);
    let server = stage.start();
    stage.wait_for_all(&server);
    server.kill();
    stage.break_disk("w 28");
    stage.write(5);
    let server = stage.start();
    waits(&server, "No space left on device");
    assert_eq!(server.events(ALL).len(), 5);
    stage.mend_disk();
    stage.wait_for_all(&server);
}

#[test]
fn stopping_while_the_disk_is_full_is_clean_and_loses_nothing() {
    let mut stage = Stage::new();
    stage.write(5);
    let server = stage.start();
    stage.wait_for_all(&server);
    stage.break_disk("w 28");
    stage.write(5);
    waits(&server, "No space left on device");
    assert!(server.terminate().success());
    stage.mend_disk();
    stage.wait_for_all(&stage.start());
}

#[test]
fn nothing_is_taken_below_the_reserve() {
    let mut stage = Stage::new();
    stage.write(5);
    let server = Server::start(stage.command("[log]\nmin_free_bytes = 9223372036854775807"));
    waits(&server, "less than log.min_free_bytes");
    assert_eq!(server.events(ALL).len(), 0);
    assert!(server.terminate().success());
    stage.wait_for_all(&stage.start());
}

#[test]
fn a_data_directory_that_is_taken_away_ends_the_process() {
    let mut stage = Stage::new();
    stage.write(5);
    let mut server = stage.start();
    stage.wait_for_all(&server);
    std::fs::rename(stage.data(), stage.folder.path().join("aside")).unwrap();
    stage.write(5);
    assert_eq!(server.wait().code(), Some(1));
    let told = server.rest_of_log();
    assert!(told.contains("it was removed while in use"), "{told}");
    std::fs::rename(stage.folder.path().join("aside"), stage.data()).unwrap();
    stage.wait_for_all(&stage.start());
}

#[test]
fn a_disk_that_can_not_be_written_at_the_start_is_refused() {
    let stage = Stage::new();
    for (fault, why) in [("wso 30", "Read-only file system"), ("wso 13", "Permission denied")] {
        stage.break_disk(fault);
        let finished = finish(stage.command("").stdin(Stdio::null()), b"");
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        for part in [why, &shown(&stage.data()), "set another data_dir"] {
            assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr);
        }
    }
}

#[test]
fn damage_in_the_journal_is_told_as_a_gap_and_the_rest_is_served() {
    let mut stage = Stage::new();
    let server = stage.start();
    for _ in 0..3 {
        stage.write(5);
        stage.wait_for_all(&server);
    }
    assert!(server.terminate().success());
    let journal = stage.data().join("log/0.jnl");
    let mut content = std::fs::read(&journal).unwrap();
    let at = content.windows(6).position(|bytes| bytes == b"0008:0").expect("an id in the index");
    content[at] ^= 1;
    std::fs::write(&journal, content).unwrap();

    let server = stage.start();
    let told = server.log_lines().join("\n");
    let frames: Vec<_> = server.stream(&format!("/v1/events?{ALL}"), &[]).collect();
    let events = frames.iter().filter(|frame| frame.event.is_none()).map(|frame| id(&frame.json()));
    let kept: Vec<String> = (1..=5).chain(11..=15).map(|number| format!("{number:04}:0")).collect();
    assert_eq!(events.collect::<Vec<_>>(), kept, "{told}");
    let gap = frames.iter().find(|frame| frame.event.as_deref() == Some("gap")).expect("a gap").json();
    let position = |member: &str| gap[member].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
    assert_eq!(
        (position("from"), position("to"), gap["reason"].as_str()),
        ("5".to_owned(), "10".to_owned(), Some("damage"))
    );
    assert_eq!(server.metric("catchment_log_damaged_runs", ""), 1.0);
    let lines = server.try_get(&format!("/v1/events?format=ndjson&{ALL}"));
    assert!(lines.is_none(), "NDJSON can't tell of a gap, so it does not look complete: {lines:?}");
    let aside: Vec<_> = std::fs::read_dir(stage.data().join("damaged")).unwrap().collect();
    assert_eq!(aside.len(), 1);
    stage.write(5);
    server.wait_until("further events", || server.metric("catchment_log_tail_sequence", "") >= 20.0);
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
