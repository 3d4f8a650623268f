//! A folder that is held open, and everything in it or below it: the only way to reach files in a
//! folder that another user may own.
//!
//! Whoever owns a part of the tree may rename, swap and delete meanwhile, and put links anywhere.
//! Invariants: no symbolic link is followed, neither on the way nor at the end, so that nothing outside
//! of the folder is opened, made, changed or removed (openat2(2) with RESOLVE_BENEATH; on Linux before
//! 5.6 component by component with O_NOFOLLOW); opening never blocks, be it on a pipe or on a lease; a
//! new name replaces nothing, and an exchange is one system call, so that neither of the two names is
//! ever missing.
//!
//! A `name` is one plain component, a `path` is relative and may have many.

mod clear;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::meta::Meta;
use crate::regular;

/// The kernel takes paths of up to 4095 bytes; longer ones are resolved piece by piece.
const LONGEST_PIECE: usize = 4000;
const ALWAYS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);
const LOOK: OFlags = OFlags::PATH.union(ALWAYS);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(ALWAYS);

#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    resolver: Resolver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolver {
    Openat2,
    /// For kernels without openat2(2). A bind mount of the folder's own filesystem below it is not
    /// recognised as a mount.
    Stepwise,
}

/// What to do if another filesystem (or the same one again) is mounted below the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// Do not enter it: an error of the kind [`ErrorKind::CrossesDevices`].
    Refuse,
    Cross,
}

/// Identifies a file or folder within one folder, whatever its name, and also after a reboot. The birth
/// time distinguishes it from a newer one with a reused inode number; some file systems have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    inode: u64,
    born: Option<(i64, u32)>,
}

