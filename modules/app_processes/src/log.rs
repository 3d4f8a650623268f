//! The file that a process writes to, and that is read again with the same care.
//!
//! Invariant: root opens nothing by a path that another user could change. A log in a folder of such a user
//! is opened with the rights of the one that the process runs as, who could write there anyway.

use crate::account::Account;
use anyhow::{Context, Result, ensure};
use host::folder::{SafeFolder, Unsafe};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

const NOBODY_ELSE: u32 = 0o750;
const READABLE: Mode = Mode::from_bits_truncate(0o644);

/// Without a file being made: so that it can be refused before anything is ended.
pub fn check(log: &Path, account: &Account) -> Result<()> {
    place(folder_of(log), account).map(drop)
}

/// Made where it is missing, and so is its folder.
pub fn open(log: &Path, account: &Account) -> Result<File> {
    let folder = folder_of(log);
    let opened = match place(folder, account)? {
        Place::Safe(Some(found)) => open_in(found.fd(), log),
        Place::Safe(None) => open_in(SafeFolder::ensure(folder, NOBODY_ELSE)?.fd(), log),
        Place::Theirs => account.with_its_rights(|| {
            DirBuilder::new().recursive(true).mode(NOBODY_ELSE).create(folder)?;
            open_in(File::open(folder)?.as_fd(), log)
        }),
    };
    opened.with_context(|| format!("opening the log {}", log.display()))
}

/// For reading, with the same rights. None: there is none.
pub fn open_to_read(log: &Path, account: &Account) -> Result<Option<File>> {
    let folder = folder_of(log);
    let opened = match place(folder, account) {
        Ok(Place::Safe(Some(found))) => read_in(found.fd(), log),
        Ok(Place::Safe(None)) => Ok(None),
        Ok(Place::Theirs) => account.with_its_rights(|| match File::open(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            opened => read_in(opened?.as_fd(), log),
        }),
        Err(error) => Err(error),
    };
    opened.with_context(|| format!("reading the log {}", log.display()))
}

enum Place {
    /// None: it is missing.
    Safe(Option<SafeFolder>),
    Theirs,
}

fn place(folder: &Path, account: &Account) -> Result<Place> {
    match SafeFolder::find(folder) {
        Ok(found) => Ok(Place::Safe(found)),
        Err(error) if error.is::<Unsafe>() && account.uid != 0 => Ok(Place::Theirs),
        Err(error) => Err(error),
    }
}

fn folder_of(log: &Path) -> &Path {
    log.parent().unwrap_or(log)
}

fn open_in(folder: impl AsFd, log: &Path) -> Result<File> {
    regular_in(folder, log, OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT)
}

fn read_in(folder: impl AsFd, log: &Path) -> Result<Option<File>> {
    match regular_in(folder, log, OFlag::O_RDONLY) {
        Err(error) if is_missing(&error) => Ok(None),
        opened => opened.map(Some),
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// It waits for nobody at the other end of a pipe.
fn regular_in(folder: impl AsFd, log: &Path, how: OFlag) -> Result<File> {
    let name = log.file_name().context("it is a folder")?;
    let never = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let opened = openat(folder, name, how | never, READABLE).map_err(|error| match error {
        nix::errno::Errno::ELOOP => anyhow::anyhow!("it is a symbolic link; give the real path"),
        error => std::io::Error::from(error).into(),
    });
    let file = File::from(opened?);
    ensure!(file.metadata()?.is_file(), "it is not a regular file");
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    const ROOT: Account = Account { uid: 0, gid: 0, groups: Vec::new(), known: true };
    const SHOP: Account = Account { uid: 4301, gid: 4301, groups: Vec::new(), known: false };

    #[test]
    fn nothing_of_roots_is_written_through_what_a_user_could_swap() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let secret = place.path().join("secret");
        fs::write(&secret, "").unwrap();
        fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let theirs = place.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        chown(&theirs, Some(4301), Some(4301)).unwrap();
        symlink(&secret, theirs.join("link.log")).unwrap();
        symlink(place.path(), theirs.join("folder")).unwrap();
        fs::hard_link(&secret, theirs.join("hard.log")).unwrap();
        nix::unistd::mkfifo(&theirs.join("pipe.log"), Mode::S_IRWXU | Mode::S_IRWXO).unwrap();
        for (name, words) in [
            ("link.log", "it is a symbolic link"),
            ("folder/secret", "Permission denied"),
            ("folder/new.log", "Permission denied"),
            ("hard.log", "Permission denied"),
            ("pipe.log", ""),
        ] {
            let error = format!("{:#}", open(&theirs.join(name), &SHOP).unwrap_err());
            assert!(error.starts_with("opening the log ") && error.contains(words), "{error}");
        }
        // Of root nobody else's folder is used, not even for what is not there yet.
        for name in ["web.log", "new/web.log"] {
            assert!(check(&theirs.join(name), &ROOT).unwrap_err().is::<Unsafe>());
            assert!(open(&theirs.join(name), &ROOT).unwrap_err().is::<Unsafe>());
        }
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 4);
        let log = theirs.join("new/web.log");
        check(&log, &SHOP).unwrap();
        open(&log, &SHOP).unwrap().write_all(b"one\n").unwrap();
        open(&log, &SHOP).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\n");
        assert_eq!(log.metadata().unwrap().uid(), 4301);
    }

    #[test]
    fn a_folder_of_roots_keeps_its_mode() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for log in ["web.log", "logs/web.log"] {
            open(&place.path().join(log), &SHOP).unwrap();
        }
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(place.path()), mode(&place.path().join("logs"))), (0o755, 0o750));
        symlink("web.log", place.path().join("link.log")).unwrap();
        assert!(open(&place.path().join("link.log"), &ROOT).is_err());
    }
}
