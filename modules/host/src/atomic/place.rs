//! Where a file is replaced: its folder, held, and what has the name there.
//!
//! Invariant: the folder is reached from `/` down by descriptor, and a symbolic link on the way, or at
//! its end, is followed only when root or we own it and nobody else can write to the folder that it lies
//! in. So a user who owns a part of the path can move what is his, but leads nothing elsewhere.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::folder::push_front;
use crate::regular;

const MOST_LINKS: usize = 8;
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

pub(super) struct Place {
    /// O_PATH.
    folder: OwnedFd,
    /// Of the folder, without links.
    path: PathBuf,
    pub(super) name: OsString,
    /// What is to be replaced, when there is something.
    pub(super) old: Option<Old>,
}

pub(super) struct Old {
    pub(super) file: File,
    pub(super) metadata: Metadata,
}

/// What to do where the last name is a link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Follow,
    /// It is only a name: what has it is not looked at.
    Leave,
}

impl Place {
    /// None: a folder of the path is missing.
    pub(super) fn find(path: &Path, last: Last) -> Result<Option<Place>> {
        Walk::begin(path)?.go(last)
    }

    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn file_path(&self) -> PathBuf {
        self.path_of(&self.name)
    }

    pub(super) fn folder_path(&self) -> &Path {
        &self.path
    }

    /// To be listed, or synced.
    pub(super) fn open_folder(&self) -> io::Result<File> {
        Ok(rustix::fs::openat(&self.folder, ".", FOLDER, Mode::empty())?.into())
    }

    /// Makes renames and new names in it last.
    pub(super) fn sync(&self) -> Result<()> {
        self.open_folder()
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot sync the folder {}", self.path.display()))
    }
}

/// None: it is missing, and not to be made.
pub(super) fn folder(path: &Path, make: Option<Mode>) -> Result<Option<OwnedFd>> {
    Walk::begin(path)?.into_folder(make)
}

struct Walk {
    here: OwnedFd,
    path: PathBuf,
    todo: VecDeque<OsString>,
    links: usize,
    /// How much was to be walked behind the first link.
    behind: usize,
    /// The last name of the path was that of a link, which must lead to something.
    must_be_there: bool,
}

impl Walk {
    fn begin(path: &Path) -> Result<Walk> {
        let start = if path.is_absolute() { "/" } else { "." };
        let here = rustix::fs::openat(CWD, start, LOOK | OFlags::DIRECTORY, Mode::empty())
            .map_err(io::Error::from)
            .with_context(|| format!("cannot open {start}"))?;
        let at = if path.is_absolute() { "/" } else { "" };
        let (todo, behind) = (VecDeque::new(), usize::MAX);
        let mut walk = Walk { here, path: at.into(), todo, links: 0, behind, must_be_there: false };
        push_front(&mut walk.todo, path);
        Ok(walk)
    }

    fn go(mut self, last: Last) -> Result<Option<Place>> {
        while let Some(name) = self.todo.pop_front() {
            let is_last = self.todo.is_empty();
            if is_last && last == Last::Leave && name != ".." {
                return Ok(Some(self.ends(name, None)));
            }
            let path = self.path.join(&name);
            let fd = match rustix::fs::openat(&self.here, &name, LOOK, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) if is_last && !self.must_be_there => {
                    return Ok(Some(self.ends(name, None)));
                }
                Err(Errno::NOENT) if !self.is_in_link() => return Ok(None),
                Err(error) => {
                    return Err(io::Error::from(error))
                        .with_context(|| format!("cannot look at {}", path.display()));
                }
            };
            let stat = stat_of(&fd, &path)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    self.must_be_there |= is_last;
                    self.follow(&fd, &path, &stat)?;
                }
                FileType::Directory if !is_last => {
                    (self.here, self.path) = (fd, path);
                }
                FileType::RegularFile if is_last => {
                    let file = regular::open_held(&fd)
                        .with_context(|| format!("cannot open {}", path.display()))?;
                    let metadata = file.metadata()?;
                    return Ok(Some(self.ends(name, Some(Old { file, metadata }))));
                }
                _ if is_last => bail!("{} is not a regular file", path.display()),
                _ => bail!("{} is not a folder", path.display()),
            }
        }
        bail!("the path has no file name")
    }

    /// Down to a folder, by the same rules; what is missing is made when there is a mode for it.
    fn into_folder(mut self, make: Option<Mode>) -> Result<Option<OwnedFd>> {
        while let Some(name) = self.todo.pop_front() {
            let path = self.path.join(&name);
            let opened = match rustix::fs::openat(&self.here, &name, LOOK, Mode::empty()) {
                // A link to nothing is no place to make a folder in.
                Err(Errno::NOENT) if !self.is_in_link() => {
                    let Some(mode) = make else { return Ok(None) };
                    match rustix::fs::mkdirat(&self.here, &name, mode) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => {
                            return Err(io::Error::from(error))
                                .with_context(|| format!("cannot make {}", path.display()));
                        }
                    }
                    rustix::fs::openat(&self.here, &name, LOOK, Mode::empty())
                }
                opened => opened,
            };
            let fd = opened
                .map_err(io::Error::from)
                .with_context(|| format!("cannot look at {}", path.display()))?;
            let stat = stat_of(&fd, &path)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => self.follow(&fd, &path, &stat)?,
                FileType::Directory => (self.here, self.path) = (fd, path),
                _ => bail!("{} is not a folder", path.display()),
            }
        }
        Ok(Some(self.here))
    }

    fn ends(self, name: OsString, old: Option<Old>) -> Place {
        let path = if self.path == Path::new("") { ".".into() } else { self.path };
        Place { folder: self.here, path, name, old }
    }

    /// Whether the name that was taken last is a link's and not the path's own.
    fn is_in_link(&self) -> bool {
        self.links > 0 && self.todo.len() >= self.behind
    }

    fn follow(&mut self, link: &OwnedFd, path: &Path, stat: &Stat) -> Result<()> {
        self.links += 1;
        self.behind = self.behind.min(self.todo.len());
        ensure!(
            self.links <= MOST_LINKS,
            "{} is one symbolic link too many: give the real path",
            path.display()
        );
        let trusted = |uid: u32| uid == 0 || uid == geteuid().as_raw();
        let around = stat_of(&self.here, &self.path)?;
        let closed =
            trusted(around.st_uid) && (around.st_mode & 0o022 == 0 || around.st_mode & 0o1000 != 0);
        ensure!(
            trusted(stat.st_uid) && closed,
            "{} is a symbolic link that others could have made (owner uid {}; its folder: uid {}, mode {:04o}): give the real path",
            path.display(),
            stat.st_uid,
            around.st_uid,
            around.st_mode & 0o7777
        );
        let target = rustix::fs::readlinkat(link, "", Vec::new())
            .map_err(io::Error::from)
            .with_context(|| format!("cannot read the link {}", path.display()))?;
        let target = PathBuf::from(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(
            target.into_bytes(),
        ));
        if target.is_absolute() {
            let Walk { here, path, .. } = Walk::begin(Path::new("/"))?;
            (self.here, self.path) = (here, path);
        }
        push_front(&mut self.todo, &target);
        Ok(())
    }
}

fn stat_of(fd: &OwnedFd, path: &Path) -> Result<Stat> {
    rustix::fs::fstat(fd)
        .map_err(io::Error::from)
        .with_context(|| format!("cannot look at {}", path.display()))
}
