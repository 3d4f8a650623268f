//! What `pvesh get` answers, path by path. Invariant: pure; the world in, a value out.

use crate::args::Args;
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
        "cluster/status" => cluster_status(world),
        "cluster/resources" => guests(world, args)?,
        "nodes/{node}/replication" => replication(world, args.value("guest")),
        "storage" => {
            world.storages.iter().map(|(name, storage)| configured(name, storage)).collect()
        }
        "storage/{storage}" => configured(&vars.storage, storage(world, &vars.storage)?),
        "nodes/{node}/storage/{storage}/status" => usage(storage(world, &vars.storage)?),
        "nodes/{node}/tasks" => tasks(world, args),
        "nodes/{node}/lxc" => {
            let all = world.containers.iter().rev();
            all.map(|(vmid, container)| Value::Object(pct::as_status(*vmid, container))).collect()
        }
        _ => return Err(Fail::fake(format!("{pattern} is in no table"))),
    })
}

fn container(world: &World, what: &str, vars: &Variables, args: &Args) -> Result<Value, Fail> {
    let vmid = vars.vmid();
    let container = world.container(vmid, ENOENT)?;
    match what {
        "config" => match args.value("snapshot") {
            Some(name) => {
                let missing = || Fail::died(format!("snapshot '{name}' does not exist"));
                let snapshot = container.snapshots.get(name).ok_or_else(missing)?;
                Ok(Value::Object(container.snapshot_json(snapshot)))
            }
            None => Ok(Value::Object(container.config_json(args.flag("current")))),
        },
        "snapshot" => Ok(Value::Array(pct::snapshots(container))),
        "status/current" => {
            let mut all = pct::as_status(vmid, container);
            let managed = world.ha.get(&format!("ct:{vmid}"));
            let ha = managed
                .map_or(json!({"managed": 0}), |state| json!({"managed": 1, "state": state}));
            all.insert("ha".to_owned(), ha);
            Ok(Value::Object(all))
        }
        _ => Err(Fail::fake(format!("{what} is in no table"))),
    }
}

fn all_nodes(world: &World) -> impl Iterator<Item = (usize, &String)> {
    [&world.node].into_iter().chain(&world.nodes).enumerate()
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

fn guests(world: &World, args: &Args) -> Result<Value, Fail> {
    if args.value("type") != Some("vm") {
        return Err(Fail::fake("of the cluster's resources this fake knows those of type vm"));
    }
    let row = |vmid: &u32, node: &str, name: &str, status: &str| {
        json!({"id": format!("lxc/{vmid}"), "vmid": vmid, "node": node, "type": "lxc",
               "name": name, "status": status, "template": 0})
    };
    let ours = world.containers.iter().map(|(vmid, container)| {
        row(vmid, &world.node, &container.hostname(*vmid), container.status())
    });
    let others =
        world.others.iter().map(|(vmid, other)| row(vmid, &other.node, &other.name, "running"));
    Ok(ours.chain(others).collect())
}

fn replication(world: &World, guest: Option<&str>) -> Value {
    let wanted = |id: u32| guest.is_none_or(|guest| guest == id.to_string());
    let all = world.replication.iter().filter(|job| wanted(job.guest)).map(|job| {
        json!({"id": format!("{}-0", job.guest), "guest": job.guest, "jobnum": 0, "source": world.node,
               "target": job.target, "type": "local", "schedule": "*/15"})
    });
    all.collect()
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

fn tasks(world: &World, args: &Args) -> Value {
    let is_active = args.value("source") == Some("active");
    let wanted = |task: &&crate::world::Task| {
        task::active(task) == is_active && args.value("vmid").is_none_or(|vmid| vmid == task.id)
    };
    // The newest first.
    world.tasks.iter().rev().filter(wanted).map(|task| task::json(world, task)).collect()
}
