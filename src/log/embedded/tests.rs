//! What only a log on disk has to do; the rest is in `log::conformance`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};
use std::sync::atomic::Ordering;

use super::*;
use crate::log::testing::{append, bulky, event, metrics, of_events, rejected, wait, walk};

pub(super) fn open(directory: &Path) -> Result<EmbeddedLog, LogError> {
    EmbeddedLog::open(directory, Retention::default(), metrics())
}

/// The error of opening, in words. It always names the directory.
fn refusal(directory: &Path) -> String {
    let error = open(directory).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(&directory.display().to_string()), "{error}");
    error
}

/// The `n`th of a run of batches that all look alike: three events, and the number as asset, cursor and reject.
pub(super) fn numbered(n: u64) -> Batch {
    let text = Bytes::from(n.to_string());
    Batch {
        events: (0..3).map(|m| event(3 * n + m, "a", 0)).collect(),
        assets: vec![(AssetName::from_text("a"), text.clone())],
        correlation: vec![("a/1".to_owned(), Some(text.clone()))],
        rejected: vec![rejected(&text, 0)],
        cursor: Some((SourceId::from("trail"), text)),
    }
}

/// Reaches into the store.
pub(super) fn in_store<T>(log: &EmbeddedLog, work: impl FnOnce(&Store) -> fjall::Result<T>) -> T {
    log.shared.with(|store| work(store).map_err(|error| store.failed("reach into the store", &error))).unwrap()
}

pub(super) fn append_numbered(log: &EmbeddedLog, count: u64) {
    for n in 0..count {
        append(log, numbered(n));
    }
}

/// Whether the log holds the batches `0..n` for some `n`, each whole; gives `n`.
fn whole_batches(log: &EmbeddedLog) -> u64 {
    let events = walk(log, Seq(0), 1 << 20);
    let n = events.len() as u64 / 3;
    assert_eq!(events.len() as u64 % 3, 0, "half a batch");
    assert_eq!(log.current_tail(), Seq(3 * n));
    for (at, (_, head, _)) in (0..).zip(&events) {
        assert_eq!(head.id, format!("event-{at}:0"));
    }
    let last = n.checked_sub(1).map(|last| Bytes::from(last.to_string()));
    assert_eq!(log.cursor(&SourceId::from("trail")).unwrap(), last);
    let mut asset = None;
    log.for_each_asset(&mut |_, value| asset = Some(value)).unwrap();
    assert_eq!(asset, last);
    let mut remembered = None;
    log.for_each_correlation("a/", &mut |value| remembered = Some(value)).unwrap();
    assert_eq!(remembered, last);
    assert_eq!(log.history(&AssetName::from_text("a"), None, usize::MAX).unwrap().len() as u64, 3 * n);
    assert_eq!(log.quarantine(0, usize::MAX).unwrap().len() as u64, n);
    n
}

#[test]
fn a_directory_keeps_its_epoch_and_a_new_one_gets_another() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("made/on/the/way");
    let first = open(&data).unwrap().epoch();
    assert_eq!(open(&data).unwrap().epoch(), first);
    fs::remove_dir_all(&data).unwrap();
    assert_ne!(open(&data).unwrap().epoch(), first);
}

#[test]
fn a_second_user_is_refused_and_told_who_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    let error = refusal(directory.path());
    assert!(error.contains(&format!("in use by another process (process id {})", std::process::id())), "{error}");
    drop(log);
    open(directory.path()).unwrap();
}

#[test]
fn a_place_that_is_no_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let error = refusal(&directory.path().join("file/data"));
    assert!(error.contains("set another data_dir"), "{error}");
}

#[test]
fn another_format_and_a_foreign_store_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    in_store(&log, |store| store.meta.insert("format", 99_u32.to_be_bytes()));
    drop(log);
    let error = refusal(directory.path());
    assert!(error.contains("format 99, this program reads format 1"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    drop(fjall::Database::builder(directory.path().join("log")).open().unwrap());
    let error = refusal(directory.path());
    assert!(error.contains("catchment did not write"), "{error}");
}

#[test]
fn a_creation_that_was_cut_short_is_started_over() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = directory.path().join("log.new");
    fs::create_dir_all(unfinished.join("keyspaces")).unwrap();
    fs::write(unfinished.join("0.jnl"), "half").unwrap();
    append(&open(directory.path()).unwrap(), numbered(0));
    assert!(!unfinished.exists());
}

