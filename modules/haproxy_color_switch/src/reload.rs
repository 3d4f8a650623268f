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

/// The minimum age of a worker before the next reload.
const MIN_AGE: Duration = Duration::from_millis(150);
/// The timeout of a reload that has started; a long configuration takes long.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
const TRIES: u32 = 3;
const POLL: Duration = Duration::from_millis(4);
/// The timeout of an answer: a restarting process may accept a command and never answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
/// The master is asked less often than the workers, since it is busy with the reload.
const MASTER_POLL: Duration = Duration::from_millis(100);
/// How long to wait until an old worker has received the signal to end.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(2);

/// The options about how to reload.
#[derive(Debug)]
pub struct Reloader {
    pub master: Option<Socket>,
    pub unit: String,
    pub pidfile: Option<PathBuf>,
}

/// How HAProxy is reloaded.
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
        let reload = self.configured()?;
        match &reload {
            ReloadMethod::Master(master) => drop(retry_while_down(|| master.ask("show proc"))?),
            ReloadMethod::Signal(pid) => is_master_of(*pid, &workers(sockets)?)?,
            ReloadMethod::Unit(_) => {}
        }
        Ok(reload)
    }

    fn configured(&self) -> Result<ReloadMethod> {
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
                    "no way to reload HAProxy was found: the unit {} is not active, so give \
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
            Failure::new("no_reload", format!("{} contains no pid", pidfile.display())).into()
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

/// Returns the workers that answer at these sockets.
pub fn workers(sockets: &[Socket]) -> Result<Vec<u32>> {
    sockets.iter().map(|socket| stat::worker(socket, RELOAD_TIMEOUT)).collect()
}

/// Reloads, and waits until other workers than `old` answer.
pub fn reload(reload: &ReloadMethod, sockets: &[Socket]) -> Result<()> {
    let (mut attempt, busy) = (1, Deadline::after(RELOAD_TIMEOUT));
    while attempt <= TRIES {
        let old = retry_while_down(|| workers(sockets))?;
        wait_for_age(&old)?;
        if let ReloadMethod::Signal(pid) = reload {
            is_master_of(*pid, &old)?;
        }
        let mut signs = FailureSigns::before(reload, &old);
        if send(reload)? == Sent::Lost && !busy.passed() {
            busy.sleep(MASTER_POLL)?;
            continue;
        }
        let patience = if attempt == TRIES { RELOAD_TIMEOUT } else { reload.patience() };
        if new_workers_answer(sockets, &old, &mut signs, Deadline::after(patience))? {
            return wait_for_end_signal(&old);
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
    /// After how long a reload counts as lost and is sent again.
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
    /// Another reload is running, so this one was dropped: HAProxy 3.2 then answers Success=0 at once, without a log.
    Lost,
}

fn send(reload: &ReloadMethod) -> Result<Sent> {
    match reload {
        ReloadMethod::Master(socket) => {
            // 2.6 answers at once and empty; later versions answer when it is done, with Success=0 or 1 and the log.
            let answer = retry_while_down(|| socket.ask_for("reload", RELOAD_TIMEOUT))?;
            match answer.strip_prefix("Success=0") {
                Some(log) if log.contains("ALERT") => return Err(refused(log)),
                Some(_) => return Ok(Sent::Lost),
                None => {}
            }
        }
        ReloadMethod::Unit(unit) => {
            let systemctl = program::find("systemctl")?;
            Command::new(&systemctl)
                .args(["reload", "--", unit])
                .deadline(RELOAD_TIMEOUT)
                .run()
                .with_context(|| format!("reloading {unit}"))?;
        }
        ReloadMethod::Signal(pid) => kill(Pid::from_raw(*pid), Signal::SIGUSR2)
            .with_context(|| format!("sending SIGUSR2 to HAProxy's master {pid}"))?,
    }
    Ok(Sent::Done)
}

/// Whether new workers answered before the deadline. It is an error if HAProxy reports a failed reload.
fn new_workers_answer(
    sockets: &[Socket],
    old: &[u32],
    signs: &mut FailureSigns<'_>,
    deadline: Deadline,
) -> Result<bool> {
    loop {
        // While the master restarts there may be no answer; the next round asks again.
        let now: Result<Vec<u32>> =
            sockets.iter().map(|socket| stat::worker(socket, ANSWER_TIMEOUT)).collect();
        if now.is_ok_and(|now| now.iter().zip(old).all(|(now, old)| now != old)) {
            return Ok(true);
        }
        if signs.has_failed() {
            return Err(refused(""));
        }
        if deadline.passed() {
            return Ok(false);
        }
        deadline.sleep(POLL)?;
    }
}

/// Waits until old workers have received the signal to end, since they take connections until then. On a busy
/// machine that may take a while, so the wait has a timeout.
fn wait_for_end_signal(old: &[u32]) -> Result<()> {
    let deadline = Deadline::after(SIGNAL_TIMEOUT);
    while old.iter().any(|pid| has_pending_end_signal(*pid)) && !deadline.passed() {
        deadline.sleep(POLL)?;
    }
    Ok(())
}

fn has_pending_end_signal(pid: u32) -> bool {
    end_signal_is_pending(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
}

/// Whether SIGUSR1, which tells a worker of HAProxy to end, is still pending for this process.
fn end_signal_is_pending(status: &str) -> bool {
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
    let messages = match alerts.as_slice() {
        [] => "see its log for the reason".to_owned(),
        lines => lines.join("; "),
    };
    let msg = format!(
        "HAProxy could not load the configuration and continues with the old one: {messages}"
    );
    Failure::new("reload_failed", msg).into()
}

/// Signs of a failed reload, after which the old worker goes on serving.
struct FailureSigns<'a> {
    reload: &'a ReloadMethod,
    asked: Instant,
    /// The master's count of failed reloads before.
    failures: Option<u32>,
    master: Option<i32>,
    children: BTreeSet<i32>,
    /// Workers that were started after the signal.
    came: BTreeSet<i32>,
    /// Whether the master has the mark with which, up to 3.0, it executes itself again after it has forked its
    /// worker or has failed to.
    marked: bool,
}

impl<'a> FailureSigns<'a> {
    fn before(reload: &'a ReloadMethod, workers: &[u32]) -> FailureSigns<'a> {
        // With a master socket the master's answer is enough. Otherwise a worker of another reload may be
        // taken for ours: a reload without effect then counts as lost and is sent again.
        let master = match reload {
            ReloadMethod::Master(_) => None,
            ReloadMethod::Unit(_) | ReloadMethod::Signal(_) => workers.first(),
        };
        let master = master.and_then(|worker| stat_of(*worker)?.parent());
        let known =
            |child: &i32| workers.iter().any(|worker| i64::from(*worker) == i64::from(*child));
        let master = master.filter(|master| children_of(*master).iter().all(known));
        FailureSigns {
            reload,
            asked: Instant::now(),
            failures: failures_of(reload),
            children: master.map(children_of).unwrap_or_default(),
            came: BTreeSet::new(),
            marked: master.is_some_and(is_marked),
            master,
        }
    }

    fn has_failed(&mut self) -> bool {
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

/// Reads the master's count of failed reloads.
fn failures_of(reload: &ReloadMethod) -> Option<u32> {
    let ReloadMethod::Master(socket) = reload else { return None };
    failures(&socket.ask_for("show proc", ANSWER_TIMEOUT).ok()?)
}

/// Parses the line of the master in `show proc`: `15250  master  1 [failed: 0]  0d00h00m01s  2.6.12`.
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

/// Checks that a pid is the parent of the workers before it is signalled: SIGUSR2 would end another process.
fn is_master_of(pid: i32, workers: &[u32]) -> Result<()> {
    let parents: Vec<Option<i32>> =
        workers.iter().map(|worker| stat_of(*worker)?.parent()).collect();
    if parents.iter().all(|parent| *parent == Some(pid)) {
        return Ok(());
    }
    let msg = format!(
        "process {pid} of the pid file is not the master of HAProxy's worker {}: is the file old, \
         or does HAProxy run without -W?",
        host::joined(workers)
    );
    Err(Failure::new("no_master", msg).into())
}

/// Waits until the workers are old enough for another reload.
fn wait_for_age(workers: &[u32]) -> Result<()> {
    let youngest = workers.iter().filter_map(|pid| age(*pid)).min();
    if let Some(left) = youngest.and_then(|age| MIN_AGE.checked_sub(age)) {
        deadline::sleep(left)?;
    }
    Ok(())
}

/// Returns when a worker read its configuration; `None` if it is not a process of this machine.
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
    fn a_pending_signal_is_found() {
        for (name, thread, process, expected) in [
            ("haproxy", "0000000000000000", "0000000000000200", true),
            ("haproxy", "0000000000000200", "0000000000000000", true),
            ("haproxy", "0000000000000000", "0000000000000800", false),
            ("sleep", "0000000000000000", "0000000000000200", false),
        ] {
            let status = format!("Name:\t{name}\nSigPnd:\t{thread}\nShdPnd:\t{process}\n");
            assert_eq!(end_signal_is_pending(&status), expected, "{status}");
        }
        assert!(!end_signal_is_pending(""));
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
