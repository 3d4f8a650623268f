//! The way down a tree that is being made: the folders from the root to where we are, held open.
//!
//! Invariant: each part is opened from the one before, and nothing is followed, so the way never
//! leaves its root.

use crate::stopped::{Stopped, own, refused};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub const INSIDE: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_CLOEXEC);
const PASSING: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(INSIDE);

pub struct DirStack {
    root: OwnedFd,
    parts: Vec<(OsString, OwnedFd)>,
}

impl DirStack {
    pub fn new(root: OwnedFd) -> DirStack {
        DirStack { root, parts: Vec::new() }
    }

    pub fn here(&self) -> BorrowedFd<'_> {
        self.parts.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    /// Leads to this folder from now on. Those that were missing, the upper first, were made and are
    /// for us alone so far.
    pub fn enter(&mut self, folder: &[OsString], name: &[u8]) -> Result<Vec<PathBuf>, Stopped> {
        let known = self.parts.iter().zip(folder);
        let same = known.take_while(|((known, _), part)| known == *part).count();
        self.parts.truncate(same);
        let mut made = Vec::new();
        for (at, part) in folder.iter().enumerate().skip(same) {
            match mkdirat(self.here(), part.as_os_str(), Mode::S_IRWXU) {
                Ok(()) => made.push(folder[..=at].iter().collect()),
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(own(error, name)),
            }
            let fd = match openat(self.here(), part.as_os_str(), PASSING, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    return Err(refused(name, "lies in something that is no folder"));
                }
                Err(error) => return Err(own(error, name)),
            };
            self.parts.push((part.clone(), fd));
        }
        Ok(made)
    }

    /// Another folder that is there, without going to it.
    pub fn find(&self, folder: &[OsString]) -> Option<OwnedFd> {
        let mut fd = self.root.try_clone().ok()?;
        for part in folder {
            fd = openat(&fd, part.as_os_str(), PASSING, Mode::empty()).ok()?;
        }
        Some(fd)
    }

    /// Whether a symbolic link leads out of the root, by whatever other links. The kernel is asked to
    /// go there; one that cannot tell, and a link to nothing, count as inside: the text was judged.
    pub fn leads_out(&self, link: &Path) -> bool {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // A rename elsewhere may keep the kernel from being sure; it then asks to be asked again.
        let again =
            |answer: &nix::Result<OwnedFd>| matches!(answer, Err(Errno::EAGAIN | Errno::EINTR));
        let mut answers = std::iter::repeat_with(|| openat2(&self.root, link, how)).take(100);
        matches!(answers.find(|answer| !again(answer)), None | Some(Err(Errno::EXDEV)))
    }
}
