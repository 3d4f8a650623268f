//! The freezer of the containers' control groups, as the kernel shows it, and LXC's program that thaws.
//! Invariant: `cgroup` has the files of just those containers that run.

use crate::call::Call;
use crate::fail::{DIED, Fail};
use crate::home;
use crate::world::World;
use std::fs;
use std::path::Path;

/// The program's name.
pub const UNFREEZE: &str = "lxc-unfreeze";

/// `lxc-unfreeze -n <id>`: knows nothing of Proxmox's locks.
pub fn unfreeze(call: &Call) -> Result<i32, Fail> {
    let vmid = match call.argv.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["-n", name] => name.parse().map_err(|_| Fail::fake("lxc-unfreeze wants a number"))?,
        _ => return Err(Fail::fake("lxc-unfreeze is called with -n and a name only")),
    };
    if !call.world()?.running(vmid) {
        let source = "../src/lxc/tools/lxc_unfreeze.c: main: 84";
        let text = format!("lxc-unfreeze: {vmid}: {source} Failed to unfreeze /var/lib/lxc:{vmid}");
        return Err(Fail::new(1, text));
    }
    set(call, vmid, false)?;
    call.point("end")?;
    Ok(0)
}

/// Freezes or thaws a container that runs; one that does not has nothing to be frozen.
pub fn set(call: &Call, vmid: u32, frozen: bool) -> Result<(), Fail> {
    call.change(|world| {
        let container = world.container_mut(vmid, DIED)?;
        container.frozen = frozen && container.running;
        Ok(())
    })
}

/// The files: version 2 has a switch and a state, version 1 one file for both.
pub fn show(root: &Path, world: &World) -> Result<(), Fail> {
    let containers = if world.cgroups == 1 { root.join("freezer/lxc") } else { root.join("lxc") };
    fs::create_dir_all(&containers)?;
    for (vmid, container) in &world.containers {
        let folder = containers.join(vmid.to_string());
        if !container.running {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            continue;
        }
        fs::create_dir_all(&folder)?;
        let frozen = u8::from(container.frozen);
        if world.cgroups == 1 {
            let state = if container.frozen { "FROZEN\n" } else { "THAWED\n" };
            write(&folder.join("freezer.state"), state)?;
        } else {
            write(&folder.join("cgroup.freeze"), &format!("{frozen}\n"))?;
            write(&folder.join("cgroup.events"), &format!("populated 1\nfrozen {frozen}\n"))?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Fail> {
    match fs::read_to_string(path) {
        Ok(there) if there == text => Ok(()),
        _ => home::replace(path, text.as_bytes()),
    }
}
