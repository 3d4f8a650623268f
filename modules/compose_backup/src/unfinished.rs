//! The unfinished run, from what it noted before each step.

use crate::docker::Docker;
use crate::freeze::{self, Frozen};
use crate::restore::work::{self, Work};
use crate::state::TASK;
use anyhow::Result;
use change::RunNotes;
use std::path::Path;

pub const PARTIAL: &str = "partial";

#[derive(Clone, Debug)]
pub struct UnfinishedRun {
    pub since: String,
    /// The containers that it had stopped or paused.
    pub frozen: Option<Frozen>,
    /// Its restore, with its progress.
    pub work: Option<Work>,
    /// Whether services have run on the restored data, so that it is finished instead of reverted.
    pub goes_forward: bool,
}

impl UnfinishedRun {
    /// Reads the unfinished run, and asks the engine whether it must be finished or reverted.
    pub fn observe(state_dir: &Path, docker: &Docker) -> Result<Option<UnfinishedRun>> {
        let Some(mut unfinished) = UnfinishedRun::read(state_dir)? else { return Ok(None) };
        if let Some(work) = &unfinished.work {
            unfinished.goes_forward = work.has_run_since(docker)?;
        }
        Ok(Some(unfinished))
    }

    /// Reads the unfinished run without asking the engine.
    pub fn read(state_dir: &Path) -> Result<Option<UnfinishedRun>> {
        let Some(run) = RunNotes::find(state_dir, TASK)? else { return Ok(None) };
        Ok(Some(UnfinishedRun {
            since: run.since().to_string(),
            frozen: run.note::<Frozen>(freeze::NOTE)?.filter(|frozen| !frozen.is_empty()),
            work: run.note(work::NOTE)?,
            goes_forward: false,
        }))
    }
}
