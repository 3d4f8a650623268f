//! The folder of locks, and one lock for each thing that only one task may change.

use anyhow::{Context, Result};
use host::deploy_id::DeployId;
use host::folder::SafeFolder;
use host::lock::Lock;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Ours alone, and empty after each start of the machine.
pub const LOCKS: &str = "/run/reversible-haproxy";

/// One lock for each thing that only one task may change. Not in the state folder: a run that is
/// refused leaves nothing behind there.
pub fn lock(what: &Path, task: &str, run: Option<&DeployId>, patience: Duration) -> Result<Lock> {
    let folder = SafeFolder::ensure(Path::new(LOCKS), 0o700)?;
    let whole = fs::canonicalize(what).unwrap_or_else(|_| what.to_owned());
    let name = Sha256::digest(whole.as_os_str().as_encoded_bytes());
    let name: String = name.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Lock::acquire(&folder.join(format!("{name}.lock")), task, run, patience)
        .with_context(|| format!("waiting for another task on {}", what.display()))
}
