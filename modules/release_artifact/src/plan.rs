//! Plans the steps from the observed state. Pure.
//!
//! Invariant: no plan removes the current release, the previous one, or one in `keep`; while `current` leads
//! to something unknown, no old release is removed.

use crate::names::ReleaseSha;
use crate::options::{Task, Wanted};
use crate::state::{Pointer, State};
use ansible_module::Failure;
use change::{Plan, Step, Undo};
use serde_json::json;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Removes what a killed run has left.
    RemoveLeftovers,
    Fetch,
    /// Points `current` to the release of the task, and `previous` to the one that was current.
    Switch,
    Remove(ReleaseSha),
}

/// `damage` says how the release differs from what was unpacked, if it is there and differs.
pub fn plan(state: &State, task: &Task, damage: Option<String>) -> Result<Plan<Action>, Failure> {
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
        plan.steps.push(Step::new(Action::RemoveLeftovers, text));
        plan.undo = Undo::None("it was never a release".into());
    }
    match task.wanted {
        Wanted::Absent => absent(state, task, &mut plan)?,
        _ => {
            present(state, task, damage, &mut plan)?;
            if task.wanted == Wanted::Current {
                current(state, sha, &mut plan)?;
            }
            retain(state, task, &mut plan);
        }
    }
    plan.after = after(state, &plan, sha);
    Ok(plan)
}

