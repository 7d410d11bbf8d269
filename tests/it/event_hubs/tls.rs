//! Over TLS, as to the service itself: the certificate is checked against what the system trusts.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{append, assert_all_once, configuration, wait_for_error, wait_for_events};
use crate::support::event_hubs::Broker;
use crate::support::program::finish;
use crate::support::server::{Server, folder, serve};

/// Ends TLS before the broker, until it is dropped.
struct Proxy {
    child: Child,
    endpoint: String,
}

impl Proxy {
    /// Makes an authority of its own and a certificate of `localhost`, in a folder.
    fn start(folder: &Path, broker: &Broker) -> Self {
        let authority = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority \
                         -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign";
        let request = "openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost";
        let sign = "printf 'subjectAltName=DNS:localhost\\nextendedKeyUsage=serverAuth\\n' > extensions && openssl x509 \
                    -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 30 -extfile \
                    extensions";
        let script = format!("{authority} && {request} && {sign}");
        let made = finish(Command::new("sh").args(["-c", &script]).current_dir(folder), b"");
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        let proxy = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/tls_proxy.py");
        let mut command = Command::new("python3");
        command.arg(proxy).args(["server.pem", "server.key", &broker.port().to_string()]).current_dir(folder);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { child, endpoint: format!("amqps://localhost:{}", port.trim()) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_over_tls_from_whom_the_system_trusts_only() {
    let broker = Broker::start(&[("activity", 1)]).await;
    append(&broker, 0, 0, 1);
    let folder = folder();
    let proxy = tokio::task::block_in_place(|| Proxy::start(folder.path(), &broker));
    let config = configuration(folder.path(), &broker, "").replace(&broker.endpoint(), &proxy.endpoint);

    let server = Server::serve(folder.path(), &config);
    let error = wait_for_error(&server, &["look at acme.servicebus.windows.net/activity"]);
    assert!(error.to_lowercase().contains("certificate") || error.contains("UnknownIssuer"), "{error}");
    assert!(server.terminate().success());

    let mut command = serve(folder.path(), &config);
    command.env("SSL_CERT_FILE", folder.path().join("ca.pem"));
    let server = Server::start(command);
    wait_for_events(&server, 1);
    append(&broker, 0, 1, 1);
    wait_for_events(&server, 2);
    assert_all_once(&server, &[(0, 0, 1), (0, 1, 1)]);
    assert!(server.terminate().success());
}
