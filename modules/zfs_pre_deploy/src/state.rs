//! Observe: the pools, the datasets that the task is about, their snapshots and bookmarks, parked
//! states, and what a killed run has noted. Only reads, with two `zfs list` however many snapshots there
//! are.

use crate::listing::{Data, Mark, Pool, Snap};
use crate::names::{below, parent_of, pool_of};
use crate::options::Subject;
use crate::points::{self, Guids};
use crate::unfinished::UnfinishedRun;
use crate::zfs::Zfs;
use ansible_module::Failure;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub struct State {
    pub pools: Vec<Pool>,
    /// All datasets of the pools concerned.
    pub datasets: BTreeMap<String, Data>,
    /// The snapshots of the covered datasets and of their parked trees, the oldest first.
    pub snapshots: BTreeMap<String, Vec<Snap>>,
    /// The datasets that the task works on, in the order of names: parents first.
    pub covered: Vec<String>,
    pub missing: Vec<String>,
    /// The tags of holds, for the snapshots that were asked about.
    pub holds: BTreeMap<String, Vec<String>>,
    pub noted: Guids,
    pub warnings: Vec<String>,
}

/// How current the listings must be, and what to do about a pool that hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Reads what is on disk, without a sync.
    OnDisk,
    /// Syncs the pools first, so that a rollback counts what was written in the last seconds.
    Synced,
    /// Skips a pool that hangs, with a warning; for the info module.
    Lenient,
}

pub fn observe(
    zfs: &Zfs,
    subject: &Subject,
    unfinished: &UnfinishedRun,
    consistency: Consistency,
) -> Result<State> {
    let mut state = State { pools: zfs.pools()?, ..State::default() };
    if let Some(folder) = &subject.state_dir {
        state.noted = points::noted(folder)?;
    }
    let wanted = state.wanted_pools(subject, consistency)?;
    if wanted.is_empty() {
        return Ok(state);
    }
    let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
    if consistency == Consistency::Synced {
        zfs.sync(&names)?;
    }
    let all = zfs.datasets(&names)?;
    state.datasets = all.into_iter().map(|data| (data.name.clone(), data)).collect();
    state.cover(subject, unfinished)?;
    let mut of: BTreeSet<&str> = state.covered.iter().map(String::as_str).collect();
    let trees = state.parked();
    of.extend(trees.iter().flat_map(|tree| &tree.members).map(String::as_str));
    let of: Vec<&str> = of.into_iter().collect();
    if !of.is_empty() {
        for snap in zfs.snapshots(&of)? {
            state.snapshots.entry(snap.dataset.clone()).or_default().push(snap);
        }
    }
    for snaps in state.snapshots.values_mut() {
        snaps.sort_by_key(|snap| (snap.txg, snap.is_bookmark));
    }
    Ok(state)
}

/// A tree that an earlier swap of this module parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    pub id: String,
    pub root: String,
    pub live: String,
    pub at: String,
    /// All datasets of the tree, the root included, parents first.
    pub members: Vec<String>,
    pub used: u64,
}

impl State {
    fn wanted_pools(&mut self, subject: &Subject, consistency: Consistency) -> Result<Vec<String>> {
        let mut wanted: BTreeSet<String> = match subject.datasets.as_slice() {
            [] => self.pools.iter().map(|pool| pool.name.clone()).collect(),
            some => some.iter().map(|name| pool_of(name.as_str()).to_owned()).collect(),
        };
        let mut passed_over = Vec::new();
        for name in &wanted {
            let Some(pool) = self.pools.iter().find(|pool| pool.name == *name) else {
                // Where datasets may be missing, each of them is reported later.
                if !subject.skip_missing && consistency != Consistency::Lenient {
                    let known = host::joined_or(self.pools.iter().map(|pool| &pool.name), "none");
                    let msg = format!(
                        "there is no pool {name} on this machine (there are: {known}); is it imported? nothing was changed"
                    );
                    return Err(Failure::new("no_pool", msg).into());
                }
                passed_over.push(name.clone());
                continue;
            };
            if matches!(pool.health.as_str(), "SUSPENDED" | "FAULTED" | "UNAVAIL") {
                let msg = format!(
                    "the pool {name} is {}: bring its devices back, then `zpool clear {name}`",
                    pool.health
                );
                if consistency != Consistency::Lenient {
                    let msg = format!("{msg}; nothing was changed");
                    return Err(Failure::new("pool_suspended", msg).into());
                }
                self.warnings.push(msg);
                passed_over.push(name.clone());
            }
        }
        for name in passed_over {
            wanted.remove(&name);
        }
        Ok(wanted.into_iter().collect())
    }

    /// Finds the datasets that the task works on.
    fn cover(&mut self, subject: &Subject, unfinished: &UnfinishedRun) -> Result<()> {
        let mut covered = BTreeSet::new();
        let everything = subject.datasets.is_empty();
        if everything {
            covered.extend(self.datasets.keys().cloned());
        }
        for name in subject.datasets.iter().map(|dataset| dataset.as_str()) {
            match self.datasets.contains_key(name) {
                true => _ = covered.insert(name.to_owned()),
                // Half way through a swap the dataset has another name.
                false if unfinished.parks(name) => continue,
                false if subject.skip_missing => {
                    self.missing.push(name.to_owned());
                    continue;
                }
                false => return Err(self.no_such(name).into()),
            }
            if subject.recursive {
                let under = self
                    .datasets
                    .values()
                    .filter(|data| below(&data.name, name).is_some() && data.parked.is_none());
                covered.extend(under.map(|data| data.name.clone()));
            }
        }
        covered
            .retain(|name| !subject.exclude.iter().any(|out| below(name, out.as_str()).is_some()));
        self.covered = covered.into_iter().collect();
        Ok(())
    }

