//! Plans `method: rollback`: `zfs rollback` of each dataset, after removing by name the newer snapshots
//! and bookmarks that would make it fail. Pure.

use crate::listing::{Snap, is_replication};
use crate::names::below;
use crate::options::{Point, Task};
use crate::plan::{Action, nothing};
use crate::prune::{NEWER, refuse_needed, removal};
use crate::state::{State, view};
use crate::target::{Targets, listed};
use crate::unfinished::{Goal, UnfinishedRun};
use ansible_module::Failure;
use change::{Loss, Plan, Step, Undo};
use std::collections::BTreeMap;

pub const OWN_HOLDS: &str = "own_holds";

pub fn plan(
    state: &State,
    task: &Task,
    targets: &Targets<'_>,
    point: &Point,
    unfinished: &UnfinishedRun,
    goal: Option<&Goal>,
) -> Result<Plan<Action>, Failure> {
    let mut plan = nothing(state, task);
    let is_done = |snap: &Snap| goal.is_some() && unfinished.rolled.contains(&snap.dataset);
    let todo: Vec<&Snap> = targets.snaps.iter().copied().filter(|snap| !is_done(snap)).collect();
    for target in &todo {
        for newer in state.newer_than(target) {
            refuse_kept(state, task, newer)?;
            refuse_needed(state, newer)?;
        }
    }
    let mut sent = Vec::new();
    for target in &todo {
        let newer = state.newer_than(target);
        plan.identities.push(format!("{} guid {}", target.name(), target.guid));
        plan.identities
            .extend(newer.iter().map(|snap| format!("{} guid {}", snap.name(), snap.guid)));
        sent.extend(newer.iter().filter(|snap| is_replication(snap)).map(|snap| snap.name()));
        if newer.is_empty() {
            continue;
        }
        let names: Vec<String> = newer.iter().map(|snap| snap.name()).collect();
        let text = format!(
            "remove {}, newer than {}",
            listed(names.iter().map(String::as_str)),
            point.snapshot
        );
        let mut step = Step::new(Action::Remove(removal(state, &newer)), text);
        for snap in &newer {
            let kind = if snap.is_bookmark { "bookmark" } else { "snapshot" };
            let loss = Loss::accepted_as(NEWER, format!("the {kind} {}", snap.name()));
            // Its data was written since the target and is counted there.
            step = step.loses(loss.bytes(0));
            if state.own_hold(snap) {
                let what = format!("our hold on {}", snap.name());
                step = step.loses(Loss::accepted_as(OWN_HOLDS, what).bytes(0));
            }
        }
        plan.steps.push(step);
    }
    for target in &todo {
        let (dataset, snapshot) = (target.dataset.clone(), target.short.clone());
        let text = format!("roll {dataset} back to {snapshot}");
        let what = format!("what was written to {dataset} since {snapshot}");
        let loss = Loss::plain(what).bytes(state.written_since(target));
        let guid = state.datasets.get(&dataset).map_or(0, |data| data.guid);
        plan.identities.push(format!("{dataset} guid {guid}"));
        plan.steps.push(Step::new(Action::RollBack { dataset, snapshot }, text).loses(loss));
    }
    plan.undo = Undo::None("what was written since, and the newer snapshots, are gone".into());
    plan.warnings.extend(warnings(state, targets, &sent));
    plan.after = after(state, targets);
    Ok(plan)
}

fn refuse_kept(state: &State, task: &Task, snap: &Snap) -> Result<(), Failure> {
    let deploy = state.ours(snap).map(|mark| mark.deploy.as_str());
    let kept = task.keep.iter().any(|kept| *kept == snap.short || Some(kept.as_str()) == deploy);
    match kept {
        true => {
            let msg = format!(
                "keep names {}, which is newer and would be destroyed; method: swap keeps it; nothing was changed",
                snap.name()
            );
            Err(Failure::new("kept", msg))
        }
        false => Ok(()),
    }
}

fn warnings(state: &State, targets: &Targets<'_>, sent: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    if !sent.is_empty() {
        warnings.push(format!(
            "the rollback destroys what replication needs ({}): the next one must begin at an older common snapshot, or \
             in full",
            listed(sent.iter().map(String::as_str))
        ));
    }
    let is_target = |name: &str| targets.of(name).is_some();
    let uncovered = state.datasets.values().filter(|data| {
        !is_target(&data.name)
            && data.parked.is_none()
            && targets.snaps.iter().any(|snap| below(&data.name, &snap.dataset).is_some())
    });
    let uncovered: Vec<&str> = uncovered.map(|data| data.name.as_str()).collect();
    if !uncovered.is_empty() {
        warnings.push(format!("not covered, and left as they are: {}", listed(uncovered)));
    }
    warnings
}

fn after(state: &State, targets: &Targets<'_>) -> serde_json::Value {
    let mut snapshots = BTreeMap::new();
    for dataset in &state.covered {
        let until = targets.of(dataset).map_or(u64::MAX, |snap| snap.txg);
        let own =
            state.of(dataset).iter().filter(|snap| snap.txg <= until && state.ours(snap).is_some());
        snapshots.insert(dataset.clone(), own.map(|snap| snap.short.clone()).collect());
    }
    let parked = state.parked().into_iter().map(|tree| (tree.root, tree.live));
    view(&snapshots, &parked.collect())
}
