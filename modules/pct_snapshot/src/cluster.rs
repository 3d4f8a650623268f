//! The cluster's configuration: nodes, quorum, HA, replication, storages.
//!
//! `/etc/pve` is read as files, since each call of `pvesh` costs a second. Where it is not the cluster's
//! file system, `pvesh` is asked. Nothing is ever written there.

use crate::names::Vmid;
use crate::pvesh::Pvesh;
use anyhow::{Context, Result};
use host::none_if_missing;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub const ROOT: &str = "/etc/pve";
/// A file of the cluster's file system itself. If it exists, a missing configuration file means that nothing of
/// its kind is configured.
const VERSION_FILE: &str = ".version";

#[derive(Clone, Debug)]
pub struct Cluster {
    root: PathBuf,
    pub node: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    pub kind: String,
    /// For `zfspool`: the dataset with the volumes.
    pub pool: Option<String>,
    /// For `lvmthin`: the volume group.
    pub group: Option<String>,
    pub thin_pool: Option<String>,
}

/// Which snapshots of a volume it can be rolled back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only the newest one.
    Newest,
    Any,
    /// The storage has no snapshots.
    None,
    /// The type of the storage is unknown.
    Unknown,
}

impl Storage {
    /// Makes a storage from its configuration; `key` returns the value of a key.
    fn new(kind: String, mut key: impl FnMut(&str) -> Option<String>) -> Storage {
        let (pool, group, thin_pool) = (key("pool"), key("vgname"), key("thinpool"));
        Storage { kind, pool, group, thin_pool }
    }

    /// Returns the thin pool in the notation of LVM, `group/pool`.
    pub fn thin_pool(&self) -> Option<String> {
        Some(format!("{}/{}", self.group.as_ref()?, self.thin_pool.as_ref()?))
    }

    pub fn reach(&self) -> Reach {
        match self.kind.as_str() {
            "zfspool" => Reach::Newest,
            "lvmthin" | "btrfs" | "rbd" => Reach::Any,
            "dir" | "nfs" | "cifs" | "glusterfs" | "cephfs" | "lvm" => Reach::None,
            _ => Reach::Unknown,
        }
    }
}

pub type Storages = BTreeMap<String, Storage>;

impl Cluster {
    pub fn find(root: &Path) -> Cluster {
        let local = fs::read_link(root.join("local")).ok();
        let named = local.as_deref().and_then(Path::file_name);
        // Proxmox accepts this word for the node of the request.
        let here = || "localhost".to_owned();
        let node = named.map_or_else(here, |name| name.to_string_lossy().into_owned());
        Cluster { root: root.to_owned(), node }
    }

    pub fn has_files(&self) -> bool {
        self.root.join(VERSION_FILE).exists() || self.root.join("local/lxc").is_dir()
    }

    /// Whether the cluster has quorum: without it the folders of configurations lose their write bit.
    pub fn has_quorum(&self, pvesh: Option<&Pvesh>) -> Result<bool> {
        if let Ok(folder) = fs::metadata(self.root.join("local")) {
            return Ok(folder.mode() & 0o200 != 0);
        }
        let Some(pvesh) = pvesh else { return Ok(true) };
        let rows = pvesh.get("/cluster/status", &[])?;
        let cluster = rows.as_array().into_iter().flatten().find(|row| row["type"] == "cluster");
        // A single node is not a cluster and needs no quorum.
        Ok(cluster.is_none_or(|row| is_true(&row["quorate"])))
    }

