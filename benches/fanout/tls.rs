//! Idle connections over TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

pub(crate) const CERTIFICATE: &str = "server.pem";
pub(crate) const KEY: &str = "server.key";

/// Creates a self-signed certificate for `localhost` with openssl.
pub(crate) fn make_certificate(folder: &Path) {
    let arguments = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {KEY} -out {CERTIFICATE} -subj \
         /CN=localhost -days 2 -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
    );
    let made = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).stderr(Stdio::null()).status();
    assert!(made.unwrap().success(), "openssl {arguments}");
}

pub(crate) type Connection = StreamOwned<ClientConnection, TcpStream>;

/// Opens streams, one after the other, and reads the beginning of each.
pub(crate) fn open(folder: &Path, address: SocketAddr, request: &str, count: usize) -> Vec<Connection> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join(CERTIFICATE)).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let connect = |_| {
        let name = "localhost".try_into().unwrap();
        let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
        stream.write_all(request.as_bytes()).unwrap();
        let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
        // The stream is open, and has caught up with the few events there are.
        while memchr::memmem::find(&answer, b"event: caught-up").is_none() {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..read]);
        }
        stream
    };
    (0..count).map(connect).collect()
}
