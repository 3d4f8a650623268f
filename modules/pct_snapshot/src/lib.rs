//! `pct_snapshot`: takes snapshots of a Proxmox container and rolls it back to them, with its start verified.
//! `pct_snapshot_info` lists the snapshots and whether a rollback to them is possible.

mod apply;
mod back;
mod boot;
mod cluster;
mod conf;
mod container;
mod filesystems;
mod freezer;
mod info;
mod marker;
mod names;
mod options;
mod pct;
mod plan;
mod pvesh;
mod read;
mod refuse;
mod rollback;
mod spec;
mod state;
mod unfinished;
mod zfs;

use ansible_module::{Failure, Invocation, Outcome, Served};
use anyhow::Result;
use apply::Apply;
use change::{Consent, Plan, Session};
use cluster::Cluster;
use host::program;
use names::Vmid;
use options::TASK;
use options::{Subject, Task, Wanted, Which};
use pct::Pct;
use plan::Action;
use pvesh::Pvesh;
use read::Reader;
use rollback::Goal;
use serde_json::json;
use state::State;
use std::path::Path;
use std::time::Duration;

/// The modules that this crate serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info }];

fn info(invocation: &Invocation) -> Result<Outcome> {
    let subject = Subject::parse(&invocation.options)?;
    let vmid = subject.as_ref().map_or(Vmid::FIRST, |subject| subject.vmid);
    let reader = connect(vmid, Duration::ZERO)?;
    match &subject {
        Some(subject) => info::of_one(&reader, subject),
        None => info::of_all(&reader),
    }
}

fn connect(vmid: Vmid, task_timeout: Duration) -> Result<Reader> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new("permission_denied", "pct works for root alone").into());
    }
    let cluster = Cluster::find(Path::new(cluster::ROOT));
    let program = program::look("pct")?.map_err(|missing| {
        Failure::new("program_missing", "this is not a Proxmox node").caused_by(missing.into())
    })?;
    let node = cluster.node.clone();
    let pvesh = program::look("pvesh")?.ok().map(|program| Pvesh { program, node });
    let pct = Pct { program, vmid, task_timeout };
    Ok(Reader { pct, pvesh, cluster })
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    let task = Task::parse(&invocation.options)?;
    let consent = match &task.wanted {
        Wanted::Present { .. } => Consent::none(),
        Wanted::RolledBack { .. } | Wanted::Absent { .. } => Consent::from(invocation)?,
    };
    let reader = connect(task.subject.vmid, task.task_timeout)?;
    let mut session = Session::new(invocation, consent)
        .lock(|| apply::lock(&task))?
        .fence(task.run.as_ref(), &task.subject.state_dir)?
        .intent_in(&task.subject.state_dir, TASK);
    if task.is_rollback() {
        session = session.as_rollback(task.rollback.as_ref());
    }
    let key = session.rollback().map(str::to_owned);
    let mut state = state::observe(&reader, &task.subject)?;
    if let Some(done) = session.done_before(&state.snapshots.view())? {
        return Ok(facts_of_done(done, &task, &state));
    }
    let mut decided = decide(&task, &reader, &mut state, &key)?;
    let mut warnings = Vec::new();
    if let (Some(lock), false) = (state.foreign_lock(), decided.plan.steps.is_empty()) {
        if invocation.check_mode {
            let most = host::deadline::seconds(task.lock_timeout);
            let locked = state.locked(lock, None);
            warnings.push(format!("{locked}; a run would wait for it, {most} at most"));
        } else {
            state = wait(&task, &reader, &state)?;
            decided = decide(&task, &reader, &mut state, &key)?;
        }
    }
    let Decided { plan, goal, snapshot, deploy } = decided;
    let apply = std::cell::RefCell::new(Apply::new(&task, &reader, &state, goal));
    let done = session.carry_out(
        plan,
        |action, intent| apply.borrow_mut().act(action, intent),
        || Ok(apply.borrow().seen.view()),
    );
    let mut apply = apply.into_inner();
    let mut outcome = done.map_err(|error| apply.recover(error))?;
    outcome.warnings.extend(warnings);
    let is_rollback = apply.goal.is_some();
    outcome = outcome
        .fact("vmid", task.subject.vmid.number())
        .fact("snapshot", json!(snapshot))
        .fact("deploy_id", json!(deploy))
        .fact("running", apply.seen.running && !apply.is_frozen_now()?);
    Ok(match is_rollback {
        true => outcome.fact("safety_snapshot", json!(apply.safety)),
        false => outcome,
    })
}

/// Adds the facts about a rollback that was done before.
fn facts_of_done(done: Outcome, task: &Task, state: &State) -> Outcome {
    let (name, deploy) = match &task.wanted {
        Wanted::RolledBack { which: Which::Named(name), deploy } => (Some(name), deploy.as_ref()),
        _ => (None, None),
    };
    done.fact("vmid", task.subject.vmid.number())
        .fact("snapshot", json!(name))
        .fact("deploy_id", json!(deploy))
        .fact("running", state.runs())
}

struct Decided {
    plan: Plan<Action>,
    goal: Option<Goal>,
    /// The snapshot of the task.
    snapshot: Option<String>,
    deploy: Option<String>,
}

fn decide(
    task: &Task,
    reader: &Reader,
    state: &mut State,
    key: &Option<String>,
) -> Result<Decided> {
    Ok(match &task.wanted {
        Wanted::Present { name, marker, .. } => Decided {
            plan: plan::present(state, task, name.as_str(), marker)?,
            goal: None,
            snapshot: Some(name.to_string()),
            deploy: marker.deploy.clone(),
        },
        Wanted::Absent { name } => {
            let name = name.as_ref().map(ToString::to_string);
            let there = name.as_ref().and_then(|name| state.snapshots.find(name));
            let deploy = there.and_then(|one| one.deploy()).map(str::to_owned);
            let plan = plan::absent(state, task, name.as_deref())?;
            Decided { plan, goal: None, snapshot: name, deploy }
        }
        Wanted::RolledBack { which, deploy } => {
            let name = rollback::target(state, task, which, deploy.as_ref())?.name.clone();
            let survey = state.survey(reader, &task.subject, &name)?;
            let target = rollback::target(state, task, which, deploy.as_ref())?;
            let deploy = target.deploy().map(str::to_owned);
            let (plan, goal) = rollback::plan(state, &survey, task, target, key.clone())?;
            Decided { plan, goal: Some(goal), snapshot: Some(name), deploy }
        }
    })
}

/// Waits for a lock of another task, and observes the state again.
fn wait(task: &Task, reader: &Reader, seen: &State) -> Result<State> {
    state::wait_for_lock(reader, &seen.unfinished, task.lock_timeout)?;
    let state = state::observe(reader, &task.subject)?;
    let Some(lock) = state.foreign_lock() else { return Ok(state) };
    let msg = format!("{}; nothing was changed", state.locked(lock, Some(task.lock_timeout)));
    Err(Failure::new("locked", msg).with("lock", lock).into())
}
