//! The freezer of a container's control group. Proxmox freezes a container while it takes the volumes
//! of a snapshot; if it is killed then, all processes of the container stay frozen, while Proxmox reports it as
//! running.
//!
//! Read from the kernel's files, which cost nothing; thawed by LXC's own program.

use crate::names::Vmid;
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::command::{Command, IfWeDie};
use host::deadline::{Deadline, FIRST_PAUSE, TimedOut, poll_until};
use host::program;
use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";
/// The folders of the containers' control groups: version 2, version 1, and the hybrid version 2.
const TREES: [&str; 3] = ["lxc", "freezer/lxc", "unified/lxc"];
/// What LXC itself freezes, and the group within that holds the container's processes.
const GROUPS: [&str; 2] = ["", "ns"];
/// A file, the prefix of its line with the state, and that line when nothing is frozen.
const FILES: [(&str, &str, &str); 3] = [
    ("cgroup.events", "frozen ", "frozen 0"),
    // A switch that is on freezes sooner or later.
    ("cgroup.freeze", "", "0"),
    ("freezer.state", "", "THAWED"),
];
/// A process that waits for a disk is thawed when that has answered.
const THAW_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the command that thaws the container.
pub fn by_hand(vmid: Vmid) -> String {
    format!("lxc-unfreeze -n {vmid}")
}

/// Whether the container's processes are frozen, or are being frozen.
pub fn is_frozen(vmid: impl Display) -> Result<bool> {
    is_frozen_below(Path::new(ROOT), vmid)
}

fn is_frozen_below(root: &Path, vmid: impl Display) -> Result<bool> {
    for tree in TREES {
        for group in GROUPS {
            let group = root.join(tree).join(vmid.to_string()).join(group);
            for (file, begin, thawed) in FILES {
                let path = group.join(file);
                let text = match fs::read_to_string(&path) {
                    Ok(text) => text,
                    Err(error) if is_no_group(&error) => continue,
                    Err(error) => {
                        return Err(error).with_context(|| format!("reading {}", path.display()));
                    }
                };
                let line = text.lines().find(|line| line.starts_with(begin));
                if line.is_some_and(|line| line != thawed) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Whether there is no control group: the container does not run, or has just ended.
fn is_no_group(error: &std::io::Error) -> bool {
    const NO_SUCH_DEVICE: i32 = 19;
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_DEVICE)
}

/// Thaws the processes and verifies it.
pub fn thaw(vmid: Vmid) -> Result<()> {
    let program = program::look("lxc-unfreeze")?.map_err(|missing| {
        Failure::new("program_missing", format!("CT {vmid} is frozen and cannot be thawed"))
            .caused_by(missing.into())
    })?;
    let command = Command::new(&program).arg("-n").arg(vmid.to_string());
    let done = command.deadline(THAW_TIMEOUT).if_we_die(IfWeDie::GoesOn).run();
    let thawed =
        poll_until(Deadline::after(THAW_TIMEOUT), FIRST_PAUSE, "the container to thaw", || {
            match (is_frozen(vmid)?, &done) {
                (false, _) => Ok(Some(true)),
                // A command that could not be run has started nothing.
                (true, Err(_)) => Ok(Some(false)),
                (true, Ok(_)) => Ok(None),
            }
        });
    let failed = match (thawed, done) {
        (Ok(true), _) => return Ok(()),
        (Err(error), _) if error.downcast_ref::<TimedOut>().is_none() => return Err(error),
        (_, done) => done.err(),
    };
    let msg = format!("CT {vmid} is still frozen after {}", by_hand(vmid));
    let failure = Failure::new("frozen", msg);
    Err(match failed {
        Some(failed) => failure.caused_by(failed.into()).into(),
        None => failure.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_of_control_groups() {
        for (file, text, frozen) in [
            ("lxc/301/cgroup.events", "populated 1\nfrozen 1\n", true),
            ("lxc/301/cgroup.events", "populated 1\nfrozen 0\n", false),
            // Before Linux 5.2 there is no freezer in it.
            ("lxc/301/cgroup.events", "populated 1\n", false),
            ("lxc/301/cgroup.freeze", "1\n", true),
            ("lxc/301/cgroup.freeze", "0\n", false),
            ("lxc/301/ns/cgroup.events", "populated 1\nfrozen 1\n", true),
            ("unified/lxc/301/cgroup.freeze", "1\n", true),
            ("freezer/lxc/301/freezer.state", "FROZEN\n", true),
            ("freezer/lxc/301/ns/freezer.state", "FREEZING\n", true),
            ("freezer/lxc/301/freezer.state", "THAWED\n", false),
            // Another container, and what the container has frozen of its own.
            ("lxc/3010/cgroup.freeze", "1\n", false),
            ("lxc/301/ns/system.slice/docker.scope/cgroup.freeze", "1\n", false),
        ] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            assert_eq!(is_frozen_below(root.path(), 301).unwrap(), frozen, "{file}: {text}");
        }
    }
}
