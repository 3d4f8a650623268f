//! Plans a swap: its steps, what they set aside, and the state afterwards. Pure.

use crate::options::Task;
use crate::plan::{Action, nothing};
use crate::state::{State, view};
use crate::target::listed;
use crate::unfinished::{Goal, Outgoing, Tree};
use change::{Plan, Step, Undo};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Plans all steps of a goal, also of an unfinished one: each step finds out what of it is done.
pub fn plan(state: &State, task: &Task, goal: &Goal, shown_id: &str) -> Plan<Action> {
    let mut plan = nothing(state, task);
    plan.identities.extend(goal.trees.iter().flat_map(identities));
    let mounted: Vec<String> = goal.trees.iter().flat_map(mounted).collect();
    if !mounted.is_empty() {
        let names = listed(mounted.iter().map(String::as_str));
        plan.steps.push(Step::new(Action::Unmount, format!("unmount {names}")));
    }
    for (number, tree) in goal.trees.iter().enumerate() {
        let parked = tree.parked.replace(&tree.id, shown_id);
        let along: Vec<String> = along(tree);
        let with = if along.is_empty() {
            String::new()
        } else {
            format!(", with {}, made since", listed(along.iter().map(String::as_str)))
        };
        plan.steps
            .push(Step::new(Action::Park(number), format!("park {} as {parked}{with}", tree.live)));
    }
    for (number, tree) in goal.trees.iter().enumerate() {
        plan.steps.extend(incoming_steps(number, tree));
    }
    let all = listed(goal.trees.iter().map(|tree| tree.live.as_str()));
    plan.steps.push(Step::new(
        Action::RestoreProperties,
        format!("restore the properties of {all}, and mount what was mounted"),
    ));
    plan.undo =
        Undo::By(format!("state: rolled_back with the same datasets and parked: {shown_id}"));
    plan.after = after(state, goal, shown_id);
    plan.warnings = warnings(state, goal);
    plan
}

fn identities(tree: &Tree) -> Vec<String> {
    let live = &tree.live;
    let outgoing = tree.outgoing.iter().map(|one| format!("{live}{} guid {}", one.below, one.guid));
    let incoming = tree.incoming.iter().map(|one| format!("{live}{} from {}", one.below, one.guid));
    let uncovered = tree.uncovered.iter().map(|one| format!("stays {} {}", one.below, one.guid));
    outgoing.chain(incoming).chain(uncovered).collect()
}

/// Plans the steps after which the incoming tree has the live name.
fn incoming_steps(number: usize, tree: &Tree) -> Vec<Step<Action>> {
    let live = &tree.live;
    let count = tree.incoming.len();
    let with = if count > 1 { format!(" with {} below it", count - 1) } else { String::new() };
    let mut steps = match (&tree.from, &tree.snapshot) {
        (Some(from), _) => vec![
            Step::new(Action::Promote(number), format!("promote {from}{with}")),
            Step::new(Action::MakeLive(number), format!("rename {from} to {live}")),
        ],
        (None, snapshot) => {
            let snapshot = snapshot.as_deref().unwrap_or_default();
            let text = format!("make {live}{with} again from @{snapshot}");
            vec![
                Step::new(Action::Recreate(number), text),
                Step::new(Action::Promote(number), format!("promote {live}{with}")),
            ]
        }
    };
    if !tree.uncovered.is_empty() {
        let uncovered: Vec<String> =
            tree.uncovered.iter().map(|other| format!("{live}{}", other.below)).collect();
        let names = listed(uncovered.iter().map(String::as_str));
        let text = format!("move {names} (not covered) back below {live}");
        steps.push(Step::new(Action::ReturnUncovered(number), text));
    }
    steps
}

fn mounted(tree: &Tree) -> Vec<String> {
    let out = tree.outgoing.iter().filter(|one| one.mounted).map(|one| &one.below);
    let uncovered = tree.uncovered.iter().flat_map(|other| &other.mounted);
    out.chain(uncovered).map(|below| format!("{}{below}", tree.live)).collect()
}

