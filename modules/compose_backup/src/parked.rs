//! The files of restores in the state folder: the records of what they have parked, and what a killed run
//! needs to be finished.
//!
//! Invariant: a record exists as long as something that it names; only what a record names is removed.

use crate::restore::work::Work;
use anyhow::{Context, Result};
use host::atomic::{Replace, read_json};
use host::folder::SafeFolder;
use host::none_if_missing;
use host::spot::Spot;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

const FOLDER: &str = "restores";

/// A JSON file of one restore.
#[derive(Clone, Copy, Debug)]
pub enum RestoreFile {
    /// The configuration with which the services are started.
    Compose,
    /// The configuration before the restore, for a revert.
    Before,
    /// What is restored, for the run that finishes a killed one.
    Goal,
    /// The record of what is parked.
    Done,
}

impl RestoreFile {
    /// All files; the record is the last one, so that it is also removed last.
    const ALL: [RestoreFile; 4] =
        [RestoreFile::Compose, RestoreFile::Before, RestoreFile::Goal, RestoreFile::Done];

    fn suffix(self) -> &'static str {
        match self {
            RestoreFile::Compose => ".compose.json",
            RestoreFile::Before => ".before.json",
            RestoreFile::Goal => ".goal.json",
            RestoreFile::Done => ".done.json",
        }
    }

    /// Returns the path of the file of a restore. The folder is made if it is missing.
    pub fn path(self, state_dir: &Path, id: &str) -> Result<PathBuf> {
        let folder = SafeFolder::ensure(&state_dir.join(FOLDER), 0o700)?;
        Ok(folder.join(format!("{id}{}", self.suffix())))
    }

    /// Writes the file and returns its path.
    pub fn write(self, state_dir: &Path, id: &str, value: &impl Serialize) -> Result<PathBuf> {
        let path = self.path(state_dir, id)?;
        let content = match self {
            // People read the records.
            RestoreFile::Done => serde_json::to_vec_pretty(value)?,
            _ => serde_json::to_vec(value)?,
        };
        Replace::new(&path).mode(0o600).write(&content)?;
        Ok(path)
    }

    pub fn read<T: DeserializeOwned>(self, state_dir: &Path, id: &str) -> Result<T> {
        read_json(&self.path(state_dir, id)?)
    }
}

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
        let suffix = RestoreFile::Done.suffix();
        let Some(id) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(suffix)) else {
            continue;
        };
        let work = read_json(&path).with_context(|| {
            format!("cannot read the record {}: correct it or remove it", path.display())
        })?;
        all.push(Parked { id: id.to_owned(), work });
    }
    all.sort_by(|one, other| (other.work.at, &other.id).cmp(&(one.work.at, &one.id)));
    Ok(all)
}

pub fn write(state_dir: &Path, work: &Work) -> Result<()> {
    RestoreFile::Done.write(state_dir, &work.id, work).map(drop)
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
    for file in RestoreFile::ALL {
        none_if_missing(std::fs::remove_file(file.path(state_dir, id)?))
            .with_context(|| format!("removing the record of restore {id}"))?;
    }
    Ok(())
}
