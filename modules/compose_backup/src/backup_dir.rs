//! The backup folder: which backups there are, which is the newest, what a new one is called, and
//! which ones may go.
//!
//! Invariants: a backup counts when its folder has its final name and its manifest is sound; the
//! order is that of the sequence numbers, never that of file times or of the clock; the pointer file
//! is an export that is compared and never believed.

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
    /// Why it cannot be used, where it cannot.
    pub manifest: Result<Manifest>,
}

#[derive(Debug, Default)]
pub struct BackupDir {
    pub dir: PathBuf,
    /// The newest first; those that cannot be read come last.
    pub backups: Vec<StoredBackup>,
    /// Names of folders that were not completed, with their ending.
    pub partial: Vec<String>,
    pub warnings: Vec<String>,
}

/// `backup-20261121-084500`, and `-2` and so on where two meet.
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
    /// A folder that is not there holds nothing.
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
                Some(begun) if is_name(begun) => stored.partial.push(name),
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
            let key = |kept: &StoredBackup| {
                kept.manifest.as_ref().map_or(0, |manifest| manifest.sequence)
            };
            key(other).cmp(&key(one)).then_with(|| other.name.cmp(&one.name))
        });
        stored.compare_pointer();
        Ok(stored)
    }

    /// The pointer says something else than what is there.
    pub fn is_misdirected(&self) -> bool {
        !self.warnings.is_empty()
    }

    fn compare_pointer(&mut self) {
        let Ok(text) = std::fs::read_to_string(self.dir.join(POINTER)) else { return };
        let newest = self.newest().map(|(kept, _)| kept.name.as_str());
        if Some(text.trim()) != newest {
            self.warnings.push(format!(
                "{POINTER} says {:?}, and the newest complete backup is {}; the file is not used",
                text.trim().chars().take(60).collect::<String>(),
                newest.unwrap_or("none")
            ));
        }
    }

    /// Those whose manifest can be read, the newest first.
    pub fn sound(&self) -> impl Iterator<Item = (&StoredBackup, &Manifest)> {
        self.backups.iter().filter_map(|kept| Some((kept, kept.manifest.as_ref().ok()?)))
    }

    /// The newest that did not fail its proof.
    pub fn newest(&self) -> Option<(&StoredBackup, &Manifest)> {
        self.sound().find(|(_, manifest)| manifest.is_good())
    }

    pub fn find(&self, name: &str) -> Option<&StoredBackup> {
        self.backups.iter().find(|kept| kept.name == name)
    }

    pub fn of_deploy(&self, id: &str) -> Option<(&StoredBackup, &Manifest)> {
        self.sound().find(|(_, manifest)| manifest.deploy_id.as_str() == id && manifest.is_good())
    }

    /// A folder is for one project: the pointer and retention would mix them up.
    pub fn refuse_others(&self, project: &str) -> Result<(), Failure> {
        match self.sound().find(|(_, manifest)| manifest.project != project) {
            Some((kept, manifest)) => Err(Failure::new(
                "foreign_backup_dir",
                format!(
                    "{} holds {} of project {}, and a folder is for one project: give another \
                     backup_dir for {project}; nothing was changed",
                    self.dir.display(),
                    kept.name,
                    manifest.project
                ),
            )),
            None => Ok(()),
        }
    }

    pub fn next_sequence(&self) -> u64 {
        self.sound().map(|(_, manifest)| manifest.sequence).max().unwrap_or(0) + 1
    }

    /// A name that no backup has, and none that was begun.
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

    /// The names that go when `retain` are to be left, one of which is about to be made and proven.
    pub fn surplus(&self, retain: usize, keep: &[String], making_one: bool) -> Vec<String> {
        let room = if making_one { retain.saturating_sub(1) } else { retain.max(1) };
        let (mut good, mut names) = (0, Vec::new());
        for (kept, manifest) in self.sound() {
            let goes = match manifest.is_good() {
                true => {
                    good += 1;
                    good > room
                }
                // One that failed its proof is better than none.
                false => making_one || good > 0,
            };
            let named =
                keep.iter().any(|one| *one == kept.name || one == manifest.deploy_id.as_str());
            if goes && !named {
                names.push(kept.name.clone());
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

    /// Points to the newest that is left, or to nothing.
    pub fn repoint(dir: &Path) -> Result<()> {
        let stored = BackupDir::read(dir)?;
        let newest = stored.newest().map(|(kept, _)| kept.name.clone());
        match newest {
            Some(name) => stored.write_pointer(&name),
            None => {
                none_if_missing(std::fs::remove_file(stored.dir.join(POINTER)))?;
                Ok(())
            }
        }
    }
}

/// Takes a folder of ours away. Its name goes first, so that what is half removed counts as nothing.
pub fn remove(dir: &Path, name: &str) -> Result<()> {
    let mut path = dir.join(name);
    if is_name(name) {
        let doomed = dir.join(format!("{name}{PARTIAL}"));
        std::fs::rename(&path, &doomed).with_context(|| format!("removing {}", path.display()))?;
        host::atomic::sync_folder(dir)?;
        path = doomed;
    }
    std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
    host::atomic::sync_folder(dir)
}
