//! A folder that is held, and what is in it or below it: the one way to what another user may own.
//!
//! Whoever owns a part of the tree may rename, swap and delete meanwhile, and put links anywhere.
//! Invariants: no link is followed, neither on the way nor at its end, so that nothing outside of the
//! folder is opened, made, changed or removed (openat2 with RESOLVE_BENEATH; on Linux before 5.6
//! component by component with O_NOFOLLOW); nothing that is opened keeps us waiting, be it a pipe or
//! somebody's lease; a new name replaces nothing, and an exchange is one call of the kernel, so that
//! there is no moment in which one of the two names is missing.
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
    /// Without openat2: a bind mount of the folder's own filesystem below it is not recognised as a
    /// mount.
    Stepwise,
}

/// What to do where another filesystem (or the same one again) is mounted below the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// Not entered: an error of the kind [`ErrorKind::CrossesDevices`].
    Stay,
    Cross,
}

/// Which file or folder it is, whatever its name: within one folder, and also after a reboot. The time of
/// its birth tells it from one that got the number of a removed one; some file systems have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    inode: u64,
    born: Option<(i64, u32)>,
}

impl Dir {
    /// By an absolute path that leads through no link.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let below = path
            .strip_prefix("/")
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, "it is not an absolute path"))?;
        Dir::root()?.folder(below)
    }

    /// `/`, for being passed through.
    pub(crate) fn root() -> io::Result<Dir> {
        Ok(Dir::of(rustix::fs::openat(CWD, "/", LOOK | OFlags::DIRECTORY, Mode::empty())?))
    }

    /// A folder that is open already, be it only by O_PATH.
    pub fn of(fd: OwnedFd) -> Dir {
        let mut dir = Dir { fd, resolver: Resolver::Openat2 };
        // EPERM: what a container's seccomp filter says to a call that it does not know.
        if let Err(Errno::NOSYS | Errno::PERM) = dir.resolve(Path::new("."), LOOK, Mounts::Cross) {
            dir.resolver = Resolver::Stepwise;
        }
        dir
    }

    /// As on a kernel without openat2.
    #[cfg(test)]
    pub(crate) fn stepwise(self) -> Dir {
        assert_eq!(self.resolver, Resolver::Openat2, "the tests want a kernel with openat2");
        Dir { resolver: Resolver::Stepwise, ..self }
    }

    pub fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir { fd: self.fd.try_clone()?, ..*self })
    }

    /// A folder below (empty: this one), for being listed and for making entries in it.
    pub fn folder(&self, path: &Path) -> io::Result<Dir> {
        Ok(self.below(path, Mounts::Cross)?)
    }

    pub(crate) fn below(&self, path: &Path, mounts: Mounts) -> Result<Dir, Errno> {
        Ok(Dir { fd: self.resolve(path, FOLDER, mounts)?, resolver: self.resolver })
    }

    /// Whatever is there, held by O_PATH: a link itself, and a pipe or a device without being opened.
    pub fn look(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.resolve(path, LOOK, Mounts::Cross)?)
    }

    /// What stat(2) says; none when there is nothing.
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Meta>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
        {
            Ok(stat) => Ok(Some(Meta::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What stands there; none when nothing does.
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

    /// A regular file, for reading.
    pub fn open_file(&self, name: &OsStr) -> io::Result<File> {
        regular::open_held(rustix::fs::openat(&self.fd, name, LOOK, Mode::empty())?)
    }

    /// A regular file, for adding to its end; made where it is missing.
    pub fn append_to(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let how = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK;
        let mode = Mode::from_raw_mode(mode);
        match rustix::fs::openat(&self.fd, name, how | OFlags::NOCTTY | ALWAYS, mode) {
            Err(Errno::LOOP) => Err(regular::is_link()),
            opened => regular::only(opened?.into()),
        }
    }

    /// A new file; one that is there, be it a link, is an error.
    pub fn make_file(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | ALWAYS;
        Ok(rustix::fs::openat(&self.fd, name, how, Mode::from_raw_mode(mode))?.into())
    }

    /// A new and empty folder; one that is there is an error.
    pub fn make_folder(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode))?)
    }

    pub fn make_link(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.fd, name)?)
    }

    /// A pipe or a device, which only its owner may read so far.
    pub fn make_special(&self, name: &OsStr, kind: FileType, device: u64) -> io::Result<()> {
        Ok(rustix::fs::mknodat(&self.fd, name, kind, Mode::RUSR, device)?)
    }

    /// A further name, in the folder `to`, for a file of this one.
    pub fn hard_link(&self, name: &OsStr, to: &Dir, new_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.fd, name, &to.fd, new_name, AtFlags::empty())?)
    }

    /// To another name in the folder `to`, which must be free.
    pub fn rename(&self, name: &OsStr, to: &Dir, new_name: &OsStr) -> io::Result<()> {
        let done = self.rename_with(name, to, new_name, RenameFlags::NOREPLACE);
        let Err(Errno::INVAL | Errno::NOSYS) = done else { return Ok(done?) };
        // A file system that does not know the flag, nor hard links of what is no file.
        match self.hard_link(name, to, new_name) {
            Ok(()) => self.remove(name),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
            Err(_) if to.stat(new_name)?.is_some() => Err(Errno::EXIST.into()),
            Err(_) => self.replace(name, to, new_name),
        }
    }

    /// To another name in the folder `to`; what has it is replaced.
    pub(crate) fn replace(&self, name: &OsStr, to: &Dir, new_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, name, &to.fd, new_name)?)
    }

    /// Each takes the place of the other; both must be there.
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

    /// The names in it, `.` and `..` among them, in no order.
    pub(crate) fn list(&self) -> Result<rustix::fs::Dir, Errno> {
        // What is held by O_PATH cannot be read.
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

    /// Whatever is no folder.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// A folder that is empty.
    pub fn remove_folder(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }

    /// Makes new names, and that names are gone, last.
    pub fn sync(&self) -> io::Result<()> {
        // What is held by O_PATH cannot be synced.
        Ok(rustix::fs::fsync(rustix::fs::openat(&self.fd, ".", FOLDER, Mode::empty())?)?)
    }

    /// Opens a path below; the flags say how, and whether what is there must be a folder.
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
            return match mounts == Mounts::Stay && crossed()? {
                true => Err(Errno::XDEV),
                false => Ok(fd),
            };
        }
        let mut resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if mounts == Mounts::Stay {
            resolve |= ResolveFlags::NO_XDEV;
        }
        loop {
            match rustix::fs::openat2(from, piece, flags, Mode::empty(), resolve) {
                // The kernel could not be sure because of a rename elsewhere: it asks us to try
                // again.
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

/// Whether a path could not be opened since a link, or something else that is no folder, stands on it.
pub fn is_no_folder(error: &io::Error) -> bool {
    let loops = Some(Errno::LOOP.raw_os_error());
    error.kind() == ErrorKind::NotADirectory || error.raw_os_error() == loops
}

/// Where a link points to that is held by O_PATH.
pub(crate) fn read_link(held: &OwnedFd) -> Result<PathBuf, Errno> {
    let target = rustix::fs::readlinkat(held, "", Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
}

/// The longest front of whole components with at most `longest` bytes (but one component at least),
/// and what is behind it.
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
