//! Applies what a reload may change while the program runs.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::sources::Sources;
use super::{AppError, asks_for_certificates, retention};
use crate::auth::Access;
use crate::config::Config;
use crate::http::HttpConfig;
use crate::log::EventLog;
use crate::telemetry::LogFilter;

/// The parts that can be reconfigured while running.
pub(super) struct Live {
    pub(super) access: Arc<Access>,
    pub(super) http: Arc<ArcSwap<HttpConfig>>,
    pub(super) log: Arc<dyn EventLog>,
    pub(super) sources: Arc<Sources>,
    /// `None` if `CATCHMENT_LOG` sets the filter.
    pub(super) filter: Option<LogFilter>,
}

impl Live {
    /// Applies a checked configuration. If `[auth]` fails, which comes first, nothing has changed.
    pub(super) async fn apply(&self, config: Config) -> Result<(), AppError> {
        self.access.reconfigure(config.auth.clone())?;
        if let Some(Err(error)) = self.filter.as_ref().map(|filter| filter.set(config.telemetry.log.as_deref())) {
            tracing::error!(%error, "the log filter stays");
        }
        self.http.store(Arc::new(http_config(&config)));
        self.log.set_retention(retention(&config));
        self.log.set_min_free(config.log.min_free_bytes);
        self.sources.apply(&config.sources).await
    }
}

/// The part of the configuration that the HTTP interface uses.
pub(super) fn http_config(config: &Config) -> HttpConfig {
    HttpConfig {
        heartbeat_secs: config.http.heartbeat_secs,
        max_streams: config.http.max_streams,
        cors_origins: config.http.cors_origins.clone(),
        type_prefix: config.events.type_prefix.clone(),
        asks_for_certificates: asks_for_certificates(config),
    }
}
