//! One task on one target at a time: `flock` on a file that names its holder.
//!
//! Invariants: the lock is the kernel's, so it ends with its holder, however that ends; the content of
//! the file only serves messages and the search for children. The file is never deleted (two processes
//! could then hold "the" lock on two files). A lock is not granted while a command that a dead holder
//! started is alive: see [`crate::command::IfWeDie`]. On a full disk, when a rollback may be needed most,
//! the lock is still taken and commands are still run: then no holder and no child is written.
//!
//! The file: one line of JSON about the holder, then a line `child <content of /proc/<pid>/stat>`
//! for each running command.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::atomic::open_to_append;
use crate::clock::{self, Utc};
use crate::deadline::{Deadline, seconds};
use crate::deploy_id::DeployId;
use crate::folder::SafeFolder;
use crate::reserve;

/// Who holds a lock, as written in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy_id: Option<DeployId>,
    pub since: Utc,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({}, ", self.pid, self.what)?;
        if let Some(id) = &self.deploy_id {
            write!(f, "deploy {id}, ")?;
        }
        write!(f, "since {})", self.since)
    }
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
#[must_use = "the lock is released as soon as it is dropped"]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path` (its folder must exist and be safe). It waits until the deadline
    /// ([`Held`]) or a signal. `what` is shown to others: the module's name.
    pub fn acquire(
        path: &Path,
        what: &str,
        deploy_id: Option<&DeployId>,
        deadline: impl Into<Deadline>,
    ) -> Result<Lock> {
        let deadline = deadline.into();
        let mut pause = Duration::from_millis(10);
        loop {
            let last = deadline.passed();
            let by = match Self::attempt(path)? {
                Attempt::Ours(file) => match orphans(&read(&file)) {
                    orphans if orphans.is_empty() => {
                        return Self::take(file, path, what, deploy_id);
                    }
                    orphans => By::Orphans(orphans),
                },
                Attempt::Theirs(holder) => By::Holder(holder),
            };
            if last {
                return Err(Held { path: path.to_owned(), by, waited: deadline.span() }.into());
            }
            deadline.sleep(pause)?;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Takes the lock of this name in a folder below /run, which is made if it is missing. Locks are not
    /// in state folders, so that a refused run leaves nothing behind there. `subject` is for the message.
    pub fn acquire_in(
        folder: &Path,
        name: &str,
        subject: &str,
        what: &str,
        deploy_id: Option<&DeployId>,
        deadline: impl Into<Deadline>,
    ) -> Result<Lock> {
        let folder = SafeFolder::ensure(folder, 0o700)?;
        Self::acquire(&folder.join(format!("{name}.lock")), what, deploy_id, deadline)
            .with_context(|| format!("waiting for another task on {subject}"))
    }

    /// Takes the lock of a path, in a folder as above. The lock has the name of a hash of the real path.
    pub fn acquire_for_path(
        folder: &Path,
        path: &Path,
        what: &str,
        deploy_id: Option<&DeployId>,
        deadline: impl Into<Deadline>,
    ) -> Result<Lock> {
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let digest = Sha256::digest(real.as_os_str().as_encoded_bytes());
        let subject = path.display().to_string();
        Self::acquire_in(folder, &crate::hex(&digest[..8]), &subject, what, deploy_id, deadline)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn attempt(path: &Path) -> Result<Attempt> {
        // Again if somebody deleted or replaced the file meanwhile: then this is not the file that
        // others would lock.
        for _ in 0..10 {
            let file = open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&file, path) => return Ok(Attempt::Ours(file)),
                Ok(()) => {}
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    let name =
                        read(&file).lines().next().and_then(|line| serde_json::from_str(line).ok());
                    return Ok(Attempt::Theirs(name));
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        bail!(
            "cannot lock {}: another process replaces the file again and again; find out which one",
            path.display()
        )
    }

    fn take(mut file: File, path: &Path, what: &str, deploy_id: Option<&DeployId>) -> Result<Lock> {
        let pid = std::process::id();
        let holder = Holder {
            pid,
            what: what.to_owned(),
            deploy_id: deploy_id.cloned(),
            since: clock::now(),
        };
        let line = serde_json::to_string(&holder)? + "\n";
        let what = || format!("cannot write the holder into the lock file {}", path.display());
        file.set_len(0).with_context(what)?;
        let length = match file.write_all(line.as_bytes()) {
            Err(error) if is_full(&error) => {
                file.set_len(0).with_context(what)?;
                0
            }
            written => written.map(|()| line.len() as u64).with_context(what)?,
        };
        registry().locks.push((file.as_raw_fd(), length));
        Ok(Lock { file, path: path.to_owned() })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut registry = registry();
        registry.locks.retain(|(fd, _)| *fd != self.file.as_raw_fd());
        // A child that could not be killed stays noted there, for the next holder to find.
        if registry.children == 0 {
            let _ = self.file.set_len(0);
        }
        // Explicitly, since a child that has not yet called exec(2) has the file open as well.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

enum Attempt {
    Ours(File),
    Theirs(Option<Holder>),
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn open(path: &Path) -> Result<File> {
    reserve::writing(path, || open_to_append(path))
        .with_context(|| format!("cannot open the lock file {}", path.display()))
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn read(mut file: &File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind().and_then(|()| file.take(64 << 10).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The locks of this process and the number of its running commands: every command is noted in every
/// lock file.
struct Registry {
    /// Descriptor, and length of the holder's line.
    locks: Vec<(RawFd, u64)>,
    children: usize,
}

impl Registry {
    /// Removes the notes of children from the lock files once no child runs any more.
    fn forget_children(&self) {
        if self.children > 0 {
            return;
        }
        for (fd, length) in &self.locks {
            // SAFETY: a lock leaves the registry before its file is closed.
            #[allow(unsafe_code)]
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            let _ = rustix::fs::ftruncate(fd, *length);
        }
    }
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { locks: Vec::new(), children: 0 });

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child. `spawn` gets the descriptors of the lock files, to pass them to [`note_child`]; no
/// lock is taken or dropped meanwhile.
pub(crate) fn child_begins<T>(
    spawn: impl FnOnce(Vec<RawFd>) -> std::io::Result<T>,
) -> std::io::Result<T> {
    let mut registry = registry();
    let started = spawn(registry.locks.iter().map(|(fd, _)| *fd).collect());
    match started {
        Ok(_) => registry.children += 1,
        // It may have noted itself before exec(2) failed.
        Err(_) => registry.forget_children(),
    }
    started
}

/// Writes process id and start time of a child into the lock files. Called in the child between fork
/// and exec; async-signal-safe.
pub(crate) fn note_child(locks: &[RawFd]) -> std::io::Result<()> {
    if locks.is_empty() {
        return Ok(());
    }
    let mut line = [0; 1024];
    line[..6].copy_from_slice(b"child ");
    let how = OFlags::RDONLY | OFlags::CLOEXEC;
    let stat = rustix::fs::open(c"/proc/self/stat", how, Mode::empty())?;
    let n = 6 + rustix::io::read(&stat, &mut line[6..])?;
    for fd in locks {
        // SAFETY: the parent holds the registry while it starts the child, so the descriptors are open.
        #[allow(unsafe_code)]
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        match rustix::io::write(fd, &line[..n]) {
            Err(Errno::NOSPC | Errno::DQUOT) => {}
            written => written.map(drop)?,
        }
    }
    Ok(())
}

/// Notes that a child was reaped.
pub(crate) fn child_ended() {
    let mut registry = registry();
    registry.children = registry.children.saturating_sub(1);
    registry.forget_children();
}

/// A command that goes on although the process that started it is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub pid: u32,
    pub comm: String,
}

/// Returns the children noted in a lock file that are still alive.
fn orphans(content: &str) -> Vec<Orphan> {
    let noted = content.lines().filter_map(|line| Stat::parse(line.strip_prefix("child ")?));
    let alive = |noted: Stat| {
        let now = std::fs::read(format!("/proc/{}/stat", noted.pid)).ok()?;
        let now = Stat::parse(&String::from_utf8_lossy(&now))?;
        let same = now.start == noted.start && !matches!(now.state, b'Z' | b'X' | b'x');
        same.then_some(Orphan { pid: now.pid, comm: now.comm })
    };
    noted.filter_map(alive).collect()
}

/// `/proc/<pid>/stat`: `pid (comm) state ppid ... starttime`, where comm may contain spaces and
/// parentheses; starttime is field 22.
struct Stat {
    pid: u32,
    comm: String,
    state: u8,
    start: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Stat> {
        let (front, back) = (line.split_once(" (")?, line.rsplit_once(") ")?);
        let fields: Vec<&str> = back.1.split_ascii_whitespace().collect();
        let comm = line.get(front.0.len() + 2..back.0.len())?.to_owned();
        Some(Stat {
            pid: front.0.parse().ok()?,
            comm,
            state: *fields.first()?.as_bytes().first()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// A living process; `None` if what it wrote could not be read.
    Holder(Option<Holder>),
    /// Commands of a dead holder.
    Orphans(Vec<Orphan>),
}

/// A lock that could not be taken before the deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub path: PathBuf,
    pub by: By,
    pub waited: Duration,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot lock {}: ", self.path.display())?;
        match &self.by {
            By::Holder(Some(holder)) => write!(f, "held by {holder}")?,
            By::Holder(None) => {
                f.write_str("held by another process, which has not written who it is")?
            }
            By::Orphans(orphans) => {
                let name = |orphan: &Orphan| format!("pid {} ({})", orphan.pid, orphan.comm);
                let names = crate::joined(orphans.iter().map(name));
                write!(
                    f,
                    "an earlier run was killed, but one of its commands still runs: {names}"
                )?;
            }
        }
        write!(
            f,
            "; waited {}; wait for it to end, or end it, then try again",
            seconds(self.waited)
        )
    }
}

impl std::error::Error for Held {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_with_odd_names() {
        let line = "12 (a) (b c)) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.pid, stat.comm.as_str(), stat.state, stat.start),
            (12, "a) (b c)", b'S', 777)
        );
        for torn in (0..line.len() - 7).map(|n| &line[..n]) {
            assert!(Stat::parse(torn).is_none_or(|stat| stat.start != 777), "{torn}");
        }
        assert!(orphans(&format!("{{}}\nchild {line}\nchild\nchild 1\n")).is_empty());
    }

    #[test]
    fn ourselves_as_orphan() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert_eq!(orphans(&format!("x\nchild {stat}"))[0].pid, std::process::id());
    }
}
