//! Plan: state and task to steps. Here the taking of a restore point; `prune.rs` removes, `swap.rs`
//! and `inplace.rs` go back. Pure.

use crate::listing::by_pool;
use crate::options::{Point, Task};
use crate::prune;
use crate::state::{State, view};
use crate::target::{listed, refuse_foreign, refuse_readonly};
use crate::zfs::fits_one_call;
use anyhow::Result;
use change::{Plan, Step, Undo};
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

pub fn present(state: &State, task: &Task, point: &Point) -> Result<Plan<Action>> {
    let mut plan = nothing(state, task);
    let mut takes = Vec::new();
    let mut holds = Vec::new();
    for dataset in &state.covered {
        let name = format!("{dataset}@{}", point.snapshot);
        match state.find(dataset, &point.snapshot) {
            Some(snap) => {
                refuse_foreign(state, snap, point).map_err(taken)?;
                if task.hold && !state.own_hold(snap) {
                    holds.push(name);
                }
            }
            None => {
                if name.len() > crate::names::LONGEST {
                    let msg = format!(
                        "{name} has {} characters, and ZFS allows {}; nothing was changed",
                        name.len(),
                        crate::names::LONGEST
                    );
                    return Err(ansible_module::Failure::new("name_too_long", msg).into());
                }
                takes.push(name.clone());
                if task.hold {
                    holds.push(name);
                }
            }
        }
    }
    if !takes.is_empty() {
        refuse_readonly(state, &takes)?;
        fits_one_call(&takes)?;
    }
    let pools = by_pool(takes.iter().map(String::as_str));
    if takes.len() < state.covered.len() && !takes.is_empty() {
        plan.warnings.push(format!(
            "{} of {} datasets have {} already; the others get theirs now, not of the same instant",
            state.covered.len() - takes.len(),
            state.covered.len(),
            point.snapshot
        ));
    } else if pools.len() > 1 {
        let names = listed(pools.iter().map(|(pool, _)| *pool));
        plan.warnings.push(format!("of one instant in each pool, not across pools: {names}"));
    }
    for (pool, names) in pools {
        let text =
            format!("take {} of {} of {pool} in one call", point.snapshot, counted(names.len()));
        let names = names.into_iter().map(str::to_owned).collect();
        plan.steps.push(Step::new(Action::Take(names), text));
    }
    for (pool, names) in by_pool(holds.iter().map(String::as_str)) {
        let text = format!(
            "hold {} of {} of {pool} with the tag reversible",
            point.snapshot,
            counted(names.len())
        );
        let names = names.into_iter().map(str::to_owned).collect();
        plan.steps.push(Step::new(Action::Hold(names), text));
    }
    if !plan.steps.is_empty() {
        plan.undo = Undo::By(format!("state: absent with deploy_id: {}", point.deploy));
    }
    let taken = usize::from(!state.covered.is_empty());
    let pruned = prune::retention(state, task, Some(point), taken, &mut plan)?;
    plan.after = after(state, &takes, &pruned);
    Ok(plan)
}

fn counted(count: usize) -> String {
    if count == 1 { "1 dataset".to_owned() } else { format!("{count} datasets") }
}

fn taken(failure: ansible_module::Failure) -> ansible_module::Failure {
    match failure.reason {
        "not_ours" => ansible_module::Failure::new("name_taken", failure.msg),
        _ => failure,
    }
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
