//! Finds and thaws frozen file systems. For a volume on RBD, Proxmox also freezes the file system while it
//! takes a snapshot (`__snapshot_freeze` of PVE::LXC::Config, FIFREEZE at `/proc/<init>/root/<mp>`), and
//! thaws it after the processes. If it is killed before that, every write there waits, and no kill, shutdown or
//! `lxc-unfreeze` ends that.
//!
//! The kernel does not report whether a file system is frozen: FIFREEZE would freeze it, and a write would
//! wait. So the effect of freezing on ext4 is read, which Proxmox makes on such volumes:
//! as long as one is mounted for writing, its superblock says that the journal is to be replayed, and
//! while it is frozen it does not. Other file systems cannot be checked. FITHAW is used only to thaw.
//!
//! Invariant: root in a container can neither block this code nor lead it to another file system. The device
//! of the node is read; on the way to a mount point nothing is asked of a file
//! system that is not in the kernel's memory (RESOLVE_CACHED), and no link is followed.

use crate::container::Mount;
use crate::names::Vmid;
use ansible_module::Failure;
use anyhow::{Context, Result, ensure};
use host::command::Command;
use host::mounts::{self, Mounts};
use host::program;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The only storage type that needs it (`volume_snapshot_needs_fsfreeze` of PVE::Storage).
const KIND: &str = "rbd";
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit for repeated lookups, since a rename anywhere on the machine can make one fail.
const MAX_TRIES: usize = 100;

/// A frozen file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The path in the container.
    pub path: PathBuf,
    init: u32,
    dev: (u32, u32),
}

impl Frozen {
    /// Returns the command that thaws it.
    pub fn by_hand(&self) -> String {
        let path = self.path.display().to_string();
        format!("fsfreeze --unfreeze /proc/{}/root/{}", self.init, path.trim_start_matches('/'))
    }

    /// Thaws the file system and verifies it.
    fn thaw(&self) -> Result<()> {
        let folder = self.open()?;
        match fithaw(&folder) {
            // It was thawed by someone else meanwhile.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(io::Error::from(error)).context("FITHAW"),
        }
        ensure!(!is_frozen(self.dev)?, "its superblock still reads as that of a frozen one");
        Ok(())
    }

    fn open(&self) -> Result<OwnedFd> {
        let root = format!("/proc/{}/root", self.init);
        let look = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, look, Mode::empty()).map_err(io::Error::from)?;
        let way = ResolveFlags::IN_ROOT
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::CACHED;
        let held = (0..MAX_TRIES)
            .map(|_| rustix::fs::openat2(&root, &self.path, look, Mode::empty(), way))
            .find(|opened| !matches!(opened, Err(Errno::AGAIN)))
            .unwrap_or(Err(Errno::AGAIN))
            .map_err(io::Error::from)
            .context("opening it")?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found =
            rustix::fs::statx(&held, "", flags, StatxFlags::TYPE).map_err(io::Error::from)?;
        let dev = (found.stx_dev_major, found.stx_dev_minor);
        ensure!(dev == self.dev, "something else is mounted over it");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&held, ".", flags, Mode::empty()).map_err(io::Error::from)?)
    }
}

/// Returns the paths of volumes whose file systems Proxmox freezes. `kind` returns the type of a storage.
pub fn freezable<'a>(mounts: &'a [Mount], kind: impl Fn(&str) -> Option<&'a str>) -> Vec<PathBuf> {
    let wants = |mount: &&Mount| mount.storage().and_then(&kind) == Some(KIND);
    mounts.iter().filter(wants).map(|mount| Path::new("/").join(&mount.path)).collect()
}

/// Returns the file systems that are frozen now.
pub fn frozen(vmid: Vmid, freezable: &[PathBuf]) -> Result<Vec<Frozen>> {
    if freezable.is_empty() {
        return Ok(Vec::new());
    }
    let Some(init) = init_of(vmid)? else { return Ok(Vec::new()) };
    let mounts = match fs::read(format!("/proc/{init}/mountinfo")) {
        Ok(bytes) => Mounts::parse(&bytes).context("reading the mounts of the container")?,
        // The container has stopped meanwhile.
        Err(_) => return Ok(Vec::new()),
    };
    let mut all = Vec::new();
    for path in freezable {
        let Some(mount) = mounts.iter().rfind(|one| is_known(one, path)) else {
            continue;
        };
        if is_frozen(mount.dev).with_context(|| format!("looking at {}", path.display()))? {
            all.push(Frozen { path: path.clone(), init, dev: mount.dev });
        }
    }
    Ok(all)
}

