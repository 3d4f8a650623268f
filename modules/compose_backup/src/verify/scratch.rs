//! The folder of a verification, in the backup folder: copies of the backup's data and files.
//!
//! Invariant: everything in it was copied from the backup, and all of it is removed again; the folder has mode
//! 0700, so that only the containers of the verification can read the copies.

use crate::backup_writer;
use crate::manifest::Manifest;
use crate::manifest::{Kind, Mount};
use crate::sums;
use anyhow::{Context, Result};
use host::folder::SafeFolder;
use host::space::Space;
use host::spot::Spot;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const NAME: &str = ".proof";
/// The approximate size of an entry on the file system without its content.
const PER_ENTRY: u64 = 512;

pub struct Scratch {
    folder: PathBuf,
    /// The copies of files of `secrets:` or `configs:`, by their original paths.
    files: BTreeMap<PathBuf, PathBuf>,
}

impl Scratch {
    /// Restores the data of the backup into a new folder.
    pub fn fill(backup_dir: &Path, backup: &Path, manifest: &Manifest) -> Result<Scratch> {
        let bytes =
            manifest.mounts.iter().map(|mount| mount.bytes + mount.entries * PER_ENTRY).sum();
        let entries = manifest.mounts.iter().map(|mount| mount.entries).sum();
        let needed = Space { bytes, inodes: Some(entries) };
        Space::require(&format!("restoring {} to verify it", manifest.name), backup_dir, needed)?;
        let folder = SafeFolder::ensure(&backup_dir.join(NAME), 0o700)?.path().to_owned();
        let mut scratch = Scratch { folder, files: BTreeMap::new() };
        for below in ["data", "files"] {
            DirBuilder::new()
                .mode(0o700)
                .create(scratch.path(below))
                .context("making a folder of the verification")?;
        }
        for mount in &manifest.mounts {
            scratch.put(backup, manifest, mount)?;
        }
        for file in &manifest.files {
            let copy = scratch.path(&format!("files/{}", file.n));
            let mut from = File::open(backup.join(format!("config/files/{}", file.n)))
                .with_context(|| format!("reading the copy of {}", file.path.display()))?;
            let mut to = File::options().write(true).create_new(true).mode(0o600).open(&copy)?;
            std::io::copy(&mut from, &mut to)?;
            backup_writer::set_meta(&to, &file.meta)?;
            scratch.files.insert(file.path.clone(), copy);
        }
        Ok(scratch)
    }

    fn put(&self, backup: &Path, manifest: &Manifest, mount: &Mount) -> Result<()> {
        let into = Spot::of(&self.path(&format!("data/{}", mount.n)))?.make_folder()?;
        let index = File::open(backup.join(&mount.index))
            .with_context(|| format!("reading {} of the backup", mount.index))?;
        let segments = sums::stored(backup, manifest, mount)?;
        let done = archive::restore(index, segments, into, &mut |_| {});
        done.map(drop).map_err(|why| match archive::reason(&why) {
            Some("bad_archive") => sums::damaged(backup, mount, why),
            _ => why.context(format!("restoring {} to verify it", mount.title())),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the path of a mount's copy.
    pub fn of(&self, mount: &Mount) -> PathBuf {
        self.folder.join(copy_path(mount))
    }

    pub fn file(&self, path: &Path) -> Option<&PathBuf> {
        self.files.get(path)
    }

    #[cfg(test)]
    pub fn for_test(folder: &Path, files: &[(&str, &str)]) -> Scratch {
        let files = files.iter().map(|(path, copy)| (path.into(), folder.join(copy))).collect();
        Scratch { folder: folder.to_owned(), files }
    }
}

/// Returns the path of a mount's copy in the folder: a file keeps its name.
fn copy_path(mount: &Mount) -> PathBuf {
    let folder = PathBuf::from(format!("data/{}", mount.n));
    match (mount.kind, mount.source.file_name()) {
        (Kind::File, Some(name)) => folder.join(name),
        _ => folder,
    }
}

/// Removes the folder, if it exists.
pub fn remove(backup_dir: &Path) -> Result<()> {
    let path = backup_dir.join(NAME);
    match Spot::find(&path)? {
        Some(spot) => spot.remove_all(),
        None => Ok(()),
    }
}
