//! The scenarios, and how one run is measured.

use std::time::{Duration, Instant};

use crate::load::{Load, Plan, Totals};
use crate::peers::{self, Ask, Door, Peer};
use crate::tls;

/// Events that may be published and not yet read when publishing as fast as they are read.
const WINDOW: u64 = 512;
/// How long to wait for Catchment's outstanding deliveries; Nchan is cut off at the end of a run.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client may read nothing, in scenarios with stuck ones; longer than a run, so that memory is measured
/// first.
const STALLED_AFTER: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    pub(crate) work: Work,
    pub(crate) ask: Ask,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// Events as fast as they are read.
    Saturated,
    /// One event at a time, once the previous one has been read by all.
    OneByOne,
    /// Events from before the readers connected.
    CatchUp { events: u64 },
    /// So many events a second, while so many connections read nothing.
    Paced { a_second: u64, stuck: usize },
    /// So many events a second, to readers that leave after at most this many, and come back.
    Churn { a_second: u64, leave_after: u64 },
    /// Nothing.
    Idle,
}

/// One run of a scenario.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// CPU time of the server per delivery, in µs.
    pub(crate) cpu_per_delivery: f64,
    pub(crate) p99_ms: f64,
    /// Growth of resident memory per connection.
    pub(crate) kib_per_connection: f64,
    /// Growth of resident memory during the run, after all were open.
    pub(crate) grown_kib: f64,
    /// The kernel's memory per stuck reader.
    pub(crate) kernel_kib_per_stuck: Option<f64>,
    pub(crate) resumed_a_second: f64,
    /// Stuck readers that were disconnected, and resumed without a gap.
    pub(crate) let_go: Option<usize>,
}

impl Scenario {
    fn stuck(&self) -> usize {
        if let Work::Paced { stuck, .. } = self.work { stuck } else { 0 }
    }

    /// Runs it for about this long; an error is a mistake of the server.
    pub(crate) fn measure(&self, door: Door, lasting: Duration) -> Result<Outcome, String> {
        let stalled_after = if self.stuck() > 0 { STALLED_AFTER } else { Duration::from_secs(300) };
        let counts_memory = matches!(self.work, Work::Idle | Work::Paced { .. });
        let mut peer = peers::start(door, self.ask, stalled_after, counts_memory);
        let prepared = if let Work::CatchUp { events } = self.work { events } else { 0 };
        publish_all(peer.as_mut(), prepared);
        let resident = peer.resident_kib();
        if door == Door::Tls {
            return Ok(self.measure_tls(peer.as_ref(), resident));
        }
        Run { scenario: self, peer: peer.as_mut(), door, lasting, resident, prepared }.measure()
    }

    /// Measures only the memory of idle connections.
    fn measure_tls(&self, peer: &dyn Peer, resident: f64) -> Outcome {
        let request = peer.request(self.ask)(0, None);
        let open = tls::open(peer.folder(), peer.address(), &request, self.connections);
        std::thread::sleep(Duration::from_secs(1));
        let grown = peer.resident_kib() - resident;
        Outcome { kib_per_connection: grown / open.len() as f64, ..Outcome::default() }
    }
}

fn publish_all(peer: &mut dyn Peer, count: u64) {
    let mut published = 0;
    while published < count {
        let some = (count - published).min(64);
        peer.publish(published, some);
        published += some;
    }
    if count > 0 {
        peer.settle(count);
    }
}

struct Run<'a> {
    scenario: &'a Scenario,
    peer: &'a mut dyn Peer,
    door: Door,
    lasting: Duration,
    /// Resident memory before there were connections.
    resident: f64,
    prepared: u64,
}

