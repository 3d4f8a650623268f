//! Plans `state: rolled_back`: a rollback to a restore point or to a parked state. Pure.

use crate::names::{self, Kind};
use crate::options::{Task, Wanted};
use crate::plan::{
    Action, SLOTS, nothing, refuse_server, refuse_unusable, refused, sessions, used, warnings,
};
use crate::record::Entry;
use crate::state::{Database, State};
use crate::unfinished::{Goal, what};
use anyhow::Result;
use change::{Loss, Plan, Step, Undo};
use host::clock;

/// The placeholder in messages for an id that is known only when the run begins.
const ID_PLACEHOLDER: &str = "<id>";

/// Returns why a rollback to a restore point or parked state is not possible, as codes and sentences. The info module uses it too.
pub fn obstacles(state: &State, entry: &Entry) -> Vec<(&'static str, String)> {
    if state.is_of_another_cluster(entry) {
        return vec![("other_cluster", other_cluster(state, entry))];
    }
    let mut why = Vec::new();
    let name = &entry.name;
    match state.there(entry) {
        None => why.push(("not_ours", format!("{name} is not there, or is not what we have made"))),
        Some(found) => {
            if found.limit == -2 {
                why.push((
                    "invalid_database",
                    format!("a DROP DATABASE of {name} was stopped half way"),
                ));
            }
            if !found.sessions.is_empty() {
                why.push((
                    "sessions",
                    format!(
                        "somebody is connected to {name} ({})",
                        sessions(&found.sessions).join(", ")
                    ),
                ));
            }
            if !found.prepared.is_empty() {
                why.push((
                    "prepared_transactions",
                    format!("{name} has prepared transactions ({})", found.prepared.join(", ")),
                ));
            }
        }
    }
    if entry.major != state.cluster.major() {
        let now = state.cluster.major();
        why.push((
            "other_major",
            format!("{name} was made by PostgreSQL {}, and this is PostgreSQL {now}", entry.major),
        ));
    }
    let Some(live) = state.cluster.find(&state.database) else {
        why.push(("no_database", format!("there is no database {}", state.database)));
        return why;
    };
    if !state.known(live.oid, entry.live_oid) {
        let msg = format!(
            "{} is another database than the one that was captured (OID {}, then {})",
            live.name, live.oid, entry.live_oid
        );
        why.push(("live_moved", msg));
    }
    if !live.prepared.is_empty() {
        let msg = format!(
            "{} has prepared transactions ({}): COMMIT PREPARED or ROLLBACK PREPARED them first",
            live.name,
            live.prepared.join(", ")
        );
        why.push(("prepared_transactions", msg));
    }
    why
}

fn other_cluster(state: &State, entry: &Entry) -> String {
    format!(
        "{} was made in another cluster (system identifier {}) than the server has now ({}): its data directory or container was \
         made again, or another server answers",
        entry.name,
        entry.cluster.as_deref().unwrap_or("unknown"),
        state.cluster.system_identifier.as_deref().unwrap_or("unknown")
    )
}

/// Refuses to call a rollback done whose swap the server does not have: it was restored from a backup of before, or a replica
/// took over that had not received it. After a rollback that was taken back by another one, what was live is recorded later.
pub fn refuse_lost(state: &State, rollback: &str) -> Result<()> {
    let at = |wanted: &dyn Fn(&Entry) -> bool| state.entries.iter().position(wanted);
    let parked = at(&|entry| {
        (entry.kind, entry.id.as_str(), &entry.database)
            == (Kind::Parked, rollback, &state.database)
    });
    let Some(parked) = parked else { return Ok(()) };
    let entry = &state.entries[parked];
    if state.is_of_another_cluster(entry) {
        return Err(refused("other_cluster", other_cluster(state, entry)));
    }
    let later = at(&|other| other.oid == entry.live_oid).is_some_and(|other| other > parked);
    if state.live()?.oid != entry.oid || later {
        return Ok(());
    }
    let msg = format!(
        "the rollback {rollback} was done, and {} is again what it was before: the server was restored from an older backup, or a \
         replica without the rollback has become the primary; to do it once more, pass another rollback_id",
        state.database
    );
    Err(refused("rollback_lost", msg))
}

