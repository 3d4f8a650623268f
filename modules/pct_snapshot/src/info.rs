//! `pct_snapshot_info`: the containers of this node, or one of them with its snapshots and whether a rollback to
//! each is possible.

use crate::cluster::{Reach, Storage};
use crate::container::{Config, Snapshot};
use crate::freezer;
use crate::marker::Marker;
use crate::options::Subject;
use crate::read::Reader;
use crate::refuse::{thaw_commands, to_rollback, uncovered};
use crate::rollback::{NEWER, UNCOVERED};
use crate::state::{self, State, Survey};
use ansible_module::Outcome;
use anyhow::Result;
use serde_json::{Value, json};

pub fn of_all(reader: &Reader) -> Result<Outcome> {
    let all = reader.list()?;
    let mut rows = Vec::new();
    for one in &all {
        let frozen = one.running && freezer::is_frozen(one.vmid)?;
        rows.push(row(one.vmid, &one.name, one.running, frozen, one.lock.as_deref()));
    }
    Ok(Outcome::default().fact("node", reader.cluster.node.as_str()).fact("containers", rows))
}

pub fn of_one(reader: &Reader, subject: &Subject) -> Result<Outcome> {
    let mut state = state::observe(reader, subject)?;
    let all = state.survey_of_all(reader, subject)?;
    let mut warnings = Vec::new();
    let rows = state.zfs_rows(&state.config.mounts).unwrap_or_else(|why| {
        warnings.push(format!("what ZFS knows of the snapshots is missing: {why:#}"));
        Vec::new()
    });
    state.note_zfs(&rows);
    let mut snapshots = Vec::new();
    for snapshot in &state.snapshots.all {
        let mut survey = Survey { target: kept_config(reader, &state, snapshot)?, ..all.clone() };
        state.add_zfs(&mut survey, &rows, &snapshot.name);
        snapshots.push(described(&state, &survey, snapshot));
    }
    let name = state.config.hostname.as_deref().unwrap_or_default();
    let lock = state.config.lock.as_deref();
    let (running, frozen) = (state.snapshots.running, state.is_frozen_now());
    let mut container = row(subject.vmid.number(), name, running, frozen, lock);
    let mounts = state.frozen_mounts.iter().map(|one| one.path.to_string_lossy());
    container["frozen_mounts"] = mounts.collect();
    container["thaw"] = json!(thaw_commands(subject.vmid, state.frozen, &state.frozen_mounts));
    Ok(Outcome { warnings, ..Outcome::default() }
        .fact("node", reader.cluster.node.as_str())
        .fact("containers", vec![container])
        .fact("storages", storages(&state))
        .fact("snapshots", snapshots)
        .fact("parent", json!(state.snapshots.parent))
        .fact("unfinished", json!(state.unfinished.since)))
}

fn row(vmid: u32, name: &str, running: bool, frozen: bool, lock: Option<&str>) -> Value {
    json!({
        "vmid": vmid, "name": name, "running": running && !frozen, "frozen": frozen,
        "lock": lock,
    })
}

/// Describes the storages of the volumes, so that their free space can be checked.
fn storages(state: &State) -> Vec<Value> {
    let mounts = &state.config.mounts;
    let mut names: Vec<&str> = mounts.iter().filter_map(|mount| mount.storage()).collect();
    names.sort_unstable();
    names.dedup();
    let described = |name: &str| {
        let known = state.storages.get(name);
        let on = mounts.iter().filter(|mount| mount.storage() == Some(name));
        json!({
            "name": name,
            "type": known.map(|storage| &storage.kind),
            "thin_pool": known.and_then(Storage::thin_pool),
            "mounts": on.map(|mount| mount.key.as_str()).collect::<Vec<_>>(),
        })
    };
    names.into_iter().map(described).collect()
}

/// Returns the configuration of a snapshot. Without the container's file, each needs a slow call, which is made
/// only if mount points could differ.
fn kept_config(reader: &Reader, state: &State, snapshot: &Snapshot) -> Result<Config> {
    match reader.cluster.has_files() || state.config.mounts.len() > 1 {
        true => reader.config_of(&snapshot.name),
        false => Ok(state.config.clone()),
    }
}

fn described(state: &State, survey: &Survey, snapshot: &Snapshot) -> Value {
    let mut why: Vec<String> =
        to_rollback(state, survey, snapshot).into_iter().map(|one| one.text).collect();
    if let Some(lock) = state.foreign_lock() {
        why.push(state.locked(lock, None));
    }
    let newest_only = state.reach(&survey.target.mounts) == Reach::Newest;
    let mut accept = Vec::new();
    if newest_only && !state.snapshots.newer_than(snapshot).is_empty() {
        accept.push(NEWER);
    }
    if !uncovered(state, survey).is_empty() {
        accept.push(UNCOVERED);
    }
    let marker = snapshot.marker.as_ref();
    json!({
        "name": snapshot.name,
        "time": snapshot.when(),
        "description": Marker::text_of(&snapshot.description),
        "parent": snapshot.parent,
        "ours": marker.is_some(),
        "kind": marker.map(|marker| marker.kind),
        "app": marker.and_then(|marker| marker.app.as_ref()),
        "deploy_id": snapshot.deploy(),
        "release": marker.and_then(|marker| marker.release.as_ref()),
        "complete": snapshot.is_complete(),
        "bytes": snapshot.bytes,
        "ready_to_roll_back": why.is_empty(),
        "why": why,
        "accept": accept,
    })
}
