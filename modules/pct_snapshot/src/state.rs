//! Observe: the container, its snapshots, what a killed run left, and, for a rollback, all that
//! could prevent it. Reads only.

use crate::cluster::{Reach, Storages};
use crate::container::{Config, Mount, Snapshot, Snapshots, Source};
use crate::filesystems::Frozen;
use crate::names::Vmid;
use crate::options::Subject;
use crate::pct::{PveError, holder_of};
use crate::read::{Reader, pve_error};
use crate::unfinished::{UnfinishedRun, What};
use crate::{filesystems, freezer, zfs};
use ansible_module::Failure;
use anyhow::{Error, Result};
use host::deadline::{Deadline, FIRST_PAUSE, TimedOut, poll_until};
use std::path::PathBuf;
use std::time::Duration;

pub struct State {
    pub vmid: Vmid,
    pub config: Config,
    pub snapshots: Snapshots,
    /// Whether its processes are frozen.
    pub frozen: bool,
    /// The frozen file systems.
    pub frozen_mounts: Vec<Frozen>,
    pub unfinished: UnfinishedRun,
    /// The task of Proxmox that runs on behalf of a run of ours that is dead.
    pub busy: Option<String>,
    pub has_quorum: bool,
    pub storages: Storages,
}

/// What matters for going back to one snapshot.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    pub ha: Option<String>,
    pub replicated_to: Vec<String>,
    /// The configuration that the snapshot keeps.
    pub target: Config,
    /// Snapshots and bookmarks made outside of Proxmox that are newer, on ZFS.
    pub outside: Vec<String>,
    pub written: Option<u64>,
    pub warnings: Vec<String>,
}

pub fn observe(reader: &Reader, subject: &Subject) -> Result<State> {
    let was_frozen = freezer::is_frozen(subject.vmid)?;
    let mut config = reader.config().map_err(|error| missing(error, reader, subject))?;
    let storages = reader.cluster.storages(None)?;
    let freezable = freezable(&config, &storages);
    let mut frozen_mounts = filesystems::frozen(subject.vmid, &freezable)?;
    if !frozen_mounts.is_empty() {
        // Again, and its lock between: one that is frozen for a snapshot has a lock, before and after.
        config = reader.config()?;
        let again = filesystems::frozen(subject.vmid, &freezable)?;
        frozen_mounts.retain(|one| again.contains(one));
    }
    let unfinished = UnfinishedRun::read(&subject.state_dir)?;
    let lock = config.lock.as_deref();
    let busy = match lock.and_then(|lock| unfinished.explains(lock)) {
        Some(doing) => reader.active_task(&[doing.what.task()])?,
        None => None,
    };
    Ok(State {
        vmid: subject.vmid,
        config,
        snapshots: reader.snapshots()?,
        // Before its lock was read and after it: a snapshot that has just started or ended is none that
        // broke off.
        frozen: was_frozen && freezer::is_frozen(subject.vmid)?,
        frozen_mounts,
        unfinished,
        busy,
        // From files only: a snapshot that cannot be taken says so itself.
        has_quorum: reader.cluster.has_quorum(None)?,
        storages,
    })
}

fn freezable(config: &Config, storages: &Storages) -> Vec<PathBuf> {
    let kind = |name: &str| storages.get(name).map(|storage| storage.kind.as_str());
    filesystems::freezable(&config.mounts, kind)
}

/// Wait until nobody else holds the container's lock.
pub fn wait_for_lock(
    reader: &Reader,
    unfinished: &UnfinishedRun,
    patience: Duration,
) -> Result<()> {
    let free = poll_until(Deadline::after(patience), FIRST_PAUSE, "the lock", || {
        let lock = reader.config()?.lock;
        let Some(lock) = lock else { return Ok(Some(())) };
        // Our own is free when the task that held it has ended.
        Ok(match unfinished.explains(&lock) {
            Some(doing) => reader.active_task(&[doing.what.task()])?.is_none().then_some(()),
            None => None,
        })
    });
    match free {
        Err(error) if error.downcast_ref::<TimedOut>().is_some() => Ok(()),
        other => other,
    }
}

