//! Metrics of this process, under the names that Prometheus's own client libraries use
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>). Read from `/proc` (`man 5 proc`)
//! at each scrape; there are none on systems other than Linux.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge, Opts};

/// Clock ticks per second in `/proc/self/stat`: the kernel's interface has had this value on every architecture that
/// Rust's standard library supports (`man 2 times`).
const TICKS: f64 = 100.0;

/// The collector of the metrics of this process.
#[derive(Debug)]
pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
}

impl Process {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGauge::with_opts(Opts::new(name, help));
        Ok(Self {
            cpu: Counter::new("process_cpu_seconds_total", "Processor time of the process")?,
            resident: gauge("process_resident_memory_bytes", "Memory that the process takes")?,
            open_fds: gauge("process_open_fds", "Open file descriptors")?,
            max_fds: gauge("process_max_fds", "File descriptors that may be open")?,
            threads: gauge("process_threads", "Threads of the process")?,
        })
    }

    fn families(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if let Some(seconds) = cpu_seconds(&read("/proc/self/stat")) {
            // The counter never decreases; concurrent scrapes count a tick twice at most.
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
            families.extend(self.cpu.collect());
        }
        let status = read("/proc/self/status");
        let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        let found = [
            (&self.resident, resident_bytes(&status)),
            (&self.threads, field(&status, "Threads:").and_then(|text| text.parse().ok())),
            (&self.open_fds, open.and_then(|count| i64::try_from(count).ok())),
            (&self.max_fds, max_fds(&read("/proc/self/limits"))),
        ];
        for (gauge, value) in found {
            if let Some(value) = value {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        families
    }
}

/// The resident memory of this process in bytes; `None` if the system does not provide it.
#[must_use]
pub fn resident_memory() -> Option<i64> {
    resident_bytes(&read("/proc/self/status"))
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.resident, &self.open_fds, &self.max_fds, &self.threads];
        self.cpu.desc().into_iter().chain(gauges.into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families()
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The processor time in seconds, from fields 14 and 15, which are in ticks. Field 2 is the program's name in
/// parentheses, which may contain anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

fn resident_bytes(status: &str) -> Option<i64> {
    let kib: i64 = field(status, "VmRSS:")?.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn max_fds(limits: &str) -> Option<i64> {
    field(limits, "Max open files")?.split_whitespace().next()?.parse().ok()
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_tells_is_read() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 1000 200";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            65536                524288               files\n";
        assert_eq!(max_fds(limits), Some(65_536));
        assert_eq!((cpu_seconds(""), resident_bytes(""), max_fds("")), (None, None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_takes_memory_and_has_files_open() {
        let families = Process::new().unwrap().families();
        let names: Vec<_> = families.iter().map(MetricFamily::name).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(resident_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
