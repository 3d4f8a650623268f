//! A folder that no one but root (or we) can write to, rename, or swap for another: for state,
//! locks, ledgers, caches.
//!
//! The path is walked from `/` down ([`crate::descent`]). Each component
//! must be a folder that belongs to root or to us and that group and others cannot write to (an ACL
//! that lets somebody else write shows in the group bits). Three exceptions:
//! * A symbolic link is followed when root or we own it, and its target is walked under the same
//!   rules: /var/run -> /run.
//! * A sticky folder of root's, such as /tmp, may lie above (never be the folder itself): what is
//!   ours in it cannot be renamed by others, and each next component is checked to be ours or
//!   root's.
//! * A group that nobody but root is in may write (`groups.rs`).
//!
//! A program that we run is held to the same ([`check_program`]): its folder, and the file itself.

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

/// A folder that was found to be safe; its descriptor stays open.
#[derive(Debug)]
pub struct SafeFolder {
    path: PathBuf,
    dir: Dir,
}

impl SafeFolder {
    /// Keeps room in this folder for what goes back on a full disk, where there is room for it.
    pub fn keep_reserve(&self) {
        reserve::keep(&self.path);
    }

    /// The folder, made where it is missing (all missing components get `mode`). One that is there
    /// and ours, but readable more widely than `mode` says, is narrowed.
    pub fn ensure(path: &Path, mode: u32) -> Result<SafeFolder> {
        let mode = mode & 0o755;
        let mut walk = Walk::begin(path, Wanted::Folder)?;
        while let Some(name) = walk.next_name()? {
            if walk.enter(&name)? == Step::Missing {
                walk.make(&name, mode)?;
            }
        }
        let folder = walk.end()?;
        folder.narrow(mode)?;
        Ok(folder)
    }

    /// The folder, or `None` when it (or one above it) is missing; what is there above it has been
    /// checked.
    pub fn find(path: &Path) -> Result<Option<SafeFolder>> {
        let mut walk = Walk::begin(path, Wanted::Folder)?;
        while let Some(name) = walk.next_name()? {
            if walk.enter(&name)? == Step::Missing {
                return Ok(None);
            }
        }
        walk.end().map(Some)
    }

    /// The folder, which must be there.
    pub fn check(path: &Path) -> Result<SafeFolder> {
        Self::find(path)?
            .with_context(|| format!("cannot use the folder {}: it does not exist", path.display()))
    }

    /// Where it really is: without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// For what is in it.
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

/// Refuses a program that somebody but root (or we) could write to or swap for another, wherever
/// links lead. A link to nothing passes: running it says so.
pub fn check_program(path: &Path) -> Result<()> {
    check(path, Wanted::Program)
}

/// The same for a file, a socket or a folder that root believes. One that is not there yet passes, where nobody else can make it.
pub fn check_file(path: &Path) -> Result<()> {
    check(path, Wanted::File)
}

fn check(path: &Path, wanted: Wanted) -> Result<()> {
    let mut walk = Walk::begin(path, wanted)?;
    while let Some(name) = walk.next_name()? {
        if walk.enter(&name)? == Step::Missing {
            break;
        }
    }
    // What is missing is made by whoever may make files here; what is asked for may be a folder itself.
    if wanted == Wanted::File { walk.judge(Role::Asked) } else { Ok(()) }
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

struct Walk<'a> {
    asked: &'a Path,
    wanted: Wanted,
    descent: Descent,
}

impl<'a> Walk<'a> {
    fn begin(asked: &'a Path, wanted: Wanted) -> Result<Walk<'a>> {
        let walk = Walk { asked, wanted, descent: Descent::begin(asked)? };
        if !asked.is_absolute() {
            return walk.refuse(asked, "is not an absolute path", "give the path from / on");
        }
        if asked.components().any(|part| part == Component::ParentDir) {
            return walk.refuse(asked, "contains \"..\"", "give the path without it");
        }
        Ok(walk)
    }

    /// The next component, once the folder that we are in is known to be fit for being passed
    /// through.
    fn next_name(&mut self) -> Result<Option<OsString>> {
        let name = self.descent.next_name();
        if name.is_some() {
            self.judge(Role::Above)?;
        }
        Ok(name)
    }

    fn enter(&mut self, name: &OsStr) -> Result<Step> {
        let Some(found) = self.descent.look(name)? else { return Ok(Step::Missing) };
        let asked = self.wanted != Wanted::Folder && self.descent.is_last();
        match found.meta.kind {
            Kind::Folder => self.descent.enter(Dir::of(found.held), found.path),
            Kind::Link => {
                // Else a link of root's in a folder like /tmp: another hard link to it has the same owner.
                if asked {
                    self.judge(Role::Asked)?;
                }
                self.follow(&found)?;
            }
            Kind::File | Kind::Special if asked => {
                self.judge(Role::Asked)?;
                self.judge_one(&found.held, &found.path, &found.meta, false)?;
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
            false => self.refuse(&link.path, "is one symbolic link too many", "give the real path"),
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
        // Opened and judged like one that was there: in a sticky folder somebody else may have been
        // faster.
        let dir = here
            .folder(Path::new(name))
            .with_context(|| format!("cannot open {}", path.display()))?;
        if meta_of(&dir, &path)?.uid == geteuid().as_raw() {
            chmod(&dir, mode, &path)?;
        }
        here.sync().with_context(|| {
            format!("cannot sync the folder that {} was made in", path.display())
        })?;
        self.descent.enter(dir, path);
        Ok(())
    }

    fn end(self) -> Result<SafeFolder> {
        self.judge(Role::Asked)?;
        Ok(SafeFolder { path: self.descent.path, dir: self.descent.dir })
    }

    /// Is the folder that we are in safe?
    fn judge(&self, role: Role) -> Result<()> {
        let Descent { dir, path, .. } = &self.descent;
        let meta = meta_of(dir, path)?;
        let sticky = role == Role::Above && meta.mode & 0o1000 != 0 && meta.uid == 0;
        self.judge_one(dir, path, &meta, sticky)
    }

    fn judge_one(&self, held: impl AsFd, path: &Path, meta: &Meta, sticky: bool) -> Result<()> {
        let mode = meta.mode & 0o7777;
        let otherwise = match self.wanted {
            Wanted::Folder => "use another folder",
            Wanted::File => "use another file",
            Wanted::Program => "take its folder out of PATH",
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
enum Role {
    Above,
    Asked,
}

/// What is held by O_PATH cannot be given to fchmod(2).
fn chmod(dir: &Dir, mode: u32, path: &Path) -> Result<()> {
    rustix::fs::chmodat(dir, ".", Mode::from_raw_mode(mode), AtFlags::empty())
        .map_err(io::Error::from)
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// A folder that somebody else could write to or swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsafe {
    pub folder: PathBuf,
    pub component: PathBuf,
    pub problem: String,
    pub advice: String,
}

impl Unsafe {
    /// Who could change what, without what it is wanted for.
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
