//! What `docs/use-cases.md` shows is what its commands give: each is run as it stands there, over the story that it tells of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::server::{Server, folder};

const PAGE: &str = "docs/use-cases.md";
const STORY: &str = "fixtures/stories/office";
/// Where the page takes the server to be.
const SERVER: &str = "localhost:8780";

/// The blocks of a page, with the word that says what they are.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    page.split("\n```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

#[test]
fn the_use_cases_show_what_their_commands_give() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let folder = folder();
    let trail = std::fs::canonicalize(STORY).unwrap();
    let configuration = format!("ephemeral = true\n[sources.story.file]\npath = {trail:?}\npoll_millis = 20\n");
    let server = Server::serve(folder.path(), &configuration);
    let records = files().iter().map(|(_, records)| records).sum();
    server.wait_until("the story told", || server.records() >= records);

    let blocks = blocks(&page);
    let settings: String = blocks
        .iter()
        .filter(|(kind, text)| *kind == "sh" && text.starts_with("line="))
        .map(|(_, text)| *text)
        .collect();
    assert!(!settings.is_empty(), "{PAGE} defines how an event is printed");
    let mut shown = 0;
    for pair in blocks.windows(2) {
        let [("sh", command), ("text", expected)] = pair else { continue };
        let command = command.replace(SERVER, &server.address().to_string());
        let output = Command::new("sh").arg("-c").arg(format!("{settings}\n{command}")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), *expected, "{command}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command}");
        shown += 1;
    }
    assert!(shown >= 6, "{shown} of the page's commands were run");
}

/// The files of the story, in order, each with the number of its records.
fn files() -> Vec<(PathBuf, u64)> {
    let mut paths: Vec<_> = std::fs::read_dir(STORY).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    let records = |path: &Path| {
        let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        document["Records"].as_array().unwrap().len() as u64
    };
    paths.into_iter().map(|path| (path.clone(), records(&path))).collect()
}

/// What is new, by event id.
fn novelty(events: &[Value]) -> BTreeMap<String, Value> {
    events.iter().map(|event| (event["id"].as_str().unwrap().to_owned(), event["data"]["novelty"].clone())).collect()
}

#[test]
fn what_is_new_is_the_same_when_the_server_is_killed_in_between() {
    let folder = folder();
    let (data, trail) = (folder.path().join("data"), folder.path().join("trail"));
    std::fs::create_dir(&trail).unwrap();
    let files = files();
    let steady = {
        for (file, _) in &files {
            std::fs::copy(file, trail.join(file.file_name().unwrap())).unwrap();
        }
        let configuration = format!("ephemeral = true\n[sources.story.file]\npath = {trail:?}\npoll_millis = 20\n");
        let server = Server::serve(folder.path(), &configuration);
        let total = files.iter().map(|(_, records)| records).sum::<u64>();
        server.wait_until("the story told", || server.records() >= total);
        novelty(&server.all_events())
    };
    std::fs::remove_dir_all(&trail).unwrap();
    std::fs::create_dir(&trail).unwrap();
    let configuration = format!("data_dir = {data:?}\n[sources.story.file]\npath = {trail:?}\npoll_millis = 20\n");
    let mut events = 0;
    for (file, records) in &files {
        let server = Server::serve(folder.path(), &configuration);
        std::fs::copy(file, trail.join(file.file_name().unwrap())).unwrap();
        events += usize::try_from(*records).unwrap();
        server.wait_until("a week told", || server.all_events().len() == events);
        server.kill();
    }
    let server = Server::serve(folder.path(), &configuration);
    let killed = server.all_events();
    assert_eq!(novelty(&killed), steady);
    assert!(steady.values().any(|novelty| novelty.as_array().is_some_and(|facets| facets.len() == 5)), "{steady:?}");
    // Asking by what is new finds just these.
    let is_new = |event: &&Value| event["data"]["novelty"].as_array().is_some_and(|facets| !facets.is_empty());
    let expected: Vec<Value> = killed.iter().filter(is_new).cloned().collect();
    assert_eq!(server.events("until=0s&novelty=any"), expected);
    let (status, body) = server.get("/v1/events?format=ndjson&until=0s&novelty=ipp");
    assert!(status == 400 && body.contains("none of any, principal, ip"), "{body}");
}
