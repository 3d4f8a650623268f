//! Plan: state and task to steps. `present.rs` takes a restore point, `prune.rs` removes, `swap.rs`
//! and `inplace.rs` go back. Pure.

use crate::options::Task;
use crate::state::{State, view};
use crate::target::listed;
use change::Plan;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// All of one pool, in one call.
    Take(Vec<String>),
    Hold(Vec<String>),
    Remove(Removal),
    RollBack {
        dataset: String,
        snapshot: String,
    },
    // Of a swap; numbers are those of its trees.
    Unmount,
    Park(usize),
    Make(usize),
    Promote(usize),
    Return(usize),
    Stay(usize),
    Settle,
}

/// What is destroyed in one step, after our own holds on it were released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    pub releases: Vec<String>,
    /// A dataset, and the short names of its snapshots.
    pub snapshots: Vec<(String, Vec<String>)>,
    pub bookmarks: Vec<String>,
    /// A parked tree, by its root, with all that is in it.
    pub tree: Option<(String, Vec<String>)>,
}

impl Removal {
    /// What `zfs destroy` is called with, whether recursively, and what it must name.
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
        plan.warnings.push(format!("not there, and skipped: {names}"));
    }
    plan
}

/// The view once these snapshots are taken, and these snapshots and parked roots gone.
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
