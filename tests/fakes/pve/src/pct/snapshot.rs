//! `pct snapshot` and `delsnapshot`, in Proxmox's order of checks and writes. Invariant: a
//! step that fails, hangs or dies leaves exactly what the real one leaves there: its lock, its
//! `snapstate`, and the volumes that were done before it.

use super::guest;
use crate::args::Args;
use crate::call::Call;
use crate::container::{Container, Snapshot, is_unused, mounts};
use crate::fail::{DIED, Fail};
use crate::freezer;
use crate::storage::{Deed, Mount};
use crate::task;
use crate::text;
use crate::world::{Task, World};
use std::collections::BTreeMap;

/// What a snapshot does not keep of the configuration.
pub(super) fn kept(config: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let all = config.iter().filter(|(key, _)| key.as_str() != "lock" && !is_unused(key));
    all.map(|(key, value)| (key.clone(), value.clone())).collect()
}

pub(super) fn unlocked(container: &Container) -> Result<(), Fail> {
    let locked = |lock| Fail::died(format!("CT is locked ({lock})"));
    container.lock().map_or(Ok(()), |lock| Err(locked(lock)))
}

pub(super) fn missing(name: &str) -> Fail {
    Fail::died(format!("snapshot '{name}' does not exist"))
}

/// One change of a container's configuration under its lock file; refused without quorum.
pub(super) fn write(
    call: &Call,
    vmid: u32,
    work: impl FnOnce(&mut World) -> Result<(), Fail>,
) -> Result<(), Fail> {
    call.locked(vmid, || {
        call.change(|world| {
            work(world)?;
            world.may_write(vmid)
        })
    })
}

pub(super) fn volumes(call: &Call, vmid: u32, name: &str) -> Result<Vec<Mount>, Fail> {
    let world = call.world()?;
    let snapshot = world.container(vmid, DIED)?.snapshots.get(name).ok_or_else(|| missing(name))?;
    Ok(mounts(&snapshot.config))
}

/// The deed on the nth volume, and the fault that may stand there.
pub(super) fn on_volume(
    call: &Call,
    deed: Deed,
    vmid: u32,
    nth: usize,
    mount: &Mount,
    name: &str,
) -> Result<(), Fail> {
    let failure = call.fire(&format!("volume:{}", nth + 1))?;
    let reason = failure.as_ref().map(|failure| failure.text.as_str());
    // Outside, so that what a failing tool has already done stays done.
    call.change(|world| Ok(world.volume_deed(deed, mount, name, reason)))??;
    if nth == 0 { guest::root_follows(call, vmid, deed, name) } else { Ok(()) }
}

pub fn snapshot(call: &Call, args: &Args) -> Result<Task, Fail> {
    let (vmid, name) = (args.vmid(), args.name());
    for reserved in ["current", "vzdump"] {
        if name == reserved {
            let text = format!("unable to use snapshot name '{name}' (reserved name)");
            return Err(Fail::died(text));
        }
    }
    let description = text::argument(args.value("description").unwrap_or_default());
    task::run(call, "vzsnapshot", vmid, || {
        write(call, vmid, |world| prepare(call, world, vmid, name, &description))?;
        call.point("locked")?;
        let mut done = Vec::new();
        freezer::set(call, vmid, true)?;
        freezer::file_systems(call, vmid, true)?;
        let taken = take(call, vmid, name, &mut done);
        let taken = taken.and_then(|()| call.point("volumes"));
        freezer::set(call, vmid, false)?;
        let taken = taken.and_then(|()| call.point("thawed"));
        freezer::file_systems(call, vmid, false)?;
        if let Err(fail) = taken {
            call.warn("snapshot create failed: starting cleanup\n");
            if let Err(fail) = clean_up(call, vmid, name, &done) {
                call.warn(&format!("{}\n", fail.text));
            }
            // Proxmox ends the message once more.
            return Err(Fail { text: format!("{}\n\n", fail.text), ..fail });
        }
        write(call, vmid, |world| commit(world, vmid, name))?;
        call.point("committed")
    })
}

fn prepare(
    call: &Call,
    world: &mut World,
    vmid: u32,
    name: &str,
    description: &str,
) -> Result<(), Fail> {
    let container = world.container(vmid, DIED)?;
    if container.is_template() {
        return Err(Fail::died("you can't take a snapshot if it's a template"));
    }
    unlocked(container)?;
    if container.snapshots.contains_key(name) {
        return Err(Fail::died(format!("snapshot name '{name}' already used")));
    }
    if !world.can_snapshot(&mounts(&container.config))? {
        return Err(Fail::died("snapshot feature is not available"));
    }
    let snaptime = world.now();
    let container = world.container_mut(vmid, DIED)?;
    for (child, snapshot) in &mut container.snapshots {
        if snapshot.config.get("parent").is_some_and(|parent| parent == name) {
            snapshot.config.remove("parent");
            call.warn(&format!(
                "deleting parent '{name}' reference from '{child}' to avoid bogus snapshot cycle.\n"
            ));
        }
    }
    // Perl takes "0" for nothing.
    let description = if description == "0" { "" } else { description };
    let snapshot = Snapshot {
        config: kept(&container.config),
        description: description.to_owned(),
        snaptime,
        snapstate: Some("prepare".to_owned()),
    };
    container.snapshots.insert(name.to_owned(), snapshot);
    container.config.insert("lock".to_owned(), "snapshot".to_owned());
    Ok(())
}

