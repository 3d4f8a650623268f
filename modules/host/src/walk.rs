//! Reads a tree that another user owns (a container's volume), by descriptors.
//!
//! The owner may rename, swap and delete meanwhile, and put symbolic links anywhere. Invariants: nothing
//! outside of the root is ever opened or looked at ([`crate::beneath`]); a file that is opened is the very
//! file that was looked at; no device or pipe is opened, so none can block or be triggered, and no lease is
//! waited for. Only two descriptors are open, and no call is recursive, however deep the tree is.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::{Dir, Mounts, read_link};
use crate::meta::{Kind, Meta};
use crate::regular;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root; any bytes.
    pub path: PathBuf,
    pub meta: Meta,
}

/// An entry that could not be read. The caller decides whether that is fatal.
#[derive(Debug)]
pub struct Missed {
    pub path: PathBuf,
    pub cause: Cause,
}

#[derive(Debug)]
pub enum Cause {
    /// It was removed after its folder was read.
    Vanished,
    /// It was replaced by something else.
    Swapped,
    /// It is a mount point, and mounts are not crossed.
    OtherFilesystem,
    /// Its owner holds a lease on it, and the kernel has asked the owner to give it up.
    Leased(io::Error),
    Io(io::Error),
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read {}: ", self.path.display())?;
        match &self.cause {
            Cause::Vanished => f.write_str("it was removed meanwhile"),
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

/// A tree that can be read.
#[derive(Debug)]
pub struct Tree {
    root: Dir,
    meta: Meta,
    mounts: Mounts,
}

impl Tree {
    /// Opens the root by its path, which must be safe ([`crate::folder::SafeFolder`]) or come from the
    /// program that manages it (docker says where its volume is). A symbolic link as last component is
    /// refused.
    pub fn open(root: &Path, mounts: Mounts) -> Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let what = || format!("cannot open the tree {}", root.display());
        let fd = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(io::Error::from)
            .with_context(what)?;
        Self::at(Dir::of(fd), mounts).with_context(what)
    }

    /// Reads the tree of a folder that is held already.
    pub fn at(root: Dir, mounts: Mounts) -> Result<Tree> {
        let meta = Meta::read(&root)?;
        Ok(Tree { root, meta, mounts })
    }

    /// Returns the metadata of the root.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Yields all entries below the root, each folder before its content, otherwise in no order.
    pub fn walk(&self) -> Walk<'_> {
        Walk { tree: self, current: None, pending: vec![(PathBuf::new(), self.meta)] }
    }

    /// Yields all entries below the root in the order of [`order`].
    pub fn sorted(&self) -> Sorted<'_> {
        Sorted::new(self)
    }

    /// Opens a folder by its path (empty: the root itself), to look into it and to make entries in it.
    pub fn folder(&self, path: &Path) -> Result<Dir, Missed> {
        self.root.below(path, self.mounts).map_err(|errno| missed(path, errno))
    }

    /// Looks at an entry by its path.
    pub fn entry(&self, path: &Path) -> Result<Entry, Missed> {
        Ok(self.look(path)?.1)
    }

    /// Looks at an entry by its path, and holds it by O_PATH, whatever happens to the path.
    pub fn look(&self, path: &Path) -> Result<(OwnedFd, Entry), Missed> {
        let fd = self.resolve(path, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| missed(path, errno))?;
        Ok((fd, Entry { path: path.to_owned(), meta: Meta::of(&stat) }))
    }

    /// Opens the very regular file that was looked at, for reading.
    pub fn open_file(&self, entry: &Entry) -> Result<File, Missed> {
        Self::open_held(&self.hold(entry)?, entry)
    }

    /// Opens a regular file that is held already, for reading.
    pub fn open_held(held: &OwnedFd, entry: &Entry) -> Result<File, Missed> {
        regular::open_held(held).map_err(|error| {
            let cause = match error.kind() {
                io::ErrorKind::WouldBlock => Cause::Leased(error),
                _ => Cause::Io(error),
            };
            Missed { path: entry.path.clone(), cause }
        })
    }

    /// Reads the target of a link.
    pub fn read_link(&self, entry: &Entry) -> Result<PathBuf, Missed> {
        let fd = self.hold(entry)?;
        read_link(&fd).map_err(|errno| missed(&entry.path, errno))
    }

    /// Opens the very entry that was looked at, of any kind, by O_PATH.
    pub fn hold(&self, entry: &Entry) -> Result<OwnedFd, Missed> {
        self.open_same(&entry.path, &entry.meta, OFlags::PATH)
    }

    fn open_same(&self, path: &Path, meta: &Meta, flags: OFlags) -> Result<OwnedFd, Missed> {
        let fd = self.resolve(path, flags)?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| missed(path, errno))?;
        match Meta::of(&stat).same_file(meta) {
            true => Ok(fd),
            false => Err(Missed { path: path.to_owned(), cause: Cause::Swapped }),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Missed> {
        self.root.resolve(path, flags, self.mounts).map_err(|errno| missed(path, errno))
    }
}

/// The iterator over the entries of a tree.
#[derive(Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    current: Option<(rustix::fs::Dir, PathBuf)>,
    pending: Vec<(PathBuf, Meta)>,
}

impl Walk<'_> {
    /// Skips the content of the folder that was yielded last.
    pub fn pass_over(&mut self, folder: &Entry) {
        if self.pending.last().is_some_and(|(path, _)| *path == folder.path) {
            self.pending.pop();
        }
    }

    fn enter(&mut self, path: PathBuf, meta: &Meta) -> Result<(), Missed> {
        let fd = self.tree.open_same(&path, meta, FOLDER)?;
        let dir = rustix::fs::Dir::new(fd).map_err(|errno| missed(&path, errno))?;
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
