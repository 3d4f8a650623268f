//! Finishes or removes what a killed run has left, before anything else is planned, and what a failed run leaves.
//!
//! Invariant: afterwards one complete database has the name, accepts connections, and nothing half-made is there. A swap
//! is one transaction of the server: it happened or it did not, and the OID under the name says which.

use crate::options::Task;
use crate::psql::Psql;
use crate::quote::{identifier, literal};
use crate::record::{self, Entry};
use crate::state::State;
use crate::unfinished::{Goal, Making, UnfinishedRun};
use ansible_module::Failure;
use anyhow::Result;
use change::{Plan, Step};
use host::deadline::Deadline;
use host::folder::SafeFolder;
use host::record::Done;
use host::spot::Spot;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

const CHANGE: Duration = Duration::from_secs(60);
/// The pause between two checks whether a statement has ended.
const POLL_MILLISECONDS: Duration = Duration::from_millis(50);

pub enum Fix {
    /// Lets the database accept connections again.
    Open(String),
    Close(String),
    RemoveHalfMade(String),
    RemoveWork(PathBuf),
    /// Records a swap that was done and not recorded.
    RecordSwap(Box<Goal>),
}

/// Ends a `CREATE DATABASE` of the killed run. The server goes on with it when its client is gone, and the database is
/// seen only when it is complete.
pub fn end_creation(psql: &Psql, unfinished: &UnfinishedRun) -> Result<()> {
    let Some(making) = &unfinished.making else { return Ok(()) };
    let beginning = format!("CREATE DATABASE {} ", identifier(&making.name));
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
         AND application_name = 'reversible.deploy' AND state = 'active' AND starts_with(query, {})",
        literal(&beginning)
    );
    let deadline = Deadline::after(CHANGE);
    let what = format!("ending what makes {}", making.name);
    while psql.ask::<u64>(&what, psql.maintenance(), &sql)? > 0 {
        if deadline.passed() {
            let msg = format!("{}: CREATE DATABASE of the killed run did not end", making.name);
            return Err(Failure::new("sessions", msg).into());
        }
        deadline.sleep(POLL_MILLISECONDS)?;
    }
    Ok(())
}

pub fn plan(state: &State, unfinished: &UnfinishedRun) -> Plan<Fix> {
    let mut plan = Plan::nothing(&state.database, state.view());
    let mut step = |fix, text: String| plan.steps.push(Step::new(fix, text));
    let live = state.cluster.find(&state.database);
    // The swap of another cluster is not to be finished here.
    let goal = unfinished.goal.as_ref();
    if let Some(goal) = goal.filter(|goal| !state.is_of_another_cluster(&goal.outgoing)) {
        let (incoming, outgoing) = (&goal.incoming, &goal.outgoing);
        if let Some(live) =
            live.filter(|live| !live.allow && [incoming.oid, outgoing.oid].contains(&live.oid))
        {
            step(
                Fix::Open(live.name.clone()),
                format!("let {} accept connections again", live.name),
            );
        }
        let swapped = live.is_some_and(|live| live.oid == incoming.oid);
        if swapped
            && !state
                .entries
                .iter()
                .any(|entry| entry.oid == outgoing.oid && entry.name == outgoing.name)
        {
            let text = format!("record that {} is parked as {}", outgoing.database, outgoing.name);
            step(Fix::RecordSwap(Box::new(goal.clone())), text);
        }
        if state.there(incoming).is_some_and(|found| found.allow) {
            step(
                Fix::Close(incoming.name.clone()),
                format!("close {} to connections", incoming.name),
            );
        }
    }
    if let Some(Making { name, comment }) = &unfinished.making {
        let is_whole =
            state.entries.iter().any(|entry| entry.name == *name && state.there(entry).is_some());
        let half_made = state.cluster.find(name).is_some_and(|found| match &found.comment {
            Some(said) => said == comment,
            // Made by the killed run: nobody else makes one that accepts no connections.
            None => found.limit == 0,
        });
        if half_made && !is_whole {
            step(
                Fix::RemoveHalfMade(name.clone()),
                format!("remove {name}, which was not finished"),
            );
        }
    }
    if let Some(work) = &unfinished.work {
        step(Fix::RemoveWork(work.clone()), format!("remove the dump in {}", work.display()));
    }
    plan
}

pub fn act(fix: &Fix, psql: &Psql, task: &Task) -> Result<()> {
    let change = |what: &str, sql: String| {
        psql.change(what, psql.maintenance(), &sql, Deadline::after(CHANGE))
    };
    match fix {
        Fix::Open(name) => change(
            "opening the database again",
            format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true;", identifier(name)),
        ),
        Fix::Close(name) => close(psql, name),
        // Only the killed run knows of it, whose own clients may still be connected.
        Fix::RemoveHalfMade(name) => change(
            "removing what was not finished",
            format!("DROP DATABASE IF EXISTS {} WITH (FORCE);", identifier(name)),
        ),
        Fix::RemoveWork(path) => match Spot::find(path)? {
            Some(spot) => spot.remove_all(),
            None => Ok(()),
        },
        Fix::RecordSwap(goal) => record_swap(task, goal),
    }
}

