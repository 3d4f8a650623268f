//! What a name is, without following it; symbolic links made and exchanged; names removed.
//!
//! Invariant: the way to the name is judged as that to a file that is replaced; what stands there is never followed.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::fresh;
use super::place::{Last, Place};
use super::place_of;
use crate::beneath::read_link;
use crate::meta::{Kind, Meta};

const MOST_TRIES: usize = 1000;

/// What has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub meta: Meta,
    /// Where it leads, of a symbolic link.
    pub target: Option<PathBuf>,
}

/// None: nothing has it, or a folder on the way is missing.
pub fn look(path: &Path) -> Result<Option<Named>> {
    let attempt = || -> Result<Option<Named>> {
        let Some(place) = Place::find(path, Last::Leave)? else { return Ok(None) };
        let held = match place.dir.look(Path::new(&place.name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            held => held?,
        };
        let meta = Meta::read(&held)?;
        let target = match meta.kind {
            Kind::Link => Some(read_link(&held)?),
            _ => None,
        };
        Ok(Some(Named { meta, target }))
    };
    attempt().with_context(|| format!("cannot look at {}", path.display()))
}

/// Makes a symbolic link, in place of one that is there. What is no link is never replaced.
pub fn write_link(path: &Path, target: &Path) -> Result<()> {
    let attempt = || -> Result<()> {
        let place = place_of(path, Last::Leave)?;
        match place.dir.stat(&place.name)? {
            Some(meta) if meta.kind != Kind::Link => bail!("something else has this name"),
            _ => {}
        }
        for _ in 0..MOST_TRIES {
            let name = fresh::name(&place.name);
            match place.dir.make_link(&name, target.as_os_str()) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    let moved = place.dir.replace(&name, &place.dir, &place.name);
                    if moved.is_err() {
                        let _ = place.dir.remove(&name);
                    }
                    moved?;
                    return place.sync();
                }
            }
        }
        Err(std::io::Error::from(ErrorKind::AlreadyExists).into())
    };
    attempt().with_context(|| format!("cannot make the symbolic link {}", path.display()))
}

/// Removes a file, a link (not what it leads to), a pipe, or a folder that is empty.
pub fn remove(path: &Path) -> Result<()> {
    let attempt = || -> Result<()> {
        let Some(place) = Place::find(path, Last::Leave)? else { return Ok(()) };
        ensure!(place.name != OsStr::from_bytes(b"."), "it has no name");
        match place.dir.stat(&place.name)? {
            None => return Ok(()),
            Some(meta) if meta.kind == Kind::Folder => place.dir.remove_folder(&place.name)?,
            Some(_) => place.dir.remove(&place.name)?,
        }
        place.sync()
    };
    attempt().with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn links_are_exchanged_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::write(at("file"), "x").unwrap();
        for target in ["file", "../elsewhere"] {
            write_link(&at("link"), Path::new(target)).unwrap();
            assert_eq!(fs::read_link(at("link")).unwrap(), Path::new(target));
            let named = look(&at("link")).unwrap().unwrap();
            assert_eq!((named.meta.kind, named.target), (Kind::Link, Some(target.into())));
        }
        assert!(write_link(&at("file"), Path::new("link")).is_err());
        assert_eq!(fs::read(at("file")).unwrap(), b"x");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "something is left");
    }

    #[test]
    fn what_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("full/empty")).unwrap();
        fs::write(at("full/file"), "x").unwrap();
        std::os::unix::fs::symlink("full", at("link")).unwrap();
        for name in ["link", "none", "none/below"] {
            remove(&at(name)).unwrap();
            assert_eq!(look(&at(name)).unwrap(), None);
        }
        assert!(remove(&at("full")).is_err() && at("full/file").exists());
        for name in ["full/file", "full/empty", "full"] {
            remove(&at(name)).unwrap();
        }
        assert!(!at("full").exists());
    }
}
