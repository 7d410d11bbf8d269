//! The server's certificate, and the authorities for client certificates: read from files and reloaded when they
//! change, so that a renewal needs no restart.

mod files;
mod validity;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use serde::{Deserialize, Deserializer, de};
use tokio_util::sync::CancellationToken;

pub use files::TlsError;

use crate::metrics::Metrics;
use crate::model::Time;
use files::Files;

/// How often the files are checked for changes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A certificate that expires within this time should have been renewed.
const RENEWAL_DUE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// `[http.tls]`. All files are PEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The server's certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, unencrypted.
    pub private_key: PathBuf,
    /// The authorities that client certificates must be issued by.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether a client must present a certificate; by default it must if `client_ca` is set.
    #[serde(default)]
    pub client_certificates: Option<ClientCertificates>,
}

/// Whether client certificates are required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// A certificate need not be presented, but must be valid if it is.
    Optional,
    /// Connections without a valid certificate are refused.
    Required,
}

impl<'de> Deserialize<'de> for ClientCertificates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            other => Err(de::Error::custom(format!("{other:?} is neither optional nor required"))),
        }
    }
}

impl TlsConfig {
    /// Whether every connection needs a client certificate.
    #[must_use]
    pub fn requires_client_certificate(&self) -> bool {
        self.client_ca.is_some() && self.client_certificates != Some(ClientCertificates::Optional)
    }
}

/// The TLS configuration, from the newest valid version of the files.
#[derive(Debug)]
pub struct Tls {
    config: TlsConfig,
    loaded: ArcSwap<Loaded>,
}

/// A loaded version of the files.
#[derive(Debug)]
struct Loaded {
    server: Arc<ServerConfig>,
    /// When the server's certificate expires.
    expires: Time,
    /// Identifies this version.
    digest: files::Digest,
}

impl Tls {
    /// Loads the files.
    ///
    /// # Errors
    /// With the first file that can't be used, and the reason.
    pub fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let loaded = ArcSwap::from_pointee(Files::read(&config)?.load(&config)?);
        Ok(Self { config, loaded })
    }

    /// The configuration for new connections.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.loaded.load().server)
    }

    /// When the certificate expires.
    #[must_use]
    pub fn expires(&self) -> Time {
        self.loaded.load().expires
    }

    /// Applies changes of the files until `stop` is cancelled. Invalid files are logged, and the previous ones stay in
    /// use. Open connections are not affected.
    pub async fn watch(self: Arc<Self>, metrics: Arc<Metrics>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut failure = Failure::default();
        self.tell(&metrics);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let tls = Arc::clone(&self);
            let Ok(outcome) = tokio::task::spawn_blocking(move || tls.look()).await else { continue };
            let renewed = outcome.as_ref().is_ok_and(|renewed| *renewed);
            if let Some(error) = failure.told(outcome.err().map(|error| error.to_string())) {
                tracing::error!(error, "the TLS files can't be used; the previous ones stay in force");
                metrics.tls_reloads.with_label_values(&["failure"]).inc();
            }
            if renewed {
                metrics.tls_reloads.with_label_values(&["success"]).inc();
                self.tell(&metrics);
            }
        }
    }

    /// Applies the files if they have changed, and returns whether they had.
    fn look(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.config)?;
        if files.digest() == self.loaded.load().digest {
            return Ok(false);
        }
        self.loaded.store(Arc::new(files.load(&self.config)?));
        Ok(true)
    }

    /// Updates the gauge of the certificate's expiry and logs it, as a warning if it is near.
    fn tell(&self, metrics: &Metrics) {
        let (certificate, expires) = (self.config.certificate.display(), self.expires());
        metrics.tls_certificate_expiry.with_label_values::<&str>(&[]).set(expires.millis().div_euclid(1_000));
        match expiry_warning(expires, now()) {
            Some(warning) => tracing::warn!(%certificate, %expires, "{warning}"),
            None => tracing::info!(%certificate, %expires, "TLS certificate in force"),
        }
    }
}

/// The warning for a certificate that expires at this time; `None` if none is due.
#[must_use]
pub fn expiry_warning(expires: Time, now: Time) -> Option<&'static str> {
    let left = expires.millis().saturating_sub(now.millis());
    match u64::try_from(left) {
        Err(_) => Some("the TLS certificate has expired: clients refuse it"),
        Ok(left) if left < RENEWAL_DUE.as_millis() as u64 => Some("the TLS certificate expires within a week"),
        Ok(_) => None,
    }
}

/// The current time.
#[must_use]
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The failure of the last check. Files that are being replaced may not fit together for a moment, so a failure is
/// reported when it occurs twice in a row, and only once.
#[derive(Default)]
struct Failure {
    last: Option<String>,
    told: bool,
}

impl Failure {
    /// Records the outcome of a check, and returns a failure to report.
    fn told(&mut self, now: Option<String>) -> Option<String> {
        let again = now.is_some() && now == self.last;
        let tell = again && !self.told;
        self.told = again;
        self.last = now;
        self.last.clone().filter(|_| tell)
    }
}

#[cfg(test)]
mod tests;
