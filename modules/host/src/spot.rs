//! A name in a folder that is held ([`crate::beneath`]), with the path that messages name: looking at it,
//! renaming it, and exchanging it for another.
//!
//! Invariant: the folder is reached without following any link, so that nobody who owns a part of the
//! path can lead a rename elsewhere.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;

use crate::beneath::{Dir, Identity};
use crate::none_if_missing;

#[derive(Debug)]
pub struct Spot {
    path: PathBuf,
    dir: Dir,
    name: OsString,
}

impl Spot {
    /// `path` must be absolute and lead through no link.
    pub fn of(path: &Path) -> Result<Spot> {
        Spot::find(path)?
            .with_context(|| format!("the folder around {} is missing", path.display()))
    }

    /// None when a folder above it is missing.
    pub fn find(path: &Path) -> Result<Option<Spot>> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{} has no folder around it", path.display());
        };
        let opened = none_if_missing(Dir::open(above))
            .with_context(|| format!("opening {} without following links", above.display()))?;
        Ok(opened.map(|dir| Spot { path: path.to_owned(), dir, name: name.to_owned() }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands there; None when nothing does.
    pub fn identity(&self) -> Result<Option<Identity>> {
        let seen = self.dir.identity(&self.name);
        seen.with_context(|| format!("looking at {}", self.path.display()))
    }

    /// To another name, which must be free.
    pub fn rename(&self, to: &Spot) -> Result<()> {
        self.dir.rename(&self.name, &to.dir, &to.name).with_context(|| {
            format!("renaming {} to {}", self.path.display(), to.path.display())
        })?;
        self.sync(to)
    }

    /// Each takes the place of the other, in one call of the kernel; both must be there.
    pub fn exchange(&self, other: &Spot) -> Result<()> {
        let done = self.dir.exchange(&self.name, &other.dir, &other.name);
        done.map_err(|error| CannotExchange::of(&self.path, &other.path, error))?;
        self.sync(other)
    }

    /// A new and empty folder of this name, 0700; one that is there is an error.
    pub fn make_folder(&self) -> Result<Dir> {
        let made = self.dir.make_folder(&self.name, 0o700);
        made.with_context(|| format!("making {}", self.path.display()))?;
        self.open()
    }

    /// Opens it as a folder; a link is not followed.
    pub fn open(&self) -> Result<Dir> {
        let opened = self.dir.folder(Path::new(&self.name));
        opened.with_context(|| format!("opening {}", self.path.display()))
    }

    /// Removes a folder of this name if it is empty. Whatever else is there stays.
    pub fn remove_if_empty(&self) {
        let _ = self.dir.remove_folder(&self.name);
    }

    /// With all that is in it. Gone already is fine.
    pub fn remove_all(&self) -> Result<()> {
        let removed = self.dir.remove_all(&self.name);
        removed.with_context(|| format!("removing {}", self.path.display()))
    }

    fn sync(&self, other: &Spot) -> Result<()> {
        [&self.dir, &other.dir].into_iter().try_for_each(Dir::sync).context("syncing a folder")
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
    }
}
