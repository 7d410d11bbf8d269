//! Every metric name, in one place. Prometheus naming (<https://prometheus.io/docs/practices/naming/>); labels are
//! bounded: sources by configuration, outcomes and reasons by code, unmapped calls by [`UNMAPPED_LIMIT`].

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// Distinct unmapped call names that are counted by name; later ones are counted as `other`.
pub const UNMAPPED_LIMIT: usize = 500;

/// The handles. One per process, shared by reference.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// `catchment_records_received_total{source}`.
    pub records_received: IntCounterVec,
    /// `catchment_records_total{source,outcome}`: outcome is `changes`, `folded`, `seeded`, `skipped`, `duplicate` or `quarantined`; they
    /// add up to what was received.
    pub records: IntCounterVec,
    /// `catchment_skipped_records_total{reason}`.
    pub skipped: IntCounterVec,
    /// `catchment_quarantined_records_total{code}`.
    pub quarantined: IntCounterVec,
    unmapped: IntCounterVec,
    unmapped_names: Mutex<HashSet<(String, String)>>,
    /// `catchment_rule_reloads_total{outcome}`: `success`, or `failure`, which leaves the rules as they were.
    pub rule_reloads: IntCounterVec,
    /// `catchment_events_total{provider,action}`.
    pub events: IntCounterVec,
    /// `catchment_novel_events_total{facet}`: an event counts under each of its facets.
    pub novel_events: IntCounterVec,
    /// `catchment_novelty_facts`: what is remembered to tell what is new.
    pub novelty_facts: IntGauge,
    /// `catchment_operations_waiting`: operations told in several records whose last has not come.
    pub operations_waiting: IntGauge,
    /// `catchment_assets`: assets that the inventory holds.
    pub assets: IntGauge,
    /// `catchment_log_append_seconds`: from taking a batch to its fsync.
    pub log_append_seconds: Histogram,
    /// `catchment_log_size_bytes`.
    pub log_size_bytes: IntGauge,
    /// `catchment_log_tail_sequence`.
    pub log_tail: IntGauge,
    /// `catchment_log_floor_sequence`.
    pub log_floor: IntGauge,
    /// `catchment_log_writable`: 1, or 0 while the log takes nothing because of its disk.
    pub log_writable: IntGauge,
    /// `catchment_log_free_bytes`: what the file system of the log has free.
    pub log_free_bytes: IntGauge,
    /// `catchment_log_damaged_runs`: runs of events that were found to be damaged since the start.
    pub log_damaged_runs: IntGauge,
    /// `catchment_source_lag_seconds{source}`.
    pub source_lag_seconds: GaugeVec,
    /// `catchment_source_failures_total{source}`.
    pub source_failures: IntCounterVec,
    /// `catchment_source_up{source}`: 1 while the source delivers or waits, 0 while it retries or has ended.
    pub source_up: IntGaugeVec,
    source_requests: IntCounterVec,
    /// `catchment_source_notices_total{source,outcome}`: what became of the notices and objects that a source was told of.
    pub source_notices: IntCounterVec,
    /// `catchment_stream_clients`.
    pub stream_clients: IntGauge,
    /// `catchment_stream_events_total`: events sent to subscribers.
    pub stream_events: IntCounter,
    /// `catchment_stream_bytes_total`: bytes sent to subscribers.
    pub stream_bytes: IntCounter,
    /// `catchment_stream_gaps_total`: gap frames sent.
    pub stream_gaps: IntCounter,
    /// Streams let go because their client took nothing.
    pub stream_stalled: IntCounter,
    /// `catchment_http_requests_total{route,status}`: route is the template, not the path.
    pub http_requests: IntCounterVec,
    /// `catchment_start_time_seconds`: Unix time of the start.
    pub start_time: Gauge,
}

impl Metrics {
    /// All metrics, at zero.
    ///
    /// # Errors
    /// When two of them share a name, which is a mistake in this file.
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
            events: counter("catchment_events_total", "Asset events logged", &["provider", "action"])?,
            novel_events: counter("catchment_novel_events_total", "Asset events with something new", &["facet"])?,
            novelty_facts: gauge("catchment_novelty_facts", "Facts remembered to tell what is new")?,
            operations_waiting: gauge(
                "catchment_operations_waiting",
                "Operations told in several records whose last has not come",
            )?,
            assets: gauge("catchment_assets", "Assets in the inventory")?,
            log_append_seconds: registered(
                r,
                Histogram::with_opts(
                    HistogramOpts::new("catchment_log_append_seconds", "Time from taking a batch to its fsync")
                        .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]),
                )?,
            )?,
            log_size_bytes: gauge("catchment_log_size_bytes", "Bytes that the kept events take in the store")?,
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
            http_requests: counter("catchment_http_requests_total", "HTTP requests answered", &["route", "status"])?,
            start_time: registered(r, Gauge::new("catchment_start_time_seconds", "Unix time of the start")?)?,
            registry,
        })
    }

    /// Counts a change that no rule but the generic ones covers.
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

    /// Counts the requests that a source makes: `catchment_source_requests_total{source,operation}`.
    #[must_use]
    pub fn requests(&self, source: &str) -> Requests {
        Requests { counter: self.source_requests.clone(), source: source.into() }
    }

    /// The Prometheus text exposition format, version 0.0.4.
    ///
    /// # Errors
    /// When a metric can't be written as text.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

/// The requests of one source. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Requests {
    counter: IntCounterVec,
    source: Arc<str>,
}

impl Requests {
    /// Counts a request. The operation is the provider's own name of the call: `ReceiveMessage`.
    pub fn count(&self, operation: &str) {
        self.counter.with_label_values(&[&*self.source, operation]).inc();
    }
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
