//! Parses `show stat` and `show info`: the state of servers and of HAProxy itself.
//!
//! Columns are found by their names, since versions add some in the middle.

use crate::socket::Socket;
use ansible_module::Failure;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A server, as `show stat` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    pub backend: String,
    pub name: String,
    pub address: String,
    /// `UP`, `UP 1/3`, `DOWN`, `no check`, `MAINT`, ...
    pub status: String,
    /// `L7OK`, `L4CON`, ...; empty before the first check.
    pub check: String,
    pub is_backup: bool,
    pub sessions: u64,
    /// Seconds since the status changed.
    pub unchanged_for: u64,
    pub count: Count,
}

/// The number of requests to a server, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub requests: u64,
    pub failed: u64,
}

impl Count {
    /// Returns the difference to an earlier count; `None` if the counters were reset in between.
    pub fn since(self, then: Count) -> Option<Count> {
        let requests = self.requests.checked_sub(then.requests)?;
        let failed = self.failed.checked_sub(then.failed)?;
        (failed <= requests).then_some(Count { requests, failed })
    }

    pub fn share(self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.failed as f64 / self.requests as f64 }
    }
}

impl Server {
    /// Whether it is completely up by its last check: neither going down nor unchecked.
    pub fn is_up(&self) -> bool {
        self.status == "UP"
            && matches!(self.check.as_str(), "L4OK" | "L6OK" | "L7OK" | "L7OKC" | "PROCOK")
    }

    /// Whether HAProxy sends it requests: also while it is going down, and after a reload before its first
    /// check.
    pub fn takes_requests(&self) -> bool {
        self.status.starts_with("UP") || self.status == "no check"
    }

    /// Whether it was checked since the last start or reload.
    pub fn was_checked(&self) -> bool {
        !matches!(self.check.as_str(), "" | "INI")
    }

    /// Whether it is in maintenance, by hand or by the configuration, and so not checked.
    pub fn is_maintenance(&self) -> bool {
        self.status.starts_with("MAINT")
    }

    pub fn title(&self) -> String {
        format!("{}/{}", self.backend, self.name)
    }
}

/// Reads the servers of all backends, or of one.
pub fn servers(socket: &Socket, backend: Option<&str>) -> Result<Vec<Server>> {
    const SERVERS: u32 = 4;
    let answer = socket.ask(&format!("show stat {} {SERVERS} -1", backend.unwrap_or("-1")))?;
    if answer.starts_with("No such proxy") {
        return Ok(Vec::new());
    }
    parse(&answer).map_err(|why| {
        Failure::new("bad_answer", format!("`show stat` of HAProxy at {socket}: {why}")).into()
    })
}

/// Parses `show stat`: a line of column names that begins with `# pxname,`, then a line for each server.
pub fn parse(text: &str) -> Result<Vec<Server>, String> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let head =
        lines.next().and_then(|line| line.strip_prefix("# ")).ok_or("no line of column names")?;
    let names: Vec<&str> = head.split(',').collect();
    let column = |name: &str| {
        names.iter().position(|other| *other == name).ok_or(format!("no column {name}"))
    };
    let number_of = |values: &[&str], at: usize| values[at].parse::<u64>().unwrap_or_default();
    let (backend, name) = (column("pxname")?, column("svname")?);
    let (address, status, check) = (column("addr")?, column("status")?, column("check_status")?);
    let (backup, sessions, since) = (column("bck")?, column("scur")?, column("lastchg")?);
    let answers = ["hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other"];
    let answers = answers.into_iter().map(column).collect::<Result<Vec<_>, _>>()?;
    // Error answers, missing answers, and failed connections.
    let failures = ["hrsp_5xx", "eresp", "econ"];
    let failures = failures.into_iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let unanswered = &failures[1..];
    lines
        .map(|line| {
            let values: Vec<&str> = line.split(',').collect();
            if values.len() < names.len() {
                return Err(format!("a line of {} columns, not {}", values.len(), names.len()));
            }
            let sum = |columns: &[usize]| columns.iter().map(|at| number_of(&values, *at)).sum();
            let requests = sum(&answers) + sum(unanswered);
            Ok(Server {
                backend: values[backend].to_owned(),
                name: values[name].to_owned(),
                address: values[address].to_owned(),
                status: values[status].to_owned(),
                // `* L7OK`: a check is running, and this is the result of the last one.
                check: values[check].trim_start_matches("* ").to_owned(),
                is_backup: number_of(&values, backup) > 0,
                sessions: number_of(&values, sessions),
                unchanged_for: number_of(&values, since),
                count: Count { requests, failed: sum(&failures) },
            })
        })
        .collect()
}

/// Reads the pid of the worker that answers at a socket.
pub fn worker(socket: &Socket, patience: Duration) -> Result<u32> {
    let answer = socket.ask_for("show info", patience)?;
    (answer.lines()).find_map(|line| line.strip_prefix("Pid: ")?.trim().parse().ok()).ok_or_else(
        || {
            let msg = format!("`show info` of HAProxy at {socket} names no pid");
            Failure::new("bad_answer", msg).into()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_answers_are_parsed() {
        for (version, text) in [
            ("2.6", include_str!("../tests/captured/show-stat-2.6.csv")),
            ("3.0", include_str!("../tests/captured/show-stat-3.0.csv")),
            ("3.2", include_str!("../tests/captured/show-stat-3.2.csv")),
        ] {
            let servers = parse(text).unwrap_or_else(|why| panic!("{version}: {why}"));
            let seen: Vec<(String, bool, bool)> = (servers.iter())
                .map(|server| (server.title(), server.is_up(), server.is_maintenance()))
                .collect();
            let title = |name: &str| format!("shop/{name}");
            let expected = vec![
                (title("blue"), true, false),
                (title("green"), false, false),
                (title("unchecked"), false, false),
                (title("away"), false, true),
            ];
            assert_eq!(seen, expected, "{version}");
            assert!(servers[0].address.starts_with("127.0.0.1:"), "{version}");
            assert!(!servers[0].is_backup && servers[1].is_backup, "{version}");
            assert_eq!(servers[2].status, "no check", "{version}");
            assert_eq!(servers[0].count, Count { requests: 3, failed: 1 }, "{version}");
        }
    }

    #[test]
    fn reset_counters_are_noticed() {
        let count = |requests, failed| Count { requests, failed };
        assert_eq!(count(9, 3).since(count(5, 1)), Some(count(4, 2)));
        assert_eq!(count(4, 4).since(count(5, 1)), None);
        assert_eq!(count(9, 0).since(count(5, 1)), None);
        assert_eq!(count(10, 10).since(count(1, 0)), None);
    }

    #[test]
    fn missing_columns_are_refused() {
        assert!(parse("").is_err());
        assert!(parse("# pxname,svname,\nshop,blue,\n").is_err());
    }
}
