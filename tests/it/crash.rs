//! Killed at any moment, twenty times over: nothing accepted is missing, nothing is doubled, and the inventory is what
//! it would have been.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use catchment::source::demo;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::support::server::{PATIENCE, Server, folder, serve};
use crate::support::trail::{append, create_group, events_of, explain, ids, random};

const KILLS: usize = 20;
/// Of each file that grows, between two kills.
const RECORDS_A_ROUND: usize = 90;
/// In the file that is delivered between two kills.
const RECORDS_A_FILE: usize = 40;

/// Two files that grow, and a folder in which compressed files appear. Each has an organisation of its own, so that the
/// outcome does not hang on which of them is read first.
struct Trail {
    growing: [(PathBuf, Vec<String>); 2],
    delivered: PathBuf,
    files: Vec<Vec<String>>,
}

impl Trail {
    fn new(folder: &Path, random: &mut fastrand::Rng) -> Self {
        let growing = folder.join("growing");
        let delivered = folder.join("delivered");
        std::fs::create_dir_all(&growing).unwrap();
        std::fs::create_dir_all(&delivered).unwrap();
        let growing = ["a", "b"].map(|name| {
            let mut lines = organisation(name, random, KILLS * RECORDS_A_ROUND);
            for line in 0..lines.len() {
                match random.u32(0..40) {
                    0 => lines[line] = format!(r#"{{"eventVersion":"1.11","eventID":"broken {name}{line}"}}"#),
                    1 => lines[line] = lines[random.usize(0..=line)].clone(),
                    _ => {}
                }
            }
            lines.push(create_group(&format!("last-{name}")).to_string());
            (growing.join(format!("{name}.ndjson")), lines)
        });
        let records = organisation("delivered", random, KILLS * RECORDS_A_FILE);
        let mut files: Vec<Vec<String>> = records.chunks(RECORDS_A_FILE).map(<[String]>::to_vec).collect();
        files.last_mut().unwrap().push(create_group("last-delivered").to_string());
        Self { growing, delivered, files }
    }

    /// Lets a compressed file appear, whole at once, as they do.
    fn deliver(&self, number: usize) {
        let path = self.delivered.join(format!("{number:02}.json.gz"));
        let part = path.with_extension("part");
        let mut file = GzEncoder::new(std::fs::File::create(&part).unwrap(), Compression::fast());
        write!(file, r#"{{"Records":[{}]}}"#, self.files[number].join(",")).unwrap();
        file.finish().unwrap().sync_all().unwrap();
        std::fs::rename(part, path).unwrap();
    }

    fn configuration(&self, data: &Path) -> String {
        let growing = self.growing[0].0.parent().unwrap();
        format!(
            "data_dir = {data:?}\n[sources.growing.file]\npath = {growing:?}\npoll_millis = 10\n\
             [sources.delivered.file]\npath = {:?}\npoll_millis = 10\n",
            self.delivered
        )
    }
}

/// What happens in an organisation with accounts of its own.
fn organisation(name: &str, random: &mut fastrand::Rng, records: usize) -> Vec<String> {
    let own = |record: String| {
        ["111122223333", "444455556666"].iter().fold(record, |r, id| r.replace(id, &format!("{name}-{id}")))
    };
    demo::generate(random.u64(..), records).into_iter().map(own).collect()
}

/// Kills the process at a moment after its start: before it is ready, soon after, or after it has taken something.
fn run_and_kill(number: usize, folder: &Path, configuration: &str, random: &mut fastrand::Rng) {
    if number.is_multiple_of(3) {
        let mut child = serve(folder, configuration).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.u64(0..700)));
        assert_eq!(child.try_wait().unwrap(), None, "it ran until it was killed");
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    }
    let server = Server::serve(folder, configuration);
    if number % 3 == 1 {
        server.wait_until("some records taken", || server.records() > 0);
    }
    std::thread::sleep(Duration::from_millis(random.u64(0..300)));
    server.kill();
}

/// What a server holds in the end.
struct Outcome {
    events: Vec<Value>,
    assets: Vec<Value>,
    quarantine: BTreeMap<(String, u64), (Value, Value)>,
    records: u64,
}

