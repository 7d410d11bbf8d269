//! Export of spans to a collector, by OTLP over HTTP (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! A span that ends is only put into a bounded queue, which a task of the program's own runtime sends. A collector that
//! is slow or unreachable costs spans, which are counted, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

/// Number of spans that may wait to be sent; beyond that, the newest are dropped.
const QUEUE: usize = 4_096;
/// Maximum number of spans sent at once,
const BATCH: usize = 512;
/// and the maximum time to wait for more of them.
const EVERY: Duration = Duration::from_secs(2);
/// Timeout of a request to the collector.
const PATIENCE: Duration = Duration::from_secs(10);

/// The collector that spans are sent to.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    /// Its base address: `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// The fraction of traces that is sent, from 0 to 1.
    pub sampling: f64,
}

/// The receiving end for the program's spans.
#[derive(Debug)]
pub struct Spans(SdkTracer);

impl Spans {
    /// The layer that passes on Catchment's own spans, down to the level `debug`.
    pub(super) fn layer<S: Subscriber + for<'s> LookupSpan<'s>>(self) -> impl Layer<S> {
        let own = Targets::new().with_target("catchment", LevelFilter::DEBUG);
        let spans = tracing_opentelemetry::layer().with_tracer(self.0).with_threads(false).with_location(false);
        spans.with_filter(own)
    }
}

/// The sending end, which [`run`](Export::run) drives.
#[derive(Debug)]
pub struct Export {
    exporter: SpanExporter,
    queue: mpsc::Receiver<SpanData>,
    dropped: Arc<AtomicU64>,
    endpoint: String,
    // Kept alive: spans can't be recorded after it is dropped.
    _provider: SdkTracerProvider,
}

/// Sets up both ends.
///
/// # Errors
/// When the HTTP client can't be built.
pub fn spans(collector: &Collector) -> Result<(Spans, Export), ExporterBuildError> {
    let endpoint = format!("{}/v1/traces", collector.endpoint.trim_end_matches('/'));
    let builder = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
    let mut exporter = builder.with_endpoint(endpoint.clone()).with_timeout(PATIENCE).build()?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("catchment").with_attribute(version).build();
    exporter.set_resource(&resource);
    let (sender, queue) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let provider = SdkTracerProvider::builder()
        .with_span_processor(Queue { sender, dropped: Arc::clone(&dropped) })
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(collector.sampling))))
        .with_resource(resource)
        .build();
    let spans = Spans(provider.tracer("catchment"));
    Ok((spans, Export { exporter, queue, dropped, endpoint, _provider: provider }))
}

/// The queue that ended spans are put into.
#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Export {
    /// Sends spans until `stop` is cancelled, then once what is left in the queue.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failing = false;
        while let Some(Some(first)) = stop.run_until_cancelled(self.queue.recv()).await {
            let mut batch = vec![first];
            let due = Instant::now() + EVERY;
            while batch.len() < BATCH {
                let next = stop.run_until_cancelled(timeout_at(due, self.queue.recv())).await;
                let Some(Ok(Some(span))) = next else { break };
                batch.push(span);
            }
            self.send(batch, &mut failing).await;
        }
        let mut rest = Vec::new();
        while let Ok(span) = self.queue.try_recv() {
            rest.push(span);
        }
        if !rest.is_empty() {
            self.send(rest, &mut failing).await;
        }
    }

    /// Sends a batch. Logs when the collector begins to fail, and when it accepts spans again.
    async fn send(&self, batch: Vec<SpanData>, failing: &mut bool) {
        let count = batch.len() as u64;
        let outcome = timeout(PATIENCE, self.exporter.export(batch)).await;
        let failure = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let endpoint = &self.endpoint;
        match failure {
            None if *failing => {
                let lost = self.dropped.swap(0, Ordering::Relaxed);
                tracing::info!(endpoint, lost, "the collector accepts spans again");
            }
            None => {}
            Some(error) => {
                self.dropped.fetch_add(count, Ordering::Relaxed);
                if !*failing {
                    tracing::warn!(
                        endpoint,
                        error,
                        "spans can't be sent; they are dropped until the collector accepts them"
                    );
                }
                *failing = true;
                return;
            }
        }
        *failing = false;
    }
}
