//! The folder of locks, and one lock for each thing that only one task may change.

use crate::options::Task;
use crate::state::{TASK, digest};
use anyhow::{Context, Result};
use host::folder::SafeFolder;
use host::lock::Lock;
use std::fs;
use std::path::Path;

/// Ours alone, and empty after each start of the machine.
pub const LOCKS: &str = "/run/reversible-haproxy";

/// One lock for each thing that only one task may change. Not in the state folder: a run that is
/// refused leaves nothing behind there.
pub fn lock(task: &Task, what: &Path) -> Result<Lock> {
    let folder = SafeFolder::ensure(Path::new(LOCKS), 0o700)?;
    let whole = fs::canonicalize(what).unwrap_or_else(|_| what.to_owned());
    let name = digest(whole.as_os_str().as_encoded_bytes());
    Lock::acquire(
        &folder.join(format!("{}.lock", &name[..16])),
        TASK,
        task.run(),
        task.lock_timeout,
    )
    .with_context(|| format!("waiting for another task on {}", what.display()))
}
