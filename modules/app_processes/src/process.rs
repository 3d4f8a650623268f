//! Observes, stops and starts processes.
//!
//! Invariant: a signal goes only to a process of the given user whose pid is in the pid file and whose start time
//! is that of the process we have started: after a crash the pid may be used by another process. The start time is
//! in a file of its own, since other programs expect only the pid in the pid file.

use crate::account;
use crate::options::Process;
use crate::{log, pidfile};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::account::{Account, Accounts};
use host::command::Command;
use host::deadline::{Deadline, seconds, sleep};
use host::program;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub type Pid = i32;

/// The time between two checks whether a process has ended.
const POLL: Duration = Duration::from_millis(20);
/// How long a process may take to end after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of start-stop-daemon, which does not wait for the program.
const START_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct RunningProcess {
    pub name: String,
    pub pid: Pid,
    pub pidfile: PathBuf,
}

/// Returns the pids in the order of the processes; `None` for one that does not run.
pub fn observe_all(processes: &[Process]) -> Result<Vec<Option<Pid>>> {
    let accounts = Accounts::read();
    processes.iter().map(|one| look(one, &account::of(&accounts, one)?)).collect()
}

/// Checks the logs first, so that no process is stopped that could not be started again.
pub fn check_logs(processes: &[Process]) -> Result<()> {
    let accounts = Accounts::read();
    processes.iter().try_for_each(|one| match &one.log {
        Some(log) => log::check(log, &account::of(&accounts, one)?)
            .with_context(|| format!("the log of {}", one.name)),
        None => Ok(()),
    })
}

fn look(one: &Process, account: &Account) -> Result<Option<Pid>> {
    let (text, note) = pidfile::read(&one.pidfile)?;
    // 0 and negative numbers are process groups, and 1 is init.
    let pid = text.and_then(|text| text.trim().parse().ok()).filter(|pid: &Pid| *pid > 1);
    // Without a note of the start time (the run was killed before it), the user is checked alone.
    let began = |pid: Pid| note.as_ref().is_none_or(|note| began(pid).as_ref() == Some(note));
    Ok(pid.filter(|pid| owner(*pid) == Some(account.uid) && began(*pid)))
}

/// Returns the pid and the start time in clock ticks since the boot.
fn began(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may contain any characters; the third field follows it.
    let (_, rest) = stat.rsplit_once(')')?;
    Some(format!("{pid} {}\n", rest.split_whitespace().nth(19)?))
}

/// Returns the user that the process runs as; `None` if it has ended, also for a zombie.
fn owner(pid: Pid) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let state = field("State:")?.trim_start();
    if state.starts_with(['Z', 'X']) {
        return None;
    }
    field("Uid:")?.split_whitespace().next()?.parse().ok()
}

fn end_one(one: &RunningProcess, timeout: Duration) -> Result<()> {
    let was = began(one.pid);
    let runs = || owner(one.pid).is_some() && began(one.pid) == was;
    for (signal, patience) in [(Signal::SIGTERM, timeout), (Signal::SIGKILL, KILL_TIMEOUT)] {
        if !runs() {
            return pidfile::remove(&one.pidfile);
        }
        match kill(nix::unistd::Pid::from_raw(one.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("ending {}", one.name)),
        }
        let deadline = Deadline::after(patience);
        while runs() && !deadline.passed() {
            sleep(POLL)?;
        }
    }
    if !runs() {
        return pidfile::remove(&one.pidfile);
    }
    let span = seconds(KILL_TIMEOUT);
    let msg = format!("{} (process {}) still runs {span} after SIGKILL", one.name, one.pid);
    Err(Failure::new("does_not_end", msg).into())
}

/// What is needed to start the processes, found before any is stopped.
struct Prepared {
    starter: PathBuf,
    /// Used for a uid without an account, since start-stop-daemon needs a name.
    setpriv: Option<PathBuf>,
    sides: Vec<(Account, Option<File>)>,
}

fn prepare(processes: &[Process]) -> Result<Prepared> {
    let accounts = Accounts::read();
    let sides = processes.iter().map(|one| {
        pidfile::check(&one.pidfile)?;
        let account = account::of(&accounts, one)?;
        let log = one.log.as_deref().map(|log| log::open(log, &account)).transpose();
        Ok((account, log.with_context(|| one.name.clone())?))
    });
    let sides: Vec<_> = sides.collect::<Result<_>>()?;
    let numbers = sides.iter().any(|(account, _)| account.home.is_none());
    let setpriv = if numbers { Some(program::find("setpriv")?) } else { None };
    Ok(Prepared { starter: program::find("start-stop-daemon")?, setpriv, sides })
}

/// Stops all processes in parallel.
pub fn end(to_stop: &[RunningProcess], timeout: Duration, start_again: &[Process]) -> Result<()> {
    prepare(start_again)?;
    in_parallel(to_stop, |one| end_one(one, timeout))
}

pub fn start(processes: &[Process]) -> Result<()> {
    let prepared = prepare(processes)?;
    let each: Vec<_> = processes.iter().zip(&prepared.sides).collect();
    in_parallel(&each, |(one, (account, log))| {
        // A process that ended by itself: its pid may be used by another one now.
        pidfile::remove(&one.pidfile)?;
        let command = command(one, account, log.as_ref(), &prepared)?;
        command.run().with_context(|| format!("starting {}", one.name))?;
        // start-stop-daemon returns before the pid file is written and before the program is executed.
        let deadline = Deadline::after(START_TIMEOUT);
        while !deadline.passed() && !has_executed_program(one, account, &prepared.starter)? {
            sleep(POLL)?;
        }
        match pid_in(&one.pidfile)?.and_then(began) {
            Some(note) => pidfile::write_note(&one.pidfile, &note),
            // It has ended already, which the check after this reports.
            None => Ok(()),
        }
    })
}

