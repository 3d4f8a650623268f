//! `pct rollback`, in Proxmox's order of checks and writes. Invariant: it kills a running container
//! before it writes, and writes before it touches a volume; whatever fails in between leaves what
//! the real one leaves there.

use super::snapshot::{kept, missing, on_volume, unlocked, volumes, write};
use crate::args::Args;
use crate::call::Call;
use crate::container::{Snapshot, is_unused, mounts};
use crate::fail::{DIED, Fail};
use crate::storage::Deed;
use crate::task;
use crate::world::{Task, World, real_ms};
use std::collections::BTreeMap;

pub fn rollback(call: &Call, args: &Args) -> Result<Task, Fail> {
    let (vmid, name) = (args.vmid(), args.name());
    task::run(call, "vzrollback", vmid, || {
        call.locked(vmid, || begin_rollback(call, vmid, name))?;
        call.point("locked")?;
        for (nth, mount) in volumes(call, vmid, name)?.iter().enumerate() {
            on_volume(call, Deed::Rollback, vmid, nth, mount, name)?;
        }
        call.point("volumes")?;
        write(call, vmid, |world| finish_rollback(world, vmid, name))?;
        call.point("committed")
    })
}

/// Under the lock file: the checks, the kill of a running container, `lock: rollback`.
fn begin_rollback(call: &Call, vmid: u32, name: &str) -> Result<(), Fail> {
    let world = call.world()?;
    let snapshot = rollback_source(&world, vmid, name)?;
    let all = mounts(&snapshot.config);
    world.activate(&all)?;
    all.iter().try_for_each(|mount| world.can_roll_back(mount, name))?;
    complete(&snapshot)?;
    unlocked(world.container(vmid, DIED)?)?;
    call.change(|world| {
        world.container_mut(vmid, DIED)?.set_running(false, real_ms());
        Ok(())
    })?;
    call.point("stopped")?;
    call.change(|world| {
        let container = world.container_mut(vmid, DIED)?;
        container.config.insert("lock".to_owned(), "rollback".to_owned());
        world.may_write(vmid)
    })
}

fn rollback_source(world: &World, vmid: u32, name: &str) -> Result<Snapshot, Fail> {
    let container = world.container(vmid, DIED)?;
    if container.is_template() {
        return Err(Fail::died("you can't rollback if vm is a template"));
    }
    container.snapshots.get(name).cloned().ok_or_else(|| missing(name))
}

fn complete(snapshot: &Snapshot) -> Result<(), Fail> {
    let refused = |state: &String| {
        let text = format!("unable to rollback to incomplete snapshot (snapstate = {state})");
        Err(Fail::died(text))
    };
    snapshot.snapstate.as_ref().map_or(Ok(()), refused)
}

fn finish_rollback(world: &mut World, vmid: u32, name: &str) -> Result<(), Fail> {
    let snapshot = rollback_source(world, vmid, name)?;
    complete(&snapshot)?;
    let container = world.container_mut(vmid, DIED)?;
    if container.running {
        return Err(Fail::died(format!("unable to rollback vm {vmid}: vm is running")));
    }
    if container.lock() != Some("rollback") {
        return Err(Fail::died("got wrong lock"));
    }
    let before = mounts(&container.config);
    let mut config: BTreeMap<String, String> = kept(&snapshot.config);
    config.extend(
        container
            .config
            .iter()
            .filter(|(key, _)| is_unused(key))
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    config.insert("parent".to_owned(), name.to_owned());
    container.config = config;
    for mount in before.iter().filter(|mount| mount.on_storage().is_some()) {
        container.add_unused(&mount.volid);
    }
    Ok(())
}
