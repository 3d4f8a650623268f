//! `pvesh get <path> --output-format json`: reads Proxmox's API.
//!
//! Only `get` is used: `create` and `delete` exit with 0 even if the task failed.

use crate::container::{Config, Snapshot, Snapshots};
use anyhow::{Context, Result};
use host::command::{Command, IfWeDie};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// It answers in a second or two, but takes longer on an overloaded node.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// An element of `pvesh get /nodes/<node>/lxc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub vmid: u32,
    pub running: bool,
    pub lock: Option<String>,
    pub name: String,
}

#[derive(Debug)]
pub struct Pvesh {
    pub program: PathBuf,
    pub node: String,
}

impl Pvesh {
    pub fn get(&self, path: &str, options: &[(&str, &str)]) -> Result<Value> {
        let output = get(&self.program, path, options)?;
        parse(&output).with_context(|| format!("reading what pvesh get {path} answered"))
    }

    fn of_container(&self, vmid: u32, what: &str) -> String {
        format!("/nodes/{}/lxc/{vmid}/{what}", self.node)
    }

    pub fn config(&self, vmid: u32, snapshot: Option<&str>) -> Result<Config> {
        // Without `current` it returns the configuration after the next start.
        let option = snapshot.map_or(("current", "1"), |name| ("snapshot", name));
        config(&self.get(&self.of_container(vmid, "config"), &[option])?)
    }

    pub fn snapshots(&self, vmid: u32) -> Result<Snapshots> {
        snapshots(self.get(&self.of_container(vmid, "snapshot"), &[])?)
    }

    pub fn list(&self) -> Result<Vec<Listed>> {
        list(self.get(&format!("/nodes/{}/lxc", self.node), &[])?)
    }

    /// Tasks of this container that run now, as `(type, UPID)`.
    pub fn active_tasks(&self, vmid: u32) -> Result<Vec<(String, String)>> {
        let vmid = vmid.to_string();
        let path = format!("/nodes/{}/tasks", self.node);
        tasks(self.get(&path, &[("source", "active"), ("vmid", &vmid)])?, &vmid)
    }
}

fn get(program: &Path, path: &str, options: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut command = Command::new(program).env("LC_ALL", "C.UTF-8").args(["get", path]);
    for (name, value) in options {
        command = command.arg(format!("--{name}")).arg(value);
    }
    let command = command.args(["--output-format", "json"]).deadline(QUERY_TIMEOUT);
    let output = command.if_we_die(IfWeDie::DiesToo).run()?;
    anyhow::ensure!(output.truncated == 0, "pvesh get {path} answered more than can be read");
    Ok(output.stdout)
}

/// Parses JSON. Descriptions may have any encoding: bytes that are not UTF-8 are replaced.
fn parse(bytes: &[u8]) -> Result<Value> {
    Ok(serde_json::from_str(&String::from_utf8_lossy(bytes))?)
}

fn config(value: &Value) -> Result<Config> {
    let map: &Map<String, Value> = value.as_object().context("expected an object")?;
    let own = map.iter().map(|(key, value)| (key.as_str(), text(value)));
    // `"lxc": [["lxc.mount.entry", "..."], ...]`
    let raw = map.get("lxc").and_then(Value::as_array).into_iter().flatten();
    let raw = raw.filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?.to_owned())));
    Ok(Config::from_pairs(own.chain(raw)))
}

/// Reads a text or a number, since that depends on the version of Proxmox.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

fn snapshots(value: Value) -> Result<Snapshots> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        #[serde(default)]
        description: Value,
        #[serde(default)]
        snaptime: Value,
        parent: Option<String>,
        snapstate: Option<String>,
        #[serde(default)]
        running: Value,
    }
    let rows: Vec<Row> = serde_json::from_value(value)?;
    let (mut all, mut parent, mut running) = (Vec::new(), None, None);
    for row in rows {
        if row.name == "current" {
            (parent, running) = (row.parent, Some(number(&row.running) != 0));
            continue;
        }
        let description = row.description.as_str().unwrap_or_default();
        let mut snapshot = Snapshot::new(&row.name, description, number(&row.snaptime));
        (snapshot.parent, snapshot.state) = (row.parent, row.snapstate);
        all.push(snapshot);
    }
    let running = running.context("the current state is missing in it")?;
    Ok(Snapshots::new(all, parent, running))
}

