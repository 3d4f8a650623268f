//! `zfs_pre_deploy`: snapshots of ZFS datasets before a deploy, and rollback to them, all or
//! nothing. `zfs_pre_deploy_info` lists them, and says whether a rollback to each is possible.
//!
//! The module goes back by parking: a tree is unmounted, renamed as a whole, recreated from its
//! snapshots, promoted, mounted (`exchange.rs`). The clones are always promoted:
//! else the parked tree could never be removed. The outgoing tree is renamed before, and a returning
//! tree after its promotion, since ZFS lets only encryption roots move below another parent. The goal
//! with all names, guids and properties is in the intent, and each step first looks at what is done,
//! so a killed run is finished from the note. Before the first promotion a failure puts everything back (`back.rs`); after it the way is
//! forward. A mount in another namespace that follows ours (systemd's services) is no obstacle; one
//! that does not (a container) is. A snapshot counts as ours when its properties name itself and this
//! pool; inherited and received properties do not.

mod apply;
mod back;
mod busy;
mod decide;
mod exchange;
mod info;
mod inplace;
mod listing;
mod names;
mod options;
mod plan;
mod points;
mod present;
mod prune;
#[cfg(test)]
mod sample;
mod spec;
mod state;
mod swap;
mod target;
mod trees;
mod unfinished;
mod zfs;

use ansible_module::{Failure, Invocation, Outcome, Served};
use anyhow::Result;
use apply::Apply;
use change::{Consent, Session};
use decide::{Decided, Decider};
use options::TASK;
use options::{Subject, Task, Wanted};
use plan::{Action, Removal};
use serde_json::{Value, json};
use state::{Consistency, State};
use std::cell::RefCell;
use std::time::Duration;
use unfinished::{Goal, UnfinishedRun};
use zfs::Zfs;

/// The modules that this crate serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info }];

fn info(invocation: &Invocation) -> Result<Outcome> {
    let subject = Subject::parse(&invocation.options)?;
    info::of(&Zfs::find(Duration::ZERO)?, &subject)
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    let task = Task::parse(&invocation.options)?;
    let consent = match &task.wanted {
        Wanted::Present(_) => Consent::none(),
        _ => Consent::from(invocation)?,
    };
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(
            "permission_denied",
            "only root can take snapshots and mount datasets; run the task with become: true",
        )
        .into());
    }
    let zfs = Zfs::find(task.task_timeout)?;
    let mut session = Session::new(invocation, consent)
        .lock(|| apply::lock(&task))?
        .fence(task.run_id.as_ref(), &task.state_dir)?
        .intent_in(&task.state_dir, TASK);
    if task.is_rollback() {
        session = session.as_rollback(task.rollback.as_ref());
    }
    let key = session.rollback().map(str::to_owned);
    let unfinished = UnfinishedRun::read(&task.state_dir)?;
    let consistency = if task.is_rollback() { Consistency::Synced } else { Consistency::OnDisk };
    let resumed = unfinished.resumes(&task, &key)?.cloned();
    let mut state = state::observe(&zfs, &task.subject, &unfinished, consistency)?;
    if let Some(done) = session.done_before(&state.view())? {
        return Ok(add_facts(done, &task, &state, None));
    }
    let decider = Decider { task: &task, zfs: &zfs, unfinished: &unfinished, resumed, key };
    let Decided { plan, goal, busy } = decider.decide(&mut state)?;
    let changes = !plan.steps.is_empty() && !invocation.check_mode;
    if changes && !busy.is_empty() {
        let seen = busy::Busy { who: busy.clone(), warnings: Vec::new() };
        let msg =
            format!("{}: {}; stop what uses it; nothing was changed", plan.subject, seen.summary());
        return Err(Failure::new("busy", msg).with("busy", busy).into());
    }
    let removals = removals(&plan);
    let apply =
        RefCell::new(Apply::new(&task, &zfs, &state, goal.clone(), unfinished.rolled.clone()));
    let done = session.carry_out(
        plan,
        |action, intent| apply.borrow_mut().act(action, intent),
        || verify(&task, &zfs, &apply.borrow(), &removals),
    );
    let mut apply = apply.into_inner();
    let mut outcome = done.map_err(|error| apply.undo_after(error))?;
    if invocation.check_mode && !busy.is_empty() {
        outcome = outcome.fact("busy", busy);
    }
    if let Some(tree) = goal.iter().flat_map(|goal| &goal.trees).next().filter(|_| changes) {
        let id = &tree.id;
        outcome.undo = Some(format!("state: rolled_back with the same datasets and parked: {id}"));
    }
    Ok(add_facts(outcome, &task, &state, goal.as_ref()))
}

fn removals(plan: &change::Plan<Action>) -> Vec<Removal> {
    let steps = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Remove(removal) => Some(removal.clone()),
        _ => None,
    });
    steps.collect()
}

/// Looks again: the run has succeeded only when ZFS shows the wanted state.
fn verify(task: &Task, zfs: &Zfs, apply: &Apply<'_>, removals: &[Removal]) -> Result<Value> {
    let now = state::observe(zfs, &task.subject, &UnfinishedRun::default(), Consistency::OnDisk)?;
    apply::verify_gone(&now, removals)?;
    match (&task.wanted, &apply.goal) {
        (Wanted::Present(point), _) => apply::verify_present(task, &now, point),
        (_, Some(goal)) if !goal.trees.is_empty() => exchange::verify(&goal.trees, &now),
        (Wanted::RolledBack(point, _), _) => apply::verify_rolled_back(&now, point, &apply.rolled),
        _ => Ok(now.view()),
    }
}

/// Adds to the result what the plan does not show.
fn add_facts(outcome: Outcome, task: &Task, state: &State, goal: Option<&Goal>) -> Outcome {
    let point = task.point();
    let outcome = outcome
        .fact("snapshot", json!(point.map(|point| &point.snapshot)))
        .fact("deploy_id", json!(point.map(|point| &point.deploy)))
        .fact("datasets", json!(state.covered))
        .fact("missing", json!(state.missing));
    let Some(goal) = goal.filter(|goal| !goal.trees.is_empty()) else { return outcome };
    let parked: Vec<Value> = (goal.trees.iter())
        .map(|tree| json!({ "dataset": tree.live, "parked": tree.parked, "id": tree.id }))
        .collect();
    outcome.fact("parked", parked).fact("set_aside", swap::set_aside(state, goal))
}
