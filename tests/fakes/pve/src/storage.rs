//! Storages and volumes: which of them can do snapshots, in which order they can be rolled back,
//! what their volumes hold, and their words when something fails. Snapshots of a volume stand in
//! the order of their creation; one that is in no configuration was made outside Proxmox.

use crate::fail::Fail;
use crate::world::World;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    #[serde(rename = "type")]
    pub kind: Kind,
    /// ZFS dataset, LVM `group/pool`, Ceph pool, or folder.
    pub place: String,
    /// No space is left: a snapshot fails.
    #[serde(default)]
    pub full: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Zfspool,
    Lvmthin,
    Btrfs,
    Rbd,
    Dir,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Zfspool => "zfspool",
            Kind::Lvmthin => "lvmthin",
            Kind::Btrfs => "btrfs",
            Kind::Rbd => "rbd",
            Kind::Dir => "dir",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Volume {
    /// Anything; a rollback brings back what the snapshot holds.
    pub content: Value,
    pub snapshots: Vec<Kept>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kept {
    pub name: String,
    pub content: Value,
}

/// A mount point: `rootfs: zp:subvol-301-disk-0,size=8G` or `mp1: /srv/share,mp=/share`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mount {
    pub key: String,
    pub volid: String,
    /// Where the container sees it.
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Snapshot,
    Rollback,
    Delete,
}

impl Mount {
    pub fn parse(key: &str, value: &str) -> Mount {
        let first = value.split(',').next().unwrap_or_default();
        let volid = first.strip_prefix("volume=").unwrap_or(first);
        let path = value.split(',').find_map(|part| part.strip_prefix("mp=")).unwrap_or("/");
        Mount { key: key.to_owned(), volid: volid.to_owned(), path: path.to_owned() }
    }

    /// The storage and the name in it; none for a folder or device of the host.
    pub fn on_storage(&self) -> Option<(&str, &str)> {
        self.volid.split_once(':').filter(|_| !self.volid.starts_with('/'))
    }
}

impl World {
    fn storage(&self, name: &str) -> Result<&Storage, Fail> {
        let missing = || Fail::died(format!("storage '{name}' does not exist"));
        self.storages.get(name).ok_or_else(missing)
    }

    /// Every storage of these mount points must be there.
    pub fn activate(&self, mounts: &[Mount]) -> Result<(), Fail> {
        let mut names: Vec<_> = mounts.iter().filter_map(Mount::on_storage).collect();
        names.sort_unstable();
        names.iter().try_for_each(|(name, _)| self.storage(name).map(drop))
    }

