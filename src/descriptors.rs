//! The limit of open file descriptors, of which each connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the log, memory files of events, the sources and the rest of the process need besides connections.
pub const RESERVED: u64 = 544;

/// Raises the soft limit of open files to the hard one (`man 2 getrlimit`): most systems start programs with a soft limit
/// of 1024, for the sake of those that can't count further. Gives what holds from then on; `None`: no limit.
#[must_use]
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, limit = ?limit.current, "the open-file limit can't be raised to the hard limit");
            limit.current
        }
    }
}
