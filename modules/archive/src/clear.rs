//! Taking away all that is in a folder.
//!
//! Invariants: nothing outside of the folder is removed, whatever its owner renames meanwhile: each
//! folder is opened from the one above, nothing followed; and no other file system is entered, so that
//! something mounted below is an error and not lost.

use anyhow::{Context, Result, ensure};
use host::walk::Meta;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The folder itself stays. Going on after having been killed is just beginning again.
pub fn clear(folder: BorrowedFd<'_>) -> Result<()> {
    let root = open(folder, c".").context("cannot open the folder")?;
    let dev = Meta::read(&root)?.dev;
    let mut way: Vec<Level> = vec![Level::new(root)?];
    while let Some(level) = way.last_mut() {
        host::interrupt::check()?;
        let Some(name) = level.folders.pop() else {
            let done = way.pop();
            if let (Some(above), Some(name)) = (way.last(), done.and_then(|done| done.name)) {
                gone(unlinkat(&above.fd, &name, AtFlags::REMOVEDIR), &name)?;
            }
            continue;
        };
        let fd = match open(level.fd.as_fd(), &name) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            // Something else stands there now.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                gone(unlinkat(&level.fd, &name, AtFlags::empty()), &name)?;
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot open {name:?}")),
        };
        let other = Meta::read(&fd)?.dev != dev;
        ensure!(!other, "another file system is mounted at {name:?}; unmount it first");
        way.push(Level { name: Some(name), ..Level::new(fd)? });
    }
    Ok(())
}

struct Level {
    name: Option<CString>,
    fd: OwnedFd,
    folders: Vec<CString>,
}

impl Level {
    /// Removes what is no folder, and keeps the names of those that are.
    fn new(fd: OwnedFd) -> Result<Level> {
        let mut folders = Vec::new();
        for entry in Dir::read_from(&fd).context("cannot read a folder")? {
            let entry = entry.context("cannot read a folder")?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                folders.push(name.to_owned());
                continue;
            }
            // Where the file system does not tell the kind, the refusal does.
            match unlinkat(&fd, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => folders.push(name.to_owned()),
                other => gone(other, &name.to_owned())?,
            }
        }
        Ok(Level { name: None, fd, folders })
    }
}

fn gone(result: rustix::io::Result<()>, name: &CString) -> Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {name:?}")),
    }
}

fn open(at: BorrowedFd<'_>, name: &std::ffi::CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}
