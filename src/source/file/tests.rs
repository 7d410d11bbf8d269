use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use flate2::{Compression as Level, write::GzEncoder};
use tempfile::TempDir;

use super::*;
use crate::model::{RawRecord, Time};
use crate::source::StatusBoard;
use crate::source::testing::{Pipeline, Running};

const POLL_MILLIS: u64 = 20;

fn begin(path: &Path, follow: bool, pipeline: &Pipeline) -> Running {
    let config = FileConfig { follow, poll_millis: POLL_MILLIS, ..FileConfig::new(path) };
    let clock = Clock::from_fn(|| Time::from_millis(0));
    let mut source = FileSource::new("trail".into(), config, pipeline.cursor(), clock);
    Running::start("trail", KIND, pipeline, async move |intake, status, stop| source.run(intake, status, stop).await)
}

async fn read_once(path: &Path, pipeline: &Pipeline) -> Result<(), SourceError> {
    begin(path, false, pipeline).task.await.unwrap()
}

async fn some_polls() {
    tokio::time::sleep(Duration::from_millis(POLL_MILLIS * 8)).await;
}

fn record(n: usize) -> String {
    format!("{{\"n\":{n}}}")
}

fn records(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(record).collect()
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    records(numbers).iter().map(|record| format!("{record}\n")).collect()
}

fn document(numbers: std::ops::Range<usize>) -> String {
    format!("{{\"Records\":[{}]}}", records(numbers).join(","))
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn append(path: &Path, bytes: impl AsRef<[u8]>) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(bytes.as_ref()).unwrap();
}

fn texts(pipeline: &Pipeline) -> Vec<String> {
    pipeline.kept.lock().unwrap().texts()
}

fn codes(pipeline: &Pipeline) -> Vec<&'static str> {
    pipeline.kept.lock().unwrap().codes()
}

async fn until_records(pipeline: &Pipeline, count: usize) {
    pipeline.until(|kept| kept.records.len() >= count).await;
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trail.jsonl");
    (folder, path)
}

#[tokio::test]
async fn a_folder_is_read_once_in_order() {
    let (folder, _) = folder();
    let day = folder.path().join("2024/01/02");
    fs::create_dir_all(&day).unwrap();
    fs::write(day.join("a.json.gz"), gzip(&document(0..3))).unwrap();
    fs::write(day.join("b.json"), document(3..5)).unwrap();
    fs::write(day.join("c.jsonl"), lines(5..7) + "no record\n" + &lines(7..8)).unwrap();
    fs::write(day.join("d.log"), format!("{}{{\"n\"", lines(8..9))).unwrap();
    fs::write(day.join("e.txt"), lines(100..101)).unwrap();
    fs::write(day.join("f.json"), "").unwrap();

    let pipeline = Pipeline::new();
    read_once(folder.path(), &pipeline).await.unwrap();
    assert_eq!(texts(&pipeline), records(0..9));
    assert_eq!(codes(&pipeline), ["not_a_record", "truncated"]);
    {
        let kept = pipeline.kept.lock().unwrap();
        let origin = &kept.records[7].origin;
        assert_eq!((origin.index, &*origin.location), (3, day.join("c.jsonl").to_str().unwrap()));
        assert_eq!(kept.deliveries, 1, "small files share a delivery");
    }

    append(&day.join("b.json"), lines(9..10));
    fs::write(day.join("g.ndjson"), lines(10..11)).unwrap();
    read_once(folder.path(), &pipeline).await.unwrap();
    assert_eq!(texts(&pipeline), records(0..11), "a second run reads only what is new");
    read_once(&day.join("e.txt"), &pipeline).await.unwrap();
    assert_eq!(texts(&pipeline).last(), Some(&record(100)), "a file that is named is read whatever its name");
}

