//! The records, in the state folder, of what restores have parked.
//!
//! Invariant: a record exists as long as something that it names; only what a record names is removed.

use crate::restore::work::Work;
use anyhow::{Context, Result};
use host::atomic::Replace;
use host::folder::SafeFolder;
use host::none_if_missing;
use host::spot::Spot;
use std::path::{Path, PathBuf};

const FOLDER: &str = "restores";

#[derive(Clone, Debug)]
pub struct Parked {
    pub id: String,
    pub work: Work,
}

/// Reads all records, the newest first.
pub fn read(state_dir: &Path) -> Result<Vec<Parked>> {
    let Some(folder) = SafeFolder::find(&state_dir.join(FOLDER))? else { return Ok(Vec::new()) };
    let list = || format!("listing {}", folder.path().display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder.path()).with_context(list)? {
        let path = entry.with_context(list)?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".done.json"))
        else {
            continue;
        };
        let content =
            std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let work = serde_json::from_slice(&content).with_context(|| {
            format!("cannot understand {}: correct it or remove it", path.display())
        })?;
        all.push(Parked { id: id.to_owned(), work });
    }
    all.sort_by(|one, other| (other.work.at, &other.id).cmp(&(one.work.at, &one.id)));
    Ok(all)
}

/// Returns the path of a restore's file in the state folder, which is made if it is missing.
pub fn file(state_dir: &Path, id: &str, ending: &str) -> Result<PathBuf> {
    let folder = SafeFolder::ensure(&state_dir.join(FOLDER), 0o700)?;
    Ok(folder.join(format!("{id}.{ending}")))
}

pub fn write(state_dir: &Path, work: &Work) -> Result<()> {
    let path = file(state_dir, &work.id, "done.json")?;
    Replace::new(&path).mode(0o600).write(&serde_json::to_vec_pretty(work)?).map(drop)
}

/// Removes what a restore has parked, then its record.
pub fn remove(state_dir: &Path, work: &Work) -> Result<()> {
    for path in work.parked() {
        if let Some(spot) = Spot::find(path)? {
            spot.remove_all().with_context(|| format!("removing {}", path.display()))?;
        }
    }
    forget(state_dir, &work.id)
}

/// Removes the files of a restore in the state folder, the record last.
pub fn forget(state_dir: &Path, id: &str) -> Result<()> {
    for ending in ["compose.json", "before.json", "goal.json", "done.json"] {
        none_if_missing(std::fs::remove_file(file(state_dir, id, ending)?))
            .with_context(|| format!("removing the record of restore {id}"))?;
    }
    Ok(())
}
