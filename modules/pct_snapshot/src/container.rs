//! The configuration, mount points and snapshots of a container. No I/O here.
//!
//! Invariant: a snapshot counts as ours only by its marker, never by its name.

use crate::marker::{Kind, Marker};
use host::clock::Utc;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The current configuration, or that of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub lock: Option<String>,
    pub parent: Option<String>,
    pub hostname: Option<String>,
    pub template: bool,
    pub mounts: Vec<Mount>,
    /// Folders of the node that LXC itself mounts (`lxc.mount.entry`), and where: no snapshot has them.
    pub entries: Vec<String>,
    pub description: String,
    pub snaptime: i64,
    /// `prepare` or `delete` when a snapshot is incomplete.
    pub snapstate: Option<String>,
}

/// `rootfs` or `mpN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub key: String,
    pub source: Source,
    /// The path in the container.
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Volume {
        storage: String,
        name: String,
    },
    /// A folder of the node.
    Bind(String),
    /// A device of the node.
    Device(String),
}

impl Mount {
    fn parse(key: &str, value: &str) -> Mount {
        let mut parts = value.split(',');
        let first = parts.next().unwrap_or_default();
        let volume = first.strip_prefix("volume=").unwrap_or(first);
        let path = parts.find_map(|part| part.strip_prefix("mp="));
        let source = match volume.split_once(':') {
            _ if volume.starts_with("/dev/") => Source::Device(volume.to_owned()),
            _ if volume.starts_with('/') => Source::Bind(volume.to_owned()),
            Some((storage, name)) => {
                Source::Volume { storage: storage.to_owned(), name: name.to_owned() }
            }
            None => Source::Volume { storage: String::new(), name: volume.to_owned() },
        };
        let path = path.unwrap_or(if key == "rootfs" { "/" } else { "" }).to_owned();
        Mount { key: key.to_owned(), source, path }
    }

    pub fn is_volume(&self) -> bool {
        matches!(self.source, Source::Volume { .. })
    }

    pub fn storage(&self) -> Option<&str> {
        match &self.source {
            Source::Volume { storage, .. } => Some(storage),
            Source::Bind(_) | Source::Device(_) => None,
        }
    }

    /// Describes the mount point for messages.
    pub fn title(&self) -> String {
        let Mount { key, path, .. } = self;
        match &self.source {
            Source::Volume { storage, name } => format!("{key} ({path}, {storage}:{name})"),
            Source::Bind(folder) => format!("{key} ({path}, a bind mount of {folder})"),
            Source::Device(device) => format!("{key} ({path}, the device {device})"),
        }
    }
}

impl Config {
    pub fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, String)>) -> Config {
        let mut config = Config::default();
        for (key, value) in pairs {
            match key {
                "lock" => config.lock = Some(value),
                "parent" => config.parent = Some(value),
                "hostname" => config.hostname = Some(value),
                "template" => config.template = value != "0",
                "description" => config.description = value,
                "snaptime" => config.snaptime = value.parse().unwrap_or_default(),
                "snapstate" => config.snapstate = Some(value),
                "lxc.mount.entry" => config.entries.extend(folder_of_node(&value)),
                key if is_mount(key) => config.mounts.push(Mount::parse(key, &value)),
                _ => {}
            }
        }
        // mp2 before mp10.
        config
            .mounts
            .sort_by_key(|mount| (mount.key != "rootfs", mount.key.len(), mount.key.clone()));
        config
    }
}

