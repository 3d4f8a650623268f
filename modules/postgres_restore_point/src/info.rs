//! `postgres_restore_point_info`: what there is to go back to, and what that would cost. Reads only.

use crate::back::in_the_way;
use crate::names::Kind;
use crate::options::Subject;
use crate::plan::refuse_server;
use crate::psql::Psql;
use crate::record::Entry;
use crate::state::{self, State};
use crate::storage;
use crate::survey::{self, COUNTERS, Counters};
use crate::unfinished::UnfinishedRun;
use ansible_module::Outcome;
use anyhow::Result;
use serde_json::{Value, json};

pub fn of(psql: &Psql, subject: &Subject) -> Result<Outcome> {
    let unfinished = UnfinishedRun::read(&subject.state_dir)?;
    let state = state::observe(psql, subject)?;
    let now = counters(psql, &state);
    let points: Vec<Value> = (state.ours(Kind::RestorePoint).iter())
        .map(|(entry, found)| {
            let mut why: Vec<String> = in_the_way(&state, entry).into_iter().map(|(_, why)| why).collect();
            why.extend(refuse_server(&state).err().map(|error| error.to_string().replace("; nothing was changed", "")));
            json!({
                "deploy_id": entry.id, "database": found.name, "oid": found.oid, "time": entry.at, "release": entry.release,
                "bytes": found.bytes, "seconds": entry.milliseconds.map(|took| took as f64 / 1000.0), "ready_to_roll_back": why.is_empty(), "why": why,
                "written": written(&state, entry, now.as_ref()),
            })
        })
        .collect();
    let parked: Vec<Value> = (state.ours(Kind::Parked).iter())
        .map(|(entry, found)| {
            json!({ "id": entry.id, "database": found.name, "oid": found.oid, "time": entry.at, "bytes": found.bytes })
        })
        .collect();
    let live = state.cluster.find(&subject.database);
    let live = live.map(
        |live| json!({ "oid": live.oid, "bytes": live.bytes, "sessions": live.sessions.len() }),
    );
    Ok(Outcome::default()
        .fact("restore_points", points)
        .fact("parked", parked)
        .fact("live", json!(live))
        .fact("server_version", state.cluster.version)
        .fact("storage", json!(storage::find(&state.cluster)))
        .fact("unfinished", json!(unfinished.is_waiting().then_some(&unfinished.since))))
}

/// The counters of the live database, where it can be asked.
pub fn counters(psql: &Psql, state: &State) -> Option<Counters> {
    let live = state.cluster.find(&state.database)?;
    if state.cluster.in_recovery || !live.allow {
        return None;
    }
    psql.ask("reading the counters", &live.name, COUNTERS).ok()
}

/// An estimate of what was written since; null when the counters are not those of what was captured.
pub fn written(state: &State, entry: &Entry, now: Option<&Counters>) -> Value {
    let live = state.cluster.find(&state.database);
    let (Some(then), Some(now)) = (&entry.counters, now) else { return Value::Null };
    if live.is_none_or(|live| live.oid != entry.live_oid) {
        return Value::Null;
    }
    let Some(tables) = survey::written(then, now) else { return Value::Null };
    let sum = |which: usize| tables.values().map(|rows| rows[which]).sum::<i64>();
    json!({
        "inserted": sum(0), "updated": sum(1), "deleted": sum(2), "tables": tables,
        "wal_bytes": survey::wal_between(then, now),
    })
}
