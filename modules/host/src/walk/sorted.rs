//! A walk in an order that does not depend on the file system, so that two walks, or a walk and the list
//! of an earlier one, can be compared entry by entry.
//!
//! Invariants: a folder comes right before its content, and the names in a folder are ordered by their
//! bytes, which is the order of [`order`]. Only the names in the folders on the current path are in memory:
//! a million names in one folder take some 30 MB.

use std::cmp::Ordering;
use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;

use super::{Entry, FOLDER, Missed, Tree, missed};
use crate::meta::{Kind, Meta};

/// Compares two paths by the order in which the sorted walk yields them.
pub fn order(one: &Path, other: &Path) -> Ordering {
    // No name contains a zero byte: a slash that compares as one puts a folder's content before longer names.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let (one, other) = (one.as_os_str().as_bytes(), other.as_os_str().as_bytes());
    one.iter().map(key).cmp(other.iter().map(key))
}

/// The iterator over the sorted entries of a tree.
#[derive(Debug)]
pub struct Sorted<'a> {
    tree: &'a Tree,
    levels: Vec<Level>,
    /// The folder of the last level; it is opened again after its subfolders.
    here: Option<OwnedFd>,
    pending: Option<(PathBuf, Meta)>,
}

#[derive(Debug)]
struct Level {
    path: PathBuf,
    meta: Meta,
    names: Names,
    next: usize,
}

impl<'a> Sorted<'a> {
    pub(super) fn new(tree: &'a Tree) -> Sorted<'a> {
        let pending = Some((PathBuf::new(), tree.meta));
        Sorted { tree, levels: Vec::new(), here: None, pending }
    }

    /// Skips the content of the folder that was yielded last.
    pub fn pass_over(&mut self, folder: &Entry) {
        if self.pending.as_ref().is_some_and(|(path, _)| *path == folder.path) {
            self.pending = None;
        }
    }

    fn open(&self, path: &Path, meta: &Meta) -> Result<OwnedFd, Missed> {
        self.tree.open_same(path, meta, FOLDER)
    }

    fn enter(&mut self, path: PathBuf, meta: Meta) -> Result<(), Missed> {
        let fd = self.open(&path, &meta)?;
        let names = Names::read(&fd).map_err(|errno| missed(&path, errno))?;
        self.levels.push(Level { path, meta, names, next: 0 });
        self.here = Some(fd);
        Ok(())
    }

    /// Looks at the next name of the last level; `None` at the end of the folder.
    fn look(&mut self) -> Option<Result<Entry, Missed>> {
        let (folder, meta) = {
            let level = self.levels.last()?;
            level.names.get(level.next)?;
            (&level.path, level.meta)
        };
        let opened = match self.here.take() {
            Some(fd) => Ok(fd),
            None => self.open(folder, &meta),
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(missed) => {
                self.levels.pop();
                return Some(Err(missed));
            }
        };
        let level = self.levels.last_mut()?;
        let name = level.names.get(level.next)?;
        let path = level.path.join(OsStr::from_bytes(name));
        let looked = CString::new(name).map_err(|_| Errno::INVAL).and_then(|name| {
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            rustix::fs::statat(&fd, name, flags)
        });
        level.next += 1;
        self.here = Some(fd);
        Some(match looked {
            Ok(stat) => Ok(Entry { path, meta: Meta::of(&stat) }),
            Err(errno) => Err(missed(&path, errno)),
        })
    }
}

impl Iterator for Sorted<'_> {
    type Item = Result<Entry, Missed>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((path, meta)) = self.pending.take() {
            self.here = None;
            if let Err(missed) = self.enter(path, meta) {
                return Some(Err(missed));
            }
        }
        while !self.levels.is_empty() {
            match self.look() {
                None => {
                    self.levels.pop();
                    self.here = None;
                }
                Some(Ok(entry)) => {
                    if entry.meta.kind == Kind::Folder {
                        self.pending = Some((entry.path.clone(), entry.meta));
                    }
                    return Some(Ok(entry));
                }
                Some(Err(missed)) => return Some(Err(missed)),
            }
        }
        None
    }
}

/// The sorted names of a folder: one long text, and position and length of each name.
#[derive(Debug)]
struct Names {
    text: Vec<u8>,
    positions: Vec<(u32, u16)>,
}

impl Names {
    fn read(folder: &OwnedFd) -> rustix::io::Result<Names> {
        let mut names = Names { text: Vec::new(), positions: Vec::new() };
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            // No known file system has four GiB of names in one folder.
            let at = u32::try_from(names.text.len()).map_err(|_| Errno::FBIG)?;
            names.positions.push((at, name.len() as u16));
            names.text.extend_from_slice(name);
        }
        let text = &names.text;
        let name = |(at, length): &(u32, u16)| &text[*at as usize..][..*length as usize];
        names.positions.sort_unstable_by(|one, other| name(one).cmp(name(other)));
        Ok(names)
    }

    fn get(&self, at: usize) -> Option<&[u8]> {
        let (at, length) = self.positions.get(at)?;
        self.text.get(*at as usize..)?.get(..*length as usize)
    }
}
