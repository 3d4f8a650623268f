//! Plans removals: what `state: absent` and `retain` destroy. Pure.
//! Invariant: retention removes only what is ours by its properties, and never the restore point of
//! this task, the newest one, what `keep` names or what something depends on. An obstacle refuses a
//! removal that was asked for; retention keeps the point, with a warning.

use crate::listing::Snap;
use crate::names::below;
use crate::options::{Point, Task, Wanted};
use crate::plan::{Action, Removal, after, nothing};
use crate::state::{State, Tree};
use crate::target::{listed, refuse_foreign, refuse_readonly};
use ansible_module::Failure;
use anyhow::Result;
use change::{Loss, Plan, Step, Undo};
use std::collections::BTreeMap;

pub const NEWER: &str = "newer_snapshots";

pub fn absent(state: &State, task: &Task) -> Result<Plan<Action>> {
    let mut plan = nothing(state, task);
    let mut gone = Vec::new();
    match &task.wanted {
        Wanted::Absent(point) => gone.extend(remove_point(state, task, point, &mut plan)?),
        Wanted::AbsentParked(id) => gone.extend(remove_parked(state, task, id, &mut plan)?),
        _ => {}
    }
    let target = task.point();
    gone.extend(retention(state, task, target, 0, &mut plan));
    refuse_readonly_if_any(state, &gone)?;
    if !plan.steps.is_empty() {
        plan.undo = Undo::None("what was destroyed is gone".into());
    }
    plan.after = after(state, &[], &gone);
    Ok(plan)
}

fn refuse_readonly_if_any(state: &State, gone: &[String]) -> Result<(), Failure> {
    if gone.is_empty() { Ok(()) } else { refuse_readonly(state, gone) }
}

fn remove_point(
    state: &State,
    task: &Task,
    point: &Point,
    plan: &mut Plan<Action>,
) -> Result<Vec<String>> {
    let found = state.covered.iter().filter_map(|dataset| state.find(dataset, &point.snapshot));
    let snaps: Vec<&Snap> = found.collect();
    if snaps.is_empty() {
        return Ok(Vec::new());
    }
    if is_kept(task, point.deploy.as_str(), &point.snapshot) {
        let msg = format!("keep names {}; nothing was changed", point.snapshot);
        return Err(Failure::new("kept", msg).into());
    }
    for snap in &snaps {
        refuse_foreign(state, snap, point)?;
        refuse_needed(state, snap)?;
    }
    let removal = removal(state, &snaps);
    let names: Vec<String> = snaps.iter().map(|snap| snap.name()).collect();
    plan.identities.extend(snaps.iter().map(|snap| format!("{} guid {}", snap.name(), snap.guid)));
    let text = format!("remove {}", listed(names.iter().map(String::as_str)));
    let bytes = snaps.iter().fold(0_u64, |sum, snap| sum.saturating_add(snap.used));
    let what = format!("the restore point {} ({})", point.deploy, names.join(", "));
    plan.steps.push(Step::new(Action::Remove(removal), text).loses(Loss::plain(what).bytes(bytes)));
    Ok(names)
}

/// Returns the reason and the sentence why a snapshot cannot be destroyed.
fn needed(state: &State, snap: &Snap) -> Option<(&'static str, String)> {
    let name = snap.name();
    if !snap.clones.is_empty() {
        let clones = listed(snap.clones.iter().map(String::as_str));
        let parked = snap.clones.iter().find_map(|clone| {
            let parked = state.datasets.get(clone)?.parked.as_ref()?;
            Some(format!(" (a parked state: state: absent with parked: {} removes it)", parked.id))
        });
        let why = format!(
            "{name} has the clone {clones}{}, which depends on it",
            parked.unwrap_or_default()
        );
        return Some(("clones", why));
    }
    let tags = state.foreign_holds(snap);
    let why = format!("{name} is held by another program (tag {})", tags.join(", "));
    (!tags.is_empty()).then_some(("held", why))
}

pub fn refuse_needed(state: &State, snap: &Snap) -> Result<(), Failure> {
    match needed(state, snap) {
        Some((reason, why)) => Err(Failure::new(reason, format!("{why}; nothing was changed"))),
        None => Ok(()),
    }
}

pub fn removal(state: &State, snaps: &[&Snap]) -> Removal {
    let mut by_dataset: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for snap in snaps.iter().filter(|snap| !snap.is_bookmark) {
        by_dataset.entry(&snap.dataset).or_default().push(snap.short.clone());
    }
    Removal {
        releases: snaps
            .iter()
            .filter(|snap| state.own_hold(snap))
            .map(|snap| snap.name())
            .collect(),
        snapshots: by_dataset
            .into_iter()
            .map(|(dataset, shorts)| (dataset.to_owned(), shorts))
            .collect(),
        bookmarks: snaps.iter().filter(|snap| snap.is_bookmark).map(|snap| snap.name()).collect(),
        tree: None,
    }
}

