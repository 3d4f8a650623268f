//! Where the files of a cluster lie, as far as its server can be seen from here: so that nobody takes a database back
//! together with the storage that holds it.
//!
//! Invariant: a folder is the cluster's only when a server's process is in it and its `pg_control` bears the cluster's
//! system identifier. The path alone, which a server in a container tells as well, may be another one on this machine.

use crate::state::Cluster;
use host::mounts::{Mount, Mounts};
use host::regular::{self, Links};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// As the server names it.
    pub data_directory: PathBuf,
    pub places: BTreeSet<Place>,
}

/// The data directory, the folder of its WAL, or a tablespace.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// As this machine sees it: for a server in a container the folder that is its volume. As the server sees it where
    /// it is mounted nowhere else.
    pub path: PathBuf,
    /// The device or dataset.
    pub source: String,
    pub filesystem: String,
}

/// None when the server does not run on this machine, or is not shown to us.
pub fn find(cluster: &Cluster) -> Option<Storage> {
    let data_directory = cluster.data_directory.clone()?;
    let identifier: u64 = cluster.system_identifier.as_ref()?.parse().ok()?;
    let here = Mounts::read().ok()?;
    let places: BTreeSet<Place> = (servers(&data_directory, identifier).into_iter())
        .filter_map(|pid| places_of(pid, &here))
        .flatten()
        .collect();
    (!places.is_empty()).then_some(Storage { data_directory, places })
}

/// The processes of the server, one for each of its data directories: two with the same identifier and path (a replica in
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
            && named_in(&folder).as_deref() == Some(data_directory)
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

/// The first number in `pg_control`, of all versions.
fn identifier_in(folder: &Path) -> Option<u64> {
    let mut file = regular::open(&folder.join("global/pg_control"), Links::Follow).ok()?;
    let mut number = [0; 8];
    file.read_exact(&mut number).ok()?;
    Some(u64::from_ne_bytes(number))
}

/// What the server calls its data directory: the second line of `postmaster.pid`.
fn named_in(folder: &Path) -> Option<PathBuf> {
    let file = regular::open(&folder.join("postmaster.pid"), Links::Follow).ok()?;
    let mut text = String::new();
    file.take(8 << 10).read_to_string(&mut text).ok()?;
    text.lines().nth(1).map(PathBuf::from)
}

fn places_of(pid: u32, here: &Mounts) -> Option<Vec<Place>> {
    let there = Mounts::of_process(pid).ok()?;
    let process = PathBuf::from(format!("/proc/{pid}"));
    let data = process.join("cwd");
    let mut folders = vec![(data.clone(), std::fs::read_link(&data).ok()?)];
    let links = std::fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten();
    for link in links.map(|entry| entry.path()).chain([data.join("pg_wal")]) {
        // What is no link lies in the data directory. An absolute one is read as the server reads it.
        if let Ok(target) = std::fs::read_link(&link) {
            let path = process.join("root").join(target.strip_prefix("/").unwrap_or(&target));
            folders.push((path, target));
        }
    }
    let each = folders.into_iter().filter_map(|(path, named)| {
        let mount = there.by_id(&path)?;
        Some(Place {
            path: seen_from(here, mount, &named).unwrap_or(named),
            source: mount.source.to_string_lossy().into_owned(),
            filesystem: mount.fstype.clone(),
        })
    });
    Some(each.collect())
}

/// The path of a folder (`named` by who has it mounted as `mount`) among our own mounts.
fn seen_from(here: &Mounts, mount: &Mount, named: &Path) -> Option<PathBuf> {
    let inside = named.strip_prefix(&mount.mountpoint).ok()?;
    let within = mount.root.join(inside);
    let same = here.iter().filter(|ours| ours.dev == mount.dev && within.starts_with(&ours.root));
    // Its own mount, when it has the same as we; else where all of the file system is mounted, rather than a part of it.
    let ours = same.min_by_key(|ours| (ours.id != mount.id, ours.root.components().count()))?;
    let path = ours.mountpoint.join(within.strip_prefix(&ours.root).ok()?);
    Some(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_of_a_container_as_its_host_sees_it() {
        let here = b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 8:2 / /var/lib/docker rw - ext4 /dev/sda2 rw\n";
        let here = Mounts::parse(here).unwrap();
        let there =
            b"90 80 8:2 /volumes/shop_db/_data /var/lib/postgresql/data rw - ext4 /dev/sda2 rw\n\
            91 80 0:50 / /mnt rw - zfs tank/pg rw\n";
        let there = Mounts::parse(there).unwrap();
        let [volume, dataset] = [0, 1].map(|at| there.iter().nth(at).unwrap());
        let path = seen_from(&here, volume, Path::new("/var/lib/postgresql/data/17"));
        assert_eq!(path.unwrap(), Path::new("/var/lib/docker/volumes/shop_db/_data/17"));
        assert_eq!(seen_from(&here, dataset, Path::new("/mnt/17")), None);
    }
}
