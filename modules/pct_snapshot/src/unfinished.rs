//! The notes of a killed run about its steps, written before each step.
//!
//! Invariant: a lock or an incomplete snapshot counts as ours only if these notes contain that step.

use crate::options::TASK;
use anyhow::Result;
use change::RunNotes;
use host::clock::Utc;
use serde::{Deserialize, Serialize};
use std::path::Path;

pub const BEGAN: &str = "began";
pub const STEP: &str = "doing";
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
    /// Returns the lock that Proxmox holds during the step.
    pub fn lock(self) -> &'static str {
        match self {
            What::Snapshot => "snapshot",
            What::Delete => "snapshot-delete",
            What::Rollback => "rollback",
        }
    }

    /// Returns the type of Proxmox's task.
    pub fn task(self) -> &'static str {
        match self {
            What::Snapshot => "vzsnapshot",
            What::Delete => "vzdelsnapshot",
            What::Rollback => "vzrollback",
        }
    }
}

/// A step that was about to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepNote {
    pub what: What,
    pub name: String,
}

/// The rollback of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    pub to: String,
    pub key: Option<String>,
}

/// The state of an unfinished run; the default is none.
#[derive(Clone, Debug, Default)]
pub struct UnfinishedRun {
    /// When the last run that changed anything began: a run that continues another one adds to its record.
    pub since: Option<String>,
    pub doing: Option<StepNote>,
    /// A rollback that was started and is not known to be completed.
    pub rollback: Option<Rollback>,
    pub was_running: Option<bool>,
    /// The snapshot of the state before the rollback.
    pub safety: Option<String>,
    /// Whether the rollback itself was done.
    pub rolled_back: bool,
}

impl UnfinishedRun {
    pub fn read(state_dir: &Path) -> Result<UnfinishedRun> {
        let Some(run) = RunNotes::find(state_dir, TASK)? else {
            return Ok(UnfinishedRun::default());
        };
        Ok(UnfinishedRun {
            since: Some(run.note::<Utc>(BEGAN)?.unwrap_or(run.since()).to_string()),
            doing: run.note(STEP)?,
            rollback: run.note(ROLLBACK)?,
            was_running: run.note(WAS_RUNNING)?,
            safety: run.note(SAFETY)?,
            rolled_back: run.note(ROLLED_BACK)?.unwrap_or(false),
        })
    }

    /// Returns our own step that holds such a lock.
    pub fn explains(&self, lock: &str) -> Option<&StepNote> {
        self.doing.as_ref().filter(|doing| doing.what.lock() == lock)
    }

    /// Whether our own step can have left an incomplete snapshot of this name.
    pub fn was_about(&self, name: &str) -> bool {
        let doing = self.doing.as_ref().filter(|doing| doing.what != What::Rollback);
        doing.is_some_and(|doing| doing.name == name)
    }

    /// Whether volumes may be partly rolled back.
    pub fn touched_volumes(&self) -> bool {
        let doing = self.doing.as_ref();
        doing.is_some_and(|doing| doing.what == What::Rollback) && !self.rolled_back
    }
}
