//! A folder that only root or the current user can write to, rename or replace: for state, locks,
//! ledgers, caches.
//!
//! The path is resolved from `/` down ([`crate::descent`]). Each component must be a folder that
//! belongs to root or to the current user and that group and others cannot write to (an ACL that lets
//! somebody else write shows in the group bits). Three exceptions:
//! * A symbolic link is followed if root or the current user owns it; its target is checked by the same
//!   rules: /var/run -> /run.
//! * A parent (never the folder itself) may be a sticky folder of root's, such as /tmp: others cannot
//!   rename our files in it, and the next component is checked to belong to root or to the current user.
//! * A group that has no member but root may write (`groups.rs`).
//!
//! A program is checked by the same rules ([`check_program`]): its folder, and the file itself.

mod groups;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::geteuid;
use rustix::fs::{AtFlags, Mode};

use crate::beneath::Dir;
use crate::descent::{Descent, Found, meta_of};
use crate::meta::{Kind, Meta};
use crate::reserve;

/// A folder that was found to be safe, held open.
#[derive(Debug)]
pub struct SafeFolder {
    path: PathBuf,
    dir: Dir,
}

impl SafeFolder {
    /// Reserves space in this folder for rollbacks on a full disk, if the disk has room for it.
    pub fn keep_reserve(&self) {
        reserve::ensure(&self.path);
    }

    /// Opens the folder, and makes it if it is missing (all missing components get `mode`). Permissions
    /// of an existing folder of ours that `mode` does not include are removed.
    pub fn ensure(path: &Path, mode: u32) -> Result<SafeFolder> {
        let mode = mode & 0o755;
        let mut descent = CheckedDescent::begin(path, Wanted::Folder)?;
        while let Some(name) = descent.next_name()? {
            if descent.enter(&name)? == Step::Missing {
                descent.make(&name, mode)?;
            }
        }
        let folder = descent.end()?;
        folder.narrow(mode)?;
        Ok(folder)
    }

    /// Opens the folder; `None` if it or one of its parents is missing. The existing parents are checked.
    pub fn find(path: &Path) -> Result<Option<SafeFolder>> {
        let mut descent = CheckedDescent::begin(path, Wanted::Folder)?;
        while let Some(name) = descent.next_name()? {
            if descent.enter(&name)? == Step::Missing {
                return Ok(None);
            }
        }
        descent.end().map(Some)
    }

    /// Opens the folder, which must exist.
    pub fn open(path: &Path) -> Result<SafeFolder> {
        Self::find(path)?
            .with_context(|| format!("cannot use the folder {}: it does not exist", path.display()))
    }

    /// Returns its real path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Returns the held folder, to work with its entries.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    fn narrow(&self, mode: u32) -> Result<()> {
        let meta = meta_of(&self.dir, &self.path)?;
        let surplus = meta.mode & 0o777 & !mode;
        if meta.uid == geteuid().as_raw() && surplus != 0 {
            chmod(&self.dir, meta.mode & 0o7777 & !surplus, &self.path)?;
        }
        Ok(())
    }
}

/// Refuses a program that anybody but root or the current user could change or replace, wherever links
/// lead. A dangling link is accepted: running it fails.
pub fn check_program(path: &Path) -> Result<()> {
    check(path, Wanted::Program)
}

/// Refuses a file, a socket or a folder in the same way. One that does not exist yet is accepted if
/// nobody else could make it.
pub fn check_file(path: &Path) -> Result<()> {
    check(path, Wanted::File)
}

fn check(path: &Path, wanted: Wanted) -> Result<()> {
    let mut descent = CheckedDescent::begin(path, wanted)?;
    while let Some(name) = descent.next_name()? {
        if descent.enter(&name)? == Step::Missing {
            break;
        }
    }
    // A missing file could be made by whoever may write here; and the path may name a folder itself.
    if wanted == Wanted::File { descent.check_current(Position::Target) } else { Ok(()) }
}

#[derive(PartialEq, Eq)]
enum Step {
    Entered,
    Missing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Folder,
    File,
    Program,
}

struct CheckedDescent<'a> {
    asked: &'a Path,
    wanted: Wanted,
    descent: Descent,
}

