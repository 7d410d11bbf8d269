//! Reads files in rounds: first what was appended to open files, then what is new in the folder. Everything here
//! blocks; the loop in the parent module runs it on a blocking thread, one delivery at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::time::Duration;
use std::vec;

use tokio_util::sync::CancellationToken;

use super::FileConfig;
use super::ledger::{Entry, FileId, Ledger};
use super::tail::{Change, Opened, Tail};
use super::walk::{Found, Look, Unreadable, Walk};
use crate::decode::Piece;
use crate::model::{Origin, RawRecord, Rejected, SourceId};
use crate::source::{Clock, Delivery};

/// A delivery ends with the record that reaches one of these.
const DELIVERY_RECORDS: usize = 500;
const DELIVERY_BYTES: usize = 1 << 20;

/// Most files kept open between rounds. Others are reopened when they change.
const MAX_OPEN: usize = 64;

/// Polls during which a file that ends in the middle of a document may still grow before that counts as its end.
const SETTLE_POLLS: u32 = 10;

/// The outcome of a step.
#[derive(Debug)]
pub(super) enum Step {
    /// A delivery to hand over.
    Deliver(Delivery),
    /// A round has ended: everything available has been handed over. Only when following.
    Idle(Option<Problem>),
    /// Everything has been read. Only when not following.
    Finished(Option<Problem>),
    /// Stopped on request.
    Stopped,
}

/// The first read failure of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The action: `read /var/trail/a.json`.
    pub(super) action: String,
    /// The system's error.
    pub(super) cause: String,
}

#[derive(Debug)]
enum Phase {
    Tails(vec::IntoIter<FileId>),
    Walk(Walk),
    End,
}

/// Reads the files of one source.
#[derive(Debug)]
pub(super) struct Reader {
    source: SourceId,
    config: FileConfig,
    clock: Clock,
    stop: CancellationToken,
    ledger: Ledger,
    tails: BTreeMap<FileId, Tail>,
    phase: Phase,
    /// The file being read.
    current: Option<FileId>,
    /// Files found in this round.
    present: HashSet<FileId>,
    /// Metadata of compressed files that were found and not read yet.
    waiting: HashMap<FileId, Look>,
    problem: Option<Problem>,
    walk_failed: bool,
    root_missing: bool,
    records: Vec<RawRecord>,
    rejected: Vec<Rejected>,
    bytes: usize,
    /// Whether the ledger has changed since the last delivery.
    dirty: bool,
    /// The position, as a message.
    progress: Option<String>,
}

impl Reader {
    pub(super) fn new(
        source: SourceId,
        config: FileConfig,
        ledger: Ledger,
        clock: Clock,
        stop: CancellationToken,
    ) -> Self {
        Self {
            source,
            config,
            clock,
            stop,
            ledger,
            tails: BTreeMap::new(),
            phase: Phase::Tails(Vec::new().into_iter()),
            current: None,
            present: HashSet::new(),
            waiting: HashMap::new(),
            problem: None,
            walk_failed: false,
            root_missing: false,
            records: Vec::new(),
            rejected: Vec::new(),
            bytes: 0,
            dirty: false,
            progress: None,
        }
    }

    /// The position, as a message.
    pub(super) fn progress(&self) -> Option<String> {
        self.progress.clone()
    }

    /// Reads until there is an outcome.
    pub(super) fn step(&mut self) -> Step {
        loop {
            if self.stop.is_cancelled() {
                return Step::Stopped;
            }
            if self.records.len() + self.rejected.len() >= DELIVERY_RECORDS || self.bytes >= DELIVERY_BYTES {
                return Step::Deliver(self.take_delivery());
            }
            if let Some(id) = self.current {
                self.read_on(id);
                continue;
            }
            match &mut self.phase {
                Phase::Tails(ids) => match ids.next() {
                    Some(id) => self.revisit(id),
                    None => self.phase = Phase::Walk(Walk::new(&self.config.path, self.ledger.unfinished())),
                },
                Phase::Walk(walk) => match walk.next() {
                    Some(Ok(found)) => self.visit(&found),
                    Some(Err(unreadable)) => self.walk_failed(&unreadable),
                    None => self.end_walk(),
                },
                Phase::End if self.dirty || !self.records.is_empty() || !self.rejected.is_empty() => {
                    return Step::Deliver(self.take_delivery());
                }
                Phase::End => return self.end_round(),
            }
        }
    }

