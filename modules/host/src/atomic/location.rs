//! The location of a file that is to be replaced: its folder, held open, its name, and the old file.
//!
//! Invariant: the folder is reached by [`crate::descent`], and a symbolic link on the way or at the end
//! is followed only if root or the user that runs us owns it and nobody else can write to its folder. So a
//! user who owns a part of the path can move their own files, but cannot lead a write elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::beneath::Dir;
use crate::descent::{Descent, Found, meta_of};
use crate::meta::Kind;
use crate::regular;

pub(super) struct Location {
    pub(super) dir: Dir,
    /// The path of the folder, without links.
    path: PathBuf,
    pub(super) name: OsString,
    /// The file that is to be replaced, if there is one.
    pub(super) old: Option<Old>,
}

pub(super) struct Old {
    pub(super) file: File,
    pub(super) metadata: Metadata,
}

/// What to do if the last name of a path is a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LastLink {
    Follow,
    /// Do not look at what has the name.
    Keep,
}

impl Location {
    /// Finds the location of a path; `None` if a folder of the path is missing.
    pub(super) fn find(path: &Path, last: LastLink) -> Result<Option<Location>> {
        Walk::begin(path)?.run(last)
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

    /// Syncs the folder, so that renames and new names in it survive a crash.
    pub(super) fn sync(&self) -> Result<()> {
        self.dir.sync().with_context(|| format!("cannot sync the folder {}", self.path.display()))
    }
}

/// Opens a folder by the same rules. A missing one is made with the mode in `make`; without a mode the
/// answer is `None`.
pub(super) fn folder(path: &Path, make: Option<u32>) -> Result<Option<Dir>> {
    let mut walk = Walk::begin(path)?;
    while let Some(name) = walk.descent.next_name() {
        let mut found = walk.descent.look(&name)?;
        // No folder is made where a dangling link points to.
        if found.is_none() && !walk.descent.is_in_link() {
            let Some(mode) = make else { return Ok(None) };
            match walk.descent.dir.make_folder(&name, mode) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    let path = walk.descent.path.join(name);
                    return Err(error).with_context(|| format!("cannot make {}", path.display()));
                }
                _ => found = walk.descent.look(&name)?,
            }
        }
        let found = found.with_context(|| walk.missing(&name))?;
        match found.meta.kind {
            Kind::Link => walk.follow(&found)?,
            Kind::Folder => walk.descent.enter(Dir::of(found.held), found.path),
            _ => bail!("{} is not a folder", found.path.display()),
        }
    }
    Ok(Some(walk.descent.dir))
}

struct Walk {
    descent: Descent,
    /// The last name of the path was a link, whose target must exist.
    must_exist: bool,
}

impl Walk {
    fn begin(path: &Path) -> Result<Walk> {
        Ok(Walk { descent: Descent::begin(path)?, must_exist: false })
    }

    fn run(mut self, last: LastLink) -> Result<Option<Location>> {
        while let Some(name) = self.descent.next_name() {
            let is_last = self.descent.is_last();
            if is_last && last == LastLink::Keep {
                return Ok(Some(self.finish(name, None)));
            }
            let Some(found) = self.descent.look(&name)? else {
                if is_last && !self.must_exist {
                    return Ok(Some(self.finish(name, None)));
                }
                ensure!(!self.descent.is_in_link(), self.missing(&name));
                return Ok(None);
            };
            match found.meta.kind {
                Kind::Link => {
                    self.must_exist |= is_last;
                    self.follow(&found)?;
                }
                Kind::Folder if !is_last => self.descent.enter(Dir::of(found.held), found.path),
                Kind::File if is_last => {
                    let file = regular::open_held(&found.held)
                        .with_context(|| format!("cannot open {}", found.path.display()))?;
                    let metadata = file.metadata()?;
                    return Ok(Some(self.finish(name, Some(Old { file, metadata }))));
                }
                _ if is_last => bail!("{} is not a regular file", found.path.display()),
                _ => bail!("{} is not a folder", found.path.display()),
            }
        }
        bail!("the path has no file name")
    }

    fn finish(self, name: OsString, old: Option<Old>) -> Location {
        let Descent { dir, path, .. } = self.descent;
        Location { dir, path, name, old }
    }

    fn missing(&self, name: &OsStr) -> String {
        let path = self.descent.path.join(name);
        format!("cannot look at {}: No such file or directory", path.display())
    }

    fn follow(&mut self, link: &Found) -> Result<()> {
        let parent = meta_of(&self.descent.dir, &self.descent.path)?;
        let closed = parent.is_trusted() && (parent.mode & 0o022 == 0 || parent.mode & 0o1000 != 0);
        let path = link.path.display();
        ensure!(
            link.meta.is_trusted() && closed,
            "{path} is a symbolic link that others could have made (owner uid {}; its folder: uid {}, mode {:04o}): give the real path",
            link.meta.uid,
            parent.uid,
            parent.mode & 0o7777
        );
        let is_allowed = self.descent.follow(&link.target()?);
        ensure!(is_allowed, "{path}: too many symbolic links: give the real path");
        Ok(())
    }
}
