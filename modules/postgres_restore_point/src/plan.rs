//! The actions and common requirements of all plans. `present.rs`, `back.rs` and `prune.rs` make the plans. Pure.
//!
//! Invariant: what would fail later is refused before the first change.

use crate::record::Entry;
use crate::state::{Database, Session, State};
use ansible_module::Failure;
use anyhow::Result;
use change::Plan;
use std::collections::BTreeMap;

/// The word of consent for logical slots that stay with the parked database.
pub const SLOTS: &str = "logical_slots";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Dump,
    Restore,
    Check,
    Keep,
    CheckIncoming,
    Swap,
    Remove(Box<Removal>),
    Clone,
    GiveClone,
    KeepClone,
}

/// A database of ours that is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub entry: Entry,
}

pub fn nothing(state: &State) -> Plan<Action> {
    Plan::nothing(&state.database, state.view())
}

pub fn refused(reason: &'static str, why: String) -> anyhow::Error {
    Failure::new(reason, format!("{why}; nothing was changed")).into()
}

/// Refuses servers on which neither a capture nor a rollback is possible.
pub fn refuse_server(state: &State) -> Result<()> {
    let cluster = &state.cluster;
    if cluster.in_recovery {
        return Err(refused(
            "in_recovery",
            "the server is in recovery (a replica): run the task on its primary".into(),
        ));
    }
    if !cluster.superuser {
        return Err(refused(
            "not_superuser",
            format!("{} is not a superuser: give one in `user`", cluster.user),
        ));
    }
    Ok(())
}

pub fn refuse_unusable(live: &Database) -> Result<()> {
    if live.limit == -2 {
        return Err(refused(
            "invalid_database",
            format!("a DROP DATABASE of {} was interrupted", live.name),
        ));
    }
    if !live.allow {
        let msg = format!("someone has set ALLOW_CONNECTIONS of {} to false", live.name);
        return Err(refused("not_accepting", msg));
    }
    Ok(())
}

pub fn warnings(state: &State, live: &Database) -> Vec<String> {
    let mut sentences = Vec::new();
    if !live.prepared.is_empty() {
        sentences.push(format!(
            "prepared transactions of {} ({}) are not in a copy, and must have ended before a rollback",
            live.name,
            live.prepared.join(", ")
        ));
    }
    let (was, is) = (&live.collation_version, &live.actual_collation_version);
    if was.is_some() && is.is_some() && was != is {
        sentences.push(format!(
            "the collation of {} has changed under it (it was made with {}, the system has {}): its indexes may be wrong",
            state.database,
            was.as_deref().unwrap_or_default(),
            is.as_deref().unwrap_or_default()
        ));
    }
    sentences
}

/// Describes the sessions, counted by user and application.
pub fn sessions(all: &[Session]) -> Vec<String> {
    let mut by: BTreeMap<String, usize> = BTreeMap::new();
    for one in all {
        let user = one.user.as_deref().unwrap_or("the server itself");
        let application =
            if one.application.is_empty() { "unnamed" } else { one.application.as_str() };
        *by.entry(format!("{user}: {application}")).or_default() += 1;
    }
    by.into_iter().map(|(who, count)| format!("{who} ({count})")).collect()
}

/// Makes the error for a restore point that was made live.
pub fn used(entry: &Entry) -> anyhow::Error {
    let msg = format!(
        "the restore point {} was made live, and is none any more: what was written since cannot be taken back by it",
        entry.id
    );
    refused("restore_point_used", msg)
}