fn present(
    state: &State,
    task: &Task,
    damage: Option<String>,
    plan: &mut Plan<Action>,
) -> Result<(), Failure> {
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
            "{} is there and was not unpacked by this module ({why}); nothing was changed; inspect it, and move it away to have the release fetched",
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
            return Err(Failure::new("sum_mismatch", msg));
        }
    }
    if let Some(how) = damage {
        let msg = format!(
            "release {sha} in {} differs from what was unpacked: {how}; nothing was changed; inspect it, and move it away to have the release fetched again",
            path.display()
        );
        return Err(Failure::new("release_damaged", msg));
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
                "{what}, which is not a release in the same folder; nothing was changed; move it away to have current recreated"
            );
            return Err(Failure::new("current_foreign", msg));
        }
    };
    if let Pointer::Foreign(what) = &state.previous {
        let msg = format!(
            "{what}, which is not a release in the same folder; nothing was changed; move it away to have previous recreated"
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

/// Returns what `current` and `previous` lead to after the steps.
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
        Some("it is the previous one, which a rollback needs")
    } else if task.keep.contains(sha) {
        Some("it is in keep")
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
            Action::Switch | Action::RemoveLeftovers => {}
        }
    }
    shas.sort();
    let [current, previous] = pointers(state, plan, sha);
    json!({ "current": current, "previous": previous, "releases": shas })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;
    use crate::record::Record;
    use crate::state::Release;

    fn sha(n: u8) -> ReleaseSha {
        ReleaseSha::parse(&format!("{n:040x}")).unwrap()
    }

    /// Releases 1 to 5, of which 5 is the current and 2 the previous one.
    fn state() -> State {
        let ours = (1..=5).map(|n| {
            let record = Record::new(sha(n), n.into(), host::clock::now(), "forge".into());
            Release { sha: sha(n), record: Ok(record) }
        });
        State {
            folder: Folder { dest: "/srv/shop".into() },
            releases: ours.collect(),
            current: Pointer::To(sha(5)),
            previous: Pointer::To(sha(2)),
            leftovers: Vec::new(),
        }
    }

    fn steps(state: &State, task: &Task) -> Vec<Action> {
        let plan = plan(state, task, None).unwrap();
        plan.steps.into_iter().map(|step| step.action).collect()
    }

    fn reason(state: &State, task: &Task) -> &'static str {
        plan(state, task, None).unwrap_err().reason
    }

    #[test]
    fn a_current_release_needs_no_steps() {
        assert_eq!(steps(&state(), &Task::of(Wanted::Current, sha(5))), []);
        assert_eq!(steps(&state(), &Task::of(Wanted::Present, sha(1))), []);
        assert_eq!(steps(&state(), &Task::of(Wanted::Absent, sha(9))), []);
    }

    #[test]
    fn the_current_release_becomes_the_previous_one() {
        let plan = plan(&state(), &Task::of(Wanted::Current, sha(3)), None).unwrap();
        assert_eq!(
            (&plan.after["current"], &plan.after["previous"]),
            (&json!(sha(3)), &json!(sha(5)))
        );
        assert!(matches!(&plan.undo, Undo::By(how) if how.contains(sha(5).as_str())));
        // It was removed by hand, so `previous` stays.
        let mut gone = state();
        gone.releases.truncate(4);
        let plan = super::plan(&gone, &Task::of(Wanted::Current, sha(3)), None).unwrap();
        assert_eq!(plan.after["previous"], json!(sha(2)));
    }

    #[test]
    fn needed_releases_are_not_pruned() {
        let task = Task { retain: Some(1), ..Task::of(Wanted::Present, sha(3)) };
        assert_eq!(steps(&state(), &task), [4, 1].map(|n| Action::Remove(sha(n))));
        let kept = Task { keep: vec![sha(1)], ..task };
        assert_eq!(steps(&state(), &kept), [Action::Remove(sha(4))]);
        // The present previous release stays, even if another one becomes the previous one.
        let switched = Task { wanted: Wanted::Current, ..kept };
        assert_eq!(steps(&state(), &switched), [Action::Switch, Action::Remove(sha(4))]);
        let foreign =
            State { current: Pointer::Foreign("current leads to /etc".into()), ..state() };
        let plan = plan(&foreign, &Task { wanted: Wanted::Present, ..switched }, None).unwrap();
        assert!(plan.steps.is_empty() && plan.warnings[0].contains("current leads to /etc"));
    }

    #[test]
    fn releases_in_use_are_not_removed() {
        for n in [5, 2] {
            assert_eq!(reason(&state(), &Task::of(Wanted::Absent, sha(n))), "release_in_use");
        }
        let kept = Task { keep: vec![sha(1)], ..Task::of(Wanted::Absent, sha(1)) };
        assert_eq!(reason(&state(), &kept), "release_in_use");
        let removed = Task { keep: Vec::new(), ..kept };
        assert_eq!(steps(&state(), &removed), [Action::Remove(sha(1))]);
        let foreign =
            State { current: Pointer::Foreign("current leads to /etc".into()), ..state() };
        assert_eq!(reason(&foreign, &removed), "current_foreign");
    }

    #[test]
    fn changed_releases_and_pointers_are_refused() {
        assert_eq!(reason(&state(), &Task::of(Wanted::Present, sha(9))), "release_missing");
        let mut foreign = state();
        foreign.releases[0].record = Err("it has no record".into());
        for wanted in [Wanted::Present, Wanted::Current, Wanted::Absent] {
            assert_eq!(reason(&foreign, &Task::of(wanted, sha(1))), "not_ours");
        }
        let damage = Some("app/run is missing".to_owned());
        let error = plan(&state(), &Task::of(Wanted::Current, sha(1)), damage).unwrap_err();
        assert_eq!(error.reason, "release_damaged");
        for name in ["current", "previous"] {
            let mut state = state();
            let pointer = if name == "current" { &mut state.current } else { &mut state.previous };
            *pointer = Pointer::Foreign(format!("{name} leads to /etc"));
            assert_eq!(reason(&state, &Task::of(Wanted::Current, sha(1))), "current_foreign");
        }
    }

    #[test]
    fn leftovers_go_first() {
        let left = State { leftovers: vec!["x.partial".into()], ..state() };
        assert_eq!(
            steps(&left, &Task::of(Wanted::Current, sha(1))),
            [Action::RemoveLeftovers, Action::Switch]
        );
    }
}
