//! Files of lines (records, notes, ledgers): adds one line at a time and recognises torn ones.
//!
//! Invariant: a line that was reported as written is complete and on the disk; a torn one was never
//! reported, so the next append cuts it off and readers skip it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{folder_of, sync_folder};
use crate::deadline::{Deadline, poll_until};
use crate::reserve;

/// How long an append waits for others: each of them takes one write and one sync.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the file ended before [`append_line`] added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    /// An earlier append was cut short; its incomplete line was removed. It was never reported as
    /// written.
    Torn(Vec<u8>),
}

/// Adds a line (given without its newline) to a file of lines, which is made with mode 0600 if it is
/// missing. Appends exclude each other (flock), the line is on the disk when this returns, and after
/// an error (a full disk) the file has its old length.
pub fn append_line(path: &Path, line: &[u8]) -> Result<End> {
    reserve::writing(path, || append(path, line))
        .with_context(|| format!("cannot append a line to {}", path.display()))
}

/// Adds a value as a line of JSON, as [`append_line`] does.
pub fn append_json(path: &Path, value: &impl Serialize) -> Result<()> {
    append_line(path, serde_json::to_string(value)?.as_bytes()).map(drop)
}

fn append(path: &Path, line: &[u8]) -> Result<End> {
    ensure!(!line.contains(&b'\n'), "the line contains a newline");
    let mut file = open_lines(path)?;
    let new = file.metadata()?.len() == 0;
    let (length, torn) = whole_length(&mut file)?;
    let end = match torn {
        torn if torn.is_empty() => End::Whole,
        torn => {
            file.set_len(length).context("cannot cut off the torn last line")?;
            End::Torn(torn)
        }
    };
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line);
    bytes.push(b'\n');
    if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_all()) {
        file.set_len(length)
            .with_context(|| format!("{error}; and the file could not be cut to its old length"))?;
        return Err(error.into());
    }
    if new {
        sync_folder(folder_of(path))?;
    }
    Ok(end)
}

/// Opens a regular file for appending, and makes it with mode 0600 if it is missing. A symbolic link
/// or anything else that is not a regular file is refused.
pub(crate) fn open_to_append(path: &Path) -> Result<File> {
    // Non-blocking: opening a named pipe would wait for its other end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    ensure!(file.metadata()?.is_file(), "it is not a regular file");
    Ok(file)
}

fn open_lines(path: &Path) -> Result<File> {
    poll_until(
        Deadline::after(PATIENCE),
        Duration::from_millis(5),
        "another process that appends to it",
        || {
            let file = open_to_append(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Some(file)),
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(std::io::Error::from(error).into()),
            }
        },
    )
}

/// Returns the length up to the last newline, and the bytes after it.
fn whole_length(file: &mut File) -> Result<(u64, Vec<u8>)> {
    let mut torn: Vec<u8> = Vec::new();
    let mut from = file.metadata()?.len();
    let mut block = [0; 4096];
    while from > 0 {
        let size = from.min(block.len() as u64);
        from -= size;
        let block = &mut block[..size as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            torn.splice(..0, block[at + 1..].iter().copied());
            return Ok((from + at as u64 + 1, torn));
        }
        torn.splice(..0, block.iter().copied());
    }
    Ok((0, torn))
}

/// Reads a file that is one JSON document.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let content = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&content).with_context(|| format!("parsing {}", path.display()))
}

/// Reads all lines of JSON of a file's content. A line that cannot be parsed is an error, which says
/// what to do with it; a torn last one is skipped.
pub fn parse_lines<T: DeserializeOwned>(path: &Path, content: &[u8], fix: &str) -> Result<Vec<T>> {
    let (lines, _torn) = whole_lines(content);
    let parsed = lines.enumerate().map(|(n, line)| {
        serde_json::from_slice(line).with_context(|| {
            format!("line {} of {} cannot be parsed: {fix}", n + 1, path.display())
        })
    });
    parsed.collect()
}

/// Splits a file's content into its complete lines and a torn last one. A torn line was never
/// reported as written: skip it.
pub fn whole_lines(content: &[u8]) -> (impl Iterator<Item = &[u8]>, Option<&[u8]>) {
    let length = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (whole, torn) = content.split_at(length);
    let lines = whole.split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]);
    (lines, Some(torn).filter(|torn| !torn.is_empty()))
}
