//! `compose_backup_info`: the backups, what is parked, what was left, and how far a task is.

use crate::left::Left;
use crate::progress::{self, Progress};
use crate::restore::refuse::mounted_at;
use crate::shelf::{Kept, Shelf};
use crate::task::Place;
use crate::{parked, state, sums};
use ansible_module::{Invocation, Outcome};
use anyhow::Result;
use host::mounts::Mounts;
use serde_json::{Value, json};

pub fn info(invocation: &Invocation) -> Result<Outcome> {
    let place = Place::parse(&invocation.options)?;
    let check: bool = invocation.options.get("check")?;
    let shelf = Shelf::read(&place.backup_dir)?;
    let project = state::name_of(None, &place, &shelf)?;
    let state_dir = place.state_dir(&project);
    let left = Left::read(&state_dir)?;
    let frozen = left.as_ref().and_then(|left| left.frozen.as_ref()).map(|one| one.names());
    let parked: Vec<Value> = (parked::read(&state_dir)?.iter())
        .map(|one| {
            json!({
                "rollback_id": one.id,
                "backup": one.work.title(),
                "at": one.work.at,
                "paths": one.work.parked_paths(),
            })
        })
        .collect();
    // What is shown must not touch the folder.
    let mut silent = Progress::silent();
    let mounts = Mounts::read()?;
    let backups = shelf.backups.iter().map(|kept| described(kept, check, &mounts, &mut silent));
    let backups = backups.collect::<Result<Vec<Value>>>()?;
    let latest = shelf.newest().map(|(kept, _)| kept.name.clone());
    Ok(Outcome { warnings: shelf.warnings.clone(), ..Outcome::default() }
        .fact("backups", backups)
        .fact("latest", json!(latest))
        .fact("unfinished_backups", shelf.partial.clone())
        .fact("parked", parked)
        .fact("unfinished", json!(left.as_ref().map(|left| &left.since)))
        .fact("frozen", frozen.unwrap_or_default())
        .fact("progress", json!(progress::read(&shelf.dir))))
}

fn described(kept: &Kept, check: bool, mounts: &Mounts, progress: &mut Progress) -> Result<Value> {
    let manifest = kept.manifest.as_ref().ok();
    let mut why: Vec<String> =
        kept.manifest.as_ref().err().map(|error| format!("{error:#}")).into_iter().collect();
    if let Some(manifest) = manifest {
        why.extend(sums::glance(&kept.path, manifest));
        if check && why.is_empty() {
            match sums::check(&kept.path, manifest, progress) {
                Err(error) if host::reason(&error) == Some("interrupted") => return Err(error),
                Err(error) => why.push(format!("{error:#}")),
                Ok(()) => {}
            }
        }
        if !manifest.is_good() {
            why.push(
                "it did not come up when it was proven; give its name to restore it all the same"
                    .into(),
            );
        }
        why.extend((manifest.mounts.iter().filter(|mount| !mount.restorable)).map(|mount| {
            format!("{}: {}", mount.title(), mount.why.as_deref().unwrap_or_default())
        }));
        why.extend(manifest.mounts.iter().filter_map(|mount| mounted_at(mounts, &mount.source)));
    }
    Ok(json!({
        "name": kept.name,
        "path": kept.path,
        "project": manifest.map(|one| &one.project),
        "at": manifest.map(|one| one.at),
        "deploy_id": manifest.map(|one| &one.deploy_id),
        "release": manifest.and_then(|one| one.release.as_ref()),
        "services": manifest.map(|one| one.services.keys().collect::<Vec<_>>()).unwrap_or_default(),
        "bytes": manifest.map_or(0, |one| one.sizes.bytes),
        "bytes_new": manifest.map_or(0, |one| one.sizes.bytes_new),
        "consistency": manifest.map(|one| &one.consistency),
        "freeze_ms": manifest.map(|one| one.consistency.freeze_ms),
        "verify": manifest.map(|one| &one.verify),
        "ready_to_restore": why.is_empty(),
        "why": why,
    }))
}
