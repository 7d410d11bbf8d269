//! The LookupEvents source through the real SDK, against a service that stands in for CloudTrail.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use catchment::secret::Secret;
use catchment::source::aws_lookup_events::{KIND, LookupEventsConfig, LookupEventsSource};
use catchment::source::{Clock, Source, SourceError, SourceState, SourceStatus, StatusBoard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::http_proxy::{HttpProxy, Message};
use crate::support::lookup_events_server::{LookupEventsServer, Mishap};
use crate::support::moto::Moto;
use crate::support::pipeline::Pipeline;
use crate::support::server::{Server, folder, serve};

const AT_ONCE: Duration = Duration::ZERO;

/// A secret is taken by reference only: here from a file that holds it.
fn secret(text: &str) -> Secret {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Secret::from_reference(&format!("file:{}", file.path().display())).unwrap()
}

struct Running {
    board: StatusBoard,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SourceError>>,
}

impl Running {
    fn begin(server: &LookupEventsServer, regions: &[&str], pipeline: &Pipeline) -> Self {
        let mut config = LookupEventsConfig::new(regions.iter().map(|region| (*region).to_owned()).collect());
        config.poll_secs = 1;
        config.requests_per_second = 50.0;
        config.endpoint_url = Some(server.url.clone());
        config.access_key_id = Some(secret("AKIAIOSFODNN7EXAMPLE"));
        config.secret_access_key = Some(secret("not a key"));
        let mut source = LookupEventsSource::new("trail".into(), config, pipeline.cursor(), Clock::system());
        let (board, stop) = (StatusBoard::default(), CancellationToken::new());
        let status = board.register("trail".into(), KIND);
        let (intake, token) = (pipeline.intake.clone(), stop.clone());
        let task = TaskTracker::new().spawn(async move { source.run(intake, status, token).await });
        Self { board, stop, task }
    }

    fn status(&self) -> SourceStatus {
        self.board.snapshot().into_values().next().unwrap()
    }

    async fn until(&self, wished: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        for _ in 0..1_000 {
            let status = self.status();
            if wished(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("still {:?}", self.status());
    }

    async fn end(self) {
        let begun = Instant::now();
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "a stop is obeyed at once");
    }
}

#[tokio::test]
async fn every_page_arrives_through_every_mishap() {
    let server = LookupEventsServer::start().await;
    let expected: Vec<_> = (0..137).map(|n| format!("{n:03}")).collect();
    for (n, id) in (0_i64..).zip(&expected) {
        server.add("eu-west-1", id, 800 - n, AT_ONCE);
    }
    server.script(&[Mishap::Throttle, Mishap::Fail, Mishap::Garble]);
    let pipeline = Pipeline::new();
    let running = Running::begin(&server, &["eu-west-1"], &pipeline);
    pipeline.until(137).await;
    assert_eq!(pipeline.event_ids(), expected);
    assert_eq!(server.requests()[3..6].iter().filter(|request| request.token.is_some()).count(), 2);

    server.script(&[Mishap::ExpireToken]);
    server.add("eu-west-1", "later", 0, AT_ONCE);
    pipeline.until(138).await;
    running.until(|status| status.state == SourceState::Running && status.records == 138).await;
    running.end().await;
    assert_eq!(pipeline.event_ids().last().unwrap(), "later");
}

#[tokio::test]
async fn regions_are_asked_one_by_one_and_late_events_are_found() {
    let server = LookupEventsServer::start().await;
    server.add("eu-west-1", "here", 20, AT_ONCE);
    server.add("us-east-1", "there", 10, AT_ONCE);
    server.add("eu-west-1", "late", 600, Duration::from_millis(1_500));
    let pipeline = Pipeline::new();
    let running = Running::begin(&server, &["eu-west-1", "us-east-1"], &pipeline);
    pipeline.until(2).await;
    assert!(!pipeline.event_ids().contains(&"late".to_owned()));
    pipeline.until(3).await;
    assert_eq!(pipeline.event_ids()[2], "late");
    let regions: HashSet<_> = server.requests().into_iter().map(|request| request.region).collect();
    assert_eq!(regions, HashSet::from(["eu-west-1".to_owned(), "us-east-1".to_owned()]));
    running.end().await;

    server.add("us-east-1", "after a restart", 0, AT_ONCE);
    let running = Running::begin(&server, &["us-east-1"], &pipeline);
    pipeline.until(5).await;
    running.end().await;
    assert_eq!(pipeline.event_ids()[3..], ["there", "after a restart"], "only the overlap is met again");
}

#[tokio::test]
async fn a_refusal_names_the_permission() {
    let server = LookupEventsServer::start().await;
    server.script(&[Mishap::Deny]);
    let running = Running::begin(&server, &["eu-west-1"], &Pipeline::new());
    let status = running.until(|status| status.state == SourceState::Retrying).await;
    let error = status.last_error.unwrap();
    assert!(error.contains("user/x") && error.contains("grant cloudtrail:LookupEvents"), "{error}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(server.requests().len(), 1, "refused, it does not insist");
    running.end().await;
}

#[tokio::test]
async fn a_stop_is_obeyed_while_the_service_hangs() {
    let server = LookupEventsServer::start().await;
    server.script(&[Mishap::Hang]);
    let running = Running::begin(&server, &["eu-west-1"], &Pipeline::new());
    while server.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.end().await;
}

/// The text of an element.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    xml.split_once(&format!("<{name}>"))?.1.split('<').next()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_asked_by_its_role_with_the_external_id() {
    let service = LookupEventsServer::start().await;
    service.add("eu-west-1", "here", 20, AT_ONCE);
    tokio::task::spawn_blocking(move || {
        let moto = Moto::start();
        let assumed: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let seen = Arc::clone(&assumed);
        let sts = HttpProxy::start(
            moto.address(),
            |_| None,
            move |request: &Message, answer: Option<&Message>| {
                let text = |message: &Message| String::from_utf8_lossy(&message.body).into_owned();
                let key = answer.and_then(|answer| element(&text(answer), "AccessKeyId").map(str::to_owned));
                seen.lock().unwrap().extend(key.map(|key| (text(request), key)));
            },
        );
        let folder = folder();
        let configuration = format!(
            "ephemeral = true\n[sources.organisation.aws_lookup_events]\nregions = [\"eu-west-1\"]\npoll_secs = 1\n\
             access_key_id = \"env:TEST_KEY_ID\"\nsecret_access_key = \"env:TEST_KEY\"\nendpoint_url = {:?}\n\
             sts_endpoint_url = {:?}\naccounts = [{{ role_arn = \"arn:aws:iam::444455556666:role/audit\", \
             external_id = \"an id of ours\" }}]\n",
            service.url,
            sts.url()
        );
        let mut command = serve(folder.path(), &configuration);
        command.env("TEST_KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("TEST_KEY", "not a key");
        let server = Server::start(command);
        server.wait_until("asked", || server.records() == 1);
        let (asked, key) = assumed.lock().unwrap().first().unwrap().clone();
        for part in ["Action=AssumeRole", "RoleArn=arn%3Aaws%3Aiam%3A%3A444455556666%3Arole%2Faudit"] {
            assert!(asked.contains(part), "{part}: {asked}");
        }
        assert!(asked.replace('+', "%20").contains("ExternalId=an%20id%20of%20ours"), "{asked}");
        let requests = service.requests();
        assert!(!requests.is_empty() && requests.iter().all(|request| request.access_key == key), "{requests:?}");
        assert_eq!(assumed.lock().unwrap().len(), 1, "the credentials are kept for as long as they hold");
    })
    .await
    .unwrap();
}
