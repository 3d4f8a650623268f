//! Looking at processes, ending and starting them.
//!
//! Invariant: a signal goes only to a process of the user that is named, whose id stands in the pid file, and
//! that began when the one we started did: after a crash its id may be somebody else's by now. When it
//! began stands beside the pid file, which other programs read and must hold nothing but the id.

use crate::options::Process;
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::atomic::Replace;
use host::command::Command;
use host::deadline::{Deadline, seconds, sleep};
use host::program;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub type Pid = i32;

/// Between two looks at whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After SIGKILL only the kernel can keep it.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// For start-stop-daemon, which does not wait for the program.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const NOBODY_ELSE: u32 = 0o750;
const READABLE: u32 = 0o644;

#[derive(Clone, Debug)]
pub struct Doomed {
    pub name: String,
    pub pid: Pid,
    pub pidfile: PathBuf,
}

/// In the order of the processes; none for one that does not run.
pub fn look_at_all(processes: &[Process]) -> Result<Vec<Option<Pid>>> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    processes.iter().map(|one| look(one, &passwd)).collect()
}

fn look(one: &Process, passwd: &str) -> Result<Option<Pid>> {
    let uid = uid_of(&one.user, passwd).ok_or_else(|| {
        let msg = format!(
            "argument 'processes', {}: user {} is no number and does not stand in /etc/passwd of the target",
            one.name, one.user
        );
        Failure::new("bad_options", msg)
    })?;
    let text = match fs::read_to_string(&one.pidfile) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("reading {}", one.pidfile.display()));
        }
    };
    // 0 and negative numbers are groups of processes, and 1 is nobody's to end.
    let pid: Option<Pid> = text.trim().parse().ok().filter(|pid| *pid > 1);
    let note = fs::read_to_string(note_of(&one.pidfile)).ok();
    // Without a note, that of a run that was killed just then, the user has to do.
    let began = |pid: Pid| note.as_ref().is_none_or(|note| began(pid).as_ref() == Some(note));
    Ok(pid.filter(|pid| owner(*pid) == Some(uid) && began(*pid)))
}

fn note_of(pidfile: &Path) -> PathBuf {
    let mut name = pidfile.as_os_str().to_owned();
    name.push(".began");
    name.into()
}

/// Its id and when it began, in the kernel's own count since the machine was started.
fn began(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold any; what follows begins with the third field.
    let (_, rest) = stat.rsplit_once(')')?;
    Some(format!("{pid} {}\n", rest.split_whitespace().nth(19)?))
}

/// The names of LDAP and the like are unknown to us, who are linked statically.
fn uid_of(user: &str, passwd: &str) -> Option<u32> {
    user.parse().ok().or_else(|| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let named = fields.next() == Some(user);
            if named { fields.nth(1)?.parse().ok() } else { None }
        })
    })
}

/// The user that it runs as; none when it has ended, which a zombie has.
fn owner(pid: Pid) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let state = field("State:")?.trim_start();
    if state.starts_with(['Z', 'X']) {
        return None;
    }
    field("Uid:")?.split_whitespace().next()?.parse().ok()
}

/// Side by side: how long it takes is said by the slowest.
pub fn end(doomed: &[Doomed], timeout: Duration) -> Result<()> {
    side_by_side(doomed, |one| end_one(one, timeout))
}

fn end_one(one: &Doomed, timeout: Duration) -> Result<()> {
    let was = began(one.pid);
    let runs = || owner(one.pid).is_some() && began(one.pid) == was;
    for (signal, patience) in [(Signal::SIGTERM, timeout), (Signal::SIGKILL, KILL_TIMEOUT)] {
        if !runs() {
            return remove(&one.pidfile);
        }
        match kill(nix::unistd::Pid::from_raw(one.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("ending {}", one.name)),
        }
        let deadline = Deadline::after(patience);
        while runs() && !deadline.passed() {
            sleep(LOOK_EVERY)?;
        }
    }
    if !runs() {
        return remove(&one.pidfile);
    }
    let span = seconds(KILL_TIMEOUT);
    let msg = format!("{} (process {}) still runs {span} after SIGKILL", one.name, one.pid);
    Err(Failure::new("does_not_end", msg).into())
}

