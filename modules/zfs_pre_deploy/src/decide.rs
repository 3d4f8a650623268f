//! From the state to the plan, asking ZFS for just what this task needs to know.
//!
//! Invariant: whatever would stop it half way is found here, before the first change.

use crate::apply::agree;
use crate::busy::{self, For};
use crate::listing::{Data, Snap};
use crate::options::{Method, Point, Task, Wanted};
use crate::plan::{self, Action, Removal};
use crate::present;
use crate::state::State;
use crate::swap;
use crate::target::{self, Targets, refuse_readonly, refuse_state_inside};
use crate::trees::{self, Properties};
use crate::unfinished::{Goal, UnfinishedRun, what};
use crate::zfs::Zfs;
use crate::{inplace, prune};
use ansible_module::Failure;
use anyhow::Result;
use change::Plan;
use host::clock;
use host::mounts::Mounts;

pub struct Decided {
    pub plan: Plan<Action>,
    pub goal: Option<Goal>,
    /// Who uses the datasets. A run refuses, check mode tells.
    pub busy: Vec<String>,
}

/// What stands in a sentence for an id that is known only when the run begins.
const LATER: &str = "<time>";

pub fn decide(
    task: &Task,
    zfs: &Zfs,
    state: &mut State,
    unfinished: &UnfinishedRun,
    resumed: Option<Goal>,
    key: Option<String>,
) -> Result<Decided> {
    let decided = match &task.wanted {
        Wanted::Present(point) => {
            let covered: Vec<&Data> =
                state.covered.iter().filter_map(|name| state.datasets.get(name)).collect();
            refuse_state_inside(state, task, &Mounts::read()?, &covered)?;
            let retains = task.retain.is_some();
            state.ask_holds(zfs, &|state, snap| {
                (task.hold && snap.short == point.snapshot) || (retains && may_prune(state, snap))
            })?;
            Decided { plan: present::plan(state, task, point)?, goal: None, busy: Vec::new() }
        }
        Wanted::Absent(_) | Wanted::AbsentParked(_) | Wanted::Pruned => {
            state.ask_holds(zfs, &may_prune)?;
            Decided { plan: prune::absent(state, task)?, goal: None, busy: Vec::new() }
        }
        Wanted::RolledBack(point, method) => {
            back(task, zfs, state, unfinished, resumed, key, (point, *method))?
        }
        Wanted::Undone(id) => {
            let goal = match resumed {
                Some(goal) => goal,
                None => {
                    let properties = properties(zfs, state)?;
                    let trees = trees::to_parked(state, &properties, id, &new_id(task))?;
                    Goal { what: what(task), key, trees }
                }
            };
            swapped(task, state, unfinished, goal)?
        }
    };
    let removals: Vec<&Removal> = (decided.plan.steps.iter())
        .filter_map(|step| match &step.action {
            Action::Remove(removal) => Some(removal),
            _ => None,
        })
        .collect();
    agree(zfs, &removals)?;
    Ok(decided)
}

/// Ours, and what is in a parked state.
fn may_prune(state: &State, snap: &Snap) -> bool {
    let parked = state.datasets.get(&snap.dataset).is_some_and(|data| data.parked.is_some());
    parked || state.ours(snap).is_some()
}

fn new_id(task: &Task) -> String {
    match &task.rollback {
        Some(id) => id.to_string(),
        None => clock::now().compact(),
    }
}

