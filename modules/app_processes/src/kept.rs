//! What processes have printed: the last lines of their logs, and logs kept before a side is ended.
//!
//! Invariants: a log is read with the rights that it is written with; kept is it only where nobody but
//! root can change anything, up the path. However long a log has become (its app's user may make it a
//! file of endless holes), what is read of it has a bound.

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

/// Of a log, its end.
const MOST_KEPT: u64 = 64 << 20;
const MOST_SHOWN: u64 = 256 << 10;

const OWN: u32 = 0o700;

/// What was printed last.
#[derive(Default)]
pub struct Printed {
    /// The last lines of each log that there is, by the name of its process.
    pub lines: BTreeMap<String, Vec<String>>,
    /// Which logs could not be read, and why.
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
            // What is wrong with one keeps the others from nobody.
            Err(error) => printed.unread.push(format!("{}: {error:#}", one.name)),
        }
    }
    Ok(printed)
}

fn end_of(log: &File, lines: usize) -> Result<Vec<String>> {
    let cut = from_the_end(log, MOST_SHOWN)?;
    let mut bytes = Vec::new();
    log.take(MOST_SHOWN).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole: Vec<&str> = text.lines().skip(usize::from(cut)).collect();
    Ok(whole[whole.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
}

/// Whether it begins in the middle then.
fn from_the_end(mut log: &File, most: u64) -> io::Result<bool> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    Ok(length > most)
}

/// What is to be kept in a folder.
#[derive(Clone, Debug)]
pub struct Unkept {
    pub folder: PathBuf,
    pub has_folder: bool,
    /// The processes whose logs are there and were not kept yet.
    pub names: Vec<String>,
}

pub fn look(processes: &[Process], folder: &Path) -> Result<Unkept> {
    let accounts = Accounts::read();
    let found = SafeFolder::find(folder).with_context(|| cannot_keep(folder))?;
    let mut names = Vec::new();
    for one in processes {
        let Some(path) = &one.log else { continue };
        let kept = found.as_ref().is_some_and(|folder| file_in(folder, one).exists());
        if !kept && log::open_to_read(path, &account::of(&accounts, one)?)?.is_some() {
            names.push(one.name.clone());
        }
    }
    Ok(Unkept { folder: folder.to_owned(), has_folder: found.is_some(), names })
}

/// A folder is made for none as well: for what others keep there.
pub fn keep(processes: &[Process], unkept: &Unkept) -> Result<()> {
    let accounts = Accounts::read();
    let folder = SafeFolder::ensure(&unkept.folder, OWN);
    let folder = folder.with_context(|| cannot_keep(&unkept.folder))?;
    for one in processes.iter().filter(|one| unkept.names.contains(&one.name)) {
        let Some(path) = &one.log else { continue };
        let Some(log) = log::open_to_read(path, &account::of(&accounts, one)?)? else { continue };
        Replace::new(&file_in(&folder, one))
            .mode(0o600)
            .write_with(&mut |kept| copy(&log, kept))?;
    }
    Ok(())
}

fn copy(log: &File, kept: &mut File) -> Result<()> {
    if from_the_end(log, MOST_KEPT)? {
        writeln!(kept, "(only the last {} were kept)", human(MOST_KEPT))?;
    }
    // Not to its end: it may grow as fast as it is read.
    io::copy(&mut log.take(MOST_KEPT), kept)?;
    Ok(())
}

fn file_in(folder: &SafeFolder, one: &Process) -> PathBuf {
    folder.join(format!("{}.log", one.name))
}

fn cannot_keep(folder: &Path) -> String {
    format!("keeping logs in {}", folder.display())
}
