//! `compose_backup_info`: the backups, what is parked, the unfinished run, and the progress of a running task.

use crate::backup_dir::{BackupDir, StoredBackup};
use crate::mounts::mounted_at;
use crate::options::Subject;
use crate::progress::{self, Progress};
use crate::unfinished::UnfinishedRun;
use crate::{parked, state, sums};
use ansible_module::{Invocation, Outcome};
use anyhow::Result;
use host::mounts::Mounts;
use serde_json::{Value, json};

pub fn info(invocation: &Invocation) -> Result<Outcome> {
    let subject = Subject::parse(&invocation.options)?;
    let check: bool = invocation.options.get("check")?;
    let stored = BackupDir::read(&subject.backup_dir)?;
    let project = state::name_of(None, &subject, &stored)?;
    let state_dir = subject.state_dir(&project);
    let unfinished = UnfinishedRun::read(&state_dir)?;
    let frozen = unfinished
        .as_ref()
        .and_then(|unfinished| unfinished.frozen.as_ref())
        .map(|one| one.names());
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
    // This module must not write to the folder.
    let mut silent = Progress::silent();
    let mounts = Mounts::read()?;
    let backups = stored.backups.iter().map(|backup| describe(backup, check, &mounts, &mut silent));
    let backups = backups.collect::<Result<Vec<Value>>>()?;
    let latest = stored.newest().map(|(backup, _)| backup.name.clone());
    Ok(Outcome { warnings: stored.warnings.clone(), ..Outcome::default() }
        .fact("backups", backups)
        .fact("latest", json!(latest))
        .fact("unfinished_backups", stored.partial.clone())
        .fact("parked", parked)
        .fact("unfinished", json!(unfinished.as_ref().map(|unfinished| &unfinished.since)))
        .fact("frozen", frozen.unwrap_or_default())
        .fact("progress", json!(progress::read(&stored.dir))))
}

fn describe(
    backup: &StoredBackup,
    check: bool,
    mounts: &Mounts,
    progress: &mut Progress,
) -> Result<Value> {
    let manifest = backup.manifest.as_ref().ok();
    let mut why: Vec<String> =
        backup.manifest.as_ref().err().map(|error| format!("{error:#}")).into_iter().collect();
    if let Some(manifest) = manifest {
        why.extend(sums::check_sizes(&backup.path, manifest));
        if check && why.is_empty() {
            match sums::check(&backup.path, manifest, progress) {
                Err(error) if host::reason(&error) == Some("interrupted") => return Err(error),
                Err(error) => why.push(format!("{error:#}")),
                Ok(()) => {}
            }
        }
        if !manifest.is_good() {
            why.push(
                "it could not be started when it was verified; give its name to restore it nevertheless"
                    .into(),
            );
        }
        why.extend((manifest.mounts.iter().filter(|mount| !mount.restorable)).map(|mount| {
            format!("{}: {}", mount.title(), mount.why.as_deref().unwrap_or_default())
        }));
        why.extend(manifest.mounts.iter().filter_map(|mount| mounted_at(mounts, &mount.source)));
    }
    Ok(json!({
        "name": backup.name,
        "path": backup.path,
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
