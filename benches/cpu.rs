//! CPU time, as the kernel counts it (`man 5 proc`).

#![allow(dead_code, reason = "a benchmark takes the one that it needs")]

use std::time::Duration;

/// CPU time of the calling thread.
pub(crate) fn of_thread() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// CPU time of all threads of a process, the kernel's part included, in ticks of 10 ms.
pub(crate) fn of_process(id: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}
