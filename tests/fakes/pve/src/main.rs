//! `fake-pve`: Proxmox VE's `pct` and `pvesh`, and LXC's `lxc-unfreeze` and `lxc-info`, for tests, on one node of a
//! small cluster; never shipped. It is one of these when it is called by that name, and a tool for
//! tests when it is called by its own. All state lies in one folder:
//!
//! | file | what |
//! |---|---|
//! | `world.json` | the whole state: `World`, `Container`, `Storage`, `Volume` tell its fields |
//! | `faults.json` | a list of `Fault`: what goes wrong, in which call, at which point |
//! | `calls.jsonl` | one line a call: call, ms, program, argv, pid, caller |
//! | `etc-pve` | stands for `/etc/pve`: `nodes/<node>/lxc/<id>.conf`, `local`, `lxc` |
//! | `cgroup` | stands for `/sys/fs/cgroup`: the freezer of each running container |
//! | `lock` | lock files: `pve-config-<id>.lock` |
//! | `bin` | `pct`, `pvesh`, `lxc-unfreeze`, `lxc-info` (links to this program) and `fake-pve-home`, made by `init` |
//!
//! The folder is named by the file `fake-pve-home` beside the link that was called: that needs no
//! environment. A test builds it with `cargo build -p pve`, then
//!
//! ```text
//! fake-pve init HOME [WORLD.json | -]   a world (a small one by default) and HOME/bin
//! fake-pve patch HOME JSON              a JSON merge patch; null is the default again
//! fake-pve show HOME                    the world, after whatever has happened by itself
//! ```
//!
//! and may write `world.json` and `faults.json` itself while nothing runs.
//!
//! Points that a fault can name with `at`: `begin`; in `snapshot`, `rollback` and `delsnapshot`
//! `locked` (the lock is written), `volume:1`, `volume:2` ... (before that volume is touched),
//! `volumes`, in `snapshot` `thawed` (the processes, but no file system yet), `committed`; `stopped` when a rollback, stop or shutdown has ended a running
//! container; `start` (a `fail` with an empty text says what Proxmox says) and `started`; `end`,
//! after the result was told.
//! A fault is `slow_ms`, `patch` (the world changes: a lock appears, quorum goes), `kill_caller`
//! (SIGKILL to the process that called), `kill_self`, `hang`, `fail`. `nth` counts the calls that
//! fit the fault. What happens by itself, with time, stands in the world as `events`.
//!
//! A snapshot of a running container freezes it from `locked` until after `volumes`, so a worker that
//! is killed there leaves it frozen: it counts as running, nothing can be run in it, `shutdown` hangs
//! past its timeout, and neither `unlock` nor `delsnapshot` changes that. `lxc-unfreeze`, a kill and
//! the end of the next snapshot do. Where a real process stands for the container (`init`), the file systems
//! of its volumes on RBD are frozen after its processes and thawed after them, by the kernel itself. A cluster's file system that is down (`pmxcfs`) refuses every call
//! with the text of a refused connection, and not with that of a user who is not root.
//!
//! Work is done in a worker process, as Proxmox does it: it survives when the command is killed,
//! and ends with `received interrupt` when the command gets SIGTERM. Its words are those that were
//! observed of the real one, or read in its source; what of the real one is missing here ends with
//! 99 and a text that begins with `fake-pve:`.

mod api;
mod args;
mod call;
mod container;
mod fail;
mod faults;
mod freezer;
mod home;
mod pct;
mod pvesh;
mod signals;
mod storage;
mod task;
mod text;
mod tool;
mod world;

use call::Call;
use fail::Fail;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let rc = run().unwrap_or_else(|fail| {
        let said = fail.said.map_or(String::new(), |said| format!("{said}\n"));
        // There is nobody left to tell when this fails.
        let _ = io::stdout().write_all(said.as_bytes());
        let _ = writeln!(io::stderr(), "{}", fail.text);
        fail.rc
    });
    ExitCode::from(u8::try_from(rc).unwrap_or(u8::MAX))
}

fn run() -> Result<i32, Fail> {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let called = words.next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Ok(call) = std::env::var(task::WORKER) {
        return answer(&serde_json::from_str(&call)?);
    }
    let argv: Vec<String> = words.collect();
    match name.as_str() {
        "pct" | "pvesh" | freezer::UNFREEZE | freezer::INFO => {
            answer(&Call::begin(home::find(&called)?, &name, argv)?)
        }
        _ => tool::run(&argv),
    }
}

fn answer(call: &Call) -> Result<i32, Fail> {
    match call.program.as_str() {
        "pct" => pct::run(call),
        "pvesh" => pvesh::run(call),
        freezer::INFO => freezer::info(call),
        _ => freezer::unfreeze(call),
    }
}
