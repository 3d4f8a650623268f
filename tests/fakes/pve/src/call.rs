//! One call of `pct` or `pvesh`: who called, what was asked, which faults are meant for it, and its
//! way to the world. Invariant: every wait ends when the call is interrupted.

use crate::fail::{DIED, Fail};
use crate::faults::{self, Failure, Fault};
use crate::freezer;
use crate::home;
use crate::signals;
use crate::world::{World, real_ms};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    pub home: PathBuf,
    /// `pct`, `pvesh`, `lxc-unfreeze` or `lxc-info`.
    pub program: String,
    pub argv: Vec<String>,
    /// The process that called, and when it began, so that no other is ever killed in its place.
    caller: (i32, String),
    faults: Vec<Fault>,
    pub worker: bool,
}

/// How long a lock file is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// When a process began, in the kernel's words; empty when there is none or it is dead already.
pub fn birth(pid: i32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold anything; the state is the first field behind it.
    let behind = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = behind.split_whitespace().collect();
    match fields[..] {
        ["Z" | "X", ..] | [] => String::new(),
        _ => fields.get(19).copied().unwrap_or_default().to_owned(),
    }
}

/// What stops every call of Proxmox's own programs before it begins.
fn refusal(world: &World, program: &str) -> Option<Fail> {
    let (why, rc) = match (world.root, world.pmxcfs) {
        _ if [freezer::UNFREEZE, freezer::INFO].contains(&program) => return None,
        (false, _) => ("Unknown error -1", DIED),
        (true, false) => ("Connection refused", 111),
        (true, true) => return None,
    };
    let lines: String = (1..=3).map(|n| format!("ipcc_send_rec[{n}] failed: {why}\n")).collect();
    Some(Fail::new(rc, format!("{lines}Unable to load access control list: {why}")))
}

impl Call {
    /// Writes the call down and finds the faults that are meant for it.
    pub fn begin(home: PathBuf, program: &str, argv: Vec<String>) -> Result<Call, Fail> {
        let parent = getppid().as_raw();
        let name = format!("{program} {}", argv.first().map_or("", String::as_str));
        let name = name.trim_end();
        let all = faults::read(&home)?;
        let (faults, refused) = home::change(&home, |world| {
            world.calls += 1;
            *world.counts.entry(name.to_owned()).or_default() += 1;
            let mut meant = Vec::new();
            for fault in all.iter().filter(|fault| fault.fits(name, &argv)) {
                let hits = world.counts.entry(serde_json::to_string(fault)?).or_default();
                *hits += 1;
                if fault.counts(*hits) {
                    meant.push(fault.clone());
                }
            }
            let line = json!({
                "call": world.calls, "ms": real_ms(), "program": program, "argv": argv,
                "pid": std::process::id(), "caller": parent,
            });
            let path = home.join("calls.jsonl");
            let mut log = OpenOptions::new().create(true).append(true).open(path)?;
            log.write_all(format!("{line}\n").as_bytes())?;
            Ok((meant, refusal(world, program)))
        })?;
        let caller = (parent, birth(parent));
        let call = Call { home, program: program.to_owned(), argv, caller, faults, worker: false };
        if let Some(fail) = refused {
            return Err(fail);
        }
        call.point("begin")?;
        Ok(call)
    }

    /// The same call, for the process that does its work.
    pub fn as_worker(&self) -> Call {
        Call { worker: true, ..self.clone() }
    }

    pub fn world(&self) -> Result<World, Fail> {
        home::change(&self.home, |world| Ok(world.clone()))
    }

    pub fn change<T>(&self, work: impl FnOnce(&mut World) -> Result<T, Fail>) -> Result<T, Fail> {
        home::change(&self.home, work)
    }

    /// A point that faults can name.
    pub fn point(&self, at: &str) -> Result<(), Fail> {
        self.fire(at)?.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// The same, where a failure is the storage's to put into words.
    pub fn fire(&self, at: &str) -> Result<Option<Failure>, Fail> {
        let mut failure = None;
        for fault in self.faults.iter().filter(|fault| fault.at == at) {
            self.sleep(fault.slow_ms)?;
            if let Some(patch) = &fault.patch {
                self.change(|world| {
                    *world = world.patched(patch)?;
                    Ok(())
                })?;
            }
            if fault.kill_caller && self.caller.0 > 1 && birth(self.caller.0) == self.caller.1 {
                kill(Pid::from_raw(self.caller.0), Signal::SIGKILL)?;
            }
            if fault.kill_self {
                kill(Pid::this(), Signal::SIGKILL)?;
            }
            if fault.hang {
                self.hang_while(|call| Ok(faults::read(&call.home)?.contains(fault)))?;
            }
            failure = failure.or_else(|| fault.fail.clone());
        }
        Ok(failure)
    }

    /// Until that holds no more or it is interrupted, or the world is removed: nothing outlives a test
    /// for long.
    fn hang_while(&self, holds: impl Fn(&Call) -> Result<bool, Fail>) -> Result<(), Fail> {
        while self.home.join("world.json").exists() {
            if !holds(self)? {
                return Ok(());
            }
            self.sleep(200)?;
        }
        Err(Fail::fake("the world is gone"))
    }

    /// Nothing in a frozen container does anything, whoever asks.
    pub fn hang_while_frozen(&self, vmid: u32) -> Result<(), Fail> {
        self.hang_while(|call| {
            Ok(call.world()?.containers.get(&vmid).is_some_and(|one| one.frozen))
        })
    }

    pub fn sleep(&self, ms: u64) -> Result<(), Fail> {
        let end = Instant::now() + Duration::from_millis(ms);
        loop {
            if signals::interrupted() {
                return Err(Fail::died("received interrupt"));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(10)));
        }
    }

    /// With the lock file of a container's configuration, as Proxmox takes it.
    pub fn locked<T>(&self, vmid: u32, work: impl FnOnce() -> Result<T, Fail>) -> Result<T, Fail> {
        let name = format!("pve-config-{vmid}.lock");
        // Held until it is closed.
        let file = home::lock_file(&self.home, &name)?;
        if !home::try_lock(&file)? {
            self.warn("trying to acquire lock...\n");
            let end = Instant::now() + LOCK_TIMEOUT;
            while !home::try_lock(&file)? {
                if Instant::now() >= end {
                    let text = format!("can't lock file '/run/lock/lxc/{name}' - got timeout");
                    return Err(Fail::died(text));
                }
                self.sleep(20)?;
            }
            self.warn(" OK\n");
        }
        work()
    }

    pub fn say(&self, text: &str) {
        self.say_bytes(text.as_bytes());
    }

    /// A reader that has gone is no reason to stop: a worker goes on without its terminal.
    pub fn say_bytes(&self, bytes: &[u8]) {
        let mut out = io::stdout();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// What goes to stderr; a worker's stderr is its stdout.
    pub fn warn(&self, text: &str) {
        if self.worker {
            return self.say(text);
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
}
