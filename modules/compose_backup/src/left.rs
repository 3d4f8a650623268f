//! What a run that was killed has left: as it noted it before each step.

use crate::docker::Docker;
use crate::freeze::{self, Frozen};
use crate::restore::work::{self, Work};
use crate::state::TASK;
use anyhow::Result;
use host::folder::SafeFolder;
use host::record::{Found, Intent};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

pub const PARTIAL: &str = "partial";

#[derive(Clone, Debug)]
pub struct Left {
    pub since: String,
    /// Containers that it had stopped or paused.
    pub frozen: Option<Frozen>,
    /// The restore that it was about, as far as it had come.
    pub work: Option<Work>,
    /// Services have run on what it had put in place: it is finished, and not taken back.
    pub goes_forward: bool,
}

impl Left {
    /// As `read`, and looks at the engine for which way the restore is to go.
    pub fn observe(state_dir: &Path, docker: &Docker) -> Result<Option<Left>> {
        let Some(mut left) = Left::read(state_dir)? else { return Ok(None) };
        if let Some(work) = &left.work {
            left.goes_forward = work.has_run_since(docker)?;
        }
        Ok(Some(left))
    }

    pub fn read(state_dir: &Path) -> Result<Option<Left>> {
        let Some(folder) = SafeFolder::find(state_dir)? else { return Ok(None) };
        let Some(found) = Intent::unfinished::<Value>(folder.path(), TASK)? else {
            return Ok(None);
        };
        Ok(Some(Left {
            since: found.since.to_string(),
            frozen: note::<Frozen>(&found, freeze::NOTE)?.filter(|frozen| !frozen.is_empty()),
            work: note(&found, work::NOTE)?,
            goes_forward: false,
        }))
    }
}

fn note<T: DeserializeOwned>(found: &Found<Value>, key: &str) -> Result<Option<T>> {
    let value = found.note(key).filter(|value| !value.is_null());
    Ok(value.map(|value| serde_json::from_value(value.clone())).transpose()?)
}
