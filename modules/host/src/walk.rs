//! Reading a tree that somebody else owns (a container's volume), by descriptor.
//!
//! The owner may rename, swap and delete while we read, and put symbolic links anywhere.
//! Invariants: nothing outside of the root is ever opened or looked at (openat2 with
//! RESOLVE_BENEATH and no links; on Linux before 5.6 component by component with O_NOFOLLOW); a
//! file that is opened is the very file that was looked at; no device or pipe is opened, so none
//! can block us or be set off, and no owner's lease is waited for. Two descriptors are open, and no call nests, however deep the tree
//! is.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::regular;

/// The kernel takes paths of up to 4095 bytes; longer ones are resolved piece by piece.
const LONGEST_PIECE: usize = 4000;

/// What to do where another filesystem (or the same one again) is mounted inside of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// Not entered; reported as [`Cause::OtherFilesystem`].
    Stay,
    Cross,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link,
    /// Pipe, socket or device.
    Special,
}

/// What stat(2) says, the link itself in case of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub kind: Kind,
    /// Type and permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// What of it lies on the disk: less than `size` in a file with holes.
    pub allocated: u64,
    /// Seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// Moves with every change of content, owner, mode, attributes and links; nobody can set it.
    pub changed: (i64, u32),
    pub links: u64,
    pub dev: u64,
    pub ino: u64,
    /// Of a device.
    pub rdev: u64,
}

impl Meta {
    /// Of something that is held open.
    pub fn read(of: impl AsFd) -> io::Result<Meta> {
        Ok(Meta::of(&rustix::fs::fstat(of)?))
    }

    fn of(stat: &Stat) -> Meta {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        };
        // The fields' types differ from one architecture to the next.
        #[allow(clippy::unnecessary_cast)]
        Meta {
            kind,
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            allocated: (stat.st_blocks as u64).saturating_mul(512),
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
            links: stat.st_nlink as u64,
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            rdev: stat.st_rdev as u64,
        }
    }

    fn same_file(&self, other: &Meta) -> bool {
        (self.dev, self.ino, self.kind) == (other.dev, other.ino, other.kind)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root; any bytes.
    pub path: PathBuf,
    pub meta: Meta,
}

/// An entry that could not be read. It is for the caller to say whether that is fatal.
#[derive(Debug)]
pub struct Missed {
    pub path: PathBuf,
    pub cause: Cause,
}

#[derive(Debug)]
pub enum Cause {
    /// Gone since its folder was read.
    Vanished,
    /// Something else stands in its place now.
    Swapped,
    /// A mount, where mounts are not crossed.
    OtherFilesystem,
    /// Its owner holds a lease on it, and was asked to give it up.
    Leased(io::Error),
    Io(io::Error),
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read {}: ", self.path.display())?;
        match &self.cause {
            Cause::Vanished => f.write_str("it is gone"),
            Cause::Swapped => f.write_str("it was replaced by something else meanwhile"),
            Cause::OtherFilesystem => f.write_str("another filesystem is mounted there"),
            Cause::Leased(error) | Cause::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Missed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Leased(error) | Cause::Io(error) => Some(error),
            _ => None,
        }
    }
}

fn missed(path: &Path, errno: Errno) -> Missed {
    let cause = match errno {
        Errno::NOENT => Cause::Vanished,
        Errno::LOOP | Errno::NOTDIR => Cause::Swapped,
        Errno::XDEV => Cause::OtherFilesystem,
        other => Cause::Io(other.into()),
    };
    Missed { path: path.to_owned(), cause }
}

/// A tree to be read.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    meta: Meta,
    mounts: Mounts,
    resolver: Resolver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolver {
    Openat2,
    /// Without openat2: a bind mount of the tree's own filesystem inside of the tree is not
    /// recognised as a mount.
    Stepwise,
}

