//! Turns the state into a plan, and asks ZFS only for what this task needs.
//! Invariant: whatever would stop a run half way is found here, before the first change.

use crate::apply::agree;
use crate::busy::{self, Purpose};
use crate::listing::{Data, Snap};
use crate::names::below;
use crate::options::{Method, Point, Task, Wanted};
use crate::plan::{self, Action, Removal};
use crate::present;
use crate::state::State;
use crate::swap;
use crate::target::{self, Targets, refuse_readonly, refuse_state_inside};
use crate::trees::{self, Properties};
use crate::unfinished::{Goal, Tree, UnfinishedRun, describe};
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
    /// The users of the datasets: a run is refused because of them, check mode reports them.
    pub busy: Vec<String>,
}

/// The placeholder in a plan for an id that is known only when the run begins.
const ID_OF_RUN: &str = "<time>";

/// Everything but the state that a decision depends on.
pub struct Decider<'a> {
    pub task: &'a Task,
    pub zfs: &'a Zfs,
    pub unfinished: &'a UnfinishedRun,
    /// The goal of a killed run of the same task.
    pub resumed: Option<Goal>,
    /// The id that keeps a rollback from being done twice.
    pub key: Option<String>,
}

impl Decider<'_> {
    pub fn decide(&self, state: &mut State) -> Result<Decided> {
        let task = self.task;
        let decided = match &task.wanted {
            Wanted::Present(point) => {
                let covered: Vec<&Data> =
                    state.covered.iter().filter_map(|name| state.datasets.get(name)).collect();
                refuse_state_inside(state, task, &Mounts::read()?, &covered)?;
                let retains = task.retain.is_some();
                state.ask_holds(self.zfs, &|state, snap| {
                    let is_held = task.hold && snap.short == point.snapshot;
                    is_held || (retains && may_prune(state, snap))
                })?;
                Decided::without_users(present::plan(state, task, point)?, None)
            }
            Wanted::Absent(_) | Wanted::AbsentParked(_) | Wanted::Pruned => {
                state.ask_holds(self.zfs, &may_prune)?;
                Decided::without_users(prune::absent(state, task)?, None)
            }
            Wanted::RolledBack(point, method) => self.decide_rollback(state, point, *method)?,
            Wanted::Undone(id) => {
                let goal = match &self.resumed {
                    Some(goal) => goal.clone(),
                    None => {
                        let properties = properties(self.zfs, state)?;
                        self.goal(trees::to_parked(state, &properties, id, &new_id(task))?)
                    }
                };
                self.decide_swap(state, goal)?
            }
        };
        let steps = decided.plan.steps.iter();
        let removals: Vec<&Removal> = steps
            .filter_map(|step| match &step.action {
                Action::Remove(removal) => Some(removal),
                _ => None,
            })
            .collect();
        agree(self.zfs, &removals)?;
        Ok(decided)
    }

    fn goal(&self, trees: Vec<Tree>) -> Goal {
        Goal { what: describe(self.task), key: self.key.clone(), trees }
    }

    fn decide_rollback(&self, state: &mut State, point: &Point, method: Method) -> Result<Decided> {
        if let (Some(goal), Method::Swap) = (&self.resumed, method) {
            return self.decide_swap(state, goal.clone());
        }
        if method == Method::Rollback {
            let newer = |state: &State, snap: &Snap| {
                let target = state.find(&snap.dataset, &point.snapshot);
                target.is_some_and(|target| snap.txg > target.txg)
            };
            state.ask_holds(self.zfs, &newer)?;
        }
        let targets = target::targets(state, self.task, point)?;
        if targets.snaps.is_empty() {
            return Ok(Decided::without_users(plan::nothing(state, self.task), None));
        }
        refuse_readonly(state, &state.covered)?;
        let mut decided = match method {
            Method::Swap => {
                let (properties, id) = (properties(self.zfs, state)?, new_id(self.task));
                let trees = trees::to_snapshots(state, &properties, &targets, point, &id)?;
                self.decide_swap(state, self.goal(trees))?
            }
            Method::Rollback => self.decide_in_place(state, point, &targets)?,
        };
        if !targets.gone.is_empty() {
            let names = target::listed(targets.gone.iter().map(String::as_str));
            let warning = format!(
                "in the restore point, but destroyed since; a rollback cannot bring them back: {names}"
            );
            decided.plan.warnings.push(warning);
        }
        Ok(decided)
    }

    fn decide_in_place(
        &self,
        state: &State,
        point: &Point,
        targets: &Targets<'_>,
    ) -> Result<Decided> {
        let resumed = self.resumed.as_ref();
        let plan = inplace::plan(state, self.task, targets, point, self.unfinished, resumed)?;
        let data: Vec<&Data> =
            targets.snaps.iter().filter_map(|snap| state.datasets.get(&snap.dataset)).collect();
        if let Some(locked) = data.iter().find(|data| data.key_missing) {
            let msg = format!(
                "{} is encrypted and its key is not loaded: `zfs load-key`; nothing was changed",
                locked.name
            );
            return Err(Failure::new("key_unavailable", msg).into());
        }
        let goal = resumed.cloned().unwrap_or_else(|| self.goal(Vec::new()));
        self.add_users(state, Purpose::RollBack, &data, Decided::without_users(plan, Some(goal)))
    }

    fn decide_swap(&self, state: &State, goal: Goal) -> Result<Decided> {
        let shown = match (&self.task.rollback, self.unfinished.is_waiting()) {
            // An unfinished run has its id already.
            (None, true) => goal.trees.first().map_or(ID_OF_RUN, |tree| &tree.id),
            (None, false) => ID_OF_RUN,
            (Some(id), _) => id.as_str(),
        };
        let plan = swap::plan(state, self.task, &goal, shown);
        let roots =
            goal.trees.iter().flat_map(|tree| [Some(&tree.live), tree.from.as_ref()]).flatten();
        let data: Vec<&Data> = roots
            .flat_map(|root| {
                let all = state.datasets.values();
                all.filter(move |data| below(&data.name, root).is_some())
            })
            .collect();
        self.add_users(
            state,
            Purpose::Unmount,
            &data,
            Decided::without_users(plan, Some(goal.clone())),
        )
    }

    fn add_users(
        &self,
        state: &State,
        purpose: Purpose,
        data: &[&Data],
        mut decided: Decided,
    ) -> Result<Decided> {
        refuse_state_inside(state, self.task, &Mounts::read()?, data)?;
        let seen = busy::find(data, purpose)?;
        decided.plan.warnings.extend(seen.warnings.clone());
        if !seen.who.is_empty() {
            let warning =
                format!("busy: {}; a run is refused until that has ended", seen.summary());
            decided.plan.warnings.push(warning);
        }
        decided.busy = seen.who;
        Ok(decided)
    }
}

impl Decided {
    /// Makes a decision for which the users of the datasets do not matter.
    fn without_users(plan: Plan<Action>, goal: Option<Goal>) -> Decided {
        Decided { plan, goal, busy: Vec::new() }
    }
}

/// Whether the snapshot is ours or part of a parked state.
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

fn properties(zfs: &Zfs, state: &State) -> Result<Properties> {
    let mut of: Vec<&str> = Vec::new();
    for name in state.datasets.keys() {
        let is = |root: &String| below(name, root).is_some();
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