    /// Finds the node of this id, and whether it is a virtual machine.
    pub fn node_of(&self, vmid: Vmid, pvesh: Option<&Pvesh>) -> Option<(String, bool)> {
        for node in fs::read_dir(self.root.join("nodes")).into_iter().flatten().flatten() {
            let name = || node.file_name().to_string_lossy().into_owned();
            for (folder, is_vm) in [("lxc", false), ("qemu-server", true)] {
                if node.path().join(folder).join(format!("{vmid}.conf")).exists() {
                    return Some((name(), is_vm));
                }
            }
        }
        let rows = pvesh?.get("/cluster/resources", &[("type", "vm")]).ok()?;
        let wanted = vmid.to_string();
        let row = rows.as_array()?.iter().find(|row| text(&row["vmid"]) == wanted)?;
        Some((text(&row["node"]), row["type"] == "qemu"))
    }

    /// Returns the state that HA wants, if it manages the container.
    pub fn ha(&self, vmid: Vmid, pvesh: Option<&Pvesh>) -> Result<Option<String>> {
        if self.has_files() {
            let sections = self.sections("ha/resources.cfg")?;
            let ours = |section: &Section| {
                matches!(section.kind.as_str(), "ct" | "service") && section.id == vmid.to_string()
            };
            let found = sections.into_iter().find(ours);
            let wanted = |section: Section| {
                section.keys.get("state").cloned().unwrap_or_else(|| "started".to_owned())
            };
            return Ok(found.map(wanted).filter(|state| state != "ignored"));
        }
        let Some(pvesh) = pvesh else { return Ok(None) };
        let path = format!("/nodes/{}/lxc/{vmid}/status/current", self.node);
        let ha = pvesh.get(&path, &[])?["ha"].take();
        let state = Some(text(&ha["state"])).filter(|state| !state.is_empty());
        let state = state.unwrap_or_else(|| "started".to_owned());
        Ok(is_true(&ha["managed"]).then_some(state).filter(|state| state != "ignored"))
    }

    /// Returns the nodes that this container is replicated to.
    pub fn replicated_to(&self, vmid: Vmid, pvesh: Option<&Pvesh>) -> Result<Vec<String>> {
        if self.has_files() {
            let begin = format!("{vmid}-");
            let sections = self.sections("replication.cfg")?.into_iter();
            return Ok(sections
                .filter(|section| section.id.starts_with(&begin))
                .filter_map(|mut section| section.keys.remove("target"))
                .collect());
        }
        let Some(pvesh) = pvesh else { return Ok(Vec::new()) };
        let path = format!("/nodes/{}/replication", self.node);
        let rows = pvesh.get(&path, &[("guest", &vmid.to_string())])?;
        Ok(rows.as_array().into_iter().flatten().map(|row| text(&row["target"])).collect())
    }

    pub fn storages(&self, pvesh: Option<&Pvesh>) -> Result<Storages> {
        if self.root.join("storage.cfg").exists() {
            let sections = self.sections("storage.cfg")?.into_iter();
            return Ok(sections
                .map(|mut section| {
                    let keys = &mut section.keys;
                    (section.id, Storage::new(section.kind, |key| keys.remove(key)))
                })
                .collect());
        }
        let Some(pvesh) = pvesh else { return Ok(Storages::new()) };
        let rows = pvesh.get("/storage", &[])?;
        let described = |row: &Value| {
            let storage =
                Storage::new(text(&row["type"]), |key| row[key].as_str().map(str::to_owned));
            (text(&row["storage"]), storage)
        };
        Ok(rows.as_array().into_iter().flatten().map(described).collect())
    }

    fn sections(&self, file: &str) -> Result<Vec<Section>> {
        // The file is created with its first section.
        Ok(sections(&self.text(file)?.unwrap_or_default()))
    }

    /// Reads the file of a container of this node, if there is one.
    pub fn conf_file(&self, vmid: Vmid) -> Result<Option<String>> {
        self.text(&format!("local/lxc/{vmid}.conf"))
    }