#[tokio::test]
async fn a_growing_file_is_followed() {
    let (_folder, path) = folder();
    let pipeline = Pipeline::new();
    let running = begin(&path, true, &pipeline);
    let status = running.until(|status| status.state == SourceState::Retrying).await;
    assert!(status.last_error.unwrap().contains("trail.jsonl: it does not exist; waiting for it"));

    append(&path, lines(0..2) + "{\"n\":");
    until_records(&pipeline, 2).await;
    append(&path, "2");
    some_polls().await;
    assert_eq!(texts(&pipeline), records(0..2), "half a record waits for its end");
    append(&path, "}\n");
    until_records(&pipeline, 3).await;
    let status = running.until(|status| status.state == SourceState::Running && status.records == 3).await;
    let position = status.position.unwrap();
    assert!(position.contains("trail.jsonl at byte 23 of "), "{position}");
    running.end().await.unwrap();
    assert_eq!((texts(&pipeline), codes(&pipeline)), (records(0..3), vec![]));
}

#[tokio::test]
async fn rotation_loses_nothing() {
    let (folder, path) = folder();
    let rotated = folder.path().join("trail.jsonl.1");
    for root in [path.clone(), folder.path().to_owned()] {
        fs::remove_file(&rotated).ok();
        fs::write(&path, lines(0..2)).unwrap();
        let pipeline = Pipeline::new();
        let running = begin(&root, true, &pipeline);
        until_records(&pipeline, 2).await;
        // The writer continues with the old file for a while.
        fs::rename(&path, &rotated).unwrap();
        append(&rotated, lines(2..3));
        until_records(&pipeline, 3).await;
        append(&rotated, lines(3..4));
        append(&path, lines(4..5));
        until_records(&pipeline, 5).await;
        running.end().await.unwrap();
        assert_eq!(texts(&pipeline), records(0..5));

        // Rotated again between two polls.
        append(&path, lines(5..6));
        fs::remove_file(&rotated).unwrap();
        fs::rename(&path, &rotated).unwrap();
        append(&path, lines(6..7));
        let running = begin(&root, true, &pipeline);
        until_records(&pipeline, 7).await;
        running.end().await.unwrap();
        assert_eq!(texts(&pipeline), records(0..7), "{}", root.display());
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_is_removed_is_read_to_its_end() {
    let (folder, path) = folder();
    fs::write(&path, lines(0..1)).unwrap();
    fs::write(folder.path().join("other.jsonl"), "").unwrap();
    let pipeline = Pipeline::new();
    let running = begin(folder.path(), true, &pipeline);
    until_records(&pipeline, 1).await;
    let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    writer.write_all(b"{\"n\":1}\n{\"n\":").unwrap();
    pipeline.until(|kept| kept.codes() == ["truncated"]).await;
    running.end().await.unwrap();
    assert_eq!(texts(&pipeline), records(0..2));
}

#[tokio::test]
async fn a_file_written_anew_is_read_from_the_start() {
    let (_folder, path) = folder();
    fs::write(&path, lines(0..3)).unwrap();
    let pipeline = Pipeline::new();
    let running = begin(&path, true, &pipeline);
    until_records(&pipeline, 3).await;
    OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    some_polls().await;
    append(&path, lines(3..4));
    until_records(&pipeline, 4).await;
    some_polls().await;
    fs::write(&path, lines(40..60)).unwrap();
    until_records(&pipeline, 24).await;
    running.end().await.unwrap();
    // Between two polls: first shorter, then longer than what was read.
    for numbers in [90..91, 100..130] {
        fs::write(&path, lines(numbers)).unwrap();
        read_once(&path, &pipeline).await.unwrap();
    }
    let expected = [records(0..4), records(40..60), records(90..91), records(100..130)].concat();
    assert_eq!(texts(&pipeline), expected);
}

/// A reader that is driven step by step, and what it has delivered.
struct Driven {
    reader: Reader,
    texts: Vec<String>,
    codes: Vec<&'static str>,
    cursor: Option<Bytes>,
}

impl Driven {
    fn new(path: &Path, poll_millis: u64, ledger: Ledger) -> Self {
        let config = FileConfig { poll_millis, ..FileConfig::new(path) };
        let clock = Clock::from_fn(|| Time::from_millis(0));
        let reader = Reader::new("trail".into(), config, ledger, clock, CancellationToken::new());
        Self { reader, texts: Vec::new(), codes: Vec::new(), cursor: None }
    }

    /// One round, as between two polls.
    fn round(&mut self) {
        loop {
            match self.reader.step() {
                Step::Deliver(delivery) => {
                    let text = |record: RawRecord| String::from_utf8(record.bytes.to_vec()).unwrap();
                    self.texts.extend(delivery.records.into_iter().map(text));
                    self.codes.extend(delivery.rejected.into_iter().map(|rejected| rejected.code));
                    self.cursor = delivery.cursor;
                }
                Step::Idle(None) => return,
                other => panic!("{other:?}"),
            }
        }
    }

    fn rounds_until(&mut self, wished: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !wished(self) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} records, {:?}", self.texts.len(), self.codes);
            self.round();
        }
    }
}