impl Run<'_> {
    fn measure(mut self) -> Result<Outcome, String> {
        let (connections, stuck, work) = (self.scenario.connections, self.scenario.stuck(), self.scenario.work);
        let groups = self.scenario.ask.filtered.unwrap_or(1);
        // How many connections receive an event.
        let readers = (connections - stuck) as u64 / groups;
        let cpu_before = self.peer.cpu();
        let load = self.open(groups)?;
        let (cpu_before, resident) = if self.prepared > 0 {
            (cpu_before, self.resident)
        } else {
            // By then the work caused by opening connections is over.
            std::thread::sleep(Duration::from_millis(500));
            (self.peer.cpu(), self.peer.resident_kib())
        };
        let began = Instant::now();
        let published = self.publish(&load, readers);
        let rest = if work == Work::Saturated { Duration::ZERO } else { self.lasting };
        load.wait_for(published * readers, rest);
        let (cpu, deliveries, lasted) = (self.peer.cpu() - cpu_before, load.deliveries(), began.elapsed());
        let grown_kib = self.peer.resident_kib() - resident;
        let kernel_kib = (stuck > 0).then(|| self.peer.kernel_kib()).flatten();
        let let_go = self.let_go(stuck)?;
        load.release();
        let due = if let_go.is_some() { connections as u64 / groups } else { readers } * published;
        let complete = self.door == Door::Nchan || load.wait_for(due, PATIENCE);
        let totals = checked(load, if complete { 0 } else { due })?;
        Ok(Outcome {
            cpu_per_delivery: cpu.as_secs_f64() * 1e6 / deliveries.max(1) as f64,
            p99_ms: totals.p99.as_secs_f64() * 1e3,
            kib_per_connection: (resident - self.resident) / connections as f64,
            grown_kib,
            kernel_kib_per_stuck: kernel_kib.map(|kib| kib / stuck as f64),
            resumed_a_second: totals.resumed as f64 / lasted.as_secs_f64(),
            let_go,
        })
    }

    fn open(&self, groups: u64) -> Result<Load, String> {
        let leave_after =
            if let Work::Churn { leave_after, .. } = self.scenario.work { Some(leave_after) } else { None };
        let (address, request) = (self.peer.address(), self.peer.request(self.scenario.ask));
        let (connections, stuck) = (self.scenario.connections, self.scenario.stuck());
        let load = Load::open(Plan { address, request, connections, stuck, groups, leave_after });
        if load.wait_until_open(PATIENCE) { Ok(load) } else { Err(checked(load, u64::MAX).unwrap_err()) }
    }

    /// Publishes for the duration of the run; returns the number of events published by then.
    fn publish(&mut self, load: &Load, readers: u64) -> u64 {
        let (mut published, began) = (self.prepared, Instant::now());
        while began.elapsed() < self.lasting {
            match self.scenario.work {
                Work::Saturated => {
                    let read = load.deliveries() / readers;
                    let count = WINDOW.saturating_sub(published - read.min(published)).min(16);
                    if count == 0 {
                        std::thread::sleep(Duration::from_micros(200));
                    } else {
                        self.peer.publish(published, count);
                        published += count;
                    }
                }
                Work::OneByOne => {
                    self.peer.publish(published, 1);
                    published += 1;
                    load.wait_for(published * readers, PATIENCE);
                }
                Work::Paced { a_second, .. } | Work::Churn { a_second, .. } => {
                    let due = Duration::from_micros(1_000_000 * published / a_second);
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                    self.peer.publish(published, 1);
                    published += 1;
                }
                Work::CatchUp { .. } | Work::Idle => break,
            }
        }
        published
    }

    /// Waits until the stuck readers are disconnected, if the server does that.
    fn let_go(&self, stuck: usize) -> Result<Option<usize>, String> {
        if stuck == 0 {
            return Ok(None);
        }
        let since = Instant::now();
        while let Some(stalled) = self.peer.stalled() {
            if stalled >= stuck {
                return Ok(Some(stalled));
            }
            if since.elapsed() > STALLED_AFTER + Duration::from_secs(5) {
                return Err(format!("{stalled} of {stuck} stuck readers were let go"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(None)
    }
}

/// The results, if the readers received every event, once and in order, and none of the `due` deliveries is missing.
fn checked(load: Load, due: u64) -> Result<Totals, String> {
    let totals = load.finish()?;
    let (gaps, doubles, came) = (totals.seen.gaps, totals.seen.doubles, totals.seen.deliveries);
    match (gaps, doubles) {
        (0, 0) if came >= due => Ok(totals),
        (0, 0) => Err(format!("{came} of {due} deliveries came")),
        _ => Err(format!("{gaps} gaps, {doubles} doubles")),
    }
}
