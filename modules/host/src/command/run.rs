//! Starts a command, writes its input, reads its output and ends it: one loop over poll(2), no threads.
//!
//! The child leads a session of its own: its group can be killed as a whole, and a program that wants to
//! prompt on /dev/tty fails at once instead of stopping for ever in the background. Invariant: after the
//! child has ended (or could not be killed) the loop ends within [`DRAIN`], even if a grandchild still
//! holds the pipes.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, killpg, sigaction, sigprocmask,
};
use nix::unistd::{Gid, Pid, Uid, getppid, setgid, setgroups, setsid, setuid};

use super::capture::Capture;
use super::failed::{Cause, Failed, Output, shown};
use super::{Command, IfWeDie, Stdin};
use crate::interrupt::{self, LOOK_EVERY};
use crate::lock;

/// How long output is still read after the child has ended, if another process holds its pipes.
const DRAIN: Duration = Duration::from_millis(200);
/// How long a process may take to end after SIGKILL before it counts as stuck in the kernel.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// How often the end of a child is looked for without a pidfd (Linux before 5.3).
const WITHOUT_PIDFD: Duration = Duration::from_millis(10);

pub(super) fn run(command: &Command) -> Result<Output, Failed> {
    let began = Instant::now();
    if let Some(signal) = interrupt::pending() {
        return Err(Failed::new(command.shown(), Cause::Interrupted { signal, stuck: None }));
    }
    let io = |error: std::io::Error| Failed::new(command.shown(), Cause::Io(error.to_string()));
    let (child, pid) = spawn(command).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failed::new(command.shown(), Cause::NotFound),
        _ => io(error),
    })?;
    let mut running = RunningChild::new(command, child, pid).map_err(|error| {
        let _ = killpg(pid, Signal::SIGKILL);
        io(error)
    })?;
    let ended = running.until_its_end(command);
    match running.exit {
        Some(_) => lock::child_ended(),
        // It hangs in the kernel, or watching it failed. It stays noted in the lock files.
        None => drop(killpg(pid, Signal::SIGKILL)),
    }
    let RunningChild { stdout, stderr, exit, .. } = running;
    let secrets = &command.secrets;
    let ((stdout, cut_out), (stderr, cut_err)) =
        (stdout.kept.finish(secrets), stderr.kept.finish(secrets));
    let (rc, signal) = (exit.and_then(|exit| exit.code()), exit.and_then(|exit| exit.signal()));
    let cause = match ended {
        Ok(()) if rc.is_some_and(|rc| command.accepted.contains(&rc)) => {
            let (cmd, rc, took) = (command.shown(), rc.unwrap_or_default(), began.elapsed());
            return Ok(Output {
                cmd,
                rc,
                stdout,
                stderr,
                truncated: cut_out + cut_err,
                took,
                secrets: secrets.clone(),
            });
        }
        Ok(()) => Cause::NonZero,
        Err(cause) => cause,
    };
    Err(Failed {
        rc,
        signal,
        stdout: shown(&stdout, secrets),
        stderr: shown(&stderr, secrets),
        ..Failed::new(command.shown(), cause)
    })
}

fn spawn(command: &Command) -> std::io::Result<(Child, Pid)> {
    let mut std = std::process::Command::new(&command.program);
    std.args(&command.args).env_clear().envs(command.env.iter().map(|(name, value)| (name, value)));
    if let Some(folder) = &command.cwd {
        std.current_dir(folder);
    }
    std.stdin(match &command.stdin {
        Stdin::Nothing => Stdio::null(),
        Stdin::Bytes(_) => Stdio::piped(),
        Stdin::File(file) => file.try_clone()?.into(),
    });
    std.stdout(match &command.stdout_to {
        None => Stdio::piped(),
        Some(file) => file.try_clone()?.into(),
    });
    std.stderr(Stdio::piped());
    let (us, if_we_die) = (Pid::this(), command.if_we_die);
    let on_broken_pipe =
        if command.outlives_reader { SigHandler::SigIgn } else { SigHandler::SigDfl };
    let account = command.account.as_ref().map(|account| {
        let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        (Uid::from_raw(account.uid), Gid::from_raw(account.gid), groups)
    });
    lock::child_begins(|locks| {
        // SAFETY: `become_child` runs between fork and exec; it only makes system calls, takes no
        // lock and allocates nothing; nor does what sets the account.
        #[allow(unsafe_code)]
        unsafe {
            std.pre_exec(move || {
                // First, since the kernel resets other settings when the user changes.
                if let Some((uid, gid, groups)) = &account {
                    setgroups(groups)?;
                    setgid(*gid)?;
                    setuid(*uid)?;
                }
                become_child(us, if_we_die, on_broken_pipe, &locks)
            });
        }
        let child = std.spawn()?;
        let pid = Pid::from_raw(child.id() as i32);
        Ok((child, pid))
    })
}