fn back(
    task: &Task,
    zfs: &Zfs,
    state: &mut State,
    unfinished: &UnfinishedRun,
    resumed: Option<Goal>,
    key: Option<String>,
    (point, method): (&Point, Method),
) -> Result<Decided> {
    if let (Some(goal), Method::Swap) = (&resumed, method) {
        return swapped(task, state, unfinished, goal.clone());
    }
    if method == Method::Rollback {
        let newer = |state: &State, snap: &Snap| {
            state.find(&snap.dataset, &point.snapshot).is_some_and(|target| snap.txg > target.txg)
        };
        state.ask_holds(zfs, &newer)?;
    }
    let targets = target::targets(state, task, point)?;
    if targets.snaps.is_empty() {
        let plan = plan::nothing(state, task);
        return Ok(Decided { plan, goal: None, busy: Vec::new() });
    }
    refuse_readonly(state, &state.covered)?;
    let gone = targets.gone.clone();
    let mut decided = match method {
        Method::Swap => {
            let properties = properties(zfs, state)?;
            let trees = trees::to_snapshots(state, &properties, &targets, point, &new_id(task))?;
            swapped(task, state, unfinished, Goal { what: what(task), key, trees })?
        }
        Method::Rollback => in_place(task, state, unfinished, resumed, key, (point, &targets))?,
    };
    if !gone.is_empty() {
        let names = target::listed(gone.iter().map(String::as_str));
        let told =
            format!("in the restore point, and destroyed since, so they do not come back: {names}");
        decided.plan.warnings.push(told);
    }
    Ok(decided)
}

fn in_place(
    task: &Task,
    state: &State,
    unfinished: &UnfinishedRun,
    resumed: Option<Goal>,
    key: Option<String>,
    (point, targets): (&Point, &Targets<'_>),
) -> Result<Decided> {
    let plan = inplace::plan(state, task, targets, point, unfinished, resumed.as_ref())?;
    let data: Vec<&Data> =
        targets.snaps.iter().filter_map(|snap| state.datasets.get(&snap.dataset)).collect();
    if let Some(locked) = data.iter().find(|data| data.key_missing) {
        let msg = format!(
            "{} is encrypted and its key is not loaded: `zfs load-key`; nothing was changed",
            locked.name
        );
        return Err(Failure::new("key_unavailable", msg).into());
    }
    let goal = resumed.unwrap_or_else(|| Goal { what: what(task), key, trees: Vec::new() });
    looked(
        task,
        state,
        For::RollingBack,
        &data,
        Decided { plan, goal: Some(goal), busy: Vec::new() },
    )
}

fn swapped(task: &Task, state: &State, unfinished: &UnfinishedRun, goal: Goal) -> Result<Decided> {
    let shown = match (&task.rollback, unfinished.is_waiting()) {
        // What was begun has its id.
        (None, true) => goal.trees.first().map_or(LATER, |tree| &tree.id),
        (None, false) => LATER,
        (Some(id), _) => id.as_str(),
    };
    let plan = swap::plan(state, task, &goal, shown);
    let trees = goal.trees.iter().flat_map(|tree| [Some(&tree.live), tree.from.as_ref()]).flatten();
    let data: Vec<&Data> = trees
        .flat_map(|root| {
            state
                .datasets
                .values()
                .filter(move |data| crate::names::below(&data.name, root).is_some())
        })
        .collect();
    looked(
        task,
        state,
        For::Unmounting,
        &data,
        Decided { plan, goal: Some(goal.clone()), busy: Vec::new() },
    )
}

fn looked(
    task: &Task,
    state: &State,
    purpose: For,
    data: &[&Data],
    mut decided: Decided,
) -> Result<Decided> {
    refuse_state_inside(state, task, &Mounts::read()?, data)?;
    let seen = busy::look(data, purpose)?;
    decided.plan.warnings.extend(seen.warnings.clone());
    if !seen.who.is_empty() {
        decided
            .plan
            .warnings
            .push(format!("busy: {}; a run is refused until that has ended", seen.told()));
    }
    decided.busy = seen.who;
    Ok(decided)
}

fn properties(zfs: &Zfs, state: &State) -> Result<Properties> {
    let mut of: Vec<&str> = Vec::new();
    for name in state.datasets.keys() {
        let is = |root: &String| crate::names::below(name, root).is_some();
        let parked = state.parked();
        if state.covered.iter().any(is) || parked.iter().any(|tree| is(&tree.root)) {
            of.push(name);
        }
    }
    let mut all = Properties::new();
    if of.is_empty() {
        return Ok(all);
    }
    for (name, property, value) in zfs.properties(&of)? {
        all.entry(name).or_default().push((property, value));
    }
    Ok(all)
}
