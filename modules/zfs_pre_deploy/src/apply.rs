//! Carries out the steps, and verifies the result. The steps of a swap are in `exchange.rs`.
//!
//! Invariant: a signal ends a run between two steps, never within one; the goal of a rollback is noted
//! before its first change.

use crate::names::pool_of;
use crate::options::TASK;
use crate::options::{Point, Task, Wanted};
use crate::plan::{Action, Removal};
use crate::points::{self, Guids};
use crate::state::State;
use crate::unfinished::{self, Goal};
use crate::zfs::Zfs;
use ansible_module::Failure;
use anyhow::{Context, Result, bail};
use host::clock;
use host::interrupt;
use host::lock::Lock;
use host::record::Intent;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

const LOCKS: &str = "/run/reversible-zfs";

/// Lets one task at a time work on a pool. The locks are not in the state folder: a run that is
/// refused leaves nothing behind there.
pub fn lock(task: &Task) -> Result<Vec<Lock>> {
    // Always in the same order, so that two tasks never wait for each other.
    let pools: BTreeSet<&str> =
        task.subject.datasets.iter().map(|name| pool_of(name.as_str())).collect();
    let locks = pools.into_iter().map(|pool| {
        let (folder, subject) = (Path::new(LOCKS), format!("the pool {pool}"));
        Lock::acquire_in(folder, pool, &subject, TASK, task.run_id.as_ref(), task.lock_timeout)
    });
    locks.collect()
}

pub struct Apply<'a> {
    pub task: &'a Task,
    pub zfs: &'a Zfs,
    pub state: &'a State,
    pub goal: Option<Goal>,
    /// The datasets rolled back in place so far, those of a killed run included.
    pub rolled: Vec<String>,
    /// Whether a step was started.
    pub started: bool,
    /// Whether something was destroyed before a rollback.
    pub destroyed: bool,
}

impl<'a> Apply<'a> {
    pub fn new(
        task: &'a Task,
        zfs: &'a Zfs,
        state: &'a State,
        goal: Option<Goal>,
        rolled: Vec<String>,
    ) -> Apply<'a> {
        let destroyed = !rolled.is_empty();
        Apply { task, zfs, state, goal, rolled, started: false, destroyed }
    }

    pub fn act(&mut self, action: &Action, intent: Option<&Intent>) -> Result<()> {
        let intent = intent.context("a change needs an intent record")?;
        let _shield = interrupt::shield();
        if !self.started {
            self.begin(intent)?;
        }
        match action {
            Action::Take(names) => self.take(names),
            Action::Hold(names) => self.zfs.hold(&refs(names)),
            Action::Remove(removal) => self.remove(removal),
            Action::RollBack { dataset, snapshot } => self.roll_back(dataset, snapshot, intent),
            Action::Unmount => self.unmount(),
            Action::Park(number) => self.park(*number),
            Action::Recreate(number) => self.recreate(*number),
            Action::Promote(number) => self.promote(*number),
            Action::MakeLive(number) => self.make_live(*number),
            Action::ReturnUncovered(number) => self.return_uncovered(*number),
            Action::RestoreProperties => self.restore_properties(),
        }
    }

    /// Notes before the first change what the system will not show later.
    fn begin(&mut self, intent: &Intent) -> Result<()> {
        if let Some(goal) = &self.goal {
            intent.note(unfinished::GOAL, goal)?;
            intent.note(unfinished::ROLLED, &self.rolled)?;
        }
        self.started = true;
        Ok(())
    }

    fn take(&self, names: &[String]) -> Result<()> {
        let Wanted::Present(point) = &self.task.wanted else {
            bail!("only state: present takes a snapshot");
        };
        let pool = names.first().and_then(|name| self.state.pool(name)).context("no pool")?;
        let mut properties = vec![
            ("reversible.deploy:deploy_id", point.deploy.to_string()),
            ("reversible.deploy:snapshot", point.snapshot.clone()),
            ("reversible.deploy:pool", pool.guid.clone()),
            ("reversible.deploy:time", clock::now().to_string()),
        ];
        let app = self.task.subject.app.clone().map(|app| ("reversible.deploy:app", app));
        let release = self.task.release.clone().map(|sha| ("reversible.deploy:release", sha));
        properties.extend(app.into_iter().chain(release));
        self.zfs.snapshot(&properties, &refs(names))
    }

    fn remove(&mut self, removal: &Removal) -> Result<()> {
        self.destroyed = true;
        for (_, names) in crate::listing::by_pool(removal.releases.iter().map(String::as_str)) {
            self.zfs.release(&names)?;
        }
        for (target, recursive, _) in removal.calls() {
            self.zfs.destroy(&target, recursive)?;
        }
        removal.bookmarks.iter().try_for_each(|name| self.zfs.destroy(name, false))
    }

    fn roll_back(&mut self, dataset: &str, snapshot: &str, intent: &Intent) -> Result<()> {
        self.destroyed = true;
        self.zfs.rollback(&format!("{dataset}@{snapshot}"))?;
        self.rolled.push(dataset.to_owned());
        intent.note(unfinished::ROLLED, &self.rolled)
    }
}

