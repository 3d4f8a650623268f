//! The logs of processes: their last lines, and copies that are kept before the processes are stopped.
//!
//! Invariants: a log is read with the same rights with which it is written; it is copied only to a folder on
//! whose path nobody but root can change anything. The length that is read is limited, since the app's user may
//! make the log a file of endless holes.

use crate::account;
use crate::log;
use crate::options::Process;
use anyhow::{Context, Result};
use host::account::Accounts;
use host::atomic::Replace;
use host::folder::SafeFolder;
use host::space::human;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How much of the end of a log is copied.
const MAX_KEPT: u64 = 64 << 20;
const MAX_SHOWN: u64 = 256 << 10;

const PRIVATE: u32 = 0o700;

/// The last output of the processes.
#[derive(Default)]
pub struct Printed {
    /// The last lines of each existing log, by the name of its process.
    pub lines: BTreeMap<String, Vec<String>>,
    /// The errors of logs that could not be read.
    pub unread: Vec<String>,
}

pub fn last_lines(processes: &[Process], lines: usize) -> Result<Printed> {
    let accounts = Accounts::read();
    let mut printed = Printed::default();
    for one in processes {
        let Some(path) = &one.log else { continue };
        let end = log::open_to_read(path, &account::of(&accounts, one)?)
            .and_then(|log| log.map(|log| end_of(&log, lines)).transpose());
        match end {
            Ok(Some(end)) => drop(printed.lines.insert(one.name.clone(), end)),
            Ok(None) => {}
            // One unreadable log must not hide the others.
            Err(error) => printed.unread.push(format!("{}: {error:#}", one.name)),
        }
    }
    Ok(printed)
}

fn end_of(log: &File, lines: usize) -> Result<Vec<String>> {
    let cut = seek_to_end(log, MAX_SHOWN)?;
    let mut bytes = Vec::new();
    log.take(MAX_SHOWN).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole: Vec<&str> = text.lines().skip(usize::from(cut)).collect();
    Ok(whole[whole.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
}

/// Seeks so that at most `most` bytes follow, and returns whether something was skipped.
fn seek_to_end(mut log: &File, most: u64) -> io::Result<bool> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    Ok(length > most)
}

/// The logs that are to be copied to a folder.
#[derive(Clone, Debug)]
pub struct LogsToKeep {
    pub folder: PathBuf,
    pub has_folder: bool,
    /// The processes whose logs exist and were not copied yet.
    pub names: Vec<String>,
}

pub fn find(processes: &[Process], folder: &Path) -> Result<LogsToKeep> {
    let accounts = Accounts::read();
    let found = SafeFolder::find(folder).with_context(|| keeping_failed(folder))?;
    let mut names = Vec::new();
    for one in processes {
        let Some(path) = &one.log else { continue };
        let kept = found.as_ref().is_some_and(|folder| file_in(folder, one).exists());
        if !kept && log::open_to_read(path, &account::of(&accounts, one)?)?.is_some() {
            names.push(one.name.clone());
        }
    }
    Ok(LogsToKeep { folder: folder.to_owned(), has_folder: found.is_some(), names })
}

/// Copies the logs. The folder is also made if there are none, since roles keep other logs there.
pub fn copy_logs(processes: &[Process], logs_to_keep: &LogsToKeep) -> Result<()> {
    let accounts = Accounts::read();
    let folder = SafeFolder::ensure(&logs_to_keep.folder, PRIVATE);
    let folder = folder.with_context(|| keeping_failed(&logs_to_keep.folder))?;
    for one in processes.iter().filter(|one| logs_to_keep.names.contains(&one.name)) {
        let Some(path) = &one.log else { continue };
        let Some(log) = log::open_to_read(path, &account::of(&accounts, one)?)? else { continue };
        Replace::new(&file_in(&folder, one))
            .mode(0o600)
            .write_with(&mut |kept| copy(&log, kept))?;
    }
    Ok(())
}

fn copy(log: &File, kept: &mut File) -> Result<()> {
    if seek_to_end(log, MAX_KEPT)? {
        writeln!(kept, "(only the last {} were kept)", human(MAX_KEPT))?;
    }
    // Not until its end, since it may grow as fast as it is read.
    io::copy(&mut log.take(MAX_KEPT), kept)?;
    Ok(())
}

fn file_in(folder: &SafeFolder, one: &Process) -> PathBuf {
    folder.join(format!("{}.log", one.name))
}

fn keeping_failed(folder: &Path) -> String {
    format!("keeping logs in {}", folder.display())
}
