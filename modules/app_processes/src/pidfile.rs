//! Pid files, each with a second file that has the start time of its process.
//!
//! Invariant: they are used only if nobody but root could have written them. Otherwise another user could
//! name any process of root to be stopped.

use anyhow::{Context, Result, ensure};
use host::atomic::Replace;
use host::folder::SafeFolder;
use host::none_if_missing;
use nix::unistd::geteuid;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const FILE_MODE: u32 = 0o644;
/// The maximum length, more than a number has.
const MAX_PID_FILE: u64 = 4096;

/// Reads the pid file and the note of the start time; `None` for a missing one.
pub fn read(pidfile: &Path) -> Result<(Option<String>, Option<String>)> {
    let folder = folder_of(pidfile).and_then(SafeFolder::find);
    let folder = folder.with_context(|| format!("the pid file {}", pidfile.display()))?;
    let Some(folder) = folder else { return Ok((None, None)) };
    Ok((read_in(&folder, pidfile)?, read_in(&folder, &note_of(pidfile))?))
}

fn read_in(folder: &SafeFolder, path: &Path) -> Result<Option<String>> {
    let at = || format!("reading {}", path.display());
    let name = path.file_name().with_context(at)?;
    let opened = none_if_missing(folder.dir().open_file(name)).with_context(at)?;
    let Some(file) = opened else { return Ok(None) };
    let found = file.metadata().with_context(at)?;
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    let ours = uid == 0 || uid == geteuid().as_raw();
    ensure!(
        ours && mode & 0o022 == 0,
        "{}: users other than root could have written it (owner uid {uid}, mode {mode:04o}); stop the process that it names, and remove it",
        at()
    );
    let mut bytes = Vec::new();
    file.take(MAX_PID_FILE).read_to_end(&mut bytes).with_context(at)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Checks the folder of a pid file before a process is started.
pub fn check(pidfile: &Path) -> Result<()> {
    folder_of(pidfile).and_then(SafeFolder::open).map(drop)
}

pub fn write_note(pidfile: &Path, began: &str) -> Result<()> {
    let path = note_of(pidfile);
    Replace::new(&path).new_mode(FILE_MODE).write(began.as_bytes()).map(drop)
}

/// Removes both files. The pid file is the last one, since it still identifies the process without the note.
pub fn remove(pidfile: &Path) -> Result<()> {
    for file in [note_of(pidfile).as_path(), pidfile] {
        none_if_missing(fs::remove_file(file))
            .with_context(|| format!("removing {}", file.display()))?;
    }
    Ok(())
}

fn note_of(pidfile: &Path) -> PathBuf {
    let mut name = pidfile.as_os_str().to_owned();
    name.push(".began");
    name.into()
}

fn folder_of(pidfile: &Path) -> Result<&Path> {
    pidfile.parent().with_context(|| format!("{} is a folder", pidfile.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::folder::Unsafe;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn only_files_that_root_has_written_are_used() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("run");
        fs::create_dir(&folder).unwrap();
        let pidfile = folder.join("web.pid");
        assert_eq!(read(&pidfile).unwrap(), (None, None));
        fs::write(&pidfile, "42\n").unwrap();
        write_note(&pidfile, "42 7\n").unwrap();
        let both = (Some("42\n".to_owned()), Some("42 7\n".to_owned()));
        assert_eq!(read(&pidfile).unwrap(), both);
        let refused = |words: &str| {
            let error = format!("{:#}", read(&pidfile).unwrap_err());
            assert!(error.contains("web.pid") && error.contains(words), "{error}");
        };
        for file in [pidfile.clone(), note_of(&pidfile)] {
            chown(&file, Some(4301), None).unwrap();
            refused("users other than root could have written it (owner uid 4301");
            chown(&file, Some(0), None).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
            refused("mode 0666");
            fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        }
        assert_eq!(read(&pidfile).unwrap(), both);
        chown(&folder, Some(4301), None).unwrap();
        refused("belongs to uid 4301");
        assert!(read(&pidfile).unwrap_err().is::<Unsafe>());
        chown(&folder, Some(0), None).unwrap();
        fs::rename(&pidfile, place.path().join("elsewhere")).unwrap();
        symlink(place.path().join("elsewhere"), &pidfile).unwrap();
        refused("it is a symbolic link");
        remove(&pidfile).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pidfile, rustix::fs::FileType::Fifo, 0o700.into(), 0)
            .unwrap();
        refused("it is not a regular file");
    }
}
