//! What a killed run has noted: what it was about to make, or which names it was about to swap.
//!
//! Invariant: each is noted before the first change that it is about, and says all that is needed to tell afterwards
//! how far that came.

use crate::options::{TASK, Task, Wanted};
use crate::record::Entry;
use anyhow::Result;
use change::RunNotes;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Keys of notes.
pub const GOAL: &str = "goal";
pub const MAKING: &str = "making";
pub const WORK: &str = "work";

/// A swap that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// What the task asked for, in words; the same task has the same.
    pub what: String,
    /// What it is done once under.
    pub key: Option<String>,
    /// What becomes live.
    pub incoming: Entry,
    /// What is live and will be parked, as it will be recorded.
    pub outgoing: Entry,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Making {
    pub name: String,
    /// What it says of itself soon after it was made.
    pub comment: String,
}

#[derive(Debug, Default)]
pub struct UnfinishedRun {
    /// Empty when there is none.
    pub since: String,
    pub goal: Option<Goal>,
    /// What was being made; no database had its name before.
    pub making: Option<Making>,
    /// The folder of the dump; it did not exist before.
    pub work: Option<PathBuf>,
}

impl UnfinishedRun {
    pub fn read(state_dir: &Path) -> Result<UnfinishedRun> {
        let Some(run) = RunNotes::find(state_dir, TASK)? else {
            return Ok(UnfinishedRun::default());
        };
        Ok(UnfinishedRun {
            since: run.since().to_string(),
            goal: run.note(GOAL)?,
            making: run.note(MAKING)?,
            work: run.note(WORK)?,
        })
    }

    pub fn is_waiting(&self) -> bool {
        !self.since.is_empty()
    }
}

/// What the task asks for: what makes it the same task when it is run again.
pub fn what(task: &Task) -> String {
    match &task.wanted {
        Wanted::RolledBack(id) => {
            format!("{} back to the restore point {id}", task.subject.database)
        }
        Wanted::Undone(id) => format!("{} back to the parked state {id}", task.subject.database),
        _ => format!("no rollback of {}", task.subject.database),
    }
}
