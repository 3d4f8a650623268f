//! What a run that was killed has left: what it was doing, as it noted it before each step.
//!
//! Invariant: a lock or an incomplete snapshot counts as ours only when these notes say that we were
//! doing just that.

use crate::options::TASK;
use anyhow::Result;
use change::RunNotes;
use host::clock::Utc;
use serde::{Deserialize, Serialize};
use std::path::Path;

pub const BEGAN: &str = "began";
pub const DOING: &str = "doing";
pub const ROLLBACK: &str = "rollback";
pub const WAS_RUNNING: &str = "was_running";
pub const SAFETY: &str = "safety";
pub const ROLLED_BACK: &str = "rolled_back";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Snapshot,
    Delete,
    Rollback,
}

impl What {
    /// The lock that Proxmox holds meanwhile.
    pub fn lock(self) -> &'static str {
        match self {
            What::Snapshot => "snapshot",
            What::Delete => "snapshot-delete",
            What::Rollback => "rollback",
        }
    }

    /// The type of Proxmox's task.
    pub fn task(self) -> &'static str {
        match self {
            What::Snapshot => "vzsnapshot",
            What::Delete => "vzdelsnapshot",
            What::Rollback => "vzrollback",
        }
    }
}

/// A change that was about to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doing {
    pub what: What,
    pub name: String,
}

/// The rollback that a run was about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    pub to: String,
    pub key: Option<String>,
}

/// The default: there is none.
#[derive(Clone, Debug, Default)]
pub struct UnfinishedRun {
    /// When the last run that changed anything began: one that goes on from what another left writes
    /// on in its record.
    pub since: Option<String>,
    pub doing: Option<Doing>,
    /// A rollback that was begun, and is not known to have been done and started.
    pub rollback: Option<Rollback>,
    pub was_running: Option<bool>,
    /// The snapshot of the state before the rollback.
    pub safety: Option<String>,
    /// The rollback itself was seen to be done.
    pub rolled_back: bool,
}

impl UnfinishedRun {
    pub fn read(state_dir: &Path) -> Result<UnfinishedRun> {
        let Some(run) = RunNotes::find(state_dir, TASK)? else {
            return Ok(UnfinishedRun::default());
        };
        Ok(UnfinishedRun {
            since: Some(run.note::<Utc>(BEGAN)?.unwrap_or(run.since()).to_string()),
            doing: run.note(DOING)?,
            rollback: run.note(ROLLBACK)?,
            was_running: run.note(WAS_RUNNING)?,
            safety: run.note(SAFETY)?,
            rolled_back: run.note(ROLLED_BACK)?.unwrap_or(false),
        })
    }

    /// Our own step that holds such a lock.
    pub fn explains(&self, lock: &str) -> Option<&Doing> {
        self.doing.as_ref().filter(|doing| doing.what.lock() == lock)
    }

    /// Whether an incomplete snapshot of this name is what our own step leaves.
    pub fn was_about(&self, name: &str) -> bool {
        let doing = self.doing.as_ref().filter(|doing| doing.what != What::Rollback);
        doing.is_some_and(|doing| doing.name == name)
    }

    /// The volumes may be half way.
    pub fn touched_volumes(&self) -> bool {
        let doing = self.doing.as_ref();
        doing.is_some_and(|doing| doing.what == What::Rollback) && !self.rolled_back
    }
}
