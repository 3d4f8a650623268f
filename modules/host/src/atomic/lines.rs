//! Files of lines (records, notes, ledgers): one line added at a time, torn ones recognised.
//!
//! Invariant: a line that was reported as written is whole and on the disk; a torn one was never reported, so it is cut away by the
//! next append and left out by readers.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::{folder_of, sync_folder};
use crate::deadline::{Deadline, poll_until};
use crate::reserve;

/// How long an append waits for another one: each takes one write and one sync.
const PATIENCE: Duration = Duration::from_secs(10);

/// What [`append_line`] found at the end of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    /// An earlier append was cut short: this was its line, which has been taken away. Whoever wrote
    /// it was never told that it is written.
    Torn(Vec<u8>),
}

/// Adds a line (without its newline) to a file of lines, made 0600 when it is not there. Appends
/// exclude each other (flock), the line is on the disk when this returns, and after an error (a
/// full disk) the file is as long as it was.
pub fn append_line(path: &Path, line: &[u8]) -> Result<End> {
    reserve::writing(path, || append(path, line))
        .with_context(|| format!("cannot append a line to {}", path.display()))
}

fn append(path: &Path, line: &[u8]) -> Result<End> {
    ensure!(!line.contains(&b'\n'), "the line holds a newline");
    let mut file = open_lines(path)?;
    let new = file.metadata()?.len() == 0;
    let (length, torn) = whole_length(&mut file)?;
    let end = match torn {
        torn if torn.is_empty() => End::Whole,
        torn => {
            file.set_len(length).context("cannot cut the torn last line away")?;
            End::Torn(torn)
        }
    };
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line);
    bytes.push(b'\n');
    if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_all()) {
        file.set_len(length).with_context(|| {
            format!("{error}; and the file could not be made as long as it was")
        })?;
        return Err(error.into());
    }
    if new {
        sync_folder(folder_of(path))?;
    }
    Ok(end)
}

/// A file of ours, made 0600 where it is missing: no link, and nothing else than a regular file.
pub(crate) fn open_to_append(path: &Path) -> Result<File> {
    // Not blocking: to open a named pipe would wait for its other end.
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

/// The length up to the last newline, and what stands behind it.
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

/// The whole lines of a file's content, and a torn last one. A torn line was never reported as
/// written: leave it out.
pub fn whole_lines(content: &[u8]) -> (impl Iterator<Item = &[u8]>, Option<&[u8]>) {
    let length = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (whole, torn) = content.split_at(length);
    let lines = whole.split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]);
    (lines, Some(torn).filter(|torn| !torn.is_empty()))
}
