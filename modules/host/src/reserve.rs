//! Disk space that is reserved for rollbacks: on a full disk a flip back, a restore and the record of a
//! deploy need a few small files, and there is no time to free space first.
//!
//! A state folder has a file of allocated blocks
//! ([`SafeFolder::keep_reserve`](crate::folder::SafeFolder::keep_reserve)). A run that rolls back, or
//! closes an unfinished run, calls [`open`]; from then on a write of [`crate::atomic`] that finds the disk
//! full frees a piece of the reserve and tries again. Invariants: a deploy never uses the reserve, so on
//! a full disk it is refused before it has changed anything; a reserve that cannot be made is no error;
//! the next run that finds room makes it complete again.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use rustix::fs::{OFlags, syncfs};

use crate::none_if_missing;
use crate::space::{self, Space};

/// The file in a state folder.
pub const FILE: &str = ".reserve";
pub const SIZE: u64 = 256 << 10;
/// How much is freed at a time. Not all of it, since other processes on a full disk take what is free.
const PIECE: u64 = 64 << 10;
/// How much must be free in addition: the reserve must not be what fills the disk.
const SPARE: u64 = 3 * SIZE;

const NO_LINK: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits() as i32;

static OPEN: AtomicBool = AtomicBool::new(false);
static RESERVES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Makes the reserve of a state folder if there is room for it, and remembers it for this run.
pub(crate) fn ensure(folder: &Path) {
    let path = folder.join(FILE);
    // The reserve is a precaution: a run does not fail because of it.
    let _ = fill(&path, folder);
    let mut kept = reserves();
    if !kept.contains(&path) {
        kept.push(path);
    }
}

/// Allows this run to use the reserve from now on: it rolls back, or closes an unfinished run.
pub fn open() {
    OPEN.store(true, Ordering::Relaxed);
}

/// Calls `attempt`, a write at `path`. While the disk is full, frees a piece of a reserve on the same
/// filesystem and tries again. A failed attempt must leave nothing behind.
pub(crate) fn writing<T>(path: &Path, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match attempt() {
            Err(error) if space::is_full(&error) => match free_piece_near(path) {
                Ok(true) => {}
                Ok(false) => return Err(error),
                Err(also) => return Err(error.context(format!("{also:#}"))),
            },
            done => return done,
        }
    }
}

fn reserves() -> MutexGuard<'static, Vec<PathBuf>> {
    RESERVES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fill(path: &Path, folder: &Path) -> Result<()> {
    let found = none_if_missing(path.symlink_metadata())?;
    let has = found.map_or(0, |found| found.len().min(found.blocks().saturating_mul(512)));
    if has >= SIZE || Space::free(folder)?.bytes < SIZE - has + SPARE {
        return Ok(());
    }
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(NO_LINK)
        .open(path)?;
    let written = file.write_all(&noise()).and_then(|()| file.sync_all());
    if written.is_err() {
        // The disk has become full meanwhile: give back what was taken.
        std::fs::remove_file(path)?;
    }
    Ok(written?)
}

/// Returns bytes that take their full size on any filesystem: some skip zeros, some compress.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..SIZE / 8).flat_map(|_| next()).collect()
}

/// Frees a piece of a reserve on the filesystem of that path; false if there is none.
fn free_piece_near(path: &Path) -> Result<bool> {
    if !OPEN.load(Ordering::Relaxed) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let device = folder.metadata().map(|metadata| metadata.dev()).ok();
    for reserve in reserves().iter() {
        let Ok(metadata) = reserve.symlink_metadata() else { continue };
        if Some(metadata.dev()) == device && metadata.is_file() {
            free_piece(reserve, metadata.len())
                .with_context(|| format!("cannot use the reserve {}", reserve.display()))?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn free_piece(reserve: &Path, length: u64) -> Result<()> {
    let file = File::options().write(true).custom_flags(NO_LINK).open(reserve)?;
    match length.saturating_sub(PIECE) {
        // Removing the file also frees an inode, in case these have run out.
        0 => std::fs::remove_file(reserve)?,
        remaining => file.set_len(remaining)?,
    }
    // The whole filesystem is synced: some free blocks only then.
    Ok(syncfs(&file)?)
}