fn take(call: &Call, vmid: u32, name: &str, done: &mut Vec<Mount>) -> Result<(), Fail> {
    for (nth, mount) in volumes(call, vmid, name)?.into_iter().enumerate() {
        on_volume(call, Deed::Snapshot, vmid, nth, &mount, name)?;
        done.push(mount);
    }
    Ok(())
}

fn clean_up(call: &Call, vmid: u32, name: &str, done: &[Mount]) -> Result<(), Fail> {
    for mount in done {
        if let Err(fail) =
            call.change(|world| Ok(world.volume_deed(Deed::Delete, mount, name, None)))?
        {
            call.warn(&format!("{}\n", fail.text));
        }
    }
    write(call, vmid, |world| {
        let container = world.container_mut(vmid, DIED)?;
        expect_lock(container, "snapshot")?;
        container.snapshots.remove(name).ok_or_else(|| missing(name))?;
        container.config.remove("lock");
        Ok(())
    })
}

fn expect_lock(container: &Container, lock: &str) -> Result<(), Fail> {
    if container.lock() == Some(lock) {
        return Ok(());
    }
    Err(Fail::died(format!("encountered invalid lock, expected '{lock}'")))
}

fn commit(world: &mut World, vmid: u32, name: &str) -> Result<(), Fail> {
    let container = world.container_mut(vmid, DIED)?;
    if container.lock() != Some("snapshot") {
        return Err(Fail::died("missing snapshot lock"));
    }
    let snapshot = container.snapshots.get_mut(name).ok_or_else(|| missing(name))?;
    if snapshot.snapstate.take().as_deref() != Some("prepare") {
        return Err(Fail::died("wrong snapshot state"));
    }
    container.config.remove("lock");
    container.config.insert("parent".to_owned(), name.to_owned());
    Ok(())
}

pub fn delsnapshot(call: &Call, args: &Args) -> Result<Task, Fail> {
    let (vmid, name, force) = (args.vmid(), args.name(), args.flag("force"));
    task::run(call, "vzdelsnapshot", vmid, || delete(call, vmid, name, force))
}

fn delete(call: &Call, vmid: u32, name: &str, force: bool) -> Result<(), Fail> {
    let world = call.world()?;
    let container = world.container(vmid, DIED)?;
    let snapshot = container.snapshots.get(name).ok_or_else(|| missing(name))?;
    let all = mounts(&snapshot.config);
    world.activate(&all)?;
    if world.replication.iter().any(|job| job.guest == vmid) {
        // It must be known to the job's own snapshots, which this fake does not have.
        return Err(Fail::fake("pct delsnapshot of a replicated container"));
    }
    write(call, vmid, |world| {
        let container = world.container_mut(vmid, DIED)?;
        unlocked(container)?;
        container.config.insert("lock".to_owned(), "snapshot-delete".to_owned());
        Ok(())
    })?;
    call.point("locked")?;
    write(call, vmid, |world| {
        let container = world.container_mut(vmid, DIED)?;
        expect_lock(container, "snapshot-delete")?;
        if container.is_template() {
            return Err(Fail::died("you can't delete a snapshot if vm is a template"));
        }
        let snapshot = container.snapshots.get_mut(name).ok_or_else(|| missing(name))?;
        snapshot.snapstate = Some("delete".to_owned());
        Ok(())
    })?;
    let mut gone = Vec::new();
    for (nth, mount) in all.iter().enumerate() {
        match on_volume(call, Deed::Delete, vmid, nth, mount, name) {
            Ok(()) => gone.push(mount),
            Err(fail) if !force => return Err(fail),
            Err(fail) => call.warn(&format!("{}\n", fail.text)),
        }
        if !force {
            write(call, vmid, |world| {
                let container = world.container_mut(vmid, DIED)?;
                expect_lock(container, "snapshot-delete")?;
                let snapshot = container.snapshots.get_mut(name).ok_or_else(|| missing(name))?;
                snapshot.config.remove(&mount.key);
                Ok(())
            })?;
        }
    }
    call.point("volumes")?;
    write(call, vmid, |world| {
        let container = world.container_mut(vmid, DIED)?;
        expect_lock(container, "snapshot-delete")?;
        let snapshot = container.snapshots.remove(name).ok_or_else(|| missing(name))?;
        let configs = container.snapshots.values_mut().map(|child| &mut child.config);
        for config in configs.chain([&mut container.config]) {
            if config.get("parent").is_some_and(|parent| parent == name) {
                match snapshot.config.get("parent") {
                    Some(parent) => config.insert("parent".to_owned(), parent.clone()),
                    None => config.remove("parent"),
                };
            }
        }
        container.config.remove("lock");
        gone.iter().for_each(|mount| container.add_unused(&mount.volid));
        Ok(())
    })?;
    call.point("committed")
}
