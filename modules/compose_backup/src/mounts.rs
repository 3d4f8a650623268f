//! Finds the data of a project, in the resolved configuration and in the mounts of its containers, each
//! source once.
//!
//! Invariant: a mount is either backed up, or recorded as not being data (a socket, a tmpfs, the kernel's own
//! file systems) or as excluded by the task; none is silently skipped. A missing source is an error.

use crate::docker::Docker;
use crate::docker::inspect::{Container, MountPoint, Volume, is_anonymous};
use crate::manifest::{Excluded, Kind, Mount, NotData, User, VolumeRecord};
use crate::resolved::Resolved;
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::mounts::Mounts as HostMounts;
use host::none_if_missing;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// File systems with the kernel's state, which is not data.
const KERNELS_OWN: &[&str] = &[
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devtmpfs",
    "devpts",
    "mqueue",
    "debugfs",
    "tracefs",
    "securityfs",
    "bpf",
    "binfmt_misc",
    "configfs",
    "pstore",
    "efivarfs",
    "fusectl",
];
const KERNELS_FOLDERS: &[&str] = &["/proc", "/sys", "/dev"];

#[derive(Debug, Default)]
pub struct Found {
    pub mounts: Vec<Mount>,
    pub not_data: Vec<NotData>,
    pub excluded: Vec<Excluded>,
}

/// The source of a mount, before it was inspected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Path(PathBuf),
    Volume { name: String, key: Option<String>, anonymous: bool, external: bool },
}

type Users = BTreeMap<Source, Vec<User>>;

/// Finds the mounts. `excluded` are source paths, names of volumes, or `service:/target`.
pub fn find(
    docker: &Docker,
    resolved: &Resolved,
    containers: &[Container],
    services: &BTreeSet<String>,
    excluded: &[String],
) -> Result<Found> {
    let mut found = Found::default();
    let sources = collect(resolved, containers, services, &mut found.not_data);
    let mut unmatched: BTreeSet<&String> = excluded.iter().collect();
    for (source, users) in sources {
        let words = names_of(&source, &users);
        if let Some(by) = excluded.iter().find(|one| words.contains(one)) {
            unmatched.retain(|one| !words.contains(one));
            found.excluded.push(Excluded { what: title(&source), by: by.clone() });
            continue;
        }
        look(docker, source, users, &mut found)?;
    }
    if let Some(odd) = unmatched.first() {
        let msg = format!(
            "argument 'exclude': {odd:?} is not a mount of project {}: expected a source path, the \
             name of a volume, or service:/target",
            resolved.project
        );
        return Err(Failure::new("bad_options", msg).into());
    }
    found.mounts = without_inner(std::mem::take(&mut found.mounts));
    for (n, mount) in found.mounts.iter_mut().enumerate() {
        mount.n = n + 1;
    }
    Ok(found)
}

/// Collects every source and its users. The mounts of containers are added to those in the files, which may
/// have changed since the containers were created.
fn collect(
    resolved: &Resolved,
    containers: &[Container],
    services: &BTreeSet<String>,
    not_data: &mut Vec<NotData>,
) -> Users {
    let mut sources = configured(resolved, services, not_data);
    mounted(resolved, containers, services, &mut sources);
    sources
}

/// Adds a user, once for each mount point.
fn add(sources: &mut Users, source: Source, user: User) {
    let users = sources.entry(source).or_default();
    let same = |other: &User| other.service == user.service && other.target == user.target;
    if !users.iter().any(same) {
        users.push(user);
    }
}

/// Collects the mounts in the configuration.
fn configured(
    resolved: &Resolved,
    services: &BTreeSet<String>,
    not_data: &mut Vec<NotData>,
) -> Users {
    let mut sources = Users::new();
    let asked = resolved.services.iter().filter(|(name, _)| services.contains(*name));
    for (name, one) in
        asked.flat_map(|(name, service)| service.mounts.iter().map(move |one| (name, one)))
    {
        let user =
            User { service: name.clone(), target: one.target.clone(), read_only: one.read_only };
        match (one.kind.as_str(), &one.source) {
            ("bind", Some(path)) => {
                add(&mut sources, Source::Path(real(Path::new(path))), user);
            }
            ("volume", Some(key)) => {
                let known = resolved.volumes.get(key);
                let name = known.map_or(key.as_str(), |volume| volume.name.as_str()).to_owned();
                let external = known.is_some_and(|volume| volume.external);
                let key = Some(key.clone());
                let source = Source::Volume { name, key, anonymous: false, external };
                add(&mut sources, source, user);
            }
            // Its name is known from the containers.
            ("volume", None) => {}
            (kind, source) => not_data.push(NotData {
                source: source.clone().unwrap_or_default().into(),
                target: one.target.clone(),
                service: name.clone(),
                why: format!("a mount of type {kind} has no persistent data"),
            }),
        }
    }
    sources
}

