//! `pct start`, `stop`, `shutdown`, `unlock`. Invariant: what HA manages is left alone.

use crate::args::Args;
use crate::call::Call;
use crate::container::Container;
use crate::fail::{DIED, Fail};
use crate::task;
use crate::world::{Task, real_ms};

/// A lock `mounted` keeps nobody from starting and stopping.
fn unlocked(container: &Container) -> Result<(), Fail> {
    match container.lock() {
        None | Some("mounted") => Ok(()),
        Some(lock) => Err(Fail::died(format!("CT is locked ({lock})"))),
    }
}

/// What is checked before there is a task.
fn must_run(call: &Call, vmid: u32) -> Result<(), Fail> {
    let world = call.world()?;
    world.not_managed(vmid)?;
    if call.worker || world.running(vmid) {
        return Ok(());
    }
    Err(Fail::died(format!("CT {vmid} not running")))
}

/// The same for a start.
fn before_start(call: &Call, vmid: u32) -> Result<(), Fail> {
    let world = call.world()?;
    world.not_managed(vmid)?;
    if world.running(vmid) {
        return Err(Fail::died(format!("CT {vmid} already running")));
    }
    if !world.quorate {
        return Err(Fail::died("cluster not ready - no quorum?"));
    }
    Ok(())
}

pub fn start(call: &Call, args: &Args) -> Result<Task, Fail> {
    let vmid = args.vmid();
    if !call.worker {
        before_start(call, vmid)?;
    }
    task::run(call, "vzstart", vmid, || {
        call.locked(vmid, || {
            let world = call.world()?;
            let container = world.container(vmid, DIED)?;
            if container.is_template() {
                return Err(Fail::died("you can't start a CT if it's a template"));
            }
            unlocked(container)?;
            if let Some(failure) = call.fire("start")? {
                let text = match failure.text.as_str() {
                    "" => format!("startup for container '{vmid}' failed"),
                    text => text.to_owned(),
                };
                return Err(Fail { text, ..failure.into() });
            }
            set_running(call, vmid, true)?;
            call.point("started")
        })
    })
}

fn set_running(call: &Call, vmid: u32, running: bool) -> Result<(), Fail> {
    call.change(|world| {
        world.container_mut(vmid, DIED)?.set_running(running, real_ms());
        Ok(())
    })
}

pub fn stop(call: &Call, args: &Args) -> Result<Task, Fail> {
    let vmid = args.vmid();
    must_run(call, vmid)?;
    task::run(call, "vzstop", vmid, || {
        call.locked(vmid, || {
            unlocked(call.world()?.container(vmid, DIED)?)?;
            set_running(call, vmid, false)?;
            call.point("stopped")
        })
    })
}

pub fn shutdown(call: &Call, args: &Args) -> Result<Task, Fail> {
    let vmid = args.vmid();
    must_run(call, vmid)?;
    let seconds = args.value("timeout").and_then(|text| text.parse().ok()).unwrap_or(60u64);
    task::run(call, "vzshutdown", vmid, || {
        // The lock file is held for the whole wait.
        call.locked(vmid, || {
            let world = call.world()?;
            let container = world.container(vmid, DIED)?;
            if let Some(lock) = container.lock() {
                return Err(Fail::died(format!("CT is locked ({lock})")));
            }
            // Nothing in it hears a signal, and LXC waits for it past every timeout.
            call.hang_while_frozen(vmid)?;
            let (guest, limit) = (&container.guest, seconds * 1000);
            let obeys = !guest.deaf && guest.shutdown_ms <= limit;
            call.sleep(if obeys { guest.shutdown_ms } else { limit })?;
            if !obeys && !args.flag("forceStop") {
                call.warn(&format!(
                    "command 'lxc-stop -n {vmid} --nokill --timeout {seconds}' failed: \
                     exit code 1\n"
                ));
                return Err(Fail::died("container did not stop"));
            }
            set_running(call, vmid, false)?;
            call.point("stopped")
        })
    })
}

/// Removes any lock, whoever holds it.
pub fn unlock(call: &Call, args: &Args) -> Result<i32, Fail> {
    let vmid = args.vmid();
    call.locked(vmid, || {
        call.change(|world| {
            // Like every reading command, this one ends with the errno of the missing file.
            let container = world.container_mut(vmid, 2)?;
            if container.config.remove("lock").is_none() {
                return Err(Fail::died("no lock found trying to remove any lock"));
            }
            world.may_write(vmid)
        })
    })?;
    call.point("end")?;
    Ok(0)
}