/// Returns the datasets that are parked without a successor, since they were created later.
pub fn along(tree: &Tree) -> Vec<String> {
    let has_other = |one: &&Outgoing| tree.incoming.iter().any(|other| other.below == one.below);
    tree.outgoing
        .iter()
        .filter(|one| !has_other(one))
        .map(|one| format!("{}{}", tree.live, one.below))
        .collect()
}

fn warnings(state: &State, goal: &Goal) -> Vec<String> {
    let mut warnings = Vec::new();
    for tree in &goal.trees {
        let along = along(tree);
        if !along.is_empty() {
            warnings.push(format!(
                "{} did not exist in the restore point and is parked with {}",
                listed(along.iter().map(String::as_str)),
                tree.live
            ));
        }
        let names = tree.outgoing.iter().map(|one| format!("{}{}", tree.live, one.below));
        let sent: Vec<String> = names
            .flat_map(|name| state.of(&name).to_vec())
            .filter(crate::listing::is_replication)
            .map(|snap| snap.name())
            .collect();
        if !sent.is_empty() {
            warnings.push(format!(
                "{} is replicated ({}): bookmarks and newer snapshots are parked with the old dataset, so the next replication must \
                 begin at a common snapshot that is older",
                tree.live,
                listed(sent.iter().map(String::as_str))
            ));
        }
    }
    warnings
}

fn after(state: &State, goal: &Goal, shown_id: &str) -> Value {
    let mut snapshots = BTreeMap::new();
    for dataset in &state.covered {
        let shorts = ours(state, dataset, u64::MAX);
        snapshots.insert(dataset.clone(), shorts);
    }
    let mut parked: BTreeMap<String, String> =
        state.parked().into_iter().map(|tree| (tree.root, tree.live)).collect();
    for tree in &goal.trees {
        for gone in along(tree) {
            snapshots.remove(&gone);
        }
        for one in &tree.incoming {
            let live = format!("{}{}", tree.live, one.below);
            let shorts = match &tree.from {
                // The common snapshots up to the clone's origin, and its own.
                Some(from) => {
                    let own = format!("{from}{}", one.below);
                    let at = origin(state, &own).map(|snap| snap.txg);
                    let mut all = ours(state, &live, at.unwrap_or(0));
                    all.extend(ours(state, &own, u64::MAX));
                    all
                }
                None => {
                    let at = tree.snapshot.as_deref().and_then(|short| state.find(&live, short));
                    ours(state, &live, at.map_or(u64::MAX, |snap| snap.txg))
                }
            };
            snapshots.insert(live, shorts);
        }
        if let Some(from) = &tree.from {
            parked.remove(from);
        }
        parked.insert(tree.parked.replace(&tree.id, shown_id), tree.live.clone());
    }
    view(&snapshots, &parked)
}

fn ours(state: &State, dataset: &str, until: u64) -> Vec<String> {
    let own =
        state.of(dataset).iter().filter(|snap| snap.txg <= until && state.ours(snap).is_some());
    own.map(|snap| snap.short.clone()).collect()
}

/// Returns the origin of a parked dataset.
fn origin<'a>(state: &'a State, parked: &str) -> Option<&'a crate::listing::Snap> {
    let (dataset, short) = state.datasets.get(parked)?.origin.as_deref()?.split_once('@')?;
    state.find(dataset, short)
}

/// Lists what is no longer live afterwards, and not lost.
pub fn set_aside(state: &State, goal: &Goal) -> Value {
    let mut all = Vec::new();
    for tree in &goal.trees {
        for one in &tree.outgoing {
            let name = format!("{}{}", tree.live, one.below);
            let target = match (&tree.snapshot, &tree.from) {
                (Some(short), _) => state.find(&name, short),
                // The common origin of the two.
                (None, Some(from)) => origin(state, &format!("{from}{}", one.below)),
                (None, None) => None,
            };
            let written = match target {
                Some(target) => Some(state.written_since(target)),
                None => state.datasets.get(&name).map(|data| data.used),
            };
            let newer: Vec<String> = (target.into_iter())
                .flat_map(|target| state.newer_than(target))
                .map(|snap| snap.name())
                .collect();
            all.push(json!({
                "dataset": name,
                "parked": format!("{}{}", tree.parked, one.below),
                "written": written,
                "newer_snapshots": newer,
            }));
        }
    }
    json!(all)
}
