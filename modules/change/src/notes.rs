//! A run that was killed: its intent, and what it noted before each step.

use anyhow::{Context, Result};
use host::folder::SafeFolder;
use host::record::{Found, Intent};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// What stands in an intent: what was agreed to, so that a run that was killed half way can be
/// finished under the same consent although the state has moved.
#[derive(Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) plan_id: String,
    pub(crate) subject: String,
    pub(crate) plan: Vec<String>,
    pub(crate) loss: Vec<String>,
    pub(crate) rollback: Option<String>,
}

/// The intent of a run that has neither finished its plan nor taken it back.
pub struct RunNotes {
    found: Found<Value>,
}

impl RunNotes {
    /// Finds the intent of this module in a state folder. Where there is no folder yet, nothing was
    /// ever begun.
    pub fn find(state_dir: &Path, module: &str) -> Result<Option<RunNotes>> {
        let Some(folder) = SafeFolder::find(state_dir)? else { return Ok(None) };
        let found = Intent::unfinished::<Value>(folder.path(), module)?;
        Ok(found.map(|found| RunNotes { found }))
    }

    /// Removes the intent of this module, if there is one: what was begun has been taken back.
    pub fn close(state_dir: &Path, module: &str) -> Result<()> {
        match RunNotes::find(state_dir, module)? {
            Some(run) => run.found.intent.finish(),
            None => Ok(()),
        }
    }

    /// When the run began.
    pub fn since(&self) -> host::clock::Utc {
        self.found.since
    }

    /// The last note with this key; `null` takes an earlier note back.
    pub fn note<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.found.note(key).filter(|value| !value.is_null());
        value.map(|value| serde_json::from_value(value.clone())).transpose().with_context(|| {
            format!(
                "the note {key:?} of a run that was killed cannot be understood (of another version?)"
            )
        })
    }

    /// The intent itself, to note further steps in it.
    pub fn intent(&self) -> &Intent {
        &self.found.intent
    }
}
