//! The record of the databases that this module has made or parked: one line of JSON each, in the state folder.
//!
//! Invariant: it has only complete databases. A database without a line was never finished; one whose line has another
//! OID was made by someone else.

use crate::names::Kind;
use crate::survey::Counters;
use anyhow::{Context, Result};
use host::atomic::{append_json, parse_lines};
use host::folder::SafeFolder;
use host::none_if_missing;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "databases";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub kind: Kind,
    /// The deploy id of a restore point, the rollback id of a parked state.
    pub id: String,
    pub name: String,
    pub oid: u32,
    /// The database of which it is a restore point, or whose name it had.
    pub database: String,
    /// The OID of the live database when it was made.
    pub live_oid: u32,
    pub at: String,
    pub release: Option<String>,
    /// The server's major version.
    pub major: u32,
    /// The system identifier of its cluster, if it was recorded. OIDs are unique in one cluster only.
    pub cluster: Option<String>,
    /// The original comment of the database, which is restored when it is live.
    pub comment: Option<String>,
    /// The digest of its content, if it was determined.
    pub digest: Option<String>,
    /// The counters of written rows when it was captured.
    pub counters: Option<Counters>,
    /// How long its capture took.
    pub milliseconds: Option<u64>,
}

impl Default for Entry {
    fn default() -> Entry {
        Entry {
            kind: Kind::RestorePoint,
            id: String::new(),
            name: String::new(),
            oid: 0,
            database: String::new(),
            live_oid: 0,
            at: String::new(),
            release: None,
            major: 0,
            cluster: None,
            comment: None,
            digest: None,
            counters: None,
            milliseconds: None,
        }
    }
}

impl Entry {
    /// Whether it is certain that the database is in another cluster than the one with this system identifier.
    pub fn is_of_another(&self, cluster: Option<&str>) -> bool {
        self.cluster.as_deref().zip(cluster).is_some_and(|(recorded, now)| recorded != now)
    }
}

pub fn add(state_dir: &Path, entry: &Entry) -> Result<()> {
    append_json(&state_dir.join(FILE), entry)
}

/// Reads the entries in their order; a later line about the same database of the same cluster replaces an earlier one.
pub fn read(state_dir: &Path) -> Result<Vec<Entry>> {
    let Some(folder) = SafeFolder::find(state_dir)? else { return Ok(Vec::new()) };
    let path = folder.join(FILE);
    let content = none_if_missing(std::fs::read(&path))
        .with_context(|| format!("cannot read {}", path.display()))?
        .unwrap_or_default();
    let mut all: Vec<Entry> = Vec::new();
    for entry in parse_lines::<Entry>(&path, &content, "remove it")? {
        all.retain(|known| known.oid != entry.oid || known.is_of_another(entry.cluster.as_deref()));
        all.push(entry);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_database_counts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        assert!(read(folder.path()).unwrap().is_empty());
        let point = Entry { oid: 7, name: "shop__before_x".into(), ..Entry::default() };
        let parked = Entry { kind: Kind::Parked, name: "shop__failed_y".into(), ..point.clone() };
        add(folder.path(), &point).unwrap();
        add(folder.path(), &Entry { oid: 8, ..Entry::default() }).unwrap();
        add(folder.path(), &parked).unwrap();
        let all = read(folder.path()).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1], parked);
        // A cluster that was made again gives out the same OIDs.
        add(folder.path(), &Entry { cluster: Some("1".into()), ..parked.clone() }).unwrap();
        add(folder.path(), &Entry { cluster: Some("2".into()), ..parked }).unwrap();
        assert_eq!(read(folder.path()).unwrap().len(), 3);
        std::fs::write(folder.path().join(FILE), "{}\n").unwrap();
        assert!(read(folder.path()).is_err());
    }
}
