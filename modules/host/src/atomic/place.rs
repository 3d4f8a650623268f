//! Where a file is replaced: its folder, held, and what has the name there.
//!
//! Invariant: the folder is reached by [`crate::descent`], and a symbolic link on the way, or at
//! its end, is followed only when root or we own it and nobody else can write to the folder that it lies
//! in. So a user who owns a part of the path can move what is his, but leads nothing elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::beneath::Dir;
use crate::descent::{Descent, Found, meta_of};
use crate::meta::Kind;
use crate::regular;

pub(super) struct Place {
    pub(super) dir: Dir,
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

    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn file_path(&self) -> PathBuf {
        self.path_of(&self.name)
    }

    pub(super) fn folder_path(&self) -> &Path {
        &self.path
    }

    /// Makes renames and new names in it last.
    pub(super) fn sync(&self) -> Result<()> {
        self.dir.sync().with_context(|| format!("cannot sync the folder {}", self.path.display()))
    }
}

/// Down to a folder, by the same rules. What is missing is made when there is a mode for it; else the
/// answer is none.
pub(super) fn folder(path: &Path, make: Option<u32>) -> Result<Option<Dir>> {
    let mut walk = Walk::begin(path)?;
    while let Some(name) = walk.descent.next_name() {
        let mut found = walk.descent.look(&name)?;
        // A link to nothing is no place to make a folder in.
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
    /// The last name of the path was that of a link, which must lead to something.
    must_be_there: bool,
}

impl Walk {
    fn begin(path: &Path) -> Result<Walk> {
        Ok(Walk { descent: Descent::begin(path)?, must_be_there: false })
    }

    fn go(mut self, last: Last) -> Result<Option<Place>> {
        while let Some(name) = self.descent.next_name() {
            let is_last = self.descent.is_last();
            if is_last && last == Last::Leave {
                return Ok(Some(self.ends(name, None)));
            }
            let Some(found) = self.descent.look(&name)? else {
                if is_last && !self.must_be_there {
                    return Ok(Some(self.ends(name, None)));
                }
                ensure!(!self.descent.is_in_link(), self.missing(&name));
                return Ok(None);
            };
            match found.meta.kind {
                Kind::Link => {
                    self.must_be_there |= is_last;
                    self.follow(&found)?;
                }
                Kind::Folder if !is_last => self.descent.enter(Dir::of(found.held), found.path),
                Kind::File if is_last => {
                    let file = regular::open_held(&found.held)
                        .with_context(|| format!("cannot open {}", found.path.display()))?;
                    let metadata = file.metadata()?;
                    return Ok(Some(self.ends(name, Some(Old { file, metadata }))));
                }
                _ if is_last => bail!("{} is not a regular file", found.path.display()),
                _ => bail!("{} is not a folder", found.path.display()),
            }
        }
        bail!("the path has no file name")
    }

    fn ends(self, name: OsString, old: Option<Old>) -> Place {
        let Descent { dir, path, .. } = self.descent;
        Place { dir, path, name, old }
    }

    fn missing(&self, name: &OsStr) -> String {
        let path = self.descent.path.join(name);
        format!("cannot look at {}: No such file or directory", path.display())
    }

    fn follow(&mut self, link: &Found) -> Result<()> {
        let around = meta_of(&self.descent.dir, &self.descent.path)?;
        let closed = around.is_trusted() && (around.mode & 0o022 == 0 || around.mode & 0o1000 != 0);
        let path = link.path.display();
        ensure!(
            link.meta.is_trusted() && closed,
            "{path} is a symbolic link that others could have made (owner uid {}; its folder: uid {}, mode {:04o}): give the real path",
            link.meta.uid,
            around.uid,
            around.mode & 0o7777
        );
        let is_one_of_few = self.descent.follow(&link.target()?);
        ensure!(is_one_of_few, "{path} is one symbolic link too many: give the real path");
        Ok(())
    }
}
