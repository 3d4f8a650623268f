//! Plan: what is there and what is wanted to steps. Pure, but for looking whether a release that is
//! to be used is whole.
//!
//! Invariant: no plan removes the current release, the previous one, or one that `keep` names; and
//! while `current` leads to something unknown, none is removed for being old.

use crate::names::ReleaseSha;
use crate::options::{Task, Wanted};
use crate::state::{Pointer, State};
use ansible_module::Failure;
use anyhow::Result;
use change::{Plan, Step, Undo};
use serde_json::json;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// What a killed run has left.
    Sweep,
    Fetch,
    /// `current` to the release of the task; `previous` to what it led to.
    Switch,
    Remove(ReleaseSha),
}

pub fn plan(state: &State, task: &Task) -> Result<Plan<Action>> {
    let sha = &task.sha;
    let dest = state.folder.dest.display();
    let mut plan = Plan::nothing(format!("releases in {dest}"), state.view());
    let name = |pointer: &Pointer| match pointer {
        Pointer::None => "none".to_owned(),
        Pointer::To(sha) => sha.to_string(),
        Pointer::Foreign(what) => what.clone(),
    };
    plan.identities = vec![
        format!("current {}", name(&state.current)),
        format!("previous {}", name(&state.previous)),
    ];
    if !state.leftovers.is_empty() {
        let text = format!("remove what a killed run has left: {}", state.leftovers.join(", "));
        plan.steps.push(Step::new(Action::Sweep, text));
        plan.undo = Undo::None("it was never a release".into());
    }
    match task.wanted {
        Wanted::Absent => absent(state, task, &mut plan)?,
        _ => {
            present(state, task, &mut plan)?;
            if task.wanted == Wanted::Current {
                current(state, sha, &mut plan)?;
            }
            retain(state, task, &mut plan);
        }
    }
    plan.after = after(state, &plan, sha);
    Ok(plan)
}

fn present(state: &State, task: &Task, plan: &mut Plan<Action>) -> Result<()> {
    let sha = &task.sha;
    let path = state.folder.releases().join(sha.as_str());
    let Some(release) = state.release(sha) else {
        let source = task.source.as_ref().ok_or_else(|| {
            let msg = format!(
                "release {sha} is not in {}, and no url says where to fetch it",
                path.display()
            );
            Failure::new("release_missing", msg)
        })?;
        let text = format!(
            "fetch {} of release {sha} from {} and unpack it into {}",
            source.file_name(),
            source.place(),
            path.display()
        );
        plan.steps.push(Step::new(Action::Fetch, text));
        plan.undo = Undo::By("remove the release again with state: absent".into());
        return Ok(());
    };
    let record = release.record.as_ref().map_err(|why| {
        let msg = format!(
            "{} is there and was not unpacked by this module ({why}); nothing was changed; look at it, and move it away to have the release fetched",
            path.display()
        );
        Failure::new("not_ours", msg)
    })?;
    if let Some(sum) = task.source.as_ref().and_then(|source| source.sha256) {
        if sum.to_string() != record.sha256 {
            let msg = format!(
                "release {sha} is there, unpacked from an archive with the SHA-256 sum {}, and the option sha256 says {sum}; nothing was changed",
                record.sha256
            );
            return Err(Failure::new("sum_mismatch", msg).into());
        }
    }
    if let Some(how) = state.damage(sha)? {
        let msg = format!(
            "release {sha} in {} is not what was unpacked: {how}; nothing was changed; look at it, and move it away to have the release fetched again",
            path.display()
        );
        return Err(Failure::new("release_damaged", msg).into());
    }
    Ok(())
}

