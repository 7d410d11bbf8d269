//! Checks what one connection reads: that each event arrives, once and in order, and how long it took.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::EVENT_BYTES;

/// The beginning of an event: its number, and when it was made.
const MARK: &[u8] = b"{\"number\":";
/// Most bytes from the mark to the end of both numbers.
const MARK_BYTES: usize = 80;
/// Most latencies kept; leaving out the rest does not affect the percentiles.
const SAMPLES: usize = 1 << 20;

/// An event, the same for both servers.
pub(crate) fn event(number: u64) -> String {
    let mut event = format!("{{\"number\":{number},\"made\":{},\"text\":\"", nanos());
    let pad = EVENT_BYTES.saturating_sub(event.len() + 2);
    event.extend(std::iter::repeat_n("abcdefghij0123456789 ,;:-_", pad / 26 + 1).collect::<String>().chars().take(pad));
    event + "\"}"
}

fn nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// The results over all connections.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) deliveries: u64,
    pub(crate) gaps: u64,
    pub(crate) doubles: u64,
    latencies: Vec<u64>,
}

impl Seen {
    pub(crate) fn percentile(&mut self, percent: usize) -> Duration {
        self.latencies.sort_unstable();
        let at = self.latencies.len() * percent / 100;
        Duration::from_nanos(self.latencies.get(at).copied().unwrap_or(0))
    }
}

/// A connection's stream.
pub(crate) struct Stream {
    /// The number of the next expected event, and the distance to the one after it.
    next: u64,
    step: u64,
    /// The end of what was read: the start of an incomplete event, or all of it if the stream resumes.
    kept: Vec<u8>,
    /// The id of the last complete event, if the stream resumes.
    last: Option<String>,
    resumes: bool,
}

impl Stream {
    pub(crate) fn new(first: u64, step: u64, resumes: bool) -> Self {
        Self { next: first, step, kept: Vec::new(), last: None, resumes }
    }

    /// Returns the id after which the next connection resumes; `None` if there was no event.
    pub(crate) fn resume(&mut self) -> Option<String> {
        self.kept.clear();
        self.last.clone()
    }

    /// Takes what was read, at most this many events if the stream resumes; returns how many.
    pub(crate) fn take(&mut self, read: &[u8], most: u64, seen: &mut Seen) -> u64 {
        if self.resumes {
            return self.take_whole(read, most, seen);
        }
        let before = seen.deliveries;
        self.take_marks(read, seen);
        seen.deliveries - before
    }

    /// Like a client: an event counts once it is complete.
    fn take_whole(&mut self, read: &[u8], most: u64, seen: &mut Seen) -> u64 {
        self.kept.extend_from_slice(read);
        let (mut start, mut taken) = (0, 0);
        while taken < most {
            let Some(end) = memchr::memmem::find(&self.kept[start..], b"\n\n") else { break };
            let event = &self.kept[start..start + end];
            start += end + 2;
            let mark = memchr::memmem::find(event, MARK).and_then(|at| numbers(&event[at + MARK.len()..]));
            // No latency is taken: the event's age includes the time its reader was away.
            let Some((number, _)) = mark else { continue };
            let id = memchr::memmem::find(event, b"id: ").map(|at| &event[at + 4..]).expect("an event has an id");
            let id = &id[..memchr::memchr(b'\n', id).expect("a line ends")];
            self.last = Some(String::from_utf8(id.to_vec()).unwrap());
            self.next = count(self.next, self.step, number, seen);
            taken += 1;
        }
        self.kept.drain(..start);
        taken
    }

    /// The fast way: finds only where events begin.
    fn take_marks(&mut self, read: &[u8], seen: &mut Seen) {
        if !self.kept.is_empty() && read.len() < MARK_BYTES {
            let whole = [&std::mem::take(&mut self.kept), read].concat();
            return self.scan(&whole, whole.len(), seen);
        }
        if !self.kept.is_empty() {
            // Enough to see the whole beginning of an incomplete event; it ends before the next one begins.
            let cut = self.kept.len();
            self.kept.extend_from_slice(&read[..read.len().min(MARK_BYTES)]);
            let kept = std::mem::take(&mut self.kept);
            self.scan(&kept, cut, seen);
        }
        self.scan(read, read.len(), seen);
    }

    /// Takes the events whose mark begins before `end`; an incomplete one is kept.
    fn scan(&mut self, bytes: &[u8], end: usize, seen: &mut Seen) {
        for at in memchr::memmem::find_iter(bytes, MARK).take_while(|at| *at < end) {
            let Some((number, made)) = numbers(&bytes[at + MARK.len()..]) else {
                if end == bytes.len() {
                    self.kept = bytes[at..].to_vec();
                }
                return;
            };
            self.next = count(self.next, self.step, number, seen);
            if seen.latencies.len() < SAMPLES {
                seen.latencies.push(nanos().saturating_sub(made));
            }
        }
        // An incomplete mark.
        if end == bytes.len() {
            let tail = &bytes[bytes.len().saturating_sub(MARK.len() - 1)..];
            let cut = (0..tail.len()).find(|start| MARK.starts_with(&tail[*start..]));
            self.kept = cut.map(|start| tail[start..].to_vec()).unwrap_or_default();
        }
    }
}

/// Counts an event; returns the number of the next expected one.
fn count(expected: u64, step: u64, number: u64, seen: &mut Seen) -> u64 {
    seen.deliveries += 1;
    if number > expected {
        seen.gaps += (number - expected).div_ceil(step);
    } else if number < expected {
        seen.doubles += 1;
    }
    number + step
}

/// `17,"made":1700000000000000000,…`
fn numbers(text: &[u8]) -> Option<(u64, u64)> {
    let comma = memchr::memchr(b',', text)?;
    let number = std::str::from_utf8(&text[..comma]).ok()?.parse().ok()?;
    let rest = text[comma..].strip_prefix(b",\"made\":")?;
    let comma = memchr::memchr(b',', rest)?;
    Some((number, std::str::from_utf8(&rest[..comma]).ok()?.parse().ok()?))
}