impl Outcome {
    /// Waits until the last record of every file is taken.
    fn of(server: Server) -> Self {
        for last in ["last-a", "last-b", "last-delivered"] {
            let path = format!("/v1/events/{last}:0");
            server.wait_until(&format!("at {last}"), || server.get(&path).0 == 200);
        }
        let outcomes = ["changes", "skipped", "duplicate", "quarantined"];
        let of = |outcome: &&str| server.metric("catchment_records_total", &format!("outcome=\"{outcome}\""));
        let received = server.metric("catchment_records_received_total", "");
        assert!((outcomes.iter().map(of).sum::<f64>() - received).abs() < 0.5, "every record is accounted for");
        let by_reason = server.metric("catchment_skipped_records_total", "");
        assert!((of(&"skipped") - by_reason).abs() < 0.5, "every skipped record has a reason");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
        let records = received as u64;
        let outcome = Self {
            events: server.all_events().into_iter().map(without_times_of_ours).collect(),
            assets: pages(&server, "/v1/assets?include=configuration&limit=1000", "assets"),
            quarantine: quarantine(&server),
            records,
        };
        assert!(server.terminate().success());
        outcome
    }
}

/// `observed` is the server's own time.
/// Nor what is new, which goes by the order in which files that grow at once were read.
fn without_times_of_ours(mut event: Value) -> Value {
    let data = event["data"].as_object_mut().unwrap();
    data.remove("observed").unwrap();
    data.remove("novelty").unwrap();
    event
}

fn pages(server: &Server, path: &str, member: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let mut page = server.get_json(&format!("{path}{token}"));
        found.append(page[member].as_array_mut().unwrap());
        match &page["next"] {
            Value::Null => return found,
            Value::String(next) => token = format!("&page_token={}", next.replace('/', "%2F")),
            next => token = format!("&page_token={next}"),
        }
    }
}

/// What is in quarantine, by place. Fails when a place is there twice.
fn quarantine(server: &Server) -> BTreeMap<(String, u64), (Value, Value)> {
    let mut found = BTreeMap::new();
    for record in pages(server, "/v1/quarantine?limit=200", "records") {
        let place = (record["location"].as_str().unwrap().to_owned(), record["index"].as_u64().unwrap());
        let before = found.insert(place.clone(), (record["code"].clone(), record["record"].clone()));
        assert_eq!(before, None, "twice in quarantine: {place:?}");
    }
    found
}

/// By id. Fails when an id is there twice.
fn by_id(events: &[Value]) -> BTreeMap<String, &Value> {
    let mut found = BTreeMap::new();
    for (id, event) in ids(events).into_iter().zip(events) {
        assert!(found.insert(id.clone(), event).is_none(), "twice in the log: {id}");
    }
    found
}

#[test]
fn twenty_kills_lose_nothing_and_double_nothing() {
    let mut random = random();
    let folder = folder();
    let trail = Trail::new(folder.path(), &mut random);
    let configuration = trail.configuration(&folder.path().join("data"));
    let round = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (path, lines) in &trail.growing {
            let (round, mut random) = (&round, random.fork());
            scope.spawn(move || {
                let deadline = Instant::now() + 2 * PATIENCE;
                for (number, lines) in lines.chunks(RECORDS_A_ROUND).enumerate() {
                    while round.load(Ordering::SeqCst) < number && Instant::now() < deadline {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    append(path, lines, &mut random, Duration::from_millis(1));
                }
            });
        }
        for number in 0..KILLS {
            trail.deliver(number);
            run_and_kill(number, folder.path(), &configuration, &mut random);
            round.fetch_add(1, Ordering::SeqCst);
        }
    });

    let killed = Outcome::of(Server::serve(folder.path(), &configuration));
    let undisturbed = trail.configuration(&folder.path().join("undisturbed"));
    let undisturbed = Outcome::of(Server::serve(folder.path(), &undisturbed));
    let growing = trail.growing[0].0.parent().unwrap();
    let explained = explain(&[growing, &trail.delivered]);

    let must = events_of(&explained).into_iter().map(without_times_of_ours).collect::<Vec<_>>();
    let (found, must) = (by_id(&killed.events), by_id(&must));
    let missing: Vec<_> = must.keys().filter(|id| !found.contains_key(*id)).collect();
    assert!(missing.is_empty(), "{} events are missing: {missing:?}", missing.len());
    for (id, event) in &found {
        assert_eq!(Some(event), must.get(id), "{id} is what it would have been");
    }
    assert_eq!(killed.assets.len(), undisturbed.assets.len());
    for (found, must) in killed.assets.iter().zip(&undisturbed.assets) {
        assert_eq!(found, must, "the inventory is what it would have been");
    }
    assert_eq!(killed.quarantine, undisturbed.quarantine);
    assert!(killed.quarantine.len() > KILLS, "some records are broken");
    assert_eq!(undisturbed.records, explained.len() as u64);
    assert!(killed.records < undisturbed.records, "the last process did not read everything anew");
}
