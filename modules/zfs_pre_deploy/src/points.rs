//! The module's record of the snapshots it took, with their guids.
//! Invariant: the record can only make a task refuse. Which snapshots are ours is read from their ZFS
//! properties; a missing entry changes nothing, and another guid means that somebody recreated the
//! snapshot.

use anyhow::{Context, Result};
use host::atomic::{append_json, parse_lines};
use host::none_if_missing;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "restore_points";

/// From a snapshot's whole name to its guid.
pub type Guids = BTreeMap<String, u64>;

#[derive(Serialize, Deserialize)]
struct Taken {
    deploy_id: String,
    guids: Guids,
}

pub fn note(state_dir: &Path, deploy_id: &str, guids: Guids) -> Result<()> {
    let taken = Taken { deploy_id: deploy_id.to_owned(), guids };
    append_json(&state_dir.join(FILE), &taken)
}

/// Reads the record; the last entry of a snapshot counts.
pub fn noted(state_dir: &Path) -> Result<Guids> {
    let path = state_dir.join(FILE);
    let content = none_if_missing(std::fs::read(&path))
        .with_context(|| format!("cannot read {}", path.display()))?
        .unwrap_or_default();
    let taken: Vec<Taken> = parse_lines(&path, &content, "remove it")?;
    Ok(taken.into_iter().flat_map(|taken| taken.guids).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_counts() {
        let folder = tempfile::tempdir().unwrap();
        assert!(noted(folder.path()).unwrap().is_empty());
        for guid in [7, 8] {
            let guids = Guids::from([("tank/a@x".to_owned(), guid)]);
            note(folder.path(), "20261121t084500z-7f3a", guids).unwrap();
        }
        assert_eq!(noted(folder.path()).unwrap()["tank/a@x"], 8);
        std::fs::write(folder.path().join(FILE), "{}\n").unwrap();
        assert!(noted(folder.path()).is_err());
    }
}
