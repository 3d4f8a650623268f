//! What `pct` prints for people, read where `pvesh` cannot be asked. No I/O here.

use crate::container::Config;

/// A line of `pct list`, or an element of `pvesh get /nodes/<node>/lxc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub vmid: u32,
    pub running: bool,
    pub lock: Option<String>,
    pub name: String,
}

/// Where the column of locks begins: `%-10s %-10s %-12s %-20s`.
const LOCK_AT: usize = 22;

/// `pct list`: a heading and a line for each container; nothing at all without any.
pub fn list(text: &str) -> Result<Vec<Listed>, String> {
    text.lines()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let mut words = line.split_whitespace();
            let (vmid, status) = (words.next().and_then(|word| word.parse().ok()), words.next());
            let (Some(vmid), Some(status @ ("running" | "stopped"))) = (vmid, status) else {
                return Err(format!("{line:?} is no line of pct list"));
            };
            // Locks such as snapshot-delete run over their column.
            let rest = line.get(LOCK_AT..).unwrap_or_default();
            let (lock, name) = match rest.starts_with(' ') || rest.is_empty() {
                true => ("", rest),
                false => rest.split_once(' ').unwrap_or((rest, "")),
            };
            Ok(Listed {
                vmid,
                running: status == "running",
                lock: Some(lock.to_owned()).filter(|lock| !lock.is_empty()),
                name: name.trim().to_owned(),
            })
        })
        .collect()
}

/// `pct status <id>`: `status: running`.
pub fn status(text: &str) -> Result<bool, String> {
    let line = text.lines().find_map(|line| line.strip_prefix("status: "));
    match line.map(str::trim) {
        Some("running") => Ok(true),
        Some("stopped") => Ok(false),
        _ => Err(format!("{text:?} is no answer of pct status")),
    }
}

/// `pct listsnapshot <id>`: the names alone. All else is cut, indented and unquoted there, so it is
/// asked for one by one.
///
/// A row is indented by its depth: `` `-> name ``. The last `current` is no snapshot.
pub fn snapshot_names(text: &str) -> Result<Vec<String>, String> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .filter_map(|line| match line.trim_start_matches(' ').strip_prefix("`-> ") {
            Some(row) => match row.split_whitespace().next() {
                Some("current") => None,
                Some(name) => Some(Ok(name.to_owned())),
                None => Some(Err(format!("{line:?} is no row of pct listsnapshot"))),
            },
            None => Some(Err(format!("{line:?} is no row of pct listsnapshot"))),
        })
        .collect()
}

/// `pct config <id> [--snapshot <name>]`: `key: value`, the description percent-encoded.
pub fn config(text: &str) -> Config {
    Config::from_pairs(text.lines().filter_map(|line| {
        let (key, value) = line.split_once(": ")?;
        let value = match key {
            "description" => decoded(value),
            _ => value.trim().to_owned(),
        };
        Some((key, value))
    }))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_with_locks_that_run_over() {
        let text = "VMID       Status     Lock         Name                \n\
                    101        running                 shop                \n\
                    102        stopped    backup       mail                \n\
                    103        stopped    snapshot-delete db                  \n";
        let found = list(text).unwrap();
        let shown: Vec<_> = (found.iter())
            .map(|one| (one.vmid, one.running, one.lock.as_deref().unwrap_or("-"), &*one.name))
            .collect();
        assert_eq!(
            shown,
            [
                (101, true, "-", "shop"),
                (102, false, "backup", "mail"),
                (103, false, "snapshot-delete", "db"),
            ]
        );
        assert_eq!(list(""), Ok(vec![]));
        assert!(list("VMID\nodd line\n").is_err());
    }

    #[test]
    fn names_in_each_indentation() {
        let text = "`-> snap1                       2026-11-21 07:28:52     before upgrade\n \
                    `-> Snap1                      2026-11-21 07:28:54     no-description\n  \
                    `-> a-name-that-is-forty-characters-long-0 2026-11-21 07:28:54 current  You are here!\n    \
                    `-> bare\n  `-> current                                           You are here!\n";
        let names = snapshot_names(text).unwrap();
        assert_eq!(names, ["snap1", "Snap1", "a-name-that-is-forty-characters-long-0", "bare"]);
        assert!(snapshot_names("what is this\n").is_err());
    }

    #[test]
    fn a_configuration_and_its_description() {
        let config = config(
            "arch: amd64\ndescription: one%0A[x%3A 100%25] %E9 %zz\nlock: rollback\nmp0: zp:vol,mp=/a b,size=1G\nparent: snap1\n",
        );
        assert_eq!(config.description, "one\n[x: 100%] \u{fffd} %zz");
        assert_eq!(config.lock.as_deref(), Some("rollback"));
        assert_eq!(config.parent.as_deref(), Some("snap1"));
        assert_eq!(config.mounts[0].path, "/a b");
    }

    #[test]
    fn a_status() {
        assert_eq!(status("status: running\n"), Ok(true));
        assert_eq!(status("status: stopped\n"), Ok(false));
        assert!(status("").is_err());
    }
}
