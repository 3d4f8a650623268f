//! Makes HAProxy reload its configuration, and verifies that it did.
//!
//! Invariant: a reload counts only when another worker answers at every stats socket. HAProxy silently
//! loses a reload that comes 10 to 40 ms after the previous one, and after a failed one the old worker
//! goes on serving.

use ansible_module::Failure;
use anyhow::{Context, Result};
use haproxy::file;
use haproxy::process::{children_of, stat_of};
use haproxy::socket::{Socket, retry_while_down};
use haproxy::stat;
use host::command::Command;
use host::deadline::{self, Deadline};
use host::program;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How old a worker must be before the next reload.
const APART: Duration = Duration::from_millis(150);
/// Time for a reload that has begun: a long configuration takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const TRIES: u32 = 3;
const POLL: Duration = Duration::from_millis(4);
/// A restarting process may accept a command and never answer.
const GLANCE: Duration = Duration::from_millis(250);
/// The master is asked less often than the workers, since it is busy with the reload.
const MASTER_POLL: Duration = Duration::from_millis(100);
/// Time for an old worker to receive the signal to end.
const HEARD: Duration = Duration::from_secs(2);

/// The options about how to reload.
#[derive(Debug)]
pub struct Reloader {
    pub master: Option<Socket>,
    pub unit: String,
    pub pidfile: Option<PathBuf>,
}

/// The way to reload that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadMethod {
    Master(Socket),
    Unit(String),
    /// The master's pid.
    Signal(i32),
}

impl Reloader {
    /// Checks before any change that the master exists and is the parent of the workers at these sockets.
    pub fn choose(&self, sockets: &[Socket]) -> Result<ReloadMethod> {
        let reload = self.given()?;
        match &reload {
            ReloadMethod::Master(master) => drop(retry_while_down(|| master.ask("show proc"))?),
            ReloadMethod::Signal(pid) => is_master_of(*pid, &workers(sockets)?)?,
            ReloadMethod::Unit(_) => {}
        }
        Ok(reload)
    }

    fn given(&self) -> Result<ReloadMethod> {
        if let Some(master) = &self.master {
            return Ok(ReloadMethod::Master(master.clone()));
        }
        if unit_is_active(&self.unit)? {
            return Ok(ReloadMethod::Unit(self.unit.clone()));
        }
        let Some(pidfile) = &self.pidfile else {
            return Err(Failure::new(
                "no_reload",
                format!(
                    "do not know how to reload HAProxy: there is no active unit {}, so give \
                     master_socket or pidfile",
                    self.unit
                ),
            )
            .into());
        };
        let text = file::read(pidfile)
            .with_context(|| format!("reading the pid file {}", pidfile.display()))?;
        let text = String::from_utf8_lossy(&text);
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        pid.filter(|pid| *pid > 1).map(ReloadMethod::Signal).ok_or_else(|| {
            Failure::new("no_reload", format!("{} holds no pid", pidfile.display())).into()
        })
    }
}

impl ReloadMethod {
    pub fn title(&self) -> String {
        match self {
            ReloadMethod::Master(socket) => format!("by its master at {socket}"),
            ReloadMethod::Unit(unit) => format!("by systemd's {unit}"),
            ReloadMethod::Signal(pid) => format!("by a signal to its master {pid}"),
        }
    }
}

/// The workers that answer at these sockets.
pub fn workers(sockets: &[Socket]) -> Result<Vec<u32>> {
    sockets.iter().map(|socket| stat::worker(socket, PATIENCE)).collect()
}

/// Reloads, and waits until other workers than `old` answer.
pub fn reload(reload: &ReloadMethod, sockets: &[Socket]) -> Result<()> {
    let (mut attempt, busy) = (1, Deadline::after(PATIENCE));
    while attempt <= TRIES {
        let old = retry_while_down(|| workers(sockets))?;
        wait_for_age(&old)?;
        if let ReloadMethod::Signal(pid) = reload {
            is_master_of(*pid, &old)?;
        }
        let mut signs = Signs::before(reload, &old);
        if send(reload)? == Sent::TooEarly && !busy.passed() {
            busy.sleep(MASTER_POLL)?;
            continue;
        }
        let patience = if attempt == TRIES { PATIENCE } else { reload.patience() };
        if follows(sockets, &old, &mut signs, Deadline::after(patience))? {
            return until_heard(&old);
        }
        attempt += 1;
    }
    Err(Failure::new(
        "reload_lost",
        format!(
            "HAProxy did not load its configuration: {TRIES} reloads {} had no effect",
            reload.title()
        ),
    )
    .into())
}

