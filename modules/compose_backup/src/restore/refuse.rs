//! Refuses a restore that would fail half way, or affect other projects. Reads only.

use crate::docker::inspect::Container;
use crate::mounts::{mounted_at, real, uses};
use crate::options::Task;
use crate::resolved::{self, External};
use crate::restore::goal::{Content, Goal};
use crate::restore::swap::is_exchanged;
use crate::state::Tools;
use ansible_module::Failure;
use anyhow::Result;
use host::mounts::Mounts;
use host::space::{Space, human};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Runs all checks; returns warnings if none refuses.
pub fn check(task: &Task, tools: &Tools, goal: &Goal) -> Result<Vec<String>> {
    not_restorable(goal)?;
    volumes(tools, goal)?;
    external_objects(tools, goal)?;
    mount_points(goal)?;
    own_folders(task, goal)?;
    space(goal)?;
    others(tools, goal)
}

fn refusal(reason: &'static str, msg: String) -> anyhow::Error {
    Failure::new(reason, format!("{msg}; nothing was changed")).into()
}

fn not_restorable(goal: &Goal) -> Result<()> {
    match goal.mounts().find(|(mount, _)| !mount.restorable) {
        Some((mount, _)) => Err(refusal(
            "unsupported_volume",
            format!(
                "{} cannot be restored: {}; restore the services that do not use it with services, and its \
                 data by hand from the backup (manifest.txt says how)",
                mount.title(),
                mount.why.as_deref().unwrap_or_default()
            ),
        )),
        None => Ok(()),
    }
}

/// Refuses a volume that was recreated with another driver or options.
fn volumes(tools: &Tools, goal: &Goal) -> Result<()> {
    for (mount, _) in goal.mounts() {
        let Some(volume) = &mount.volume else { continue };
        if tools.docker.volume(&volume.name)?.is_some_and(|now| !now.is_plain()) {
            let msg = format!(
                "volume {} has another driver or options now, and was a plain one: remove it, or restore it by \
                 hand",
                volume.name
            );
            return Err(refusal("unsupported_volume", msg));
        }
    }
    Ok(())
}

/// Refuses missing external networks and volumes, which Compose does not make and would only notice after
/// the services were stopped. A volume that is in the backup is made by this module.
fn external_objects(tools: &Tools, goal: &Goal) -> Result<()> {
    let in_backup = |name: &str| {
        let mut volumes = goal.mounts().filter_map(|(mount, _)| mount.volume.as_ref());
        volumes.any(|volume| volume.name == name)
    };
    for one in resolved::external(&goal.config) {
        let (reason, kind, name, exists) = match one {
            External::Network(name) => {
                let exists = tools.docker.has_network(&name)?;
                ("network_missing", "network", name, exists)
            }
            External::Volume(name) => {
                let exists = in_backup(&name) || tools.docker.volume(&name)?.is_some();
                ("volume_missing", "volume", name, exists)
            }
        };
        if !exists {
            let msg = format!(
                "{kind} {name} is external to project {}, and does not exist: start what makes it, or make it with \
                 `docker {kind} create {name}`, then run the task again",
                goal.project
            );
            return Err(refusal(reason, msg));
        }
    }
    Ok(())
}

/// Refuses mount points, which cannot be renamed, and mounts below, which would be moved with the parked
/// data.
fn mount_points(goal: &Goal) -> Result<()> {
    let mounts = Mounts::read()?;
    match goal.work.parts.iter().find_map(|part| mounted_at(&mounts, &part.source)) {
        Some(msg) => Err(refusal("mount_point", msg)),
        None => Ok(()),
    }
}

fn own_folders(task: &Task, goal: &Goal) -> Result<()> {
    let state = task.subject.state_dir(&goal.project);
    for own in [&task.subject.backup_dir, &state] {
        let real = real(own);
        if let Some(part) = goal.work.parts.iter().find(|part| real.starts_with(&part.source)) {
            let msg = format!(
                "{} is inside of {}, which will be exchanged",
                own.display(),
                part.source.display()
            );
            return Err(refusal("backup_inside_mount", msg));
        }
    }
    Ok(())
}

/// Requires space for the current and the restored data at the same time.
fn space(goal: &Goal) -> Result<()> {
    let mut needed: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    for (content, part) in goal.contents.iter().zip(&goal.work.parts) {
        let bytes = match content {
            Content::Mount(mount) if !is_exchanged(part)? => {
                mount.segments.iter().map(|one| one.used).sum()
            }
            _ => 0,
        };
        let existing =
            part.source.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
        let dev = std::os::unix::fs::MetadataExt::dev(&existing.metadata()?);
        needed.entry(dev).or_insert((existing.to_owned(), 0)).1 += bytes;
    }
    for (path, bytes) in needed.into_values().filter(|(_, bytes)| *bytes > 0) {
        let what = format!("the restored data ({}) in addition to the current data", human(bytes));
        Space::require(&what, &path, Space { bytes, inodes: None })?;
    }
    Ok(())
}

/// Refuses data that running containers of other projects use; warns about stopped ones.
fn others(tools: &Tools, goal: &Goal) -> Result<Vec<String>> {
    let all = tools.docker.all_containers()?;
    let foreign = |one: &&Container| one.project() != Some(&goal.project) || one.is_one_off();
    let mut warnings = Vec::new();
    for (mount, _) in goal.mounts() {
        let using: Vec<&Container> =
            all.iter().filter(foreign).filter(|one| uses(one, mount)).collect();
        let running: Vec<&str> =
            using.iter().filter(|one| one.state.running).map(|one| one.name()).collect();
        if !running.is_empty() {
            let msg = format!(
                "{} is also used by {}, which is not a service of project {}: stop it first, or restore only \
                 services that do not use that data, with services",
                mount.title(),
                running.join(", "),
                goal.project
            );
            return Err(refusal("shared_mount", msg));
        }
        let names = host::joined(using.iter().map(|one| one.name()));
        if !names.is_empty() {
            warnings.push(format!(
                "{names} of another project is stopped, and will see the restored data of {}",
                mount.title()
            ));
        }
    }
    Ok(warnings)
}