impl Tree {
    /// The root itself is opened by its path, which must be safe up to here
    /// ([`crate::folder::SafeFolder`]), or come from the owner's own manager (docker says where its
    /// volume is); a symbolic link as last component is refused.
    pub fn open(root: &Path, mounts: Mounts) -> Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let what = || format!("cannot open the tree {}", root.display());
        let fd = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(io::Error::from)
            .with_context(what)?;
        Self::at(fd, mounts).with_context(what)
    }

    /// Of a folder that is held already.
    pub fn at(root: OwnedFd, mounts: Mounts) -> Result<Tree> {
        let meta = Meta::of(&rustix::fs::fstat(&root).map_err(io::Error::from)?);
        let mut tree = Tree { root, meta, mounts, resolver: Resolver::Openat2 };
        // EPERM: what a container's seccomp filter says to a call that it does not know.
        if matches!(tree.resolve(Path::new("."), OFlags::PATH), Err(Errno::NOSYS | Errno::PERM)) {
            tree.resolver = Resolver::Stepwise;
        }
        Ok(tree)
    }

    /// Of the root.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// All entries below the root, each folder before what is in it, otherwise in no order.
    pub fn walk(&self) -> Walk<'_> {
        Walk { tree: self, current: None, pending: vec![(PathBuf::new(), self.meta)] }
    }

    /// All entries below the root in the order of [`order`].
    pub fn sorted(&self) -> Sorted<'_> {
        Sorted::new(self)
    }

    /// A folder by its path (empty: the root itself), for looking into it and for making entries in it.
    pub fn folder(&self, path: &Path) -> Result<OwnedFd, Missed> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|errno| missed(path, errno))
    }

    /// One entry by its path.
    pub fn entry(&self, path: &Path) -> Result<Entry, Missed> {
        Ok(self.look(path)?.1)
    }

    /// One entry by its path, held by O_PATH, whatever becomes of the path.
    pub fn look(&self, path: &Path) -> Result<(OwnedFd, Entry), Missed> {
        let fd = self.resolve(path, OFlags::PATH).map_err(|errno| missed(path, errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| missed(path, errno))?;
        Ok((fd, Entry { path: path.to_owned(), meta: Meta::of(&stat) }))
    }

    /// The regular file, for reading: the very one that was looked at.
    pub fn open_file(&self, entry: &Entry) -> Result<File, Missed> {
        Self::open_held(&self.hold(entry)?, entry)
    }

    /// A regular file that is held already, for reading.
    pub fn open_held(held: &OwnedFd, entry: &Entry) -> Result<File, Missed> {
        regular::open_held(held).map_err(|error| {
            let cause = match error.kind() {
                io::ErrorKind::WouldBlock => Cause::Leased(error),
                _ => Cause::Io(error),
            };
            Missed { path: entry.path.clone(), cause }
        })
    }

    /// Where the link points to.
    pub fn read_link(&self, entry: &Entry) -> Result<PathBuf, Missed> {
        let fd = self.hold(entry)?;
        let target = rustix::fs::readlinkat(&fd, "", Vec::new())
            .map_err(|errno| missed(&entry.path, errno))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// An O_PATH descriptor of the very entry that was looked at, of any kind.
    pub fn hold(&self, entry: &Entry) -> Result<OwnedFd, Missed> {
        self.open_same(&entry.path, &entry.meta, OFlags::PATH)
    }

    fn open_same(&self, path: &Path, meta: &Meta, flags: OFlags) -> Result<OwnedFd, Missed> {
        let fd = self.resolve(path, flags).map_err(|errno| missed(path, errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| missed(path, errno))?;
        match Meta::of(&stat).same_file(meta) {
            true => Ok(fd),
            false => Err(Missed { path: path.to_owned(), cause: Cause::Swapped }),
        }
    }

    /// Opens a path beneath the root; no link is followed, not at its end either.
    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let passing = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let longest = if self.resolver == Resolver::Openat2 { LONGEST_PIECE } else { 0 };
        let mut at: Option<OwnedFd> = None;
        let mut rest = path.as_os_str().as_bytes();
        if rest.is_empty() {
            rest = b".";
        }
        loop {
            let (piece, after) = split(rest, longest);
            let from = at.as_ref().map_or(self.root.as_fd(), |fd| fd.as_fd());
            let fd =
                self.open_piece(from, piece, if after.is_empty() { flags } else { passing })?;
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
    ) -> rustix::io::Result<OwnedFd> {
        if self.resolver == Resolver::Stepwise {
            if piece == b".." {
                return Err(Errno::XDEV);
            }
            let fd = rustix::fs::openat(from, piece, flags, Mode::empty())?;
            let crossed =
                || rustix::fs::fstat(&fd).map(|stat| Meta::of(&stat).dev != self.meta.dev);
            return if self.mounts == Mounts::Stay && crossed()? {
                Err(Errno::XDEV)
            } else {
                Ok(fd)
            };
        }
        let mut resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if self.mounts == Mounts::Stay {
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

/// The entries of a tree, one after the other.
#[derive(Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    current: Option<(Dir, PathBuf)>,
    pending: Vec<(PathBuf, Meta)>,
}

impl Walk<'_> {
    /// Do not enter the folder that was yielded last.
    pub fn pass_over(&mut self, folder: &Entry) {
        if self.pending.last().is_some_and(|(path, _)| *path == folder.path) {
            self.pending.pop();
        }
    }

    fn enter(&mut self, path: PathBuf, meta: &Meta) -> Result<(), Missed> {
        let fd = self.tree.open_same(&path, meta, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let dir = Dir::new(fd).map_err(|errno| missed(&path, errno))?;
        self.current = Some((dir, path));
        Ok(())
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Entry, Missed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((dir, folder)) = &mut self.current else {
                let (path, meta) = self.pending.pop()?;
                match self.enter(path, &meta) {
                    Ok(()) => continue,
                    Err(missed) => return Some(Err(missed)),
                }
            };
            let name = match dir.read() {
                None => {
                    self.current = None;
                    continue;
                }
                Some(Err(errno)) => {
                    let missed = missed(folder, errno);
                    self.current = None;
                    return Some(Err(missed));
                }
                Some(Ok(entry)) => entry,
            };
            let name = name.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = folder.join(OsStr::from_bytes(name.to_bytes()));
            let looked = dir.fd().and_then(|fd| {
                rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
            });
            let meta = match looked {
                Ok(stat) => Meta::of(&stat),
                Err(errno) => return Some(Err(missed(&path, errno))),
            };
            if meta.kind == Kind::Folder {
                self.pending.push((path.clone(), meta));
            }
            return Some(Ok(Entry { path, meta }));
        }
    }
}

mod leases;
mod sorted;
#[cfg(test)]
mod tests;

pub use leases::Leases;
pub use sorted::{Sorted, order};
