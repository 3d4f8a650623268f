//! `zfs list`: reads what Proxmox does not know of a container's volumes: snapshots and bookmarks made by others,
//! and how much was written. Reads only.

use anyhow::{Context, Result};
use host::command::{Command, IfWeDie};
use std::path::Path;
use std::time::Duration;

/// The timeout for a pool that hangs.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// The prefix of snapshots of Proxmox's replication, which a rollback removes while there is a job.
const REPLICATION: &str = "__replicate_";

/// A line of `zfs list`: a dataset, or a snapshot or a bookmark of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub dataset: String,
    pub snapshot: Option<String>,
    pub bookmark: Option<String>,
    txg: u64,
    used: u64,
    written: u64,
    /// The number of holds on it.
    holds: u64,
    /// Its clones, separated by commas.
    clones: String,
}

/// `zfs list -Hpr -t filesystem,volume,snapshot,bookmark -o name,createtxg,used,written,userrefs,clones <dataset>...`
pub fn list(program: &Path, datasets: &[String]) -> Result<Vec<Row>> {
    let command = Command::new(program)
        .args(["list", "-Hpr", "-t", "filesystem,volume,snapshot,bookmark"])
        .args(["-o", "name,createtxg,used,written,userrefs,clones"])
        .args(datasets)
        .deadline(QUERY_TIMEOUT)
        .if_we_die(IfWeDie::DiesToo);
    parse(command.run()?.text()?)
}

fn parse(text: &str) -> Result<Vec<Row>> {
    let rows = text.lines().map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, txg, used, written, holds, clones] = fields[..] else { return None };
        let at = name.find(['@', '#']).unwrap_or(name.len());
        let (dataset, rest) = name.split_at(at);
        let (snapshot, bookmark) = (rest.strip_prefix('@'), rest.strip_prefix('#'));
        // A bookmark uses no space.
        let bytes = |text: &str| match bookmark {
            Some(_) => Some(0),
            None => text.parse().ok(),
        };
        Some(Row {
            dataset: dataset.to_owned(),
            snapshot: snapshot.map(str::to_owned),
            bookmark: bookmark.map(str::to_owned),
            txg: txg.parse().ok()?,
            used: bytes(used)?,
            written: bytes(written)?,
            // `-` means that there can be none.
            holds: if snapshot.is_some() { holds.parse().ok()? } else { 0 },
            clones: clones.trim_start_matches('-').to_owned(),
        })
    });
    rows.collect::<Option<_>>().context("zfs list answered in an unknown form")
}

/// What is newer than the snapshot `name` in any of the datasets, and in nobody's list of `known`
/// ones: it prevents a rollback. Proxmox counts the snapshots of datasets below as well,
/// and ZFS counts bookmarks, which Proxmox finds out half way. `replicated`: a job of it is configured.
pub fn outside(
    rows: &[Row],
    name: &str,
    known: &dyn Fn(&str) -> bool,
    replicated: bool,
) -> Vec<String> {
    let of = |row: &&Row| row.snapshot.as_deref() == Some(name) && !is_below(rows, &row.dataset);
    let mut found = Vec::new();
    for target in rows.iter().filter(of) {
        for row in rows.iter().filter(|row| row.txg > target.txg) {
            let dataset = &row.dataset;
            let (own, below) = (*dataset == target.dataset, lies_below(dataset, &target.dataset));
            match (&row.snapshot, &row.bookmark) {
                (Some(snapshot), _) if own || (below && snapshot != name) => {
                    let goes = replicated && snapshot.starts_with(REPLICATION);
                    if !goes && (below || !known(snapshot)) {
                        found.push(format!("{dataset}@{snapshot}"));
                    }
                }
                (_, Some(bookmark)) if own => found.push(format!("{dataset}#{bookmark}")),
                _ => {}
            }
        }
    }
    found
}

fn lies_below(dataset: &str, above: &str) -> bool {
    dataset.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether the dataset is below another one of the list: then it is not a volume of the container.
fn is_below(rows: &[Row], dataset: &str) -> bool {
    rows.iter().any(|row| lies_below(dataset, &row.dataset))
}

fn is_dataset(row: &Row) -> bool {
    row.snapshot.is_none() && row.bookmark.is_none()
}

/// Returns how much was written to all of the datasets since the snapshot `name`.
pub fn written_since(rows: &[Row], name: &str) -> Option<u64> {
    let mut total = 0_u64;
    let volume = |row: &&Row| is_dataset(row) && !is_below(rows, &row.dataset);
    let mut datasets = rows.iter().filter(volume).peekable();
    datasets.peek()?;
    for dataset in datasets {
        let of = |row: &&Row| row.dataset == dataset.dataset;
        let target = rows.iter().filter(of).find(|row| row.snapshot.as_deref() == Some(name))?;
        let since = rows.iter().filter(of).filter(|row| is_dataset(row) || row.txg > target.txg);
        total = since.fold(total, |sum, row| sum.saturating_add(row.written));
    }
    Some(total)
}

/// Returns the snapshot `name` of each volume.
fn of_volumes<'a>(rows: &'a [Row], name: &str) -> impl Iterator<Item = &'a Row> {
    let all = rows.iter().filter(move |row| row.snapshot.as_deref() == Some(name));
    all.filter(|row| !is_below(rows, &row.dataset))
}

