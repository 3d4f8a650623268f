//! Carries out the steps: files are checked, replaced and removed; units are started and stopped.

use crate::options::CONTENT_MODE;
use crate::options::{ContentSource, Options};
use crate::plan::Action;
use crate::state::source;
use crate::systemd;
use crate::tree::{File, Folder};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::atomic::{self, Replace};
use host::command::Command;
use host::folder::SafeFolder;
use host::lock::Lock;
use host::program;
use nix::unistd::geteuid;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Longer than another task takes that writes files, and may wait for its units.
const LOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// Mode while a folder is filled: its owner must be able to write to it.
const PRIVATE: u32 = 0o700;
const RUN_FOLDER: &str = "/run/reversible-files";
/// Prefix of the folder with a copy to be checked.
const CHECK_PREFIX: &str = "check-";
/// Deadline of a program that only reads a file.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// Takes the lock and removes leftovers of killed runs. Only root has a folder for locks; other users take none.
pub fn lock(options: &Options) -> Result<Vec<Lock>> {
    if !geteuid().is_root() || !options.has_files() {
        return Ok(Vec::new());
    }
    let folder = SafeFolder::ensure(Path::new(RUN_FOLDER), 0o700)?;
    let lock = Lock::acquire(
        &folder.join("lock"),
        "host_files",
        None,
        LOCK_TIMEOUT + options.unit_timeout,
    )?;
    // A copy that a killed run has left may be secret and must be removed.
    for entry in fs::read_dir(folder.path())?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(CHECK_PREFIX) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(vec![lock])
}

pub fn act(action: &Action, options: &Options) -> Result<()> {
    match action {
        Action::Make(folders) => folders.iter().try_for_each(|folder| {
            atomic::make_folder(&folder.path, folder.mode | PRIVATE)?;
            if folder.is_required() { set_attributes(folder) } else { Ok(()) }
        }),
        Action::SetAttributes(folders) => folders.iter().try_for_each(set_attributes),
        Action::Write(files) => {
            files.iter().try_for_each(check)?;
            files.iter().try_for_each(write)
        }
        Action::Link(links) => links.iter().try_for_each(|(path, target)| {
            sweep(path)?;
            atomic::write_link(path, target)
        }),
        Action::Remove(paths) => paths.iter().try_for_each(|path| atomic::remove(path)),
        Action::ReloadDaemon => systemd::reload_daemon(options.unit_timeout),
        Action::Units(verb, units) => systemd::act(verb, units, options.unit_timeout),
    }
}

fn set_attributes(folder: &Folder) -> Result<()> {
    atomic::set_folder_attributes(&folder.path, folder.required_mode, folder.owner)
}

fn sweep(path: &Path) -> Result<()> {
    if geteuid().is_root() { atomic::sweep(path) } else { Ok(()) }
}

fn write(file: &File) -> Result<()> {
    sweep(&file.path)?;
    let mut new = Replace::new(&file.path).new_mode(CONTENT_MODE);
    if let Some(mode) = file.mode {
        new = new.mode(mode);
    }
    if file.owner != (None, None) {
        let there = atomic::open(&file.path)?.map(|(_, found)| (found.uid(), found.gid()));
        let own = there.unwrap_or((geteuid().as_raw(), nix::unistd::getegid().as_raw()));
        new = new.owner(file.owner.0.unwrap_or(own.0), file.owner.1.unwrap_or(own.1));
    }
    match &file.from {
        ContentSource::Source(src) => {
            let (source, metadata) = source(src)?;
            // Not until its end, since it may grow while it is read.
            new.write_with(&mut |file| {
                io::copy(&mut (&source).take(metadata.len()), file)?;
                Ok(())
            })
        }
        from => new.write(from.text().as_bytes()),
    }
    .map(drop)
}

/// Checks a copy of the new content; all files are checked before the first is written. The copy has the name of the file, since some programs depend on it.
fn check(file: &File) -> Result<()> {
    let Some((first, words)) = file.validate.split_first() else { return Ok(()) };
    let place = match geteuid().is_root() {
        true => SafeFolder::ensure(Path::new(RUN_FOLDER), 0o700)?.path().to_owned(),
        false => std::env::temp_dir(),
    };
    let folder = tempfile::Builder::new().prefix(CHECK_PREFIX).tempdir_in(place)?;
    let copy = folder.path().join(file.path.file_name().unwrap_or_default());
    write(&File { path: copy.clone(), mode: Some(0o600), owner: (None, None), ..file.clone() })?;
    let subject = copy.display().to_string();
    let program = program::find(first)?;
    let words = words.iter().map(|word| word.replace("%s", &subject));
    let checked = Command::new(&program).args(words).deadline(CHECK_TIMEOUT).run();
    checked.map(drop).map_err(|failed| {
        let msg = format!("{} was not replaced: its new content is refused", file.path.display());
        Failure::new("invalid_content", msg).caused_by(failed.into()).into()
    })
}
