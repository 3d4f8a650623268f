//! `zfs_pre_deploy_info`: lists the restore points and parked states, and whether a rollback to each is
//! possible, from ZFS's properties. Only reads.

use crate::busy::{self, Purpose};
use crate::inplace::OWN_HOLDS;
use crate::listing::{Data, Mark, Snap};
use crate::options::Subject;
use crate::prune::{NEWER, refuse_needed};
use crate::state::{self, Consistency, State};
use crate::unfinished::UnfinishedRun;
use crate::zfs::Zfs;
use ansible_module::Outcome;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub fn of(zfs: &Zfs, subject: &Subject) -> Result<Outcome> {
    let unfinished = match &subject.state_dir {
        Some(folder) => UnfinishedRun::read(folder)?,
        None => UnfinishedRun::default(),
    };
    let subject = &Subject { skip_missing: true, ..copied(subject) };
    let mut state = state::observe(zfs, subject, &unfinished, Consistency::Lenient)?;
    state.ask_holds(zfs, &|_, _| true)?;
    let pools: Vec<Value> = (state.pools.iter())
        .map(|pool| {
            json!({ "name": pool.name, "guid": pool.guid, "health": pool.health, "readonly": pool.readonly })
        })
        .collect();
    let parked: Vec<Value> = (state.parked().into_iter())
        .map(|tree| {
            json!({
                "id": tree.id, "dataset": tree.root, "live": tree.live, "at": tree.at,
                "bytes": tree.used, "datasets": tree.members,
            })
        })
        .collect();
    let mut warnings = state.warnings.clone();
    if !state.missing.is_empty() {
        warnings.push(format!("these datasets do not exist: {}", state.missing.join(", ")));
    }
    Ok(Outcome { warnings, ..Outcome::default() }
        .fact("pools", pools)
        .fact("restore_points", points(&state, subject)?)
        .fact("parked", parked)
        .fact("unfinished", json!(unfinished.is_waiting().then_some(&unfinished.since))))
}

fn copied(subject: &Subject) -> Subject {
    Subject {
        datasets: subject.datasets.clone(),
        recursive: subject.recursive,
        exclude: subject.exclude.clone(),
        skip_missing: subject.skip_missing,
        app: subject.app.clone(),
        state_dir: subject.state_dir.clone(),
    }
}

/// A snapshot of ours, and its mark.
type Ours<'a> = (&'a Snap, &'a Mark);

fn points(state: &State, subject: &Subject) -> Result<Vec<Value>> {
    let mut found: BTreeMap<(&str, Option<&str>), Vec<Ours<'_>>> = BTreeMap::new();
    for snap in state.covered.iter().flat_map(|dataset| state.of(dataset)) {
        let Some(mark) = state.ours(snap) else { continue };
        if subject.app.is_some() && mark.app != subject.app {
            continue;
        }
        let app = mark.app.as_deref();
        found.entry((&mark.deploy, app)).or_default().push((snap, mark));
    }
    let all: Vec<&Data> =
        state.covered.iter().filter_map(|name| state.datasets.get(name)).collect();
    let busy = busy::find(&all, Purpose::Unmount)?;
    let mut found: Vec<Vec<Ours<'_>>> = found.into_values().collect();
    found.sort_by_key(|snaps| (taken(snaps), snaps[0].1.deploy.clone()));
    Ok(found.iter().map(|snaps| described(state, snaps, &busy.who)).collect())
}

/// Returns the earliest time, since the pools' snapshots are taken one after the other.
fn taken(snaps: &[Ours<'_>]) -> Option<String> {
    snaps.iter().filter_map(|(_, mark)| mark.time.clone()).min()
}

fn described(state: &State, snaps: &[Ours<'_>], busy: &[String]) -> Value {
    let mark = snaps[0].1;
    let mut why = Vec::new();
    let mut accept = Vec::new();
    for (snap, _) in snaps {
        let Some(data) = state.datasets.get(&snap.dataset) else { continue };
        let newer = state.newer_than(snap);
        if !newer.is_empty() {
            accept.push(NEWER);
        }
        if newer.iter().any(|snap| state.own_hold(snap)) {
            accept.push(OWN_HOLDS);
        }
        if data.key_missing {
            why.push(format!("the key of {} is not loaded", data.name));
        }
        if state.pool(&data.name).is_some_and(|pool| pool.readonly) {
            why.push(format!("the pool of {} was imported read-only", data.name));
        }
        let begin = format!("{} ", data.name);
        why.extend(busy.iter().filter(|text| text.starts_with(&begin)).cloned());
    }
    why.sort();
    why.dedup();
    accept.sort_unstable();
    accept.dedup();
    let in_place: Vec<String> = (snaps.iter())
        .flat_map(|(snap, _)| state.newer_than(snap))
        .filter_map(|newer| refuse_needed(state, newer).err())
        .map(|failure| failure.msg.replace("; nothing was changed", ""))
        .collect();
    json!({
        "deploy_id": mark.deploy,
        "snapshot": snaps[0].0.short,
        "app": mark.app,
        "release": mark.release,
        "time": taken(snaps),
        "datasets": snaps.iter().map(|(snap, _)| row(state, snap)).collect::<Vec<_>>(),
        "ready_to_roll_back": why.is_empty(),
        "why": why,
        "accept": accept,
        "not_in_place": in_place,
    })
}

fn row(state: &State, snap: &Snap) -> Value {
    let newer: Vec<String> = state.newer_than(snap).iter().map(|snap| snap.name()).collect();
    json!({
        "dataset": snap.dataset,
        "guid": snap.guid.to_string(),
        "held": snap.userrefs > 0,
        "written": state.written_since(snap),
        "newer_snapshots": newer,
        "clones": snap.clones,
    })
}