fn remove_parked(
    state: &State,
    task: &Task,
    id: &str,
    plan: &mut Plan<Action>,
) -> Result<Vec<String>> {
    let trees: Vec<Tree> = state.parked().into_iter().filter(|tree| tree.id == id).collect();
    if trees.is_empty() {
        // It is absent, as was asked for.
        return Ok(Vec::new());
    }
    if task.keep.iter().any(|kept| kept == id) {
        return Err(Failure::new("kept", format!("keep names {id}; nothing was changed")).into());
    }
    for tree in &trees {
        let foreign = check_removable(state, tree)?;
        let mut loss =
            Loss::plain(format!("the state of {} that is parked as {}", tree.live, tree.root));
        loss = loss.bytes(tree.used);
        let mut step = step_of(state, tree).loses(loss);
        for snap in foreign {
            step = step
                .loses(Loss::accepted_as(NEWER, format!("the snapshot {}", snap.name())).bytes(0));
        }
        plan.identities.extend(identities(state, tree));
        plan.steps.push(step);
    }
    Ok(trees.into_iter().map(|tree| tree.root).collect())
}

fn step_of(state: &State, tree: &Tree) -> Step<Action> {
    let all: Vec<&Snap> = snaps_of(state, tree);
    let mut names: Vec<String> = tree.members.clone();
    names.extend(all.iter().filter(|snap| !snap.is_bookmark).map(|snap| snap.name()));
    names.sort();
    let releases = all.iter().filter(|snap| state.own_hold(snap)).map(|snap| snap.name()).collect();
    let removal =
        Removal { releases, tree: Some((tree.root.clone(), names)), ..Removal::default() };
    let text = format!(
        "remove {}, which was parked at {} when {} was swapped",
        tree.root, tree.at, tree.live
    );
    Step::new(Action::Remove(removal), text)
}

fn snaps_of<'a>(state: &'a State, tree: &Tree) -> Vec<&'a Snap> {
    tree.members.iter().flat_map(|name| state.of(name)).collect()
}

fn identities(state: &State, tree: &Tree) -> Vec<String> {
    let members = tree.members.iter().filter_map(|name| state.datasets.get(name));
    members.map(|data| format!("{} guid {}", data.name, data.guid)).collect()
}

/// Refuses to remove a parked tree that something needs; returns the snapshots in it that are not ours.
fn check_removable<'a>(state: &'a State, tree: &Tree) -> Result<Vec<&'a Snap>, Failure> {
    for name in &tree.members {
        if state.datasets.get(name).is_some_and(|data| data.mounted) {
            let msg = format!(
                "{name} is mounted, so somebody may be reading it: unmount it first; nothing was changed"
            );
            return Err(Failure::new("busy", msg));
        }
    }
    let all = snaps_of(state, tree);
    for snap in &all {
        let outside = snap.clones.iter().find(|clone| below(clone, &tree.root).is_none());
        match outside {
            Some(_) => refuse_needed(state, snap)?,
            None if !state.foreign_holds(snap).is_empty() => {
                let msg = format!(
                    "{} is held by another program (tag {}); nothing was changed",
                    snap.name(),
                    state.foreign_holds(snap).join(", ")
                );
                return Err(Failure::new("held", msg));
            }
            None => {}
        }
    }
    Ok(all.into_iter().filter(|snap| state.ours(snap).is_none()).collect())
}

fn is_kept(task: &Task, deploy: &str, short: &str) -> bool {
    task.keep.iter().any(|kept| kept == deploy || kept == short)
}

/// Plans what `retain` removes: whole restore points and parked states, beyond the newest. `coming`
/// will be taken and counts too. Returns the names of what is removed.
pub fn retention(
    state: &State,
    task: &Task,
    target: Option<&Point>,
    coming: usize,
    plan: &mut Plan<Action>,
) -> Vec<String> {
    let Some(retain) = task.retain else { return Vec::new() };
    let target = target.map(|point| point.deploy.as_str());
    let mut gone = retain_points(state, task, target, coming, retain, plan);
    gone.extend(retain_parked(state, task, retain, plan));
    gone
}

