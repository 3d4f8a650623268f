//! A name in a folder that is held: looking at it, renaming it, and exchanging it for another.
//!
//! Invariants: the folder is reached without following any link and held by descriptor, so that nobody
//! who owns a part of the path can lead a rename elsewhere; nothing is ever replaced; an exchange is one
//! call of the kernel, so that there is no moment in which one of the two names is missing.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

#[derive(Debug)]
pub struct Spot {
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
}

/// Which file or folder it is, whatever its name: within one folder, and also after a reboot. The time of
/// its birth tells it from one that got the number of a removed one; some file systems have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    inode: u64,
    born: Option<(i64, u32)>,
}

impl Spot {
    /// `path` must be absolute and lead through no link.
    pub fn of(path: &Path) -> Result<Spot> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{} has no folder around it", path.display());
        };
        Ok(Spot { path: path.to_owned(), folder: open_folder(parent)?, name: name.to_owned() })
    }

    /// None when a folder above it is missing.
    pub fn find(path: &Path) -> Result<Option<Spot>> {
        match path.parent().map(|parent| parent.symlink_metadata()) {
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Spot::of(path).map(Some),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// What stands there; None when nothing does.
    pub fn identity(&self) -> Result<Option<Identity>> {
        let mask = StatxFlags::INO | StatxFlags::BTIME;
        match rustix::fs::statx(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW, mask) {
            Ok(seen) => {
                let has_birth = seen.stx_mask & StatxFlags::BTIME.bits() != 0;
                let born = has_birth.then_some((seen.stx_btime.tv_sec, seen.stx_btime.tv_nsec));
                Ok(Some(Identity { inode: seen.stx_ino, born }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(std::io::Error::from(error))
                .with_context(|| format!("looking at {}", self.path.display())),
        }
    }

    /// To another name, which must be free.
    pub fn rename(&self, to: &Spot) -> Result<()> {
        let done = match self.rename_with(to, RenameFlags::NOREPLACE) {
            // A file system that does not know the flag.
            Err(Errno::INVAL | Errno::NOSYS) => {
                ensure!(to.identity()?.is_none(), "{} is there already", to.path.display());
                rustix::fs::renameat(&self.folder, &self.name, &to.folder, &to.name)
            }
            done => done,
        };
        done.map_err(std::io::Error::from).with_context(|| {
            format!("renaming {} to {}", self.path.display(), to.path.display())
        })?;
        self.sync(to)
    }

    /// Each takes the place of the other, in one call of the kernel; both must be there.
    pub fn exchange(&self, other: &Spot) -> Result<()> {
        let done = self.rename_with(other, RenameFlags::EXCHANGE);
        done.map_err(|error| CannotExchange::of(&self.path, &other.path, error))?;
        self.sync(other)
    }

    /// A new and empty folder of this name, 0700; one that is there is an error.
    pub fn make_folder(&self) -> Result<OwnedFd> {
        rustix::fs::mkdirat(&self.folder, &self.name, Mode::RWXU)
            .map_err(std::io::Error::from)
            .with_context(|| format!("making {}", self.path.display()))?;
        self.open()
    }

    /// Opens it as a folder; a link is not followed.
    pub fn open(&self) -> Result<OwnedFd> {
        rustix::fs::openat(&self.folder, &self.name, FOLDER, Mode::empty())
            .map_err(std::io::Error::from)
            .with_context(|| format!("opening {}", self.path.display()))
    }

    /// Removes a folder of this name if it is empty. Whatever else is there stays.
    pub fn remove_if_empty(&self) {
        let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::REMOVEDIR);
    }

    fn rename_with(&self, to: &Spot, flags: RenameFlags) -> rustix::io::Result<()> {
        rustix::fs::renameat_with(&self.folder, &self.name, &to.folder, &to.name, flags)
    }

    fn sync(&self, other: &Spot) -> Result<()> {
        for folder in [&self.folder, &other.folder] {
            rustix::fs::fsync(folder).map_err(std::io::Error::from).context("syncing a folder")?;
        }
        Ok(())
    }
}

/// Tries an exchange with two new and empty folders of these names, which are gone afterwards.
pub fn try_exchange(one: &Path, other: &Path) -> Result<()> {
    let both = [Spot::of(one)?, Spot::of(other)?];
    for spot in &both {
        // Of a run that was killed while it tried.
        spot.remove_if_empty();
        spot.make_folder()?;
    }
    let [one, other] = &both;
    let done = one.exchange(other);
    both.iter().for_each(Spot::remove_if_empty);
    done
}

/// Why two names cannot be exchanged, and what to do.
#[derive(Debug)]
pub struct CannotExchange(String);

impl CannotExchange {
    pub fn reason(&self) -> &'static str {
        "cannot_exchange"
    }

    fn of(one: &Path, other: &Path, error: Errno) -> CannotExchange {
        let both = format!("{} and {} cannot be exchanged at once", one.display(), other.display());
        CannotExchange(match error {
            Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => format!(
                "{both}: the file system does not know how (renameat2 with RENAME_EXCHANGE); move the data to ext4, \
                 xfs, btrfs, tmpfs, f2fs, or OpenZFS 2.2 or newer"
            ),
            Errno::XDEV => format!(
                "{both}: they lie on two file systems, or in a lower layer of an overlay; move the data to a plain \
                 folder of one file system"
            ),
            Errno::BUSY => format!(
                "{both}: one of them is a mount point; unmount it, or use a folder below the mount point"
            ),
            other => format!("{both}: {}", std::io::Error::from(other)),
        })
    }
}

impl fmt::Display for CannotExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotExchange {}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    let opened = rustix::fs::openat2(CWD, path, FOLDER, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let opened = match opened {
        // Before Linux 5.6, and where a filter does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => return open_stepwise(path),
        other => other,
    };
    opened
        .map_err(std::io::Error::from)
        .with_context(|| format!("opening {} without following links", path.display()))
}

fn open_stepwise(path: &Path) -> Result<OwnedFd> {
    let what = || format!("opening {} without following links", path.display());
    let mut at =
        rustix::fs::openat(CWD, "/", FOLDER, Mode::empty()).map_err(std::io::Error::from)?;
    for part in path.components().skip(1) {
        at = rustix::fs::openat(&at, part.as_os_str(), FOLDER, Mode::empty())
            .map_err(std::io::Error::from)
            .with_context(what)?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn root() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        (temp, root)
    }

    #[test]
    fn an_exchange_keeps_both_and_tells_which_is_which() {
        let (_temp, root) = root();
        fs::create_dir(root.join("folder")).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        let (one, other) =
            (Spot::of(&root.join("folder")).unwrap(), Spot::of(&root.join("file")).unwrap());
        let (folder, file) = (one.identity().unwrap(), other.identity().unwrap());
        one.exchange(&other).unwrap();
        assert!(root.join("folder").is_file() && root.join("file").is_dir());
        assert_eq!((one.identity().unwrap(), other.identity().unwrap()), (file, folder));
        assert!(one.rename(&other).is_err(), "nothing is replaced");
        assert!(one.exchange(&Spot::of(&root.join("nothing")).unwrap()).is_err());
        assert!(root.join("folder").is_file() && root.join("file").is_dir());
    }

    #[test]
    fn trying_leaves_nothing_behind() {
        let (_temp, root) = root();
        fs::create_dir(root.join("one")).unwrap();
        try_exchange(&root.join("one"), &root.join("other")).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::write(root.join("one"), "of somebody else").unwrap();
        assert!(try_exchange(&root.join("one"), &root.join("other")).is_err());
        assert_eq!(fs::read_to_string(root.join("one")).unwrap(), "of somebody else");
    }

    #[test]
    fn each_reason_says_what_to_do() {
        for (error, words) in [
            (Errno::INVAL, "RENAME_EXCHANGE"),
            (Errno::NOSYS, "ext4"),
            (Errno::XDEV, "one file system"),
            (Errno::BUSY, "unmount it"),
        ] {
            let said = CannotExchange::of(Path::new("/a"), Path::new("/b"), error).to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_folder_is_made_and_never_taken() {
        let (_temp, root) = root();
        let spot = Spot::of(&root.join("new")).unwrap();
        spot.make_folder().unwrap();
        assert!(spot.make_folder().is_err());
        std::os::unix::fs::symlink(root.join("new"), root.join("link")).unwrap();
        assert!(Spot::of(&root.join("link")).unwrap().open().is_err());
    }

    #[test]
    fn a_link_on_the_way_is_not_followed() {
        let (_temp, root) = root();
        fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        assert!(Spot::of(&root.join("link/data")).is_err());
        assert!(open_stepwise(&root.join("link")).is_err());
        assert!(open_stepwise(&root.join("real")).is_ok());
    }
}