#[test]
fn a_compressed_file_is_taken_when_it_is_whole() {
    let (folder, _) = folder();
    let path = folder.path().join("a.json.gz");
    let whole = gzip(&document(0..2_000));
    // An hour between two polls: no file is unchanged for long enough to count as cut off.
    let mut driven = Driven::new(folder.path(), 3_600_000, Ledger::default());
    for part in whole.chunks(whole.len() / 3) {
        append(&path, part);
        driven.round();
        assert_eq!(driven.texts, [""; 0], "it grew since the round before");
    }
    for _ in 0..3 {
        driven.round();
        assert_eq!((&driven.texts, &driven.codes), (&records(0..2_000), &vec![]), "once");
    }
    let mut again = Driven::new(folder.path(), 3_600_000, Ledger::decode(&driven.cursor.unwrap()).unwrap());
    again.round();
    again.round();
    assert_eq!(again.texts, [""; 0], "nor after a restart");
}

#[test]
fn a_file_that_was_taken_for_cut_off_is_read_on_when_it_grows() {
    let document = document(0..2_000);
    for (name, whole) in [("a.json.gz", gzip(&document)), ("a.json", document.clone().into_bytes())] {
        let (folder, _) = folder();
        let path = folder.path().join(name);
        let (begun, rest) = whole.split_at(whole.len() / 2);
        append(&path, begun);
        let mut driven = Driven::new(folder.path(), 1, Ledger::default());
        driven.rounds_until(|driven| driven.codes.contains(&"truncated"));
        let told = driven.codes.clone();
        let (taken, cursor) = (driven.texts.len(), driven.cursor.clone().unwrap());
        assert!((1..2_000).contains(&taken), "{name}: {taken}");
        append(&path, rest);
        // With or without a restart in between, nothing is delivered twice.
        let mut restarted = Driven::new(folder.path(), 1, Ledger::decode(&cursor).unwrap());
        restarted.rounds_until(|restarted| taken + restarted.texts.len() >= 2_000);
        assert_eq!((restarted.texts, restarted.codes), (records(taken..2_000), vec![]), "{name}");
        driven.rounds_until(|driven| driven.texts.len() >= 2_000);
        driven.round();
        assert_eq!((driven.texts, driven.codes), (records(0..2_000), told), "{name}");
    }
}

#[tokio::test]
async fn a_document_that_stays_cut_off_is_told() {
    let (folder, _) = folder();
    fs::write(folder.path().join("a.json"), &document(0..3)[..25]).unwrap();
    let compressed = gzip(&document(3..2_000));
    fs::write(folder.path().join("b.json.gz"), &compressed[..compressed.len() / 2]).unwrap();
    let pipeline = Pipeline::new();
    let running = begin(folder.path(), true, &pipeline);
    pipeline.until(|kept| kept.rejected.len() == 3).await;
    some_polls().await;
    running.end().await.unwrap();
    assert_eq!(codes(&pipeline), ["truncated"; 3], "the record of each, and the compressed data");
    assert_eq!(texts(&pipeline)[..2], [record(0), record(3)]);
    let before = texts(&pipeline).len();
    read_once(folder.path(), &pipeline).await.unwrap();
    assert_eq!(texts(&pipeline).len(), before);
}

