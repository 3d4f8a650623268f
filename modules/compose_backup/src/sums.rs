//! Checks the sums of a backup's files: of a new backup, and of one that is about to be restored.
//!
//! Invariant: everything that a restore uses was hashed in that run, and read only once. So data is hashed
//! while it is staged, an image only if it is loaded, and everything else here.

use crate::backup_writer::{self, BackupWriter};
use crate::manifest::{Manifest, Mount, Sum};
use crate::progress::Progress;
use ansible_module::Failure;
use anyhow::{Context, Result};
use archive::Stored;
use host::clock;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

/// Reads and checks the new files of a backup. Linked files were already hashed in this run.
pub fn verify_new(writer: &BackupWriter, progress: &mut Progress) -> Result<Value> {
    let new = writer.contents.iter().filter(|(name, _)| !writer.is_linked(name));
    let read = compare(&writer.folder, new, progress)?;
    Ok(json!({ "at": clock::now(), "files": writer.contents.len(), "read_again": read }))
}

/// Checks that every file of a backup exists and has its sum.
pub fn check(folder: &Path, manifest: &Manifest, progress: &mut Progress) -> Result<()> {
    compare(folder, manifest.contents.iter(), progress).map(drop)
}

/// Checks, before a restore, that every file exists with its size, and the sums of those that are not hashed
/// later.
pub fn check_before_restore(
    folder: &Path,
    manifest: &Manifest,
    progress: &mut Progress,
) -> Result<()> {
    if let Some(odd) = check_sizes(folder, manifest) {
        return Err(unusable(&format!("{}/{odd}", folder.display())).into());
    }
    let segments = manifest.mounts.iter().flat_map(|mount| &mount.segments);
    let data: BTreeSet<&String> = segments.map(|one| &one.file).collect();
    let others = (manifest.contents.iter())
        .filter(|(name, _)| !data.contains(name) && !name.starts_with("images/"));
    compare(folder, others, progress).map(drop)
}

/// Opens the segments of a mount, which are hashed while they are restored.
pub fn stored(folder: &Path, manifest: &Manifest, mount: &Mount) -> Result<Vec<Stored>> {
    let segments = mount.segments.iter().map(|one| {
        let path = folder.join(&one.file);
        let sum = manifest
            .contents
            .get(&one.file)
            .ok_or_else(|| unusable(&format!("{} has no sum in the manifest", path.display())))?;
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Stored { number: one.number, file, sha256: Some(sum.sha256.clone()) })
    });
    segments.collect()
}

/// Makes the failure for data that was found to be damaged while it was restored.
pub fn damaged(folder: &Path, mount: &Mount, why: anyhow::Error) -> anyhow::Error {
    let names = host::joined(mount.segments.iter().map(|one| &one.file));
    let what = format!("the data of {} in {}", mount.title(), folder.display());
    let how = format!("{what} ({}, {}) is damaged", names, mount.index);
    unusable(&how).caused_by(why).into()
}

fn unusable(how: &str) -> Failure {
    Failure::new("damaged", format!("{how}: this backup cannot be used; use another one"))
}

/// Checks that every file exists and has its size, without reading it; returns the first problem.
pub fn check_sizes(folder: &Path, manifest: &Manifest) -> Option<String> {
    manifest.contents.iter().find_map(|(name, sum)| match folder.join(name).symlink_metadata() {
        Ok(meta) if meta.is_file() && meta.len() == sum.bytes => None,
        Ok(meta) => Some(format!("{name} has {} bytes instead of {}", meta.len(), sum.bytes)),
        Err(_) => Some(format!("{name} is missing")),
    })
}

fn compare<'a>(
    folder: &Path,
    files: impl Iterator<Item = (&'a String, &'a Sum)>,
    progress: &mut Progress,
) -> Result<u64> {
    let files: BTreeMap<_, _> = files.collect();
    progress.begin("the sums of the backup", Some(files.values().map(|sum| sum.bytes).sum()));
    let (mut read, mut count) = (0, 0);
    for (name, sum) in files {
        let path = folder.join(name);
        let damaged = |how: &str| unusable(&format!("{} {how}", path.display()));
        let (sha256, bytes) = match backup_writer::sum_of(&path) {
            Ok(seen) => seen,
            Err(error) if host::reason(&error) == Some("interrupted") => return Err(error),
            Err(error) => return Err(damaged("cannot be read").caused_by(error).into()),
        };
        if bytes != sum.bytes {
            return Err(damaged(&format!("has {bytes} bytes instead of {}", sum.bytes)).into());
        }
        if sha256 != sum.sha256 {
            return Err(damaged("was changed: its sum differs").into());
        }
        (read, count) = (read + bytes, count + 1);
        progress.update(read);
    }
    Ok(count)
}
