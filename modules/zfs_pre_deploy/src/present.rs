//! Plans `state: present`: the snapshots of a restore point, and their holds. Pure.

use crate::listing::by_pool;
use crate::names::LONGEST;
use crate::options::{Point, Task};
use crate::plan::{Action, after, nothing};
use crate::prune;
use crate::state::State;
use crate::target::{listed, refuse_foreign, refuse_readonly};
use crate::zfs::fits_one_call;
use ansible_module::Failure;
use anyhow::Result;
use change::{Plan, Step, Undo};

pub fn plan(state: &State, task: &Task, point: &Point) -> Result<Plan<Action>> {
    let mut plan = nothing(state, task);
    let (takes, holds) = missing(state, task, point)?;
    if !takes.is_empty() {
        refuse_readonly(state, &takes)?;
        fits_one_call(&takes)?;
    }
    plan.warnings.extend(not_atomic(state, point, &takes));
    let snapshot = &point.snapshot;
    plan.steps
        .extend(steps(&takes, Action::Take, |of| format!("take {snapshot} of {of} in one call")));
    plan.steps.extend(steps(&holds, Action::Hold, |of| {
        format!("hold {snapshot} of {of} with the tag reversible")
    }));
    if !plan.steps.is_empty() {
        plan.undo = Undo::By(format!("state: absent with deploy_id: {}", point.deploy));
    }
    let taken = usize::from(!state.covered.is_empty());
    let pruned = prune::retention(state, task, Some(point), taken, &mut plan);
    plan.after = after(state, &takes, &pruned);
    Ok(plan)
}

/// Returns the names of the snapshots that have to be taken, and of those that have to be held.
fn missing(state: &State, task: &Task, point: &Point) -> Result<(Vec<String>, Vec<String>)> {
    let (mut takes, mut holds) = (Vec::new(), Vec::new());
    for dataset in &state.covered {
        let name = format!("{dataset}@{}", point.snapshot);
        let there = state.find(dataset, &point.snapshot);
        match there {
            Some(snap) => refuse_foreign(state, snap, point).map_err(as_name_taken)?,
            None => {
                refuse_too_long(&name)?;
                takes.push(name.clone());
            }
        }
        if task.hold && !there.is_some_and(|snap| state.own_hold(snap)) {
            holds.push(name);
        }
    }
    Ok((takes, holds))
}

fn refuse_too_long(name: &str) -> Result<(), Failure> {
    if name.len() <= LONGEST {
        return Ok(());
    }
    let count = name.len();
    let msg =
        format!("{name} has {count} characters, and ZFS allows {LONGEST}; nothing was changed");
    Err(Failure::new("name_too_long", msg))
}

/// Returns a warning if the snapshots of the restore point are not taken at one time.
fn not_atomic(state: &State, point: &Point, takes: &[String]) -> Option<String> {
    let pools = by_pool(takes.iter().map(String::as_str));
    let (all, there) = (state.covered.len(), state.covered.len() - takes.len());
    if there > 0 && !takes.is_empty() {
        return Some(format!(
            "{there} of {all} datasets have {} already; the others are taken now, at another time",
            point.snapshot
        ));
    }
    let names = listed(pools.iter().map(|(pool, _)| *pool));
    (pools.len() > 1).then(|| format!("atomic in each pool, not across pools: {names}"))
}

/// Returns one step for each pool, since one call of `zfs` is atomic in one pool.
fn steps(
    names: &[String],
    action: fn(Vec<String>) -> Action,
    text: impl Fn(&str) -> String,
) -> Vec<Step<Action>> {
    let step = |(pool, names): (&str, Vec<&str>)| {
        let text = text(&format!("{} of {pool}", counted(names.len())));
        Step::new(action(names.into_iter().map(str::to_owned).collect()), text)
    };
    by_pool(names.iter().map(String::as_str)).into_iter().map(step).collect()
}

fn counted(count: usize) -> String {
    if count == 1 { "1 dataset".to_owned() } else { format!("{count} datasets") }
}

fn as_name_taken(failure: Failure) -> Failure {
    match failure.reason {
        "not_ours" => Failure::new("name_taken", failure.msg),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Wanted;
    use crate::sample::{dataset, foreign, point, state, taken, task};

    fn planned(state: &State, task: &Task) -> Plan<Action> {
        plan(state, task, &point(2)).unwrap()
    }

    fn reason(state: &State, task: &Task) -> &'static str {
        ansible_module::reason(&plan(state, task, &point(2)).unwrap_err())
    }

    #[test]
    fn only_what_is_missing_is_taken_and_held() {
        let names = ["tank/a", "tank/b"];
        let mut task = task(&names, Wanted::Present(point(2)));
        let both = planned(&state(&names, &[]), &task);
        let all: Vec<String> =
            names.iter().map(|name| format!("{name}@{}", point(2).snapshot)).collect();
        assert_eq!(both.steps.len(), 1, "one call takes all of a pool");
        assert_eq!(both.steps[0].action, Action::Take(all.clone()));
        let mut half = state(&names, &[taken("tank/a", 2)]);
        task.hold = true;
        let rest = planned(&half, &task);
        let actions: Vec<&Action> = rest.steps.iter().map(|step| &step.action).collect();
        assert_eq!(actions, [&Action::Take(vec![all[1].clone()]), &Action::Hold(all.clone())]);
        assert!(rest.warnings[0].contains("1 of 2 datasets have"), "{:?}", rest.warnings);
        half.holds.insert(all[0].clone(), vec![crate::zfs::TAG.into()]);
        assert_eq!(planned(&half, &task).steps[1].action, Action::Hold(vec![all[1].clone()]));
    }

    #[test]
    fn pools_are_not_atomic_together() {
        let names = ["big/a", "tank/a"];
        let plan = planned(&state(&names, &[]), &task(&names, Wanted::Present(point(2))));
        assert_eq!(plan.steps.len(), 2);
        assert!(plan.warnings[0].contains("big, tank"), "{:?}", plan.warnings);
    }

    #[test]
    fn a_snapshot_that_is_not_of_this_deploy_has_its_name() {
        let name = format!("tank/a@{}", point(2).snapshot);
        let task = task(&["tank/a"], Wanted::Present(point(2)));
        assert_eq!(reason(&state(&["tank/a"], &[foreign(&name, 20)]), &task), "name_taken");
        // One that was received has our properties, with the pool of the machine that sent it.
        let received = taken("tank/a", 2).replace("\t7\t", "\t99\t");
        assert_eq!(reason(&state(&["tank/a"], &[received]), &task), "name_taken");
        let mut recreated = state(&["tank/a"], &[taken("tank/a", 2)]);
        recreated.noted.insert(name, 21);
        assert_eq!(reason(&recreated, &task), "guid_moved");
    }

    #[test]
    fn what_zfs_would_refuse_half_done_is_refused_before() {
        let long = format!("tank/{}", "a".repeat(240));
        let both = ["tank/a", long.as_str()];
        let task_of = |names: &[&str]| task(names, Wanted::Present(point(2)));
        assert_eq!(reason(&state(&both, &[]), &task_of(&both)), "name_too_long");
        let mut readonly = state(&["tank/a"], &[]);
        readonly.pools[0].readonly = true;
        assert_eq!(reason(&readonly, &task_of(&["tank/a"])), "pool_readonly");
        readonly.datasets.insert("tank/b".into(), dataset("tank/b"));
        readonly.snapshots = state(&["tank/a"], &[taken("tank/a", 2)]).snapshots;
        assert!(planned(&readonly, &task_of(&["tank/a"])).steps.is_empty());
    }
}