/// Adds the mounts of containers.
fn mounted(
    resolved: &Resolved,
    containers: &[Container],
    services: &BTreeSet<String>,
    sources: &mut Users,
) {
    let known: BTreeMap<String, Source> = (sources.keys())
        .filter_map(|source| match source {
            Source::Volume { name, .. } => Some((name.clone(), source.clone())),
            Source::Path(_) => None,
        })
        .collect();
    for container in containers {
        let Some(service) = container.service().filter(|one| services.contains(*one)) else {
            continue;
        };
        for one in &container.mounts {
            let user = User {
                service: service.to_owned(),
                target: one.destination.clone(),
                read_only: !one.writable,
            };
            let source = match (one.kind.as_str(), &one.name) {
                ("bind", _) if resolved.files.contains(&one.source) => continue,
                ("bind", _) => Source::Path(real(&one.source)),
                ("volume", Some(name)) => match known.get(name) {
                    Some(source) => source.clone(),
                    None => Source::Volume {
                        name: name.clone(),
                        key: None,
                        anonymous: is_anonymous(name),
                        external: false,
                    },
                },
                _ => continue,
            };
            add(sources, source, user);
        }
    }
}

/// Resolves links in a path; returns the path itself if that fails.
pub fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn title(source: &Source) -> String {
    match source {
        Source::Path(path) => path.display().to_string(),
        Source::Volume { name, .. } => format!("volume {name}"),
    }
}

fn names_of(source: &Source, users: &[User]) -> Vec<String> {
    let mut names = match source {
        Source::Path(path) => vec![path.display().to_string()],
        Source::Volume { name, key, .. } => {
            [Some(name.clone()), key.clone()].into_iter().flatten().collect()
        }
    };
    names.extend(users.iter().map(|user| format!("{}:{}", user.service, user.target.display())));
    names
}

fn missing(what: &str, users: &[User]) -> anyhow::Error {
    let msg = format!(
        "{what} does not exist, and {} needs it: a backup without it would be useless; start the \
         project once, correct its files, or name it in exclude; nothing was changed",
        services_of(users).join(", ")
    );
    Failure::new("mount_missing", msg).into()
}

pub fn services_of(users: &[User]) -> Vec<String> {
    let names: BTreeSet<&String> = users.iter().map(|user| &user.service).collect();
    names.into_iter().cloned().collect()
}

fn look(docker: &Docker, source: Source, users: Vec<User>, found: &mut Found) -> Result<()> {
    match source {
        Source::Path(path) => look_at_path(path, users, found),
        Source::Volume { name, anonymous, external, .. } => {
            let volume = docker.volume(&name)?;
            let volume = volume.ok_or_else(|| missing(&format!("volume {name}"), &users))?;
            look_at_volume(volume, anonymous, external, users, found)
        }
    }
}

fn look_at_path(path: PathBuf, users: Vec<User>, found: &mut Found) -> Result<()> {
    let meta = none_if_missing(path.metadata())
        .with_context(|| format!("looking at {}", path.display()))?
        .ok_or_else(|| missing(&path.display().to_string(), &users))?;
    let kind = meta.file_type();
    let not_data = match () {
        () if kind.is_socket() => Some("a socket"),
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_char_device() || kind.is_block_device() => Some("a device"),
        () if is_kernels_own(&path)? => Some("a file system of the kernel"),
        () => None,
    };
    if let Some(why) = not_data {
        for user in users {
            let (service, target) = (user.service, user.target);
            found.not_data.push(NotData { source: path.clone(), target, service, why: why.into() });
        }
        return Ok(());
    }
    let kind = if kind.is_dir() { Kind::Bind } else { Kind::File };
    found.mounts.push(Mount::new(kind, path, None, users));
    Ok(())
}

fn is_kernels_own(path: &Path) -> Result<bool> {
    let by_name = KERNELS_FOLDERS.iter().any(|folder| path.starts_with(folder));
    // /dev/shm and disks mounted below /dev do not exist as binds in practice.
    Ok(by_name || KERNELS_OWN.contains(&HostMounts::read()?.on(path)?.fstype.as_str()))
}

