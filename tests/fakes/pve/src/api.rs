//! What `pvesh get` answers, path by path. Invariant: pure; the world in, a value out.

use crate::args::Args;
use crate::container::Container;
use crate::fail::{DIED, Fail};
use crate::pct;
use crate::pvesh::Variables;
use crate::storage::Storage;
use crate::task;
use crate::world::World;
use serde_json::{Value, json};

/// A missing container ends a reading command with the errno of the missing file.
const ENOENT: i32 = 2;

/// Of files that this fake does not have.
const DIGEST: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

pub fn get(world: &World, pattern: &str, vars: &Variables, args: &Args) -> Result<Value, Fail> {
    if let Some(rest) = pattern.strip_prefix("nodes/{node}/lxc/{vmid}/") {
        return container(world, rest, vars, args);
    }
    Ok(match pattern {
        "version" | "nodes/{node}/version" => version(world),
        "nodes" => all_nodes(world).map(|(_, name)| node(name)).collect(),
        "cluster/status" => cluster_status(world),
        "cluster/resources" => resources(world, args)?,
        "cluster/replication" => replication(world, None),
        "nodes/{node}/replication" => replication(world, args.value("guest")),
        "cluster/ha/resources" => world.ha.iter().map(|(sid, state)| ha(sid, state)).collect(),
        "cluster/ha/resources/{sid}" => {
            let sid = &vars.other;
            let missing = || Fail::died(format!("no such resource '{sid}'"));
            ha(sid, world.ha.get(sid).ok_or_else(missing)?)
        }
        "storage" => {
            let wanted = |storage: &Storage| {
                args.value("type").is_none_or(|kind| storage.kind.name() == kind)
            };
            let all = world.storages.iter().filter(|(_, storage)| wanted(storage));
            all.map(|(name, storage)| configured(name, storage)).collect()
        }
        "storage/{storage}" => configured(&vars.other, storage(world, &vars.other)?),
        "nodes/{node}/storage" => {
            let only = args.value("storage");
            let all =
                world.storages.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
            all.map(|(name, storage)| {
                let mut shown = usage(storage);
                shown["storage"] = json!(name);
                shown
            })
            .collect()
        }
        "nodes/{node}/storage/{storage}/status" => usage(storage(world, &vars.other)?),
        "nodes/{node}/tasks" => tasks(world, args)?,
        "nodes/{node}/tasks/{upid}/status" => task_status(world, &vars.other)?,
        "nodes/{node}/lxc" => {
            let all = world.containers.iter().rev();
            all.map(|(vmid, container)| Value::Object(pct::as_status(world, *vmid, container)))
                .collect()
        }
        _ => return Err(Fail::fake(format!("{pattern} is in no table"))),
    })
}

fn container(world: &World, what: &str, vars: &Variables, args: &Args) -> Result<Value, Fail> {
    let vmid = vars.vmid();
    let container = world.container(vmid, ENOENT)?;
    let snapshot = |name: &str| {
        let missing = || Fail::died(format!("snapshot '{name}' does not exist"));
        let snapshot = container.snapshots.get(name).ok_or_else(missing)?;
        Ok(Value::Object(container.snapshot_json(snapshot)))
    };
    match what {
        "config" => match args.value("snapshot") {
            Some(name) => snapshot(name),
            None => Ok(Value::Object(container.config_json(args.flag("current")))),
        },
        "snapshot/{snapname}/config" => snapshot(vars.snapname.as_deref().unwrap_or_default()),
        "snapshot" => Ok(Value::Array(pct::snapshots(container))),
        "status/current" => {
            let mut all = pct::as_status(world, vmid, container);
            let managed = world.ha.get(&format!("ct:{vmid}"));
            let ha = managed
                .map_or(json!({"managed": 0}), |state| json!({"managed": 1, "state": state}));
            all.insert("ha".to_owned(), ha);
            Ok(Value::Object(all))
        }
        "feature" => feature(world, container, args),
        _ => Err(Fail::fake(format!("{what} is in no table"))),
    }
}

fn feature(world: &World, container: &Container, args: &Args) -> Result<Value, Fail> {
    match args.value("feature") {
        Some("snapshot") => {
            Ok(json!({"hasFeature": u8::from(pct::can_snapshot(world, container)?)}))
        }
        Some(other) => Err(Fail::fake(format!("the feature {other} is not part of this fake"))),
        None => {
            let why = "feature: property is missing and it is not optional";
            Err(Fail::new(2, format!("400 Parameter verification failed.\n{why}")))
        }
    }
}

fn version(world: &World) -> Value {
    let (release, version) = match world.version {
        ..=7 => ("7.4", "7.4-17"),
        8 => ("8.4", "8.4.1"),
        _ => ("9.1", "9.1.2"),
    };
    json!({"release": release, "repoid": "2a5fa54a8503f96d", "version": version})
}

fn all_nodes(world: &World) -> impl Iterator<Item = (usize, &String)> {
    [&world.node].into_iter().chain(&world.nodes).enumerate()
}

fn node(name: &str) -> Value {
    json!({"node": name, "id": format!("node/{name}"), "type": "node", "status": "online",
           "level": ""})
}

fn cluster_status(world: &World) -> Value {
    let mut all = Vec::new();
    if let Some(name) = &world.cluster {
        all.push(json!({"type": "cluster", "id": "cluster", "name": name, "version": 3,
                        "nodes": world.nodes.len() + 1, "quorate": u8::from(world.quorate)}));
    }
    for (nth, name) in all_nodes(world) {
        let nodeid = if world.cluster.is_some() { nth + 1 } else { 0 };
        // Without quorum the others are those that are gone.
        let online = nth == 0 || world.quorate;
        all.push(json!({"type": "node", "id": format!("node/{name}"), "name": name, "level": "",
                        "ip": format!("192.0.2.{}", nth + 1), "local": u8::from(nth == 0),
                        "nodeid": nodeid, "online": u8::from(online)}));
    }
    Value::Array(all)
}

