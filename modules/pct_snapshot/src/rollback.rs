//! Plans a rollback: which snapshot, the obstacles, what is lost, and how it can be undone. Pure.

use crate::cluster::Reach;
use crate::container::{Snapshot, view};
use crate::marker::{Kind, Marker};
use crate::options::{Start, Task, Which};
use crate::plan::{Action, delete, is_kept, nothing, repairs};
use crate::refuse::{no_such, to_rollback, uncovered};
use crate::state::{State, Survey};
use crate::unfinished::Rollback;
use ansible_module::Failure;
use change::{Loss, Plan, Step, Undo};
use host::deploy_id::DeployId;

pub const NEWER: &str = "newer_snapshots";
pub const UNCOVERED: &str = "uncovered_mounts";

/// A rollback, resolved.
#[derive(Clone, Debug)]
pub struct Goal {
    pub rollback: Rollback,
    pub was_running: bool,
    pub starts: bool,
    /// The name of the snapshot of the state before the rollback, if it is known in advance.
    pub safety: Option<String>,
    pub safety_marker: Marker,
    /// Whether an earlier run has done the rollback itself.
    pub rolled_back: bool,
}

/// Finds the snapshot to roll back to.
pub fn target<'a>(
    state: &'a State,
    task: &Task,
    which: &Which,
    deploy: Option<&DeployId>,
) -> Result<&'a Snapshot, Failure> {
    match which {
        Which::Named(name) => {
            let found = state.snapshots.find(name.as_str());
            let found = found.ok_or_else(|| no_such(state, name.as_str()))?;
            let other = found.deploy().zip(deploy).filter(|(noted, id)| *noted != id.as_str());
            if let Some((noted, id)) = other {
                let msg = format!(
                    "snapshot {name} belongs to deploy {noted}, not to {id}; nothing was changed"
                );
                return Err(Failure::new("wrong_snapshot", msg));
            }
            Ok(found)
        }
        Which::Latest => {
            let ours = |one: &&Snapshot| {
                let app = one.marker.as_ref().and_then(|marker| marker.app.as_ref());
                one.is_of(Kind::RestorePoint)
                    && one.is_complete()
                    && (task.app.is_none() || app == task.app.as_ref())
            };
            state.snapshots.all.iter().rfind(ours).ok_or_else(|| {
                let of_app =
                    task.app.as_ref().map(|app| format!(" for the app {app}")).unwrap_or_default();
                let msg = format!(
                    "there is no complete restore point of this module{of_app} to go back to; name a \
                     snapshot; nothing was changed"
                );
                Failure::new("no_snapshot", msg)
            })
        }
    }
}

pub fn plan(
    state: &State,
    survey: &Survey,
    task: &Task,
    target: &Snapshot,
    key: Option<String>,
) -> Result<(Plan<Action>, Goal), Failure> {
    if let Some(first) = to_rollback(state, survey, target).into_iter().next() {
        return Err(first.into());
    }
    let mut plan = nothing(state, task);
    plan.warnings = warnings(state, survey);
    let mut goal = goal(state, task, target, key);
    let running = state.snapshots.running;
    let resumes = resumes(state, &goal);
    goal.rolled_back = resumes && state.unfinished.rolled_back;
    if goal.rolled_back {
        // Only the start remains, and what was written since stays.
        if goal.starts {
            plan.steps.push(Step::new(Action::Start, start_text(task)));
        }
        let names = names(state);
        plan.after = view(running || goal.starts, state.snapshots.parent.as_deref(), &names);
        return Ok((plan, goal));
    }
    if resumes {
        refuse_unclear(state, &goal)?;
    }
    plan.identities.push(format!("to {}", target.title()));
    plan.steps = repairs(state);
    let repaired = state.own_incomplete().map(|broken| broken.name.as_str());
    let mut names = names(state);
    names.retain(|name| Some(*name) != repaired);
    let reach = state.reach(&survey.target.mounts);
    if reach == Reach::Newest {
        let newer = state.snapshots.newer_than(target);
        for newer in newer.into_iter().filter(|one| Some(one.name.as_str()) != repaired) {
            plan.steps.push(remove_newer(newer, survey, task)?);
            names.retain(|name| *name != newer.name);
        }
    }
    if running {
        plan.steps.push(Step::new(Action::Stop, stop_text(task)));
    }
    let safety = add_safety(&mut plan, state, task, reach, &mut goal);
    if let Some(safety) = safety.as_deref().filter(|name| !names.contains(name)) {
        names.push(safety);
    }
    plan.steps.push(the_rollback(state, survey, task, target));
    if goal.starts {
        plan.steps.push(Step::new(Action::Start, start_text(task)));
    }
    plan.after = view(goal.starts, Some(&target.name), &names);
    Ok((plan, goal))
}

/// Plans the removal of a snapshot that is newer than the target.
fn remove_newer(newer: &Snapshot, survey: &Survey, task: &Task) -> Result<Step<Action>, Failure> {
    let title = newer.title();
    if is_kept(newer, task) {
        let msg = format!(
            "ZFS goes back to the newest snapshot only, and keep names {title}, which is newer; nothing was changed"
        );
        return Err(Failure::new("kept", msg));
    }
    let mut loss = Loss::accepted_as(NEWER, format!("the snapshot {title}"));
    // Its content was written since the target, and is counted there if the size is known.
    if let Some(bytes) = survey.written.map(|_| 0).or(newer.bytes) {
        loss = loss.bytes(bytes);
    }
    Ok(Step::new(delete(newer), format!("remove the newer snapshot {title}")).loses(loss))
}

fn names(state: &State) -> Vec<&str> {
    state.snapshots.all.iter().map(|one| one.name.as_str()).collect()
}

