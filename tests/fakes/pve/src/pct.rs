//! `pct`: which command takes which arguments, and where it is done.

mod guest;
mod power;
mod read;
mod rollback;
mod snapshot;

pub use read::{as_status, snapshots};

use crate::args::{self, Args, Shape};
use crate::call::Call;
use crate::fail::Fail;
use crate::task;
use crate::world::Task;
use power::{shutdown, start, stop};
use rollback::rollback;
use snapshot::{delsnapshot, snapshot};

const fn shape(
    usage: &'static str,
    words: &'static [&'static str],
    values: &'static [&'static str],
    flags: &'static [&'static str],
) -> Shape<'static> {
    Shape { usage, words, values, flags }
}

/// What a command does as a task.
type Work = fn(&Call, &Args) -> Result<Task, Fail>;

const VMID: &[&str] = &["vmid"];
const NAMED: &[&str] = &["vmid", "snapname"];

/// Proxmox's commands that this fake knows.
const SNAPSHOT: Shape<'static> =
    shape("pct snapshot <vmid> <snapname> [OPTIONS]", NAMED, &["description"], &[]);
const ROLLBACK: Shape<'static> = shape("pct rollback <vmid> <snapname> [OPTIONS]", NAMED, &[], &[]);
const DELSNAPSHOT: Shape<'static> =
    shape("pct delsnapshot <vmid> <snapname> [OPTIONS]", NAMED, &[], &["force"]);
const START: Shape<'static> = shape("pct start <vmid> [OPTIONS]", VMID, &[], &[]);
const STOP: Shape<'static> = shape("pct stop <vmid> [OPTIONS]", VMID, &[], &[]);
const SHUTDOWN: Shape<'static> =
    shape("pct shutdown <vmid> [OPTIONS]", VMID, &["timeout"], &["forceStop"]);
const STATUS: Shape<'static> = shape("pct status <vmid> [OPTIONS]", VMID, &[], &[]);
const CONFIG: Shape<'static> = shape("pct config <vmid> [OPTIONS]", VMID, &[], &["current"]);
const UNLOCK: Shape<'static> = shape("pct unlock <vmid>", VMID, &[], &[]);
const PUSH: Shape<'static> = shape(
    "pct push <vmid> <file> <destination> [OPTIONS]",
    &["vmid", "file", "destination"],
    &["group", "perms", "user"],
    &[],
);
const EXEC: Shape<'static> =
    shape("pct exec <vmid> [<extra-args>] [OPTIONS]", &["vmid", "extra-args"], &[], &[]);

pub fn run(call: &Call) -> Result<i32, Fail> {
    let Some((command, rest)) = call.argv.split_first() else {
        return Err(Fail::died("ERROR: no command specified"));
    };
    let taken = |shape: &Shape| args::parse(shape, rest);
    match command.as_str() {
        "status" => read::status(call, &taken(&STATUS)?),
        "config" => read::config(call, &taken(&CONFIG)?),
        "unlock" => power::unlock(call, &taken(&UNLOCK)?),
        "exec" => guest::exec(call, &taken(&EXEC)?),
        "push" => guest::push(call, &taken(&PUSH)?),
        "snapshot" => tasked(call, snapshot, &taken(&SNAPSHOT)?),
        "rollback" => tasked(call, rollback, &taken(&ROLLBACK)?),
        "delsnapshot" => tasked(call, delsnapshot, &taken(&DELSNAPSHOT)?),
        "start" => tasked(call, start, &taken(&START)?),
        "stop" => tasked(call, stop, &taken(&STOP)?),
        "shutdown" => tasked(call, shutdown, &taken(&SHUTDOWN)?),
        _ => Err(Fail::fake(format!("pct {command} is not part of this fake"))),
    }
}

fn tasked(call: &Call, work: Work, args: &Args) -> Result<i32, Fail> {
    let task = work(call, args)?;
    if !call.worker {
        task::report(&task)?;
        call.point("end")?;
    }
    Ok(0)
}