#[tokio::test]
async fn breaking_off_at_any_delivery_loses_and_repeats_nothing() {
    let (folder, _) = folder();
    fs::write(folder.path().join("a.jsonl"), lines(0..1_300)).unwrap();
    fs::write(folder.path().join("b.json"), document(1_300..2_900)).unwrap();
    fs::write(folder.path().join("c.json.gz"), gzip(&document(2_900..4_000))).unwrap();
    fs::write(folder.path().join("d.json.gz"), gzip(&lines(4_000..4_010))).unwrap();
    for deliveries in 1..4 {
        let kept = Arc::default();
        for attempt in 0..12 {
            let pipeline = Pipeline::failing_after(deliveries, Arc::clone(&kept));
            match read_once(folder.path(), &pipeline).await {
                Ok(()) => break,
                Err(error) => assert!(matches!(error, SourceError::Log(_)) && attempt < 11, "{error}"),
            }
        }
        let kept = kept.lock().unwrap();
        assert_eq!(kept.texts(), records(0..4_010), "{deliveries} deliveries at a time");
        assert!(kept.rejected.is_empty());
    }
}

#[tokio::test]
async fn an_error_of_the_log_does_not_move_the_position() {
    let (_folder, path) = folder();
    fs::write(&path, lines(0..1_200)).unwrap();
    let failing = Pipeline::failing_after(1, Arc::default());
    let mut source =
        FileSource::new("trail".into(), FileConfig { follow: false, ..FileConfig::new(&path) }, None, Clock::system());
    let status = StatusBoard::default().register("trail".into(), KIND);
    let stop = CancellationToken::new();
    source.run(failing.intake, status.clone(), stop.clone()).await.unwrap_err();
    let next = Pipeline::failing_after(usize::MAX, failing.kept);
    source.run(next.intake.clone(), status, stop).await.unwrap();
    assert!(texts(&next).ends_with(&records(500..1_200)));
}

#[tokio::test]
async fn files_that_are_gone_leave_the_cursor() {
    let (folder, _) = folder();
    for n in 0..20 {
        fs::write(folder.path().join(format!("{n:02}.gz")), gzip(&lines(n..n + 1))).unwrap();
    }
    let pipeline = Pipeline::new();
    read_once(folder.path(), &pipeline).await.unwrap();
    let full = pipeline.cursor().unwrap().len();
    for n in 0..19 {
        fs::remove_file(folder.path().join(format!("{n:02}.gz"))).unwrap();
    }
    read_once(folder.path(), &pipeline).await.unwrap();
    let pruned = pipeline.cursor().unwrap().len();
    assert!(pruned < full / 4, "{pruned} of {full}");
    fs::rename(folder.path().join("19.gz"), folder.path().join("19.off")).unwrap();
    read_once(folder.path(), &pipeline).await.unwrap();
    assert_eq!(pipeline.cursor().unwrap().len(), pruned, "a folder without files may be one that is not mounted");
    assert_eq!(texts(&pipeline), records(0..20));
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_the_rest_is_read() {
    let (folder, path) = folder();
    let error = read_once(&path, &Pipeline::new()).await.unwrap_err().to_string();
    assert!(error.starts_with("read /") && error.contains("trail.jsonl: No such file"), "{error}");

    fs::write(&path, lines(0..1)).unwrap();
    std::os::unix::fs::symlink("loop.json", folder.path().join("loop.json")).unwrap();
    let pipeline = Pipeline::new();
    let error = read_once(folder.path(), &pipeline).await.unwrap_err().to_string();
    assert!(error.contains("loop.json") && !error.contains("trail.jsonl"), "{error}");
    assert_eq!(texts(&pipeline), records(0..1));

    let mut source =
        FileSource::new("trail".into(), FileConfig::new(&path), Some(Bytes::from_static(b"?")), Clock::system());
    let status = StatusBoard::default().register("trail".into(), KIND);
    let error = source.run(pipeline.intake, status, CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.contains("resume reading") && error.contains("saved position"), "{error}");
}

#[tokio::test]
async fn a_stop_is_obeyed_within_something_endless() {
    let (_folder, path) = folder();
    let pipeline = Pipeline::new();
    // A sparse file: 1 TiB of NUL bytes.
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let running = begin(&path, true, &pipeline);
    some_polls().await;
    let begun = Instant::now();
    running.end().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn the_configuration_is_strict() {
    let config: FileConfig = toml::from_str("path = \"/var/trail\"").unwrap();
    assert_eq!(config, FileConfig::new("/var/trail"));
    assert!(config.follow && config.poll_millis == 500);
    assert!(
        toml::from_str::<FileConfig>("path = \"x\"\npol_millis = 1").unwrap_err().to_string().contains("pol_millis")
    );
}
