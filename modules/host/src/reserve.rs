//! Room that is kept for the way back: on a full disk a flip back, a restore and the record of a
//! deploy need a few small files, and nobody has the time to make room first.
//!
//! A state folder keeps a file that is really allocated ([`SafeFolder::keep_reserve`](crate::folder::SafeFolder::keep_reserve)). What goes back, or closes what was
//! begun, says so ([`open`]); from then on a write of [`crate::atomic`] that finds the disk full takes
//! a piece of the reserve for it and tries again. Invariants: what goes forward never uses it, so a
//! deploy on a full disk is refused before it has changed anything; a reserve that cannot be kept is
//! no error; it is made whole by the next run that finds room.

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
/// Freed at once. Not all of it: on a full disk others write, too, and take what is free.
const PIECE: u64 = 64 << 10;
/// So much must be free besides: it must not be what fills the disk.
const BESIDES: u64 = 3 * SIZE;

const NO_LINK: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits() as i32;

static OPEN: AtomicBool = AtomicBool::new(false);
static KEPT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Keeps a reserve in a state folder, where there is room for it, and remembers it for this run.
pub(crate) fn keep(folder: &Path) {
    let path = folder.join(FILE);
    // It is a precaution: a run that could do its work does not fail for it.
    let _ = fill(&path, folder);
    let mut kept = kept();
    if !kept.contains(&path) {
        kept.push(path);
    }
}

/// From here on this run may use what is kept: it goes back, or closes what was begun.
pub fn open() {
    OPEN.store(true, Ordering::Relaxed);
}

/// Tries a write at `path`, and again with a piece of a reserve of the same filesystem as long as the
/// disk is full and there is one. After an error the attempt must have left nothing.
pub(crate) fn writing<T>(path: &Path, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match attempt() {
            Err(error) if space::is_full(&error) => match spend_at(path) {
                Ok(true) => {}
                Ok(false) => return Err(error),
                Err(also) => return Err(error.context(format!("{also:#}"))),
            },
            done => return done,
        }
    }
}

fn kept() -> MutexGuard<'static, Vec<PathBuf>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fill(path: &Path, folder: &Path) -> Result<()> {
    let found = none_if_missing(path.symlink_metadata())?;
    let has = found.map_or(0, |found| found.len().min(found.blocks().saturating_mul(512)));
    if has >= SIZE || Space::free(folder)?.bytes < SIZE - has + BESIDES {
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
        // The disk has become full: what is half a reserve is all of what is missing now.
        std::fs::remove_file(path)?;
    }
    Ok(written?)
}

/// What no filesystem stores in less room than it has: some leave zeros out, some compress.
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

/// Frees a piece of a reserve on the filesystem of that path; whether there was one.
fn spend_at(path: &Path) -> Result<bool> {
    if !OPEN.load(Ordering::Relaxed) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let device = folder.metadata().map(|metadata| metadata.dev()).ok();
    for reserve in kept().iter() {
        let Ok(metadata) = reserve.symlink_metadata() else { continue };
        if Some(metadata.dev()) == device && metadata.is_file() {
            spend(reserve, metadata.len())
                .with_context(|| format!("cannot use the reserve {}", reserve.display()))?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn spend(reserve: &Path, length: u64) -> Result<()> {
    let file = File::options().write(true).custom_flags(NO_LINK).open(reserve)?;
    match length.saturating_sub(PIECE) {
        // With it goes an inode, where those have run out.
        0 => std::fs::remove_file(reserve)?,
        left => file.set_len(left)?,
    }
    // Of the whole filesystem: some free what is given up only when all of it is on the disk.
    Ok(syncfs(&file)?)
}