    fn no_such(&self, name: &str) -> Failure {
        let parked = self.parked_trees();
        let at = parked.iter().find(|tree| tree.live == name);
        let hint = match (at, parent_of(name).filter(|parent| self.datasets.contains_key(*parent)))
        {
            (Some(tree), _) => format!("its state is parked as {} ({})", tree.root, tree.id),
            (None, Some(parent)) => {
                let siblings = self.datasets.keys().filter(|name| parent_of(name) == Some(parent));
                format!("{parent} holds: {}", host::joined_or(siblings.take(8), "none"))
            }
            (None, None) => "nor the one above it".to_owned(),
        };
        let msg = format!(
            "there is no dataset {name} ({hint}); missing: skip would go on without it; nothing was changed"
        );
        Failure::new("no_dataset", msg)
    }

    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == pool_of(name))
    }

    pub fn of(&self, dataset: &str) -> &[Snap] {
        self.snapshots.get(dataset).map_or(&[], Vec::as_slice)
    }

    pub fn find(&self, dataset: &str, short: &str) -> Option<&Snap> {
        self.of(dataset).iter().find(|snap| !snap.is_bookmark && snap.short == short)
    }

    /// Returns the mark of a snapshot that this module took on this machine.
    pub fn ours<'a>(&self, snap: &'a Snap) -> Option<&'a Mark> {
        let pool = self.pool(&snap.dataset)?;
        let mark = snap.mark.as_ref().filter(|mark| mark.is_of(&snap.short, &pool.guid))?;
        let inherits = |data: &Data| data.deploy.as_ref() == Some(&mark.deploy);
        let inherited = self.datasets.get(&snap.dataset).is_some_and(inherits);
        (!self.was_recreated(snap) && !inherited).then_some(mark)
    }

    /// Whether the snapshot has another guid than the one that we took under this name.
    pub fn was_recreated(&self, snap: &Snap) -> bool {
        self.noted.get(&snap.name()).is_some_and(|guid| *guid != snap.guid)
    }

    pub fn newer_than(&self, target: &Snap) -> Vec<&Snap> {
        self.of(&target.dataset).iter().filter(|snap| snap.txg > target.txg).collect()
    }

    /// Returns how many bytes were written to the dataset since the snapshot.
    pub fn written_since(&self, target: &Snap) -> u64 {
        let live = self.datasets.get(&target.dataset).map_or(0, |data| data.written);
        let newer = self.newer_than(target);
        newer.iter().fold(live, |sum, snap| sum.saturating_add(snap.written))
    }

    pub fn own_hold(&self, snap: &Snap) -> bool {
        self.tags(snap).iter().any(|tag| tag == crate::zfs::TAG)
    }

    pub fn foreign_holds(&self, snap: &Snap) -> Vec<&str> {
        let tags = self.tags(snap).iter().map(String::as_str);
        tags.filter(|tag| *tag != crate::zfs::TAG).collect()
    }

    fn tags(&self, snap: &Snap) -> &[String] {
        self.holds.get(&snap.name()).map_or(&[], Vec::as_slice)
    }

    /// Lists the holds of the snapshots that `wanted` selects.
    pub fn ask_holds(&mut self, zfs: &Zfs, wanted: &dyn Fn(&State, &Snap) -> bool) -> Result<()> {
        let held = self.snapshots.values().flatten().filter(|snap| snap.userrefs > 0);
        let names: Vec<String> = held.filter(|snap| wanted(self, snap)).map(Snap::name).collect();
        if names.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for hold in zfs.holds(&names)? {
            self.holds.entry(hold.snapshot).or_default().push(hold.tag);
        }
        Ok(())
    }

    /// Returns the parked trees of the covered datasets.
    pub fn parked(&self) -> Vec<Tree> {
        let mut all = self.parked_trees();
        all.retain(|tree| self.covered.iter().chain(&self.missing).any(|name| *name == tree.live));
        all
    }

    fn parked_trees(&self) -> Vec<Tree> {
        let id_of = |name: &str| Some(&self.datasets.get(name)?.parked.as_ref()?.id);
        let mut trees = Vec::new();
        for data in self.datasets.values() {
            let Some(parked) = &data.parked else { continue };
            if parent_of(&data.name).and_then(id_of) == Some(&parked.id) {
                continue;
            }
            let members = self.datasets.keys().filter(|name| below(name, &data.name).is_some());
            trees.push(Tree {
                id: parked.id.clone(),
                root: data.name.clone(),
                live: parked.live.clone(),
                at: parked.at.clone(),
                members: members.cloned().collect(),
                used: data.used,
            });
        }
        trees.sort_by(|a, b| (&a.at, &a.root).cmp(&(&b.at, &b.root)));
        trees
    }

    /// Returns the view that the result shows as `before` and `after`.
    pub fn view(&self) -> Value {
        let snapshots = self.covered.iter().map(|dataset| {
            let ours = self.of(dataset).iter().filter(|snap| self.ours(snap).is_some());
            (dataset.clone(), ours.map(|snap| snap.short.clone()).collect())
        });
        let parked = self.parked().into_iter().map(|tree| (tree.root, tree.live));
        view(&snapshots.collect(), &parked.collect())
    }
}

/// Our snapshots of each dataset, and the parked trees with the names that they were live under.
pub fn view(snapshots: &BTreeMap<String, Vec<String>>, parked: &BTreeMap<String, String>) -> Value {
    json!({ "snapshots": snapshots, "parked": parked })
}
