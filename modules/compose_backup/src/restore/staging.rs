//! Staging: makes the folders that a restore stages data in, and removes them.
//!
//! Invariant: only a folder that this restore has made, recognised by its identity, is filled or removed;
//! any other folder is removed only if it is empty.

use crate::backup_writer;
use crate::manifest::FileRecord;
use crate::restore::part::{Part, sibling};
use crate::restore::work::Work;
use anyhow::{Context, Result};
use host::beneath::Dir;
use host::meta::Meta;
use host::spot::{self, Spot};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Checks, before anything is stopped, that the file systems support an exchange.
pub fn try_exchange(work: &Work) -> Result<()> {
    let mut tried: Vec<&Path> = Vec::new();
    for part in &work.parts {
        let Some(folder) = part.source.parent().filter(|folder| folder.exists()) else {
            continue;
        };
        if tried.contains(&folder) {
            continue;
        }
        tried.push(folder);
        let [one, other] = names_to_try(part, &work.id);
        spot::try_exchange(&one, &other)?;
    }
    Ok(())
}

pub fn is_empty_and_ours(spot: &Spot) -> Result<bool> {
    let dir = spot.open()?;
    let meta = Meta::read(&dir)?;
    let ours = meta.uid == nix::unistd::geteuid().as_raw() && meta.mode & 0o077 == 0;
    Ok(ours && dir.is_empty()?)
}

fn names_to_try(part: &Part, id: &str) -> [PathBuf; 2] {
    ["1", "2"].map(|n| sibling(&part.source, "restoring", &format!("{id}.{n}")))
}

pub fn put_file(backup: &Path, file: &FileRecord, part: &Part, folder: &Dir) -> Result<()> {
    let name = part.source.file_name().context("a file has no name")?;
    let mut from = File::open(backup.join(format!("config/files/{}", file.n)))?;
    let mut to = folder.make_file(name, 0o600)?;
    std::io::copy(&mut from, &mut to)?;
    backup_writer::set_meta(&to, &file.meta)?;
    Ok(to.sync_all()?)
}

/// Removes the staging folder of a file that was put in place.
pub fn remove_staging_folder(part: &Part) -> Result<()> {
    if let Some(spot) = part.staging_folder().map(Spot::find).transpose()?.flatten() {
        if part.made.is_some() && spot.identity()? == part.made {
            spot.remove_if_empty();
        }
    }
    Ok(())
}

/// Removes staged data that was never put in place, only what this restore has made.
pub fn remove_staged(work: &Work) -> Result<()> {
    for part in &work.parts {
        for path in names_to_try(part, &work.id) {
            Spot::find(&path)?.iter().for_each(Spot::remove_if_empty);
        }
        let Some(spot) = part.staging_folder().map(Spot::find).transpose()?.flatten() else {
            continue;
        };
        let is_ours = part.made.is_some() && spot.identity()? == part.made;
        if is_ours && !part.was_in_place {
            spot.remove_all()?;
        } else if work.backup.is_some() {
            // The run was killed before it noted the folder, or the file in it was put in place.
            spot.remove_if_empty();
        }
    }
    Ok(())
}
