//! The world as one typed value: what tests write into `world.json` and what every call reads and
//! changes. Invariant: an unknown field is refused, so that a test cannot set something that
//! nothing obeys; whatever is left out has a default that stands for a healthy node.

use crate::container::Container;
use crate::fail::Fail;
use crate::storage::{Storage, Volume};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct World {
    pub node: String,
    /// The cluster's name; none for a single node.
    pub cluster: Option<String>,
    /// The other nodes of the cluster.
    pub nodes: Vec<String>,
    pub quorate: bool,
    /// False: every call is answered as one who is not root is answered.
    pub root: bool,
    /// Whether the cluster's file system is up: without it every call is refused.
    pub pmxcfs: bool,
    /// The version of the control groups, 1 or 2.
    pub cgroups: u8,
    pub storages: BTreeMap<String, Storage>,
    pub containers: BTreeMap<u32, Container>,
    /// The containers of other nodes.
    pub others: BTreeMap<u32, Other>,
    /// What the volumes hold, by their ids. A volume that is not named here is empty.
    pub volumes: BTreeMap<String, Volume>,
    /// Managed by HA: `ct:301` and the state that HA wants (`started`, `stopped`).
    pub ha: BTreeMap<String, String>,
    pub replication: Vec<Replication>,
    /// The time that snapshots and tasks get, in seconds since 1970; by default the real one.
    pub clock: Option<i64>,
    /// Seconds that this machine's clock is ahead.
    pub clock_offset: i64,
    /// What happens by itself.
    pub events: Vec<Event>,
    /// Kept by the fake: tasks, and how often each command was called.
    pub tasks: Vec<Task>,
    pub calls: u64,
    pub counts: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    pub node: String,
    #[serde(default)]
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    pub guest: u32,
    pub target: String,
}

/// A change to the world, as a JSON merge patch, when its time has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    pub patch: Value,
    #[serde(default)]
    pub at_ms: Option<u64>,
    /// After the first call that sees this event.
    #[serde(default)]
    pub after_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    pub upid: String,
    pub pid: i32,
    pub kind: String,
    pub id: String,
    pub starttime: i64,
    #[serde(default)]
    pub endtime: Option<i64>,
    #[serde(default)]
    pub status: Option<String>,
}

impl Default for World {
    fn default() -> World {
        World {
            node: "pve1".to_owned(),
            cluster: None,
            nodes: Vec::new(),
            quorate: true,
            root: true,
            pmxcfs: true,
            cgroups: 2,
            storages: BTreeMap::new(),
            containers: BTreeMap::new(),
            others: BTreeMap::new(),
            volumes: BTreeMap::new(),
            ha: BTreeMap::new(),
            replication: Vec::new(),
            clock: None,
            clock_offset: 0,
            events: Vec::new(),
            tasks: Vec::new(),
            calls: 0,
            counts: BTreeMap::new(),
        }
    }
}

pub fn real_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl World {
    pub fn now(&self) -> i64 {
        let real = i64::try_from(real_ms() / 1000).unwrap_or_default();
        self.clock.unwrap_or(real) + self.clock_offset
    }

    /// The container, or the words with which Proxmox says that this node has none.
    pub fn container(&self, vmid: u32, rc: i32) -> Result<&Container, Fail> {
        self.containers.get(&vmid).ok_or_else(|| no_such(&self.node, vmid, rc))
    }

    pub fn container_mut(&mut self, vmid: u32, rc: i32) -> Result<&mut Container, Fail> {
        let node = &self.node;
        self.containers.get_mut(&vmid).ok_or_else(|| no_such(node, vmid, rc))
    }

    pub fn running(&self, vmid: u32) -> bool {
        self.containers.get(&vmid).is_some_and(|container| container.running)
    }

    /// What HA manages is only asked for by `pct`, and happens later.
    pub fn not_managed(&self, vmid: u32) -> Result<(), Fail> {
        if self.ha.contains_key(&format!("ct:{vmid}")) {
            return Err(Fail::fake("starts and stops by HA are not part of this"));
        }
        Ok(())
    }

    /// Writing a configuration needs quorum: the cluster's file system refuses it otherwise.
    pub fn may_write(&self, vmid: u32) -> Result<(), Fail> {
        if self.quorate {
            return Ok(());
        }
        let (node, pid) = (&self.node, std::process::id());
        Err(Fail::died(format!(
            "unable to open file '/etc/pve/nodes/{node}/lxc/{vmid}.conf.tmp.{pid}' - \
             Permission denied"
        )))
    }

    /// Whatever has happened by itself since the last call.
    pub fn settle(mut self) -> Result<World, Fail> {
        let now = real_ms();
        for event in &mut self.events {
            if let Some(ms) = event.after_ms.take() {
                event.at_ms = Some(now + ms);
            }
        }
        let due = |event: &Event| event.at_ms.is_none_or(|at| at <= now);
        let all = std::mem::take(&mut self.events);
        let (past, future): (Vec<_>, Vec<_>) = all.into_iter().partition(due);
        self.events = future;
        let mut world = self;
        for event in past {
            world = world.patched(&event.patch)?;
        }
        for container in world.containers.values_mut() {
            container.settle(now);
        }
        Ok(world)
    }

    pub fn patched(&self, patch: &Value) -> Result<World, Fail> {
        let mut value = serde_json::to_value(self)?;
        merge(&mut value, patch);
        Ok(serde_json::from_value(value)?)
    }
}

fn no_such(node: &str, vmid: u32, rc: i32) -> Fail {
    Fail::new(rc, format!("Configuration file 'nodes/{node}/lxc/{vmid}.conf' does not exist"))
}

/// JSON merge patch: objects are merged, null removes, all else replaces.
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = value else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}