#[test]
fn a_failed_write_is_made_up_for_in_order_and_reading_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    append(&log, numbered(0));
    log.shared.failing_commits.store(2, Ordering::SeqCst);
    let waiting: Vec<_> = (1..4).map(|n| log.append(numbered(n)).unwrap()).collect();
    while log.waits_for().is_none() {
        thread::yield_now();
    }
    let reason = log.waits_for().unwrap();
    assert!(reason.contains("No space left on device"), "{reason}");
    assert!(reason.contains(&directory.path().display().to_string()), "{reason}");
    assert_eq!(whole_batches(&log), 1, "reading goes on");
    let durable: Vec<_> = waiting.into_iter().map(|pending| wait(pending).unwrap()).collect();
    assert_eq!(durable, [Seq(6), Seq(9), Seq(12)]);
    assert_eq!((whole_batches(&log), log.waits_for()), (4, None));
    drop(log);
    assert_eq!(whole_batches(&open(directory.path()).unwrap()), 4);
}

#[test]
fn a_write_that_failed_and_is_there_all_the_same_is_not_written_twice() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    log.shared.fail_after_commit.store(true, Ordering::SeqCst);
    assert_eq!(append(&log, numbered(0)), Seq(3));
    assert_eq!(append(&log, numbered(1)), Seq(6));
    drop(log);
    assert_eq!(whole_batches(&open(directory.path()).unwrap()), 2);
}

#[test]
fn what_can_not_be_mended_ends_writing() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    append(&log, numbered(0));
    log.shared.failing_commits.store(1, Ordering::SeqCst);
    let pending = log.append(numbered(1)).unwrap();
    while log.waits_for().is_none() {
        thread::yield_now();
    }
    fs::rename(directory.path().join("log"), directory.path().join("aside")).unwrap();
    let error = wait(pending).unwrap_err().to_string();
    let again = log.append(numbered(1)).map(|_| ()).unwrap_err().to_string();
    assert_eq!(again, error);
    assert!(!directory.path().join("log").exists(), "no empty log in its place");
}

#[test]
fn who_stops_does_not_wait_for_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    log.shared.failing_commits.store(1, Ordering::SeqCst);
    let pending = log.append(numbered(0)).unwrap();
    log.stop_waiting();
    assert!(matches!(wait(pending), Err(LogError::Closed)), "nothing is acknowledged");
    drop(log);
    assert_eq!(whole_batches(&open(directory.path()).unwrap()), 0);
}

#[test]
fn a_damaged_block_is_named_and_the_rest_is_readable() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    append_numbered(&log, 3);
    let mut sealed = in_store(&log, |store| store.events.get(seq_key(Seq(4)))).unwrap().to_vec();
    *sealed.last_mut().unwrap() ^= 1;
    in_store(&log, |store| store.events.insert(seq_key(Seq(4)), sealed));
    drop(log);
    let retention = Retention { max_age: Some(std::time::Duration::from_millis(1)), ..Retention::default() };
    let log = EmbeddedLog::open(directory.path(), retention, metrics()).unwrap();
    assert_eq!(log.read(Seq(0), 1 << 20).unwrap().len(), 1, "up to the damage");
    let error = log.read(Seq(4), 1 << 20).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::Damaged { first: Seq(5), last: Seq(6), .. }), "{error:?}");
    let error = error.to_string();
    for part in [&directory.path().display().to_string(), "events 5 to 6", "checksum", "check the disk"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(log.shared.metrics.log_damaged_runs.get(), 1);
    assert_eq!(log.times(&AssetName::from_text("a"), 9).unwrap().len(), 9, "by the index");
    assert_eq!(walk(&log, Seq(6), 1 << 20).len(), 3);
    log.retain(Time::from_millis(1_000)).unwrap();
    assert_eq!((log.floor(), log.size_bytes()), (Seq(10), 0), "damage does not stop retention");
}

#[test]
fn a_lost_block_is_no_silent_gap() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    append_numbered(&log, 3);
    in_store(&log, |store| store.events.remove(seq_key(Seq(4))));
    assert_eq!(log.read(Seq(0), 1 << 20).unwrap().len(), 1, "up to the hole");
    let error = log.read(Seq(3), 1 << 20).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::Damaged { first: Seq(4), last: Seq(6), .. }), "{error:?}");
    assert!(error.to_string().contains("missing"), "{error}");
    assert_eq!(walk(&log, Seq(6), 1 << 20).len(), 3);
}

