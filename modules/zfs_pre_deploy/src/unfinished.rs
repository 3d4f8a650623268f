//! What a killed run has noted: its goal, and what the system no longer shows.
//!
//! Invariant: the goal is noted before the first change of a rollback, and holds all names, guids and
//! properties that its later steps need. A swap is finished from the note, never from how a half-done swap looks.

use crate::names::below;
use crate::options::TASK;
use crate::options::{Method, Task, Wanted};
use ansible_module::Failure;
use anyhow::Result;
use change::RunNotes;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The note that holds the goal of a rollback.
pub const GOAL: &str = "goal";
/// The note that holds the datasets rolled back so far; each note holds all of them.
pub const ROLLED: &str = "rolled_back";

/// What a rollback has set out to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// The task's request in words; the same task has the same words.
    pub what: String,
    /// The id that keeps a rollback from being done twice.
    pub key: Option<String>,
    /// The trees to swap; empty for a rollback in place.
    pub trees: Vec<Tree>,
}

/// A tree that is parked as a whole, and what takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// The id of the parked state.
    pub id: String,
    pub live: String,
    pub parked: String,
    /// The live datasets that will be parked, parents first.
    pub outgoing: Vec<Outgoing>,
    /// The datasets that will be live instead, parents first.
    pub incoming: Vec<Incoming>,
    pub uncovered: Vec<Uncovered>,
    /// The parked root that becomes live again; `None` when the tree is recreated from snapshots.
    pub from: Option<String>,
    /// The short name of the snapshots that the tree is recreated from.
    pub snapshot: Option<String>,
}

/// A live dataset that will be parked. `below` is what follows the root's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    pub below: String,
    pub guid: u64,
    pub is_volume: bool,
    /// The value to restore when the dataset is live again, or `default`.
    pub canmount: String,
    pub mounted: bool,
    pub mountpoint: String,
}

/// A dataset below the tree that is not covered: it is renamed with the tree and back again, with
/// everything below it, and keeps its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uncovered {
    pub below: String,
    pub guid: u64,
    /// The mounted datasets of this subtree, parents first.
    pub mounted: Vec<String>,
}

/// A dataset that will be live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    pub below: String,
    /// The guid of the snapshot it is cloned from, or of the parked dataset itself.
    pub guid: u64,
    pub is_volume: bool,
    /// The value to set at the end.
    pub canmount: String,
    pub mounts: bool,
    pub mountpoint: String,
    /// Properties that are set as the dataset is created, so that it never exists without them.
    pub properties: Vec<(String, String)>,
    /// Limits that are set last, since they could make an earlier step fail.
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

    /// Whether an unfinished swap may have renamed this dataset.
    pub fn parks(&self, name: &str) -> bool {
        let trees = self.goal.iter().flat_map(|goal| &goal.trees);
        trees.into_iter().any(|tree| below(name, &tree.live).is_some())
    }

    /// Returns the goal of an unfinished run of the same task, which this run will finish. Any other task
    /// is refused, since the datasets may be half way through the swap.
    pub fn resumes(&self, task: &Task, key: &Option<String>) -> Result<Option<&Goal>, Failure> {
        let Some(goal) = &self.goal else { return Ok(None) };
        if task.is_rollback() && goal.what == describe(task) && goal.key == *key {
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

/// Describes the request; the same task gives the same words when it is run again.
pub fn describe(task: &Task) -> String {
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