impl ReloadMethod {
    /// When a reload counts as lost and is sent again.
    fn patience(&self) -> Duration {
        match self {
            ReloadMethod::Master(_) | ReloadMethod::Unit(_) => Duration::from_secs(5),
            ReloadMethod::Signal(_) => Duration::from_secs(3),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Sent {
    Done,
    /// Another reload is under way: 3.2 then answers Success=0 at once, and says nothing more.
    TooEarly,
}

fn send(reload: &ReloadMethod) -> Result<Sent> {
    match reload {
        ReloadMethod::Master(socket) => {
            // 2.6 answers nothing at once; later ones when it is done: Success=0 or 1, and the log.
            let answer = retry_while_down(|| socket.ask_for("reload", PATIENCE))?;
            match answer.strip_prefix("Success=0") {
                Some(log) if log.contains("ALERT") => return Err(refused(log)),
                Some(_) => return Ok(Sent::TooEarly),
                None => {}
            }
        }
        ReloadMethod::Unit(unit) => {
            let systemctl = program::find("systemctl")?;
            Command::new(&systemctl)
                .args(["reload", "--", unit])
                .deadline(PATIENCE)
                .run()
                .with_context(|| format!("reloading {unit}"))?;
        }
        ReloadMethod::Signal(pid) => kill(Pid::from_raw(*pid), Signal::SIGUSR2)
            .with_context(|| format!("sending SIGUSR2 to HAProxy's master {pid}"))?,
    }
    Ok(Sent::Done)
}

/// Whether other workers answered before the deadline; an error when HAProxy says that it failed.
fn follows(
    sockets: &[Socket],
    old: &[u32],
    signs: &mut Signs<'_>,
    deadline: Deadline,
) -> Result<bool> {
    loop {
        // While the master restarts there may be no answer; the next round asks again.
        let now: Result<Vec<u32>> =
            sockets.iter().map(|socket| stat::worker(socket, GLANCE)).collect();
        if now.is_ok_and(|now| now.iter().zip(old).all(|(now, old)| now != old)) {
            return Ok(true);
        }
        if signs.of_failure() {
            return Err(refused(""));
        }
        if deadline.passed() {
            return Ok(false);
        }
        deadline.sleep(POLL)?;
    }
}

/// An old worker takes connections until it has heard that it is to end: on a busy machine it may
/// not have run since. It cannot be made to, so that there is an end to this.
fn until_heard(old: &[u32]) -> Result<()> {
    let deadline = Deadline::after(HEARD);
    while old.iter().any(|pid| has_yet_to_hear(*pid)) && !deadline.passed() {
        deadline.sleep(POLL)?;
    }
    Ok(())
}

fn has_yet_to_hear(pid: u32) -> bool {
    is_told_to_end(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
}

/// Whether SIGUSR1, which tells a worker of HAProxy to end, is still pending for this process.
fn is_told_to_end(status: &str) -> bool {
    let waits = |line: &str| {
        let set = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
            .is_some_and(|set| set & (1 << (Signal::SIGUSR1 as u64 - 1)) != 0)
    };
    let mut lines = status.lines();
    lines.next().is_some_and(|name| name.contains("haproxy")) && lines.any(waits)
}

fn refused(log: &str) -> anyhow::Error {
    let alerts: Vec<&str> = log.lines().filter(|line| line.contains("ALERT")).collect();
    let told = match alerts.as_slice() {
        [] => "its log says why".to_owned(),
        lines => lines.join("; "),
    };
    let msg =
        format!("HAProxy could not load the configuration and goes on with the old one: {told}");
    Failure::new("reload_failed", msg).into()
}

/// Signs of a failed reload, after which the old worker goes on serving.
struct Signs<'a> {
    reload: &'a ReloadMethod,
    asked: Instant,
    /// The master's count of failed reloads before.
    failures: Option<u32>,
    master: Option<i32>,
    children: BTreeSet<i32>,
    /// Workers that came after the signal.
    came: BTreeSet<i32>,
    /// Up to 3.0 a master starts itself again, with this mark, when it has forked its worker or has
    /// failed to.
    marked: bool,
}

impl<'a> Signs<'a> {
    fn before(reload: &'a ReloadMethod, workers: &[u32]) -> Signs<'a> {
        // What can be asked needs no signs. And a worker that another reload is just starting would
        // be taken for ours: then a reload that has no effect counts as lost, and is sent again.
        let master = match reload {
            ReloadMethod::Master(_) => None,
            ReloadMethod::Unit(_) | ReloadMethod::Signal(_) => workers.first(),
        };
        let master = master.and_then(|worker| stat_of(*worker)?.parent());
        let known =
            |child: &i32| workers.iter().any(|worker| i64::from(*worker) == i64::from(*child));
        let master = master.filter(|master| children_of(*master).iter().all(known));
        Signs {
            reload,
            asked: Instant::now(),
            failures: failures_of(reload),
            children: master.map(children_of).unwrap_or_default(),
            came: BTreeSet::new(),
            marked: master.is_some_and(is_marked),
            master,
        }
    }

    fn of_failure(&mut self) -> bool {
        if let Some(master) = self.master {
            let children = children_of(master);
            self.came.extend(children.difference(&self.children));
            if !self.came.is_empty() && self.came.is_disjoint(&children) {
                return true;
            }
            match (is_marked(master), self.marked) {
                // The children after the mark: the fork comes before it.
                (true, false) if children_of(master).is_subset(&self.children) => return true,
                (marked, _) => self.marked = marked,
            }
        }
        if self.asked.elapsed() < MASTER_POLL {
            return false;
        }
        self.asked = Instant::now();
        matches!((failures_of(self.reload), self.failures), (Some(now), Some(before)) if now > before)
    }
}

fn is_marked(master: i32) -> bool {
    let environment = fs::read(format!("/proc/{master}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|set| set.starts_with(b"HAPROXY_MWORKER_WAIT_ONLY="))
}

/// The master's count of failed reloads.
fn failures_of(reload: &ReloadMethod) -> Option<u32> {
    let ReloadMethod::Master(socket) = reload else { return None };
    failures(&socket.ask_for("show proc", GLANCE).ok()?)
}

/// `show proc`: `15250  master  1 [failed: 0]  0d00h00m01s  2.6.12`
fn failures(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("[failed: ")?;
    rest.split_once(']')?.0.trim().parse().ok()
}

fn unit_is_active(unit: &str) -> Result<bool> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(false);
    }
    let systemctl = program::find("systemctl")?;
    let seen = Command::new(&systemctl)
        .args(["show", "--property=ActiveState", "--value", "--", unit])
        .deadline(Duration::from_secs(10))
        .run()
        .with_context(|| format!("asking systemd about {unit}"))?;
    Ok(seen.text()?.trim() == "active")
}

/// A signal goes to the parent of the workers only: SIGUSR2 ends another process.
fn is_master_of(pid: i32, workers: &[u32]) -> Result<()> {
    let parents: Vec<Option<i32>> =
        workers.iter().map(|worker| stat_of(*worker)?.parent()).collect();
    if parents.iter().all(|parent| *parent == Some(pid)) {
        return Ok(());
    }
    let msg = format!(
        "process {pid} of the pid file is not the master of HAProxy's worker {}: is the file old, \
         or does HAProxy run without -W?",
        workers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    );
    Err(Failure::new("no_master", msg).into())
}

/// Waits until the workers are old enough for another reload.
fn wait_for_age(workers: &[u32]) -> Result<()> {
    let youngest = workers.iter().filter_map(|pid| age(*pid)).min();
    if let Some(left) = youngest.and_then(|age| APART.checked_sub(age)) {
        deadline::sleep(left)?;
    }
    Ok(())
}

/// When the configuration that a worker serves was read; `None` when it is not a process here.
pub fn loaded_at(worker: u32) -> Option<SystemTime> {
    SystemTime::now().checked_sub(age(worker)?)
}

fn age(pid: u32) -> Option<Duration> {
    let started = stat_of(pid)?.started()?;
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Duration::from(now).checked_sub(started).or(Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_waits_is_seen() {
        for (name, thread, process, expected) in [
            ("haproxy", "0000000000000000", "0000000000000200", true),
            ("haproxy", "0000000000000200", "0000000000000000", true),
            ("haproxy", "0000000000000000", "0000000000000800", false),
            ("sleep", "0000000000000000", "0000000000000200", false),
        ] {
            let status = format!("Name:\t{name}\nSigPnd:\t{thread}\nShdPnd:\t{process}\n");
            assert_eq!(is_told_to_end(&status), expected, "{status}");
        }
        assert!(!is_told_to_end(""));
    }

    #[test]
    fn failed_reloads_are_counted() {
        for (text, expected) in [
            (include_str!("../tests/captured/show-proc-2.6.txt"), Some(0)),
            (include_str!("../tests/captured/show-proc-3.2.txt"), Some(0)),
            (include_str!("../tests/captured/show-proc-failed-2.6.txt"), Some(1)),
            (include_str!("../tests/captured/show-proc-failed-3.0.txt"), Some(1)),
            (include_str!("../tests/captured/show-proc-failed-3.2.txt"), Some(1)),
            ("", None),
        ] {
            assert_eq!(failures(text), expected, "{text}");
        }
    }
}