/// In the child, before it becomes the program. Only async-signal-safe calls.
fn become_child(
    parent: Pid,
    if_we_die: IfWeDie,
    on_broken_pipe: SigHandler,
    locks: &[RawFd],
) -> std::io::Result<()> {
    setsid()?;
    if if_we_die == IfWeDie::DiesToo {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
    } else {
        lock::note_child(locks)?;
    }
    let action = SigAction::new(on_broken_pipe, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither ignoring it nor the default action runs a handler of ours.
    #[allow(unsafe_code)]
    unsafe {
        sigaction(Signal::SIGPIPE, &action)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// An output pipe and what was kept of its output.
struct OutputPipe {
    pipe: Option<File>,
    kept: Capture,
}

impl OutputPipe {
    fn new(pipe: Option<impl Into<OwnedFd>>, limit: usize) -> std::io::Result<OutputPipe> {
        Ok(OutputPipe { pipe: pipe.map(nonblocking).transpose()?, kept: Capture::new(limit) })
    }

    /// Reads once; closes the pipe at its end.
    fn read_once(&mut self, buffer: &mut [u8]) {
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.read(buffer) {
            Ok(0) => self.pipe = None,
            Ok(n) => self.kept.push(&buffer[..n]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.pipe = None,
        }
    }
}

/// How far ending a child has come.
enum Stage {
    Running,
    /// SIGTERM was sent.
    Asked {
        cause: Cause,
        kill_at: Instant,
    },
    /// SIGKILL was sent.
    Killed {
        cause: Cause,
        give_up_at: Instant,
    },
}

struct RunningChild<'a> {
    child: Child,
    pid: Pid,
    pidfd: Option<OwnedFd>,
    stdin: Option<File>,
    to_write: &'a [u8],
    stdout: OutputPipe,
    stderr: OutputPipe,
    exit: Option<ExitStatus>,
    stage: Stage,
}

impl<'a> RunningChild<'a> {
    fn new(command: &'a Command, mut child: Child, pid: Pid) -> std::io::Result<RunningChild<'a>> {
        let pidfd = rustix::process::Pid::from_raw(pid.as_raw()).and_then(|pid| {
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
        });
        Ok(RunningChild {
            pidfd,
            stdin: child.stdin.take().map(nonblocking).transpose()?,
            to_write: if let Stdin::Bytes(bytes) = &command.stdin { bytes } else { &[] },
            stdout: OutputPipe::new(child.stdout.take(), command.limit)?,
            stderr: OutputPipe::new(child.stderr.take(), command.limit)?,
            exit: None,
            stage: Stage::Running,
            child,
            pid,
        })
    }

    /// Waits for the end of the child; `Ok` if it ended without being stopped.
    fn until_its_end(&mut self, command: &Command) -> Result<(), Cause> {
        let mut buffer = vec![0; 64 << 10];
        let mut drain_until = None;
        loop {
            self.wait_a_little(command, drain_until.is_some())?;
            self.feed();
            self.stdout.read_once(&mut buffer);
            self.stderr.read_once(&mut buffer);
            if self.exit.is_none() {
                self.exit = self.child.try_wait().map_err(|error| Cause::Io(error.to_string()))?;
            }
            self.advance(command);
            let silent = self.stdout.pipe.is_none() && self.stderr.pipe.is_none();
            match &self.stage {
                Stage::Running if self.exit.is_some() => {
                    self.stdin = None;
                    let until = *drain_until.get_or_insert_with(|| Instant::now() + DRAIN);
                    if silent || Instant::now() >= until {
                        return Ok(());
                    }
                }
                Stage::Killed { cause, give_up_at }
                    if self.exit.is_some() || Instant::now() >= *give_up_at =>
                {
                    let until = *drain_until.get_or_insert_with(|| Instant::now() + DRAIN);
                    if silent || Instant::now() >= until {
                        return Err(self.with_stuck_process(cause.clone()));
                    }
                }
                _ => {}
            }
        }
    }

    /// Goes from one stage of ending the child to the next when it is time.
    fn advance(&mut self, command: &Command) {
        match &self.stage {
            Stage::Running if self.exit.is_none() => {
                let cause = match interrupt::pending() {
                    Some(signal) => Cause::Interrupted { signal, stuck: None },
                    None if command.deadline.passed() => {
                        Cause::TimedOut { after: command.deadline.span(), stuck: None }
                    }
                    None => return,
                };
                let _ = killpg(self.pid, Signal::SIGTERM);
                self.stage = Stage::Asked { cause, kill_at: Instant::now() + command.grace };
            }
            // The leader may have ended and others of its group not: they get the same time.
            Stage::Asked { cause, kill_at } => {
                let gone = self.exit.is_some() && killpg(self.pid, None) == Err(Errno::ESRCH);
                if gone || Instant::now() >= *kill_at {
                    let _ = killpg(self.pid, Signal::SIGKILL);
                    self.stage = Stage::Killed {
                        cause: cause.clone(),
                        give_up_at: Instant::now() + LAST_WAIT,
                    };
                }
            }
            Stage::Running | Stage::Killed { .. } => {}
        }
    }

    /// Adds the id of the process if it could not be killed.
    fn with_stuck_process(&self, cause: Cause) -> Cause {
        let hangs = self.exit.is_none().then(|| self.pid.as_raw());
        match cause {
            Cause::TimedOut { after, .. } => Cause::TimedOut { after, stuck: hangs },
            Cause::Interrupted { signal, .. } => Cause::Interrupted { signal, stuck: hangs },
            other => other,
        }
    }

    /// Waits until there is something to read, to write or to reap, or for a short while.
    fn wait_a_little(&self, command: &Command, draining: bool) -> Result<(), Cause> {
        let pidfd = self.pidfd.as_ref().filter(|_| self.exit.is_none());
        let mut fds: Vec<PollFd> = Vec::with_capacity(4);
        fds.extend(
            [&self.stdout.pipe, &self.stderr.pipe]
                .into_iter()
                .flatten()
                .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)),
        );
        fds.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        fds.extend(pidfd.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let mut pause = if pidfd.is_none() || draining { WITHOUT_PIDFD } else { LOOK_EVERY };
        if matches!(self.stage, Stage::Running) && self.exit.is_none() {
            pause = pause.min(command.deadline.remaining());
        }
        // Rounded up: a pause of half a millisecond must not become a busy loop.
        let timeout = PollTimeout::from(pause.as_micros().div_ceil(1000) as u16);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(Cause::Io(format!("poll: {error}"))),
        }
    }

    /// Writes what fits into the pipe, and closes it when all is written or the child reads no more.
    fn feed(&mut self) {
        let Some(pipe) = &mut self.stdin else { return };
        if !self.to_write.is_empty() {
            match pipe.write(self.to_write) {
                Ok(n) => self.to_write = &self.to_write[n..],
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    return;
                }
                // EPIPE: not every program reads all of its input; its exit code says whether that is an
                // error.
                Err(_) => self.to_write = &[],
            }
        }
        if self.to_write.is_empty() {
            self.stdin = None;
        }
    }
}

fn nonblocking(pipe: impl Into<OwnedFd>) -> std::io::Result<File> {
    let fd: OwnedFd = pipe.into();
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd.into())
}