fn list(value: Value) -> Result<Vec<Listed>> {
    #[derive(Deserialize)]
    struct Row {
        vmid: Value,
        status: String,
        #[serde(default)]
        lock: Option<String>,
        #[serde(default)]
        name: Option<String>,
    }
    let rows: Vec<Row> = serde_json::from_value(value)?;
    let mut all: Vec<Listed> = (rows.into_iter())
        .map(|row| Listed {
            vmid: u32::try_from(number(&row.vmid)).unwrap_or_default(),
            running: row.status == "running",
            lock: row.lock.filter(|lock| !lock.is_empty()),
            name: row.name.unwrap_or_default(),
        })
        .collect();
    all.sort_by_key(|one| one.vmid);
    Ok(all)
}

fn tasks(value: Value, vmid: &str) -> Result<Vec<(String, String)>> {
    #[derive(Deserialize)]
    struct Row {
        upid: String,
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        id: Value,
        #[serde(default)]
        endtime: Value,
    }
    let rows: Vec<Row> = serde_json::from_value(value)?;
    let running = rows.into_iter().filter(|row| text(&row.id) == vmid && number(&row.endtime) == 0);
    Ok(running.filter(|row| may_live(&row.upid)).map(|row| (row.kind, row.upid)).collect())
}

/// Whether the process of a task may be alive: after a crash Proxmox lists the task as running until its next
/// check. The UPID has the pid in hex: `UPID:<node>:<pid>:<start>:...`. A reused pid only makes the task wait.
fn may_live(upid: &str) -> bool {
    let pid = upid.split(':').nth(2).and_then(|pid| u32::from_str_radix(pid, 16).ok());
    pid.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn snapshots_in_any_order() {
        let answer = br#"[{"name":"b","snaptime":20,"description":"caf\xe9","parent":"a"},
            {"name":"current","digest":"x","running":1,"parent":"b","description":"You are here!"},
            {"name":"a","snaptime":"10","description":"x\n[reversible.deploy 1 restore-point]\n","snapstate":"prepare"}]"#;
        let text = String::from_utf8_lossy(answer).replace("\\xe9", "\u{e9}");
        let seen = snapshots(parse(text.as_bytes()).unwrap()).unwrap();
        let names: Vec<&str> = seen.all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(seen.parent.as_deref(), Some("b"));
        assert!(seen.running && !seen.all[0].is_complete() && seen.all[0].marker.is_some());
        assert!(snapshots(json!([])).is_err());
    }

    #[test]
    fn odd_bytes_do_not_hide_the_rest() {
        let value = parse(b"[{\"name\":\"a\",\"description\":\"caf\xe9\"}]").unwrap();
        assert_eq!(value[0]["description"], "caf\u{fffd}");
    }

    #[test]
    fn a_configuration_with_numbers() {
        let read = config(
            &json!({"template": 1, "rootfs": "zp:a,size=4G", "cores": 2, "lxc": [["a", "b"], ["lxc.mount.entry", "/srv x none bind"]]}),
        );
        let read = read.unwrap();
        assert_eq!(read.entries, ["/srv (at /x)"]);
        assert!(read.template && read.lock.is_none() && read.mounts.len() == 1);
    }

    #[test]
    fn tasks_that_run_now() {
        let rows = json!([
            {"upid": "UPID:a", "type": "vzsnapshot", "id": "101"},
            {"upid": "UPID:a:7FFFFFFF:1", "type": "vzsnapshot", "id": "101"},
            {"upid": "UPID:b", "type": "vzsnapshot", "id": "102"},
            {"upid": "UPID:c", "type": "vzstart", "id": "101", "endtime": 7},
        ]);
        assert_eq!(tasks(rows, "101").unwrap(), [("vzsnapshot".into(), "UPID:a".into())]);
    }
}
