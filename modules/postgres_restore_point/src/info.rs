//! `postgres_restore_point_info`: lists restore points and parked states, and what a rollback to each would cost. It changes nothing, and
//! writes only the rows that the task asks for.

use crate::back::obstacles;
use crate::checks::{self, Checked};
use crate::compare::Rows;
use crate::count::{self, Comparison};
use crate::names::Kind;
use crate::options::{Count, Counting, LookingInto, RowsWanted, Subject};
use crate::plan::refuse_server;
use crate::plan::refused;
use crate::psql::Psql;
use crate::record::Entry;
use crate::rows::{self, Written};
use crate::schema::{self, Compared, Schema};
use crate::session::Session;
use crate::state::{self, Database, State};
use crate::storage;
use crate::survey::{self, COUNTERS, Counters};
use crate::unfinished::UnfinishedRun;
use ansible_module::Outcome;
use anyhow::Result;
use host::deadline::Deadline;
use host::lock::Lock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long to wait for another task on the same database before rows are compared.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of reading a schema.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(60);
/// Stands for all tables among those that were not counted.
const EVERY_TABLE: &str = "*";

pub fn of(
    psql: &Psql,
    subject: &Subject,
    counting: &Counting,
    rows: Option<&RowsWanted>,
    into: &LookingInto,
) -> Result<Outcome> {
    // The holder of the lock may be about to swap or remove the copy that would be opened here.
    let needs_lock = counting.count == Count::Exact || rows.is_some() || into.schemas.is_some();
    let held = needs_lock.then(|| crate::lock(subject, None, LOCK_TIMEOUT));
    let held = held.transpose().map_err(|error| format!("{error:#}"));
    let unfinished = UnfinishedRun::read(&subject.state_dir)?;
    let state = state::observe(psql, subject)?;
    let busy = busy(&held, &unfinished);
    let deadline = Deadline::after(counting.timeout);
    let points: Vec<Value> = (state.ours(Kind::RestorePoint).iter())
        .map(|(entry, found)| {
            let mut why: Vec<String> = obstacles(&state, entry).into_iter().map(|(_, why)| why).collect();
            why.extend(refuse_server(&state).err().map(|error| error.to_string().replace("; nothing was changed", "")));
            json!({
                "deploy_id": entry.id, "database": found.name, "oid": found.oid, "time": entry.at, "release": entry.release,
                "bytes": found.bytes, "seconds": entry.milliseconds.map(|took| took as f64 / 1000.0), "ready_to_roll_back": why.is_empty(), "why": why,
                "written": written(psql, &state, entry, counting.count, deadline, busy.as_deref()),
            })
        })
        .collect();
    let parked: Vec<Value> = (state.ours(Kind::Parked).iter())
        .map(|(entry, found)| {
            json!({ "id": entry.id, "database": found.name, "oid": found.oid, "time": entry.at, "bytes": found.bytes })
        })
        .collect();
    let clones: Vec<Value> = (state.ours(Kind::Clone).iter())
        .map(|(entry, found)| {
            json!({
                "deploy_id": entry.id, "database": found.name, "oid": found.oid, "time": entry.at, "bytes": found.bytes, "owner": found.owner,
            })
        })
        .collect();
    let schema = into.schemas.as_ref().map(|both| compare(psql, &state, both, busy.as_deref()));
    let checks = check(psql, &state, into)?;
    let live = state.cluster.find(&subject.database);
    let live = live.map(
        |live| json!({ "oid": live.oid, "bytes": live.bytes, "sessions": live.sessions.len() }),
    );
    let rows = rows.map(|rows| write_rows(psql, &state, rows, deadline, busy.as_deref()));
    Ok(Outcome::default()
        .fact("rows", json!(rows.transpose()?))
        .fact("restore_points", points)
        .fact("parked", parked)
        .fact("clones", clones)
        .fact("schema", json!(schema.transpose()?))
        .fact("checks", json!(checks))
        .fact("live", json!(live))
        .fact("server_version", state.cluster.version)
        .fact("storage", json!(storage::find(&state.cluster)))
        .fact("unfinished", json!(unfinished.is_waiting().then_some(&unfinished.since))))
}

/// Compares the schemas of two databases, each the live one or one of ours.
fn compare(psql: &Psql, state: &State, both: &[String; 2], busy: Option<&str>) -> Result<Compared> {
    refuse_server(state)?;
    let read = |name: &String| -> Result<Schema> {
        if known(state, name)?.allow {
            return Schema::read(psql, name);
        }
        if let Some(why) = busy {
            return Err(refused("lock_held", format!("{name} cannot be opened now: {why}")));
        }
        let mut sessions = count::connect_to_closed(psql, name, SCHEMA_TIMEOUT, 1)?;
        let Some(session) = sessions.first_mut() else { anyhow::bail!("no session of {name}") };
        let schema = Schema::parse(&session.ask(&schema::query(), SCHEMA_TIMEOUT)?)?;
        sessions.into_iter().try_for_each(Session::end)?;
        Ok(schema)
    };
    Ok(schema::compare(both.clone(), [read(&both[0])?, read(&both[1])?]))
}

/// Runs the checks, if there are any.
fn check(psql: &Psql, state: &State, into: &LookingInto) -> Result<Option<Vec<Checked>>> {
    if into.checks.is_empty() {
        return Ok(None);
    }
    refuse_server(state)?;
    let name = into.checked.as_ref().unwrap_or(&state.database);
    let found = known(state, name)?;
    if !found.allow {
        return Err(refused("not_accepting", format!("{name} refuses connections")));
    }
    checks::run(psql, name, &found.owner, &into.checks, into.timeout).map(Some)
}

