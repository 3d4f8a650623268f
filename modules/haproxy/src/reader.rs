//! Files as a reload of HAProxy reads them: in the mount namespace of its master. In a container or a
//! systemd unit, another file may be at the same path.
//!
//! Invariant: a file that was replaced here is read there before anything live is changed.

use crate::process::{children_of, stat_of};
use crate::socket::Socket;
use crate::stat;
use ansible_module::Failure;
use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, open, openat, openat2, statx,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// A process that reads a file, and its root folder.
#[derive(Debug)]
pub struct Reader {
    title: String,
    root: OwnedFd,
}

/// Finds the masters of the HAProxy processes that answer at these sockets, and adds this machine itself.
///
/// Processes without a master, which cannot reload, and processes on other machines are not included.
pub fn readers(sockets: &[Socket]) -> Result<Vec<Reader>> {
    let mut masters = BTreeSet::new();
    for socket in sockets {
        masters.extend(masters_at(socket)?);
    }
    let root_of =
        |path: &str| open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root_of("/").context("opening /")?;
    let mut readers = vec![Reader { title: "on this machine".to_owned(), root }];
    for master in masters {
        // It may have ended since.
        if let Ok(root) = root_of(&format!("/proc/{master}/root")) {
            readers.push(Reader { title: format!("where HAProxy (process {master}) runs"), root });
        }
    }
    Ok(readers)
}

/// Refuses a file that cannot be replaced for all readers. Nothing is changed.
pub fn ensure_replaceable(readers: &[Reader], path: &Path) -> Result<()> {
    for reader in readers {
        let Some(file) = reader.open(path, OFlags::PATH)? else {
            return Err(reader.refused(path, "is missing"));
        };
        let seen = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        let seen = seen.with_context(|| format!("looking at {}", path.display()))?;
        // Such a mount still shows the old file after another one is renamed over it.
        if seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(reader.refused(path, "is a mount of this one file"));
        }
    }
    Ok(())
}

/// Checks that all readers see the new content after the file was replaced.
pub fn ensure_read(readers: &[Reader], path: &Path, content: &[u8]) -> Result<()> {
    for reader in readers {
        let Some(file) = reader.open(path, OFlags::RDONLY | OFlags::NOCTTY)? else {
            return Err(reader.refused(path, "is missing"));
        };
        let mut read = Vec::new();
        File::from(file)
            .read_to_end(&mut read)
            .with_context(|| format!("reading {} back, {}", path.display(), reader.title))?;
        if read != content {
            return Err(reader.refused(path, "is another file"));
        }
    }
    Ok(())
}

impl Reader {
    /// Opens a file, resolving links within the root of the reader; `None` if it does not exist there.
    fn open(&self, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>> {
        let flags = flags | OFlags::CLOEXEC;
        let in_root = ResolveFlags::IN_ROOT;
        let file = match openat2(&self.root, path, flags, Mode::empty(), in_root) {
            // Linux before 5.6, or a seccomp filter that does not know it: then links are resolved here.
            Err(Errno::NOSYS | Errno::PERM) => {
                let path = path.strip_prefix("/").unwrap_or(path);
                openat(&self.root, path, flags, Mode::empty())
            }
            file => file,
        };
        match file {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(std::io::Error::from(error))
                .with_context(|| format!("opening {} {}", path.display(), self.title)),
        }
    }

    fn refused(&self, path: &Path, why: &str) -> anyhow::Error {
        let folder = path.parent().unwrap_or(path).display();
        let msg = format!(
            "{} {why} {}, so that a reload would not read what is written here; mount its folder {folder} \
             there instead",
            path.display(),
            self.title
        );
        Failure::new("other_file", msg).into()
    }
}

/// Finds the master of the process at a socket; several candidates if neither the socket nor its pid
/// identifies it.
fn masters_at(socket: &Socket) -> Result<BTreeSet<i32>> {
    // The socket was made by the master, or from 3.1 on by the first worker, which may have ended.
    if let Some(master) = socket.creator()?.and_then(master_of) {
        return Ok(BTreeSet::from([master]));
    }
    let worker = stat::worker(socket, PATIENCE)?;
    let processes = fs::read_dir("/proc").context("listing /proc")?.flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids
        .filter(|pid| pid_in_own_namespace(*pid) == Some(worker))
        .filter_map(master_of)
        .collect())
}

/// Returns the master of a worker, or the process itself if it is a master.
fn master_of(pid: u32) -> Option<i32> {
    let parent = stat_of(pid)?.parent()?;
    if u32::try_from(parent).ok().and_then(stat_of).is_some() {
        return Some(parent);
    }
    let master = i32::try_from(pid).ok()?;
    let is_worker = |child: &i32| u32::try_from(*child).ok().and_then(stat_of).is_some();
    children_of(master).iter().any(is_worker).then_some(master)
}

/// Returns the pid of a process in its own namespace, which is the one that HAProxy reports.
fn pid_in_own_namespace(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    pids.split_ascii_whitespace().last()?.parse().ok()
}
