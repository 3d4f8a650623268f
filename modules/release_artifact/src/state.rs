//! Observes the releases, what `current` and `previous` lead to, and what a killed run has left.
//!
//! Invariant: a release counts as ours only with a valid record; a pointer to anything else than a release in
//! the same folder is reported and not replaced.

use crate::folder::Folder;
use crate::names::ReleaseSha;
use crate::options::{Task, Wanted};
use crate::record::{Record, difference, listing_of};
use ansible_module::{Failure, Outcome};
use anyhow::{Context, Result};
use host::folder::SafeFolder;
use host::none_if_missing;
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Suffixes of a release while it is unpacked, and while it is removed.
pub const PARTIAL: &str = ".partial";
pub const REMOVING: &str = ".removing";

pub const CURRENT: &str = "current";
pub const PREVIOUS: &str = "previous";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pointer {
    None,
    To(ReleaseSha),
    /// A description of something that this module did not make.
    Foreign(String),
}

impl Pointer {
    pub fn sha(&self) -> Option<&ReleaseSha> {
        match self {
            Pointer::To(sha) => Some(sha),
            Pointer::None | Pointer::Foreign(_) => None,
        }
    }

    fn read(folder: &Folder, name: &str) -> Result<Pointer> {
        let path = folder.dest.join(name);
        let target = match fs::read_link(&path) {
            Ok(target) => target,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Pointer::None),
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                return Ok(Pointer::Foreign(format!("{} is not a symbolic link", path.display())));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let beside = folder.dest.join(&target);
        let name = beside.strip_prefix(folder.releases()).ok().and_then(Path::to_str);
        Ok(match name.and_then(ReleaseSha::parse) {
            Some(sha) => Pointer::To(sha),
            None => Pointer::Foreign(format!("{} leads to {}", path.display(), target.display())),
        })
    }
}

#[derive(Clone, Debug)]
pub struct Release {
    pub sha: ReleaseSha,
    /// The record, or why the release is not ours.
    pub record: Result<Record, String>,
}

#[derive(Debug)]
pub struct State {
    pub folder: Folder,
    /// The releases that are not ours, then ours from the oldest on.
    pub releases: Vec<Release>,
    pub current: Pointer,
    pub previous: Pointer,
    /// Names in `releases` that a killed run has left.
    pub leftovers: Vec<String>,
}