fn look_at_volume(
    volume: Volume,
    anonymous: bool,
    external: bool,
    users: Vec<User>,
    found: &mut Found,
) -> Result<()> {
    let source = match (volume.is_plain(), volume.bound_folder()) {
        (true, _) => volume.mountpoint.clone(),
        (false, Some(folder)) => real(&folder),
        (false, None) => {
            let msg = format!(
                "volume {} has driver {} with options, and its data is not in a folder of this machine: back it up \
                 by a dump, and name it in exclude; nothing was changed",
                volume.name, volume.driver
            );
            return Err(Failure::new("unsupported_volume", msg).into());
        }
    };
    if !source.is_dir() {
        return Err(missing(&format!("{} of volume {}", source.display(), volume.name), &users));
    }
    let kind = if anonymous { Kind::Anonymous } else { Kind::Volume };
    let plain = volume.is_plain();
    let record = VolumeRecord {
        name: volume.name,
        driver: volume.driver,
        options: volume.options.unwrap_or_default(),
        labels: volume.labels.unwrap_or_default(),
        external,
    };
    let mut mount = Mount::new(kind, source, Some(record), users);
    if !plain {
        mount.restorable = false;
        mount.why = Some("the volume has driver options".into());
    }
    found.mounts.push(mount);
    Ok(())
}

/// Merges sources that are inside of others into those, with their users.
fn without_inner(mut mounts: Vec<Mount>) -> Vec<Mount> {
    mounts.sort_by(|one, other| one.source.cmp(&other.source));
    let mut outer: Vec<Mount> = Vec::new();
    for mount in mounts {
        let outer_mount = outer
            .iter_mut()
            .find(|one| one.kind != Kind::File && mount.source.starts_with(&one.source));
        match outer_mount {
            Some(outer_mount) => outer_mount.users.extend(mount.users),
            None => outer.push(mount),
        }
    }
    outer
}

/// Whether a container uses this mount, under any name.
pub fn uses(container: &Container, mount: &Mount) -> bool {
    container.mounts.iter().any(|one| is_of(one, mount))
}

pub fn is_of(one: &MountPoint, mount: &Mount) -> bool {
    let by_name =
        mount.volume.as_ref().is_some_and(|volume| one.name.as_deref() == Some(&volume.name));
    let source = real(&one.source);
    let overlaps = source.starts_with(&mount.source) || mount.source.starts_with(&source);
    by_name || (overlaps && !source.as_os_str().is_empty())
}

/// Explains why `source` cannot be exchanged, if something is mounted there. This is reported when a backup
/// is made or listed, and not only when it is restored.
pub fn mounted_at(mounts: &HostMounts, source: &Path) -> Option<String> {
    let odd = mounts.iter().find(|mount| mount.mountpoint.starts_with(source))?;
    Some(format!(
        "{} cannot be exchanged by renaming, since {} is mounted there: unmount it, bind the service to a \
         folder below the mount point, or restore that data by hand (manifest.txt says how)",
        source.display(),
        odd.mountpoint.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(path: &str, service: &str) -> Mount {
        let user = User { service: service.into(), target: "/x".into(), read_only: false };
        Mount::new(Kind::Bind, path.into(), None, vec![user])
    }

    #[test]
    fn inner_sources_are_merged_into_outer_ones() {
        let all =
            vec![mount("/srv/a/b", "inner"), mount("/srv/ab", "other"), mount("/srv/a", "outer")];
        let kept = without_inner(all);
        let shown: Vec<_> =
            kept.iter().map(|one| (one.source.as_path(), services_of(&one.users))).collect();
        assert_eq!(
            shown,
            [
                (Path::new("/srv/a"), vec!["inner".to_owned(), "outer".to_owned()]),
                (Path::new("/srv/ab"), vec!["other".to_owned()])
            ]
        );
    }

    #[test]
    fn paths_that_are_not_data_are_recorded() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("s.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mut found = Found::default();
        for path in [socket, "/proc/sys".into(), temp.path().to_owned()] {
            look_at_path(path, mount("/", "a").users, &mut found).unwrap();
        }
        assert_eq!((found.not_data.len(), found.mounts.len()), (2, 1));
        let gone = look_at_path(temp.path().join("gone"), mount("/", "a").users, &mut found);
        assert!(gone.unwrap_err().to_string().contains("does not exist, and a needs it"));
    }
}
