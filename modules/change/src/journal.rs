//! What must survive this process: the intent of a plan, and that a rollback was done.

use crate::plan::Plan;
use ansible_module::{Invocation, Outcome};
use anyhow::Result;
use host::folder::SafeFolder;
use host::record::{Done, Found, Intent};
use host::reserve;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// The mode of a state folder that is made here.
const OWN: u32 = 0o700;

/// Where the intent of a plan is written before its first step, and that a rollback was done.
///
/// Modules whose steps are one atomic write each need none.
pub struct Journal<'a> {
    pub state_dir: &'a Path,
    /// One intent at a time can stand for a task.
    pub task: &'a str,
    /// In a rollback its id (see [`rollback_key`](crate::rollback_key)): it is done once.
    pub rollback: Option<String>,
}

impl Journal<'_> {
    /// The result of a rollback that was already done under this id: nothing, whatever was written
    /// since. To be asked before anything is planned. `state` is what is there now.
    pub fn done_before(&self, invocation: &Invocation, state: &Value) -> Result<Option<Outcome>> {
        let Some(id) = &self.rollback else { return Ok(None) };
        let Some(folder) = SafeFolder::find(self.state_dir)? else { return Ok(None) };
        let Some(done) = Done::recorded(folder.path(), id)? else { return Ok(None) };
        if !invocation.check_mode {
            // Killed between the two last writes: what it had begun is done as well.
            if let Some(begun) = self.unfinished()?.filter(|begun| begun.value.is_by(id)) {
                begun.intent.finish()?;
            }
        }
        let mut outcome = Plan::<()>::nothing(id, state.clone()).described();
        outcome
            .warnings
            .push(format!("rollback {id} was done at {}; it is not done again", done.at));
        Ok(Some(outcome))
    }

    /// Since when a run that was killed waits to be finished or taken back, and what it was about.
    pub fn waiting(&self) -> Result<Option<(String, Vec<String>)>> {
        Ok(self.unfinished()?.map(|begun| (begun.since.to_string(), begun.value.plan)))
    }

    /// The last note with this key in what waits to be finished.
    pub fn note(&self, key: &str) -> Result<Option<Value>> {
        Ok(self.unfinished()?.and_then(|begun| begun.note(key).cloned()))
    }

    /// What was begun has been taken back: there is nothing left to finish.
    pub fn taken_back(&self) -> Result<()> {
        self.unfinished()?.map_or(Ok(()), |begun| begun.intent.finish())
    }

    /// Where there is no folder yet, nothing was ever begun.
    pub(crate) fn unfinished(&self) -> Result<Option<Found<Begun>>> {
        match SafeFolder::find(self.state_dir)? {
            Some(folder) => Intent::unfinished::<Begun>(folder.path(), self.task),
            None => Ok(None),
        }
    }

    pub(crate) fn begin<A>(&self, plan: &Plan<A>) -> Result<Intent> {
        self.make_folder()?;
        Intent::begin(self.state_dir, self.task, &Begun::of(plan, self))
    }

    /// By the first thing that has to be written, so that a run that is refused leaves nothing
    /// behind; with room in it that is kept for the way back. One that is there keeps its mode: a module may have made it for others to read.
    fn make_folder(&self) -> Result<()> {
        let folder = match SafeFolder::find(self.state_dir)? {
            Some(folder) => folder,
            None => SafeFolder::ensure(self.state_dir, OWN)?,
        };
        reserve::keep(&folder);
        Ok(())
    }

    pub(crate) fn record_done(&self, after: &Value) -> Result<()> {
        let Some(id) = &self.rollback else { return Ok(()) };
        self.make_folder()?;
        Done::record(self.state_dir, id, after)
    }
}

/// What stands in an intent: what was agreed to, so that a run that was killed half way can be
/// finished under the same consent although the state has moved.
#[derive(Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) plan_id: String,
    pub(crate) subject: String,
    plan: Vec<String>,
    pub(crate) loss: Vec<String>,
    rollback: Option<String>,
}

impl Begun {
    pub(crate) fn of<A>(plan: &Plan<A>, journal: &Journal<'_>) -> Begun {
        Begun {
            plan_id: plan.id(),
            subject: plan.subject.clone(),
            plan: plan.sentences(),
            loss: plan.losses().map(|loss| loss.what.clone()).collect(),
            rollback: journal.rollback.clone(),
        }
    }

    fn is_by(&self, rollback: &str) -> bool {
        self.rollback.as_deref() == Some(rollback)
    }
}
