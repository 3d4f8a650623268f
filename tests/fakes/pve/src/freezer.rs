//! The freezer of the containers' control groups, as the kernel shows it, LXC's program that thaws, and
//! the file systems that Proxmox freezes besides.
//! Invariant: `cgroup` has the files of just those containers that run.

use crate::call::Call;
use crate::container::mounts;
use crate::fail::{DIED, Fail};
use crate::home;
use crate::world::World;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The programs' names.
pub const UNFREEZE: &str = "lxc-unfreeze";
pub const INFO: &str = "lxc-info";

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

/// `lxc-info -n <id> -p -H`: nothing of one that does not run.
pub fn info(call: &Call) -> Result<i32, Fail> {
    let vmid: u32 = match call.argv.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["-n", name, "-p", "-H"] => {
            name.parse().map_err(|_| Fail::fake("lxc-info wants a number"))?
        }
        _ => return Err(Fail::fake("lxc-info is called with -n, a name, -p and -H only")),
    };
    let world = call.world()?;
    match world.containers.get(&vmid).filter(|one| one.running) {
        Some(one) => one.init.iter().for_each(|init| call.say(&format!("{init}\n"))),
        None => return Err(Fail::new(1, format!("{vmid} doesn't exist"))),
    }
    Ok(0)
}

const LOOP: u32 = 7;
const FIFREEZE: rustix::ioctl::Opcode = 0xC004_5877;
const FITHAW: rustix::ioctl::Opcode = 0xC004_5878;

/// The file systems of volumes that want it, as the container sees them; what fails is only told.
/// Nothing where no real process stands for the container.
pub fn file_systems(call: &Call, vmid: u32, freeze: bool) -> Result<(), Fail> {
    let world = call.world()?;
    let container = world.container(vmid, DIED)?;
    let Some(init) = container.init.filter(|_| container.running) else { return Ok(()) };
    let (word, code) = if freeze { ("freeze", FIFREEZE) } else { ("thaw", FITHAW) };
    for mount in mounts(&container.config).iter().filter(|mount| world.wants_freeze(mount)) {
        let path = format!("/proc/{init}/root/{}", mount.path);
        let folder = match fs::File::open(&path) {
            Ok(folder) => folder,
            Err(error) => {
                call.warn(&format!("failed to open {path}: {error}\n"));
                continue;
            }
        };
        // What a test has made; never one that the machine itself writes to.
        if rustix::fs::major(folder.metadata()?.dev()) != LOOP {
            return Err(Fail::fake(format!("{path} is on no loop device: it is not frozen")));
        }
        // SAFETY: the kernel takes no argument with either.
        #[allow(unsafe_code)]
        let done = unsafe {
            if freeze {
                rustix::ioctl::ioctl(&folder, rustix::ioctl::NoArg::<FIFREEZE>::new())
            } else {
                rustix::ioctl::ioctl(&folder, rustix::ioctl::NoArg::<FITHAW>::new())
            }
        };
        if let Err(error) = done {
            call.warn(&format!("fs{word} '{path}' failed - {error} ({code:x})\n"));
        }
    }
    Ok(())
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