    fn text(&self, file: &str) -> Result<Option<String>> {
        let path = self.root.join(file);
        let bytes = none_if_missing(fs::read(&path))
            .with_context(|| format!("reading {}", path.display()))?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

struct Section {
    kind: String,
    id: String,
    keys: BTreeMap<String, String>,
}

/// Parses a configuration file with sections: `type: id`, then indented `key value` lines.
fn sections(text: &str) -> Vec<Section> {
    let mut all: Vec<Section> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            let line = line.trim();
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            if let Some(section) = all.last_mut() {
                section.keys.insert(key.to_owned(), value.trim().to_owned());
            }
        } else if let Some((kind, id)) = line.split_once(':') {
            let (kind, id) = (kind.trim().to_owned(), id.trim().to_owned());
            all.push(Section { kind, id, keys: BTreeMap::new() });
        }
    }
    all
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn is_true(value: &Value) -> bool {
    matches!(text(value).as_str(), "1" | "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_a_file() {
        let text = "# storages\ndir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl\n\nzfspool: zp\n\tpool rpool/data\n\tsparse\n";
        let found = sections(text);
        let shown: Vec<(&str, &str)> =
            found.iter().map(|section| (section.kind.as_str(), section.id.as_str())).collect();
        assert_eq!(shown, [("dir", "local"), ("zfspool", "zp")]);
        assert_eq!(found[1].keys["pool"], "rpool/data");
        assert_eq!(found[1].keys["sparse"], "");
    }

    #[test]
    fn a_folder_of_a_cluster() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(VERSION_FILE), "{}").unwrap();
        let at = |path: &str| root.path().join(path);
        let write = |path: &str, text: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        };
        write(
            "nodes/pve1/lxc/101.conf",
            "arch: amd64\n\n[one]\n#note\nmp0: zp:a,mp=/a\n\n[two]\nrootfs: zp:b\n",
        );
        write("nodes/pve2/lxc/201.conf", "");
        write("nodes/pve2/qemu-server/900.conf", "");
        write(
            "ha/resources.cfg",
            "ct: 101\n\tstate stopped\n\nct: 102\n\tstate ignored\n\nvm: 103\n",
        );
        write("replication.cfg", "local: 101-0\n\ttarget pve2\n\nlocal: 1010-0\n\ttarget pve3\n");
        write(
            "storage.cfg",
            "zfspool: zp\n\tpool rpool/data\n\nlvmthin: local-lvm\n\tthinpool data\n\tvgname pve\n",
        );
        std::os::unix::fs::symlink("nodes/pve1", at("local")).unwrap();
        let cluster = Cluster::find(root.path());
        let vmid = |text| Vmid::parse(text).unwrap();
        assert_eq!(cluster.node, "pve1");
        assert!(cluster.has_quorum(None).unwrap());
        assert_eq!(cluster.node_of(vmid("201"), None), Some(("pve2".into(), false)));
        assert_eq!(cluster.node_of(vmid("900"), None), Some(("pve2".into(), true)));
        assert_eq!(cluster.node_of(vmid("500"), None), None);
        assert_eq!(cluster.ha(vmid("101"), None).unwrap().as_deref(), Some("stopped"));
        assert_eq!(cluster.ha(vmid("102"), None).unwrap(), None);
        assert_eq!(cluster.ha(vmid("103"), None).unwrap(), None);
        fs::remove_file(at(VERSION_FILE)).unwrap();
        assert_eq!(cluster.ha(vmid("101"), None).unwrap().as_deref(), Some("stopped"));
        let storages = cluster.storages(None).unwrap();
        assert_eq!(storages["zp"].pool.as_deref(), Some("rpool/data"));
        assert_eq!(storages["zp"].thin_pool(), None);
        assert_eq!(storages["local-lvm"].thin_pool().as_deref(), Some("pve/data"));
        assert_eq!(cluster.replicated_to(vmid("101"), None).unwrap(), ["pve2"]);
        let text = cluster.conf_file(vmid("101")).unwrap();
        assert!(text.is_some_and(|text| text.contains("[two]")));
        assert_eq!(cluster.conf_file(vmid("201")).unwrap(), None, "it is another node's");
    }
}
