//! `pct exec` and `pct push`: what answers inside a container, and from when on. Invariant: only a
//! guest with a root file system of its own runs anything for real, and only in there.

use crate::args::Args;
use crate::call::Call;
use crate::container::{Answer, Container};
use crate::fail::Fail;
use crate::storage::Deed;
use crate::world::real_ms;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

pub fn exec(call: &Call, args: &Args) -> Result<i32, Fail> {
    let vmid = args.vmid();
    let world = call.world()?;
    // Like every reading command, this one ends with the errno of the missing file.
    let container = world.container(vmid, 2)?;
    if !container.running {
        return Err(Fail::died(format!("container '{vmid}' not running!")));
    }
    // What is run inside of it joins it, and stands still as well.
    call.hang_while_frozen(vmid)?;
    let Some(program) = args.rest.first() else {
        return Err(Fail::died("missing command at /usr/share/perl5/PVE/CLI/pct.pm line 204."));
    };
    let up = uptime(container);
    if up < container.guest.attach_ms {
        let text = "../src/lxc/attach.c: get_attach_context: 407 Connection refused";
        let failed = "Failed to get init pid";
        return Err(Fail::died(format!("lxc-attach: {vmid}: {text} - {failed}")));
    }
    if let Some(answer) = container.guest.exec.iter().find(|answer| answer.argv == args.rest) {
        return told(call, answer);
    }
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let rest = &args.rest[1..];
    let state = &container.guest.systemd;
    match (name, !state.is_empty()) {
        ("true", _) => Ok(0),
        ("false", _) => Ok(1),
        ("systemctl", true) if rest.iter().any(|word| word == "is-system-running") => {
            if up < container.guest.offline_ms {
                call.say("offline\n");
                return Ok(1);
            }
            let boot = container.guest.boot_ms.saturating_sub(up);
            let wait = rest.iter().any(|word| word == "--wait");
            if boot > 0 && !wait {
                call.say("starting\n");
                return Ok(1);
            }
            call.sleep(boot)?;
            call.say(&format!("{state}\n"));
            Ok(i32::from(state.as_str() != "running"))
        }
        ("journalctl", true) => {
            let journal = &container.guest.journal;
            let wanted = last_lines(rest).unwrap_or(journal.len()).min(journal.len());
            let lines = &journal[journal.len() - wanted..];
            lines.iter().for_each(|line| call.say(&format!("{line}\n")));
            Ok(0)
        }
        _ if !container.guest.root.is_empty() => inside(call, &container.guest.root, &args.rest),
        _ => {
            let text =
                "../src/lxc/attach.c: lxc_attach_run_command: 1841 No such file or directory";
            let failed = format!("Failed to exec \"{program}\"");
            Err(Fail::new(127, format!("lxc-attach: {vmid}: {text} - {failed}")))
        }
    }
}

fn inside(call: &Call, root: &str, argv: &[String]) -> Result<i32, Fail> {
    let mut command = Command::new("chroot");
    command.arg(root).args(argv).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let done = command.stdin(Stdio::null()).output()?;
    call.say(&String::from_utf8_lossy(&done.stdout));
    call.warn(&String::from_utf8_lossy(&done.stderr));
    Ok(done.status.code().unwrap_or(255))
}

/// A file of the node into the container; its folder must be there.
pub fn push(call: &Call, args: &Args) -> Result<i32, Fail> {
    let vmid = args.vmid();
    let world = call.world()?;
    let container = world.container(vmid, 2)?;
    if !container.running {
        return Err(Fail::died("container 'can only push files to a running container'"));
    }
    call.hang_while_frozen(vmid)?;
    let (Some(from), Some(to)) = (args.words.get(1), args.words.get(2)) else {
        return Err(Fail::new(2, "400 not enough arguments"));
    };
    if container.guest.root.is_empty() {
        return Err(Fail::fake("pct push into a guest without a root file system"));
    }
    let target = Path::new(&container.guest.root).join(to.trim_start_matches('/'));
    let broken = |what: &str, why: &dyn std::fmt::Display| {
        Err(Fail::died(format!("failed to {what}: {why}")))
    };
    let content = match fs::read(from) {
        Ok(content) => content,
        Err(error) => return broken(&format!("open {from} for reading"), &error),
    };
    if let Err(error) = fs::write(&target, content) {
        return broken(&format!("create file {to}"), &error);
    }
    let mode = args.value("perms").and_then(|perms| u32::from_str_radix(perms, 8).ok());
    fs::set_permissions(&target, fs::Permissions::from_mode(mode.unwrap_or(0o644)))?;
    Ok(0)
}

/// What a deed on the container's first volume does to its root file system.
pub fn root_follows(call: &Call, vmid: u32, deed: Deed, name: &str) -> Result<(), Fail> {
    let root = call.world()?.container(vmid, 2)?.guest.root.clone();
    if root.is_empty() {
        return Ok(());
    }
    let kept = format!("{root}@{name}");
    let (from, to) = match deed {
        Deed::Snapshot => (Some(&root), &kept),
        Deed::Rollback => (Some(&kept), &root),
        Deed::Delete => (None, &kept),
    };
    if Path::new(to).exists() {
        fs::remove_dir_all(to)?;
    }
    if let Some(from) = from {
        let copied = Command::new("cp").args(["-a", from, to]).status()?;
        if !copied.success() {
            return Err(Fail::fake("the root file system could not be copied"));
        }
    }
    Ok(())
}

fn told(call: &Call, answer: &Answer) -> Result<i32, Fail> {
    call.sleep(answer.slow_ms)?;
    call.say(&answer.stdout);
    call.warn(&answer.stderr);
    Ok(answer.rc)
}

fn uptime(container: &Container) -> u64 {
    real_ms().saturating_sub(container.started_ms)
}

/// `-n 20`, `-n20`, `--lines=20`, `--lines 20`.
fn last_lines(words: &[String]) -> Option<usize> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let glued = word.strip_prefix("--lines=").or_else(|| word.strip_prefix("-n"));
        let number = match glued {
            Some(number) if !number.is_empty() => Some(number),
            _ if word == "-n" || word == "--lines" => words.next().map(String::as_str),
            _ => None,
        };
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            return Some(number);
        }
    }
    None
}
