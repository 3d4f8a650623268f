//! Finds out what keeps a filesystem busy: its mounts in all mount namespaces, and the processes that
//! use it.
//!
//! A process that has a mount in its own namespace goes on writing to it after it was unmounted here,
//! and nothing shows that here. Invariants: a namespace that cannot be examined is reported
//! ([`Unseen`]), never skipped; processes that end meanwhile are no error. It costs one mountinfo for
//! each namespace (and root folder) and one readlink(2) for each thread.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::{Mount, Mounts};

/// Which filesystem is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem<'a> {
    /// By its source: a dataset's name, a device.
    Source(&'a OsStr),
    /// By its device number, as in [`Mount::dev`]: finds bind mounts under whatever name.
    Dev((u32, u32)),
}

impl Filesystem<'_> {
    fn is(&self, mount: &Mount) -> bool {
        match self {
            Filesystem::Source(source) => mount.source == *source,
            Filesystem::Dev(dev) => mount.dev == *dev,
        }
    }
}

/// A mount of the filesystem in some namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process with the lowest number in that namespace, and its name.
    pub pid: u32,
    pub comm: String,
    /// The inode of the namespace, as `lsns` shows it.
    pub mount_ns: u64,
    pub mount_id: u64,
    /// As processes in that namespace see it.
    pub mountpoint: PathBuf,
    /// A dataset's name, a device.
    pub source: OsString,
    pub dev: (u32, u32),
    /// The peer group of its parent mount, and the groups that that one is a slave of.
    pub parent_groups: (Option<u64>, Vec<u64>),
}

impl Holder {
    /// Whether the kernel unmounts it together with `other`, as in the namespaces that systemd makes for
    /// services. If the kernel does not show it, the answer is no.
    pub fn goes_with(&self, other: &Holder) -> bool {
        let group = other.parent_groups.0.filter(|_| self.mountpoint == other.mountpoint);
        let (shares, follows) = &self.parent_groups;
        group.is_some_and(|group| *shares == Some(group) || follows.contains(&group))
    }
}

/// A namespace that could not be examined: where it was found, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The process whose mounts could not be read, or the file that keeps a namespace without processes
    /// alive.
    pub at: PathBuf,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub holders: Vec<Holder>,
    /// A check that must not miss any holder requires that this is empty.
    pub unseen: Vec<Unseen>,
}

/// Finds all mounts of a filesystem in all mount namespaces.
pub fn holders(what: Filesystem<'_>) -> Result<Census> {
    holders_where(&|mount| what.is(mount))
}

/// Finds the mounts of several filesystems in one pass over the processes.
pub fn holders_where(wanted: &dyn Fn(&Mount) -> bool) -> Result<Census> {
    let mut pass = Pass::default();
    for pid in pids()? {
        for task in tasks(pid) {
            pass.examine(pid, &task, wanted)?;
        }
    }
    Ok(pass.finish())
}

/// What was seen so far in one pass over the processes.
#[derive(Default)]
struct Pass {
    census: Census,
    /// Each namespace together with a root folder that some process has in it.
    views: HashSet<(u64, (u64, u64))>,
    namespaces: HashSet<u64>,
    /// The namespaces that a file keeps alive, and that file.
    kept_alive: Vec<(u64, PathBuf)>,
}

impl Pass {
    fn examine(&mut self, pid: u32, task: &Path, wanted: &dyn Fn(&Mount) -> bool) -> Result<()> {
        let namespace = match task.join("ns/mnt").metadata() {
            Ok(metadata) => metadata.ino(),
            Err(error) => {
                unseen(&mut self.census, task, &error);
                return Ok(());
            }
        };
        // Within a namespace, a process with its own root folder sees only the mounts below it.
        let root = task.join("root").metadata();
        let root = root.map(|root| (root.dev(), root.ino())).unwrap_or_default();
        if self.views.contains(&(namespace, root)) {
            return Ok(());
        }
        let mounts = match std::fs::read(task.join("mountinfo")) {
            Ok(bytes) => Mounts::parse(&bytes)
                .with_context(|| format!("cannot understand {}/mountinfo", task.display()))?,
            Err(error) => {
                unseen(&mut self.census, task, &error);
                return Ok(());
            }
        };
        self.views.insert((namespace, root));
        self.namespaces.insert(namespace);
        self.kept_alive.extend(mounts.iter().filter_map(kept_alive));
        let found = mounts.iter().filter(|mount| wanted(mount));
        self.census.holders.extend(found.map(|mount| holder(pid, namespace, mount, &mounts)));
        Ok(())
    }

    fn finish(mut self) -> Census {
        // A mount that is seen from several root folders is listed once.
        let mut once = HashSet::new();
        self.census.holders.retain(|holder| once.insert((holder.mount_ns, holder.mount_id)));
        for (namespace, at) in self.kept_alive {
            if self.namespaces.insert(namespace) {
                let why =
                    format!("it keeps the mount namespace {namespace} alive, which has no process");
                self.census.unseen.push(Unseen { at, why });
            }
        }
        self.census
    }
}

