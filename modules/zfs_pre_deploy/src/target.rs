//! Finds the snapshots that a rollback goes back to, and the obstacles common to both methods. Pure.

use crate::listing::{Data, Snap};
use crate::names::pool_of;
use crate::options::{Point, Task};
use crate::state::State;
use ansible_module::Failure;
use host::mounts::Mounts;
use std::collections::BTreeMap;

/// The snapshots of a restore point.
#[derive(Debug)]
pub struct Targets<'a> {
    /// The snapshot of each dataset that has one.
    pub snaps: Vec<&'a Snap>,
    /// Datasets that the task covers and that were created after the snapshot.
    pub later: Vec<&'a Data>,
    /// Datasets that the restore point's record names and that no longer exist.
    pub gone: Vec<String>,
}

impl<'a> Targets<'a> {
    pub fn of(&self, dataset: &str) -> Option<&'a Snap> {
        self.snaps.iter().find(|snap| snap.dataset == dataset).copied()
    }
}

pub fn targets<'a>(state: &'a State, task: &Task, point: &Point) -> Result<Targets<'a>, Failure> {
    let mut found = Targets { snaps: Vec::new(), later: Vec::new(), gone: Vec::new() };
    let mut without: Vec<&Data> = Vec::new();
    for name in &state.covered {
        match state.find(name, &point.snapshot) {
            Some(snap) => {
                refuse_foreign(state, snap, point)?;
                found.snaps.push(snap);
            }
            None => without.extend(state.datasets.get(name)),
        }
    }
    // One call takes all snapshots of a pool, so they have the same transaction group.
    let mut taken: BTreeMap<&str, u64> = BTreeMap::new();
    for snap in &found.snaps {
        let txg = taken.entry(pool_of(&snap.dataset)).or_default();
        *txg = (*txg).max(snap.txg);
    }
    for data in without {
        let named = task.subject.datasets.iter().any(|name| name.as_str() == data.name);
        let later = taken.get(pool_of(&data.name)).is_some_and(|txg| data.txg > *txg);
        if named || !later {
            return Err(no_snapshot(state, &data.name, point));
        }
        found.later.push(data);
    }
    let sign = format!("@{}", point.snapshot);
    let noted = state.noted.keys().filter_map(|name| name.strip_suffix(&sign));
    found.gone.extend(noted.filter(|name| !state.datasets.contains_key(*name)).map(str::to_owned));
    Ok(found)
}

fn no_snapshot(state: &State, dataset: &str, point: &Point) -> Failure {
    let ours = state.of(dataset).iter().filter(|snap| state.ours(snap).is_some());
    let known = host::joined_or(ours.rev().take(5).map(|snap| &snap.short), "none");
    let msg = format!(
        "{dataset} has no snapshot {} to go back to (of ours it has, the newest first: {known}); nothing was changed",
        point.snapshot
    );
    Failure::new("no_snapshot", msg)
}

/// Refuses a snapshot of that name that this deploy has not taken here.
pub fn refuse_foreign(state: &State, snap: &Snap, point: &Point) -> Result<(), Failure> {
    let name = snap.name();
    if state.was_recreated(snap) {
        let msg = format!(
            "{name} has another guid ({}) than the snapshot that was taken for {}: somebody destroyed that one and \
             took this one; nothing was changed",
            snap.guid, point.deploy
        );
        return Err(Failure::new("guid_moved", msg));
    }
    let whose = match (&snap.mark, state.ours(snap)) {
        (_, Some(mark)) if mark.deploy == point.deploy.as_str() => return Ok(()),
        (_, Some(mark)) => format!("it belongs to another deploy ({})", mark.deploy),
        (Some(_), None) => {
            "its properties are ours, but inherited or received: it was not taken here".to_owned()
        }
        (None, None) => "it has none of our properties: this module did not take it".to_owned(),
    };
    let msg = format!("there is a snapshot {name}, and {whose}; nothing was changed");
    Err(Failure::new("not_ours", msg))
}

