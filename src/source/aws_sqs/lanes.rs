//! Decides which object is read next. The objects of one lane (one account and region of a trail) are read one after
//! the other, in the order of their keys, which is that of time; those of different lanes concurrently. So changes of
//! one asset enter the log in the order in which CloudTrail logged them, as far as the queue reveals it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::hand::Number;
use crate::source::aws::object::ObjectRef;

/// An object named by a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) message: Number,
    pub(super) object: ObjectRef,
    pub(super) lane: String,
}

#[derive(Debug, Default)]
struct Lane {
    busy: bool,
    waiting: BTreeMap<(String, u64), Job>,
}

/// The objects waiting to be read, by lane.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: HashMap<String, Lane>,
    /// Idle lanes with waiting objects, in round-robin order.
    ready: VecDeque<String>,
    count: u64,
}

impl Lanes {
    pub(super) fn add(&mut self, job: Job) {
        self.count += 1;
        let lane = self.lanes.entry(job.lane.clone()).or_default();
        if !lane.busy && lane.waiting.is_empty() {
            self.ready.push_back(job.lane.clone());
        }
        lane.waiting.insert((job.object.key.clone(), self.count), job);
    }

    /// The next object to read; its lane is busy until [`free`](Lanes::free)d.
    pub(super) fn next(&mut self) -> Option<Job> {
        let lane = self.lanes.get_mut(&self.ready.pop_front()?)?;
        let (_, job) = lane.waiting.pop_first()?;
        lane.busy = true;
        Some(job)
    }

    /// Frees a lane whose object has been handed over or given up.
    pub(super) fn free(&mut self, name: &str) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        lane.busy = false;
        if lane.waiting.is_empty() {
            self.lanes.remove(name);
        } else {
            self.ready.push_back(name.to_owned());
        }
    }

    /// The number of waiting objects.
    pub(super) fn waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.waiting.len()).sum()
    }
}