fn holder(pid: u32, mount_ns: u64, mount: &Mount, mounts: &Mounts) -> Holder {
    let parent = mounts.above(mount).next();
    Holder {
        pid,
        comm: comm(pid),
        mount_ns,
        mount_id: mount.id,
        mountpoint: mount.mountpoint.clone(),
        source: mount.source.clone(),
        dev: mount.dev,
        parent_groups: parent.map(|on| (on.shares, on.follows.clone())).unwrap_or_default(),
    }
}

/// A mount namespace that a file keeps alive (`unshare --mount=FILE`) shows as a mount of nsfs with
/// the root `mnt:[4026532177]`.
fn kept_alive(mount: &Mount) -> Option<(u64, PathBuf)> {
    let inode = mount.root.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?;
    (mount.fstype == "nsfs").then_some((inode.parse().ok()?, mount.mountpoint.clone()))
}

fn unseen(census: &mut Census, task: &Path, error: &std::io::Error) {
    // A thread that has ended since the folder was read, a zombie, or one that is just ending: they hold
    // nothing any more.
    let ended = matches!(error.raw_os_error(), Some(code) if code == nix::libc::ENOENT || code == nix::libc::ESRCH || code == nix::libc::EINVAL);
    if !ended {
        census.unseen.push(Unseen { at: task.to_owned(), why: error.to_string() });
    }
}

/// How a process uses a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usage {
    Cwd,
    Root,
    Exe,
    /// An open file.
    Fd,
    /// A mapped file.
    Map,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub pid: u32,
    pub comm: String,
    pub how: Usage,
    /// The file or folder, as the process sees it.
    pub path: PathBuf,
    /// Which filesystem it is on: [`Mount::dev`].
    pub dev: (u32, u32),
}

/// Finds the processes that use a filesystem, in any namespace, also after a lazy unmount; each once,
/// with the first use that was found. Only root sees the processes of others. The kernel's own uses
/// (loop devices, swap, exports) are not found.
pub fn users_of(mount: &Mount) -> Result<Vec<User>> {
    users_of_any(&[mount.dev])
}

/// Finds the users of several filesystems (by [`Mount::dev`]) in one pass over the processes.
pub fn users_of_any(devs: &[(u32, u32)]) -> Result<Vec<User>> {
    let of_any = holders_where(&|mount| devs.contains(&mount.dev))?;
    let ids = of_any.holders.iter().map(|holder| (holder.mount_id, holder.dev)).collect();
    let named = |dev: &(u32, u32)| (format!("{:02x}:{:02x}", dev.0, dev.1), *dev);
    let maps = devs.iter().map(named).collect();
    let wanted = Wanted { ids, devs: devs.iter().copied().collect(), maps };
    let found = pids()?.into_iter().filter_map(|pid| {
        let (how, path, dev) = wanted.used_by(pid)?;
        Some(User { pid, comm: comm(pid), how, path, dev })
    });
    Ok(found.collect())
}

struct Wanted {
    /// By mount id.
    ids: HashMap<u64, (u32, u32)>,
    devs: HashSet<(u32, u32)>,
    /// By the device number as written in a process's `maps`.
    maps: HashMap<String, (u32, u32)>,
}

impl Wanted {
    fn used_by(&self, pid: u32) -> Option<(Usage, PathBuf, (u32, u32))> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let named = [(Usage::Cwd, "cwd"), (Usage::Root, "root"), (Usage::Exe, "exe")]
            .map(|(how, name)| (how, process.join(name)));
        let open = std::fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|fd| (Usage::Fd, fd.path()));
        let mut links = named.into_iter().chain(open);
        let used = links.find_map(|(how, link)| Some((how, self.holds(&link)?, link)));
        used.map(|(how, dev, link)| (how, link.read_link().unwrap_or(link), dev))
            .or_else(|| self.maps(&process))
    }

    /// Compares by mount id and by device: btrfs and overlay have another device number in stat(2) than in
    /// mountinfo, and a lazily unmounted filesystem is in no mountinfo any more.
    fn holds(&self, link: &Path) -> Option<(u32, u32)> {
        let flags = AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let found = rustix::fs::statx(CWD, link, flags, wanted).ok()?;
        let has_id = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        let by_id = self.ids.get(&found.stx_mnt_id).filter(|_| has_id);
        by_id.or(self.devs.get(&(found.stx_dev_major, found.stx_dev_minor))).copied()
    }

    /// Looks for a mapped file: `7f..-7f.. r-xp 00000000 fe:01 1234   /usr/lib/x.so`, proc_pid_maps(5).
    fn maps(&self, process: &Path) -> Option<(Usage, PathBuf, (u32, u32))> {
        let maps = std::fs::read(process.join("maps")).ok()?;
        maps.split(|byte| *byte == b'\n').find_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
            let dev = self.maps.get(std::str::from_utf8(fields.nth(3)?).ok()?)?;
            let is_file = fields.next()? != b"0";
            let slash = line.iter().position(|byte| *byte == b'/')?;
            let path = PathBuf::from(OsStr::from_bytes(&line[slash..]));
            is_file.then_some((Usage::Map, path, *dev))
        })
    }
}

fn pids() -> Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc").context("cannot list the processes in /proc")?;
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// Lists the threads of a process, since each can have a mount namespace of its own.
fn tasks(pid: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"));
    entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn comm(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned()
}
