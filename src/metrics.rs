//! All metrics, in one place. Names follow Prometheus (<https://prometheus.io/docs/practices/naming/>); labels are
//! bounded: sources by configuration, outcomes and reasons by code, unmapped calls by [`UNMAPPED_LIMIT`].

mod process;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::proto::{LabelPair, Metric, MetricFamily};
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

pub use process::resident_memory;

use crate::model::Time;

/// Bucket bounds for the duration of writes to disk, in seconds.
const DISK_SECONDS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
/// Bucket bounds for the duration of HTTP requests, in seconds.
const ANSWER_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

/// Number of distinct unmapped calls that are counted by name; later ones are counted as `other`.
pub const UNMAPPED_LIMIT: usize = 500;

/// The handles of all metrics. One per process, shared by reference.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// `catchment_records_received_total{source}`.
    pub records_received: IntCounterVec,
    /// `catchment_records_total{source,outcome}`: outcome is `changes`, `folded`, `seeded`, `skipped`, `duplicate` or
    /// `quarantined`; their sum is the number of received records.
    pub records: IntCounterVec,
    /// `catchment_skipped_records_total{reason}`.
    pub skipped: IntCounterVec,
    /// `catchment_quarantined_records_total{code}`.
    pub quarantined: IntCounterVec,
    unmapped: IntCounterVec,
    unmapped_names: Mutex<HashSet<(String, String)>>,
    /// `catchment_rule_reloads_total{outcome}`: `success`, or `failure`, which leaves the rules as they were.
    pub rule_reloads: IntCounterVec,
    /// `catchment_config_reloads_total{outcome}`: `success`, or `failure`, which leaves everything as it was.
    pub config_reloads: IntCounterVec,
    /// `catchment_events_total{provider,action}`.
    pub events: IntCounterVec,
    /// `catchment_novel_events_total{facet}`: an event counts under each of its facets.
    pub novel_events: IntCounterVec,
    /// `catchment_novelty_facts`: facts remembered to decide what is new.
    pub novelty_facts: IntGauge,
    /// `catchment_operations_waiting`: pending operations, whose last record has not arrived.
    pub operations_waiting: IntGauge,
    /// `catchment_assets`: assets in the inventory, deleted ones included.
    pub assets: IntGauge,
    /// `catchment_log_append_seconds`: from accepting a batch to its fsync.
    pub log_append_seconds: Histogram,
    /// `catchment_log_fsync_seconds`: the part of that for writing a group of batches to the journal, with its fsync.
    pub log_fsync_seconds: Histogram,
    /// `catchment_log_size_bytes`.
    pub log_size_bytes: IntGauge,
    /// `catchment_log_disk_bytes`: size of the store on disk: events, indexes, assets, journals.
    pub log_disk_bytes: IntGauge,
    /// `catchment_quarantine_records`: records kept at present.
    pub quarantine_records: IntGauge,
    /// `catchment_quarantine_bytes`.
    pub quarantine_bytes: IntGauge,
    /// `catchment_log_tail_sequence`.
    pub log_tail: IntGauge,
    /// `catchment_log_floor_sequence`.
    pub log_floor: IntGauge,
    /// `catchment_log_writable`: 1, or 0 while the log accepts nothing because of its disk.
    pub log_writable: IntGauge,
    /// `catchment_log_free_bytes`: free space of the log's file system.
    pub log_free_bytes: IntGauge,
    /// `catchment_log_damaged_runs`: damaged runs of events found since the start.
    pub log_damaged_runs: IntGauge,
    /// `catchment_source_lag_seconds{source}`.
    pub source_lag_seconds: GaugeVec,
    /// `catchment_source_failures_total{source}`.
    pub source_failures: IntCounterVec,
    /// `catchment_source_up{source}`: 1 while the source delivers or waits, 0 while it retries or has ended.
    pub source_up: IntGaugeVec,
    source_requests: IntCounterVec,
    /// `catchment_source_notices_total{source,outcome}`: outcomes of the notices and objects that a source received.
    pub source_notices: IntCounterVec,
    /// `catchment_stream_clients`.
    pub stream_clients: IntGauge,
    /// `catchment_stream_clients_behind`: those among them that have not been sent everything yet.
    pub stream_clients_behind: IntGauge,
    /// `catchment_stream_clients_replaying`: those among them that are served from disk.
    pub stream_clients_replaying: IntGauge,
    /// `catchment_stream_lag_events`: number of events that the slowest client is behind.
    pub stream_lag_events: IntGauge,
    /// `catchment_stream_events_total`: events sent to subscribers.
    pub stream_events: IntCounter,
    /// `catchment_stream_bytes_total`: bytes sent to subscribers.
    pub stream_bytes: IntCounter,
    /// `catchment_stream_gaps_total`: gap frames sent.
    pub stream_gaps: IntCounter,
    /// `catchment_stream_stalled_total`: streams, and other responses over HTTP/2, that were ended because their client
    /// read nothing.
    pub stream_stalled: IntCounter,
    /// `catchment_http_connections`: open connections, including those of streams.
    pub connections: IntGauge,
    /// `catchment_http_refused_connections_total{reason}`: `max_connections`, `max_connections_per_address`, or `tls`.
    pub refused_connections: IntCounterVec,
    /// `catchment_tls_certificate_expiry_seconds`: Unix time of the certificate's expiry; absent without TLS.
    pub tls_certificate_expiry: IntGaugeVec,
    /// `catchment_tls_reloads_total{outcome}`: `success`, or `failure`, which leaves the certificate as it was.
    pub tls_reloads: IntCounterVec,
    /// `catchment_http_requests_total{route,status}`: route is the template, not the path.
    pub http_requests: IntCounterVec,
    /// `catchment_http_request_seconds{route}`: until the response is ready to be sent; without streams.
    pub http_request_seconds: HistogramVec,
    /// `catchment_http_refusals_total{code}`: requests without a valid credential, or beyond its limits.
    pub http_refusals: IntCounterVec,
    /// `catchment_tokens`: valid tokens.
    pub tokens: IntGauge,
    /// `catchment_start_time_seconds`: Unix time of the start.
    pub start_time: Gauge,
}

