//! Plans `state: present`: the snapshots of a restore point, and their holds. Pure.

use crate::listing::by_pool;
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
    let mut takes = Vec::new();
    let mut holds = Vec::new();
    for dataset in &state.covered {
        let name = format!("{dataset}@{}", point.snapshot);
        match state.find(dataset, &point.snapshot) {
            Some(snap) => {
                refuse_foreign(state, snap, point).map_err(as_name_taken)?;
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
                    return Err(Failure::new("name_too_long", msg).into());
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
            "{} of {} datasets have {} already; the others are taken now, at another time",
            state.covered.len() - takes.len(),
            state.covered.len(),
            point.snapshot
        ));
    } else if pools.len() > 1 {
        let names = listed(pools.iter().map(|(pool, _)| *pool));
        plan.warnings.push(format!("atomic in each pool, not across pools: {names}"));
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

fn as_name_taken(failure: Failure) -> Failure {
    match failure.reason {
        "not_ours" => Failure::new("name_taken", failure.msg),
        _ => failure,
    }
}
