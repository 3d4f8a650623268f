//! A folder that no one but root (or we) can write to, rename, or swap for another: for state,
//! locks, ledgers, caches.
//!
//! The path is walked from `/` down by descriptor, nothing followed by the kernel. Each component
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

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstatat, mkdirat};
use nix::unistd::geteuid;

use crate::reserve;

const MOST_LINKS: usize = 16;
const LOOK: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A folder that was found to be safe; its descriptor stays open.
#[derive(Debug)]
pub struct SafeFolder {
    path: PathBuf,
    fd: OwnedFd,
}

impl SafeFolder {
    /// Keeps room in this folder for what goes back on a full disk, where there is room for it.
    pub fn keep_reserve(&self) {
        reserve::keep(&self.path);
    }

    /// The folder, made where it is missing (all missing components get `mode`). One that is there
    /// and ours, but readable more widely than `mode` says, is narrowed.
    pub fn ensure(path: &Path, mode: u32) -> Result<SafeFolder> {
        let mode = Mode::from_bits_truncate(mode & 0o755);
        let mut walk = Walk::begin(path)?;
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
        let mut walk = Walk::begin(path)?;
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

    /// O_PATH: for the `*at` calls.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn narrow(&self, mode: Mode) -> Result<()> {
        let stat = stat_of(&self.fd, &self.path)?;
        let has = Mode::from_bits_truncate(stat.st_mode & 0o7777);
        let surplus = (has & Mode::from_bits_truncate(0o777)) - mode;
        if stat.st_uid == geteuid().as_raw() && !surplus.is_empty() {
            chmod(&self.fd, has - surplus)
                .with_context(|| format!("cannot set the mode of {}", self.path.display()))?;
        }
        Ok(())
    }
}

/// Refuses a program that somebody but root (or we) could write to or swap for another, wherever
/// links lead. A link to nothing passes: running it says so.
pub fn check_program(path: &Path) -> Result<()> {
    let mut walk = Walk::begin(path)?;
    walk.wanted = Wanted::Program;
    while let Some(name) = walk.next_name()? {
        if walk.enter(&name)? == Step::Missing {
            break;
        }
    }
    Ok(())
}

/// The components of a path, before those that are still to be walked.
pub(crate) fn push_front(todo: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => todo.push_front(name.to_owned()),
            Component::ParentDir => todo.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

#[derive(PartialEq, Eq)]
enum Step {
    Entered,
    Missing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Folder,
    Program,
}

struct Walk<'a> {
    asked: &'a Path,
    wanted: Wanted,
    /// From `/` to where we are; never empty.
    at: Vec<(OwnedFd, PathBuf)>,
    todo: VecDeque<OsString>,
    links: usize,
}

impl<'a> Walk<'a> {
    fn begin(asked: &'a Path) -> Result<Walk<'a>> {
        let root = nix::fcntl::open("/", LOOK | OFlag::O_DIRECTORY, Mode::empty())
            .context("cannot open /")?;
        let (at, todo) = (vec![(root, "/".into())], VecDeque::new());
        let mut walk = Walk { asked, wanted: Wanted::Folder, at, todo, links: 0 };
        if !asked.is_absolute() {
            return Err(walk
                .refuse(asked, "is not an absolute path", "give the path from / on")
                .into());
        }
        if asked.components().any(|part| part == Component::ParentDir) {
            return Err(walk.refuse(asked, "contains \"..\"", "give the path without it").into());
        }
        push_front(&mut walk.todo, asked);
        Ok(walk)
    }

    /// The next component, once the folder that we are in is known to be fit for being passed
    /// through.
    fn next_name(&mut self) -> Result<Option<OsString>> {
        while let Some(name) = self.todo.pop_front() {
            if name != ".." {
                self.judge(Role::Above)?;
                return Ok(Some(name));
            }
            if self.at.len() > 1 {
                self.at.pop();
            }
        }
        Ok(None)
    }

    fn enter(&mut self, name: &OsStr) -> Result<Step> {
        let (here, path) = (&self.at[self.at.len() - 1].0, self.path_of(name));
        let fd = match openat(here, name, LOOK, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(Step::Missing),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        let stat = stat_of(&fd, &path)?;
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => self.at.push((fd, path)),
            SFlag::S_IFLNK => {
                // Else a link of root's in a folder like /tmp: another hard link to it has the same owner.
                if self.wanted == Wanted::Program && self.todo.is_empty() {
                    self.judge(Role::Asked)?;
                }
                self.follow(&fd, &path, &stat)?;
            }
            SFlag::S_IFREG if self.wanted == Wanted::Program && self.todo.is_empty() => {
                self.judge(Role::Asked)?;
                self.judge_one(&fd, &path, &stat, false)?;
            }
            _ => {
                return Err(self
                    .refuse(&path, "is not a folder", "move it away, or use another folder")
                    .into());
            }
        }
        Ok(Step::Entered)
    }

    fn follow(&mut self, link: &OwnedFd, path: &Path, stat: &FileStat) -> Result<()> {
        let target = readlinkat(link, "")
            .with_context(|| format!("cannot read the link {}", path.display()))?;
        let target = PathBuf::from(target);
        if !trusted(stat.st_uid) {
            let what = format!(
                "is a symbolic link (to {}) that uid {} owns",
                target.display(),
                stat.st_uid
            );
            return Err(self.refuse(path, &what, "remove it, or give the real path").into());
        }
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(self
                .refuse(path, "is one symbolic link too many", "give the real path")
                .into());
        }
        if target.is_absolute() {
            self.at.truncate(1);
        }
        push_front(&mut self.todo, &target);
        Ok(())
    }

