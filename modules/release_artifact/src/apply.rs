//! Carries out the steps: fetching, switching and removing. Each can be repeated after a killed run.
//!
//! Invariant: `previous` is written before `current`, so that the release to go back to is always named by one of them.

use crate::extract::Attributes;
use crate::folder::Folder;
use crate::install::Install;
use crate::names::ReleaseSha;
use crate::options::Task;
use crate::plan::Action;
use crate::record::Record;
use crate::state::{CURRENT, PREVIOUS, REMOVING, State, discard};
use anyhow::{Context, Result};
use host::atomic::sync_folder;
use host::folder::SafeFolder;
use host::lock::Lock;
use host::none_if_missing;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const LOCKS: &str = "/run/reversible-releases";

/// Locks a folder of releases. The lock is not in that folder, so that a refused run leaves nothing there.
pub fn lock(task: &Task, folder: &Folder) -> Result<Vec<Lock>> {
    let id = task.fence.as_ref().map(|(id, _)| id);
    let (locks, dest) = (Path::new(LOCKS), &folder.dest);
    let lock = Lock::acquire_for_path(locks, dest, "release_artifact", id, task.lock_timeout)?;
    Ok(vec![lock])
}

pub struct Apply<'a> {
    task: &'a Task,
    folder: &'a Folder,
    state: &'a State,
    /// The `download` of the result, or null.
    pub download: Value,
    pub removed: Vec<ReleaseSha>,
}

impl<'a> Apply<'a> {
    pub fn new(task: &'a Task, folder: &'a Folder, state: &'a State) -> Apply<'a> {
        Apply { task, folder, state, download: Value::Null, removed: Vec::new() }
    }

    pub fn act(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::RemoveLeftovers => self.remove_leftovers(),
            Action::Fetch => self.fetch(),
            Action::Switch => self.switch(),
            Action::Remove(sha) => self.remove(sha),
        }
    }

    /// Removes what a killed run has left, which would prevent the next fetch and takes space.
    fn remove_leftovers(&self) -> Result<()> {
        for name in &self.state.leftovers {
            discard(&self.folder.releases().join(name))?;
            if let Some(sha) = name.strip_suffix(REMOVING).and_then(ReleaseSha::parse) {
                Record::remove(&SafeFolder::open(&self.folder.records())?, &sha)?;
            }
        }
        Ok(())
    }

    fn fetch(&mut self) -> Result<()> {
        SafeFolder::ensure(&self.folder.dest, 0o755)?;
        let install = Install {
            source: self.task.source()?,
            sha: &self.task.sha,
            folder: self.folder,
            attributes: Attributes { owner: self.task.owner, umask: self.task.umask },
            bounds: self.task.bounds,
            order: self.state.next_order(),
            deploy_id: self.task.fence.as_ref().map(|(id, _)| id),
        };
        self.download = install.run()?;
        Ok(())
    }

    fn switch(&self) -> Result<()> {
        let was = self.state.current.sha().filter(|was| self.state.release(was).is_some());
        if let Some(was) = was {
            self.link_to(PREVIOUS, was)?;
        }
        self.link_to(CURRENT, &self.task.sha)
    }

    /// Makes a new link and renames it over the old one, so that there is always one.
    fn link_to(&self, name: &str, sha: &ReleaseSha) -> Result<()> {
        let records = SafeFolder::ensure(&self.folder.records(), 0o700)?;
        let (new, link) = (records.join(format!("{name}.new")), self.folder.dest.join(name));
        let cannot = || format!("cannot point {} to release {sha}", link.display());
        none_if_missing(fs::remove_file(&new)).with_context(cannot)?;
        symlink(Folder::target(sha), &new).with_context(cannot)?;
        fs::rename(&new, &link).with_context(cannot)?;
        sync_folder(&self.folder.dest)
    }

    /// Removes a release. It is renamed first: a partly removed release must not have the name of one.
    fn remove(&mut self, sha: &ReleaseSha) -> Result<()> {
        let releases = self.folder.releases();
        let (canonical, going) =
            (releases.join(sha.as_str()), releases.join(format!("{sha}{REMOVING}")));
        discard(&going)?;
        none_if_missing(fs::rename(&canonical, &going))
            .with_context(|| format!("cannot rename {}", canonical.display()))?;
        sync_folder(&releases)?;
        discard(&going)?;
        Record::remove(&SafeFolder::open(&self.folder.records())?, sha)?;
        self.removed.push(sha.clone());
        Ok(())
    }
}
