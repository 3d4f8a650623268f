//! Our own note of what was taken: which guid the snapshot of a dataset had.
//!
//! Invariant: it only ever makes us refuse. What is ours is told by ZFS's properties; a note that is
//! missing changes nothing, one that says another guid means that somebody made the snapshot again.

use anyhow::{Context, Result};
use host::atomic::{append_line, whole_lines};
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
    let line = serde_json::to_string(&taken)?;
    append_line(&state_dir.join(FILE), line.as_bytes()).map(drop)
}

/// A later note of a snapshot holds.
pub fn noted(state_dir: &Path) -> Result<Guids> {
    let path = state_dir.join(FILE);
    let content = none_if_missing(std::fs::read(&path))
        .with_context(|| format!("cannot read {}", path.display()))?
        .unwrap_or_default();
    let (lines, _torn) = whole_lines(&content);
    let mut all = Guids::new();
    for (number, line) in lines.enumerate() {
        let taken: Taken = serde_json::from_slice(line).with_context(|| {
            format!("line {} of {} is broken; take it out", number + 1, path.display())
        })?;
        all.extend(taken.guids);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_note_holds() {
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