/// Refuses a state folder that would be rolled back with the datasets.
pub fn refuse_state_inside(
    state: &State,
    task: &Task,
    mounts: &Mounts,
    datasets: &[&Data],
) -> Result<(), Failure> {
    let refusal = |why: anyhow::Error| {
        Failure::new("state_dir_inside", "cannot determine the mount of state_dir").caused_by(why)
    };
    let on = mounts.on_nearest(&task.state_dir).map_err(refusal)?;
    let all = std::iter::once(on).chain(mounts.above(on));
    for mount in all.filter(|mount| mount.fstype == "zfs") {
        let source = mount.source.to_string_lossy();
        if datasets.iter().any(|data| data.name == source) && state.datasets.contains_key(&*source)
        {
            let msg = format!(
                "state_dir {} lies on {source}, and would be rolled back with it; give another; nothing was changed",
                task.state_dir.display()
            );
            return Err(Failure::new("state_dir_inside", msg));
        }
    }
    Ok(())
}

pub fn refuse_readonly(state: &State, names: &[String]) -> Result<(), Failure> {
    let of = |name: &String| state.pool(name).filter(|pool| pool.readonly);
    match names.iter().find_map(of) {
        Some(pool) => {
            let msg = format!(
                "the pool {} was imported read-only: export it and import it again; nothing was changed",
                pool.name
            );
            Err(Failure::new("pool_readonly", msg))
        }
        None => Ok(()),
    }
}

/// Joins names, and counts those beyond the first few.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match names.as_slice() {
        few if few.len() <= 6 => few.join(", "),
        many => format!("{} and {} more", many[..5].join(", "), many.len() - 5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Method, Wanted};
    use crate::sample::{dataset, point, state, taken, task};

    fn rollback(datasets: &[&str]) -> Task {
        task(datasets, Wanted::RolledBack(point(1), Method::Swap))
    }

    #[test]
    fn a_dataset_that_came_later_is_no_target_but_one_without_its_snapshot_is_refused() {
        let rows = [taken("tank/a", 1)];
        let with = |txg| {
            let mut state = state(&["tank/a", "tank/a/new"], &rows);
            state.datasets.insert("tank/a/new".into(), Data { txg, ..dataset("tank/a/new") });
            state
        };
        let later = with(11);
        let found = targets(&later, &rollback(&["tank/a"]), &point(1)).unwrap();
        assert_eq!(found.snaps.len(), 1);
        assert_eq!(found.later[0].name, "tank/a/new");
        // It was there when the restore point was taken, so its snapshot was destroyed.
        let reason =
            |state: &State, task: &Task| targets(state, task, &point(1)).unwrap_err().reason;
        assert_eq!(reason(&with(9), &rollback(&["tank/a"])), "no_snapshot");
        // The task names it: it cannot be left as it is.
        assert_eq!(reason(&later, &rollback(&["tank/a", "tank/a/new"])), "no_snapshot");
        // The time of another pool's snapshot says nothing about this one.
        let mut other = state(&["big/b", "tank/a"], &rows);
        other.datasets.insert("big/b".into(), Data { txg: 99, ..dataset("big/b") });
        assert_eq!(reason(&other, &rollback(&["tank/a"])), "no_snapshot");
    }

    #[test]
    fn recorded_datasets_that_no_longer_exist_are_named() {
        let mut state = state(&["tank/a"], &[taken("tank/a", 1)]);
        for name in ["tank/a", "tank/old"] {
            state.noted.insert(format!("{name}@{}", point(1).snapshot), 10);
        }
        state.noted.insert(format!("tank/older@{}", point(2).snapshot), 20);
        let found = targets(&state, &rollback(&["tank/a"]), &point(1)).unwrap();
        assert_eq!(found.gone, ["tank/old"]);
    }

    #[test]
    fn many_names_are_counted() {
        assert_eq!(listed(["a"; 6]), "a, a, a, a, a, a");
        assert_eq!(listed(["a"; 8]), "a, a, a, a, a and 3 more");
    }
}