fn pid_in(path: &Path) -> Result<Option<Pid>> {
    Ok(pidfile::read(path)?.0.and_then(|text| text.trim().parse().ok()))
}

/// Whether the process executes its program, or has ended.
fn has_executed_program(one: &Process, account: &Account, starter: &Path) -> Result<bool> {
    let Some(pid) = pid_in(&one.pidfile)? else { return Ok(false) };
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    let other =
        program.map_or(true, |program| fs::canonicalize(starter).map_or(true, |it| it != program));
    Ok(other && owner(pid).is_none_or(|uid| uid == account.uid))
}

fn command(
    one: &Process,
    account: &Account,
    log: Option<&File>,
    prepared: &Prepared,
) -> Result<Command> {
    let mut command = Command::new(&prepared.starter)
        .args(["--start", "--background", "--make-pidfile", "--pidfile"])
        .arg(&one.pidfile)
        .arg("--chdir")
        .arg(one.chdir.as_deref().unwrap_or(Path::new("/")))
        .env("LC_ALL", "C.UTF-8")
        .deadline(Deadline::after(START_TIMEOUT));
    if let Some(log) = log {
        // The file that was opened, even if another one has its name now.
        command = command.args(["--output", "/proc/self/fd/1"]).stdout_to(log.try_clone()?);
    }
    for (name, value) in one.environment.iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        command = command.named_env(name, &text);
    }
    let command = match &prepared.setpriv {
        Some(setpriv) if account.home.is_none() => {
            let (uid, gid) = (account.uid.to_string(), account.gid.to_string());
            let command = command.arg("--startas").arg(setpriv).args(["--", "--clear-groups"]);
            command.args(["--reuid", &uid, "--regid", &gid, "--"])
        }
        _ => command.args(["--chuid", &one.user, "--startas"]),
    };
    let argv = one.argv.as_deref().unwrap_or_default();
    Ok(match account.home.is_some() {
        true => command.args(&argv[..1.min(argv.len())]).arg("--").args(argv.iter().skip(1)),
        false => command.args(argv),
    })
}

/// Runs all, and returns the first error.
fn in_parallel<T: Sync>(all: &[T], each: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let each = &each;
    thread::scope(|scope| {
        let threads: Vec<_> = all.iter().map(|one| scope.spawn(move || each(one))).collect();
        let ended = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a worker thread panicked")))
        });
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Stdio};
    use std::time::Instant;

    fn spawn(program: &str, args: &[&str]) -> Child {
        let mut command = std::process::Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    }

    /// It stops itself when it is ready.
    fn has_stopped_and_goes_on(child: &Child) {
        let pid = nix::unistd::Pid::from_raw(child.id() as Pid);
        let stopped = nix::sys::wait::WaitPidFlag::WUNTRACED;
        let seen = nix::sys::wait::waitpid(pid, Some(stopped)).unwrap();
        assert!(matches!(seen, nix::sys::wait::WaitStatus::Stopped(..)), "{seen:?}");
        kill(pid, Signal::SIGCONT).unwrap();
    }

    fn process(folder: &Path, content: &str) -> Process {
        let pidfile = folder.join("pid");
        fs::write(&pidfile, content).unwrap();
        let user = nix::unistd::getuid().to_string();
        let (name, argv, chdir, log, environment) = ("web".to_owned(), None, None, None, None);
        Process { name, pidfile, argv, user, chdir, log, environment }
    }

    #[test]
    fn only_what_is_ours_is_seen() {
        let account = |uid| Account { uid, gid: uid, groups: vec![], home: Some("/".into()) };
        let us = account(nix::unistd::getuid().as_raw());
        let folder = tempfile::tempdir().unwrap();
        let mut child = spawn("/bin/sleep", &["60"]);
        let one = process(folder.path(), &format!("{}\n", child.id()));
        assert_eq!(look(&one, &us).unwrap(), Some(child.id() as Pid));
        assert_eq!(look(&one, &account(998)).unwrap(), None, "it belongs to somebody else");
        child.kill().unwrap();
        for content in ["", "0", "1", "-7", "x", "999999999"] {
            assert_eq!(look(&process(folder.path(), content), &us).unwrap(), None, "{content}");
        }
        // Dead, but nobody has asked: a zombie.
        let one = process(folder.path(), &child.id().to_string());
        assert_eq!(look(&one, &us).unwrap(), None);
        child.wait().unwrap();
    }

    #[test]
    fn what_does_not_listen_is_killed_when_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let deaf = "trap '' TERM; kill -STOP $$; while :; do sleep 0.05; done";
        let mut children: Vec<Child> = (0..8).map(|_| spawn("/bin/sh", &["-c", deaf])).collect();
        for child in &children {
            has_stopped_and_goes_on(child);
        }
        let to_stop: Vec<RunningProcess> = (children.iter())
            .map(|child| {
                let pidfile = folder.path().join(child.id().to_string());
                fs::write(&pidfile, "").unwrap();
                RunningProcess { name: "web".into(), pid: child.id() as Pid, pidfile }
            })
            .collect();
        let began = Instant::now();
        end(&to_stop, Duration::from_millis(500), &[]).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(500));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "pid files are left");
        for child in &mut children {
            child.wait().unwrap();
        }
        end(&to_stop, Duration::ZERO, &[]).unwrap();
    }
}
