//! Plans `state: present`: a restore point. Pure.

use crate::names::{self, Kind};
use crate::options::Task;
use crate::plan::{Action, nothing, refuse_server, refuse_unusable, refused, used, warnings};
use crate::prune;
use crate::state::State;
use anyhow::Result;
use change::{Plan, Step, Undo};
use host::space::human;

pub fn is_captured(state: &State, id: &str) -> bool {
    state.ours(Kind::RestorePoint).iter().any(|(entry, _)| entry.id == id)
}

/// Refuses what can be seen before the contents of the database are read.
pub fn refuse(state: &State, id: &str) -> Result<()> {
    refuse_server(state)?;
    let live = state.live()?;
    refuse_unusable(live)?;
    let known = state.entry(Kind::RestorePoint, id);
    let here = known.filter(|entry| !state.is_of_another_cluster(entry));
    if let Some(entry) = here.filter(|entry| entry.oid == live.oid) {
        return Err(used(entry));
    }
    let name = names::ours(&live.name, Kind::RestorePoint, id);
    if state.cluster.find(&name).is_some() {
        return Err(refused(
            "name_taken",
            format!("there is a database {name}, and it is not ours"),
        ));
    }
    if live.label {
        return Err(refused(
            "not_carried",
            format!("{} has a security label, which a dump does not hold", live.name),
        ));
    }
    if !live.subscriptions.is_empty() {
        let names = live.subscriptions.join(", ");
        let msg = format!(
            "{} has subscriptions ({names}): a copy of one could take the slot of the other",
            live.name
        );
        return Err(refused("not_carried", msg));
    }
    Ok(())
}

pub fn plan(state: &State, task: &Task, id: &str) -> Result<Plan<Action>> {
    let mut plan = nothing(state);
    let live = state.live()?;
    let name = names::ours(&live.name, Kind::RestorePoint, id);
    let captured = is_captured(state, id);
    if !captured {
        plan.identities.push(format!("{} oid {}", live.name, live.oid));
        plan.steps = vec![
            Step::new(
                Action::Dump,
                format!("dump {} from one snapshot, while it is used", live.name),
            ),
            Step::new(
                Action::Restore,
                format!("restore it into {name}, with the rights and settings of {}", live.name),
            ),
            Step::new(
                Action::Check,
                format!("analyze {name}, and compare it with what was dumped"),
            ),
            Step::new(Action::Keep, format!("close {name} to connections and record it")),
        ];
        plan.undo = Undo::By(format!("state: absent with deploy_id: {id}"));
        plan.warnings.extend(warnings(state, live));
        plan.warnings.push(format!(
            "{} has {}: so much is needed in work_dir, and twice as much where the server has its data; WAL of that size goes to {}",
            live.name,
            human(live.bytes),
            match state.cluster.replicas.len() {
                0 => "archives, if there are any".to_owned(),
                count => format!("{count} replicas, and to archives"),
            }
        ));
    }
    prune::retention(state, task, Some(id), usize::from(!captured), &mut plan);
    if !captured {
        add_point(&mut plan, id, &name);
    }
    Ok(plan)
}

fn add_point(plan: &mut Plan<Action>, id: &str, name: &str) {
    if let Some(points) = plan.after["restore_points"].as_array_mut() {
        points.push(serde_json::json!({ "id": id, "database": name }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Cluster, Database};

    fn state() -> State {
        let cluster = Cluster::parse(include_str!("captured/cluster-15.json")).unwrap();
        State { cluster, entries: vec![], database: "shop".into() }
    }

    fn live(state: &mut State) -> &mut Database {
        state.cluster.databases.iter_mut().find(|one| one.name == "shop").unwrap()
    }

    #[test]
    fn what_cannot_be_captured() {
        let refused = |change: fn(&mut State)| {
            let mut state = state();
            change(&mut state);
            refuse(&state, "20261121t084500z-7f3a").is_err()
        };
        assert!(!refused(|_| {}));
        assert!(refused(|state| state.cluster.in_recovery = true));
        assert!(refused(|state| state.cluster.superuser = false));
        assert!(refused(|state| live(state).allow = false));
        assert!(refused(|state| live(state).limit = -2));
        assert!(refused(|state| live(state).label = true));
        assert!(refused(|state| live(state).subscriptions.push("feed".into())));
        assert!(refused(|state| state
            .cluster
            .databases
            .iter_mut()
            .find(|one| one.name == "postgres")
            .unwrap()
            .name = "shop__before_20261121t084500z-7f3a".into()));
    }
}