#[test]
fn a_journal_cut_anywhere_loses_whole_batches_only() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    let journal = journal(directory.path());
    let written = || fs::read(&journal).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let start = written();
    append_numbered(&log, 3);
    drop(log);
    let (content, end) = (fs::read(&journal).unwrap(), written());
    let mut counts = Vec::new();
    for cut in (start..end).step_by((end - start) / 16).chain([end]) {
        fs::write(&journal, &content[..cut]).unwrap();
        let copy = tempfile::tempdir().unwrap();
        copy_all(directory.path(), copy.path());
        let log = open(copy.path()).unwrap();
        let count = whole_batches(&log);
        append(&log, numbered(count));
        drop(log);
        assert_eq!(whole_batches(&open(copy.path()).unwrap()), count + 1, "cut at {cut} of {end}");
        counts.push(count);
    }
    assert!(counts.is_sorted(), "{counts:?}");
    counts.dedup();
    assert_eq!(counts, [0, 1, 2, 3]);
}

/// A batch of some dozen pages.
fn large(from: u64) -> Batch {
    of_events((from..from + 30).map(|n| bulky(n, "a", 0, 2_000)).collect())
}

#[test]
fn a_batch_torn_by_a_power_failure_is_discarded() {
    const PAGE: usize = 4096;
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    let journal = journal(directory.path());
    let written = || fs::read(&journal).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    append_numbered(&log, 2);
    let start = written();
    append(&log, large(6));
    drop(log);
    let (content, end) = (fs::read(&journal).unwrap(), written());
    assert!(end > start + 4 * PAGE);
    for page in start / PAGE..=end / PAGE {
        let mut torn = content.clone();
        torn[(page * PAGE).max(start)..((page + 1) * PAGE).min(end)].fill(0);
        fs::write(&journal, torn).unwrap();
        let copy = tempfile::tempdir().unwrap();
        copy_all(directory.path(), copy.path());
        let log = open(copy.path()).unwrap();
        assert_eq!(whole_batches(&log), 2, "page {page}");
        append(&log, numbered(2));
        drop(log);
        assert_eq!(whole_batches(&open(copy.path()).unwrap()), 3, "page {page}");
    }
}

fn journal(directory: &Path) -> PathBuf {
    let mut journals: Vec<_> = fs::read_dir(directory.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .collect();
    assert_eq!(journals.len(), 1);
    journals.remove(0)
}

pub(super) fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

const CHILD: &str = "CATCHMENT_TEST_LOG_TO_KILL";

/// Not a test of its own: what `a_killed_process_loses_nothing_that_was_acknowledged` starts and kills.
#[test]
fn the_process_to_kill() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let log = open(Path::new(&directory)).unwrap();
    println!("\nopen");
    let mut pending = std::collections::VecDeque::new();
    for n in whole_batches(&log).. {
        pending.push_back(log.append(numbered(n)).unwrap());
        if pending.len() > 8 {
            println!("durable {}", wait(pending.pop_front().unwrap()).unwrap());
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "log::embedded::tests::the_process_to_kill", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let durable = |line: &String| line.strip_prefix("durable ").map(|seq| seq.parse::<u64>().unwrap());
        let early: Vec<_> = lines.by_ref().filter_map(|line| durable(&line)).take(20 + round).collect();
        assert_eq!(early.len(), 20 + round, "the process ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = lines.filter_map(|line| durable(&line)).last().or(early.last().copied()).unwrap();
        let log = open(directory.path()).unwrap();
        assert!(3 * whole_batches(&log) >= acknowledged, "round {round}");
    }
}

#[test]
fn readers_are_not_upset_by_writing_and_dropping() {
    let directory = tempfile::tempdir().unwrap();
    let retention = Retention { max_bytes: Some(20_000), ..Retention::default() };
    let log = EmbeddedLog::open(directory.path(), retention, metrics()).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..300 {
                append(&log, of_events((0..20).map(|m| event(20 * n + m, "a", n as i64)).collect()));
            }
        });
        let mut position = Seq(0);
        while !writer.is_finished() || position < log.current_tail() {
            match log.read(position, 5_000) {
                Ok(blocks) => {
                    for block in blocks {
                        assert!(block.first <= position.next(), "a silent gap after {position}");
                        position = position.max(Seq(block.first.0 + block.heads.len() as u64 - 1));
                    }
                }
                Err(LogError::BelowFloor { floor, .. }) => position = Seq(floor.0 - 1),
                Err(other) => panic!("{other}"),
            }
            log.first_observed_since(Time::from_millis(150)).unwrap();
        }
        assert_eq!(position, Seq(6_000));
    });
}
