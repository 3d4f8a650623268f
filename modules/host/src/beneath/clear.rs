//! Removes everything in a folder, or a whole tree.
//!
//! Invariants: nothing outside of the folder is removed, whatever its owner renames meanwhile; no other
//! file system is entered, so that something mounted below is an error and not lost. A killed removal is
//! simply started again.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::FileType;

use super::{Dir, is_no_folder};
use crate::interrupt;
use crate::meta::{Kind, Meta};
use crate::none_if_missing;

impl Dir {
    /// Removes whatever has this name, with everything in it. Nothing there is no error.
    pub fn remove_all(&self, name: &OsStr) -> Result<()> {
        let removed = match self.stat(name)? {
            None => return Ok(()),
            Some(found) if found.kind == Kind::Folder => {
                self.folder(Path::new(name))?.clear()?;
                self.remove_folder(name)
            }
            Some(_) => self.remove(name),
        };
        ignore_missing(removed, name)
    }

    /// Removes everything in the folder, but not the folder itself.
    pub fn clear(&self) -> Result<()> {
        let root = self.folder(Path::new("")).context("cannot open the folder")?;
        let dev = Meta::read(&root)?.dev;
        let mut levels = vec![Level::new(OsString::new(), root)?];
        while let Some(level) = levels.last_mut() {
            interrupt::check()?;
            let Some(name) = level.folders.pop() else {
                let done = levels.pop();
                if let (Some(above), Some(done)) = (levels.last(), done) {
                    ignore_missing(above.dir.remove_folder(&done.name), &done.name)?;
                }
                continue;
            };
            match level.dir.folder(Path::new(&name)) {
                Ok(dir) => {
                    let other = Meta::read(&dir)?.dev != dev;
                    ensure!(!other, "another file system is mounted at {name:?}; unmount it first");
                    levels.push(Level::new(name, dir)?);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // It was replaced by something that is not a folder.
                Err(error) if is_no_folder(&error) => {
                    ignore_missing(level.dir.remove(&name), &name)?
                }
                Err(error) => return Err(error).with_context(|| format!("cannot open {name:?}")),
            }
        }
        Ok(())
    }
}

struct Level {
    name: OsString,
    dir: Dir,
    folders: Vec<OsString>,
}

impl Level {
    /// Removes everything in it but folders, whose names it collects.
    fn new(name: OsString, dir: Dir) -> Result<Level> {
        let mut folders = Vec::new();
        for entry in dir.list().context("cannot read a folder")? {
            let entry = entry.context("cannot read a folder")?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                folders.push(name.to_owned());
                continue;
            }
            match dir.remove(name) {
                // Some file systems do not report the type of an entry.
                Err(error) if error.kind() == ErrorKind::IsADirectory => {
                    folders.push(name.to_owned());
                }
                removed => ignore_missing(removed, name)?,
            }
        }
        Ok(Level { name, dir, folders })
    }
}

fn ignore_missing(removed: io::Result<()>, name: &OsStr) -> Result<()> {
    none_if_missing(removed).map(drop).with_context(|| format!("cannot remove {name:?}"))
}