/// Why the container could not be read.
fn missing(error: Error, reader: &Reader, subject: &Subject) -> Error {
    let vmid = subject.vmid;
    match pve_error(&error) {
        Some(PveError::NoContainer) => {}
        _ => return error.context(format!("reading CT {vmid}")),
    }
    let here = &reader.cluster.node;
    let msg = match reader.cluster.node_of(vmid, reader.pvesh.as_ref()) {
        Some((node, true)) => {
            format!("{vmid} is a virtual machine (on node {node}), not a container")
        }
        Some((node, false)) if node != *here => {
            format!(
                "CT {vmid} is on node {node}, and pct acts on this node ({here}) only: run the task there"
            )
        }
        _ => format!("there is no CT {vmid} on this node ({here}) nor on another of the cluster"),
    };
    Failure::new("no_container", msg).caused_by(error).into()
}

impl State {
    /// Returns the lock of another task, not one that our own killed run has left.
    pub fn foreign_lock(&self) -> Option<&str> {
        let lock = self.config.lock.as_deref()?;
        (!self.is_ours(lock) || self.busy.is_some()).then_some(lock)
    }

    /// Proxmox writes a lock together with its snapshot, so both must be ours.
    fn is_ours(&self, lock: &str) -> bool {
        let Some(doing) = self.unfinished.explains(lock) else { return false };
        let there = self.snapshots.find(&doing.name);
        match doing.what {
            What::Snapshot => there.is_some_and(|one| !one.is_complete()),
            What::Delete | What::Rollback => there.is_some(),
        }
    }

    /// Returns the lock that our own killed run has left.
    pub fn own_lock(&self) -> Option<&str> {
        self.config.lock.as_deref().filter(|_| self.foreign_lock().is_none())
    }

    /// Returns the paths of file systems that Proxmox freezes together with the processes.
    pub fn freezable(&self) -> Vec<PathBuf> {
        freezable(&self.config, &self.storages)
    }

    /// Whether its processes are frozen, or will be blocked as soon as they write.
    pub fn is_frozen_now(&self) -> bool {
        self.frozen || !self.frozen_mounts.is_empty()
    }

    /// Whether our own killed run has left the container frozen for its snapshot.
    pub fn own_freeze(&self) -> bool {
        let doing = self.unfinished.doing.as_ref();
        let is_ours = doing.is_some_and(|doing| doing.what == What::Snapshot);
        self.is_frozen_now() && is_ours && self.foreign_lock().is_none()
    }

    /// Whether it is frozen, but neither by us nor by the holder of a lock, who would thaw it again.
    pub fn frozen_by_others(&self) -> bool {
        self.is_frozen_now() && !self.own_freeze() && self.config.lock.is_none()
    }

    /// Whether the container serves: a frozen one counts as running only for Proxmox.
    pub fn runs(&self) -> bool {
        self.snapshots.running && !self.is_frozen_now()
    }

    /// Returns the incomplete snapshot that our own killed run has left.
    pub fn own_incomplete(&self) -> Option<&Snapshot> {
        (self.snapshots.all.iter())
            .find(|one| !one.is_complete() && self.unfinished.was_about(&one.name))
    }

    pub fn locked(&self, lock: &str, waited: Option<Duration>) -> String {
        let holder = match &self.busy {
            Some(upid) => {
                format!(
                    "is that of a task that a killed run had begun and that still runs ({upid})"
                )
            }
            None => holder_of(lock).to_owned(),
        };
        let vmid = self.vmid;
        let begin = match waited {
            Some(span) => {
                format!("CT {vmid} is still locked after {}", host::deadline::seconds(span))
            }
            None => format!("CT {vmid} is locked"),
        };
        // The lock of another task is never removed here: a person must check whether the task still runs.
        let active = "if no task of it runs any more, see `pvesh get /nodes/localhost/tasks --source active`";
        let cure = match (&self.busy, lock) {
            (Some(_), _) => String::new(),
            (None, "rollback") => format!(
                " (its volumes may be half old and half new: never unlock and start it as it is; {active}, \
                 roll back to the snapshot again: `pct unlock {vmid} && pct rollback {vmid} <snapshot>`)"
            ),
            (None, _) => format!(" ({active}, `pct unlock {vmid}` removes it)"),
        };
        format!("{begin}: the lock {lock} {holder}{cure}")
    }

