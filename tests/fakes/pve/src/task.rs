//! Tasks: Proxmox does all work in a worker process of its own, whose output it copies and whose
//! result it reports. Invariant: as there, a worker outlives the command that began it when that is
//! killed, and ends itself when that is only asked to end.

use crate::call::{Call, birth};
use crate::fail::Fail;
use crate::signals;
use crate::world::{Task, World};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The variable in which a worker finds its call.
pub const WORKER: &str = "FAKE_PVE_WORKER";

/// Does `work` as a task. In the command this starts a worker and answers with its end; the worker
/// is the same program, comes here by the same way, and does it.
pub fn run(
    call: &Call,
    kind: &str,
    vmid: u32,
    work: impl FnOnce() -> Result<(), Fail>,
) -> Result<Task, Fail> {
    if !call.worker {
        return command(call);
    }
    signals::watch(signals::note)?;
    let pid = Pid::this().as_raw();
    let upid = call.change(|world| {
        let starttime = world.now();
        let upid = format!(
            "UPID:{}:{pid:08X}:{:08X}:{starttime:08X}:{kind}:{vmid}:root@pam:",
            world.node, world.calls
        );
        world.tasks.push(Task {
            upid: upid.clone(),
            pid,
            kind: kind.to_owned(),
            id: vmid.to_string(),
            starttime,
            endtime: None,
            status: None,
        });
        Ok(upid)
    })?;
    let worked = work();
    let status = match &worked {
        Ok(()) => "OK".to_owned(),
        Err(fail) => {
            call.say(&fail.said.as_ref().map_or(String::new(), |said| format!("{said}\n")));
            // One line: Proxmox takes one newline away and makes blanks of the others.
            fail.text.strip_suffix('\n').unwrap_or(&fail.text).replace('\n', " ")
        }
    };
    let task = call.change(|world| {
        let now = world.now();
        let task = world.tasks.iter_mut().find(|task| task.upid == upid);
        let task = task.ok_or_else(|| Fail::fake("the task is no longer in the world"))?;
        (task.endtime, task.status) = (Some(now), Some(status));
        Ok(task.clone())
    })?;
    Ok(task)
}

fn command(call: &Call) -> Result<Task, Fail> {
    let description = serde_json::to_string(&call.as_worker())?;
    let mut child = Command::new("/proc/self/exe")
        .arg0(&call.program)
        .env(WORKER, description)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let pid = child.id() as i32;
    signals::watch(move || {
        // It may have ended by itself.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGTERM);
    })?;
    if let Some(mut out) = child.stdout.take() {
        let _ = io::copy(&mut out, &mut io::stdout());
        let _ = io::stdout().flush();
    }
    child.wait()?;
    let world = call.world()?;
    let task = world.tasks.iter().rev().find(|task| task.pid == pid).cloned();
    task.ok_or_else(|| Fail::fake("the worker ended before its task began"))
}

/// Whether a task failed, and what it leaves on stderr then.
pub fn report(task: &Task) -> Result<(), Fail> {
    match task.status.as_deref() {
        Some("OK") => Ok(()),
        Some(status) => Err(Fail::died(status)),
        None => Err(Fail::died("got unexpected control message:  ")),
    }
}

/// As `/nodes/<node>/tasks` lists it.
pub fn json(world: &World, task: &Task) -> Value {
    let mut shown = json!({
        "upid": task.upid, "node": world.node, "pid": task.pid, "starttime": task.starttime,
        "type": task.kind, "id": task.id, "user": "root@pam",
    });
    if let Some(end) = task.endtime {
        shown["endtime"] = json!(end);
        shown["status"] = json!(task.status.clone().unwrap_or_default());
    } else if !active(task) {
        shown["endtime"] = json!(task.starttime);
        shown["status"] = json!("unexpected status");
    }
    shown
}

pub fn active(task: &Task) -> bool {
    task.endtime.is_none() && !birth(task.pid).is_empty()
}
