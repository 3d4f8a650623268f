//! The record of an unfinished run: its intent, and what it noted before each step.

use anyhow::{Context, Result};
use host::folder::SafeFolder;
use host::record::{Found, Intent};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// The content of an intent: the confirmed plan, so that a killed run can be finished under the same
/// consent although the state has changed.
#[derive(Serialize, Deserialize)]
pub(crate) struct ConfirmedPlan {
    pub(crate) plan_id: String,
    pub(crate) subject: String,
    pub(crate) plan: Vec<String>,
    pub(crate) loss: Vec<String>,
    pub(crate) rollback: Option<String>,
}

/// The intent of a run that neither finished its plan nor reverted it.
pub struct RunNotes {
    found: Found<Value>,
}

impl RunNotes {
    /// Finds the intent of this module in a state folder. Without a folder there is none.
    pub fn find(state_dir: &Path, module: &str) -> Result<Option<RunNotes>> {
        let Some(folder) = SafeFolder::find(state_dir)? else { return Ok(None) };
        let found = Intent::unfinished::<Value>(folder.path(), module)?;
        Ok(found.map(|found| RunNotes { found }))
    }

    /// Removes the intent of this module, if there is one: its changes have been reverted.
    pub fn close(state_dir: &Path, module: &str) -> Result<()> {
        match RunNotes::find(state_dir, module)? {
            Some(run) => run.found.intent.finish(),
            None => Ok(()),
        }
    }

    /// Returns when the run began.
    pub fn since(&self) -> host::clock::Utc {
        self.found.since
    }

    /// Returns the last note with this key; `null` cancels an earlier note.
    pub fn note<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.found.note(key).filter(|value| !value.is_null());
        value.map(|value| serde_json::from_value(value.clone())).transpose().with_context(|| {
            format!("cannot read the note {key:?} of an unfinished run (of another version?)")
        })
    }

    /// Returns the intent, for further notes.
    pub fn intent(&self) -> &Intent {
        &self.found.intent
    }
}
