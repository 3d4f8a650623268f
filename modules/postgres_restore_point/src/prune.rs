//! Plans and carries out removals: what `state: absent` and `retain` drop.
//!
//! Invariant: a dropped database is ours by comment and OID, checked again right before; nobody is connected to it; it
//! is not the one of the task, not the newest, not in `keep`. An obstacle refuses a requested removal, and makes
//! retention skip the database with a warning. A clone is nobody's data: its sessions are ended, and it needs no consent.

use crate::names::Kind;
use crate::options::{Task, Wanted};
use crate::plan::{Action, Removal, nothing, sessions};
use crate::psql::Psql;
use crate::quote::identifier;
use crate::record::Entry;
use crate::state::{self, Database, State};
use ansible_module::Failure;
use anyhow::{Context, Result};
use change::{Loss, Plan, Step, Undo};
use host::deadline::Deadline;

/// The word of consent for removing the last state to roll back to.
pub const LAST: &str = "last_way_back";

pub fn absent(state: &State, task: &Task) -> Result<Plan<Action>> {
    let mut plan = nothing(state);
    let about = match &task.wanted {
        Wanted::Absent(id) => Some((Kind::RestorePoint, id.as_str())),
        Wanted::AbsentParked(id) => Some((Kind::Parked, id.as_str())),
        _ => None,
    };
    if let Some((kind, id)) = about {
        let all = state.ours(kind);
        // Already absent.
        if let Some((entry, found)) = all.iter().find(|(entry, _)| entry.id == id) {
            remove(state, task, entry, found, &mut plan)?;
        }
    }
    if let Wanted::AbsentClone(id) = &task.wanted {
        for (entry, _) in state.ours(Kind::Clone).iter().filter(|(entry, _)| entry.id == *id) {
            drop_clone(entry, &mut plan);
        }
    }
    retention(state, task, about.map(|(_, id)| id), 0, &mut plan);
    if !plan.steps.is_empty() {
        plan.undo = Undo::None("what was dropped is gone".into());
    }
    Ok(plan)
}

fn remove(
    state: &State,
    task: &Task,
    entry: &Entry,
    found: &Database,
    plan: &mut Plan<Action>,
) -> Result<()> {
    let refused = |reason, why: String| {
        Err(Failure::new(reason, format!("{why}; nothing was changed")).into())
    };
    if task.keep.contains(&entry.id) {
        return refused("kept", format!("keep names {}", entry.id));
    }
    if let Some(why) = needed(found) {
        return refused("sessions", why);
    }
    let what =
        format!("the {} {} of {} ({})", entry.kind.name(), entry.id, entry.database, entry.name);
    let mut step = step(entry, format!("drop the database {}", entry.name))
        .loses(Loss::plain(what).bytes(found.bytes));
    if state.ours(Kind::RestorePoint).len() + state.ours(Kind::Parked).len() == 1 {
        let what = format!("the last state that {} could go back to", entry.database);
        step = step.loses(Loss::accepted_as(LAST, what).bytes(0));
    }
    for slot in &found.slots {
        step = step.loses(
            Loss::accepted_as(crate::plan::SLOTS, format!("the logical slot {slot}")).bytes(0),
        );
    }
    plan.identities.push(format!("{} oid {}", entry.name, entry.oid));
    plan.steps.push(step);
    gone(plan, &entry.name);
    Ok(())
}

fn step(entry: &Entry, text: String) -> Step<Action> {
    Step::new(Action::Remove(Box::new(Removal { entry: entry.clone() })), text)
}

fn gone(plan: &mut Plan<Action>, name: &str) {
    for list in ["restore_points", "parked", "clones"] {
        if let Some(all) = plan.after[list].as_array_mut() {
            all.retain(|one| one["database"] != name);
        }
    }
}

/// Plans the removal of a clone.
pub fn drop_clone(entry: &Entry, plan: &mut Plan<Action>) {
    plan.identities.push(format!("{} oid {}", entry.name, entry.oid));
    plan.steps.push(step(entry, format!("drop the database {}, a clone", entry.name)));
    gone(plan, &entry.name);
}

/// Returns why the database cannot be dropped.
fn needed(found: &Database) -> Option<String> {
    let who = match (found.sessions.is_empty(), found.prepared.is_empty()) {
        (false, _) => {
            format!("somebody is connected to it: {}", sessions(&found.sessions).join(", "))
        }
        (true, false) => format!("it has prepared transactions: {}", found.prepared.join(", ")),
        (true, true) => return None,
    };
    Some(format!("{}: {who}", found.name))
}