    pub fn can_snapshot(&self, mounts: &[Mount]) -> Result<bool, Fail> {
        for mount in mounts {
            let Some((name, _)) = mount.on_storage() else { return Ok(false) };
            if self.storage(name)?.kind == Kind::Dir {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the file system of this volume is frozen for a snapshot.
    pub fn wants_freeze(&self, mount: &Mount) -> bool {
        let storage = mount.on_storage().and_then(|(name, _)| self.storage(name).ok());
        storage.is_some_and(|storage| storage.kind == Kind::Rbd)
    }

    /// Whether no newer snapshot stands in the way: only ZFS cannot step over them.
    pub fn can_roll_back(&self, mount: &Mount, snapshot: &str) -> Result<(), Fail> {
        let volid = &mount.volid;
        let Some((name, _)) = mount.on_storage() else {
            let text = format!("snapshot rollback file/device '{volid}' is not possible");
            return Err(Fail::died(text));
        };
        if self.storage(name)?.kind != Kind::Zfspool {
            return Ok(());
        }
        let kept = self.volumes.get(volid).map_or(&[][..], |volume| &volume.snapshots);
        let text = match kept.iter().position(|kept| kept.name == snapshot) {
            Some(place) if place + 1 == kept.len() => return Ok(()),
            Some(_) => format!("'{snapshot}' is not most recent snapshot on '{volid}'"),
            None => format!("snapshot '{snapshot}' does not exist on '{volid}'"),
        };
        Err(Fail::died(format!("can't rollback, {text}")))
    }

    /// Does it, or fails as the storage's tool fails. `broken` is a fault's reason.
    pub fn volume_deed(
        &mut self,
        deed: Deed,
        mount: &Mount,
        snapshot: &str,
        broken: Option<&str>,
    ) -> Result<(), Fail> {
        let Some((name, volume)) = mount.on_storage() else {
            let text = format!("snapshot file/device '{}' is not possible", mount.volid);
            return Err(Fail::died(text));
        };
        let storage = self.storage(name)?.clone();
        let fail = |reason: &str| Err(words(&storage, deed, volume, snapshot, reason));
        if let Some(reason) = broken {
            return fail(reason);
        }
        if deed == Deed::Rollback {
            self.can_roll_back(mount, snapshot)?;
        }
        let state = self.volumes.entry(mount.volid.clone()).or_default();
        let place = state.snapshots.iter().position(|kept| kept.name == snapshot);
        match (deed, place) {
            (Deed::Snapshot, Some(_)) => return fail(exists(storage.kind)),
            (Deed::Snapshot, None) if storage.full => return fail(full(storage.kind)),
            (Deed::Snapshot, None) => {
                let content = state.content.clone();
                state.snapshots.push(Kept { name: snapshot.to_owned(), content });
            }
            (Deed::Rollback, Some(place)) => {
                state.content = state.snapshots[place].content.clone();
            }
            (Deed::Delete, Some(place)) => drop(state.snapshots.remove(place)),
            (Deed::Rollback | Deed::Delete, None) => {
                // LVM's way back removes the volume first.
                if deed == Deed::Rollback && storage.kind == Kind::Lvmthin {
                    state.content = Value::Null;
                }
                return fail(missing(storage.kind));
            }
        }
        Ok(())
    }
}

fn full(kind: Kind) -> &'static str {
    match kind {
        Kind::Zfspool => "out of space",
        Kind::Lvmthin => {
            "  Cannot create new thin volume, free space in thin pool reached threshold."
        }
        Kind::Btrfs | Kind::Rbd | Kind::Dir => "No space left on device",
    }
}

fn exists(kind: Kind) -> &'static str {
    if kind == Kind::Zfspool { "dataset already exists" } else { "File exists" }
}

fn missing(kind: Kind) -> &'static str {
    match kind {
        Kind::Zfspool => "could not find any snapshots to destroy; check snapshot names.",
        Kind::Lvmthin => "  Failed to find logical volume",
        Kind::Btrfs | Kind::Rbd | Kind::Dir => "No such file or directory",
    }
}

/// What the storage's tool says, as its plugin passes it on.
fn words(storage: &Storage, deed: Deed, volume: &str, snapshot: &str, reason: &str) -> Fail {
    let place = &storage.place;
    let vg = place.split('/').next().unwrap_or_default();
    let lv = format!("{vg}/snap_{volume}_{snapshot}");
    let mut said = None;
    let text = match (storage.kind, deed) {
        (Kind::Zfspool, Deed::Snapshot) => {
            format!("zfs error: cannot create snapshot '{place}/{volume}@{snapshot}': {reason}")
        }
        (Kind::Zfspool, Deed::Rollback) => {
            format!("zfs error: cannot rollback '{place}/{volume}': {reason}")
        }
        (Kind::Zfspool, Deed::Delete) if reason == missing(Kind::Zfspool) => {
            format!("zfs error: {reason}")
        }
        (Kind::Zfspool, Deed::Delete) => {
            format!("zfs error: cannot destroy snapshot {place}/{volume}@{snapshot}: {reason}")
        }
        (Kind::Lvmthin, Deed::Snapshot) => format!("lvcreate snapshot '{lv}' error: {reason}"),
        (Kind::Lvmthin, Deed::Rollback) => format!("lvm rollback '{lv}' error: {reason}"),
        (Kind::Lvmthin, Deed::Delete) => format!("lvremove snapshot '{lv}' error: {reason}"),
        (Kind::Rbd, Deed::Snapshot) => format!("rbd snapshot '{volume}' error: {reason}"),
        (Kind::Rbd, Deed::Rollback) => {
            format!("rbd snapshot {volume} to '{snapshot}' error: {reason}")
        }
        (Kind::Rbd, Deed::Delete) => format!("rbd snapshot '{snapshot}' error: {reason}"),
        (Kind::Btrfs | Kind::Dir, _) => {
            said = Some(format!("ERROR: {reason}"));
            let what = if deed == Deed::Delete { "delete" } else { "snapshot" };
            let path = format!("{place}/images/{volume}@{snapshot}");
            format!("command 'btrfs -q subvolume {what} -- {path}' failed: exit code 1")
        }
    };
    Fail { said, ..Fail::died(text) }
}