pub fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Refuses unless a dry run of every `zfs destroy` names exactly what the plan names.
pub fn agree(zfs: &Zfs, removals: &[&Removal]) -> Result<()> {
    for (target, recursive, mut planned) in removals.iter().flat_map(|one| one.calls()) {
        let dry =
            zfs.would_destroy(&target, recursive).context("asking ZFS what it would destroy")?;
        planned.sort();
        if dry.destroys != planned {
            let more: Vec<&str> = (dry.destroys.iter())
                .filter(|name| !planned.contains(name))
                .map(String::as_str)
                .collect();
            let msg = format!(
                "zfs destroy -n {target} would destroy {} where the plan has {}{}; nothing was changed",
                dry.destroys.len(),
                planned.len(),
                if more.is_empty() {
                    String::new()
                } else {
                    format!(" (more: {})", more.join(", "))
                }
            );
            return Err(Failure::new("dry_run_differs", msg).into());
        }
    }
    Ok(())
}

fn not_verified(msg: String) -> anyhow::Error {
    Failure::new("not_verified", msg).into()
}

/// Verifies that all snapshots and holds of `state: present` exist, and notes the guids.
pub fn verify_present(task: &Task, now: &State, point: &Point) -> Result<Value> {
    let mut guids = Guids::new();
    for dataset in &now.covered {
        let snap = now.find(dataset, &point.snapshot);
        let Some(snap) = snap.filter(|snap| now.ours(snap).is_some()) else {
            return Err(not_verified(format!(
                "{dataset}@{} was not taken by this module, or is missing",
                point.snapshot
            )));
        };
        if task.hold && snap.userrefs == 0 {
            return Err(not_verified(format!("{} is not held", snap.name())));
        }
        guids.insert(snap.name(), snap.guid);
    }
    if guids.iter().any(|(name, guid)| now.noted.get(name) != Some(guid)) {
        points::note(&task.state_dir, point.deploy.as_str(), guids)?;
    }
    Ok(now.view())
}

/// Verifies that each dataset has its snapshot, and nothing newer.
pub fn verify_rolled_back(now: &State, point: &Point, rolled: &[String]) -> Result<Value> {
    for dataset in rolled {
        let Some(target) = now.find(dataset, &point.snapshot) else {
            return Err(not_verified(format!("{dataset}@{} is gone", point.snapshot)));
        };
        let newer = now.newer_than(target);
        if let Some(snap) = newer.first() {
            return Err(not_verified(format!("{} is newer than {}", snap.name(), target.name())));
        }
    }
    Ok(now.view())
}

pub fn verify_gone(now: &State, removals: &[Removal]) -> Result<Value> {
    for (_, _, names) in removals.iter().flat_map(Removal::calls) {
        for name in names {
            let there = match name.split_once('@') {
                Some((dataset, short)) => now.find(dataset, short).is_some(),
                None => now.datasets.contains_key(&name),
            };
            if there {
                return Err(not_verified(format!("{name} is still there")));
            }
        }
    }
    Ok(now.view())
}