/// Whether it can be checked: only ext4 that is mounted for writing.
fn is_known(mount: &mounts::Mount, path: &Path) -> bool {
    let is_writable = mount.super_options.split(',').any(|option| option == "rw");
    mount.mountpoint == path && mount.fstype == "ext4" && is_writable
}

/// Thaws all of these, also after one has failed.
pub fn thaw(vmid: Vmid, all: &[Frozen]) -> Result<()> {
    for one in all {
        one.thaw().map_err(|why| {
            let (path, cure) = (one.path.display(), one.by_hand());
            let msg =
                format!("the file system {path} of CT {vmid} is still frozen: `{cure}` thaws it");
            Failure::new("frozen", msg).caused_by(why)
        })?;
    }
    Ok(())
}

/// Returns the pid of the container's init on the node, if it runs.
fn init_of(vmid: Vmid) -> Result<Option<u32>> {
    let program = program::look("lxc-info")?.map_err(|missing| {
        let msg = format!("it is not known whether file systems of CT {vmid} are frozen");
        Failure::new("program_missing", msg).caused_by(missing.into())
    })?;
    let name = vmid.to_string();
    let command = Command::new(&program).args(["-n", name.as_str(), "-p", "-H"]);
    match command.deadline(QUERY_TIMEOUT).run() {
        Ok(done) => Ok(String::from_utf8_lossy(&done.stdout).trim().parse().ok()),
        // LXC does not know a container that does not run.
        Err(failed) if failed.rc == Some(1) => Ok(None),
        Err(failed) => Err(failed.into()),
    }
}

/// The superblock of ext4 is 1024 bytes from the start of the file system; the fields are those of ext4's
/// documentation.
const SUPERBLOCK: u64 = 1024;
const MAGIC: (usize, u16) = (0x38, 0xEF53);
/// `s_feature_compat` with HAS_JOURNAL, `s_feature_incompat` with RECOVER.
const HAS_JOURNAL: (usize, u32) = (0x5C, 0x4);
const RECOVER: (usize, u32) = (0x60, 0x4);

/// Of a file system that is mounted for writing.
fn is_frozen(dev: (u32, u32)) -> Result<bool> {
    let mut block = [0; 128];
    open_device(dev)?.read_exact_at(&mut block, SUPERBLOCK)?;
    Ok(reads_as_frozen(&block))
}

fn reads_as_frozen(block: &[u8; 128]) -> bool {
    let short = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let flag = |(at, flag): (usize, u32)| {
        let word = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        word & flag != 0
    };
    short(MAGIC.0) == MAGIC.1 && flag(HAS_JOURNAL) && !flag(RECOVER)
}

/// The kernel keeps a superblock that is mounted in memory: no disk is waited for.
fn open_device((major, minor): (u32, u32)) -> Result<File> {
    let events = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"))?;
    let name = events.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let path = Path::new("/dev").join(name.context("it has no device")?);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(io::Error::from);
    let device = opened.with_context(|| format!("opening {}", path.display()))?;
    let found = rustix::fs::fstat(&device).map_err(io::Error::from)?;
    let is_it = FileType::from_raw_mode(found.st_mode) == FileType::BlockDevice
        && (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev)) == (major, minor);
    ensure!(is_it, "{} is not the device {major}:{minor}", path.display());
    Ok(device.into())
}

const FITHAW: rustix::ioctl::Opcode = 0xC004_5878;

fn fithaw(folder: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: the kernel takes no argument with it.
    #[allow(unsafe_code)]
    unsafe {
        rustix::ioctl::ioctl(folder, rustix::ioctl::NoArg::<FITHAW>::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read from a file system of mkfs.ext4 1.47 with `-O mmp`, mounted by Linux 6.18, before it was frozen and then.
    #[test]
    fn what_freezing_does_to_a_superblock() {
        let block = |compat: u32, incompat: u32| {
            let mut block = [0; 128];
            block[0x38..0x3A].copy_from_slice(&0xEF53_u16.to_le_bytes());
            block[0x5C..0x60].copy_from_slice(&compat.to_le_bytes());
            block[0x60..0x64].copy_from_slice(&incompat.to_le_bytes());
            block
        };
        assert!(!reads_as_frozen(&block(0x3C, 0x3C6)));
        assert!(reads_as_frozen(&block(0x3C, 0x3C2)));
        // Without a journal, and what is no ext4.
        assert!(!reads_as_frozen(&block(0x38, 0x3C2)) && !reads_as_frozen(&[0; 128]));
    }
}