/// Parses `/srv/shared srv/shared none bind,create=dir`, and ignores mounts without data of their own.
fn folder_of_node(entry: &str) -> Option<String> {
    let mut words = entry.split_whitespace();
    let (source, target) = (words.next()?, words.next()?);
    let is_data = !["/dev", "/proc", "/sys", "/run"].iter().any(|top| {
        source.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    (source.starts_with('/') && is_data)
        .then(|| format!("{source} (at /{})", target.trim_start_matches('/')))
}

fn is_mount(key: &str) -> bool {
    let number = key.strip_prefix("mp");
    key == "rootfs"
        || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub name: String,
    pub description: String,
    /// Seconds since 1970; 0 if Proxmox does not know the time.
    pub time: i64,
    pub parent: Option<String>,
    /// `prepare` or `delete` when it is incomplete.
    pub state: Option<String>,
    pub marker: Option<Marker>,
    pub bytes: Option<u64>,
    /// Why ZFS could not remove it.
    pub needed: Option<String>,
}

impl Snapshot {
    pub fn new(name: &str, description: &str, time: i64) -> Snapshot {
        Snapshot {
            name: name.to_owned(),
            description: description.to_owned(),
            time,
            parent: None,
            state: None,
            marker: Marker::read(description),
            bytes: None,
            needed: None,
        }
    }

    pub fn is_of(&self, kind: Kind) -> bool {
        self.marker.as_ref().is_some_and(|marker| marker.kind == kind)
    }

    pub fn is_complete(&self) -> bool {
        self.state.is_none()
    }

    pub fn deploy(&self) -> Option<&str> {
        self.marker.as_ref()?.deploy.as_deref()
    }

    pub fn when(&self) -> Option<Utc> {
        Some(self.time).filter(|time| *time > 0).and_then(Utc::from_unix)
    }

    /// Returns the name and the time for messages.
    pub fn title(&self) -> String {
        match self.when() {
            Some(when) => format!("{} ({when})", self.name),
            None => self.name.clone(),
        }
    }
}

/// All snapshots of a container.
#[derive(Clone, Debug, Default)]
pub struct Snapshots {
    /// The oldest first.
    pub all: Vec<Snapshot>,
    /// The snapshot that the current state is based on.
    pub parent: Option<String>,
    pub running: bool,
}

impl Snapshots {
    pub fn new(mut all: Vec<Snapshot>, parent: Option<String>, running: bool) -> Snapshots {
        all.sort_by(|a, b| (a.time, &a.name).cmp(&(b.time, &b.name)));
        // Snapshots of the same second are sorted by their parents.
        let order: BTreeMap<String, usize> =
            all.iter().map(|snapshot| (snapshot.name.clone(), depth(&all, snapshot))).collect();
        all.sort_by_key(|snapshot| (snapshot.time, order.get(&snapshot.name).copied()));
        Snapshots { all, parent, running }
    }

    pub fn find(&self, name: &str) -> Option<&Snapshot> {
        self.all.iter().find(|snapshot| snapshot.name == name)
    }

    /// Returns the snapshots taken after `target`, the newest first.
    pub fn newer_than<'a>(&'a self, target: &'a Snapshot) -> Vec<&'a Snapshot> {
        let at = self.all.iter().position(|snapshot| snapshot.name == target.name);
        let after = at.map_or(&[][..], |at| &self.all[at + 1..]);
        after.iter().rev().collect()
    }

    /// Returns the state for `before` and `after`.
    pub fn view(&self) -> Value {
        let names: Vec<&str> = self.all.iter().map(|snapshot| snapshot.name.as_str()).collect();
        view(self.running, self.parent.as_deref(), &names)
    }
}

pub fn view(running: bool, parent: Option<&str>, names: &[&str]) -> Value {
    json!({ "running": running, "parent": parent, "snapshots": names })
}

fn depth(all: &[Snapshot], of: &Snapshot) -> usize {
    let (mut depth, mut at) = (0, of);
    // At most as many steps as snapshots, so that a cycle of parents ends.
    while depth < all.len() {
        let parent = at.parent.as_ref().and_then(|name| all.iter().find(|one| one.name == *name));
        let Some(parent) = parent else { break };
        (depth, at) = (depth + 1, parent);
    }
    depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_of_each_kind() {
        let pairs = [
            ("mp10", "local-lvm:vm-101-disk-2,mp=/var/big,size=8G"),
            ("mp2", "/srv/shared,mp=/shared,ro=1"),
            ("mp1", "/dev/sdb1,mp=/raw"),
            ("rootfs", "volume=zp:subvol-101-disk-0,size=4G"),
            ("mpx", "not one"),
            ("lock", "backup"),
            ("template", "1"),
            ("lxc.mount.entry", "/srv/shared srv/shared none bind,create=dir 0 0"),
            ("lxc.mount.entry", "/dev/net/tun dev/net/tun none bind,create=file"),
            ("lxc.mount.entry", "tmpfs tmp tmpfs size=1G"),
        ];
        let config =
            Config::from_pairs(pairs.into_iter().map(|(key, value)| (key, value.to_owned())));
        let titles: Vec<String> = config.mounts.iter().map(Mount::title).collect();
        assert_eq!(
            titles,
            [
                "rootfs (/, zp:subvol-101-disk-0)",
                "mp1 (/raw, the device /dev/sdb1)",
                "mp2 (/shared, a bind mount of /srv/shared)",
                "mp10 (/var/big, local-lvm:vm-101-disk-2)",
            ]
        );
        assert_eq!(config.entries, ["/srv/shared (at /srv/shared)"]);
        assert!(config.template && config.lock.as_deref() == Some("backup"));
    }

    #[test]
    fn newer_ones_the_newest_first_also_within_a_second() {
        let mut all = vec![
            Snapshot::new("c", "", 20),
            Snapshot::new("a", "", 20),
            Snapshot::new("b", "", 20),
            Snapshot::new("z", "", 10),
        ];
        for (at, parent) in [(0, "z"), (1, "c"), (2, "a")] {
            all[at].parent = Some(parent.to_owned());
        }
        let snapshots = Snapshots::new(all, Some("b".into()), true);
        let names = |of: &str| -> Vec<String> {
            let target = snapshots.find(of).unwrap();
            snapshots.newer_than(target).iter().map(|one| one.name.clone()).collect()
        };
        assert_eq!(names("z"), ["b", "a", "c"]);
        assert_eq!(names("c"), ["b", "a"]);
        assert!(names("b").is_empty());
    }

    #[test]
    fn a_ring_of_parents_ends() {
        let mut all = vec![Snapshot::new("a", "", 1), Snapshot::new("b", "", 1)];
        all[0].parent = Some("b".into());
        all[1].parent = Some("a".into());
        assert_eq!(Snapshots::new(all, None, false).all.len(), 2);
    }
}
