//! The Lua script in HAProxy that holds requests: the values of its map, and its report.
//!
//! Invariant: the value of a hold contains its end, in the time of the HAProxy that holds.

use anyhow::Result;
use haproxy::socket::{Socket, is_unknown};
use host::clock::Utc;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// A value of the map: `since=1796182157000,until=1796182187000,by=20261121t084500z-7f3a`, in
/// milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub since: u64,
    pub until: u64,
    pub by: Option<String>,
}

impl Hold {
    /// Parses a value; `None` for a value that the script would ignore too.
    pub fn parse(value: &str) -> Option<Hold> {
        let mut parts = value.split(',');
        let since = parts.next()?.strip_prefix("since=")?.parse().ok()?;
        let until = parts.next()?.strip_prefix("until=")?.parse().ok()?;
        let by = parts.next().and_then(|part| part.strip_prefix("by=")).filter(|by| *by != "-");
        Some(Hold { since, until, by: by.map(str::to_owned) })
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.by.as_deref().unwrap_or("-");
        write!(f, "since={},until={},by={by}", self.since, self.until)
    }
}

/// Formats milliseconds since 1970 for people.
pub fn time(milliseconds: u64) -> Option<String> {
    let seconds = i64::try_from(milliseconds / 1000).ok()?;
    Some(Utc::from_unix(seconds)?.to_string())
}

/// The script's limits, and the counts of each app's last hold in this worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub map: PathBuf,
    pub seconds: u64,
    pub requests: u64,
    /// The time of this HAProxy.
    pub now: u64,
    pub counts: BTreeMap<String, Count>,
}

/// Requests that have met one hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub since: u64,
    pub waiting: u64,
    pub waited: u64,
    /// The longest wait, in milliseconds.
    pub longest: u64,
    pub refused: u64,
    pub expired: u64,
    pub left: u64,
}

impl Count {
    /// Adds the counts of another HAProxy.
    pub fn and(self, other: Count) -> Count {
        Count {
            since: self.since,
            waiting: self.waiting + other.waiting,
            waited: self.waited + other.waited,
            longest: self.longest.max(other.longest),
            refused: self.refused + other.refused,
            expired: self.expired + other.expired,
            left: self.left + other.left,
        }
    }
}

pub const COMMAND: &str = "show reversible-holds";

/// Parses the report of a worker; `None` when it does not have the script.
pub fn ask(socket: &Socket) -> Result<Option<Report>> {
    match socket.ask(COMMAND) {
        Ok(answer) => Ok(parse(&answer)),
        Err(error) if is_unknown(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `limits map=/etc/haproxy/holds.map seconds=60 requests=500 now=1796182157000`, then a line for
/// each app: `shop-staging since=1796182157000 waiting=3 waited=17 longest=1503 refused=0 ...`
pub fn parse(text: &str) -> Option<Report> {
    let mut lines = text.lines();
    let (head, limits) = fields(lines.next()?)?;
    let number = |fields: &BTreeMap<&str, &str>, name: &str| fields.get(name)?.parse::<u64>().ok();
    let mut report = Report {
        map: limits.get("map").filter(|_| head == "limits")?.into(),
        seconds: number(&limits, "seconds")?,
        requests: number(&limits, "requests")?,
        now: number(&limits, "now")?,
        counts: BTreeMap::new(),
    };
    for line in lines.filter(|line| !line.is_empty()) {
        let (app, counted) = fields(line)?;
        let count = Count {
            since: number(&counted, "since")?,
            waiting: number(&counted, "waiting")?,
            waited: number(&counted, "waited")?,
            longest: number(&counted, "longest")?,
            refused: number(&counted, "refused")?,
            expired: number(&counted, "expired")?,
            left: number(&counted, "left")?,
        };
        report.counts.insert(app.to_owned(), count);
    }
    Some(report)
}

/// Splits a line into its first word and the `name=value` pairs after it.
fn fields(line: &str) -> Option<(&str, BTreeMap<&str, &str>)> {
    let mut words = line.split_ascii_whitespace();
    let first = words.next()?;
    Some((first, words.map(|word| word.split_once('=')).collect::<Option<_>>()?))
}

/// Process ids of the old workers of a reload, from `show proc` of the master.
pub fn old_workers(text: &str) -> Vec<u32> {
    // `15250           worker          1               0d00h00m01s     3.2.26-1`
    (text.lines().skip_while(|line| *line != "# old workers").skip(1))
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_ascii_whitespace().next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back() {
        for by in [None, Some("20261121t084500z-7f3a".to_owned())] {
            let hold = Hold { since: 1, until: 30_001, by };
            assert_eq!(Hold::parse(&hold.to_string()), Some(hold));
        }
        for odd in ["", "1", "since=1", "since=1,until=x", "until=1,since=2", "since=1,until="] {
            assert_eq!(Hold::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn what_the_script_tells_is_read() {
        let text = "limits map=/etc/haproxy/holds.map seconds=60 requests=500 now=7\n\
                    shop-staging since=5 waiting=1 waited=20 longest=2123 refused=3 expired=4 left=2";
        let report = parse(text).unwrap();
        assert_eq!((report.seconds, report.requests, report.now), (60, 500, 7));
        let count = report.counts["shop-staging"];
        assert_eq!((count.since, count.waiting, count.waited, count.longest), (5, 1, 20, 2123));
        assert_eq!((count.refused, count.expired, count.left), (3, 4, 2));
        assert_eq!(
            parse("limits map=/m seconds=60 requests=500 now=7\n\n").unwrap().counts.len(),
            0
        );
        for odd in ["", "limits", "Unknown command", "limits map=/m seconds=x requests=1 now=1"] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn old_workers_are_named() {
        let text = "#<PID>  <type>  <reloads>  <uptime>  <version>\n17016  master  2 [failed: 1]\n\
                    # workers\n9354  worker  0\n# old workers\n17024  worker  1\n17025 worker 2\n# programs\n";
        assert_eq!(old_workers(text), [17024, 17025]);
        assert!(old_workers("# workers\n1 worker\n").is_empty());
    }
}