impl Dir {
    /// Opens an absolute path that contains no symbolic link.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let below = path
            .strip_prefix("/")
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, "it is not an absolute path"))?;
        Dir::root()?.folder(below)
    }

    /// Opens `/` by O_PATH, to start a path from.
    pub(crate) fn root() -> io::Result<Dir> {
        Ok(Dir::of(rustix::fs::openat(CWD, "/", LOOK | OFlags::DIRECTORY, Mode::empty())?))
    }

    /// Wraps a folder that is open already, even if only by O_PATH.
    pub fn of(fd: OwnedFd) -> Dir {
        let mut dir = Dir { fd, resolver: Resolver::Openat2 };
        // EPERM: the answer of a container's seccomp filter to a system call that it does not know.
        if let Err(Errno::NOSYS | Errno::PERM) = dir.resolve(Path::new("."), LOOK, Mounts::Cross) {
            dir.resolver = Resolver::Stepwise;
        }
        dir
    }

    /// Behaves as on a kernel without openat2(2).
    #[cfg(test)]
    pub(crate) fn stepwise(self) -> Dir {
        assert_eq!(self.resolver, Resolver::Openat2, "the tests want a kernel with openat2");
        Dir { resolver: Resolver::Stepwise, ..self }
    }

    pub fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir { fd: self.fd.try_clone()?, ..*self })
    }

    /// Opens a folder below (an empty path: this one), to list it and to make entries in it.
    pub fn folder(&self, path: &Path) -> io::Result<Dir> {
        Ok(self.below(path, Mounts::Cross)?)
    }

    pub(crate) fn below(&self, path: &Path, mounts: Mounts) -> Result<Dir, Errno> {
        Ok(Dir { fd: self.resolve(path, FOLDER, mounts)?, resolver: self.resolver })
    }

    /// Opens anything by O_PATH: a link itself; a pipe or a device without its being opened.
    pub fn look(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.resolve(path, LOOK, Mounts::Cross)?)
    }

    /// Returns what lstat(2) says; `None` if nothing has the name.
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Meta>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
        {
            Ok(stat) => Ok(Some(Meta::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Identifies what has this name; `None` if nothing has it.
    pub fn identity(&self, name: &OsStr) -> io::Result<Option<Identity>> {
        let mask = StatxFlags::INO | StatxFlags::BTIME;
        match rustix::fs::statx(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW, mask) {
            Ok(seen) => {
                let has_birth = seen.stx_mask & StatxFlags::BTIME.bits() != 0;
                let born = has_birth.then_some((seen.stx_btime.tv_sec, seen.stx_btime.tv_nsec));
                Ok(Some(Identity { inode: seen.stx_ino, born }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a regular file for reading.
    pub fn open_file(&self, name: &OsStr) -> io::Result<File> {
        regular::open_held(rustix::fs::openat(&self.fd, name, LOOK, Mode::empty())?)
    }

    /// Opens a regular file for appending, and makes it if it is missing.
    pub fn append_to(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let how = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK;
        let mode = Mode::from_raw_mode(mode);
        match rustix::fs::openat(&self.fd, name, how | OFlags::NOCTTY | ALWAYS, mode) {
            Err(Errno::LOOP) => Err(regular::is_link()),
            opened => regular::require_regular(opened?.into()),
        }
    }

    /// Makes a new file; whatever already has the name, even a link, is an error.
    pub fn make_file(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | ALWAYS;
        Ok(rustix::fs::openat(&self.fd, name, how, Mode::from_raw_mode(mode))?.into())
    }

    /// Makes a new and empty folder; whatever already has the name is an error.
    pub fn make_folder(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode))?)
    }

    pub fn make_link(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.fd, name)?)
    }

    /// Makes a pipe or a device that only its owner may read.
    pub fn make_special(&self, name: &OsStr, kind: FileType, device: u64) -> io::Result<()> {
        Ok(rustix::fs::mknodat(&self.fd, name, kind, Mode::RUSR, device)?)
    }

    /// Makes a hard link, in the folder `to`, to a file of this folder.
    pub fn hard_link(&self, name: &OsStr, to: &Dir, new_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.fd, name, &to.fd, new_name, AtFlags::empty())?)
    }

    /// Renames an entry to a name in the folder `to` that must not exist yet.
    pub fn rename(&self, name: &OsStr, to: &Dir, new_name: &OsStr) -> io::Result<()> {
        let done = self.rename_with(name, to, new_name, RenameFlags::NOREPLACE);
        let Err(Errno::INVAL | Errno::NOSYS) = done else { return Ok(done?) };
        // The file system does not know the flag; and it has no hard links of folders.
        match self.hard_link(name, to, new_name) {
            Ok(()) => self.remove(name),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
            Err(_) if to.stat(new_name)?.is_some() => Err(Errno::EXIST.into()),
            Err(_) => self.replace(name, to, new_name),
        }
    }

    /// Renames an entry to a name in the folder `to`; what has that name is replaced.
    pub(crate) fn replace(&self, name: &OsStr, to: &Dir, new_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, name, &to.fd, new_name)?)
    }

    /// Exchanges two entries, which must both exist.
    pub(crate) fn exchange(
        &self,
        name: &OsStr,
        other: &Dir,
        its_name: &OsStr,
    ) -> Result<(), Errno> {
        self.rename_with(name, other, its_name, RenameFlags::EXCHANGE)
    }

    fn rename_with(
        &self,
        name: &OsStr,
        to: &Dir,
        new_name: &OsStr,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        rustix::fs::renameat_with(&self.fd, name, &to.fd, new_name, flags)
    }

    /// Lists the entries, including `.` and `..`, in no order.
    pub(crate) fn list(&self) -> Result<rustix::fs::Dir, Errno> {
        // An O_PATH descriptor cannot be read.
        rustix::fs::Dir::new(rustix::fs::openat(&self.fd, ".", FOLDER, Mode::empty())?)
    }

    pub fn is_empty(&self) -> io::Result<bool> {
        for entry in self.list()? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes anything but a folder.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Removes an empty folder.
    pub fn remove_folder(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }

    /// Syncs the folder, so that new, renamed and removed names survive a crash.
    pub fn sync(&self) -> io::Result<()> {
        // An O_PATH descriptor cannot be synced.
        Ok(rustix::fs::fsync(rustix::fs::openat(&self.fd, ".", FOLDER, Mode::empty())?)?)
    }

    /// Opens a path below this folder with these open(2) flags.
    pub(crate) fn resolve(
        &self,
        path: &Path,
        flags: OFlags,
        mounts: Mounts,
    ) -> Result<OwnedFd, Errno> {
        let flags = flags | ALWAYS;
        let longest = if self.resolver == Resolver::Openat2 { LONGEST_PIECE } else { 0 };
        let mut at: Option<OwnedFd> = None;
        let mut rest = path.as_os_str().as_bytes();
        if rest.is_empty() {
            rest = b".";
        }
        loop {
            let (piece, after) = split(rest, longest);
            let from = at.as_ref().map_or(self.fd.as_fd(), |fd| fd.as_fd());
            let passing = LOOK | OFlags::DIRECTORY;
            let fd = self.open_piece(
                from,
                piece,
                if after.is_empty() { flags } else { passing },
                mounts,
            )?;
            if after.is_empty() {
                return Ok(fd);
            }
            (at, rest) = (Some(fd), after);
        }
    }

    fn open_piece(
        &self,
        from: BorrowedFd<'_>,
        piece: &[u8],
        flags: OFlags,
        mounts: Mounts,
    ) -> Result<OwnedFd, Errno> {
        if self.resolver == Resolver::Stepwise {
            if piece == b".." {
                return Err(Errno::XDEV);
            }
            let fd = rustix::fs::openat(from, piece, flags, Mode::empty())?;
            let crossed = || Ok(rustix::fs::fstat(&fd)?.st_dev != rustix::fs::fstat(from)?.st_dev);
            return match mounts == Mounts::Refuse && crossed()? {
                true => Err(Errno::XDEV),
                false => Ok(fd),
            };
        }
        let mut resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if mounts == Mounts::Refuse {
            resolve |= ResolveFlags::NO_XDEV;
        }
        loop {
            match rustix::fs::openat2(from, piece, flags, Mode::empty(), resolve) {
                // EAGAIN: a concurrent rename somewhere; the kernel asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> OwnedFd {
        dir.fd
    }
}

/// Whether a path could not be opened because a component is a link or anything else but a folder.
pub fn is_no_folder(error: &io::Error) -> bool {
    let loops = Some(Errno::LOOP.raw_os_error());
    error.kind() == ErrorKind::NotADirectory || error.raw_os_error() == loops
}

/// Reads the target of a link that is held by O_PATH.
pub(crate) fn read_link(held: &OwnedFd) -> Result<PathBuf, Errno> {
    let target = rustix::fs::readlinkat(held, "", Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
}

/// Splits a path after as many components as fit into `longest` bytes, but at least one.
fn split(path: &[u8], longest: usize) -> (&[u8], &[u8]) {
    if path.len() <= longest {
        return (path, b"");
    }
    let slash = path[..longest]
        .iter()
        .rposition(|byte| *byte == b'/')
        .or_else(|| path.iter().position(|byte| *byte == b'/'));
    match slash {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, b""),
    }
}

#[cfg(test)]
mod tests;