    fn end_round(&mut self) -> Step {
        self.phase = Phase::Tails(self.tails.keys().copied().collect::<Vec<_>>().into_iter());
        self.present.clear();
        self.walk_failed = false;
        self.root_missing = false;
        let problem = self.problem.take();
        if self.config.follow { Step::Idle(problem) } else { Step::Finished(problem) }
    }

    fn take_delivery(&mut self) -> Delivery {
        self.dirty = false;
        self.bytes = 0;
        Delivery {
            source: self.source.clone(),
            records: std::mem::take(&mut self.records),
            rejected: std::mem::take(&mut self.rejected),
            cursor: Some(self.ledger.encode()),
        }
    }

    fn settle_time(&self) -> Duration {
        self.config.poll() * SETTLE_POLLS
    }

    fn note(&mut self, verb: &str, unreadable: &Unreadable) {
        tracing::warn!(source = %self.source, path = %unreadable.path.display(), error = %unreadable.error, "can't {verb}");
        self.problem.get_or_insert_with(|| Problem {
            action: format!("{verb} {}", unreadable.path.display()),
            cause: unreadable.error.to_string(),
        });
    }

    /// Checks an open file for changes.
    fn revisit(&mut self, id: FileId) {
        let settle_time = self.settle_time();
        let Some(tail) = self.tails.get_mut(&id) else { return };
        match tail.look_again() {
            Ok(Change::Grown) => self.current = Some(id),
            Ok(Change::None) => {
                if tail.is_still_for(settle_time) && (tail.gone || tail.is_cut_off()) {
                    self.complete(id);
                }
            }
            Ok(Change::Replaced) if tail.is_compressed() => {
                // Its position is kept; the walk finds it again, and reads it once it no longer changes.
                self.tails.remove(&id);
            }
            Ok(Change::Replaced) => {
                // Starts over: to the walk it is a file that was never read.
                self.finish_pieces(id);
                self.tails.remove(&id);
                self.ledger.forget(id);
                self.dirty = true;
            }
            Err(error) => self.give_up(id, error),
        }
    }

