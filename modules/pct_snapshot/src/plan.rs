//! Plans taking, removing and pruning snapshots. `rollback.rs` plans a rollback. Pure.
//!
//! Invariant: only snapshots with our marker are removed, not the one of the task, and none that `keep` or
//! `retain` protects.

use crate::container::{Snapshot, view};
use crate::marker::{Kind, Marker};
use crate::options::Task;
use crate::refuse::{no_feature, to_any};
use crate::state::State;
use ansible_module::Failure;
use change::{Loss, Plan, Step, Undo};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Thaw,
    Unlock(String),
    Delete { name: String, incomplete: bool },
    Take,
    Stop,
    KeepState,
    RollBack,
    Start,
}

pub fn subject(task: &Task) -> String {
    format!("CT {}", task.subject.vmid)
}

pub fn nothing(state: &State, task: &Task) -> Plan<Action> {
    let mut plan = Plan::nothing(subject(task), state.snapshots.view());
    if let Some(parent) = &state.snapshots.parent {
        plan.identities.push(format!("on {parent}"));
    }
    plan
}

/// Plans the removal of what a killed run of ours has left.
pub fn repairs(state: &State) -> Vec<Step<Action>> {
    let since = state.unfinished.since.as_deref().unwrap_or_default();
    let mut steps = Vec::new();
    if state.own_freeze() {
        // First, since a frozen container serves nobody.
        let mounts = host::joined(state.frozen_mounts.iter().map(|one| one.path.display()));
        let what = match mounts.as_str() {
            "" => String::new(),
            some => format!(" with its file systems {some}"),
        };
        let text = format!(
            "thaw CT {}{what}, which the run of {since} left frozen when it was killed",
            state.vmid
        );
        steps.push(Step::new(Action::Thaw, text));
    }
    if let Some(lock) = state.own_lock() {
        let text =
            format!("remove the lock {lock}, which the run of {since} left when it was killed");
        steps.push(Step::new(Action::Unlock(lock.to_owned()), text));
    }
    if let Some(broken) = state.own_incomplete() {
        let name = &broken.name;
        let text = format!("remove the incomplete snapshot {name}, which the run of {since} left");
        steps.push(Step::new(delete(broken), text));
    }
    steps
}

pub fn delete(snapshot: &Snapshot) -> Action {
    // A snapshot that was interrupted while it was taken may lack volumes, which needs force. One that was
    // interrupted while it was removed can be removed again, and force would hide what is left of it.
    let incomplete = snapshot.state.as_deref() == Some("prepare");
    Action::Delete { name: snapshot.name.clone(), incomplete }
}

/// Refuses other tasks while a rollback is unfinished.
fn refuse_unfinished_rollback(state: &State) -> Result<(), Failure> {
    let Some(rollback) = &state.unfinished.rollback else { return Ok(()) };
    let id = rollback.key.as_ref().map(|key| format!(" of {key}")).unwrap_or_default();
    let (to, since) = (&rollback.to, state.unfinished.since.as_deref().unwrap_or_default());
    let msg = match state.unfinished.rolled_back {
        true => format!(
            "the rollback{id} to {to}, begun at {since}, is done, but not that the container is ready: run \
             it again to finish it (start: never leaves out what is missing); nothing was changed"
        ),
        false => format!(
            "the rollback{id} to {to} was stopped half way at {since}; run it again to finish it, or roll \
             back to another snapshot; nothing was changed"
        ),
    };
    Err(Failure::new("unfinished", msg))
}

/// Begins a plan with the repairs, unless something prevents any change.
fn begin(state: &State, task: &Task) -> Result<Plan<Action>, Failure> {
    if let Some(first) = to_any(state).into_iter().next() {
        return Err(first.into());
    }
    refuse_unfinished_rollback(state)?;
    Ok(Plan { steps: repairs(state), ..nothing(state, task) })
}

pub fn present(
    state: &State,
    task: &Task,
    name: &str,
    marker: &Marker,
) -> Result<Plan<Action>, Failure> {
    let mut plan = begin(state, task)?;
    let mut names: Vec<&str> = state.snapshots.all.iter().map(|one| one.name.as_str()).collect();
    let takes = match state.snapshots.find(name) {
        None => true,
        Some(there) if there.is_complete() => {
            refuse_taken(there, marker)?;
            false
        }
        Some(there) => {
            let repaired = state.own_incomplete().is_some_and(|broken| broken.name == name);
            if !repaired {
                refuse_taken(there, marker)?;
                let text = format!(
                    "remove the incomplete snapshot {name}, which has the marker of this module"
                );
                plan.steps.push(Step::new(delete(there), text));
            }
            names.retain(|one| *one != name);
            true
        }
    };
    let mut parent = state.snapshots.parent.as_deref();
    if takes {
        if let Some(cause) = no_feature(state) {
            return Err(cause.into());
        }
        plan.steps.push(Step::new(Action::Take, format!("take the snapshot {name}")));
        plan.undo = Undo::By(format!("state: absent with name: {name}"));
        names.push(name);
        parent = Some(name);
    }
    let pruned = prunable(state, task, Some(name), usize::from(takes));
    for old in &pruned {
        names.retain(|one| *one != old.name);
        plan.steps.push(Step::new(delete(old), prune_text(old, task)));
    }
    if !pruned.is_empty() && !takes {
        plan.undo = Undo::None("a snapshot that was removed is gone".into());
    }
    plan.after = view(state.snapshots.running, parent, &names);
    Ok(plan)
}