fn current(state: &State, sha: &ReleaseSha, plan: &mut Plan<Action>) -> Result<(), Failure> {
    let dest = state.folder.dest.display();
    let was = match &state.current {
        Pointer::To(current) if current == sha => return Ok(()),
        Pointer::To(was) => format!(", after {was}"),
        Pointer::None => String::new(),
        Pointer::Foreign(what) => {
            let msg = format!(
                "{what}, which is no release beside it; nothing was changed; move it away to have current recreated"
            );
            return Err(Failure::new("current_foreign", msg));
        }
    };
    if let Pointer::Foreign(what) = &state.previous {
        let msg = format!(
            "{what}, which is no release beside it; nothing was changed; move it away to have previous recreated"
        );
        return Err(Failure::new("current_foreign", msg));
    }
    plan.steps
        .push(Step::new(Action::Switch, format!("make release {sha} current in {dest}{was}")));
    plan.undo = match state.current.sha() {
        Some(was) => Undo::By(format!("make release {was} current again with state: current")),
        None => Undo::None("no release was current before".into()),
    };
    Ok(())
}

/// What `current` and `previous` lead to once the steps are done.
fn pointers<'a>(
    state: &'a State,
    plan: &Plan<Action>,
    sha: &'a ReleaseSha,
) -> [Option<&'a ReleaseSha>; 2] {
    let switches = plan.steps.iter().any(|step| step.action == Action::Switch);
    let (current, previous) = (state.current.sha(), state.previous.sha());
    match (switches, current) {
        (false, _) => [current, previous],
        (true, Some(was)) if state.release(was).is_some() => [Some(sha), Some(was)],
        (true, _) => [Some(sha), previous],
    }
}

fn retain(state: &State, task: &Task, plan: &mut Plan<Action>) {
    let Some(retain) = task.retain else { return };
    if let Pointer::Foreign(what) = &state.current {
        plan.warnings.push(format!("no old release is removed, since {what}"));
        return;
    }
    let fetches = usize::from(plan.steps.iter().any(|step| step.action == Action::Fetch));
    let pointers = pointers(state, plan, &task.sha);
    let old = state.ours().rev().skip(retain.saturating_sub(fetches));
    let removed: Vec<_> = (old.map(|record| &record.sha))
        .filter(|sha| **sha != task.sha && !task.keep.contains(sha))
        .filter(|sha| !pointers.contains(&Some(*sha)) && state.previous.sha() != Some(*sha))
        .collect();
    for sha in removed {
        plan.steps.push(remove(state, sha));
    }
}

fn absent(state: &State, task: &Task, plan: &mut Plan<Action>) -> Result<(), Failure> {
    let sha = &task.sha;
    let Some(release) = state.release(sha) else { return Ok(()) };
    let role = if state.current.sha() == Some(sha) {
        Some("it is the current one")
    } else if state.previous.sha() == Some(sha) {
        Some("it is the previous one, the way back")
    } else if task.keep.contains(sha) {
        Some("keep names it")
    } else {
        None
    };
    if let Some(role) = role {
        let msg = format!("release {sha} is not removed: {role}; nothing was changed");
        return Err(Failure::new("release_in_use", msg));
    }
    if let Pointer::Foreign(what) = &state.current {
        let msg = format!(
            "release {sha} is not removed, since {what} and may need it; nothing was changed"
        );
        return Err(Failure::new("current_foreign", msg));
    }
    if let Err(why) = &release.record {
        let msg =
            format!("release {sha} was not unpacked by this module ({why}) and is not removed");
        return Err(Failure::new("not_ours", msg));
    }
    plan.steps.push(remove(state, sha));
    plan.undo = Undo::By("fetch it again, as long as the registry has it".into());
    Ok(())
}

fn remove(state: &State, sha: &ReleaseSha) -> Step<Action> {
    let releases = state.folder.releases();
    let text = format!("remove release {sha} from {}", releases.display());
    Step::new(Action::Remove(sha.clone()), text)
}

fn after(state: &State, plan: &Plan<Action>, sha: &ReleaseSha) -> serde_json::Value {
    let mut shas: Vec<_> = state.releases.iter().map(|release| &release.sha).collect();
    for step in &plan.steps {
        match &step.action {
            Action::Fetch => shas.push(sha),
            Action::Remove(gone) => shas.retain(|sha| *sha != gone),
            Action::Switch | Action::Sweep => {}
        }
    }
    shas.sort();
    let [current, previous] = pointers(state, plan, sha);
    json!({ "current": current, "previous": previous, "releases": shas })
}