/// Finds the live database, or one of ours by its name.
fn known<'a>(state: &'a State, name: &str) -> Result<&'a Database> {
    let kinds = [Kind::RestorePoint, Kind::Parked, Kind::Clone];
    let ours = kinds.into_iter().flat_map(|kind| state.ours(kind)).map(|(_, found)| found);
    let all = state.cluster.find(&state.database).into_iter().chain(ours);
    all.into_iter().find(|found| found.name == *name).ok_or_else(|| {
        let msg = format!(
            "{name} is not {}, nor a restore point, a parked state or a clone of it",
            state.database
        );
        refused("no_database", msg)
    })
}

fn write_rows(
    psql: &Psql,
    state: &State,
    wanted: &RowsWanted,
    deadline: Deadline,
    busy: Option<&str>,
) -> Result<Written> {
    refuse_server(state)?;
    let live = state.live()?;
    if let Some(why) = busy {
        return Err(refused("lock_held", format!("rows cannot be compared now: {why}")));
    }
    if live.encoding == "SQL_ASCII" {
        let msg = format!(
            "{} has the encoding SQL_ASCII: the encoding of its text is unknown",
            live.name
        );
        return Err(refused("encoding", msg));
    }
    let all = [state.ours(Kind::RestorePoint), state.ours(Kind::Parked)];
    let found = match &wanted.of {
        Some(id) => all.iter().flatten().find(|(entry, _)| entry.id == *id),
        None => all[0].last(),
    };
    let Some((entry, _)) = found else {
        let named = wanted.of.as_deref().unwrap_or("the newest restore point");
        let msg = format!("{named} is no restore point or parked state of {}", state.database);
        return Err(refused("no_restore_point", msg));
    };
    let comparison = Comparison::open(psql, &state.database, &entry.name, deadline)?;
    rows::write(comparison, &wanted.folder, [&state.database, &entry.name])
}

/// Returns why no copy may be opened now, in words.
fn busy(held: &Result<Option<Vec<Lock>>, String>, unfinished: &UnfinishedRun) -> Option<String> {
    match held {
        Err(why) => Some(why.clone()),
        Ok(_) if unfinished.is_waiting() => {
            Some(format!("the run of {} is unfinished", unfinished.since))
        }
        Ok(_) => None,
    }
}

/// Describes what was written since; null if that is unknown. `busy` is the reason if nothing can be compared.
pub fn written(
    psql: &Psql,
    state: &State,
    entry: &Entry,
    count: Count,
    deadline: Deadline,
    busy: Option<&str>,
) -> Value {
    if count == Count::None {
        return Value::Null;
    }
    let estimate = estimate(state, entry, counters(psql, state).as_ref());
    if count == Count::Estimate {
        return estimate.map_or(Value::Null, |(tables, wal)| described(&tables, wal, None));
    }
    let counted = match (busy, state.cluster.in_recovery || !state.cluster.superuser) {
        (Some(why), _) => Err(why.to_owned()),
        (None, true) => Err("only a superuser of a primary can compare them".to_owned()),
        (None, false) => count::of(psql, &state.database, &entry.name, deadline),
    };
    let (mut tables, uncounted) = match counted {
        Ok(counted) => (counted.tables, counted.uncounted),
        Err(why) => (BTreeMap::new(), BTreeMap::from([(EVERY_TABLE.to_owned(), why)])),
    };
    let (estimates, wal) = match estimate {
        Some((tables, wal)) => (tables, wal),
        None => (BTreeMap::new(), None),
    };
    let is_uncounted =
        |name: &String| uncounted.contains_key(name) || uncounted.contains_key(EVERY_TABLE);
    tables.extend(estimates.into_iter().filter(|(name, _)| is_uncounted(name)));
    described(&tables, wal, Some(&uncounted))
}

fn described(
    tables: &BTreeMap<String, Rows>,
    wal: Option<u64>,
    uncounted: Option<&BTreeMap<String, String>>,
) -> Value {
    let sum = |which: usize| tables.values().map(|rows| rows[which]).sum::<i64>();
    json!({
        "inserted": sum(0), "updated": sum(1), "deleted": sum(2), "tables": tables, "wal_bytes": wal,
        "exact": uncounted.is_some_and(BTreeMap::is_empty), "estimates": uncounted.cloned().unwrap_or_default(),
    })
}

/// Reads the counters of the live database, if it accepts connections.
fn counters(psql: &Psql, state: &State) -> Option<Counters> {
    let live = state.cluster.find(&state.database)?;
    if state.cluster.in_recovery || !live.allow {
        return None;
    }
    psql.ask("reading the counters", &live.name, COUNTERS).ok()
}

/// Estimates the rows and the bytes of WAL written since, by the counters; `None` if they do not continue those of the
/// capture.
fn estimate(
    state: &State,
    entry: &Entry,
    now: Option<&Counters>,
) -> Option<(BTreeMap<String, Rows>, Option<u64>)> {
    let live = state.cluster.find(&state.database)?;
    let (then, now) = (entry.counters.as_ref()?, now?);
    if live.oid != entry.live_oid {
        return None;
    }
    Some((survey::written(then, now)?, survey::wal_between(then, now)))
}
