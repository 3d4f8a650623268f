//! The locks of the modules that change HAProxy.

use anyhow::Result;
use host::deploy_id::DeployId;
use host::lock::Lock;
use std::path::Path;
use std::time::Duration;

/// The folder of locks, which is empty after each start of the machine.
pub const LOCKS: &str = "/run/reversible-haproxy";

/// Takes the lock of a file or socket that only one task may change.
pub fn lock(what: &Path, task: &str, run: Option<&DeployId>, timeout: Duration) -> Result<Lock> {
    Lock::acquire_for_path(Path::new(LOCKS), what, task, run, timeout)
}
