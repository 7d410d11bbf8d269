//! What the disk changes behind the log's back: bytes flipped and files cut, in the journal and in the tables.

use std::fs;
use std::path::{Path, PathBuf};

use super::tests::{append_numbered, copy_all, in_store, numbered, open};
use super::*;
use crate::log::testing::{append, event, of_events};

/// How many places are damaged; a run by hand takes more.
fn rounds() -> usize {
    std::env::var("CATCHMENT_DAMAGE_ROUNDS").map_or(40, |rounds| rounds.parse().unwrap())
}

/// Every file of the store, largest first, but for locks.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("lock") && fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The length without the zeros at the end, one at least.
fn written(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1
}

/// What a log says of each position: the event, or that it is lost; and whether it can be read to its end.
fn told(log: &EmbeddedLog) -> (Vec<Option<String>>, bool) {
    let (mut found, tail, mut is_readable) = (Vec::new(), log.current_tail(), true);
    while (found.len() as u64) < tail.0 {
        match log.read(Seq(found.len() as u64), 1) {
            Ok(blocks) => {
                for block in blocks {
                    let skip = found.len() + 1 - usize::try_from(block.first.0).unwrap();
                    let lines = std::str::from_utf8(&block.lines).unwrap().lines().skip(skip);
                    found.extend(lines.map(|line| Some(line.to_owned())));
                }
            }
            Err(LogError::Damaged { first, last, .. }) => {
                assert_eq!(first.0, found.len() as u64 + 1);
                assert!(last >= first && last <= tail, "{first} to {last} of {tail}");
                found.resize(usize::try_from(last.0).unwrap(), None);
            }
            // The index of the store is damaged: all that is asked of it from here on fails, and says so.
            Err(LogError::Storage { cause, .. }) => {
                assert!(cause.contains("the store is damaged"), "{cause}");
                found.resize(usize::try_from(tail.0).unwrap(), None);
                is_readable = false;
            }
            Err(other) => panic!("{other}"),
        }
    }
    (found, is_readable)
}

/// A log whose events lie in tables, in value files and in the journal.
fn prepared(directory: &Path) -> Vec<Option<String>> {
    let log = open(directory).unwrap();
    append_numbered(&log, 20);
    in_store(&log, |store| store.all().into_iter().try_for_each(|(_, keyspace)| keyspace.rotate_memtable_and_wait()));
    for n in 20..40 {
        append(&log, numbered(n));
    }
    told(&log).0
}

#[test]
fn no_damage_makes_a_wrong_event_or_a_silent_hole() {
    let directory = tempfile::tempdir().unwrap();
    let truth = prepared(directory.path());
    assert_eq!(truth.len(), 120);
    let mut random = fastrand::Rng::with_seed(41);
    let (mut opened, mut refused, mut holes) = (0, 0, 0);
    for round in 0..rounds() {
        let copy = tempfile::tempdir().unwrap();
        copy_all(directory.path(), copy.path());
        let files = files(&copy.path().join("log"));
        // Every file in turn, and in between any byte of all of them.
        let lengths: Vec<usize> = files.iter().map(|file| written(&fs::read(file).unwrap())).collect();
        let mut byte = random.usize(..lengths.iter().sum::<usize>());
        let any = lengths
            .iter()
            .position(|length| {
                byte < *length || {
                    byte -= length;
                    false
                }
            })
            .unwrap();
        let file = &files[if round % 2 == 0 { any } else { round / 2 % files.len() }];
        let mut content = fs::read(file).unwrap();
        let end = written(&content);
        let (at, is_cut) = (random.usize(..end), round % 7 == 6);
        if is_cut {
            content.truncate(at);
        } else {
            content[at] ^= 1 << random.u8(..8);
        }
        fs::write(file, content).unwrap();
        let what = format!("{} of {end} in {}, cut: {is_cut}", at, file.display());
        match std::panic::catch_unwind(|| open(copy.path())) {
            Err(_) => panic!("opening panics: {what}"),
            Ok(Err(error)) => {
                refused += 1;
                let error = error.to_string();
                assert!(error.contains(&copy.path().display().to_string()), "{error}");
            }
            Ok(Ok(log)) => {
                opened += 1;
                let (found, is_readable) = told(&log);
                // The last batches may be taken for a write that was cut short, where nothing whole follows.
                assert!(found.len() <= truth.len() && (found.len() >= 60 || is_cut), "{}: {what}", found.len());
                for (found, truth) in found.iter().zip(&truth) {
                    assert!(found.is_none() || found == truth, "{found:?} is not {truth:?}: {what}");
                }
                holes += usize::from(found.contains(&None));
                if is_readable {
                    append(&log, of_events(vec![event(9_000, "a", 1_000_000)]));
                }
            }
        }
    }
    assert!(opened > 10 && refused > 0 && holes > 0, "{opened} opened, {holes} of them with holes, {refused} refused");
}

#[test]
fn a_damaged_batch_in_the_journal_is_set_aside_and_told_as_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    append_numbered(&log, 3);
    let epoch = log.epoch();
    drop(log);
    let journal =
        files(&directory.path().join("log")).into_iter().find(|path| path.extension().is_some_and(|e| e == "jnl"));
    let journal = journal.unwrap();
    let mut content = fs::read(&journal).unwrap();
    // The second batch: its cursor is in it as text.
    let at = content.windows(7).position(|bytes| bytes == b"event-4").unwrap();
    content[at] ^= 1;
    fs::write(&journal, content).unwrap();
    let log = open(directory.path()).unwrap();
    assert_eq!(log.epoch(), epoch);
    let (found, _) = told(&log);
    let lost: Vec<usize> = (0..9).filter(|at| found[*at].is_none()).collect();
    assert_eq!(lost, [3, 4, 5]);
    assert_eq!(fs::read_dir(directory.path().join("damaged")).unwrap().count(), 1);
    append(&log, numbered(3));
    drop(log);
    assert_eq!(told(&open(directory.path()).unwrap()).0.iter().flatten().count(), 9);
}
