//! `pct_snapshot_info`: the containers of this node, or one of them with its snapshots and whether
//! one can go back to each.

use crate::cluster::{Cluster, Reach};
use crate::container::{Config, Snapshot};
use crate::marker::Marker;
use crate::read::Reader;
use crate::refuse::{to_rollback, uncovered};
use crate::rollback::{NEWER, UNCOVERED};
use crate::state::{self, State, Survey};
use crate::task::Place;
use crate::{tables, zfs};
use ansible_module::Outcome;
use anyhow::Result;
use serde_json::{Value, json};

pub fn of_all(reader: &Reader, cluster: &Cluster) -> Result<Outcome> {
    let all = reader.list()?;
    let rows: Vec<Value> = (all.iter())
        .map(|one| {
            json!({ "vmid": one.vmid, "name": one.name, "running": one.running, "lock": one.lock })
        })
        .collect();
    Ok(Outcome { warnings: reader.warnings.take(), ..Outcome::default() }
        .fact("node", cluster.node.as_str())
        .fact("containers", rows))
}

pub fn of_one(reader: &Reader, cluster: &Cluster, place: &Place) -> Result<Outcome> {
    let mut state = state::observe(reader, cluster, place)?;
    let pvesh = reader.pvesh.as_ref();
    state.has_quorum = cluster.has_quorum(pvesh)?;
    if state.storages.is_empty() {
        state.storages = cluster.storages(pvesh)?;
    }
    let ha = cluster.ha(place.vmid, pvesh)?;
    let mut warnings = Vec::new();
    let rows = state.zfs_rows(&state.config.mounts).unwrap_or_else(|why| {
        warnings.push(format!("what ZFS knows of the snapshots is missing: {why:#}"));
        Vec::new()
    });
    let mut snapshots = Vec::new();
    for snapshot in &state.snapshots.all {
        let mut survey = Survey {
            ha: ha.clone(),
            target: Some(kept_config(reader, cluster, place, &state, snapshot)?),
            ..Survey::default()
        };
        state.add_zfs(&mut survey, &rows, &snapshot.name);
        snapshots.push(described(&state, &survey, snapshot, &rows));
    }
    warnings.extend(reader.warnings.take());
    let container = json!({
        "vmid": place.vmid.number(),
        "name": state.config.hostname.clone().unwrap_or_default(),
        "running": state.snapshots.running,
        "lock": state.config.lock,
    });
    Ok(Outcome { warnings, ..Outcome::default() }
        .fact("node", cluster.node.as_str())
        .fact("containers", vec![container])
        .fact("snapshots", snapshots)
        .fact("parent", json!(state.snapshots.parent))
        .fact("unfinished", json!(state.left.as_ref().map(|left| &left.since))))
}

/// A call for each snapshot is what one must not do to a node: only where mount points could differ.
fn kept_config(
    reader: &Reader,
    cluster: &Cluster,
    place: &Place,
    state: &State,
    snapshot: &Snapshot,
) -> Result<Config> {
    match cluster.snapshot_section(place.vmid, &snapshot.name) {
        Some(section) => Ok(tables::config(&section)),
        None if state.config.mounts.len() <= 1 => Ok(state.config.clone()),
        None => reader.config_of(&snapshot.name),
    }
}

fn described(state: &State, survey: &Survey, snapshot: &Snapshot, rows: &[zfs::Row]) -> Value {
    let mut why: Vec<String> =
        to_rollback(state, survey, snapshot).into_iter().map(|one| one.text).collect();
    if let Some(lock) = state.foreign_lock() {
        why.push(state.locked(lock, None));
    }
    let mounts = survey.target.as_ref().map_or(&[][..], |config| &config.mounts);
    let newest_only = state.reach(mounts.iter()) == Reach::Newest;
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
        "bytes": zfs::held_by(rows, &snapshot.name),
        "ready_to_roll_back": why.is_empty(),
        "why": why,
        "accept": accept,
    })
}