impl State {
    pub fn observe(folder: &Folder) -> Result<State> {
        let mut state = State {
            folder: folder.clone(),
            releases: Vec::new(),
            current: Pointer::None,
            previous: Pointer::None,
            leftovers: Vec::new(),
        };
        let Some(_) = SafeFolder::find(&folder.dest)? else { return Ok(state) };
        state.current = Pointer::read(folder, CURRENT)?;
        state.previous = Pointer::read(folder, PREVIOUS)?;
        let Some(releases) = SafeFolder::find(&folder.releases())? else { return Ok(state) };
        let records = SafeFolder::find(&folder.records())?;
        let cannot = || format!("cannot list {}", releases.path().display());
        for entry in fs::read_dir(releases.path()).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_folder = entry.file_type().with_context(cannot)?.is_dir();
            if let Some(sha) = ReleaseSha::parse(&name) {
                let record = match &records {
                    _ if !is_folder => Err("it is not a folder".to_owned()),
                    Some(records) => match Record::read(records, &sha) {
                        Ok(Some(record)) => Ok(record),
                        Ok(None) => Err("it has no record".to_owned()),
                        Err(error) => Err(format!("{error:#}")),
                    },
                    None => Err("it has no record".to_owned()),
                };
                state.releases.push(Release { sha, record });
            } else if is_leftover(&name) && is_folder {
                state.leftovers.push(name);
            }
        }
        state.releases.sort_by_key(|release| {
            (release.record.as_ref().map_or(0, |record| record.order), release.sha.clone())
        });
        state.leftovers.sort();
        Ok(state)
    }

    pub fn release(&self, sha: &ReleaseSha) -> Option<&Release> {
        self.releases.iter().find(|release| release.sha == *sha)
    }

    /// Returns the releases that this module has unpacked, the oldest first.
    pub fn ours(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.releases.iter().filter_map(|release| release.record.as_ref().ok())
    }

    pub fn next_order(&self) -> u64 {
        self.ours().map(|record| record.order).max().unwrap_or(0) + 1
    }

    /// Describes how the release that the task uses differs from what was unpacked, if it is ours.
    pub fn damage_for(&self, task: &Task) -> Result<Option<String>> {
        let used = matches!(task.wanted, Wanted::Present | Wanted::Current);
        match self.release(&task.sha) {
            Some(release) if used && release.record.is_ok() => self.damage(&task.sha),
            _ => Ok(None),
        }
    }

    /// Describes how a release of ours differs from what was unpacked.
    pub fn damage(&self, sha: &ReleaseSha) -> Result<Option<String>> {
        let records = SafeFolder::open(&self.folder.records())?;
        let release = self.folder.releases().join(sha.as_str());
        difference(&listing_of(&records, sha), &release)
            .with_context(|| format!("cannot compare release {sha} with its listing"))
    }

    /// Verifies that the state is what the task wants.
    pub fn holds(&self, task: &Task) -> Result<(), Failure> {
        let there = self.release(&task.sha).is_some_and(|release| release.record.is_ok());
        let seen = match task.wanted {
            Wanted::Present => there,
            Wanted::Current => there && self.current.sha() == Some(&task.sha),
            Wanted::Absent => self.release(&task.sha).is_none(),
            Wanted::Available | Wanted::Pushed(_) => true,
        };
        if seen {
            return Ok(());
        }
        let dest = self.folder.dest.display();
        let msg = format!(
            "release {} in {dest} is not in the state that the task has made: run it again",
            task.sha
        );
        Err(Failure::new("not_verified", msg))
    }

    /// Returns the state for the diff. It has no times, so that check mode shows the same.
    pub fn view(&self) -> Value {
        let mut shas: Vec<_> = self.releases.iter().map(|release| &release.sha).collect();
        shas.sort();
        json!({ "current": self.current.sha(), "previous": self.previous.sha(), "releases": shas })
    }

    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for pointer in [&self.current, &self.previous] {
            match pointer {
                Pointer::Foreign(what) => {
                    warnings.push(format!("{what}, which is not a release of this module"))
                }
                Pointer::To(sha) if self.release(sha).is_none() => {
                    let name = if *pointer == self.current { CURRENT } else { PREVIOUS };
                    warnings.push(format!("{name} leads to release {sha}, which does not exist"));
                }
                Pointer::To(_) | Pointer::None => {}
            }
        }
        warnings
    }

    /// Describes the releases for `release_artifact_info`, the newest first.
    pub fn describe(&self, verify: bool) -> Result<Vec<Value>> {
        let one = |release: &Release| -> Result<Value> {
            let path = self.folder.releases().join(release.sha.as_str());
            let mut shown = json!({
                "sha": release.sha,
                "path": path,
                "current": self.current.sha() == Some(&release.sha),
                "previous": self.previous.sha() == Some(&release.sha),
                "ours": release.record.is_ok(),
            });
            match &release.record {
                Ok(record) => {
                    shown["unpacked"] = json!(record.unpacked);
                    shown["deploy_id"] = json!(record.deploy_id);
                    shown["from"] = json!(record.from);
                    shown["sha256"] = json!(record.sha256);
                    shown["checked"] = json!(record.checked);
                    shown["archive_bytes"] = json!(record.archive_bytes);
                    shown["bytes"] = json!(record.bytes);
                    shown["entries"] = json!(record.entries);
                    if verify {
                        shown["damage"] = json!(self.damage(&release.sha)?);
                    }
                }
                Err(why) => shown["why"] = json!(why),
            }
            Ok(shown)
        };
        self.releases.iter().rev().map(one).collect()
    }

    /// Adds the state to the result.
    pub fn facts(&self, outcome: Outcome, sha: &ReleaseSha) -> Outcome {
        let path = self.folder.releases().join(sha.as_str());
        let record = self.release(sha).and_then(|release| release.record.as_ref().ok());
        outcome
            .fact("path", json!(path))
            .fact("current", json!(self.current.sha()))
            .fact("previous", json!(self.previous.sha()))
            .fact("sha256", json!(record.map(|record| &record.sha256)))
    }
}

fn is_leftover(name: &str) -> bool {
    let bare = [PARTIAL, REMOVING].iter().find_map(|suffix| name.strip_suffix(suffix));
    bare.and_then(ReleaseSha::parse).is_some()
}

/// Removes a tree. The standard library follows no links, by descriptors. A signal does not end it, since half
/// a tree is of no use.
pub fn discard(path: &Path) -> Result<()> {
    let _shield = host::interrupt::shield();
    let removed = none_if_missing(fs::remove_dir_all(path));
    removed.map(drop).with_context(|| format!("cannot remove {}", path.display()))
}
