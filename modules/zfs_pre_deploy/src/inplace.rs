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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Method, Wanted};
    use crate::sample::{foreign, point, state, taken, task};
    use crate::target::targets;

    fn planned(state: &State, task: &Task) -> Result<Plan<Action>, Failure> {
        let targets = targets(state, task, &point(1))?;
        plan(state, task, &targets, &point(1), &UnfinishedRun::default(), None)
    }

    fn back() -> Task {
        task(&["tank/a"], Wanted::RolledBack(point(1), Method::Rollback))
    }

    #[test]
    fn everything_newer_is_removed_by_name_and_counted_once() {
        let bookmark = foreign("tank/a#mark", 25)
            .replace("\tsnapshot\t", "\tbookmark\t")
            .replace("\t0\t4096\t100\t", "\t-\t-\t-\t");
        let rows = [taken("tank/a", 1), taken("tank/a", 2), bookmark, foreign("tank/a@x", 30)];
        let mut state = state(&["tank/a"], &rows);
        state.holds.insert(format!("tank/a@{}", point(2).snapshot), vec![crate::zfs::TAG.into()]);
        let plan = planned(&state, &back()).unwrap();
        let Action::Remove(removal) = &plan.steps[0].action else { panic!("{:?}", plan.steps) };
        let newer = vec![point(2).snapshot, "x".to_owned()];
        assert_eq!(removal.snapshots, [("tank/a".to_owned(), newer)]);
        assert_eq!(removal.bookmarks, ["tank/a#mark"]);
        let accepts: Vec<_> = plan.losses().filter_map(|loss| loss.accept).collect();
        assert_eq!(accepts, [NEWER, OWN_HOLDS, NEWER, NEWER]);
        // What was written: 5 bytes since x, and 100 for each of the two newer snapshots.
        let bytes: Vec<_> = plan.losses().filter_map(|loss| loss.bytes).collect();
        assert_eq!(bytes, [0, 0, 0, 0, 205]);
    }

    #[test]
    fn the_plan_id_changes_with_each_snapshot_that_would_be_lost() {
        let id = |rows: &[String]| planned(&state(&["tank/a"], rows), &back()).unwrap().id();
        let shown = id(&[taken("tank/a", 1), foreign("tank/a@x", 30)]);
        assert_eq!(id(&[taken("tank/a", 1), foreign("tank/a@x", 30)]), shown);
        assert_ne!(id(&[taken("tank/a", 1)]), shown);
        // It has the same name, and was taken again.
        assert_ne!(id(&[taken("tank/a", 1), foreign("tank/a@x", 31)]), shown);
    }

    #[test]
    fn what_keep_names_or_others_need_refuses_the_rollback() {
        let reason = |state: &State, task: &Task| planned(state, task).unwrap_err().reason;
        let mut both = state(&["tank/a"], &[taken("tank/a", 1), taken("tank/a", 2)]);
        for keep in [point(2).snapshot, point(2).deploy.to_string()] {
            assert_eq!(reason(&both, &Task { keep: vec![keep], ..back() }), "kept");
        }
        both.snapshots.get_mut("tank/a").unwrap()[1].clones = vec!["tank/clone".into()];
        assert_eq!(reason(&both, &back()), "clones");
        let none = state(&["tank/a"], &[taken("tank/a", 2)]);
        assert_eq!(reason(&none, &back()), "no_snapshot");
    }

    #[test]
    fn a_run_that_goes_on_repeats_nothing() {
        let names = ["tank/a", "tank/b"];
        let state = state(&names, &[taken("tank/a", 1), taken("tank/b", 1)]);
        let task = task(&names, Wanted::RolledBack(point(1), Method::Rollback));
        let targets = targets(&state, &task, &point(1)).unwrap();
        let unfinished =
            UnfinishedRun { rolled: vec!["tank/a".into()], ..UnfinishedRun::default() };
        let goal = Goal { what: "back".into(), key: None, trees: Vec::new() };
        let of =
            |goal| plan(&state, &task, &targets, &point(1), &unfinished, goal).unwrap().steps.len();
        assert_eq!((of(None), of(Some(&goal))), (2, 1));
    }
}