    /// Handles a file found in the folder.
    fn visit(&mut self, found: &Found) {
        self.present.insert(found.id);
        if let Some(tail) = self.tails.get_mut(&found.id) {
            tail.gone = false;
            return;
        }
        if self.ledger.is_unchanged(found.id, found.look) {
            return;
        }
        let still = !self.config.follow || self.waiting.get(&found.id) == Some(&found.look);
        match Tail::open(found, &mut self.ledger, self.config.max_expansion, still, &self.stop) {
            Ok(Opened::Tail(tail)) => {
                self.waiting.remove(&found.id);
                self.current = Some(found.id);
                self.tails.insert(found.id, *tail);
            }
            Ok(Opened::Done | Opened::Empty) => {}
            Ok(Opened::Compressed) => {
                self.waiting.insert(found.id, found.look);
            }
            // Deleted since it was found.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                self.walk_failed = true;
                self.note("read", &Unreadable { path: found.path.clone(), error });
            }
        }
    }

    fn walk_failed(&mut self, unreadable: &Unreadable) {
        self.walk_failed = true;
        if self.config.follow
            && unreadable.path == self.config.path
            && unreadable.error.kind() == io::ErrorKind::NotFound
        {
            let action = format!("read {}", unreadable.path.display());
            self.problem = Some(Problem { action, cause: "it does not exist; waiting for it".to_owned() });
        } else {
            self.note("read", unreadable);
        }
    }

    fn end_walk(&mut self) {
        self.phase = Phase::End;
        for tail in self.tails.values_mut() {
            tail.gone = !self.present.contains(&tail.id) && (self.root_missing || !self.walk_failed);
        }
        // An empty folder may be an unmounted one: the positions in its files are kept.
        if !self.walk_failed && !self.present.is_empty() {
            self.waiting.retain(|id, _| self.present.contains(id));
            self.present.extend(self.tails.keys());
            self.dirty |= self.ledger.prune(&self.present);
        }
    }

    /// Reads from a file until the delivery is full or the file ends.
    fn read_on(&mut self, id: FileId) {
        while self.records.len() + self.rejected.len() < DELIVERY_RECORDS && self.bytes < DELIVERY_BYTES {
            let Some(tail) = self.tails.get_mut(&id) else {
                self.current = None;
                return;
            };
            match tail.next_piece() {
                Ok(Some((number, piece))) => self.take(id, number, piece),
                Ok(None) => {
                    self.current = None;
                    self.reached_end(id);
                    return;
                }
                Err(_) if self.stop.is_cancelled() => return,
                Err(error) => {
                    self.current = None;
                    self.give_up(id, error);
                    return;
                }
            }
        }
    }

    fn take(&mut self, id: FileId, number: u64, piece: Piece) {
        let Some(tail) = self.tails.get(&id) else { return };
        let origin = Origin { source: self.source.clone(), location: tail.location.clone(), index: number };
        self.progress = Some(tail.describe());
        self.ledger.set(id, tail.entry);
        self.dirty = true;
        match piece {
            Piece::Record { bytes, .. } => {
                self.bytes += bytes.len();
                self.records.push(RawRecord { bytes, origin });
            }
            Piece::Rejected { code, reason, bytes, .. } => {
                self.bytes += bytes.len();
                self.rejected.push(Rejected { origin, code, reason, bytes, observed: self.clock.now() });
            }
        }
    }

    /// Handles the current end of a file.
    fn reached_end(&mut self, id: FileId) {
        let Some(tail) = self.tails.get(&id) else { return };
        self.progress = Some(tail.describe());
        self.dirty |= self.ledger.set(id, tail.entry);
        let whole = tail.is_compressed() && !tail.is_cut_off();
        if whole || !self.config.follow {
            self.complete(id);
        } else if self.tails.len() > MAX_OPEN
            && let Some(tail) = self.tails.remove(&id)
        {
            self.ledger.caught_up(id, tail.look);
        }
    }

    /// Handles a file that won't grow any more, or is assumed not to: delivers the rest and closes it.
    fn complete(&mut self, id: FileId) {
        let Some(tail) = self.tails.get(&id) else { return };
        let (is_cut_off, before) = (tail.is_cut_off(), tail.entry.position);
        self.finish_pieces(id);
        let Some(tail) = self.tails.remove(&id) else { return };
        self.dirty = true;
        if tail.gone {
            self.ledger.forget(id);
        } else if is_cut_off {
            // If it grows after all, reading resumes at the incomplete part.
            self.ledger.finish(id, tail.entry.head, tail.look);
            self.ledger.keep(id, Entry { position: before, ..tail.entry });
        } else if tail.is_compressed() {
            self.ledger.finish(id, tail.entry.head, tail.look);
        } else {
            self.ledger.set(id, tail.entry);
            self.ledger.caught_up(id, tail.look);
        }
    }

    fn finish_pieces(&mut self, id: FileId) {
        let pieces = self.tails.get_mut(&id).map(Tail::finish).unwrap_or_default();
        for (number, piece) in pieces {
            self.take(id, number, piece);
        }
    }

    fn give_up(&mut self, id: FileId, error: io::Error) {
        if let Some(tail) = self.tails.remove(&id) {
            self.walk_failed = true;
            self.note("read", &Unreadable { path: tail.path, error });
        }
    }
}
