//! A container: its configuration as Proxmox keeps it (keys and values, a description, snapshots
//! each with the configuration that they keep) and what answers inside it.

use crate::storage::Mount;
use crate::text;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Container {
    /// As in the file: `hostname`, `memory`, `rootfs`, `mp0`, `template`, `lock`, `parent` ...
    pub config: BTreeMap<String, String>,
    pub description: String,
    /// Changes that wait for the next start: new values, and under `delete` the keys that go.
    pub pending: BTreeMap<String, String>,
    pub running: bool,
    /// Its processes stand still.
    pub frozen: bool,
    /// A real process that stands for its first one: where its mounts are seen, and really frozen.
    pub init: Option<i32>,
    /// When it was started, in ms since 1970; 0 for long ago.
    pub started_ms: u64,
    pub snapshots: BTreeMap<String, Snapshot>,
    pub guest: Guest,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Snapshot {
    /// The configuration that was current, `parent` included.
    pub config: BTreeMap<String, String>,
    pub description: String,
    pub snaptime: i64,
    /// `prepare` or `delete` when it is not complete.
    pub snapstate: Option<String>,
}

/// What is inside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guest {
    /// After a start: until then nothing can be run inside.
    pub attach_ms: u64,
    /// After a start: until then systemd says `starting`.
    pub boot_ms: u64,
    /// After a start: until then systemd has not begun, and `systemctl` says `offline`.
    pub offline_ms: u64,
    /// After a start: then it stops by itself.
    pub dies_after_ms: Option<u64>,
    /// What systemd says after the boot (`running`, `degraded`); empty for a guest without systemd.
    pub systemd: String,
    /// A shutdown takes this long.
    pub shutdown_ms: u64,
    /// A shutdown does nothing.
    pub deaf: bool,
    pub journal: Vec<String>,
    pub exec: Vec<Answer>,
    /// A folder with its root file system: what nothing above answers is run there for real, files
    /// are pushed there, and a snapshot of the container copies it. Empty for a guest without one.
    pub root: String,
}

/// The answer to one command line; the first that fits is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    pub argv: Vec<String>,
    pub rc: i32,
    pub stdout: String,
    pub stderr: String,
    pub slow_ms: u64,
}

impl Default for Guest {
    fn default() -> Guest {
        Guest {
            attach_ms: 0,
            boot_ms: 0,
            offline_ms: 0,
            dies_after_ms: None,
            systemd: "running".to_owned(),
            shutdown_ms: 0,
            deaf: false,
            journal: Vec::new(),
            exec: Vec::new(),
            root: String::new(),
        }
    }
}

/// Numbers in JSON; everything else in a configuration is text.
const NUMBERS: [&str; 10] = [
    "memory",
    "swap",
    "cores",
    "cpuunits",
    "onboot",
    "unprivileged",
    "template",
    "protection",
    "console",
    "tty",
];

impl Container {
    pub fn settle(&mut self, now: u64) {
        let dies = self.guest.dies_after_ms.map(|ms| self.started_ms + ms);
        if self.running && self.started_ms > 0 && dies.is_some_and(|at| at <= now) {
            self.set_running(false, now);
        }
    }

    pub fn set_running(&mut self, running: bool, now: u64) {
        self.running = running;
        // A kill thaws, since the dead must be able to leave.
        self.frozen = false;
        self.started_ms = if running { now } else { 0 };
    }

    pub fn is_template(&self) -> bool {
        self.config.get("template").is_some_and(|value| value == "1")
    }

