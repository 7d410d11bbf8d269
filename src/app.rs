//! Wiring: opens the log, binds the listeners, spawns the tasks, waits, and stops in phases. It only decides the order.

mod backup;
mod import;
mod live;
mod readable;
mod retention;
mod sources;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::auth::{Access, AuthError, TokenFile};
use crate::config::{Config, Loaded, SourceConfig};
use crate::descriptors;
use crate::history::History;
use crate::http::{self, AppState, HttpConfig, HttpConfigError, Readiness, ServeConfig};
use crate::hub::{FanOut, FanOutConfig, Hub, HubConfig};
use crate::ingest::{Ingest, IngestConfig};
use crate::inventory::{Inventory, RestoreError};
use crate::log::{BackupError, EmbeddedLog, EventLog, LogError, MemoryLog, Retention};
use crate::metrics::Metrics;
use crate::model::{SourceId, Time};
use crate::normalize::Engine;
use crate::reload::{self, Hangups, ReloadError, Reloader, Reread};
use crate::source::aws_backfill::{self, BackfillSource};
use crate::source::{Clock, Intake, Source, SourceError, StatusBoard};
use crate::telemetry::LogFilter;
use crate::telemetry::otlp::Export;
use crate::tls::{Tls, TlsConfig, TlsError};

pub use self::backup::{back_up, check_backup, restore};
pub use self::import::{Imported, import};
use self::live::{Live, http_config};
use self::sources::{Sources, Starter};
pub use crate::log::BackupSummary;

/// Most deliveries queued for the ingest loop.
const INTAKE_DELIVERIES: usize = 16;
/// Most bytes of records between sources and ingest loop.
const INTAKE_BYTES: u32 = 32 << 20;