/// Plans what `retain` removes: all but the newest of each kind. `coming` is how many will be made and counts too.
pub fn retention(
    state: &State,
    task: &Task,
    target: Option<&str>,
    coming: usize,
    plan: &mut Plan<Action>,
) {
    let Some(retain) = task.retain else { return };
    for (entry, found) in state.ours(Kind::Clone) {
        // Left by a run that was killed. One that somebody looks into stays.
        let is_planned = matches!(&task.wanted, Wanted::AbsentClone(id) if *id == entry.id);
        if found.sessions.is_empty() && !is_planned {
            drop_clone(entry, plan);
        }
    }
    for (kind, coming) in [(Kind::RestorePoint, coming), (Kind::Parked, 0)] {
        let all = state.ours(kind);
        let surplus = (all.len() + coming).saturating_sub(retain);
        let newest = if coming == 0 { all.last().map(|(entry, _)| entry.oid) } else { None };
        for (entry, found) in all.iter().take(surplus) {
            if Some(entry.oid) == newest
                || Some(entry.id.as_str()) == target
                || task.keep.contains(&entry.id)
            {
                continue;
            }
            let slots = found
                .slots
                .first()
                .map(|slot| format!("{}: the logical slot {slot} is in it", found.name));
            if let Some(why) = needed(found).or(slots) {
                plan.warnings.push(format!(
                    "retain leaves the {} {}: {why}",
                    kind.name(),
                    entry.id
                ));
                continue;
            }
            plan.steps.push(step(
                entry,
                format!("drop the database {}, as retain is {retain}", entry.name),
            ));
            gone(plan, &entry.name);
        }
    }
}

/// Checks the database again and drops it.
pub fn drop_database(psql: &Psql, task: &Task, removal: &Removal) -> Result<()> {
    let now = state::observe(psql, &task.subject)?;
    let name = &removal.entry.name;
    let Some(found) = now.there(&removal.entry) else {
        let msg = format!("{name} does not exist any more, or was not made by this module");
        return Err(Failure::new("moved", msg).into());
    };
    let is_clone = removal.entry.kind == Kind::Clone;
    if let Some(why) = needed(found).filter(|_| !is_clone) {
        return Err(Failure::new("sessions", why).into());
    }
    let force = if is_clone { " WITH (FORCE)" } else { "" };
    let sql = format!("DROP DATABASE {}{force};", identifier(name));
    let done = psql.change(
        &format!("dropping {name}"),
        psql.maintenance(),
        &sql,
        Deadline::after(task.task_timeout),
    );
    done.context("the database is unchanged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;
    use crate::state::Cluster;

    fn state(ids: &[&str]) -> State {
        let mut cluster = Cluster::parse(include_str!("captured/cluster-15.json")).unwrap();
        let mut entries = Vec::new();
        for (number, id) in ids.iter().enumerate() {
            let oid = 100 + u32::try_from(number).unwrap();
            let name = names::ours("shop", Kind::RestorePoint, id);
            let comment = Some(names::comment("shop", Kind::RestorePoint, id));
            cluster.databases.push(Database {
                name: name.clone(),
                oid,
                comment,
                ..Database::default()
            });
            entries.push(Entry {
                id: (*id).into(),
                name,
                oid,
                database: "shop".into(),
                ..Entry::default()
            });
        }
        State { cluster, entries, database: "shop".into() }
    }

    fn pruning(retain: usize, keep: &[&str]) -> Task {
        let keep = keep.iter().map(|id| (*id).to_owned()).collect();
        let mut task = Task::sample(Wanted::Pruned);
        (task.retain, task.keep) = (Some(retain), keep);
        task
    }

    fn removing(id: &str, keep: &[&str]) -> Task {
        let keep = keep.iter().map(|id| (*id).to_owned()).collect();
        let mut task = Task::sample(Wanted::Absent(id.parse().unwrap()));
        task.keep = keep;
        task
    }

    fn dropped(plan: &Plan<Action>) -> Vec<&str> {
        let steps = plan.steps.iter().filter_map(|step| match &step.action {
            Action::Remove(removal) => Some(removal.entry.id.as_str()),
            _ => None,
        });
        steps.collect()
    }

    #[test]
    fn retention_keeps_the_newest_and_needed_states() {
        let mut state = state(&["a", "b", "c", "d"]);
        let plan = absent(&state, &pruning(1, &[])).unwrap();
        assert_eq!(dropped(&plan), ["a", "b", "c"]);
        let plan = absent(&state, &pruning(2, &["a"])).unwrap();
        assert_eq!(dropped(&plan), ["b"]);
        state.cluster.databases.last_mut().unwrap().oid = 999;
        let plan = absent(&state, &pruning(1, &[])).unwrap();
        assert_eq!(dropped(&plan), ["a", "b"], "what is not ours does not count");
        let first = state.cluster.databases.iter().position(|one| one.oid == 100).unwrap();
        state.cluster.databases[first].prepared.push("late".into());
        let plan = absent(&state, &pruning(1, &[])).unwrap();
        assert_eq!(dropped(&plan), ["b"]);
        assert!(plan.warnings[0].contains("late"), "{:?}", plan.warnings);
    }

    #[test]
    fn removing_the_last_state_needs_consent() {
        let id = "20261121t084500z-7f3a";
        let plan = absent(&state(&[id]), &removing(id, &[])).unwrap();
        let words: Vec<Option<&str>> = plan.losses().map(|loss| loss.accept).collect();
        assert_eq!(words, [None, Some(LAST)]);
        let plan = absent(&state(&[id, "b"]), &removing(id, &[])).unwrap();
        assert_eq!(plan.losses().count(), 1);
        let plan = absent(&state(&["b"]), &removing(id, &[])).unwrap();
        assert!(plan.steps.is_empty());
        assert!(absent(&state(&[id]), &removing(id, &[id])).is_err());
    }
}
