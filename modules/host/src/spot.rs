//! A name in a folder that is held open ([`crate::beneath`]), with its path for messages: to identify what
//! has the name, to rename it, and to exchange two names.
//!
//! Invariant: the folder is opened without following any link, so that whoever owns a part of the path
//! cannot lead a rename elsewhere.

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
    /// Opens the parent folder of `path`, which must be absolute and contain no link.
    pub fn of(path: &Path) -> Result<Spot> {
        Spot::find(path)?
            .with_context(|| format!("the parent folder of {} is missing", path.display()))
    }

    /// Opens the parent folder of `path`; `None` if it is missing.
    pub fn find(path: &Path) -> Result<Option<Spot>> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{} has no parent folder", path.display());
        };
        let opened = none_if_missing(Dir::open(above))
            .with_context(|| format!("opening {} without following links", above.display()))?;
        Ok(opened.map(|dir| Spot { path: path.to_owned(), dir, name: name.to_owned() }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Identifies what has the name; `None` if nothing has it.
    pub fn identity(&self) -> Result<Option<Identity>> {
        let seen = self.dir.identity(&self.name);
        seen.with_context(|| format!("looking at {}", self.path.display()))
    }

    /// Renames it to a name that must not exist yet.
    pub fn rename(&self, to: &Spot) -> Result<()> {
        self.dir.rename(&self.name, &to.dir, &to.name).with_context(|| {
            format!("renaming {} to {}", self.path.display(), to.path.display())
        })?;
        self.sync(to)
    }

    /// Exchanges two names in one system call; both must exist.
    pub fn exchange(&self, other: &Spot) -> Result<()> {
        let done = self.dir.exchange(&self.name, &other.dir, &other.name);
        done.map_err(|error| CannotExchange::of(&self.path, &other.path, error))?;
        self.sync(other)
    }

    /// Makes a new and empty folder with mode 0700; it is an error if the name exists.
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

    /// Removes a folder of this name if it is empty, and nothing else.
    pub fn remove_if_empty(&self) {
        let _ = self.dir.remove_folder(&self.name);
    }

    /// Removes it with everything in it. Nothing there is no error.
    pub fn remove_all(&self) -> Result<()> {
        let removed = self.dir.remove_all(&self.name);
        removed.with_context(|| format!("removing {}", self.path.display()))
    }

    fn sync(&self, other: &Spot) -> Result<()> {
        [&self.dir, &other.dir].into_iter().try_for_each(Dir::sync).context("syncing a folder")
    }
}

/// Tries an exchange with two new and empty folders of these names, and removes them afterwards.
pub fn try_exchange(one: &Path, other: &Path) -> Result<()> {
    let both = [Spot::of(one)?, Spot::of(other)?];
    for spot in &both {
        // A run may have been killed while it tried.
        spot.remove_if_empty();
        spot.make_folder()?;
    }
    let [one, other] = &both;
    let done = one.exchange(other);
    both.iter().for_each(Spot::remove_if_empty);
    done
}

/// The reason why two names cannot be exchanged, and what to do.
#[derive(Debug)]
pub struct CannotExchange(String);

impl CannotExchange {
    fn of(one: &Path, other: &Path, error: Errno) -> CannotExchange {
        let both =
            format!("{} and {} cannot be exchanged in one step", one.display(), other.display());
        CannotExchange(match error {
            Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => format!(
                "{both}: the file system does not support it (renameat2 with RENAME_EXCHANGE); move the data to ext4, \
                 xfs, btrfs, tmpfs, f2fs, or OpenZFS 2.2 or newer"
            ),
            Errno::XDEV => format!(
                "{both}: they are on two file systems, or in a lower layer of an overlay; move the data to a plain \
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
    fn an_exchange_keeps_both_and_their_identities() {
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
    fn trying_an_exchange_leaves_no_files() {
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
    fn only_new_folders_are_made() {
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
