//! Loads recorded images into an engine.
//!
//! Invariants: the sums of all files that are used are checked first; an image that the engine already has is neither loaded nor
//! read; an image is loaded under a temporary name, so that no tag of the user moves before the caller
//! retags; loaded images are compared with their records.

use crate::docker::Docker;
use crate::images::Progress;
use crate::images::files;
use crate::images::inspect::inspect;
use crate::images::outgoing;
use crate::images::pipe;
use crate::images::record::{FileRecord, ImageRecord, Loaded};
use crate::images::same::difference_to;
use crate::images::tags::temporary;
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::deadline::Deadline;
use std::path::Path;

/// Loads the images that the engine does not have, and returns all of them in the order of the records.
/// `from` is the images' folder of the backup, `files` the records of its files.
pub fn load(
    docker: &Docker,
    records: &[ImageRecord],
    files: &[FileRecord],
    from: &Path,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Vec<Loaded>> {
    let needed =
        |file: &&FileRecord| records.iter().any(|record| record.files.contains(&file.name));
    let needed: Vec<FileRecord> = files.iter().filter(needed).cloned().collect();
    let unnamed = (records.iter().flat_map(|record| &record.files))
        .find(|name| !needed.iter().any(|file| file.name == **name));
    if let Some(name) = unnamed {
        let msg = format!("the backup is damaged: its manifest has no sum of {name}");
        return Err(Failure::new("damaged", msg).into());
    }
    // An image in the engine is compared by its configuration.
    let of_all =
        needed.iter().filter(|file| records.iter().any(|record| record.config_file() == file.name));
    files::check(from, &of_all.cloned().collect::<Vec<_>>(), &mut *progress)?;
    let there = present(docker, records, from)?;
    let missing: Vec<(&ImageRecord, String)> = (records.iter().zip(&there))
        .filter(|(_, id)| id.is_none())
        .map(|(record, _)| (record, temporary(&record.config_digest)))
        .collect();
    if !missing.is_empty() {
        let of_missing = needed
            .iter()
            .filter(|file| missing.iter().any(|(record, _)| record.files.contains(&file.name)));
        files::check(from, &of_missing.cloned().collect::<Vec<_>>(), &mut *progress)?;
        let command = docker.command().deadline(deadline).args(["image", "load", "--quiet"]);
        let names = host::joined(missing.iter().flat_map(|(record, _)| &record.references));
        pipe::writing(command, |end| outgoing::send(end, &missing, from, progress))
            .map_err(|error| pipe::explained(docker, error))
            .with_context(|| format!("cannot load the images {names}"))?;
    }
    let loaded = (records.iter().zip(there)).map(|(record, there)| {
        let was_missing = there.is_none();
        let id_now = there.map_or_else(|| check_loaded(docker, record, from), Ok)?;
        Ok(Loaded {
            id: record.id.clone(),
            config_digest: record.config_digest.clone(),
            id_now,
            references: record.references.clone(),
            was_missing,
        })
    });
    loaded.collect()
}

/// Finds the id of each image that the engine already has, under any name.
fn present(docker: &Docker, records: &[ImageRecord], from: &Path) -> Result<Vec<Option<String>>> {
    let find = |record: &ImageRecord| -> Result<Option<String>> {
        let temporary = temporary(&record.config_digest);
        let mut names = vec![&record.id, &record.config_digest, &temporary];
        names.extend(record.references.iter().chain(&record.tags));
        names.dedup();
        for name in names {
            if let Some(seen) = inspect(docker, name)? {
                if difference_to(record, from, &seen)?.is_none() {
                    return Ok(Some(seen.id));
                }
            }
        }
        Ok(None)
    };
    records.iter().map(find).collect()
}

/// Checks an image that was loaded.
fn check_loaded(docker: &Docker, record: &ImageRecord, from: &Path) -> Result<String> {
    let name = temporary(&record.config_digest);
    let what = record.references.join(", ");
    let not = |how: &str| {
        let msg = format!("the image {what} was loaded, but the one in the engine now {how}");
        Failure::new("not_verified", msg)
    };
    let seen = inspect(docker, &name)?.ok_or_else(|| not("does not have its name"))?;
    match difference_to(record, from, &seen)? {
        None => Ok(seen.id),
        Some(how) => Err(not(&how).into()),
    }
}