impl Metrics {
    /// Registers all metrics, at zero.
    ///
    /// # Errors
    /// When two metrics have the same name, which is a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        let build = registered(
            r,
            IntGaugeVec::new(
                Opts::new("catchment_build_info", "Version and commit; always 1"),
                &["version", "commit"],
            )?,
        )?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), option_env!("CATCHMENT_COMMIT").unwrap_or("unknown")])
            .set(1);
        let counter =
            |name: &str, help: &str, labels: &[&str]| registered(r, IntCounterVec::new(Opts::new(name, help), labels)?);
        let gauge = |name: &str, help: &str| registered(r, IntGauge::new(name, help)?);
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            registered(r, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
        };
        registry.register(Box::new(process::Process::new()?))?;
        Ok(Self {
            records_received: counter("catchment_records_received_total", "Records taken in", &["source"])?,
            records: counter("catchment_records_total", "What became of the records taken in", &["source", "outcome"])?,
            skipped: counter("catchment_skipped_records_total", "Records that are no asset change", &["reason"])?,
            quarantined: counter(
                "catchment_quarantined_records_total",
                "Records that could not be understood",
                &["code"],
            )?,
            unmapped: counter(
                "catchment_unmapped_calls_total",
                "Changes classified by the generic rules",
                &["service", "name"],
            )?,
            unmapped_names: Mutex::new(HashSet::new()),
            rule_reloads: counter(
                "catchment_rule_reloads_total",
                "Times that the rules were read again",
                &["outcome"],
            )?,
            config_reloads: counter(
                "catchment_config_reloads_total",
                "Times that the configuration was read again",
                &["outcome"],
            )?,
            events: counter("catchment_events_total", "Asset events logged", &["provider", "action"])?,
            novel_events: counter("catchment_novel_events_total", "Asset events with something new", &["facet"])?,
            novelty_facts: gauge("catchment_novelty_facts", "Facts remembered to tell what is new")?,
            operations_waiting: gauge(
                "catchment_operations_waiting",
                "Operations told in several records whose last has not come",
            )?,
            assets: gauge("catchment_assets", "Assets in the inventory")?,
            log_append_seconds: histogram(
                "catchment_log_append_seconds",
                "Time from taking a batch to its fsync",
                &DISK_SECONDS,
            )?,
            log_fsync_seconds: histogram(
                "catchment_log_fsync_seconds",
                "Time of writing a group of batches to the journal with its fsync",
                &DISK_SECONDS,
            )?,
            log_size_bytes: gauge("catchment_log_size_bytes", "Bytes that the kept events take in the store")?,
            log_disk_bytes: gauge("catchment_log_disk_bytes", "Bytes that the store takes on disk, with all it keeps")?,
            quarantine_records: gauge("catchment_quarantine_records", "Records kept in quarantine")?,
            quarantine_bytes: gauge("catchment_quarantine_bytes", "Bytes that the records in quarantine take")?,
            log_tail: gauge("catchment_log_tail_sequence", "Sequence of the newest durable event")?,
            log_floor: gauge("catchment_log_floor_sequence", "Sequence of the oldest kept event")?,
            log_writable: gauge("catchment_log_writable", "0 while the log takes nothing because of its disk")?,
            log_free_bytes: gauge("catchment_log_free_bytes", "Bytes free in the file system of the log")?,
            log_damaged_runs: gauge(
                "catchment_log_damaged_runs",
                "Runs of logged events found damaged since the start",
            )?,
            source_lag_seconds: registered(
                r,
                GaugeVec::new(Opts::new("catchment_source_lag_seconds", "How far behind a source is"), &["source"])?,
            )?,
            source_failures: counter(
                "catchment_source_failures_total",
                "Failures that a source was restarted after",
                &["source"],
            )?,
            source_up: registered(
                r,
                IntGaugeVec::new(
                    Opts::new("catchment_source_up", "1 while a source delivers or waits for more"),
                    &["source"],
                )?,
            )?,
            source_requests: counter(
                "catchment_source_requests_total",
                "Requests made of a provider",
                &["source", "operation"],
            )?,
            source_notices: counter(
                "catchment_source_notices_total",
                "What became of the notices and objects that a source was told of",
                &["source", "outcome"],
            )?,
            stream_clients: gauge("catchment_stream_clients", "Open event streams")?,
            stream_clients_behind: gauge(
                "catchment_stream_clients_behind",
                "Open event streams that have not got every event yet",
            )?,
            stream_clients_replaying: gauge(
                "catchment_stream_clients_replaying",
                "Open event streams that are served from disk, further behind than memory reaches",
            )?,
            stream_lag_events: gauge(
                "catchment_stream_lag_events",
                "Events that the slowest open event stream has not got to yet",
            )?,
            stream_events: registered(
                r,
                IntCounter::new("catchment_stream_events_total", "Events sent to subscribers")?,
            )?,
            stream_bytes: registered(
                r,
                IntCounter::new("catchment_stream_bytes_total", "Bytes of events sent to subscribers")?,
            )?,
            stream_gaps: registered(
                r,
                IntCounter::new("catchment_stream_gaps_total", "Gap frames sent to subscribers")?,
            )?,
            stream_stalled: registered(
                r,
                IntCounter::new(
                    "catchment_stream_stalled_total",
                    "Streams let go because their client took nothing for http.stalled_after_secs",
                )?,
            )?,
            connections: gauge("catchment_http_connections", "Open connections")?,
            refused_connections: counter(
                "catchment_http_refused_connections_total",
                "Connections closed before their first request",
                &["reason"],
            )?,
            tls_certificate_expiry: registered(
                r,
                IntGaugeVec::new(
                    Opts::new("catchment_tls_certificate_expiry_seconds", "Unix time at which the certificate expires"),
                    &[],
                )?,
            )?,
            tls_reloads: counter(
                "catchment_tls_reloads_total",
                "Times that the TLS files were read again",
                &["outcome"],
            )?,
            http_requests: counter("catchment_http_requests_total", "HTTP requests answered", &["route", "status"])?,
            http_request_seconds: registered(
                r,
                HistogramVec::new(
                    HistogramOpts::new("catchment_http_request_seconds", "Time until an answer is ready to be sent")
                        .buckets(ANSWER_SECONDS.to_vec()),
                    &["route"],
                )?,
            )?,
            http_refusals: counter(
                "catchment_http_refusals_total",
                "Requests refused for their credential or its limits",
                &["code"],
            )?,
            tokens: gauge("catchment_tokens", "Tokens in force")?,
            start_time: registered(r, Gauge::new("catchment_start_time_seconds", "Unix time of the start")?)?,
            registry,
        })
    }

    /// Counts a change that only a generic rule covers.
    pub fn count_unmapped(&self, service: &str, name: &str) {
        let mut names = self.unmapped_names.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (service.to_owned(), name.to_owned());
        if names.contains(&key) || names.len() < UNMAPPED_LIMIT {
            self.unmapped.with_label_values(&[service, name]).inc();
            names.insert(key);
        } else {
            self.unmapped.with_label_values(&["other", "other"]).inc();
        }
    }

    /// Removes the gauges of a source that is no longer configured. Its counters stay.
    pub fn forget_source(&self, source: &str) {
        // They don't exist if the source never set them.
        let _ = self.source_up.remove_label_values(&[source]);
        let _ = self.source_lag_seconds.remove_label_values(&[source]);
    }

    /// A counter for the requests that a source makes: `catchment_source_requests_total{source,operation}`.
    #[must_use]
    pub fn requests(&self, source: &str) -> Requests {
        Requests { counter: self.source_requests.clone(), source: source.into() }
    }

    /// Number of records of all sources since the start, by outcome; and `received`.
    #[must_use]
    pub fn outcomes(&self) -> BTreeMap<String, u64> {
        let mut outcomes = BTreeMap::from([("received".to_owned(), 0)]);
        for metric in self.records_received.collect().iter().flat_map(MetricFamily::get_metric) {
            *outcomes.entry("received".to_owned()).or_default() += count(metric);
        }
        for metric in self.records.collect().iter().flat_map(MetricFamily::get_metric) {
            let outcome = metric.get_label().iter().find(|label| label.name() == "outcome");
            *outcomes.entry(outcome.map_or("", LabelPair::value).to_owned()).or_default() += count(metric);
        }
        outcomes
    }

    /// The time of the start, from [`start_time`](Self::start_time).
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a Unix time in milliseconds")]
    pub fn started(&self) -> Time {
        Time::from_millis((self.start_time.get() * 1_000.0) as i64)
    }

    /// Encodes all metrics in the Prometheus text exposition format, version 0.0.4.
    ///
    /// # Errors
    /// When a metric can't be encoded.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

/// Counts the requests of one source. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Requests {
    counter: IntCounterVec,
    source: Arc<str>,
}

impl Requests {
    /// Counts a request. The operation is the provider's name of the call: `ReceiveMessage`.
    pub fn count(&self, operation: &str) {
        self.counter.with_label_values(&[&*self.source, operation]).inc();
    }
}

/// The value of a counter as an integer; counters are only incremented by whole numbers.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn count(metric: &Metric) -> u64 {
    metric.get_counter().get_value() as u64
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmapped_call_names_are_bounded() {
        let metrics = Metrics::new().unwrap();
        for n in 0..UNMAPPED_LIMIT + 10 {
            metrics.count_unmapped("x.amazonaws.com", &format!("Call{n}"));
        }
        let text = metrics.render().unwrap();
        assert_eq!(text.matches("catchment_unmapped_calls_total{").count(), UNMAPPED_LIMIT + 1);
        assert!(text.contains(r#"catchment_unmapped_calls_total{name="other",service="other"} 10"#), "{text}");
    }
}
