//! Looks at a name without following it, makes and replaces symbolic links, and removes names.
//!
//! Invariant: the path is checked as that of a file that is replaced; what has the name is never followed.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::locate;
use super::location::{LastLink, Location};
use super::temp_file;
use crate::beneath::read_link;
use crate::meta::{Kind, Meta};

const MOST_TRIES: usize = 1000;

/// What exists under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub meta: Meta,
    /// The target of a symbolic link.
    pub target: Option<PathBuf>,
}

/// Looks at what has this name; `None` if nothing has it or a parent folder is missing.
pub fn entry(path: &Path) -> Result<Option<Entry>> {
    let attempt = || -> Result<Option<Entry>> {
        let Some(location) = Location::find(path, LastLink::Keep)? else { return Ok(None) };
        let held = match location.dir.look(Path::new(&location.name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            held => held?,
        };
        let meta = Meta::read(&held)?;
        let target = match meta.kind {
            Kind::Link => Some(read_link(&held)?),
            _ => None,
        };
        Ok(Some(Entry { meta, target }))
    };
    attempt().with_context(|| format!("cannot look at {}", path.display()))
}

/// Makes a symbolic link, or replaces one. Anything else that has the name is never replaced.
pub fn write_link(path: &Path, target: &Path) -> Result<()> {
    let attempt = || -> Result<()> {
        let location = locate(path, LastLink::Keep)?;
        match location.dir.stat(&location.name)? {
            Some(meta) if meta.kind != Kind::Link => {
                bail!("something that is not a symbolic link has this name")
            }
            _ => {}
        }
        for _ in 0..MOST_TRIES {
            let name = temp_file::name(&location.name);
            match location.dir.make_link(&name, target.as_os_str()) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    let moved = location.dir.replace(&name, &location.dir, &location.name);
                    if moved.is_err() {
                        let _ = location.dir.remove(&name);
                    }
                    moved?;
                    return location.sync();
                }
            }
        }
        Err(std::io::Error::from(ErrorKind::AlreadyExists).into())
    };
    attempt().with_context(|| format!("cannot make the symbolic link {}", path.display()))
}

/// Removes a file, a link (not its target), a pipe, or an empty folder. One that is missing is no error.
pub fn remove(path: &Path) -> Result<()> {
    let attempt = || -> Result<()> {
        let Some(location) = Location::find(path, LastLink::Keep)? else { return Ok(()) };
        ensure!(location.name != OsStr::from_bytes(b"."), "the path has no file name");
        match location.dir.stat(&location.name)? {
            None => return Ok(()),
            Some(meta) if meta.kind == Kind::Folder => {
                location.dir.remove_folder(&location.name)?
            }
            Some(_) => location.dir.remove(&location.name)?,
        }
        location.sync()
    };
    attempt().with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_links_are_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::write(at("file"), "x").unwrap();
        for target in ["file", "../elsewhere"] {
            write_link(&at("link"), Path::new(target)).unwrap();
            assert_eq!(fs::read_link(at("link")).unwrap(), Path::new(target));
            let named = entry(&at("link")).unwrap().unwrap();
            assert_eq!((named.meta.kind, named.target), (Kind::Link, Some(target.into())));
        }
        assert!(write_link(&at("file"), Path::new("link")).is_err());
        assert_eq!(fs::read(at("file")).unwrap(), b"x");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2, "a leftover file");
    }

    #[test]
    fn removes_everything_but_full_folders() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::create_dir_all(at("full/empty")).unwrap();
        fs::write(at("full/file"), "x").unwrap();
        std::os::unix::fs::symlink("full", at("link")).unwrap();
        for name in ["link", "none", "none/below"] {
            remove(&at(name)).unwrap();
            assert_eq!(entry(&at(name)).unwrap(), None);
        }
        assert!(remove(&at("full")).is_err() && at("full/file").exists());
        for name in ["full/file", "full/empty", "full"] {
            remove(&at(name)).unwrap();
        }
        assert!(!at("full").exists());
    }
}
