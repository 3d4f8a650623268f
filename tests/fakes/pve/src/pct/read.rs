//! `pct list`, `status`, `config`, `listsnapshot`, and the same as the API's values.

use crate::args::Args;
use crate::call::Call;
use crate::container::{Container, mounts};
use crate::fail::Fail;
use crate::text;
use crate::world::{World, real_ms};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A missing container ends a reading command with the errno of the missing file.
const ENOENT: i32 = 2;

pub fn list(call: &Call, _: &Args) -> Result<i32, Fail> {
    let world = call.world()?;
    let row = |id: &str, status: &str, lock: &str, name: &str| {
        call.say(&format!("{id:<10} {status:<10} {lock:<12} {name:<20}\n"));
    };
    if !world.containers.is_empty() {
        row("VMID", "Status", "Lock", "Name");
    }
    for (vmid, container) in &world.containers {
        let lock = container.lock().unwrap_or_default();
        row(&vmid.to_string(), status_word(container), lock, &container.hostname(*vmid));
    }
    call.point("end")?;
    Ok(0)
}

fn status_word(container: &Container) -> &'static str {
    if container.running { "running" } else { "stopped" }
}

pub fn status(call: &Call, args: &Args) -> Result<i32, Fail> {
    let world = call.world()?;
    let container = world.container(args.vmid(), ENOENT)?;
    if !args.flag("verbose") {
        call.say(&format!("status: {}\n", status_word(container)));
    } else {
        for (key, value) in as_status(&world, args.vmid(), container) {
            if key != "cpu" {
                call.say(&format!("{key}: {}\n", plain(&value)));
            }
        }
    }
    call.point("end")?;
    Ok(0)
}

