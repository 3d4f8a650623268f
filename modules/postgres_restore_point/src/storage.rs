//! Finds the storage of a cluster, if its server runs on this machine, so that a database and the storage under it are
//! not rolled back both.
//!
//! Invariant: a folder counts as the cluster's only if a server's process works in it and its `pg_control` has the
//! cluster's system identifier. The path alone is not enough: a server in a container may mean another folder.

use crate::state::Cluster;
use host::mounts::{Mount, Mounts};
use host::regular::{self, Links};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// The path as the server sees it.
    pub data_directory: PathBuf,
    #[serde(rename = "places")]
    pub folders: BTreeSet<StorageFolder>,
}

/// The data directory, the folder of its WAL, or a tablespace.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct StorageFolder {
    /// The path on this machine: for a server in a container, the folder of its volume. If it is not mounted on this
    /// machine, the path as the server sees it.
    pub path: PathBuf,
    /// The device or dataset.
    pub source: String,
    pub filesystem: String,
}

/// Finds the storage; `None` if the server does not run on this machine or its processes are not visible.
pub fn find(cluster: &Cluster) -> Option<Storage> {
    let data_directory = cluster.data_directory.clone()?;
    let identifier: u64 = cluster.system_identifier.as_ref()?.parse().ok()?;
    let here = Mounts::read().ok()?;
    let folders: BTreeSet<StorageFolder> = (servers(&data_directory, identifier).into_iter())
        .filter_map(|pid| folders_of(pid, &here))
        .flatten()
        .collect();
    (!folders.is_empty()).then_some(Storage { data_directory, folders })
}

/// Finds the processes of the server, one for each data directory: two with the same identifier and path (a replica in
/// another container) cannot be distinguished.
fn servers(data_directory: &Path, identifier: u64) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let folder = entry.path().join("cwd");
        let is_server = std::fs::read_to_string(entry.path().join("comm"))
            .is_ok_and(|name| name.contains("postgres"));
        if is_server
            && identifier_in(&folder) == Some(identifier)
            && data_directory_in(&folder).as_deref() == Some(data_directory)
        {
            let file = std::fs::metadata(&folder).ok();
            let file = file.map(|meta| {
                use std::os::unix::fs::MetadataExt;
                (meta.dev(), meta.ino())
            });
            if seen.insert(file) {
                found.push(pid);
            }
        }
    }
    found
}

/// Reads the system identifier, which is the first number in `pg_control` of all versions.
fn identifier_in(folder: &Path) -> Option<u64> {
    let mut file = regular::open(&folder.join("global/pg_control"), Links::Follow).ok()?;
    let mut number = [0; 8];
    file.read_exact(&mut number).ok()?;
    Some(u64::from_ne_bytes(number))
}

/// Reads the server's path of its data directory, which is the second line of `postmaster.pid`.
fn data_directory_in(folder: &Path) -> Option<PathBuf> {
    let file = regular::open(&folder.join("postmaster.pid"), Links::Follow).ok()?;
    let mut text = String::new();
    file.take(8 << 10).read_to_string(&mut text).ok()?;
    text.lines().nth(1).map(PathBuf::from)
}

fn folders_of(pid: u32, here: &Mounts) -> Option<Vec<StorageFolder>> {
    let there = Mounts::of_process(pid).ok()?;
    let process = PathBuf::from(format!("/proc/{pid}"));
    let data = process.join("cwd");
    let mut folders = vec![(data.clone(), std::fs::read_link(&data).ok()?)];
    let links = std::fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten();
    for link in links.map(|entry| entry.path()).chain([data.join("pg_wal")]) {
        // Anything but a link is in the data directory. An absolute link is resolved below the root of the server.
        if let Ok(target) = std::fs::read_link(&link) {
            let path = process.join("root").join(target.strip_prefix("/").unwrap_or(&target));
            folders.push((path, target));
        }
    }
    let each = folders.into_iter().filter_map(|(path, named)| {
        let mount = there.by_id(&path)?;
        Some(StorageFolder {
            path: local_path(here, mount, &named).unwrap_or(named),
            source: mount.source.to_string_lossy().into_owned(),
            filesystem: mount.fstype.clone(),
        })
    });
    Some(each.collect())
}

/// Finds the path on this machine of a folder that has the path `named` in the server's `mount`.
fn local_path(here: &Mounts, mount: &Mount, named: &Path) -> Option<PathBuf> {
    let inside = named.strip_prefix(&mount.mountpoint).ok()?;
    let within = mount.root.join(inside);
    let same = here.iter().filter(|ours| ours.dev == mount.dev && within.starts_with(&ours.root));
    // Prefers the server's own mount if this is its namespace; else a mount of the whole file system to one of a part.
    let ours = same.min_by_key(|ours| (ours.id != mount.id, ours.root.components().count()))?;
    let path = ours.mountpoint.join(within.strip_prefix(&ours.root).ok()?);
    Some(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volume_of_a_container_is_found_on_its_host() {
        let here = b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 8:2 / /var/lib/docker rw - ext4 /dev/sda2 rw\n";
        let here = Mounts::parse(here).unwrap();
        let there =
            b"90 80 8:2 /volumes/shop_db/_data /var/lib/postgresql/data rw - ext4 /dev/sda2 rw\n\
            91 80 0:50 / /mnt rw - zfs tank/pg rw\n";
        let there = Mounts::parse(there).unwrap();
        let [volume, dataset] = [0, 1].map(|at| there.iter().nth(at).unwrap());
        let path = local_path(&here, volume, Path::new("/var/lib/postgresql/data/17"));
        assert_eq!(path.unwrap(), Path::new("/var/lib/docker/volumes/shop_db/_data/17"));
        assert_eq!(local_path(&here, dataset, Path::new("/mnt/17")), None);
    }
}
