//! Surveys a backup before anything is changed: what it will contain, and what prevents it.

use crate::backup_dir::BackupDir;
use crate::data::{self, EarlierCopy};
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::freeze::Frozen;
use crate::images::{self, Earlier, FileRecord, Wanted};
use crate::manifest::{Kind, Manifest, Mount, ServiceRecord};
use crate::mounts::{self, Found, is_of, mounted_at};
use crate::options::{Mode, Task};
use crate::state::{Project, Tools};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::mounts::Mounts;
use host::space::{Space, human};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The inodes that a backup needs; its files are few.
const INODES: u64 = 200;

pub struct Survey {
    pub services: BTreeSet<String>,
    pub records: BTreeMap<String, ServiceRecord>,
    pub found: Found,
    pub wanted: Vec<Wanted>,
    pub earlier: Vec<Earlier>,
    /// The containers that are frozen while the data is copied.
    pub frozen: Frozen,
    pub foreign_writers: Vec<String>,
    /// The size on disk of the data that has to be copied.
    pub to_copy: u64,
    pub warnings: Vec<String>,
}

/// Surveys the project. `scratch` is a folder for temporary files.
pub fn survey(
    task: &Task,
    tools: &Tools,
    project: &Project,
    stored: &BackupDir,
    scratch: &Path,
) -> Result<Survey> {
    let services = project.chosen(&task.services)?;
    crate::dumps::check(task, project)?;
    let docker = &tools.docker;
    let found =
        mounts::find(docker, &project.resolved, &project.containers, &services, &task.exclude)?;
    let state_dir = task.subject.state_dir(project.name());
    refuse_inside(
        &[(&task.subject.backup_dir, "backup_dir"), (&state_dir, "state_dir")],
        &found.mounts,
    )?;
    let records: BTreeMap<String, ServiceRecord> =
        services.iter().map(|name| (name.clone(), project.service(name))).collect();
    let wanted = wanted(tools, project, &records)?;
    let earlier: Vec<Earlier> =
        stored.valid().map(|(kept, manifest)| earlier_of(&kept.path, manifest)).collect();
    let sizes = found.mounts.iter().map(|mount| {
        let before = EarlierCopy::of(stored, mount);
        data::estimate(mount, before.as_ref(), scratch)
    });
    let to_copy = sizes.sum::<Result<u64>>()?;
    let image_bytes = images::estimate(docker, &wanted, &earlier)?;
    require_space(task, to_copy, image_bytes)?;
    require_engine_space(docker, image_bytes)?;
    let mut warnings = warnings(&records, &found);
    let mounts = Mounts::read()?;
    warnings.extend(found.mounts.iter().filter_map(|mount| mounted_at(&mounts, &mount.source)));
    let foreign_writers = foreign_writers(docker, project, &found.mounts)?;
    if !foreign_writers.is_empty() {
        warnings.push(format!(
            "{} is not a service of project {}, but writes to the same data; it is not frozen",
            foreign_writers.join(", "),
            project.name()
        ));
    }
    let frozen = to_freeze(task.mode, project, &found.mounts);
    Ok(Survey {
        services,
        records,
        found,
        wanted,
        earlier,
        frozen,
        foreign_writers,
        to_copy,
        warnings,
    })
}

/// Returns the containers that are frozen while the data is copied: those that can write to it.
fn to_freeze(mode: Mode, project: &Project, mounts: &[Mount]) -> Frozen {
    if let Mode::Live = mode {
        return Frozen::default();
    }
    // A paused container cannot write, and is not touched.
    let writers: Vec<&Container> = (project.containers.iter())
        .filter(|one| !one.state.paused)
        .filter(|one| mounts.iter().any(|mount| writes_to(one, mount)))
        .collect();
    Frozen::of(&writers, &project.resolved.levels(), mode)
}

/// Returns the names of running containers of other projects that can write to the data.
fn foreign_writers(docker: &Docker, project: &Project, mounts: &[Mount]) -> Result<Vec<String>> {
    let all = docker.all_containers()?;
    let foreign = (all.iter())
        .filter(|one| one.project() != Some(project.name()) || one.is_one_off())
        .filter(|one| one.state.running && mounts.iter().any(|mount| writes_to(one, mount)));
    Ok(foreign.map(|one| one.name().to_owned()).collect())
}

/// Requires space in the engine's own folder, where it unpacks an image once more before it streams it.
fn require_engine_space(docker: &Docker, image_bytes: u64) -> Result<()> {
    if image_bytes == 0 {
        return Ok(());
    }
    let root = &docker.engine()?.docker_root_dir;
    if root.exists() {
        let needed = Space { bytes: image_bytes, inodes: None };
        Space::require("the engine's own copy of the images that are saved", root, needed)?;
    }
    Ok(())
}

/// Whether a container can write to the data of a mount, or to a part of it.
pub fn writes_to(container: &Container, mount: &Mount) -> bool {
    container.mounts.iter().any(|one| one.writable && is_of(one, mount))
}

