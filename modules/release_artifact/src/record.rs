//! The record of an unpacked release: where it was fetched from, its sum, and a listing of its entries.
//!
//! Record and listing are next to the releases, in a folder that only root reads. The listing has name, type,
//! mode, size and time of each entry, and no digest of the files' content: it is compared in well under a
//! second, and finds missing, truncated and edited files, but not bits that have changed on the disk.
//! Invariant: both are on the disk before the release gets its name, so a release without a record was not
//! unpacked by us, and a record that a crash has left has no release.

use crate::names::ReleaseSha;
use anyhow::{Context, Result, bail};
use archive::names::{escaped, unescaped};
use host::beneath::Mounts;
use host::clock::Utc;
use host::deploy_id::DeployId;
use host::folder::SafeFolder;
use host::meta::{Kind, Meta};
use host::none_if_missing;
use host::walk::{Cause, Missed, Tree};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    v: u32,
    pub sha: ReleaseSha,
    /// Increases from each release to the next one, independent of the clock.
    pub order: u64,
    pub unpacked: Utc,
    pub deploy_id: Option<DeployId>,
    /// Host and port of the registry.
    pub from: String,
    /// The sum of the archive.
    pub sha256: String,
    /// The names of the sums that it was compared with.
    pub checked: Vec<String>,
    pub archive_bytes: u64,
    pub entries: u64,
    pub bytes: u64,
}

impl Record {
    pub fn new(sha: ReleaseSha, order: u64, unpacked: Utc, from: String) -> Record {
        Record {
            v: VERSION,
            sha,
            order,
            unpacked,
            deploy_id: None,
            from,
            sha256: String::new(),
            checked: Vec::new(),
            archive_bytes: 0,
            entries: 0,
            bytes: 0,
        }
    }

