//! The backup folder: its backups, the newest one, the name of a new one, and which ones to prune.
//!
//! Invariants: a backup counts if its folder has its final name and its manifest is valid; the order is
//! that of the sequence numbers, never that of file times or of the clock; the pointer file is only an
//! export: it is compared, but never relied on.

#[cfg(test)]
mod tests;

use crate::manifest::Manifest;
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::clock::Utc;
use host::folder::SafeFolder;
use host::none_if_missing;
use std::path::{Path, PathBuf};

pub const POINTER: &str = "last-deployment-backup.txt";
pub const PARTIAL: &str = ".partial";

#[derive(Debug)]
pub struct StoredBackup {
    pub name: String,
    pub path: PathBuf,
    /// The manifest, or why it cannot be used.
    pub manifest: Result<Manifest>,
}

#[derive(Debug, Default)]
pub struct BackupDir {
    pub dir: PathBuf,
    /// The backups, the newest first; unreadable ones come last.
    pub backups: Vec<StoredBackup>,
    /// The names of incomplete folders, with their suffix.
    pub partial: Vec<String>,
    pub warnings: Vec<String>,
}

/// Whether it is a name such as `backup-20261121-084500`, or with `-2` and so on if that was taken.
pub fn is_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("backup-") else { return false };
    let mut parts = rest.split('-');
    let digits = |part: Option<&str>, lengths: std::ops::RangeInclusive<usize>| {
        part.is_some_and(|part| {
            lengths.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    digits(parts.next(), 8..=8)
        && digits(parts.next(), 6..=6)
        && parts.next().is_none_or(|suffix| digits(Some(suffix), 1..=4))
        && parts.next().is_none()
}

impl BackupDir {
    /// Reads a backup folder; a missing one has no backups.
    pub fn read(dir: &Path) -> Result<BackupDir> {
        let mut stored = BackupDir { dir: dir.to_owned(), ..BackupDir::default() };
        let Some(folder) = SafeFolder::find(dir)? else { return Ok(stored) };
        stored.dir = folder.path().to_owned();
        let list = || format!("listing {}", dir.display());
        for entry in std::fs::read_dir(folder.path()).with_context(list)? {
            let entry = entry.with_context(list)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !entry.file_type().with_context(list)?.is_dir() {
                continue;
            }
            match name.strip_suffix(PARTIAL) {
                Some(complete) if is_name(complete) => stored.partial.push(name),
                None if is_name(&name) => {
                    let path = folder.join(&name);
                    stored.backups.push(StoredBackup {
                        manifest: Manifest::read(&path),
                        path,
                        name,
                    });
                }
                _ => {}
            }
        }
        stored.partial.sort();
        stored.backups.sort_by(|one, other| {
            let key = |backup: &StoredBackup| {
                backup.manifest.as_ref().map_or(0, |manifest| manifest.sequence)
            };
            key(other).cmp(&key(one)).then_with(|| other.name.cmp(&one.name))
        });
        stored.compare_pointer();
        Ok(stored)
    }

    /// Whether the pointer file does not name the newest backup.
    pub fn is_pointer_wrong(&self) -> bool {
        !self.warnings.is_empty()
    }

    fn compare_pointer(&mut self) {
        let Ok(text) = std::fs::read_to_string(self.dir.join(POINTER)) else { return };
        let newest = self.newest().map(|(backup, _)| backup.name.as_str());
        if Some(text.trim()) != newest {
            self.warnings.push(format!(
                "{POINTER} contains {:?}, but the newest complete backup is {}; the file is not used",
                text.trim().chars().take(60).collect::<String>(),
                newest.unwrap_or("none")
            ));
        }
    }

    /// Returns the backups with a valid manifest, the newest first.
    pub fn valid(&self) -> impl Iterator<Item = (&StoredBackup, &Manifest)> {
        self.backups.iter().filter_map(|backup| Some((backup, backup.manifest.as_ref().ok()?)))
    }

    /// Returns the newest backup that did not fail its verification.
    pub fn newest(&self) -> Option<(&StoredBackup, &Manifest)> {
        self.valid().find(|(_, manifest)| manifest.is_good())
    }

    pub fn find(&self, name: &str) -> Option<&StoredBackup> {
        self.backups.iter().find(|backup| backup.name == name)
    }

    pub fn of_deploy(&self, id: &str) -> Option<(&StoredBackup, &Manifest)> {
        self.valid().find(|(_, manifest)| manifest.deploy_id.as_str() == id && manifest.is_good())
    }

    /// Refuses a folder with backups of another project: the pointer and retention would mix them up.
    pub fn refuse_other_projects(&self, project: &str) -> Result<(), Failure> {
        match self.valid().find(|(_, manifest)| manifest.project != project) {
            Some((backup, manifest)) => Err(Failure::new(
                "foreign_backup_dir",
                format!(
                    "{} contains {} of project {}, but a backup folder is for one project: give another \
                     backup_dir for {project}; nothing was changed",
                    self.dir.display(),
                    backup.name,
                    manifest.project
                ),
            )),
            None => Ok(()),
        }
    }

    pub fn next_sequence(&self) -> u64 {
        self.valid().map(|(_, manifest)| manifest.sequence).max().unwrap_or(0) + 1
    }

    /// Returns a name that no backup has, not even an incomplete one.
    pub fn new_name(&self, at: Utc) -> String {
        let time = at.compact();
        let plain = format!("backup-{}-{}", &time[..8], &time[9..15]);
        let taken = |name: &String| {
            self.find(name).is_some()
                || self.partial.iter().any(|one| one.strip_suffix(PARTIAL) == Some(name))
        };
        let numbered = (2..).map(|n| format!("{plain}-{n}"));
        std::iter::once(plain.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(plain)
    }

    /// Returns the names to remove so that `retain` backups remain, counting the one that is about to be
    /// made, if any.
    pub fn surplus(&self, retain: usize, keep: &[String], making_one: bool) -> Vec<String> {
        let room = if making_one { retain.saturating_sub(1) } else { retain.max(1) };
        let (mut good, mut names) = (0, Vec::new());
        for (backup, manifest) in self.valid() {
            let goes = match manifest.is_good() {
                true => {
                    good += 1;
                    good > room
                }
                // A backup that failed its verification is better than none.
                false => making_one || good > 0,
            };
            let named =
                keep.iter().any(|one| *one == backup.name || one == manifest.deploy_id.as_str());
            if goes && !named {
                names.push(backup.name.clone());
            }
        }
        names
    }

    pub fn write_pointer(&self, name: &str) -> Result<()> {
        let path = self.dir.join(POINTER);
        host::atomic::Replace::new(&path)
            .mode(0o600)
            .write(format!("{name}\n").as_bytes())
            .map(drop)
    }

    /// Updates the pointer to the newest backup, or removes it.
    pub fn update_pointer(dir: &Path) -> Result<()> {
        let stored = BackupDir::read(dir)?;
        let newest = stored.newest().map(|(backup, _)| backup.name.clone());
        match newest {
            Some(name) => stored.write_pointer(&name),
            None => {
                none_if_missing(std::fs::remove_file(stored.dir.join(POINTER)))?;
                Ok(())
            }
        }
    }
}

/// Removes a folder. It is renamed first, so that a half-removed one does not count as a backup.
pub fn remove(dir: &Path, name: &str) -> Result<()> {
    let mut path = dir.join(name);
    if is_name(name) {
        let incomplete = dir.join(format!("{name}{PARTIAL}"));
        std::fs::rename(&path, &incomplete)
            .with_context(|| format!("removing {}", path.display()))?;
        host::atomic::sync_folder(dir)?;
        path = incomplete;
    }
    std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
    host::atomic::sync_folder(dir)
}