/// The pid file last: alone it still tells what runs.
fn remove(pidfile: &Path) -> Result<()> {
    for file in [note_of(pidfile).as_path(), pidfile] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", file.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

pub fn start(processes: &[Process]) -> Result<()> {
    let starter = program::find("start-stop-daemon")?;
    side_by_side(processes, |one| {
        if let Some(folder) = one.log.as_deref().and_then(Path::parent) {
            let made = DirBuilder::new().recursive(true).mode(NOBODY_ELSE).create(folder);
            made.with_context(|| format!("making {}", folder.display()))?;
        }
        // Of one that ended by itself: its id may be somebody else's by now.
        remove(&one.pidfile)?;
        command(one, &starter).run().with_context(|| format!("starting {}", one.name))?;
        // It has let us go before it has written the file, and before it has become the program.
        let deadline = Deadline::after(START_TIMEOUT);
        while !deadline.passed() && !has_become_something(one, &starter) {
            sleep(LOOK_EVERY)?;
        }
        let text = fs::read_to_string(&one.pidfile).unwrap_or_default();
        match text.trim().parse().ok().and_then(began) {
            Some(note) => {
                let path = note_of(&one.pidfile);
                Replace::new(&path).new_mode(READABLE).write(note.as_bytes()).map(drop)
            }
            // It has died of it, and the look after this says so.
            None => Ok(()),
        }
    })
}

/// Or has died of it.
fn has_become_something(one: &Process, starter: &Path) -> bool {
    let text = fs::read_to_string(&one.pidfile).unwrap_or_default();
    let Ok(pid) = text.trim().parse::<Pid>() else { return false };
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.map_or(true, |program| fs::canonicalize(starter).map_or(true, |it| it != program))
}

fn command(one: &Process, starter: &Path) -> Command {
    let mut command = Command::new(starter)
        .args(["--start", "--background", "--make-pidfile", "--pidfile"])
        .arg(&one.pidfile)
        .args(["--chuid", &one.user, "--chdir"])
        .arg(one.chdir.as_deref().unwrap_or(Path::new("/")))
        .env("LC_ALL", "C.UTF-8")
        .deadline(Deadline::after(START_TIMEOUT));
    if let Some(log) = &one.log {
        command = command.arg("--output").arg(log);
    }
    for (name, value) in one.environment.iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        command = command.secret_env(name, text);
    }
    let argv = one.argv.as_deref().unwrap_or_default();
    command.arg("--startas").args(&argv[..1.min(argv.len())]).arg("--").args(argv.iter().skip(1))
}

/// The first that fails is told; all others have been tried.
fn side_by_side<T: Sync>(all: &[T], each: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let each = &each;
    thread::scope(|scope| {
        let threads: Vec<_> = all.iter().map(|one| scope.spawn(move || each(one))).collect();
        let ended = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of ours has died")))
        });
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Stdio};
    use std::time::Instant;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nshop:x:998:997::/:/bin/false\nbroken\n";

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
    fn users_by_name_and_by_number() {
        assert_eq!(uid_of("shop", PASSWD), Some(998));
        assert_eq!(uid_of("1234", PASSWD), Some(1234));
        assert_eq!(uid_of("sho", PASSWD), None);
        assert_eq!(uid_of("broken", PASSWD), None);
    }

    #[test]
    fn only_what_is_ours_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = spawn("/bin/sleep", &["60"]);
        let mut one = process(folder.path(), &format!("{}\n", child.id()));
        assert_eq!(look(&one, PASSWD).unwrap(), Some(child.id() as Pid));
        one.user = "998".into();
        assert_eq!(look(&one, PASSWD).unwrap(), None, "it belongs to somebody else");
        one.user = "nobody-here".into();
        assert!(look(&one, PASSWD).unwrap_err().to_string().contains("does not stand in"));
        child.kill().unwrap();
        for content in ["", "0", "1", "-7", "x", "999999999"] {
            assert_eq!(look(&process(folder.path(), content), PASSWD).unwrap(), None, "{content}");
        }
        // Dead, but nobody has asked: a zombie.
        let one = process(folder.path(), &child.id().to_string());
        assert_eq!(look(&one, PASSWD).unwrap(), None);
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
        let doomed: Vec<Doomed> = (children.iter())
            .map(|child| {
                let pidfile = folder.path().join(child.id().to_string());
                fs::write(&pidfile, "").unwrap();
                Doomed { name: "web".into(), pid: child.id() as Pid, pidfile }
            })
            .collect();
        let begun = Instant::now();
        end(&doomed, Duration::from_millis(500)).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(500));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "pid files are left");
        for child in &mut children {
            child.wait().unwrap();
        }
        end(&doomed, Duration::ZERO).unwrap();
    }
}
