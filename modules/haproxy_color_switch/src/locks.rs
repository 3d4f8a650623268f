//! The locks of a task.

use crate::options::Task;
use crate::state::TASK;
use anyhow::Result;
use haproxy::locks;
use host::lock::Lock;
use std::path::Path;

pub use haproxy::locks::LOCKS;

pub fn lock(task: &Task, what: &Path) -> Result<Lock> {
    locks::lock(what, TASK, task.run(), task.lock_timeout)
}
