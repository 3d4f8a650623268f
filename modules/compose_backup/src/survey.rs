//! What a backup would hold and what stands in its way: looked at before anything is changed.

use crate::backup_dir::BackupDir;
use crate::data::{self, Before};
use crate::docker::inspect::Container;
use crate::freeze::Frozen;
use crate::images::{self, Earlier, FileRecord, Wanted};
use crate::manifest::{Kind, Manifest, Mount, ServiceRecord};
use crate::mounts::{self, Found};
use crate::mounts::{is_of, mounted_at};
use crate::options::{Mode, Task};
use crate::state::{Project, Tools};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::mounts::Mounts as HostMounts;
use host::mounts::Mounts;
use host::space::{Space, human};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every entry of a backup and of its index needs next to nothing beside its content.
const INODES: u64 = 200;

pub struct Survey {
    pub services: BTreeSet<String>,
    pub records: BTreeMap<String, ServiceRecord>,
    pub found: Found,
    pub wanted: Vec<Wanted>,
    pub earlier: Vec<Earlier>,
    /// What is frozen while the data is copied.
    pub frozen: Frozen,
    pub foreign_writers: Vec<String>,
    /// What has to be copied of the data, as it lies on the disk.
    pub to_copy: u64,
    pub warnings: Vec<String>,
}

/// `scratch` is a folder for files without names.
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
        stored.sound().map(|(kept, manifest)| earlier_of(&kept.path, manifest)).collect();
    let mut to_copy = 0;
    for mount in &found.mounts {
        let before = Before::of(stored, mount);
        to_copy += data::estimate(mount, before.as_ref(), scratch)?;
    }
    let image_bytes = images::estimate(docker, &wanted, &earlier)?;
    require_space(task, to_copy, image_bytes)?;
    if image_bytes > 0 {
        // Before it streams an image, the engine unpacks it once more in its own folder.
        let root = &docker.engine()?.docker_root_dir;
        if root.exists() {
            let needed = Space { bytes: image_bytes, inodes: None };
            Space::require("the engine's own copy of the images that are saved", root, needed)?;
        }
    }
    let mut warnings = warnings(&records, &found);
    let mounts = Mounts::read()?;
    warnings.extend(found.mounts.iter().filter_map(|mount| mounted_at(&mounts, &mount.source)));
    let all = docker.all_containers()?;
    let foreign_writers: Vec<String> = (all.iter())
        .filter(|one| one.project() != Some(project.name()) || one.is_one_off())
        .filter(|one| one.state.running && found.mounts.iter().any(|mount| writes_to(one, mount)))
        .map(|one| one.name().to_owned())
        .collect();
    if !foreign_writers.is_empty() {
        warnings.push(format!(
            "{} is no service of project {} and writes to the same data; it is not frozen",
            foreign_writers.join(", "),
            project.name()
        ));
    }
    // One that somebody has paused cannot write, and stays as it is.
    let writers: Vec<&Container> = (project.containers.iter())
        .filter(|one| !one.state.paused)
        .filter(|one| found.mounts.iter().any(|mount| writes_to(one, mount)))
        .collect();
    let frozen = match task.mode {
        Mode::Live => Frozen::default(),
        mode => Frozen::of(&writers, &project.resolved.levels(), mode),
    };
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

/// Whether a container can write to the data of a mount, or to a part of it.
pub fn writes_to(container: &Container, mount: &Mount) -> bool {
    container.mounts.iter().any(|one| one.writable && is_of(one, mount))
}

/// The images of the services: what their containers run, else what compose would run.
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
                        "service {service} of project {} has no container, and its image {} is not in \
                         the engine: pull or build it, or leave the service out with services; nothing \
                         was changed",
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

/// Our own folders must lie outside of what is backed up, whatever way leads there.
fn refuse_inside(own: &[(&PathBuf, &str)], mounts: &[Mount]) -> Result<()> {
    let host = HostMounts::read()?;
    for (path, option) in own {
        for mount in mounts {
            let inside = mount.kind != Kind::File && lies_in(&host, path, &mount.source)?;
            if inside || lies_in(&host, &mount.source, path)? {
                let relation = if inside { "inside of" } else { "around" };
                let msg = format!(
                    "{option} {} lies {relation} {}, which is to be backed up: give another folder, or name \
                     the mount in exclude; nothing was changed",
                    path.display(),
                    mount.title()
                );
                return Err(Failure::new("backup_inside_mount", msg).into());
            }
        }
    }
    Ok(())
}

/// By device and place on it, so that a second mount of the same folder is no way around.
fn lies_in(host: &HostMounts, path: &Path, folder: &Path) -> Result<bool> {
    let (one, other) = (place_of(host, path)?, place_of(host, folder)?);
    Ok(one.0 == other.0 && one.1.starts_with(&other.1))
}

fn place_of(host: &HostMounts, path: &Path) -> Result<((u32, u32), PathBuf)> {
    let there = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let real = there.canonicalize().with_context(|| format!("looking at {}", there.display()))?;
    let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
    let mount = host.on(&real)?;
    let below = real.strip_prefix(&mount.mountpoint).unwrap_or(Path::new(""));
    Ok((mount.dev, mount.root.join(below).join(rest)))
}

fn require_space(task: &Task, data: u64, images: u64) -> Result<()> {
    let dir = &task.subject.backup_dir;
    let there = dir.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    // Layers are mostly text and programs; data may be compressed already.
    let needed = data + images / 2 + task.min_free;
    let what = format!(
        "a backup of {} data and {} images beside {} that must stay free",
        human(data),
        human(images),
        human(task.min_free)
    );
    Space::require(&what, there, Space { bytes: needed, inodes: Some(INODES) })
}

fn warnings(records: &BTreeMap<String, ServiceRecord>, found: &Found) -> Vec<String> {
    let mut warnings = Vec::new();
    let drifted: Vec<&str> =
        records.iter().filter(|(_, one)| one.drift).map(|(name, _)| name.as_str()).collect();
    if !drifted.is_empty() {
        warnings.push(format!(
            "the compose or env files have changed since the containers of {} were created: the backup has \
             the files as they are now, and the images and data of what runs; back up before new files are put in place",
            drifted.join(", ")
        ));
    }
    for mount in found.mounts.iter().filter(|mount| !mount.restorable) {
        let why = mount.why.as_deref().unwrap_or_default();
        warnings.push(format!(
            "{} is backed up, and cannot be restored by this module: {why}",
            mount.title()
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_inside_of_each_other_are_seen_by_their_place() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("data/x")).unwrap();
        std::os::unix::fs::symlink(temp.path().join("data"), temp.path().join("alias")).unwrap();
        let host = HostMounts::read().unwrap();
        let lies = |path: &str, folder: &str| {
            lies_in(&host, &temp.path().join(path), &temp.path().join(folder)).unwrap()
        };
        assert!(
            lies("data/x/not/there", "data")
                && lies("alias/backups", "data")
                && lies("data", "data")
        );
        assert!(!lies("data2", "data") && !lies("data", "data/x"));
    }
}