/// Returns why the snapshot `name` could not be removed.
pub fn needed(rows: &[Row], name: &str) -> Option<String> {
    let mut of = of_volumes(rows, name);
    of.find_map(|Row { dataset, holds, clones, .. }| match (holds, clones.as_str()) {
        (0, "") => None,
        (0, clones) => Some(format!("{clones} was cloned from {dataset}@{name}")),
        _ => Some(format!("{dataset}@{name} is held, see `zfs holds`")),
    })
}

/// Returns the space that only the snapshot `name` uses.
pub fn held_by(rows: &[Row], name: &str) -> Option<u64> {
    let mut of = of_volumes(rows, name).peekable();
    of.peek()?;
    Some(of.fold(0, |sum, row| sum.saturating_add(row.used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "rpool/data/subvol-101-disk-0\t10\t900\t7\t-\t-\n\
        rpool/data/subvol-101-disk-0@a\t20\t100\t50\t0\t\n\
        rpool/data/subvol-101-disk-0@by-hand\t30\t5\t3\t0\t\n\
        rpool/data/subvol-101-disk-0@__replicate_101-0_1\t35\t0\t2\t0\t\n\
        rpool/data/subvol-101-disk-0@b\t40\t0\t1\t0\t\n\
        rpool/data/subvol-101-disk-1\t11\t900\t1000\t-\t-\n\
        rpool/data/subvol-101-disk-1@a\t21\t11\t0\t0\t\n";

    #[test]
    fn snapshots_of_others_are_found() {
        let rows = parse(LIST).unwrap();
        let known = |name: &str| matches!(name, "a" | "b");
        let by_hand = "rpool/data/subvol-101-disk-0@by-hand";
        assert_eq!(outside(&rows, "a", &known, true), [by_hand]);
        assert!(outside(&rows, "b", &known, true).is_empty());
        // Without a job nothing removes what its replication has left.
        let unfinished = "rpool/data/subvol-101-disk-0@__replicate_101-0_1";
        assert_eq!(outside(&rows, "a", &known, false), [by_hand, unfinished]);
    }

    #[test]
    fn bookmarks_and_datasets_below_are_found_too() {
        let rows = parse(
            "p/v\t10\t900\t7\t-\t-\np/v@a\t20\t100\t50\t0\t\np/v@b\t30\t0\t1\t0\t\n\
             p/v#old\t15\t-\t-\t-\t-\np/v#synced\t30\t-\t-\t-\t-\n\
             p/v/below\t11\t5\t5\t-\t-\np/v/below@a\t21\t0\t0\t0\t\np/v/below@b\t31\t0\t0\t0\t\np/v/below#c\t31\t-\t-\t-\t-\n\
             p/v2\t12\t5\t5\t-\t-\np/v2@x\t40\t0\t0\t0\t\n",
        )
        .unwrap();
        let known = |name: &str| matches!(name, "a" | "b");
        assert_eq!(outside(&rows, "a", &known, false), ["p/v#synced", "p/v/below@b"]);
        // Of its own name it is none, and the bookmark is as old as the target.
        assert!(outside(&rows, "b", &known, false).is_empty());
        let of_one: Vec<Row> =
            rows.into_iter().filter(|row| !row.dataset.starts_with("p/v2")).collect();
        assert_eq!(written_since(&of_one, "a"), Some(8));
    }

    #[test]
    fn clones_and_holds_are_reported() {
        let rows = parse(
            "p/v\t10\t900\t7\t-\t-\np/v@a\t20\t1\t1\t0\t\np/v@b\t30\t0\t1\t2\t\np/v@c\t40\t0\t1\t0\tp/x,p/y\n",
        );
        let needed = |name: &str| needed(rows.as_ref().unwrap(), name).unwrap_or_default();
        assert_eq!(needed("a"), "");
        assert_eq!(needed("b"), "p/v@b is held, see `zfs holds`");
        assert_eq!(needed("c"), "p/x,p/y was cloned from p/v@c");
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
    fn an_unknown_format_is_refused() {
        assert!(parse("a\t1\t2\t3\n").is_err());
        assert!(parse("a\t1\t2\t-\t-\t-\n").is_err());
        assert!(parse("a@b\t1\t2\t3\t-\t\n").is_err());
        assert_eq!(parse("").unwrap(), []);
    }
}
