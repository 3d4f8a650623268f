//! What is remembered of a release that was unpacked: where it came from, its sum, and a listing of
//! what it is made of.
//!
//! Both lie beside the releases, in a folder that only root reads. The listing has name, kind, mode,
//! size and time of each entry, and no digest of the files' content: it is compared in well under a
//! second, and notices what is missing, cut, or was edited; not a bit that has turned on the disk.
//! Invariant: both are on the disk before the release gets its name, so a release without a record is
//! not ours, and what a crash has left of a record has no release.

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
    /// Which came first: grows from one to the next, whatever the clock does.
    pub order: u64,
    pub unpacked: Utc,
    pub deploy_id: Option<DeployId>,
    /// Host and port of the registry.
    pub from: String,
    /// Of the archive.
    pub sha256: String,
    /// What the sum was compared with.
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

    /// `None`: there is none.
    pub fn read(records: &SafeFolder, sha: &ReleaseSha) -> Result<Option<Record>> {
        let path = file_of(records, sha);
        let bytes = none_if_missing(fs::read(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let record: Record = serde_json::from_slice(&bytes)
            .with_context(|| format!("cannot understand {}", path.display()))?;
        if record.v != VERSION || record.sha != *sha {
            bail!("cannot understand {}: it is of another version or release", path.display());
        }
        Ok(Some(record))
    }

    /// Not synced: the release gets its name only after all of this filesystem was.
    pub fn write(&self, records: &SafeFolder) -> Result<()> {
        let path = file_of(records, &self.sha);
        fs::write(&path, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Takes record and listing away, after the release itself.
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

/// A line for each entry, in the order in which they were unpacked.
pub fn note(to: &mut dyn Write, kind: &NotedKind, name: &OsStr) -> std::io::Result<()> {
    let name = escaped(name);
    match kind {
        NotedKind::Folder => writeln!(to, "d {name}"),
        NotedKind::Link { target } => writeln!(to, "l {name} {}", escaped(target)),
        NotedKind::File { mode, size, modified } => {
            writeln!(to, "f {name} {mode:o} {size} {modified}")
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotedKind<'a> {
    /// Mode and time of a folder change when a program puts something of its own there.
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

/// How a release differs from its listing, in a sentence about the first entry that does. What
/// programs have added (caches, pid files) is no difference.
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

/// `None`: the line cannot be read.
fn compare(tree: &Tree, line: &str) -> Option<Compared> {
    let words: Vec<&str> = line.split(' ').collect();
    let name = PathBuf::from(unescaped(words.get(1)?)?);
    let entry = match tree.entry(&name) {
        Ok(entry) => entry,
        Err(missed) => return Some(Err(missed)),
    };
    let kind =
        |wanted, what: &str| (entry.meta.kind != wanted).then(|| format!("is no {what} any more"));
    Some(Ok(match (words[0], words.len()) {
        ("d", 2) => kind(Kind::Folder, "folder"),
        ("l", 3) => match kind(Kind::Link, "symbolic link") {
            Some(how) => Some(how),
            None => match tree.read_link(&entry) {
                Ok(target) if target.as_os_str() == unescaped(words[2])? => None,
                Ok(_) => Some("leads to another place".into()),
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
        Some(format!("has {} bytes, and had {size}", meta.size))
    } else if meta.modified.0 != modified {
        Some("was written to since".into())
    } else if now != mode {
        Some(format!("has the mode {now:04o}, and had {mode:04o}"))
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
        let file = NotedKind::File { mode: 0o755, size: 1, modified: run.modified.0 };
        note(&mut lines, &NotedKind::Folder, "a folder".as_ref()).unwrap();
        note(&mut lines, &file, "a folder/run".as_ref()).unwrap();
        note(&mut lines, &NotedKind::Link { target: "a folder/run".as_ref() }, "link".as_ref())
            .unwrap();
        fs::write(&listing, lines).unwrap();
        (dir, listing, release)
    }

    #[test]
    fn what_was_unpacked_and_what_programs_add_is_no_difference() {
        let (_dir, listing, release) = release();
        assert_eq!(difference(&listing, &release).unwrap(), None);
        fs::write(release.join("a folder/cache"), "made by the app").unwrap();
        assert_eq!(difference(&listing, &release).unwrap(), None);
    }

    #[test]
    fn the_first_difference_is_named() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 6] = [
            ("is missing", |at| fs::remove_file(at.join("a folder/run")).unwrap()),
            ("has 2 bytes, and had 1", |at| fs::write(at.join("a folder/run"), "xy").unwrap()),
            ("has the mode 0700, and had 0755", |at| {
                let mode = PermissionsExt::from_mode(0o700);
                fs::set_permissions(at.join("a folder/run"), mode).unwrap();
            }),
            ("was written to since", |at| {
                let file = File::options().write(true).open(at.join("a folder/run")).unwrap();
                file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            }),
            ("leads to another place", |at| {
                fs::remove_file(at.join("link")).unwrap();
                symlink("a folder", at.join("link")).unwrap();
            }),
            ("is no symbolic link any more", |at| {
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
    fn a_listing_that_is_cut_says_so() {
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