/// Finds the record of the restore point or parked state to roll back to.
pub fn incoming<'a>(state: &'a State, wanted: &Wanted) -> Result<&'a Entry> {
    let (kind, id) = match wanted {
        Wanted::RolledBack(id) => (Kind::RestorePoint, id.as_str()),
        Wanted::Undone(id) => (Kind::Parked, id.as_str()),
        _ => anyhow::bail!("no rollback"),
    };
    match state.entry(kind, id) {
        Some(entry) if state.there(entry).is_some() => Ok(entry),
        Some(entry) if state.is_of_another_cluster(entry) => {
            Err(refused("other_cluster", other_cluster(state, entry)))
        }
        Some(entry) if state.live()?.oid == entry.oid => Err(used(entry)),
        _ => {
            let known: Vec<&str> =
                state.ours(kind).iter().map(|(entry, _)| entry.id.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let msg = format!(
                "there is no {} {id} of {}; there are: {known}",
                kind.name(),
                state.database
            );
            Err(refused("no_restore_point", msg))
        }
    }
}

/// Plans the rollback. `id` is that of the parked state; `None` if it is not known yet.
pub fn plan(
    state: &State,
    task: &Task,
    key: Option<String>,
    id: Option<&str>,
) -> Result<(Plan<Action>, Goal)> {
    refuse_server(state)?;
    let live = state.live()?;
    refuse_unusable(live)?;
    let incoming = incoming(state, &task.wanted)?;
    if let Some((reason, why)) = obstacles(state, incoming).into_iter().next() {
        return Err(refused(reason, why));
    }
    let parked = names::ours(&live.name, Kind::Parked, id.unwrap_or(ID_PLACEHOLDER));
    if state.cluster.find(&parked).is_some() {
        return Err(refused(
            "name_taken",
            format!("there is a database {parked} already: pass another rollback_id"),
        ));
    }
    let shown_id = task.rollback.as_ref().map_or(ID_PLACEHOLDER, |id| id.as_str());
    let shown = names::ours(&live.name, Kind::Parked, shown_id);
    let mut plan = nothing(state);
    plan.identities.push(format!("{} oid {}", live.name, live.oid));
    plan.identities.push(format!("{} oid {}", incoming.name, incoming.oid));
    plan.steps.push(Step::new(
        Action::CheckIncoming,
        format!("check that {} is unchanged since it was made", incoming.name),
    ));
    plan.steps.push(swap_step(live, incoming, &shown));
    plan.undo = Undo::By(format!("state: rolled_back with parked: {shown_id}"));
    if !state.cluster.replicas.is_empty() {
        plan.warnings.push(format!(
            "sessions on replicas ({}) do not notice the swap: they read what is parked until they connect again",
            state.cluster.replicas.join(", ")
        ));
    }
    plan.warnings.extend(warnings(state, live));
    plan.after = after_swap(state, incoming, shown_id, &shown);
    let goal = Goal {
        what: what(task),
        key,
        incoming: incoming.clone(),
        outgoing: Entry {
            kind: Kind::Parked,
            id: id.unwrap_or(ID_PLACEHOLDER).to_owned(),
            name: parked,
            oid: live.oid,
            database: live.name.clone(),
            live_oid: incoming.oid,
            at: clock::now().to_string(),
            major: live.major,
            cluster: live.cluster.clone(),
            comment: live.comment.clone(),
            ..Entry::default()
        },
    };
    Ok((plan, goal))
}

/// Plans the swap. A logical slot stays with the database that is parked as `parked`, which the task must accept.
fn swap_step(live: &Database, incoming: &Entry, parked: &str) -> Step<Action> {
    let text = format!(
        "end the sessions of {0}, set the sequences, and swap names: {0} becomes {parked}, {1} becomes {0}",
        live.name, incoming.name
    );
    let losses = live.slots.iter().map(|slot| {
        let what = format!(
            "the position of the logical slot {slot}: it stays with {parked}, and its reader gets nothing that is written afterwards"
        );
        Loss::accepted_as(SLOTS, what).bytes(0)
    });
    losses.fold(Step::new(Action::Swap, text), Step::loses)
}

