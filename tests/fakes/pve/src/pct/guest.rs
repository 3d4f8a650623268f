//! `pct exec`: what answers inside a container, and from when on.

use crate::args::Args;
use crate::call::Call;
use crate::container::{Answer, Container};
use crate::fail::Fail;
use crate::world::real_ms;
use std::path::Path;

pub fn exec(call: &Call, args: &Args) -> Result<i32, Fail> {
    let vmid = args.vmid();
    let world = call.world()?;
    // Like every reading command, this one ends with the errno of the missing file.
    let container = world.container(vmid, 2)?;
    if !container.running {
        return Err(Fail::died(format!("container '{vmid}' not running!")));
    }
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
        return told(call, answer, up);
    }
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let rest = &args.rest[1..];
    let state = &container.guest.systemd;
    match (name, !state.is_empty()) {
        ("true", _) => Ok(0),
        ("false", _) => Ok(1),
        ("systemctl", true) if rest.iter().any(|word| word == "is-system-running") => {
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
        _ => {
            let text =
                "../src/lxc/attach.c: lxc_attach_run_command: 1841 No such file or directory";
            let failed = format!("Failed to exec \"{program}\"");
            Err(Fail::new(127, format!("lxc-attach: {vmid}: {text} - {failed}")))
        }
    }
}

fn told(call: &Call, answer: &Answer, up: u64) -> Result<i32, Fail> {
    call.sleep(answer.slow_ms)?;
    if up < answer.ready_ms {
        return Ok(1);
    }
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