    fn make(&mut self, name: &OsStr, mode: Mode) -> Result<()> {
        let (here, path) = (&self.at[self.at.len() - 1].0, self.path_of(name));
        let made = || match mkdirat(here, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(std::io::Error::from(error).into()),
        };
        reserve::writing(&path, made)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        // Opened and judged like one that was there: in a sticky folder somebody else may have been
        // faster.
        let flags = OFlag::O_DIRECTORY | LOOK;
        let fd = openat(here, name, flags, Mode::empty())
            .with_context(|| format!("cannot open {}", path.display()))?;
        if stat_of(&fd, &path)?.st_uid == geteuid().as_raw() {
            chmod(&fd, mode)
                .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        }
        let sync = openat(
            here,
            ".",
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        sync.and_then(|fd| nix::unistd::fsync(&fd)).with_context(|| {
            format!("cannot sync the folder that {} was made in", path.display())
        })?;
        self.at.push((fd, path));
        Ok(())
    }

    fn end(mut self) -> Result<SafeFolder> {
        self.judge(Role::Asked)?;
        match self.at.pop() {
            Some((fd, path)) => Ok(SafeFolder { path, fd }),
            None => Err(self.refuse(self.asked, "was not found", "give another folder").into()),
        }
    }

    /// Is the folder that we are in safe?
    fn judge(&self, role: Role) -> Result<()> {
        let (fd, path) = &self.at[self.at.len() - 1];
        let stat = stat_of(fd, path)?;
        let sticky = role == Role::Above && stat.st_mode & 0o1000 != 0 && stat.st_uid == 0;
        self.judge_one(fd, path, &stat, sticky)
    }

    fn judge_one(&self, fd: &OwnedFd, path: &Path, stat: &FileStat, sticky: bool) -> Result<()> {
        let mode = stat.st_mode & 0o7777;
        let otherwise = match self.wanted {
            Wanted::Folder => "use another folder",
            Wanted::Program => "take its folder out of PATH",
        };
        if !trusted(stat.st_uid) {
            let what = format!("belongs to uid {} (mode {mode:04o})", stat.st_uid);
            return Err(self
                .refuse(path, &what, &format!("{otherwise}, or: chown root {}", path.display()))
                .into());
        }
        let group_is_roots = || mode & 0o002 == 0 && groups::is_roots(fd, stat.st_gid, path);
        if mode & 0o022 != 0 && !sticky && !group_is_roots() {
            let who = match mode & 0o002 != 0 {
                true => "everyone".to_owned(),
                false => format!("its group, gid {}", stat.st_gid),
            };
            let what =
                format!("can be written to by {who} (owner uid {}, mode {mode:04o})", stat.st_uid);
            return Err(self
                .refuse(path, &what, &format!("{otherwise}, or: chmod go-w {}", path.display()))
                .into());
        }
        Ok(())
    }

    fn path_of(&self, name: &OsStr) -> PathBuf {
        self.at[self.at.len() - 1].1.join(name)
    }

    fn refuse(&self, component: &Path, problem: &str, advice: &str) -> Unsafe {
        Unsafe {
            folder: self.asked.to_owned(),
            component: component.to_owned(),
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Above,
    Asked,
}

fn trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

fn stat_of(fd: &OwnedFd, path: &Path) -> Result<FileStat> {
    fstatat(fd, "", AtFlags::AT_EMPTY_PATH)
        .with_context(|| format!("cannot look at {}", path.display()))
}

/// An O_PATH descriptor cannot be given to fchmod(2).
fn chmod(fd: &OwnedFd, mode: Mode) -> nix::Result<()> {
    fchmodat(fd, ".", mode, FchmodatFlags::FollowSymlink)
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
    pub fn reason(&self) -> &'static str {
        "unsafe_folder"
    }
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (folder, component) = (self.folder.display(), self.component.display());
        write!(f, "cannot use the folder {folder}: {component} {}; {}", self.problem, self.advice)
    }
}

impl std::error::Error for Unsafe {}
