//! The observed state, on which the plan is based.

use crate::backup_dir::BackupDir;
use crate::options::Task;
use crate::parked::{self, Parked};
use crate::state::{self, Project, Tools};
use crate::unfinished::UnfinishedRun;
use anyhow::Result;
use serde_json::Value;
use std::path::PathBuf;

pub struct Observed {
    pub task: Task,
    pub tools: Tools,
    pub project: String,
    pub state_dir: PathBuf,
    pub stored: BackupDir,
    pub parked: Vec<Parked>,
    pub unfinished: Option<UnfinishedRun>,
    /// The project as it is now, or why it cannot be read.
    pub now: Result<Project>,
}

impl Observed {
    pub fn read(
        task: Task,
        tools: Tools,
        project: String,
        state_dir: PathBuf,
        now: Result<Project>,
    ) -> Result<Observed> {
        Ok(Observed {
            now,
            stored: BackupDir::read(&task.subject.backup_dir)?,
            parked: parked::read(&state_dir)?,
            unfinished: UnfinishedRun::observe(&state_dir, &tools.docker)?,
            task,
            tools,
            project,
            state_dir,
        })
    }

    /// Returns the subject of the plan.
    pub fn subject(&self) -> String {
        format!("project {}", self.project)
    }

    pub fn view(&self) -> Value {
        state::view(&self.stored)
    }
}