fn goal(state: &State, task: &Task, target: &Snapshot, key: Option<String>) -> Goal {
    // A killed run may have stopped it.
    let noted = state.unfinished.was_running.unwrap_or(false);
    let was_running = state.snapshots.running || noted;
    let starts = match task.start {
        Start::AsBefore => was_running,
        Start::Always => true,
        Start::Never => false,
    };
    let id = task.rollback.as_ref();
    Goal {
        rollback: Rollback { to: target.name.clone(), key },
        was_running,
        starts,
        safety: id.map(|id| format!("failed-{id}")),
        safety_marker: Marker {
            kind: Kind::Failed,
            app: task.app.clone(),
            deploy: id.map(ToString::to_string),
            release: None,
        },
        rolled_back: false,
    }
}

/// Whether a killed run had the same goal.
fn resumes(state: &State, goal: &Goal) -> bool {
    state.unfinished.rollback.as_ref() == Some(&goal.rollback)
}

/// Refuses to repeat a rollback that Proxmox had started if the container runs without a lock: it was done, or
/// someone has started the container. Repeating it could destroy what was written since.
fn refuse_unclear(state: &State, goal: &Goal) -> Result<(), Failure> {
    let Some(key) = &goal.rollback.key else { return Ok(()) };
    let is_clear = !state.snapshots.running || state.config.lock.is_some();
    if is_clear || !state.unfinished.touched_volumes() {
        return Ok(());
    }
    Err(Failure::new(
        "unfinished",
        format!(
            "the run of {} was killed while Proxmox rolled back to {} for {key}, and somebody has started the \
             container since: whether it was rolled back is not known, and doing it again could destroy \
             what was written since; look at it, and roll back under a new rollback_id if it must be; nothing \
             was changed",
            state.unfinished.since.as_deref().unwrap_or_default(),
            goal.rollback.to
        ),
    ))
}

/// Plans a snapshot of the current state if the storage still allows the rollback then. Returns its name for
/// messages.
fn add_safety(
    plan: &mut Plan<Action>,
    state: &State,
    task: &Task,
    reach: Reach,
    goal: &mut Goal,
) -> Option<String> {
    let all_volumes = state.config.mounts.iter().all(|mount| mount.is_volume());
    let reach_now = state.reach(&state.config.mounts);
    let resumes = resumes(state, goal);
    let taken = (state.unfinished.safety.as_ref().filter(|_| resumes))
        .filter(|name| state.snapshots.find(name).is_some_and(Snapshot::is_complete));
    let why_not = match (reach, reach_now) {
        _ if taken.is_some() => None,
        _ if resumes && state.unfinished.touched_volumes() => Some(
            "a run that was killed had begun to roll back without a snapshot of the state before",
        ),
        (Reach::Newest, _) | (_, Reach::Newest) => Some(
            "ZFS goes back to the newest snapshot only, so the state before the rollback cannot be kept",
        ),
        (Reach::Any, Reach::Any) if all_volumes => None,
        (Reach::Any, _) => Some("no snapshot can be taken of this container as it is now"),
        _ => Some("what this kind of storage can do is not known here"),
    };
    if let Some(why) = why_not {
        plan.undo = Undo::None(why.into());
        return None;
    }
    let shown = match taken.or(goal.safety.as_ref()) {
        Some(name) => name.clone(),
        None => "failed-<time>".to_owned(),
    };
    match taken {
        Some(name) => goal.safety = Some(name.clone()),
        None => {
            let text = format!("take the snapshot {shown} of the state before the rollback");
            plan.steps.push(Step::new(Action::KeepState, text));
        }
    }
    plan.undo =
        Undo::By(format!("state: rolled_back with vmid: {} and name: {shown}", task.subject.vmid));
    Some(shown)
}

fn the_rollback(state: &State, survey: &Survey, task: &Task, target: &Snapshot) -> Step<Action> {
    let vmid = task.subject.vmid;
    let step = Step::new(Action::RollBack, format!("roll CT {vmid} back to {}", target.title()));
    let mut written =
        Loss::plain(format!("what was written to CT {vmid} since {}", target.title()));
    if let Some(bytes) = survey.written {
        written = written.bytes(bytes);
    }
    let mut step = step.loses(written);
    for mount in uncovered(state, survey) {
        let what = format!(
            "the mount point {}, whose content stays as it is, since the snapshot does not have it",
            mount.title()
        );
        step = step.loses(Loss::accepted_as(UNCOVERED, what).bytes(0));
    }
    step
}

fn stop_text(task: &Task) -> String {
    match task.graceful {
        Some(span) => {
            format!("shut CT {} down within {}", task.subject.vmid, host::deadline::seconds(span))
        }
        None => format!("kill CT {}", task.subject.vmid),
    }
}

fn start_text(task: &Task) -> String {
    let ready = match task.ready.as_slice() {
        [] => "it has booted".to_owned(),
        words => format!("{} ends with 0 in it", words.join(" ")),
    };
    format!("start CT {} and wait until {ready}", task.subject.vmid)
}

fn warnings(state: &State, survey: &Survey) -> Vec<String> {
    let mut warnings = survey.warnings.clone();
    for entry in &state.config.entries {
        warnings.push(format!(
            "{entry}, an lxc.mount.entry, is in no snapshot; its content stays as it is"
        ));
    }
    if !survey.replicated_to.is_empty() {
        warnings.push(format!(
            "this container is replicated to {}: the rollback removes snapshots of the replication; let the \
             replication run before you remove the snapshot that was gone back to",
            survey.replicated_to.join(", ")
        ));
    }
    warnings
}