impl<'a> CheckedDescent<'a> {
    fn begin(asked: &'a Path, wanted: Wanted) -> Result<CheckedDescent<'a>> {
        let descent = CheckedDescent { asked, wanted, descent: Descent::begin(asked)? };
        if !asked.is_absolute() {
            return descent.refuse(asked, "is not an absolute path", "give the path from / on");
        }
        if asked.components().any(|part| part == Component::ParentDir) {
            return descent.refuse(asked, "contains \"..\"", "give the path without it");
        }
        Ok(descent)
    }

    /// Returns the next component, after checking the current folder as a parent.
    fn next_name(&mut self) -> Result<Option<OsString>> {
        let name = self.descent.next_name();
        if name.is_some() {
            self.check_current(Position::Parent)?;
        }
        Ok(name)
    }

    fn enter(&mut self, name: &OsStr) -> Result<Step> {
        let Some(found) = self.descent.look(name)? else { return Ok(Step::Missing) };
        let asked = self.wanted != Wanted::Folder && self.descent.is_last();
        match found.meta.kind {
            Kind::Folder => self.descent.enter(Dir::of(found.held), found.path),
            Kind::Link => {
                // In a folder like /tmp anybody can make a hard link to a link of root's, with the same owner.
                if asked {
                    self.check_current(Position::Target)?;
                }
                self.follow(&found)?;
            }
            Kind::File | Kind::Special if asked => {
                self.check_current(Position::Target)?;
                self.check_entry(&found.held, &found.path, &found.meta, false)?;
            }
            _ => {
                let advice = "move it away, or use another folder";
                return self.refuse(&found.path, "is not a folder", advice);
            }
        }
        Ok(Step::Entered)
    }

    fn follow(&mut self, link: &Found) -> Result<()> {
        let target = link.target()?;
        if !link.meta.is_trusted() {
            let (target, uid) = (target.display(), link.meta.uid);
            let what = format!("is a symbolic link (to {target}) that uid {uid} owns");
            return self.refuse(&link.path, &what, "remove it, or give the real path");
        }
        match self.descent.follow(&target) {
            true => Ok(()),
            false => self.refuse(
                &link.path,
                "is reached by too many symbolic links",
                "give the real path",
            ),
        }
    }

    fn make(&mut self, name: &OsStr, mode: u32) -> Result<()> {
        let (here, path) = (&self.descent.dir, self.descent.path.join(name));
        let made = || match here.make_folder(name, 0o700) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        };
        reserve::writing(&path, made)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        // Checked like an existing one: in a sticky folder somebody else may have been faster.
        let dir = here
            .folder(Path::new(name))
            .with_context(|| format!("cannot open {}", path.display()))?;
        if meta_of(&dir, &path)?.uid == geteuid().as_raw() {
            chmod(&dir, mode, &path)?;
        }
        here.sync()
            .with_context(|| format!("cannot sync the parent folder of {}", path.display()))?;
        self.descent.enter(dir, path);
        Ok(())
    }

    fn end(self) -> Result<SafeFolder> {
        self.check_current(Position::Target)?;
        Ok(SafeFolder { path: self.descent.path, dir: self.descent.dir })
    }

    /// Checks that the current folder is safe.
    fn check_current(&self, role: Position) -> Result<()> {
        let Descent { dir, path, .. } = &self.descent;
        let meta = meta_of(dir, path)?;
        let sticky = role == Position::Parent && meta.mode & 0o1000 != 0 && meta.uid == 0;
        self.check_entry(dir, path, &meta, sticky)
    }

    fn check_entry(&self, held: impl AsFd, path: &Path, meta: &Meta, sticky: bool) -> Result<()> {
        let mode = meta.mode & 0o7777;
        let otherwise = match self.wanted {
            Wanted::Folder => "use another folder",
            Wanted::File => "use another file",
            Wanted::Program => "remove its folder from PATH",
        };
        if !meta.is_trusted() {
            let what = format!("belongs to uid {} (mode {mode:04o})", meta.uid);
            let advice = format!("{otherwise}, or: chown root {}", path.display());
            return self.refuse(path, &what, &advice);
        }
        let group_is_roots = || mode & 0o002 == 0 && groups::is_roots(&held, meta.gid, path);
        if mode & 0o022 != 0 && !sticky && !group_is_roots() {
            let who = match mode & 0o002 != 0 {
                true => "everyone".to_owned(),
                false => format!("its group, gid {}", meta.gid),
            };
            let what =
                format!("can be written to by {who} (owner uid {}, mode {mode:04o})", meta.uid);
            let advice = format!("{otherwise}, or: chmod go-w {}", path.display());
            return self.refuse(path, &what, &advice);
        }
        Ok(())
    }

    fn refuse<T>(&self, component: &Path, problem: &str, advice: &str) -> Result<T> {
        Err(Unsafe {
            folder: self.asked.to_owned(),
            component: component.to_owned(),
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        }
        .into())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Parent,
    Target,
}

/// Changes the mode of a folder that may be held by O_PATH, which fchmod(2) does not take.
fn chmod(dir: &Dir, mode: u32, path: &Path) -> Result<()> {
    rustix::fs::chmodat(dir, ".", Mode::from_raw_mode(mode), AtFlags::empty())
        .map_err(io::Error::from)
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// A folder that somebody else could write to or replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsafe {
    pub folder: PathBuf,
    pub component: PathBuf,
    pub problem: String,
    pub advice: String,
}

impl Unsafe {
    /// Returns who could change which component, without the advice.
    pub fn why(&self) -> String {
        format!("{} {}", self.component.display(), self.problem)
    }
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (folder, component) = (self.folder.display(), self.component.display());
        write!(f, "cannot use the folder {folder}: {component} {}; {}", self.problem, self.advice)
    }
}

impl std::error::Error for Unsafe {}
