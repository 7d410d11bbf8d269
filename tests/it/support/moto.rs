//! AWS's services on this machine, by a moto process: S3 with its notifications, SQS, SNS, EventBridge, STS. It does
//! not check signatures.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::{PATIENCE, clients};

pub(crate) const REGION: &str = "eu-west-1";
/// The account of every caller of moto.
pub(crate) const ACCOUNT: &str = "123456789012";

/// A running moto server; stopped when dropped.
pub(crate) struct Moto {
    child: Child,
    address: SocketAddr,
}

impl Moto {
    pub(crate) fn start() -> Self {
        // A port that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let program = clients().join("python/bin/moto_server");
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        // Nothing is requested from AWS's own addresses, whatever the environment says.
        command.env("AWS_EC2_METADATA_DISABLED", "true").stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let moto = Self { child, address };
        let deadline = Instant::now() + PATIENCE;
        while ureq::get(moto.url("/moto-api/")).call().is_err() {
            assert!(Instant::now() < deadline, "moto does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        moto
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn authorization(service: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260203/{REGION}/{service}/aws4_request, \
             SignedHeaders=host, Signature=0"
        )
    }

    /// A call of the JSON protocol: `AmazonSQS.CreateQueue`.
    pub(crate) fn call(&self, service: &str, target: &str, body: &Value) -> Value {
        let mut answer = ureq::post(self.url("/"))
            .header("authorization", Self::authorization(service))
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", target)
            .send(body.to_string())
            .unwrap_or_else(|error| panic!("{target}: {error}"));
        let text = answer.body_mut().read_to_string().unwrap();
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    /// Calls the query protocol; returns the text of the first element of this name.
    pub(crate) fn query(&self, service: &str, parameters: &[(&str, &str)], element: &str) -> String {
        let mut answer = ureq::post(self.url("/"))
            .header("authorization", Self::authorization(service))
            .send_form(parameters.iter().copied())
            .unwrap_or_else(|error| panic!("{parameters:?}: {error}"));
        let text = answer.body_mut().read_to_string().unwrap();
        let rest = text.split_once(&format!("<{element}>")).unwrap_or_else(|| panic!("no {element}: {text}")).1;
        rest.split_once('<').unwrap().0.to_owned()
    }

    /// Creates a queue and returns its URL.
    pub(crate) fn queue(&self, name: &str, attributes: &Value) -> String {
        let body = json!({ "QueueName": name, "Attributes": attributes });
        self.call("sqs", "AmazonSQS.CreateQueue", &body)["QueueUrl"].as_str().unwrap().to_owned()
    }

    pub(crate) fn queue_arn(name: &str) -> String {
        format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")
    }

    pub(crate) fn send(&self, queue_url: &str, body: &str) {
        self.call("sqs", "AmazonSQS.SendMessage", &json!({ "QueueUrl": queue_url, "MessageBody": body }));
    }

    /// Number of messages in a queue, visible or not.
    pub(crate) fn messages(&self, queue_url: &str) -> u64 {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let body = json!({ "QueueUrl": queue_url, "AttributeNames": names });
        let answer = self.call("sqs", "AmazonSQS.GetQueueAttributes", &body);
        names.iter().map(|name| answer["Attributes"][name].as_str().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// `PUT` to S3: a bucket, an object, a configuration.
    pub(crate) fn put(&self, path: &str, body: &[u8]) {
        let request = ureq::put(self.url(path))
            .header("authorization", Self::authorization("s3"))
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
        request.send(body).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    pub(crate) fn bucket(&self, name: &str) {
        let region = format!(
            "<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
        );
        self.put(&format!("/{name}"), region.as_bytes());
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
