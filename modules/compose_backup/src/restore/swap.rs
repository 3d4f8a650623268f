//! Exchanging what is there for what was put beside, by renaming.
//!
//! Invariants: a folder is held by descriptor and reached without following any link, so that nobody
//! who owns a part of the path can lead a rename elsewhere; nothing is ever replaced; each step may be
//! repeated, and where a part stands is told by what is there.

use crate::restore::work::Part;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A name in a folder that is held.
pub struct Spot {
    pub folder: OwnedFd,
    pub name: OsString,
}

impl Spot {
    /// `path` must be absolute and lead through no link.
    pub fn of(path: &Path) -> Result<Spot> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{} has no folder around it", path.display());
        };
        Ok(Spot { folder: open_folder(parent)?, name: name.to_owned() })
    }

    /// None when a folder above it is missing.
    pub fn find(path: &Path) -> Result<Option<Spot>> {
        match path.parent().map(|parent| parent.symlink_metadata()) {
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Spot::of(path).map(Some),
        }
    }

    pub fn is_there(&self) -> Result<bool> {
        match rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(std::io::Error::from(error))
                .with_context(|| format!("looking at {:?}", self.name)),
        }
    }

    /// To another name, which must be free.
    pub fn rename(&self, to: &Spot) -> Result<()> {
        let done = rustix::fs::renameat_with(
            &self.folder,
            &self.name,
            &to.folder,
            &to.name,
            RenameFlags::NOREPLACE,
        );
        let done = match done {
            // A file system that does not know the flag.
            Err(Errno::INVAL | Errno::NOSYS) => {
                ensure!(!to.is_there()?, "{:?} is there already", to.name);
                rustix::fs::renameat(&self.folder, &self.name, &to.folder, &to.name)
            }
            done => done,
        };
        done.map_err(std::io::Error::from)
            .with_context(|| format!("renaming {:?} to {:?}", self.name, to.name))?;
        for folder in [&self.folder, &to.folder] {
            rustix::fs::fsync(folder).map_err(std::io::Error::from).context("syncing a folder")?;
        }
        Ok(())
    }

    /// An empty folder of this name, 0700; what a killed run has left in it goes.
    pub fn empty_folder(&self) -> Result<OwnedFd> {
        match rustix::fs::mkdirat(&self.folder, &self.name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(std::io::Error::from(error))
                    .with_context(|| format!("making {:?}", self.name));
            }
        }
        let fd = rustix::fs::openat(&self.folder, &self.name, FOLDER, Mode::empty())
            .map_err(std::io::Error::from)
            .with_context(|| format!("opening {:?}", self.name))?;
        archive::clear::clear(std::os::fd::AsFd::as_fd(&fd))?;
        Ok(fd)
    }

    /// With all that is in it. Gone already is fine.
    pub fn remove(&self) -> Result<()> {
        let stat = match rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(std::io::Error::from)?,
        };
        let is_folder = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        if is_folder {
            let fd = rustix::fs::openat(&self.folder, &self.name, FOLDER, Mode::empty())
                .map_err(std::io::Error::from)?;
            archive::clear::clear(std::os::fd::AsFd::as_fd(&fd))?;
        }
        let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&self.folder, &self.name, flags)
            .map_err(std::io::Error::from)
            .with_context(|| format!("removing {:?}", self.name))
    }
}

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

/// `<path>.parked-<id>` and the like.
pub fn beside(path: &Path, word: &str, id: &str) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_else(|| OsStr::new("")).to_owned();
    name.push(format!(".{word}-{id}"));
    path.with_file_name(name)
}

/// Parks what is there and puts what is fresh in its place.
pub fn forward(part: &Part) -> Result<()> {
    let source = Spot::of(&part.source)?;
    let parked = Spot::of(&part.parked)?;
    if source.is_there()? && !parked.is_there()? && !is_exchanged(part)? {
        ensure!(!part.absent, "{} was missing, and is there now", part.source.display());
        source.rename(&parked)?;
    }
    let Some(fresh) = &part.fresh else { return Ok(()) };
    let Some(fresh) = Spot::find(fresh)? else { return Ok(()) };
    if fresh.is_there()? {
        fresh.rename(&source)?;
    }
    Ok(())
}

