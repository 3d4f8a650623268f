//! HAProxy's processes, from /proc.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// The clock ticks per second of times in /proc, on all supported architectures.
const TICKS: f64 = 100.0;

/// The fields of `/proc/<pid>/stat` after the name in brackets, which may contain anything.
pub struct Stat(String);

/// Reads the fields of a process; `None` if there is no such process or it is not HAProxy.
pub fn stat_of(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, rest) = text.rsplit_once(')')?;
    head.contains("haproxy").then(|| Stat(rest.trim_start().to_owned()))
}

impl Stat {
    fn field(&self, number: usize) -> Option<&str> {
        self.0.split(' ').nth(number - 3)
    }

    pub fn parent(&self) -> Option<i32> {
        self.field(4)?.parse().ok()
    }

    /// Returns when the process was started, counted from the start of the machine.
    pub fn started(&self) -> Option<Duration> {
        let ticks: f64 = self.field(22)?.parse().ok()?;
        Some(Duration::from_secs_f64(ticks / TICKS))
    }
}

pub fn children_of(pid: i32) -> BTreeSet<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect()
}