/// Closes a restore point or a parked state to connections.
pub fn close(psql: &Psql, name: &str) -> Result<()> {
    let sql = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false;", identifier(name));
    psql.change(&format!("closing {name}"), psql.maintenance(), &sql, Deadline::after(CHANGE))
}

/// Records that this rollback is done, so that it is not done again, and then what was parked: if the second record
/// exists, the first does too.
pub fn record_swap(task: &Task, goal: &Goal) -> Result<()> {
    if let Some(key) = &goal.key {
        let folder = SafeFolder::ensure(&task.subject.state_dir, 0o700)?;
        Done::record(folder.path(), key, &Value::Null)?;
    }
    record::add(&task.subject.state_dir, &goal.outgoing)
}

/// Makes the statement that sets the comment of a database.
pub fn commenting(name: &str, comment: Option<&str>) -> String {
    let text = comment.map_or("NULL".to_owned(), literal);
    format!("COMMENT ON DATABASE {} IS {text}", identifier(name))
}

/// Returns the entry that is live, if a killed run has just reached the goal of this task.
pub fn reached<'a>(state: &State, goal: &'a Option<Goal>) -> Option<&'a Entry> {
    let goal = goal.as_ref()?;
    let live = state.cluster.find(&state.database)?;
    let is_here = !state.is_of_another_cluster(&goal.outgoing);
    (is_here && live.oid == goal.incoming.oid).then_some(&goal.outgoing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{self, Kind};
    use crate::state::{Cluster, Database};

    fn state(comment: Option<&str>, limit: i64) -> State {
        let mut cluster = Cluster::parse(include_str!("captured/cluster-15.json")).unwrap();
        let comment = comment.map(str::to_owned);
        cluster.databases.push(Database {
            name: "p".into(),
            oid: 7,
            comment,
            limit,
            ..Database::default()
        });
        State { cluster, entries: vec![], database: "shop".into() }
    }

    fn steps(state: &State, unfinished: &UnfinishedRun) -> Vec<String> {
        plan(state, unfinished).sentences()
    }

    #[test]
    fn only_unfinished_databases_are_removed() {
        let making =
            Making { name: "p".into(), comment: names::comment("shop", Kind::RestorePoint, "x") };
        let run = UnfinishedRun { making: Some(making.clone()), ..UnfinishedRun::default() };
        let removed = ["remove p, which was not finished"];
        assert_eq!(steps(&state(Some(&making.comment), -1), &run), removed);
        assert_eq!(steps(&state(None, 0), &run), removed);
        assert!(steps(&state(None, -1), &run).is_empty(), "somebody else's");
        assert!(steps(&state(Some("mine"), 0), &run).is_empty(), "somebody else's");
        let mut whole = state(Some(&making.comment), -1);
        whole.entries.push(Entry {
            id: "x".into(),
            name: "p".into(),
            oid: 7,
            database: "shop".into(),
            ..Entry::default()
        });
        assert!(steps(&whole, &run).is_empty(), "it was finished");
    }

    #[test]
    fn a_killed_swap_is_recorded_or_reverted() {
        let mark = names::comment("shop", Kind::RestorePoint, "x");
        let mut state = state(Some(&mark), -1);
        let live = state.live().unwrap().oid;
        let entry = Entry { database: "shop".into(), ..Entry::default() };
        let goal = Goal {
            what: String::new(),
            key: None,
            incoming: Entry { id: "x".into(), name: "p".into(), oid: 7, ..entry.clone() },
            outgoing: Entry { kind: Kind::Parked, name: "f".into(), oid: live, ..entry },
        };
        let run = UnfinishedRun { goal: Some(goal.clone()), ..UnfinishedRun::default() };
        assert!(steps(&state, &run).is_empty());
        state.cluster.databases.last_mut().unwrap().allow = true;
        let shop = state.cluster.databases.iter_mut().find(|one| one.name == "shop").unwrap();
        shop.allow = false;
        assert_eq!(
            steps(&state, &run),
            ["let shop accept connections again", "close p to connections"]
        );
        state.cluster.system_identifier = Some("2".into());
        let mut elsewhere = goal.clone();
        elsewhere.outgoing.cluster = Some("1".into());
        let elsewhere = UnfinishedRun { goal: Some(elsewhere), ..UnfinishedRun::default() };
        assert!(steps(&state, &elsewhere).is_empty(), "another cluster's");
        let shop = state.cluster.databases.iter_mut().find(|one| one.name == "shop").unwrap();
        (shop.oid, shop.allow) = (7, true);
        assert_eq!(steps(&state, &run)[0], "record that shop is parked as f");
        state.entries.push(goal.outgoing.clone());
        assert!(reached(&state, &run.goal).is_some());
        assert!(!steps(&state, &run).iter().any(|step| step.starts_with("record")));
    }
}