fn retain_points(
    state: &State,
    task: &Task,
    target: Option<&str>,
    coming: usize,
    retain: usize,
    plan: &mut Plan<Action>,
) -> Vec<String> {
    let mut gone = Vec::new();
    let points = points(state, task);
    let is_there = points.iter().any(|point| Some(point.deploy) == target);
    let coming = if is_there { 0 } else { coming };
    let surplus = (points.len() + coming).saturating_sub(retain);
    for point in points.iter().take(surplus) {
        let short = point.snaps[0].short.as_str();
        let newest = coming == 0 && points.last().is_some_and(|last| last.deploy == point.deploy);
        if Some(point.deploy) == target || newest || is_kept(task, point.deploy, short) {
            continue;
        }
        if let Some((_, why)) = point.snaps.iter().find_map(|snap| needed(state, snap)) {
            plan.warnings.push(format!("retain leaves the restore point {}: {why}", point.deploy));
            continue;
        }
        let removal = removal(state, &point.snaps);
        let text =
            format!("remove {short} of {} datasets, as retain is {retain}", point.snaps.len());
        plan.steps.push(Step::new(Action::Remove(removal), text));
        gone.extend(point.snaps.iter().map(|snap| snap.name()));
    }
    gone
}

fn retain_parked(
    state: &State,
    task: &Task,
    retain: usize,
    plan: &mut Plan<Action>,
) -> Vec<String> {
    let mut gone = Vec::new();
    // The oldest first; trees of one swap go together.
    let trees = state.parked();
    let mut ids: Vec<&str> = trees.iter().map(|tree| tree.id.as_str()).collect();
    ids.dedup();
    let surplus = ids.len().saturating_sub(retain);
    for id in ids.into_iter().take(surplus) {
        if task.keep.iter().any(|kept| kept == id)
            || matches!(&task.wanted, Wanted::AbsentParked(wanted) if wanted == id)
        {
            continue;
        }
        let of: Vec<&Tree> = trees.iter().filter(|tree| tree.id == id).collect();
        if let Some(why) = of.iter().find_map(|tree| prevents_removal(state, tree)) {
            plan.warnings.push(format!("retain leaves the parked state {id}: {why}"));
            continue;
        }
        for tree in of {
            let mut step = step_of(state, tree);
            step.text = format!("{}, as retain is {retain}", step.text);
            plan.steps.push(step);
            gone.push(tree.root.clone());
        }
    }
    gone
}

/// Returns why `retain` may not remove a parked tree, if there is a reason.
fn prevents_removal(state: &State, tree: &Tree) -> Option<String> {
    match check_removable(state, tree) {
        Err(failure) => Some(failure.msg.replace("; nothing was changed", "")),
        Ok(foreign) => {
            let snap = foreign.first()?;
            Some(format!("the snapshot {} in it is not ours", snap.name()))
        }
    }
}

struct Found<'a> {
    deploy: &'a str,
    creation: i64,
    snaps: Vec<&'a Snap>,
}

