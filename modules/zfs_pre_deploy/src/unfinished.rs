//! What a killed run left: what it was about, and what cannot be seen any more.
//!
//! Invariant: the goal is noted before the first change of a rollback, and holds all names, guids and
//! properties that the rest of it needs. Whoever finishes a swap works from the note, not from what a
//! half-done swap looks like.

use crate::names::below;
use crate::options::TASK;
use crate::options::{Method, Task, Wanted};
use ansible_module::Failure;
use anyhow::Result;
use change::RunNotes;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Keys of notes.
pub const GOAL: &str = "goal";
/// The datasets that are rolled back, all of them each time.
pub const ROLLED: &str = "rolled_back";

/// A rollback that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// What the task asked for, in words; the same task has the same.
    pub what: String,
    /// What it is done once under.
    pub key: Option<String>,
    /// The trees that are swapped; none when it is rolled back in place.
    pub trees: Vec<Tree>,
}

/// A tree that is parked as a whole, and what takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// The id of the parked state.
    pub id: String,
    pub live: String,
    pub parked: String,
    /// What is there now and goes away, parents first.
    pub outgoing: Vec<Outgoing>,
    /// What takes its place, parents first.
    pub incoming: Vec<Incoming>,
    pub uncovered: Vec<Uncovered>,
    /// Where what takes its place is parked now; none when it is made from snapshots.
    pub from: Option<String>,
    /// The short name of those snapshots.
    pub snapshot: Option<String>,
}

/// A dataset of the tree that is parked. `below` is what follows the root's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    pub below: String,
    pub guid: u64,
    pub is_volume: bool,
    /// To be restored when it comes back: a value, or `default`.
    pub canmount: String,
    pub mounted: bool,
    pub mountpoint: String,
}

/// A dataset below that is not covered: it moves along and back, with all that is below it, and
/// stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uncovered {
    pub below: String,
    pub guid: u64,
    /// What of it is mounted, parents first.
    pub mounted: Vec<String>,
}

/// A dataset that takes a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    pub below: String,
    /// Of the snapshot that it is made from, or of the parked dataset itself.
    pub guid: u64,
    pub is_volume: bool,
    /// As it shall be in the end.
    pub canmount: String,
    pub mounts: bool,
    pub mountpoint: String,
    /// Set when it is made, so that it never exists without them.
    pub properties: Vec<(String, String)>,
    /// Set when it is in its place: limits that could stand in the way.
    pub late: Vec<(String, String)>,
}

#[derive(Debug, Default)]
pub struct UnfinishedRun {
    pub since: String,
    pub goal: Option<Goal>,
    pub rolled: Vec<String>,
}

impl UnfinishedRun {
    pub fn read(state_dir: &Path) -> Result<UnfinishedRun> {
        let Some(run) = RunNotes::find(state_dir, TASK)? else {
            return Ok(UnfinishedRun::default());
        };
        Ok(UnfinishedRun {
            since: run.since().to_string(),
            goal: run.note(GOAL)?,
            rolled: run.note(ROLLED)?.unwrap_or_default(),
        })
    }

    pub fn is_waiting(&self) -> bool {
        !self.since.is_empty()
    }

    /// Whether a swap that was begun gives this dataset another name on its way.
    pub fn parks(&self, name: &str) -> bool {
        let trees = self.goal.iter().flat_map(|goal| &goal.trees);
        trees.into_iter().any(|tree| below(name, &tree.live).is_some())
    }

    /// The goal of the same task, whose rest is to be done. Another one is refused: the datasets may
    /// be half way.
    pub fn resumes(&self, task: &Task, key: &Option<String>) -> Result<Option<&Goal>, Failure> {
        let Some(goal) = &self.goal else { return Ok(None) };
        if task.is_rollback() && goal.what == what(task) && goal.key == *key {
            return Ok(Some(goal));
        }
        let id = goal.key.as_ref().map(|key| format!(" of {key}")).unwrap_or_default();
        let msg = format!(
            "the rollback{id} ({}) was stopped half way at {}; run that task again to finish it; nothing was changed",
            goal.what, self.since
        );
        Err(Failure::new("unfinished", msg).with("unfinished", goal.what.clone()))
    }
}

/// What the task asks for: what makes it the same task when it is run again.
pub fn what(task: &Task) -> String {
    let datasets: Vec<&str> = task.subject.datasets.iter().map(|name| name.as_str()).collect();
    let how = match &task.wanted {
        Wanted::RolledBack(point, Method::Swap) => format!("swap to {}", point.snapshot),
        Wanted::RolledBack(point, Method::Rollback) => format!("rollback to {}", point.snapshot),
        Wanted::Undone(id) => format!("parked state {id} made live"),
        Wanted::Present(_) | Wanted::Absent(_) | Wanted::AbsentParked(_) | Wanted::Pruned => {
            "no rollback".to_owned()
        }
    };
    let below = if task.subject.recursive { ", with what is below" } else { "" };
    format!("{how}, of {}{below}", datasets.join(", "))
}
