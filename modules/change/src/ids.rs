//! `deploy_id` and `rollback_id`: the fence of a target, and rollbacks that are done once.

use crate::consent::Consent;
use ansible_module::{Invocation, Kind, Opt};
use anyhow::Result;
use host::deploy_id::DeployId;
use host::fence::Fence;
use host::folder::SafeFolder;
use std::path::Path;

/// The option of a module that can roll back. `deploy_id` is described by each module itself.
pub const ROLLBACK_ID: &[Opt] = &[Opt::new("rollback_id", Kind::Str).about(&[
    "The deploy id of the run that rolls back.",
    "A rollback that was done under this id is not done again, whatever was written since.",
])];

/// Under which id a rollback is done once: the run's own, or the plan that was confirmed.
pub fn rollback_key(rollback: Option<&DeployId>, consent: &Consent) -> Option<String> {
    match rollback {
        Some(id) => Some(id.to_string()),
        None => consent.confirmed_plan().map(str::to_owned),
    }
}

/// Refuse a run that a newer one has superseded or whose id is from the future, and leave the fence
/// as it is.
pub fn look_at_fence(run: &DeployId, state_dir: &Path) -> Result<()> {
    match SafeFolder::find(state_dir)? {
        Some(folder) => Fence::check(folder.path(), run),
        None => Fence::check_first(run),
    }
}

/// Refuse a run that a newer one has superseded on this target, and let every older one be refused
/// from now on. `run` is the rollback's own id, else the deploy's; without one there is no fence.
/// In check mode the fence is looked at and left as it is.
pub fn fence(invocation: &Invocation, run: Option<&DeployId>, state_dir: &Path) -> Result<()> {
    match run {
        Some(id) if invocation.check_mode => look_at_fence(id, state_dir),
        Some(id) => {
            let folder = SafeFolder::ensure(state_dir, 0o700)?;
            host::reserve::keep(&folder);
            Fence::check_and_raise(folder.path(), id)
        }
        None => Ok(()),
    }
}
