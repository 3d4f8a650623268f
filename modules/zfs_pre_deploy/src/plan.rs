//! Turns state and task into steps. `present.rs` takes a restore point, `prune.rs` removes, `swap.rs`
//! and `inplace.rs` go back. Pure.

use crate::options::Task;
use crate::state::{State, view};
use crate::target::listed;
use change::Plan;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Takes all snapshots of one pool in one call.
    Take(Vec<String>),
    Hold(Vec<String>),
    Remove(Removal),
    RollBack {
        dataset: String,
        snapshot: String,
    },
    // The steps of a swap; the numbers are indices of the goal's trees.
    Unmount,
    Park(usize),
    Recreate(usize),
    Promote(usize),
    MakeLive(usize),
    ReturnUncovered(usize),
    RestoreProperties,
}

/// What one step destroys, after it has released our own holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    pub releases: Vec<String>,
    /// Datasets, each with the short names of its snapshots.
    pub snapshots: Vec<(String, Vec<String>)>,
    pub bookmarks: Vec<String>,
    /// The root of a parked tree, with everything in it.
    pub tree: Option<(String, Vec<String>)>,
}

impl Removal {
    /// The calls of `zfs destroy`: its target, whether it is recursive, and what it must name in a dry run.
    pub fn calls(&self) -> Vec<(String, bool, Vec<String>)> {
        let of_dataset = self.snapshots.iter().map(|(dataset, shorts)| {
            let names = shorts.iter().map(|short| format!("{dataset}@{short}")).collect();
            (format!("{dataset}@{}", shorts.join(",")), false, names)
        });
        let tree = self.tree.iter().map(|(root, all)| (root.clone(), true, all.clone()));
        of_dataset.chain(tree).collect()
    }
}

pub fn subject(task: &Task) -> String {
    listed(task.subject.datasets.iter().map(|name| name.as_str()))
}

pub fn nothing(state: &State, task: &Task) -> Plan<Action> {
    let mut plan = Plan::nothing(subject(task), state.view());
    plan.warnings = state.warnings.clone();
    if !state.missing.is_empty() {
        let names = listed(state.missing.iter().map(String::as_str));
        plan.warnings.push(format!("skipped, since they do not exist: {names}"));
    }
    plan
}

/// Returns the view after `takes` are taken and the snapshots and parked roots of `gone` are destroyed.
pub fn after(state: &State, takes: &[String], gone: &[String]) -> serde_json::Value {
    let mut snapshots: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for dataset in &state.covered {
        let own = state.of(dataset).iter().filter(|snap| state.ours(snap).is_some());
        let left = own.filter(|snap| !gone.contains(&snap.name()));
        snapshots.insert(dataset.clone(), left.map(|snap| snap.short.clone()).collect());
    }
    for (dataset, short) in takes.iter().filter_map(|name| name.split_once('@')) {
        snapshots.entry(dataset.to_owned()).or_default().push(short.to_owned());
    }
    let parked = state.parked().into_iter().filter(|tree| !gone.contains(&tree.root));
    view(&snapshots, &parked.map(|tree| (tree.root, tree.live)).collect())
}
