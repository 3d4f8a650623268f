//! Opens the log of a process, to write and to read it.
//!
//! Invariant: root opens nothing by a path that another user could change. A log in a folder of such a user
//! is opened with the rights of the account that the process runs as, which could write there anyway.

use crate::account::with_rights_of;
use anyhow::{Context, Result};
use host::account::Account;
use host::beneath::Dir;
use host::folder::{SafeFolder, Unsafe};
use host::none_if_missing;
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

const FOLDER_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o644;

/// Checks the log without making it, so that it can be refused before anything is stopped.
pub fn check(log: &Path, account: &Account) -> Result<()> {
    place(folder_of(log), account).map(drop)
}

/// Opens the log to append to it. A missing log is made, and its folder too.
pub fn open(log: &Path, account: &Account) -> Result<File> {
    let folder = folder_of(log);
    let opened = match place(folder, account)? {
        LogFolder::Safe(Some(found)) => open_in(found.dir(), log),
        LogFolder::Safe(None) => open_in(SafeFolder::ensure(folder, FOLDER_MODE)?.dir(), log),
        LogFolder::Theirs => with_rights_of(account, || {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
            open_in(&open_folder(folder)?, log)
        }),
    };
    opened.with_context(|| format!("opening the log {}", log.display()))
}

/// Opens the log to read it, with the same rights. Returns `None` if it is missing.
pub fn open_to_read(log: &Path, account: &Account) -> Result<Option<File>> {
    let folder = folder_of(log);
    let opened = match place(folder, account) {
        Ok(LogFolder::Safe(Some(found))) => read_in(found.dir(), log),
        Ok(LogFolder::Safe(None)) => Ok(None),
        Ok(LogFolder::Theirs) => {
            with_rights_of(account, || match none_if_missing(open_folder(folder))? {
                Some(opened) => read_in(&opened, log),
                None => Ok(None),
            })
        }
        Err(error) => Err(error),
    };
    opened.with_context(|| format!("reading the log {}", log.display()))
}

enum LogFolder {
    /// A folder that only root can change; `None` if it is missing.
    Safe(Option<SafeFolder>),
    Theirs,
}

fn place(folder: &Path, account: &Account) -> Result<LogFolder> {
    match SafeFolder::find(folder) {
        Ok(found) => Ok(LogFolder::Safe(found)),
        Err(error) if error.is::<Unsafe>() && account.uid != 0 => Ok(LogFolder::Theirs),
        Err(error) => Err(error),
    }
}

fn folder_of(log: &Path) -> &Path {
    log.parent().unwrap_or(log)
}

/// Opens a folder of the account. A pipe that was put in its place is refused, and not waited for.
fn open_folder(folder: &Path) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Dir::of(rustix::fs::open(folder, flags, Mode::empty())?))
}

fn open_in(folder: &Dir, log: &Path) -> Result<File> {
    Ok(folder.append_to(name_of(log)?, FILE_MODE)?)
}

fn read_in(folder: &Dir, log: &Path) -> Result<Option<File>> {
    Ok(none_if_missing(folder.open_file(name_of(log)?))?)
}

fn name_of(log: &Path) -> Result<&OsStr> {
    log.file_name().context("it is a folder")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    const ROOT: Account = Account { uid: 0, gid: 0, groups: Vec::new(), home: None };
    const SHOP: Account = Account { uid: 4301, gid: 4301, groups: Vec::new(), home: None };

    #[test]
    fn links_of_a_user_do_not_lead_to_files_of_root() {
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
        rustix::fs::mknodat(
            rustix::fs::CWD,
            theirs.join("pipe.log"),
            rustix::fs::FileType::Fifo,
            0o707.into(),
            0,
        )
        .unwrap();
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
        // The pipe as a folder: nobody writes to it, so that whoever opens it waits for ever.
        for log in ["pipe.log/web.log", "pipe.log/new/web.log"] {
            assert!(open(&theirs.join(log), &SHOP).is_err());
            let error = format!("{:#}", open_to_read(&theirs.join(log), &SHOP).unwrap_err());
            assert!(error.contains("Not a directory"), "{error}");
        }
        // Processes of root do not use folders of other users, not even missing ones.
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
    fn a_folder_of_root_keeps_its_mode() {
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