    pub fn status(&self) -> &'static str {
        if self.running { "running" } else { "stopped" }
    }

    pub fn lock(&self) -> Option<&str> {
        self.config.get("lock").map(String::as_str)
    }

    pub fn hostname(&self, vmid: u32) -> String {
        self.config.get("hostname").cloned().unwrap_or_else(|| format!("CT{vmid}"))
    }

    /// The file of the cluster's file system.
    pub fn conf(&self) -> String {
        let mut text = section(&self.description, &self.config, &[]);
        if !self.pending.is_empty() {
            let _ = write!(text, "\n[pve:pending]\n{}", section("", &self.pending, &[]));
        }
        for (name, snapshot) in &self.snapshots {
            let mut more = vec![("snaptime", snapshot.snaptime.to_string())];
            more.extend(snapshot.snapstate.clone().map(|state| ("snapstate", state)));
            let body = section(&snapshot.description, &snapshot.config, &more);
            let _ = write!(text, "\n[{name}]\n{body}");
        }
        text
    }

    pub fn digest(&self) -> String {
        let mut hex = String::new();
        for byte in Sha1::digest(self.conf().as_bytes()) {
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }

    /// What the API says of the configuration: as it will be after the next start, or as it is.
    pub fn config_json(&self, current: bool) -> Map<String, Value> {
        let mut config = self.config.clone();
        if !current {
            let deleted = self.pending.get("delete").map_or("", String::as_str);
            config.retain(|key, _| !deleted.split([',', ' ', ';']).any(|gone| gone == key));
            let new = self.pending.iter().filter(|(key, _)| *key != "delete");
            config.extend(new.map(|(key, value)| (key.clone(), value.clone())));
        }
        config_json(&config, &self.description, self.digest())
    }

    pub fn snapshot_json(&self, snapshot: &Snapshot) -> Map<String, Value> {
        let mut all = config_json(&snapshot.config, &snapshot.description, self.digest());
        all.insert("snaptime".to_owned(), json!(snapshot.snaptime));
        if let Some(state) = &snapshot.snapstate {
            all.insert("snapstate".to_owned(), json!(state));
        }
        all
    }

    /// A volume that the configuration no longer names becomes `unusedN`.
    pub fn add_unused(&mut self, volid: &str) {
        let used = mounts(&self.config).iter().any(|mount| mount.volid == volid);
        let listed = self.config.iter().any(|(key, value)| is_unused(key) && value == volid);
        if used || listed {
            return;
        }
        let free =
            (0..256).map(|n| format!("unused{n}")).find(|key| !self.config.contains_key(key));
        if let Some(key) = free {
            self.config.insert(key, volid.to_owned());
        }
    }
}

pub fn is_unused(key: &str) -> bool {
    key.strip_prefix("unused").is_some_and(|n| n.bytes().all(|byte| byte.is_ascii_digit()))
}

fn section(
    description: &str,
    config: &BTreeMap<String, String>,
    more: &[(&str, String)],
) -> String {
    let mut text = String::new();
    for line in text::lines(description) {
        let _ = writeln!(text, "#{}", text::encode(line));
    }
    let own = config.iter().map(|(key, value)| (key.as_str(), value));
    let all: BTreeMap<_, _> = own.chain(more.iter().map(|(key, value)| (*key, value))).collect();
    for (key, value) in all {
        let _ = writeln!(text, "{key}: {value}");
    }
    text
}

fn config_json(
    config: &BTreeMap<String, String>,
    description: &str,
    digest: String,
) -> Map<String, Value> {
    let mut all = Map::new();
    // What is LXC's own comes as a list of pairs.
    let raw = config.iter().filter(|(key, _)| key.starts_with("lxc.")).collect::<Vec<_>>();
    if !raw.is_empty() {
        all.insert("lxc".to_owned(), json!(raw));
    }
    for (key, value) in config.iter().filter(|(key, _)| !key.starts_with("lxc.")) {
        let number = NUMBERS.contains(&key.as_str()).then(|| value.parse::<i64>().ok()).flatten();
        all.insert(key.clone(), number.map_or_else(|| json!(value), |number| json!(number)));
    }
    let description = text::read_back(description);
    if !description.is_empty() {
        all.insert("description".to_owned(), json!(description));
    }
    all.insert("digest".to_owned(), json!(digest));
    all
}

/// The mount points in Proxmox's order: rootfs, then mp0, mp1, ...
pub fn mounts(config: &BTreeMap<String, String>) -> Vec<Mount> {
    let mut all: Vec<(u32, Mount)> = Vec::new();
    for (key, value) in config {
        let place = match key.strip_prefix("mp").map(str::parse::<u32>) {
            _ if key == "rootfs" => 0,
            Some(Ok(n)) => n + 1,
            _ => continue,
        };
        all.push((place, Mount::parse(key, value)));
    }
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, mount)| mount).collect()
}
