//! What a run that was killed has left: as it noted it before each step.

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
    /// Containers that it had stopped or paused.
    pub frozen: Option<Frozen>,
    /// The restore that it was about, as far as it had come.
    pub work: Option<Work>,
    /// Services have run on what it had put in place: it is finished, and not taken back.
    pub goes_forward: bool,
}

impl UnfinishedRun {
    /// As `read`, and looks at the engine for which way the restore is to go.
    pub fn observe(state_dir: &Path, docker: &Docker) -> Result<Option<UnfinishedRun>> {
        let Some(mut unfinished) = UnfinishedRun::read(state_dir)? else { return Ok(None) };
        if let Some(work) = &unfinished.work {
            unfinished.goes_forward = work.has_run_since(docker)?;
        }
        Ok(Some(unfinished))
    }

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
