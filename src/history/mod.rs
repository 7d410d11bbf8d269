//! What was held of an asset at a time, and which event set each of its values: out of the events in the log.
//!
//! Time is event time. An event that came late lies further on in the log than its time says, and those after it were
//! told without it; so the events are taken in the order of their times, and those that were told too early are applied
//! again, by what their records tell (see [`replay`]).

mod blame;
mod event;
mod run;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::watch;

pub use self::blame::{Blame, Field, SetBy};
use self::event::Event;
pub(crate) use self::event::past_change;
use self::run::Runs;
use crate::inventory::{ConfigurationState, Fields, Held, Inventory, Logged, PreviousState, oldest, replay};
use crate::log::{Block, EventLog, LogError};
use crate::model::{AssetName, Seq, Time};
use crate::normalize::Engine;

/// Most events of an asset examined for one request.
const MOST_EVENTS: usize = 1_000;
/// Most events of an asset whose times are read from the index.
const MOST_TIMES: usize = 200_000;

/// Reconstructs past states of assets. Methods may block on the disk.
#[derive(Clone)]
pub struct History {
    log: Arc<dyn EventLog>,
    inventory: Arc<Inventory>,
    /// The current rules, with which records are normalized again.
    engines: watch::Receiver<Arc<Engine>>,
}

/// The state of an asset at a time, as far as known.
#[derive(Clone, Debug)]
pub enum AsOf<T> {
    /// The state.
    Known(T),
    /// Unknown at that time; known since this one.
    NotYet(Time),
    /// There is no such asset.
    Never,
}

/// Events of an asset in log order, and who made each change.
type Read = (Vec<Logged>, Vec<SetBy>);

impl History {
    /// Creates the history of a log, with its inventory and the rules.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, inventory: Arc<Inventory>, engines: watch::Receiver<Arc<Engine>>) -> Self {
        Self { log, inventory, engines }
    }

    /// The state of an asset, found by its first name or an alias, after all changes up to and including a time.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn as_of(&self, name: &AssetName, time: Time) -> Result<AsOf<Arc<Held>>, LogError> {
        let known = self.inventory.get(name);
        if let Some(held) = known.as_ref().filter(|held| held.changed() <= time) {
            return Ok(AsOf::Known(Arc::clone(held)));
        }
        let name = known.as_ref().map_or(name, |held| held.name());
        let runs = Runs::of(self.log.times(name, MOST_TIMES)?);
        let first_seen = known.as_ref().map(|held| held.first_seen());
        let Some(begin) = runs.oldest() else { return Ok(first_seen.map_or(AsOf::Never, AsOf::NotYet)) };
        let first_seen = first_seen.unwrap_or(begin).min(begin);
        let end = runs.until(time);
        if end == 0 {
            return self.before(&runs, first_seen, time);
        }
        let (start, (events, _)) = self.last_run(&runs, end.saturating_sub(MOST_EVENTS)..end)?;
        let held = replay(&events, first_seen).pop().map(|last| last.held);
        let held = held.map(|held| if runs.begins_at(start) { held } else { partial(&held) });
        Ok(held.map_or(AsOf::NotYet(begin), AsOf::Known))
    }

    /// Which event set each value of an asset's configuration, now or at a time.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn blame(&self, name: &AssetName, time: Option<Time>) -> Result<AsOf<Blame>, LogError> {
        let held = match time {
            Some(time) => self.as_of(name, time)?,
            None => self.inventory.get(name).map_or(AsOf::Never, AsOf::Known),
        };
        let held = match held {
            AsOf::Known(held) => held,
            AsOf::NotYet(since) => return Ok(AsOf::NotYet(since)),
            AsOf::Never => return Ok(AsOf::Never),
        };
        let runs = Runs::of(self.log.times(held.name(), MOST_TIMES)?);
        let end = time.map_or(runs.len(), |time| runs.until(time));
        let from = end.saturating_sub(MOST_EVENTS);
        let (mut versions, mut who, mut until) = (VecDeque::new(), VecDeque::new(), end);
        while until > from {
            let (start, (events, set_by)) = self.last_run(&runs, from..until)?;
            for version in replay(&events, held.first_seen()).into_iter().rev() {
                if let Some(set_by) = set_by.get(version.event) {
                    who.push_front(set_by.clone());
                    versions.push_front(version);
                }
            }
            until = start;
        }
        let fields = blame::leaves(versions.iter(), held.configuration());
        let field = |(path, value, number): (_, _, Option<usize>)| Field {
            path,
            value,
            set_by: number.and_then(|number| who.get(number).cloned()),
        };
        let fields = fields.into_iter().map(field).collect();
        Ok(AsOf::Known(Blame { held, fields, since: runs.time(from) }))
    }

    /// What was held before the oldest event that is kept, as that one tells.
    fn before(&self, runs: &Runs, first_seen: Time, time: Time) -> Result<AsOf<Arc<Held>>, LogError> {
        let (events, _) = self.read(runs, 0..1)?;
        let oldest = runs.oldest().unwrap_or(first_seen);
        let before = events.first().filter(|_| first_seen <= time).and_then(|event| event.before(first_seen));
        Ok(before.map_or(AsOf::NotYet(oldest), AsOf::Known))
    }

    /// The last events of a range, read from where the time before them is known: there a run begins, with an event whose
    /// place was known when it was told; or the range does. Gives where that is.
    fn last_run(&self, runs: &Runs, range: Range<usize>) -> Result<(usize, Read), LogError> {
        let before = |index| runs.start_before(index).unwrap_or_default().max(range.start);
        let mut start = before(range.end);
        loop {
            let read = self.read(runs, start..range.end)?;
            let is_lost = oldest(&read.0).is_some_and(|event| event.previous_state == PreviousState::Unknown);
            if !is_lost || start == range.start {
                return Ok((start, read));
            }
            start = before(start);
        }
    }

    /// Reads a range of events, in the order of the log. What retention has just dropped is left out.
    fn read(&self, runs: &Runs, range: Range<usize>) -> Result<Read, LogError> {
        let engine = Arc::clone(&self.engines.borrow());
        // One event says itself what it left; what several left hangs on their order.
        let engine = (range.len() > 1).then_some(&*engine);
        let (mut events, mut who) = (Vec::with_capacity(range.len()), Vec::with_capacity(range.len()));
        let mut block: Option<Block> = None;
        for seq in runs.positions(range) {
            if block.as_ref().is_none_or(|block| !block.holds(seq)) {
                block = match self.log.read(Seq(seq.0.saturating_sub(1)), 1) {
                    Err(error) if error.is_gone() => continue,
                    blocks => blocks?.into_iter().next(),
                };
            }
            let Some(json) = block.as_ref().and_then(|block| block.event(seq)) else { continue };
            match Event::parse(&json) {
                Ok(event) => {
                    who.push(event.set_by());
                    events.push(event.logged(engine));
                }
                Err(error) => {
                    tracing::warn!(%seq, %error, "an event in the log can't be read for the past of its asset")
                }
            }
        }
        Ok((events, who))
    }
}

/// What may lack something that was told.
fn partial(held: &Arc<Held>) -> Arc<Held> {
    if held.state() != ConfigurationState::Complete {
        return Arc::clone(held);
    }
    let fields = Fields { state: ConfigurationState::Partial, ..held.fields() };
    Arc::new(Held::new(held.name().clone(), &fields, held.configuration().map(AsRef::as_ref)))
}

#[cfg(test)]
mod tests;
