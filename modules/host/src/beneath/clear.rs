//! Taking away all that is in a folder, or a tree with all that is in it.
//!
//! Invariants: nothing outside of the folder is removed, whatever its owner renames meanwhile; no other
//! file system is entered, so that something mounted below is an error and not lost. Going on after
//! having been killed is just beginning again.

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
    /// Removes what has this name, with all that is in it. That there is nothing is fine.
    pub fn remove_all(&self, name: &OsStr) -> Result<()> {
        let removed = match self.stat(name)? {
            None => return Ok(()),
            Some(found) if found.kind == Kind::Folder => {
                self.folder(Path::new(name))?.clear()?;
                self.remove_folder(name)
            }
            Some(_) => self.remove(name),
        };
        gone(removed, name)
    }

    /// Removes all that is in it. The folder itself stays.
    pub fn clear(&self) -> Result<()> {
        let root = self.folder(Path::new("")).context("cannot open the folder")?;
        let dev = Meta::read(&root)?.dev;
        let mut way = vec![Level::new(OsString::new(), root)?];
        while let Some(level) = way.last_mut() {
            interrupt::check()?;
            let Some(name) = level.folders.pop() else {
                let done = way.pop();
                if let (Some(above), Some(done)) = (way.last(), done) {
                    gone(above.dir.remove_folder(&done.name), &done.name)?;
                }
                continue;
            };
            match level.dir.folder(Path::new(&name)) {
                Ok(dir) => {
                    let other = Meta::read(&dir)?.dev != dev;
                    ensure!(!other, "another file system is mounted at {name:?}; unmount it first");
                    way.push(Level::new(name, dir)?);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // Something else stands there now.
                Err(error) if is_no_folder(&error) => gone(level.dir.remove(&name), &name)?,
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
    /// Removes what is no folder, and keeps the names of those that are.
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
                // Where the file system does not tell the kind, the refusal does.
                Err(error) if error.kind() == ErrorKind::IsADirectory => {
                    folders.push(name.to_owned());
                }
                removed => gone(removed, name)?,
            }
        }
        Ok(Level { name, dir, folders })
    }
}

fn gone(removed: io::Result<()>, name: &OsStr) -> Result<()> {
    none_if_missing(removed).map(drop).with_context(|| format!("cannot remove {name:?}"))
}