    /// Returns `None` if the release has no record.
    pub fn read(records: &SafeFolder, sha: &ReleaseSha) -> Result<Option<Record>> {
        let path = file_of(records, sha);
        let bytes = none_if_missing(fs::read(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let record: Record = serde_json::from_slice(&bytes)
            .with_context(|| format!("cannot parse {}", path.display()))?;
        if record.v != VERSION || record.sha != *sha {
            bail!("cannot parse {}: it is of another version or release", path.display());
        }
        Ok(Some(record))
    }

    /// Writes the record without a sync, since the filesystem is synced before the release gets its name.
    pub fn write(&self, records: &SafeFolder) -> Result<()> {
        let path = file_of(records, &self.sha);
        fs::write(&path, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes record and listing, after the release itself.
    pub fn remove(records: &SafeFolder, sha: &ReleaseSha) -> Result<()> {
        for path in [file_of(records, sha), listing_of(records, sha)] {
            none_if_missing(fs::remove_file(&path))
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

fn file_of(records: &SafeFolder, sha: &ReleaseSha) -> PathBuf {
    records.join(format!("{sha}.json"))
}

pub fn listing_of(records: &SafeFolder, sha: &ReleaseSha) -> PathBuf {
    records.join(format!("{sha}.files"))
}

/// Writes the line of an entry; they are in the order in which they were unpacked.
pub fn note(to: &mut dyn Write, kind: &EntryKind, name: &OsStr) -> std::io::Result<()> {
    let name = escaped(name);
    match kind {
        EntryKind::Folder => writeln!(to, "d {name}"),
        EntryKind::Link { target } => writeln!(to, "l {name} {}", escaped(target)),
        EntryKind::File { mode, size, modified } => {
            writeln!(to, "f {name} {mode:o} {size} {modified}")
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// Mode and time of a folder are not compared: they change when a program makes files there.
    Folder,
    Link {
        target: &'a OsStr,
    },
    File {
        mode: u32,
        size: u64,
        modified: i64,
    },
}

/// Describes how a release differs from its listing, by the first entry that does. Files that programs have
/// added (caches, pid files) are no difference.
pub fn difference(listing: &Path, release: &Path) -> Result<Option<String>> {
    let tree = Tree::open(release, Mounts::Refuse)?;
    let cannot = || format!("cannot read {}", listing.display());
    let Some(file) = none_if_missing(File::open(listing)).with_context(cannot)? else {
        return Ok(Some("the listing of what was unpacked is missing".into()));
    };
    for line in BufReader::new(file).lines() {
        let line = line.with_context(cannot)?;
        host::interrupt::check()?;
        let Some(found) = compare(&tree, &line) else {
            return Ok(Some("the listing of what was unpacked cannot be read".into()));
        };
        match found {
            Ok(None) => {}
            Ok(Some(how)) => {
                let name = line.split(' ').nth(1).unwrap_or_default();
                return Ok(Some(format!("{name} {how}")));
            }
            Err(Missed { path, cause: Cause::Vanished | Cause::Swapped }) => {
                return Ok(Some(format!("{} is missing", escaped(path.as_os_str()))));
            }
            Err(missed) => return Err(missed.into()),
        }
    }
    Ok(None)
}

type Compared = Result<Option<String>, Missed>;

/// Returns `None` for an invalid line.
fn compare(tree: &Tree, line: &str) -> Option<Compared> {
    let words: Vec<&str> = line.split(' ').collect();
    let name = PathBuf::from(unescaped(words.get(1)?)?);
    let entry = match tree.entry(&name) {
        Ok(entry) => entry,
        Err(missed) => return Some(Err(missed)),
    };
    let kind = |wanted, what: &str| {
        (entry.meta.kind != wanted).then(|| format!("is not a {what} any more"))
    };
    Some(Ok(match (words[0], words.len()) {
        ("d", 2) => kind(Kind::Folder, "folder"),
        ("l", 3) => match kind(Kind::Link, "symbolic link") {
            Some(how) => Some(how),
            None => match tree.read_link(&entry) {
                Ok(target) if target.as_os_str() == unescaped(words[2])? => None,
                Ok(_) => Some("leads to another target".into()),
                Err(missed) => return Some(Err(missed)),
            },
        },
        ("f", 5) => {
            let mode = u32::from_str_radix(words[2], 8).ok()?;
            let (size, modified) = (words[3].parse().ok()?, words[4].parse().ok()?);
            kind(Kind::File, "file").or_else(|| of_file(&entry.meta, mode, size, modified))
        }
        _ => return None,
    }))
}

fn of_file(meta: &Meta, mode: u32, size: u64, modified: i64) -> Option<String> {
    let now = meta.mode & 0o7777;
    if meta.size != size {
        Some(format!("has {} bytes instead of {size}", meta.size))
    } else if meta.modified.0 != modified {
        Some("was modified since".into())
    } else if now != mode {
        Some(format!("has the mode {now:04o} instead of {mode:04o}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn release() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (listing, release) = (dir.path().join("listing"), dir.path().join("release"));
        fs::create_dir_all(release.join("a folder")).unwrap();
        fs::write(release.join("a folder/run"), "x").unwrap();
        fs::set_permissions(release.join("a folder/run"), PermissionsExt::from_mode(0o755))
            .unwrap();
        symlink("a folder/run", release.join("link")).unwrap();
        let run = Meta::read(File::open(release.join("a folder/run")).unwrap()).unwrap();
        let mut lines = Vec::new();
        let file = EntryKind::File { mode: 0o755, size: 1, modified: run.modified.0 };
        note(&mut lines, &EntryKind::Folder, "a folder".as_ref()).unwrap();
        note(&mut lines, &file, "a folder/run".as_ref()).unwrap();
        note(&mut lines, &EntryKind::Link { target: "a folder/run".as_ref() }, "link".as_ref())
            .unwrap();
        fs::write(&listing, lines).unwrap();
        (dir, listing, release)
    }

    #[test]
    fn files_added_by_programs_are_no_difference() {
        let (_dir, listing, release) = release();
        assert_eq!(difference(&listing, &release).unwrap(), None);
        fs::write(release.join("a folder/cache"), "made by the app").unwrap();
        assert_eq!(difference(&listing, &release).unwrap(), None);
    }

    #[test]
    fn the_first_difference_is_reported() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 6] = [
            ("is missing", |at| fs::remove_file(at.join("a folder/run")).unwrap()),
            ("has 2 bytes instead of 1", |at| fs::write(at.join("a folder/run"), "xy").unwrap()),
            ("has the mode 0700 instead of 0755", |at| {
                let mode = PermissionsExt::from_mode(0o700);
                fs::set_permissions(at.join("a folder/run"), mode).unwrap();
            }),
            ("was modified since", |at| {
                let file = File::options().write(true).open(at.join("a folder/run")).unwrap();
                file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            }),
            ("leads to another target", |at| {
                fs::remove_file(at.join("link")).unwrap();
                symlink("a folder", at.join("link")).unwrap();
            }),
            ("is not a symbolic link any more", |at| {
                fs::remove_file(at.join("link")).unwrap();
                fs::write(at.join("link"), "").unwrap();
            }),
        ];
        for (words, change) in changes {
            let (_dir, listing, release) = release();
            change(&release);
            let found = difference(&listing, &release).unwrap();
            assert!(
                found.as_ref().is_some_and(|found| found.contains(words)),
                "{words}: {found:?}"
            );
        }
    }

    #[test]
    fn an_invalid_listing_is_reported() {
        let (_dir, listing, release) = release();
        for odd in ["f run 755 1\n", "x run\n", "d\n", "f run 9 1 1\n"] {
            fs::write(&listing, odd.replace("run", "a%20folder/run")).unwrap();
            let found = difference(&listing, &release);
            assert!(found.unwrap().unwrap().contains("cannot be read"), "{odd}");
        }
        fs::remove_file(&listing).unwrap();
        assert!(difference(&listing, &release).unwrap().unwrap().contains("is missing"));
    }
}