/// Puts what was parked in its place again; what had taken it is beside again.
pub fn backward(part: &Part) -> Result<()> {
    if !is_begun(part)? {
        return Ok(());
    }
    let source = Spot::of(&part.source)?;
    if let Some(fresh) = &part.fresh {
        if source.is_there()? && is_exchanged(part)? {
            source.rename(&Spot::of(fresh)?)?;
        }
    }
    let parked = Spot::of(&part.parked)?;
    if parked.is_there()? {
        parked.rename(&source)?;
    }
    Ok(())
}

/// Something of it was renamed.
pub fn is_begun(part: &Part) -> Result<bool> {
    let there = |path: &Path| -> Result<bool> {
        Spot::find(path)?.map_or(Ok(false), |spot| spot.is_there())
    };
    Ok(there(&part.parked)? || is_exchanged(part)?)
}

/// What is fresh stands in the place.
pub fn is_exchanged(part: &Part) -> Result<bool> {
    let there = |path: &Path| -> Result<bool> {
        Spot::find(path)?.map_or(Ok(false), |spot| spot.is_there())
    };
    let was_made = part.absent || there(&part.parked)?;
    Ok(match &part.fresh {
        Some(fresh) => was_made && there(&part.source)? && !there(fresh)?,
        None => there(&part.parked)? && !there(&part.source)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    struct Scene {
        _temp: tempfile::TempDir,
        part: Part,
    }

    fn scene(absent: bool) -> Scene {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let source = root.join("data");
        let fresh = beside(&source, "restoring", "x");
        fs::create_dir(&fresh).unwrap();
        fs::write(fresh.join("is"), "fresh").unwrap();
        if !absent {
            fs::create_dir(&source).unwrap();
            fs::write(source.join("is"), "old").unwrap();
        }
        let parked = beside(&source, "parked", "x");
        let (title, fresh) = ("data".into(), Some(fresh));
        Scene { _temp: temp, part: Part { title, source, fresh, parked, absent, is_file: false } }
    }

    fn is(path: &Path) -> String {
        fs::read_to_string(path.join("is")).unwrap_or_else(|_| "nothing".into())
    }

    #[test]
    fn forward_and_backward_may_be_repeated() {
        for absent in [false, true] {
            let scene = scene(absent);
            let part = &scene.part;
            assert!(!is_begun(part).unwrap());
            for _ in 0..2 {
                forward(part).unwrap();
                assert_eq!(is(&part.source), "fresh");
                assert_eq!(is(&part.parked), if absent { "nothing" } else { "old" });
            }
            for _ in 0..2 {
                backward(part).unwrap();
                assert_eq!(is(&part.source), if absent { "nothing" } else { "old" });
                assert_eq!(is(part.fresh.as_ref().unwrap()), "fresh");
            }
        }
    }

    #[test]
    fn killed_between_the_two_renames() {
        let scene = scene(false);
        let part = &scene.part;
        fs::rename(&part.source, &part.parked).unwrap();
        assert!(is_begun(part).unwrap() && !is_exchanged(part).unwrap());
        backward(part).unwrap();
        assert_eq!(is(&part.source), "old");
        fs::rename(&part.source, &part.parked).unwrap();
        forward(part).unwrap();
        assert_eq!((is(&part.source), is(&part.parked)), ("fresh".into(), "old".into()));
    }

    #[test]
    fn a_link_on_the_way_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        assert!(Spot::of(&root.join("link/data")).is_err());
        assert!(open_stepwise(&root.join("link")).is_err());
        assert!(open_stepwise(&root.join("real")).is_ok());
    }

    #[test]
    fn removing_takes_a_tree_and_no_more() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("gone/deep")).unwrap();
        fs::write(root.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(root.join("kept"), root.join("gone/deep/link")).unwrap();
        let spot = Spot::of(&root.join("gone")).unwrap();
        spot.remove().unwrap();
        spot.remove().unwrap();
        let left: Vec<PathBuf> =
            fs::read_dir(&root).unwrap().map(|one| one.unwrap().path()).collect();
        assert_eq!(left, [root.join("kept")]);
    }
}