/// Collects the images of the services: those of their containers, else those that Compose would run.
fn wanted(
    tools: &Tools,
    project: &Project,
    records: &BTreeMap<String, ServiceRecord>,
) -> Result<Vec<Wanted>> {
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (service, record) in records {
        let id = match &record.image_id {
            Some(id) => id.clone(),
            None => match images::inspect(&tools.docker, &record.image)? {
                Some(image) => image.id,
                None => {
                    let msg = format!(
                        "service {service} of project {} has no container, and the engine does not have its image {}: \
                         pull or build it, or exclude the service with services; nothing was changed",
                        project.name(),
                        record.image
                    );
                    return Err(Failure::new("image_missing", msg).into());
                }
            },
        };
        wanted.entry(id).or_default().push(record.image.clone());
        for container in &record.containers {
            wanted.entry(container.image_id.clone()).or_default();
        }
    }
    let sorted = |(id, mut references): (String, Vec<String>)| {
        references.sort();
        references.dedup();
        Wanted { id, references }
    };
    Ok(wanted.into_iter().map(sorted).collect())
}

pub fn earlier_of(path: &Path, manifest: &Manifest) -> Earlier {
    let files = manifest.contents.iter().filter_map(|(name, sum)| {
        let name = name.strip_prefix("images/")?.to_owned();
        Some(FileRecord { name, sha256: sum.sha256.clone(), bytes: sum.bytes })
    });
    Earlier { folder: path.join("images"), images: manifest.images.clone(), files: files.collect() }
}

/// Refuses folders of this module that are inside of what is backed up, or the other way round, by whatever
/// path.
fn refuse_inside(own: &[(&PathBuf, &str)], mounts: &[Mount]) -> Result<()> {
    let host = Mounts::read()?;
    for (path, option) in own {
        for mount in mounts {
            let inside = mount.kind != Kind::File && is_inside(&host, path, &mount.source)?;
            if inside || is_inside(&host, &mount.source, path)? {
                let relation = if inside { "inside of" } else { "around" };
                let msg = format!(
                    "{option} {} is {relation} {}, which is backed up: use another folder, or name the mount in \
                     exclude; nothing was changed",
                    path.display(),
                    mount.title()
                );
                return Err(Failure::new("backup_inside_mount", msg).into());
            }
        }
    }
    Ok(())
}

/// Whether a path is inside of a folder, by device and path on it, so that a second mount of the same folder
/// is recognised.
fn is_inside(host: &Mounts, path: &Path, folder: &Path) -> Result<bool> {
    let (one, other) = (device_and_path(host, path)?, device_and_path(host, folder)?);
    Ok(one.0 == other.0 && one.1.starts_with(&other.1))
}

fn device_and_path(host: &Mounts, path: &Path) -> Result<((u32, u32), PathBuf)> {
    let existing = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let real =
        existing.canonicalize().with_context(|| format!("looking at {}", existing.display()))?;
    let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
    let mount = host.on(&real)?;
    let below = real.strip_prefix(&mount.mountpoint).unwrap_or(Path::new(""));
    Ok((mount.dev, mount.root.join(below).join(rest)))
}

fn require_space(task: &Task, data: u64, images: u64) -> Result<()> {
    let dir = &task.subject.backup_dir;
    let existing = dir.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    // Layers, mostly text and programs, compress well; data may be compressed already.
    let needed = data + images / 2 + task.min_free;
    let what = format!(
        "a backup of {} data and {} images, with {} that must stay free,",
        human(data),
        human(images),
        human(task.min_free)
    );
    Space::require(&what, existing, Space { bytes: needed, inodes: Some(INODES) })
}

fn warnings(records: &BTreeMap<String, ServiceRecord>, found: &Found) -> Vec<String> {
    let mut warnings = Vec::new();
    let drifted = records.iter().filter(|(_, one)| one.drift).map(|(name, _)| name);
    let drifted = host::joined(drifted);
    if !drifted.is_empty() {
        warnings.push(format!(
            "the compose or env files have changed since the containers of {drifted} were created: the backup has the current \
             files, but the images and data of the running containers; make backups before files are changed"
        ));
    }
    for mount in found.mounts.iter().filter(|mount| !mount.restorable) {
        let why = mount.why.as_deref().unwrap_or_default();
        warnings.push(format!(
            "{} is backed up, but cannot be restored by this module: {why}",
            mount.title()
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_inside_of_each_other_are_recognised() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("data/x")).unwrap();
        std::os::unix::fs::symlink(temp.path().join("data"), temp.path().join("alias")).unwrap();
        let host = Mounts::read().unwrap();
        let inside = |path: &str, folder: &str| {
            is_inside(&host, &temp.path().join(path), &temp.path().join(folder)).unwrap()
        };
        assert!(
            inside("data/x/not/there", "data")
                && inside("alias/backups", "data")
                && inside("data", "data")
        );
        assert!(!inside("data2", "data") && !inside("data", "data/x"));
    }
}