/// What the API says of a container at work. Numbers that change by themselves are left at 0.
pub fn as_status(world: &World, vmid: u32, container: &Container) -> Map<String, Value> {
    let number = |key: &str, default: u64| {
        container.config.get(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let up = real_ms().saturating_sub(container.started_ms) / 1000;
    let mut all = Map::new();
    for key in ["cpu", "disk", "diskread", "diskwrite", "mem", "netin", "netout", "swap"] {
        all.insert(key.to_owned(), json!(0));
    }
    for (key, value) in [
        ("cpus", json!(number("cores", 2))),
        ("maxdisk", json!(root_size(container))),
        ("maxmem", json!(number("memory", 512) << 20)),
        ("maxswap", json!(number("swap", 0) << 20)),
        ("name", json!(container.hostname(vmid))),
        ("status", json!(status_word(container))),
        ("type", json!("lxc")),
        ("uptime", json!(if container.running { up } else { 0 })),
        ("vmid", json!(vmid)),
    ] {
        all.insert(key.to_owned(), value);
    }
    if container.running {
        all.insert("pid".to_owned(), json!(vmid * 10));
        if world.version >= 9 {
            for what in ["cpufull", "cpusome", "iofull", "iosome", "memoryfull", "memorysome"] {
                all.insert(format!("pressure{what}"), json!("0.00"));
            }
        }
    }
    for key in ["lock", "tags"] {
        if let Some(value) = container.config.get(key) {
            all.insert(key.to_owned(), json!(value));
        }
    }
    if container.is_template() {
        all.insert("template".to_owned(), json!(1));
    }
    all
}

fn root_size(container: &Container) -> u64 {
    let rootfs = container.config.get("rootfs").map_or("", String::as_str);
    let size = rootfs.split(',').find_map(|part| part.strip_prefix("size="));
    let gib = size.and_then(|size| size.strip_suffix('G')).and_then(|size| size.parse().ok());
    gib.unwrap_or(4u64) << 30
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub fn config(call: &Call, args: &Args) -> Result<i32, Fail> {
    let world = call.world()?;
    let container = world.container(args.vmid(), ENOENT)?;
    let all = match args.value("snapshot") {
        None => container.config_json(args.flag("current")),
        Some(name) => {
            let missing = || Fail::died(format!("snapshot '{name}' does not exist"));
            container.snapshot_json(container.snapshots.get(name).ok_or_else(missing)?)
        }
    };
    for (key, value) in all.iter().filter(|(key, _)| !["digest", "lxc"].contains(&key.as_str())) {
        let value = plain(value);
        let value = if key == "description" { text::encode(&value) } else { value };
        call.say(&format!("{key}: {value}\n"));
    }
    for pair in all.get("lxc").and_then(Value::as_array).into_iter().flatten() {
        call.say(&format!("{}: {}\n", plain(&pair[0]), plain(&pair[1])));
    }
    call.point("end")?;
    Ok(0)
}

/// The API's list. Perl gives it in no order; here it is that of the names turned round, so that
/// nobody can rely on any.
pub fn snapshots(container: &Container) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for (name, snapshot) in container.snapshots.iter().rev() {
        let mut item = json!({
            "name": name, "snaptime": snapshot.snaptime,
            "description": text::read_back(&snapshot.description),
        });
        for (key, value) in
            [("parent", snapshot.config.get("parent")), ("snapstate", snapshot.snapstate.as_ref())]
        {
            if let Some(value) = value {
                item[key] = json!(value);
            }
        }
        all.push(item);
    }
    let mut current = json!({
        "name": "current", "digest": container.digest(), "running": u8::from(container.running),
        "description": "You are here!",
    });
    if let Some(parent) = container.config.get("parent") {
        current["parent"] = json!(parent);
    }
    all.push(current);
    all
}

struct Row<'a> {
    name: &'a str,
    /// None for `current`, which sorts last.
    time: Option<i64>,
    text: &'a str,
}

pub fn listsnapshot(call: &Call, args: &Args) -> Result<i32, Fail> {
    let world = call.world()?;
    let container = world.container(args.vmid(), ENOENT)?;
    let mut children: BTreeMap<&str, Vec<Row>> = BTreeMap::new();
    let known = |parent: Option<&'_ String>| {
        parent.and_then(|parent| container.snapshots.get_key_value(parent)).map(|(name, _)| name)
    };
    for (name, snapshot) in &container.snapshots {
        let parent = known(snapshot.config.get("parent")).map_or("", String::as_str);
        let text =
            if snapshot.description.is_empty() { "no-description" } else { &snapshot.description };
        let row = Row { name, time: Some(snapshot.snaptime), text };
        children.entry(parent).or_default().push(row);
    }
    let parent = known(container.config.get("parent")).map_or("", String::as_str);
    let row = Row { name: "current", time: None, text: "You are here!" };
    children.entry(parent).or_default().push(row);
    for rows in children.values_mut() {
        rows.sort_by_key(|row| (row.time.is_none(), row.time));
    }
    let step = world.indent.unwrap_or(if world.version < 8 { 2 } else { 1 });
    branch(call, &children, "", "`->", step);
    call.point("end")?;
    Ok(0)
}

fn branch(
    call: &Call,
    children: &BTreeMap<&str, Vec<Row>>,
    parent: &str,
    prefix: &str,
    step: usize,
) {
    for row in children.get(parent).into_iter().flatten() {
        let time = row.time.map_or(String::new(), text::local_time);
        let first = row.text.split('\n').next().unwrap_or_default();
        let width = 30usize.saturating_sub(prefix.len());
        let line = format!("{prefix} {:<width$} {time:<23} {first}\n", row.name);
        call.print(&line, "/usr/share/perl5/PVE/GuestHelpers.pm line 175");
        branch(call, children, row.name, &format!("{}{prefix}", " ".repeat(step)), step);
    }
}

/// The volumes that a backup, a snapshot or a rollback would touch, for the API's `feature`.
pub fn can_snapshot(world: &World, container: &Container) -> Result<bool, Fail> {
    world.can_snapshot(&mounts(&container.config))
}
