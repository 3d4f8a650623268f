//! `zfs list`: what ZFS knows of a container's volumes and Proxmox does not: snapshots made by
//! others, and how much was written. Reads only, and only where there is a `zfs`.

use anyhow::{Context, Result};
use host::command::{Command, IfWeDie};
use std::path::Path;
use std::time::Duration;

/// A pool that hangs must not hang us.
const PATIENCE: Duration = Duration::from_secs(30);
/// Snapshots of Proxmox's own replication: a rollback removes them by itself.
const REPLICATION: &str = "__replicate_";

/// A line: a dataset, or a snapshot of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub dataset: String,
    pub snapshot: Option<String>,
    txg: u64,
    used: u64,
    written: u64,
}

/// `zfs list -Hp -d 1 -t filesystem,volume,snapshot -o name,createtxg,used,written <dataset>...`
pub fn list(program: &Path, datasets: &[String]) -> Result<Vec<Row>> {
    let command = Command::new(program)
        .args(["list", "-Hp", "-d", "1", "-t", "filesystem,volume,snapshot"])
        .args(["-o", "name,createtxg,used,written"])
        .args(datasets)
        .deadline(PATIENCE)
        .if_we_die(IfWeDie::DiesToo);
    parse(command.run()?.text()?)
}

fn parse(text: &str) -> Result<Vec<Row>> {
    let rows = text.lines().map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, txg, used, written] = fields[..] else { return None };
        let (dataset, snapshot) = match name.split_once('@') {
            Some((dataset, snapshot)) => (dataset, Some(snapshot.to_owned())),
            None => (name, None),
        };
        let (txg, used) = (txg.parse().ok()?, used.parse().ok()?);
        Some(Row {
            dataset: dataset.to_owned(),
            snapshot,
            txg,
            used,
            written: written.parse().ok()?,
        })
    });
    rows.collect::<Option<_>>().context("zfs list answered in an unknown form")
}

/// What is newer than the snapshot `name` in any of the datasets, and in nobody's list of `known`
/// ones: it stands in the way of a rollback.
pub fn outside(rows: &[Row], name: &str, known: &dyn Fn(&str) -> bool) -> Vec<String> {
    let of = |row: &&Row| row.snapshot.as_deref() == Some(name);
    let mut found = Vec::new();
    for target in rows.iter().filter(of) {
        let newer = rows.iter().filter(|row| row.dataset == target.dataset && row.txg > target.txg);
        for (row, snapshot) in newer.filter_map(|row| Some((row, row.snapshot.as_deref()?))) {
            if !known(snapshot) && !snapshot.starts_with(REPLICATION) {
                found.push(format!("{}@{snapshot}", row.dataset));
            }
        }
    }
    found
}

/// How much was written to all of the datasets since the snapshot `name`.
pub fn written_since(rows: &[Row], name: &str) -> Option<u64> {
    let mut total = 0_u64;
    let mut datasets = rows.iter().filter(|row| row.snapshot.is_none()).peekable();
    datasets.peek()?;
    for dataset in datasets {
        let of = |row: &&Row| row.dataset == dataset.dataset;
        let target = rows.iter().filter(of).find(|row| row.snapshot.as_deref() == Some(name))?;
        let since =
            rows.iter().filter(of).filter(|row| row.snapshot.is_none() || row.txg > target.txg);
        total = since.fold(total, |sum, row| sum.saturating_add(row.written));
    }
    Some(total)
}

/// What the snapshot `name` holds alone.
pub fn held_by(rows: &[Row], name: &str) -> Option<u64> {
    let mut of = rows.iter().filter(|row| row.snapshot.as_deref() == Some(name)).peekable();
    of.peek()?;
    Some(of.fold(0, |sum, row| sum.saturating_add(row.used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "rpool/data/subvol-101-disk-0\t10\t900\t7\n\
        rpool/data/subvol-101-disk-0@a\t20\t100\t50\n\
        rpool/data/subvol-101-disk-0@by-hand\t30\t5\t3\n\
        rpool/data/subvol-101-disk-0@__replicate_101-0_1\t35\t0\t2\n\
        rpool/data/subvol-101-disk-0@b\t40\t0\t1\n\
        rpool/data/subvol-101-disk-1\t11\t900\t1000\n\
        rpool/data/subvol-101-disk-1@a\t21\t11\t0\n";

    #[test]
    fn what_others_made() {
        let rows = parse(LIST).unwrap();
        let known = |name: &str| matches!(name, "a" | "b");
        assert_eq!(outside(&rows, "a", &known), ["rpool/data/subvol-101-disk-0@by-hand"]);
        assert!(outside(&rows, "b", &known).is_empty());
    }

    #[test]
    fn how_much() {
        let rows = parse(LIST).unwrap();
        // 7 since the newest, 3 + 2 + 1 between, and the second volume's 1000.
        assert_eq!(written_since(&rows, "a"), Some(1013));
        // The second volume has no such snapshot.
        assert_eq!(written_since(&rows, "b"), None);
        assert_eq!(written_since(&[], "a"), None);
        assert_eq!(held_by(&rows, "a"), Some(111));
        assert_eq!(held_by(&rows, "c"), None);
    }

    #[test]
    fn another_form_is_refused() {
        assert!(parse("a\t1\t2\n").is_err());
        assert!(parse("a\t1\t2\t-\n").is_err());
        assert_eq!(parse("").unwrap(), []);
    }
}