fn after_swap(state: &State, incoming: &Entry, id: &str, parked: &str) -> serde_json::Value {
    let mut view = state.view();
    view["oid"] = incoming.oid.into();
    for list in ["restore_points", "parked"] {
        if let Some(all) = view[list].as_array_mut() {
            all.retain(|one| one["database"] != incoming.name.as_str());
        }
    }
    if let Some(all) = view["parked"].as_array_mut() {
        all.push(serde_json::json!({ "id": id, "database": parked }));
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Cluster, Database};

    fn state() -> State {
        let mut cluster = Cluster::parse(include_str!("captured/cluster-15.json")).unwrap();
        let shop = cluster.databases.iter_mut().find(|one| one.name == "shop").unwrap();
        (shop.slots, shop.prepared) = (vec![], vec![]);
        let shop = shop.clone();
        let entry = Entry {
            id: "x".into(),
            name: "p".into(),
            database: "shop".into(),
            oid: 7,
            live_oid: shop.oid,
            major: 15,
            ..Entry::default()
        };
        let comment = Some(names::comment("shop", Kind::RestorePoint, "x"));
        cluster.databases.push(Database {
            name: "p".into(),
            oid: 7,
            comment,
            sessions: vec![],
            ..shop
        });
        State { cluster, entries: vec![entry], database: "shop".into() }
    }

    fn live(state: &mut State) -> &mut Database {
        state.cluster.databases.iter_mut().find(|one| one.name == "shop").unwrap()
    }

    fn reasons(state: &State) -> Vec<&'static str> {
        obstacles(state, &state.entries[0]).into_iter().map(|(reason, _)| reason).collect()
    }

    #[test]
    fn a_rollback_that_the_server_has_lost_is_not_done() {
        let mut state = state();
        let first = live(&mut state).oid;
        let point = state.entries[0].clone();
        state.entries.push(Entry {
            kind: Kind::Parked,
            id: "back".into(),
            name: "f".into(),
            oid: first,
            live_oid: point.oid,
            ..point.clone()
        });
        assert!(refuse_lost(&state, "back").is_err());
        assert!(refuse_lost(&state, "other").is_ok());
        live(&mut state).oid = point.oid;
        assert!(refuse_lost(&state, "back").is_ok(), "it is there");
        // Taken back: the restore point was live, and is parked now.
        live(&mut state).oid = first;
        state.entries.remove(0);
        let undone = Entry { kind: Kind::Parked, id: "undo".into(), live_oid: first, ..point };
        state.entries.push(undone);
        assert!(refuse_lost(&state, "back").is_ok());
    }

    #[test]
    fn what_another_cluster_had_is_refused() {
        let mut state = state();
        let here = Some("2".to_owned());
        state.cluster.system_identifier = here.clone();
        let mut parked =
            Entry { kind: Kind::Parked, id: "back".into(), ..state.entries[0].clone() };
        parked.cluster = Some("1".into());
        state.entries[0].cluster = here;
        assert!(reasons(&state).is_empty(), "it is of this cluster");
        state.entries[0].cluster = Some("1".into());
        assert_eq!(reasons(&state), ["other_cluster"]);
        assert!(state.ours(Kind::RestorePoint).is_empty());
        // New clusters give out the same OIDs again.
        parked.oid = live(&mut state).oid + 1;
        state.entries.push(parked);
        let error = refuse_lost(&state, "back").unwrap_err();
        assert!(error.to_string().contains("another cluster"), "{error}");
    }

    #[test]
    fn obstacles_to_a_rollback_are_found() {
        assert!(reasons(&state()).is_empty());
        let changed = |change: fn(&mut State)| {
            let mut state = state();
            change(&mut state);
            reasons(&state)
        };
        assert_eq!(changed(|state| live(state).oid = 99), ["live_moved"]);
        assert_eq!(
            changed(|state| live(state).prepared.push("late".into())),
            ["prepared_transactions"]
        );
        assert_eq!(changed(|state| state.entries[0].major = 14), ["other_major"]);
        assert_eq!(changed(|state| state.entries[0].oid = 8), ["not_ours"]);
        assert_eq!(
            changed(|state| state.cluster.databases.last_mut().unwrap().limit = -2),
            ["invalid_database"]
        );
        assert_eq!(
            changed(|state| {
                let sessions = live(state).sessions.clone();
                state.cluster.databases.last_mut().unwrap().sessions = sessions;
            }),
            ["sessions"]
        );
    }
}