fn resources(world: &World, args: &Args) -> Result<Value, Fail> {
    let wanted = args.value("type");
    if let Some(other) = wanted.filter(|kind| !["vm", "storage", "node", "sdn"].contains(kind)) {
        let why = format!(
            "type: value '{other}' does not have a value in the enumeration \
             'vm, storage, node, sdn'"
        );
        return Err(Fail::new(2, format!("400 Parameter verification failed.\n{why}")));
    }
    let is = |kind: &str| wanted.is_none_or(|wanted| wanted == kind);
    let mut all = Vec::new();
    if is("vm") {
        all.extend(world.containers.iter().map(|(vmid, container)| guest(world, *vmid, container)));
        all.extend(world.others.iter().map(|(vmid, other)| {
            json!({"id": format!("lxc/{vmid}"), "vmid": vmid, "node": other.node, "type": "lxc",
                   "name": other.name, "status": "running", "template": 0})
        }));
    }
    if is("node") {
        all.extend(all_nodes(world).map(|(_, name)| node(name)));
    }
    if is("storage") {
        all.extend(world.storages.iter().map(|(name, storage)| {
            json!({"id": format!("storage/{}/{name}", world.node), "storage": name,
                   "node": world.node, "type": "storage", "plugintype": storage.kind.name(),
                   "status": "available", "content": "images,rootdir"})
        }));
    }
    Ok(Value::Array(all))
}

fn guest(world: &World, vmid: u32, container: &Container) -> Value {
    let status = pct::as_status(world, vmid, container);
    let mut entry = json!({
        "id": format!("lxc/{vmid}"), "vmid": vmid, "node": world.node, "type": "lxc",
        "name": container.hostname(vmid), "status": status["status"],
        "template": u8::from(container.is_template()), "maxcpu": status["cpus"],
    });
    const SAME: [&str; 12] = [
        "cpu",
        "disk",
        "diskread",
        "diskwrite",
        "maxdisk",
        "maxmem",
        "mem",
        "netin",
        "netout",
        "uptime",
        "lock",
        "tags",
    ];
    for (key, value) in SAME.iter().filter_map(|key| Some((key, status.get(*key)?))) {
        entry[key] = value.clone();
    }
    if let Some(state) = world.ha.get(&format!("ct:{vmid}")) {
        entry["hastate"] = json!(state);
    }
    entry
}

fn replication(world: &World, guest: Option<&str>) -> Value {
    let wanted = |id: u32| guest.is_none_or(|guest| guest == id.to_string());
    let all = world.replication.iter().filter(|job| wanted(job.guest)).map(|job| {
        json!({"id": job.id(), "guest": job.guest, "jobnum": job.jobnum, "source": world.node,
               "target": job.target, "type": "local", "schedule": "*/15"})
    });
    all.collect()
}

fn ha(sid: &str, state: &str) -> Value {
    let kind = sid.split(':').next().unwrap_or_default();
    json!({"sid": sid, "type": kind, "state": state, "digest": DIGEST})
}

fn storage<'a>(world: &'a World, name: &str) -> Result<&'a Storage, Fail> {
    let missing = || Fail::new(DIED, format!("storage '{name}' does not exist"));
    world.storages.get(name).ok_or_else(missing)
}

fn configured(name: &str, storage: &Storage) -> Value {
    let kind = storage.kind.name();
    let place = match kind {
        "lvmthin" => "vgname",
        "btrfs" | "dir" => "path",
        _ => "pool",
    };
    let mut shown = json!({"storage": name, "type": kind, "content": "images,rootdir",
                           "digest": DIGEST});
    shown[place] = json!(storage.place);
    if let (Some((group, pool)), "lvmthin") = (storage.place.split_once('/'), kind) {
        shown["vgname"] = json!(group);
        shown["thinpool"] = json!(pool);
    }
    shown
}

fn usage(storage: &Storage) -> Value {
    let total = 64u64 << 30;
    let used = if storage.full { total } else { total / 4 };
    json!({"type": storage.kind.name(), "active": 1, "enabled": 1, "content": "images,rootdir",
           "shared": u8::from(storage.kind.name() == "rbd"), "total": total, "used": used,
           "avail": total - used})
}

fn tasks(world: &World, args: &Args) -> Result<Value, Fail> {
    let limit = args.value("limit").and_then(|text| text.parse().ok()).unwrap_or(50);
    let source = args.value("source").unwrap_or("archive");
    let wanted = |task: &&crate::world::Task| {
        let active = task::active(task);
        let from = match source {
            "active" => active,
            "archive" => !active,
            _ => true,
        };
        from && args.value("vmid").is_none_or(|vmid| vmid == task.id)
            && args.value("typefilter").is_none_or(|kind| kind == task.kind)
    };
    // The newest first.
    let all = world.tasks.iter().rev().filter(wanted).take(limit);
    Ok(all.map(|task| task::json(world, task)).collect())
}

fn task_status(world: &World, upid: &str) -> Result<Value, Fail> {
    let missing = || Fail::new(2, format!("no such task '{upid}'"));
    let task = world.tasks.iter().find(|task| task.upid == upid).ok_or_else(missing)?;
    let mut shown = task::json(world, task);
    let status = shown["status"].take();
    shown["status"] = json!(if task::active(task) { "running" } else { "stopped" });
    if !status.is_null() {
        shown["exitstatus"] = status;
    }
    Ok(shown)
}
