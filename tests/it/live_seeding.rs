//! Live seeding by the real binary, against servers that stand in for AWS Config and Azure Resource Graph.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::support::azure::Azure;
use crate::support::server::{Server, folder, serve};

/// A request as it came.
struct Asked {
    headers: HeaderMap,
    body: Value,
}

#[derive(Default)]
struct Script {
    answers: VecDeque<(u16, Option<&'static str>, Value)>,
    asked: Vec<Asked>,
}

/// Answers one request after the other as a script says; after its end with the last answer again.
struct Service {
    url: String,
    script: Arc<Mutex<Script>>,
    task: AbortHandle,
}

impl Service {
    /// `answers`: status, Retry-After, body.
    async fn start(answers: impl IntoIterator<Item = (u16, Option<&'static str>, Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script { answers: answers.into_iter().collect(), asked: Vec::new() }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        let task = TaskTracker::new().spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self { url, script, task }
    }

    fn asked(&self) -> usize {
        self.script.lock().unwrap().asked.len()
    }

    fn body(&self, number: usize) -> Value {
        self.script.lock().unwrap().asked[number].body.clone()
    }

    fn header(&self, number: usize, name: &str) -> String {
        let script = self.script.lock().unwrap();
        script.asked[number].headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(script): State<Arc<Mutex<Script>>>, headers: HeaderMap, body: axum::body::Bytes) -> Response {
    let mut script = script.lock().unwrap();
    script.asked.push(Asked { headers, body: serde_json::from_slice(&body).unwrap() });
    let (status, wait, body) = match script.answers.len() {
        1 => script.answers[0].clone(),
        _ => script.answers.pop_front().unwrap(),
    };
    let mut answer = (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response();
    if let Some(wait) = wait {
        answer.headers_mut().insert("retry-after", wait.parse().unwrap());
    }
    answer
}

fn group(id: &str) -> String {
    json!({ "accountId": "111122223333", "awsRegion": "eu-west-1", "resourceId": id, "resourceName": "web",
        "resourceType": "AWS::EC2::SecurityGroup", "arn": format!("arn:aws:ec2:eu-west-1:111122223333:security-group/{id}"),
        "configurationItemCaptureTime": "2026-02-03T03:00:00.000Z", "configurationItemStatus": "OK", "tags": [],
        "configuration": { "groupId": id, "groupName": "web", "ipPermissions": [], "ipPermissionsEgress": [], "vpcId": "vpc-1" } })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregator_is_asked_page_by_page_and_not_again_before_it_is_due() {
    let throttled = json!({ "__type": "ThrottlingException", "message": "Rate exceeded" });
    let service = Service::start([
        (400, Some("0"), throttled),
        (200, None, json!({ "Results": [group("sg-1")], "NextToken": "more", "QueryInfo": {} })),
        (200, None, json!({ "Results": [group("sg-2")], "QueryInfo": {} })),
    ])
    .await;
    let folder = folder();
    let configuration = format!(
        "data_dir = {:?}\n[sources.inventory.aws_config]\naggregator = \"org\"\nregion = \"eu-west-1\"\n\
         resource_types = [\"AWS::EC2::SecurityGroup\"]\nrequests_per_second = 50.0\nendpoint_url = {:?}\n",
        folder.path().join("data"),
        service.url
    );
    let command = || {
        let mut command = serve(folder.path(), &configuration);
        command.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("AWS_SECRET_ACCESS_KEY", "not a key");
        command
    };
    let name = |id: &str| format!("/v1/assets/asset://aws/111122223333/eu-west-1/ec2/security-group/{id}");
    let server = Server::start(command());
    server.wait_until("seeded", || server.try_get(&name("sg-2")).is_some_and(|(status, _)| status == 200));
    assert_eq!(server.get_json(&name("sg-1"))["changed"], "2026-02-03T03:00:00.000Z");
    assert_eq!(server.all_events().len(), 0);
    assert_eq!(server.get_json("/v1/sources")["sources"][0]["kind"], "aws_config");

    assert_eq!(service.asked(), 3);
    let expression = service.body(1)["Expression"].as_str().unwrap().to_owned();
    assert!(expression.ends_with("WHERE resourceType IN ('AWS::EC2::SecurityGroup')"), "{expression}");
    assert_eq!(
        (service.body(1).get("NextToken").cloned(), service.body(2)["NextToken"].clone()),
        (None, json!("more"))
    );
    assert_eq!(service.header(1, "x-amz-target"), "StarlingDoveService.SelectAggregateResourceConfig");
    let signature = service.header(1, "authorization");
    assert!(signature.starts_with("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/"), "{signature}");
    assert!(
        signature.contains("/eu-west-1/config/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target"),
        "{signature}"
    );

    // The position is durable: a restart asks again when a day has passed.
    server.wait_until("swept", || {
        server.get_json("/v1/sources")["sources"][0]["cursor"] != Value::Null || service.asked() == 3
    });
    server.terminate();
    let server = Server::start(command());
    assert_eq!(server.get_json(&name("sg-2"))["configuration"]["vpcId"], "vpc-1");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(service.asked(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_graph_is_asked_table_by_table_with_a_token_of_the_identity() {
    let row = |name: &str| {
        json!({ "id": format!("/subscriptions/0f1e2d3c-0000-4000-8000-000000000001/resourceGroups/shop/providers/Microsoft.Storage/storageAccounts/{name}"),
            "name": name, "type": "microsoft.storage/storageaccounts", "tenantId": "t", "location": "westeurope", "tags": null,
            "properties": { "minimumTlsVersion": "TLS1_2" } })
    };
    let service = Service::start([
        (429, Some("0"), json!({ "error": { "code": "RateLimiting" } })),
        (200, None, json!({ "count": 1, "$skipToken": "more", "data": [row("first")] })),
        (200, None, json!({ "count": 1, "data": [row("second")] })),
        (200, None, json!({ "count": 1, "data": [{ "id": "/subscriptions/0f1e2d3c-0000-4000-8000-000000000001/resourceGroups/shop",
            "name": "shop", "type": "microsoft.resources/subscriptions/resourcegroups", "location": "westeurope", "properties": {} }] })),
    ])
    .await;
    let azure = Azure::start().await;
    let folder = folder();
    let configuration = format!(
        "data_dir = {:?}\n[sources.inventory.azure_resource_graph]\nsubscriptions = [\"0f1e2d3c-0000-4000-8000-000000000001\"]\n\
         requests_per_second = 50.0\nevents = true\nendpoint_url = {:?}\n",
        folder.path().join("data"),
        service.url
    );
    let mut command = serve(folder.path(), &configuration);
    azure.identify(&mut command);
    let server = Server::start(command);
    server.wait_until("seeded", || server.all_events().len() == 3);
    let events = server.all_events();
    for event in &events {
        crate::support::schema::assert_valid(event);
        assert_eq!(event["data"]["attribution"]["detected_by"], "inventory");
    }
    assert_eq!(events[2]["data"]["asset"]["provider_type"], "Microsoft.Resources/resourceGroups");
    assert_eq!(service.header(1, "authorization"), "Bearer token for https://management.azure.com");
    assert_eq!(service.body(2)["options"]["$skipToken"], "more");
    let tables: Vec<_> =
        (1..4).map(|n| service.body(n)["query"].as_str().unwrap().split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(tables, ["Resources", "Resources", "ResourceContainers"]);
}