/// The restore points of this app on these datasets, the oldest first.
fn points<'a>(state: &'a State, task: &Task) -> Vec<Found<'a>> {
    let mut found: Vec<Found<'a>> = Vec::new();
    for snap in state.covered.iter().flat_map(|dataset| state.of(dataset)) {
        let Some(mark) = state.ours(snap).filter(|mark| mark.app == task.subject.app) else {
            continue;
        };
        match found.iter_mut().find(|point| point.deploy == mark.deploy) {
            Some(point) => {
                point.creation = point.creation.max(snap.creation);
                point.snaps.push(snap);
            }
            None => found.push(Found {
                deploy: &mark.deploy,
                creation: snap.creation,
                snaps: vec![snap],
            }),
        }
    }
    found.sort_by(|a, b| (a.creation, a.deploy).cmp(&(b.creation, b.deploy)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{DEPLOYS, dataset, foreign, point, state, taken, task};

    fn of_all(dataset: &str) -> Vec<String> {
        (1..=4).map(|n| taken(dataset, n)).collect()
    }

    fn pruning(retain: usize) -> Task {
        Task { retain: Some(retain), ..task(&["tank/a"], Wanted::Pruned) }
    }

    /// The numbers of the restore points that the plan removes.
    fn removed(plan: &Plan<Action>) -> Vec<usize> {
        let removals = plan.steps.iter().filter_map(|step| match &step.action {
            Action::Remove(removal) => Some(&removal.snapshots),
            _ => None,
        });
        let shorts = removals.flatten().flat_map(|(_, shorts)| shorts);
        let number =
            |short: &String| DEPLOYS.iter().position(|id| short.ends_with(id)).unwrap() + 1;
        shorts.map(number).collect()
    }

    fn reason(state: &State, task: &Task) -> &'static str {
        ansible_module::reason(&absent(state, task).unwrap_err())
    }

    #[test]
    fn retention_removes_the_oldest_and_never_the_newest() {
        let state = state(&["tank/a"], &of_all("tank/a"));
        assert_eq!(removed(&absent(&state, &pruning(2)).unwrap()), [1, 2]);
        assert_eq!(removed(&absent(&state, &pruning(0)).unwrap()), [1, 2, 3]);
        assert!(removed(&absent(&state, &pruning(9)).unwrap()).is_empty());
        let keep = vec![DEPLOYS[0].to_owned(), point(2).snapshot];
        assert!(removed(&absent(&state, &Task { keep, ..pruning(2) }).unwrap()).is_empty());
    }

    #[test]
    fn the_point_that_will_be_taken_counts_and_one_that_is_there_counts_once() {
        let state = state(&["tank/a"], &of_all("tank/a")[..3]);
        let of = |n: usize| {
            let mut plan = nothing(&state, &pruning(2));
            retention(&state, &pruning(2), Some(&point(n)), 1, &mut plan);
            removed(&plan)
        };
        assert_eq!(of(4), [1, 2]);
        assert_eq!(of(3), [1]);
        // The point of the task itself stays, however old it is.
        assert!(of(1).is_empty());
    }

    #[test]
    fn retention_leaves_what_others_need_or_took() {
        let mut state = state(&["tank/a"], &of_all("tank/a"));
        let name = |n: usize| format!("tank/a@{}", point(n).snapshot);
        state.holds.insert(name(1), vec!["backup".into()]);
        state.snapshots.get_mut("tank/a").unwrap()[1].clones = vec!["tank/clone".into()];
        let plan = absent(&state, &pruning(1)).unwrap();
        assert_eq!(removed(&plan), [3]);
        assert!(plan.warnings[0].contains("tag backup"), "{:?}", plan.warnings);
        assert!(plan.warnings[1].contains("tank/clone"), "{:?}", plan.warnings);
        let by_hand: Vec<String> =
            (1..=4).map(|n| foreign(&format!("tank/a@hourly-{n}"), n)).collect();
        let state = crate::sample::state(&["tank/a"], &by_hand);
        assert!(absent(&state, &pruning(0)).unwrap().steps.is_empty());
        // Another app's restore points on the same datasets are not counted either.
        let others: Vec<String> =
            of_all("tank/a").iter().map(|row| row.replace("\tshop\t", "\tblog\t")).collect();
        let state = crate::sample::state(&["tank/a"], &others);
        assert!(absent(&state, &pruning(0)).unwrap().steps.is_empty());
    }

    #[test]
    fn an_obstacle_refuses_a_removal_that_was_asked_for() {
        let asked = || task(&["tank/a"], Wanted::Absent(point(1)));
        let good = || state(&["tank/a"], &of_all("tank/a"));
        let plan = absent(&good(), &asked()).unwrap();
        let loss: Vec<_> = plan.losses().map(|loss| loss.bytes).collect();
        assert_eq!((removed(&plan), loss), (vec![1], vec![Some(4096)]));
        let keep = vec![DEPLOYS[0].to_owned()];
        assert_eq!(reason(&good(), &Task { keep, ..asked() }), "kept");
        let mut cloned = good();
        cloned.snapshots.get_mut("tank/a").unwrap()[0].clones = vec!["tank/clone".into()];
        assert_eq!(reason(&cloned, &asked()), "clones");
        let mut held = good();
        held.holds.insert(format!("tank/a@{}", point(1).snapshot), vec!["backup".into()]);
        assert_eq!(reason(&held, &asked()), "held");
        let name = format!("tank/a@{}", point(1).snapshot);
        assert_eq!(reason(&state(&["tank/a"], &[foreign(&name, 10)]), &asked()), "not_ours");
        let mut gone = good();
        gone.snapshots.clear();
        assert!(absent(&gone, &asked()).unwrap().steps.is_empty());
    }

    #[test]
    fn a_parked_tree_in_use_is_not_removed() {
        let parked = |name: &str, mounted| {
            let of = crate::listing::Parked {
                id: DEPLOYS[0].into(),
                live: "tank/a".into(),
                at: "2026-11-21T08:00:00Z".into(),
                canmount: None,
            };
            crate::listing::Data { parked: Some(of), mounted, ..dataset(name) }
        };
        let with = |mounted| {
            let mut state = state(&["tank/a"], &[]);
            for name in ["tank/a-parked", "tank/a-parked/db"] {
                state.datasets.insert(name.into(), parked(name, mounted && name.ends_with("db")));
            }
            state
        };
        let asked = task(&["tank/a"], Wanted::AbsentParked(DEPLOYS[0].into()));
        let plan = absent(&with(false), &asked).unwrap();
        let Action::Remove(removal) = &plan.steps[0].action else { panic!("{:?}", plan.steps) };
        let members = vec!["tank/a-parked".to_owned(), "tank/a-parked/db".to_owned()];
        assert_eq!(removal.tree, Some(("tank/a-parked".to_owned(), members)));
        assert_eq!(plan.steps.len(), 1, "the tree goes as a whole");
        assert_eq!(reason(&with(true), &asked), "busy");
        // A task that only prunes leaves it, with a warning.
        let plan = absent(&with(true), &pruning(0)).unwrap();
        assert!(plan.steps.is_empty() && plan.warnings[0].contains("is mounted"));
    }
}
