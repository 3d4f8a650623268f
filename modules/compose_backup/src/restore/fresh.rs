//! What is staged: the folders that a restore makes for it, and taking them away again.
//!
//! Invariant: only what this restore has made is filled or removed, told by its identity; else no more than
//! an empty folder.

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

/// Whether the file systems can do it, before anything is stopped.
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
    let name = part.source.file_name().context("a file without a name")?;
    let mut from = File::open(backup.join(format!("config/files/{}", file.n)))?;
    let mut to = folder.make_file(name, 0o600)?;
    std::io::copy(&mut from, &mut to)?;
    backup_writer::dress(&to, &file.meta)?;
    Ok(to.sync_all()?)
}

/// The folder of ours around a file that is in its place now.
pub fn remove_holder(part: &Part) -> Result<()> {
    if let Some(spot) = part.holder().map(Spot::find).transpose()?.flatten() {
        if part.made.is_some() && spot.identity()? == part.made {
            spot.remove_if_empty();
        }
    }
    Ok(())
}

/// Takes away what was staged and has never been in its place; only what this restore has made.
pub fn tidy(work: &Work) -> Result<()> {
    for part in &work.parts {
        for path in names_to_try(part, &work.id) {
            Spot::find(&path)?.iter().for_each(Spot::remove_if_empty);
        }
        let Some(spot) = part.holder().map(Spot::find).transpose()?.flatten() else { continue };
        let is_ours = part.made.is_some() && spot.identity()? == part.made;
        if is_ours && !part.stood {
            spot.remove_all()?;
        } else if work.backup.is_some() {
            // Killed after it was made and before that was noted, or a file's that is in its place.
            spot.remove_if_empty();
        }
    }
    Ok(())
}
