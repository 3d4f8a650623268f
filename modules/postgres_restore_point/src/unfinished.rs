//! The notes of an unfinished run: the database that it was about to make, or the names that it was about to swap.
//!
//! Invariant: a note is written before the first change that it is about, and has all that is needed to find out how far
//! that change came.

use crate::options::{TASK, Task, Wanted};
use crate::record::Entry;
use anyhow::Result;
use change::RunNotes;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The keys of the notes.
pub const GOAL: &str = "goal";
pub const MAKING: &str = "making";
pub const WORK: &str = "work";

/// A swap that may have been begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// The request in words; the same task has the same words.
    pub what: String,
    /// The id under which the rollback is done only once.
    pub key: Option<String>,
    /// The database that becomes live.
    pub incoming: Entry,
    /// The record of the live database that will be parked.
    pub outgoing: Entry,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Making {
    pub name: String,
    /// The comment that it gets soon after it was made.
    pub comment: String,
}

#[derive(Debug, Default)]
pub struct UnfinishedRun {
    /// When the run began; empty if there is no unfinished run.
    pub since: String,
    pub goal: Option<Goal>,
    /// The database that was being made; none had its name before.
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

/// Describes the request; the same task has the same words when it is run again.
pub fn what(task: &Task) -> String {
    match &task.wanted {
        Wanted::RolledBack(id) => {
            format!("{} back to the restore point {id}", task.subject.database)
        }
        Wanted::Undone(id) => format!("{} back to the parked state {id}", task.subject.database),
        _ => format!("no rollback of {}", task.subject.database),
    }
}