    /// Returns which snapshots can be rolled back to, by the storages of these mount points.
    pub fn reach(&self, mounts: &[Mount]) -> Reach {
        let all: Vec<Reach> = (mounts.iter())
            .filter_map(Mount::storage)
            .map(|storage| self.storages.get(storage).map_or(Reach::Unknown, |one| one.reach()))
            .collect();
        let any = |reach| all.contains(&reach);
        match () {
            _ if all.is_empty() || any(Reach::Unknown) => Reach::Unknown,
            _ if any(Reach::None) => Reach::None,
            _ if any(Reach::Newest) => Reach::Newest,
            _ => Reach::Any,
        }
    }

    /// Returns the ZFS datasets of these mount points.
    pub fn datasets(&self, mounts: &[Mount]) -> Vec<String> {
        let dataset = |mount: &Mount| match &mount.source {
            Source::Volume { storage, name } => {
                let storage = self.storages.get(storage).filter(|one| one.kind == "zfspool")?;
                // A linked clone is named after its base: base-100-disk-0/subvol-101-disk-0.
                let name = name.rsplit('/').next().unwrap_or(name);
                Some(format!("{}/{name}", storage.pool.as_deref()?))
            }
            Source::Bind(_) | Source::Device(_) => None,
        };
        mounts.iter().filter_map(dataset).collect()
    }

    /// Observes all that a rollback to `target` depends on.
    pub fn survey(&mut self, reader: &Reader, subject: &Subject, target: &str) -> Result<Survey> {
        let mut survey = self.survey_of_all(reader, subject)?;
        survey.target = reader.config_of(target)?;
        match self.zfs_rows(&survey.target.mounts) {
            Ok(rows) => {
                self.note_zfs(&rows);
                self.add_zfs(&mut survey, &rows, target);
            }
            Err(why) => survey.warnings.push(format!(
                "snapshots made outside of Proxmox and what was written are not known: {why:#}"
            )),
        }
        Ok(survey)
    }

    /// Observes what is the same for all snapshots.
    pub fn survey_of_all(&mut self, reader: &Reader, subject: &Subject) -> Result<Survey> {
        let (cluster, pvesh) = (&reader.cluster, reader.pvesh.as_ref());
        self.has_quorum = cluster.has_quorum(pvesh)?;
        if self.storages.is_empty() {
            self.storages = cluster.storages(pvesh)?;
        }
        Ok(Survey {
            ha: cluster.ha(subject.vmid, pvesh)?,
            replicated_to: cluster.replicated_to(subject.vmid, pvesh)?,
            ..Survey::default()
        })
    }

    /// Adds what ZFS knows of the snapshots that Proxmox lists.
    pub fn note_zfs(&mut self, rows: &[zfs::Row]) {
        for snapshot in &mut self.snapshots.all {
            snapshot.bytes = zfs::held_by(rows, &snapshot.name);
            snapshot.needed = zfs::needed(rows, &snapshot.name);
        }
    }

    pub fn add_zfs(&self, survey: &mut Survey, rows: &[zfs::Row], target: &str) {
        let known = |name: &str| self.snapshots.find(name).is_some();
        let replicated = !survey.replicated_to.is_empty();
        survey.outside = zfs::outside(rows, target, &known, replicated);
        let mounts = &survey.target.mounts;
        if self.datasets(mounts).len() == mounts.len() {
            survey.written = zfs::written_since(rows, target);
        }
    }

    /// Lists these volumes with `zfs`; the list is empty if none is on ZFS or there is no `zfs`.
    pub fn zfs_rows(&self, mounts: &[Mount]) -> Result<Vec<zfs::Row>> {
        let datasets = self.datasets(mounts);
        match host::program::look("zfs")? {
            Ok(program) if !datasets.is_empty() => zfs::list(&program, &datasets),
            _ => Ok(Vec::new()),
        }
    }
}