/// Refuses a name that is used by a snapshot of another task.
fn refuse_taken(there: &Snapshot, wanted: &Marker) -> Result<(), Failure> {
    let whose = match &there.marker {
        None => "it does not have the marker of this module: someone else made it".to_owned(),
        Some(marker) if marker.kind != wanted.kind => {
            "it is the state before a rollback".to_owned()
        }
        Some(marker) if marker.deploy != wanted.deploy && wanted.deploy.is_some() => {
            let other = marker.deploy.as_deref().unwrap_or("none");
            format!("it belongs to another deploy ({other})")
        }
        Some(_) => return Ok(()),
    };
    Err(Failure::new(
        "name_taken",
        format!(
            "there is a snapshot {} already, and {whose}; choose another name; nothing was changed",
            there.title()
        ),
    ))
}

pub fn absent(state: &State, task: &Task, name: Option<&str>) -> Result<Plan<Action>, Failure> {
    let mut plan = begin(state, task)?;
    let repaired = state.own_incomplete().map(|broken| broken.name.clone());
    let mut gone: Vec<&Snapshot> = Vec::new();
    if let Some(there) = name.and_then(|name| state.snapshots.find(name)) {
        if there.marker.is_none() {
            let msg = format!(
                "snapshot {} does not have the marker of this module: someone else made it, and `pct delsnapshot` by hand \
                 removes it; nothing was changed",
                there.title()
            );
            return Err(Failure::new("not_ours", msg));
        }
        if is_kept(there, task) {
            let msg = format!("keep names snapshot {}; nothing was changed", there.title());
            return Err(Failure::new("kept", msg));
        }
        gone.push(there);
        if repaired.as_ref() != Some(&there.name) {
            let mut step =
                Step::new(delete(there), format!("remove the snapshot {}", there.title()));
            if there.is_complete() {
                step = step.loses(Loss::plain(format!("the snapshot {}", there.title())));
            }
            plan.steps.push(step);
        }
    }
    for old in prunable(state, task, name, 0) {
        gone.push(old);
        plan.steps.push(Step::new(delete(old), prune_text(old, task)));
    }
    if !plan.steps.is_empty() {
        plan.undo = Undo::None("a snapshot that was removed is gone".into());
    }
    let is_gone = |one: &&Snapshot| {
        gone.iter().any(|other| other.name == one.name) || repaired.as_ref() == Some(&one.name)
    };
    let names: Vec<&str> = (state.snapshots.all.iter())
        .filter(|one| !is_gone(one))
        .map(|one| one.name.as_str())
        .collect();
    let parent = surviving_parent(state, &|name| names.contains(&name));
    plan.after = view(state.snapshots.running, parent.as_deref(), &names);
    Ok(plan)
}

/// Returns the parent after the removals: Proxmox attaches children of a removed snapshot to its parent.
fn surviving_parent(state: &State, is_left: &dyn Fn(&str) -> bool) -> Option<String> {
    let mut parent = state.snapshots.parent.clone();
    for _ in 0..=state.snapshots.all.len() {
        match &parent {
            Some(name) if !is_left(name) => {
                parent = state.snapshots.find(name).and_then(|one| one.parent.clone());
            }
            _ => break,
        }
    }
    parent
}

fn prune_text(old: &Snapshot, task: &Task) -> String {
    match old.is_complete() {
        true => format!("remove {}, as retain is {}", old.title(), task.retain.unwrap_or_default()),
        false => format!("remove {}, which is incomplete", old.title()),
    }
}

pub fn is_kept(snapshot: &Snapshot, task: &Task) -> bool {
    task.keep.iter().any(|kept| *kept == snapshot.name || Some(kept.as_str()) == snapshot.deploy())
}

/// Returns the snapshots that `retain` removes: complete ones of this module for this app, except the newest of
/// each kind, and incomplete ones of this module. `coming` is how many will be taken and counts too.
fn prunable<'a>(
    state: &'a State,
    task: &Task,
    target: Option<&str>,
    coming: usize,
) -> Vec<&'a Snapshot> {
    let Some(retain) = task.retain else { return Vec::new() };
    let of_app = |one: &&Snapshot| one.marker.as_ref().is_some_and(|marker| marker.app == task.app);
    // The oldest first. No other task takes one now, since this one has waited for the container's lock.
    let ours = state.snapshots.all.iter().filter(of_app);
    let (whole, mut all): (Vec<&Snapshot>, Vec<&Snapshot>) =
        ours.partition(|one| one.is_complete());
    for (kind, coming) in [(Kind::RestorePoint, coming), (Kind::Failed, 0)] {
        let of_kind: Vec<&Snapshot> = whole.iter().filter(|one| one.is_of(kind)).copied().collect();
        let surplus = (of_kind.len() + coming).saturating_sub(retain);
        all.extend(of_kind.into_iter().take(surplus));
    }
    let repaired = state.own_incomplete().map(|broken| broken.name.as_str());
    all.retain(|one| {
        let name = Some(one.name.as_str());
        name != target && name != repaired && !is_kept(one, task)
    });
    all
}
