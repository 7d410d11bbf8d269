//! Reads and validates the certificate and key files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{ClientCertificates, Loaded, TlsConfig, validity};

/// A larger file is assumed to be a wrong path.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("read {path}: {cause}{}", advice(.cause))]
    Unreadable {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// The content of a file is invalid.
    #[error("{path}: {reason}")]
    Unusable {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
}

impl TlsError {
    /// The key within `[http.tls]` that names the file.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Unreadable { key, .. } | Self::Unusable { key, .. } => key,
        }
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "; let the user that catchment runs as read it, by its group or an ACL",
        io::ErrorKind::NotFound => "; name the file in PEM",
        _ => "",
    }
}

/// A file as it is.
struct Text<'a> {
    key: &'static str,
    path: &'a Path,
    bytes: Vec<u8>,
}

impl<'a> Text<'a> {
    fn read(key: &'static str, path: &'a Path) -> Result<Self, TlsError> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
        let unreadable = |cause| TlsError::Unreadable { key, path: path.to_owned(), cause };
        if read.map_err(unreadable)? as u64 > MAX_FILE_BYTES {
            return Err(unreadable(io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes"))));
        }
        Ok(Self { key, path, bytes })
    }

    fn unusable(&self, reason: impl Into<String>) -> TlsError {
        TlsError::Unusable { key: self.key, path: self.path.to_owned(), reason: reason.into() }
    }

    /// Parses all certificates in the file; at least one is required.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match found {
            Ok(found) if found.is_empty() => {
                Err(self.unusable("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"))
            }
            Ok(found) => Ok(found),
            Err(error) => Err(self.unusable(format!("is not PEM: {error}"))),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|error| match error {
            pem::Error::NoItemsFound if self.bytes.windows(21).any(|part| part == b"ENCRYPTED PRIVATE KEY") => {
                self.unusable("its key is encrypted, and nobody can enter a passphrase; decrypt it with openssl pkey")
            }
            pem::Error::NoItemsFound => self.unusable("holds no private key in PEM (-----BEGIN PRIVATE KEY-----)"),
            error => self.unusable(format!("is not PEM: {error}")),
        })
    }
}

/// A hash of the files' contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest([u8; 32]);

/// The contents of the configured files.
pub(super) struct Files<'a> {
    certificate: Text<'a>,
    private_key: Text<'a>,
    client_ca: Option<Text<'a>>,
}

impl<'a> Files<'a> {
    pub(super) fn read(config: &'a TlsConfig) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: Text::read("certificate", &config.certificate)?,
            private_key: Text::read("private_key", &config.private_key)?,
            client_ca: config.client_ca.as_deref().map(|path| Text::read("client_ca", path)).transpose()?,
        })
    }

    pub(super) fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        for text in [Some(&self.certificate), Some(&self.private_key), self.client_ca.as_ref()].into_iter().flatten() {
            context.update(&(text.bytes.len() as u64).to_be_bytes());
            context.update(&text.bytes);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Digest(digest)
    }

    /// The server configuration: TLS 1.2 and 1.3, with HTTP/2 preferred to HTTP/1.1.
    pub(super) fn load(&self, config: &TlsConfig) -> Result<Loaded, TlsError> {
        let chain = self.certificate.certificates()?;
        let expires = chain.first().and_then(|certificate| validity::not_after(certificate));
        let expires =
            expires.ok_or_else(|| self.certificate.unusable("its first certificate is not an X.509 certificate"))?;
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| self.certificate.unusable(error.to_string()))?;
        let builder = match &self.client_ca {
            Some(authorities) => builder.with_client_cert_verifier(verifier(authorities, config)?),
            None => builder.with_no_client_auth(),
        };
        let mut server =
            builder.with_single_cert(chain, self.private_key.private_key()?).map_err(|e| self.refused(e))?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Loaded { server: Arc::new(server), expires, digest: self.digest() })
    }

    /// The error for a certificate and key that don't fit together.
    fn refused(&self, error: rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => self.private_key.unusable(format!(
                "is not the key of the first certificate in {}; the server's own certificate comes first",
                self.certificate.path.display()
            )),
            rustls::Error::InvalidCertificate(error) => {
                self.certificate.unusable(format!("its first certificate can't be used: {error:?}"))
            }
            error => self.private_key.unusable(format!("its key can't be used: {error}")),
        }
    }
}

fn verifier(authorities: &Text<'_>, config: &TlsConfig) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities.certificates()? {
        roots
            .add(certificate)
            .map_err(|error| authorities.unusable(format!("is not a certificate authority: {error}")))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let builder = match config.client_certificates {
        Some(ClientCertificates::Optional) => builder.allow_unauthenticated(),
        Some(ClientCertificates::Required) | None => builder,
    };
    builder.build().map_err(|error| authorities.unusable(error.to_string()))
}