/// Why the gateway failed to start or to keep running.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The rules are invalid.
    #[error(transparent)]
    Rules(#[from] ReloadError),
    /// The handler for SIGHUP can't be installed.
    #[error("listen for signals: {0}")]
    Signals(std::io::Error),
    /// The `[http]` section is invalid.
    #[error(transparent)]
    Http(#[from] HttpConfigError),
    /// The certificate of `[http.tls]` can't be used.
    #[error("http.tls: {0}")]
    Tls(#[from] TlsError),
    /// `[auth]` or the tokens file is invalid.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Listening on the address failed.
    #[error("listen on {address}: {cause}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The log can't be opened, read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log has an asset that this version can't read.
    #[error("rebuild the inventory: {0}")]
    Restore(#[from] RestoreError),
    /// The data directory has no log to back up.
    #[error("there is no log in {path}; name the server's data directory with --data-dir")]
    NoLog {
        /// The data directory.
        path: PathBuf,
    },
    /// A backup can't be read or restored.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A metric is defined twice.
    #[error("set up the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A part of the program panicked.
    #[error("an internal task failed: {0}")]
    BrokeDown(#[from] JoinError),
    /// The ingest thread can't be started.
    #[error("start the ingest thread: {0}")]
    Thread(std::io::Error),
    /// The files of the import can't be read.
    #[error(transparent)]
    Import(SourceError),
    /// A source, the ingest loop or the log did not stop by the drain deadline.
    #[error("stopping took longer than {0:?}; unfinished work was abandoned")]
    DrainDeadline(Duration),
}

/// A source that is not in the configuration: the demo's.
pub struct ExtraSource {
    /// Its name in `/v1/sources`.
    pub id: SourceId,
    /// Its kind there.
    pub kind: &'static str,
    /// The source.
    pub source: Box<dyn Source>,
}

/// What a command passes in besides the configuration.
#[derive(Default)]
pub struct Setup {
    /// Rereads the configuration on reload; without it, a reload concerns the rules only.
    pub reread: Option<Reread>,
    /// Changes the log filter on reload; without it, the filter stays.
    pub filter: Option<LogFilter>,
    /// Sends spans to a collector.
    pub spans: Option<Export>,
    /// A source that is not configured.
    pub extra: Option<ExtraSource>,
}

/// Runs the gateway until `stop` is cancelled or the log fails. `listening` is called with the bound address.
///
/// # Errors
/// When it can't start, when the log fails, or when stopping takes longer than configured.
pub async fn run(
    config: Config,
    setup: Setup,
    listening: impl FnOnce(SocketAddr),
    stop: CancellationToken,
) -> Result<(), AppError> {
    let metrics = Arc::new(Metrics::new()?);
    let hangups = Hangups::listen().map_err(AppError::Signals)?;
    let engine = reload::load(config.normalizers.dir.as_deref(), &config.redaction)?;
    let access = access(&config)?;
    let tls = config.http.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
    let address = reachable(&config, &access);
    let bind = |cause| AppError::Bind { address, cause };
    let listener = TcpListener::bind(address).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let (log, inventory) = open(&config, &metrics).await?;
    let (engines, engine) = watch::channel(engine);
    let Setup { reread, filter, spans, extra } = setup;
    let entrance = Entrance { access: Arc::clone(&access), listener, tls };
    let gateway = Gateway::start(&config, engine, log, inventory, metrics, entrance)?;
    if let Some(spans) = spans {
        gateway.serving.spawn(spans.run(gateway.stop_serving.clone()));
    }
    gateway.start_sources(&config, extra).await?;
    gateway.start_backfills(&config);
    gateway.start_imports(&config);
    gateway.reload_on(
        hangups,
        &config,
        reread,
        engines,
        Live {
            access,
            http: Arc::clone(&gateway.http),
            log: Arc::clone(&gateway.log),
            sources: Arc::clone(&gateway.configured),
            filter,
        },
    );
    info!(%address, "listening");
    listening(address);
    gateway.until_stopped(stop, Duration::from_millis(config.shutdown.drain_millis)).await
}

/// Sets up authentication, with the tokens of the data directory.
fn access(config: &Config) -> Result<Arc<Access>, AuthError> {
    let file = (!config.ephemeral).then(|| TokenFile::of(&config.data_dir));
    Access::new(config.auth.clone(), file, config.events.type_prefix.clone(), now_utc)
}

/// The address to listen on: the loopback interface while no credential is configured, so that the server is not
/// exposed by mistake.
fn reachable(config: &Config, access: &Access) -> SocketAddr {
    let address = config.http.listen;
    if address.ip().is_loopback() || !access.is_local_only() || asks_for_certificates(config) {
        return address;
    }
    let local = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let local = SocketAddr::new(local, address.port());
    warn!(
        configured = %address, listening = %local,
        "no credential is configured: listening on the loopback address only; make a token with catchment token create \
         and start again, or set auth.anonymous = true to serve everybody"
    );
    local
}

/// Whether every connection needs a client certificate.
fn asks_for_certificates(config: &Config) -> bool {
    config.http.tls.as_ref().is_some_and(TlsConfig::requires_client_certificate)
}

/// The limits of connections. Their number is reduced to the file descriptors that the process can have.
fn serve_config(config: &Config, tls: Option<Arc<Tls>>) -> ServeConfig {
    let http = &config.http;
    let room = descriptors::raise_limit().map_or(u64::MAX, |limit| limit.saturating_sub(descriptors::RESERVED));
    let max_connections = http.max_connections.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1);
    if max_connections < http.max_connections {
        warn!(
            configured = http.max_connections,
            connections = max_connections,
            reserved = descriptors::RESERVED,
            "fewer connections than http.max_connections: the process may open no more files; raise the hard limit \
             (LimitNOFILE of systemd, ulimit -Hn), or lower http.max_connections"
        );
    }
    ServeConfig {
        stalled_after: Duration::from_secs(http.stalled_after_secs),
        request_timeout: Duration::from_secs(http.request_timeout_secs),
        max_connections,
        max_connections_per_address: NonZeroUsize::new(http.max_connections_per_address),
        tls,
    }
}

/// Opens the log, and restores the inventory from it.
async fn open(config: &Config, metrics: &Arc<Metrics>) -> Result<(Arc<dyn EventLog>, Arc<Inventory>), AppError> {
    let retention = retention(config);
    let metrics = Arc::clone(metrics);
    if config.ephemeral {
        return Ok((Arc::new(MemoryLog::new(retention, metrics)), Arc::new(Inventory::new())));
    }
    let (data_dir, min_free) = (config.data_dir.clone(), config.log.min_free_bytes);
    spawn_blocking(move || {
        let log = EmbeddedLog::open_with_reserve(&data_dir, retention, min_free, metrics)?;
        let inventory = Inventory::new();
        inventory.restore_all(|take| Ok::<_, AppError>(log.for_each_asset(&mut |_, stored| take(stored))?))?;
        info!(data_dir = %data_dir.display(), assets = inventory.len(), events = %log.tail().borrow().0, "log open");
        Ok((Arc::new(log) as Arc<dyn EventLog>, Arc::new(inventory)))
    })
    .await?
}

/// The configured retention.
fn retention(config: &Config) -> Retention {
    Retention { max_age: config.log.retention_age(), max_bytes: config.log.retention_size(), ..Retention::default() }
}

/// What is needed to serve clients.
struct Entrance {
    access: Arc<Access>,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
}

/// The running parts.
struct Gateway {
    log: Arc<dyn EventLog>,
    metrics: Arc<Metrics>,
    statuses: StatusBoard,
    intake: Intake,
    /// Ends when the intake is closed and drained, or the log fails.
    ingest: tokio::task::JoinHandle<Result<(), LogError>>,
    sources: TaskTracker,
    stop_sources: CancellationToken,
    configured: Arc<Sources>,
    http: Arc<ArcSwap<HttpConfig>>,
    serving: TaskTracker,
    stop_serving: CancellationToken,
    readiness: Readiness,
}

impl Gateway {
    fn start(
        config: &Config,
        engine: watch::Receiver<Arc<Engine>>,
        log: Arc<dyn EventLog>,
        inventory: Arc<Inventory>,
        metrics: Arc<Metrics>,
        Entrance { access, listener, tls }: Entrance,
    ) -> Result<Self, AppError> {
        let (intake, submissions) = Intake::new(INTAKE_DELIVERIES, INTAKE_BYTES);
        let clock = Clock::system();
        metrics.start_time.set(seconds(clock.now()));
        let now = clock.clone();
        let history = History::new(Arc::clone(&log), Arc::clone(&inventory), engine.clone());
        let ingest = Ingest::new(
            engine,
            Arc::clone(&inventory),
            Arc::clone(&log),
            Arc::clone(&metrics),
            IngestConfig { type_prefix: config.events.type_prefix.clone(), novelty: config.novelty },
            Box::new(move || now.now()),
        )?;
        let ingest = spawn_blocking(move || ingest.run(submissions));
        let (serving, stop_serving) = (TaskTracker::new(), CancellationToken::new());
        let hub_config = HubConfig { ring_bytes: config.http.ring_bytes, ..HubConfig::default() };
        let hub = Hub::start(Arc::clone(&log), &hub_config, &serving, stop_serving.clone());
        let (statuses, readiness) = (StatusBoard::default(), Readiness::default());
        let http = Arc::new(ArcSwap::from_pointee(http_config(config)));
        let router = http::router(AppState {
            hub: Arc::clone(&hub),
            log: Arc::clone(&log),
            inventory,
            history,
            sources: statuses.clone(),
            metrics: Arc::clone(&metrics),
            access: Arc::clone(&access),
            readiness: readiness.clone(),
            stop: stop_serving.clone(),
            clock: now_utc,
            config: Arc::clone(&http),
        })?;
        serving.spawn(access.watch(stop_serving.clone()));
        if let Some(tls) = &tls {
            serving.spawn(Arc::clone(tls).watch(Arc::clone(&metrics), stop_serving.clone()));
        }
        let serve_config = serve_config(config, tls);
        let fan_out_config = FanOutConfig::new(serve_config.stalled_after);
        let fan_out = FanOut::start(&hub, &fan_out_config, &metrics, &serving, &stop_serving);
        let served = http::serve(listener, router, fan_out, Arc::clone(&metrics), serve_config, stop_serving.clone());
        serving.spawn(served);
        let max_age = config.log.retention_age();
        serving.spawn(retention::retain(Arc::clone(&log), max_age, clock, stop_serving.clone()));
        serving.spawn(readable::watch(Arc::clone(&log), readiness.clone(), stop_serving.clone()));
        let (sources, stop_sources) = (TaskTracker::new(), CancellationToken::new());
        let starter = Starter {
            sources: sources.clone(),
            intake: intake.clone(),
            statuses: statuses.clone(),
            metrics: Arc::clone(&metrics),
        };
        let configured = Sources::new(starter, Arc::clone(&log), stop_sources.clone());
        Ok(Self {
            log,
            metrics,
            statuses,
            intake,
            ingest,
            sources,
            stop_sources,
            configured,
            http,
            serving,
            stop_serving,
            readiness,
        })
    }

    /// Reloads configuration and rules on SIGHUP.
    fn reload_on(
        &self,
        mut hangups: Hangups,
        config: &Config,
        reread: Option<Reread>,
        engines: watch::Sender<Arc<Engine>>,
        live: Live,
    ) {
        let current = config.clone();
        let reread = reread.unwrap_or_else(|| Arc::new(move || Ok(Loaded::unchanged(current.clone()))));
        let reloader = Reloader { current: config.clone(), reread, engines, metrics: Arc::clone(&self.metrics) };
        let hangup = async move || hangups.next().await;
        // It starts sources, so it ends when they do.
        let stop = self.stop_sources.clone();
        self.sources.spawn(reloader.run(hangup, async move |config| live.apply(config).await, stop));
    }

    async fn start_sources(&self, config: &Config, extra: Option<ExtraSource>) -> Result<(), AppError> {
        let latch = self.readiness.latch("sources");
        self.configured.apply(&config.sources).await?;
        if let Some(extra) = extra {
            self.starter().start(extra, self.stop_sources.clone());
        }
        latch.release();
        Ok(())
    }

    fn starter(&self) -> Starter {
        Starter {
            sources: self.sources.clone(),
            intake: self.intake.clone(),
            statuses: self.statuses.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Starts pending backfills, and further ones as they are requested.
    fn start_backfills(&self, config: &Config) {
        if config.ephemeral {
            return;
        }
        let (starter, log, configured) = (self.starter(), Arc::clone(&self.log), Arc::clone(&self.configured));
        let begin = move |begun: aws_backfill::Begun| {
            let (starter, log) = (starter.clone(), Arc::clone(&log));
            let named = begun.job.source.as_deref().and_then(|name| configured.config(&SourceId::from(name)));
            let access = match named {
                Some(SourceConfig::AwsS3Sqs(config)) => Some(config),
                _ => None,
            };
            async move {
                let (id, stop) = (begun.id.clone(), begun.stop.clone());
                let cursor = {
                    let id = id.clone();
                    spawn_blocking(move || log.cursor(&id)).await
                };
                let Ok(Ok(cursor)) = cursor else {
                    warn!(source = %id, "its position can't be read; retrying at the next start");
                    return;
                };
                let metrics = Arc::clone(&starter.metrics);
                let source = Box::new(BackfillSource::new(begun, access, cursor, Clock::system(), metrics));
                starter.start(ExtraSource { id, kind: aws_backfill::KIND, source }, stop);
            }
        };
        let folder = aws_backfill::folder(&config.data_dir);
        self.sources.spawn(aws_backfill::watch(folder, self.stop_sources.clone(), begin));
    }

    /// Waits for `stop` or a failure, and then stops in phases under one deadline: sources, ingest, log, streams.
    async fn until_stopped(mut self, stop: CancellationToken, drain: Duration) -> Result<(), AppError> {
        let failed = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            ended = &mut self.ingest => Some(ended),
        };
        let deadline = Instant::now() + drain;
        // Readiness fails from here on, whatever the streams still do.
        let _stopping = self.readiness.latch("stopping");
        self.stop_sources.cancel();
        self.sources.close();
        // Deliveries that wait for the disk were not acknowledged: they will be delivered again.
        self.log.stop_waiting();
        let mut in_time = finished("sources", self.sources.wait(), deadline).await.is_some();
        // The last senders: the ingest loop ends once the queue is processed.
        drop((self.intake, self.configured));
        let outcome = match failed {
            Some(ended) => ended?,
            None => match finished("ingest", self.ingest, deadline).await {
                Some(ended) => ended?,
                None => {
                    in_time = false;
                    Ok(())
                }
            },
        };
        let log = Arc::clone(&self.log);
        in_time &= finished("log", spawn_blocking(move || log.close()), deadline).await.is_some();
        self.stop_serving.cancel();
        self.serving.close();
        // A client that does not read the end is disconnected. It can resume where it was, so nothing is lost.
        finished("streams", self.serving.wait(), deadline).await;
        if let Err(error) = outcome
            && !(stop.is_cancelled() && matches!(error, LogError::Closed))
        {
            error!(%error, "stopped because the log failed");
            return Err(error.into());
        }
        if !in_time {
            return Err(AppError::DrainDeadline(drain));
        }
        info!("stopped");
        Ok(())
    }
}

/// Waits for a phase of stopping; `None`, with a warning, if it misses the deadline.
async fn finished<T>(phase: &str, work: impl Future<Output = T>, deadline: Instant) -> Option<T> {
    let outcome = timeout_at(deadline, work).await.ok();
    if outcome.is_none() {
        warn!(phase, "not finished in time");
    }
    outcome
}

fn now_utc() -> Time {
    Clock::system().now()
}

#[expect(clippy::cast_precision_loss, reason = "a Unix time in milliseconds is exact in a double")]
fn seconds(time: Time) -> f64 {
    time.millis() as f64 / 1_000.0
}
