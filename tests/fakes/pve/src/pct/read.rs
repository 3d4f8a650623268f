//! `pct status` and `config`, and the same as the API's values.

use crate::args::Args;
use crate::call::Call;
use crate::container::Container;
use crate::fail::Fail;
use crate::text;
use crate::world::real_ms;
use serde_json::{Map, Value, json};

/// A missing container ends a reading command with the errno of the missing file.
const ENOENT: i32 = 2;

pub fn status(call: &Call, args: &Args) -> Result<i32, Fail> {
    let world = call.world()?;
    call.say(&format!("status: {}\n", world.container(args.vmid(), ENOENT)?.status()));
    call.point("end")?;
    Ok(0)
}

/// What the API says of a container at work.
pub fn as_status(vmid: u32, container: &Container) -> Map<String, Value> {
    let up = real_ms().saturating_sub(container.started_ms) / 1000;
    let mut all = Map::new();
    for (key, value) in [
        ("name", json!(container.hostname(vmid))),
        ("status", json!(container.status())),
        ("type", json!("lxc")),
        ("uptime", json!(if container.running { up } else { 0 })),
        ("vmid", json!(vmid)),
    ] {
        all.insert(key.to_owned(), value);
    }
    if let Some(lock) = container.lock() {
        all.insert("lock".to_owned(), json!(lock));
    }
    if container.is_template() {
        all.insert("template".to_owned(), json!(1));
    }
    all
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub fn config(call: &Call, args: &Args) -> Result<i32, Fail> {
    let world = call.world()?;
    let all = world.container(args.vmid(), ENOENT)?.config_json(args.flag("current"));
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
