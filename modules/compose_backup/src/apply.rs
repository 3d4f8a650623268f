//! Carries out the steps of a plan.

use crate::backup::{self, Backup};
use crate::freeze::{self, Frozen};
use crate::manifest::Manifest;
use crate::observed::Observed;
use crate::parked;
use crate::plan::Action;
use crate::restore::goal::Goal;
use crate::restore::revert::{self, Revert};
use crate::restore::run::Restore;
use crate::restore::work::{self, Work};
use crate::state::TASK;
use crate::unfinished::{self, UnfinishedRun};
use crate::{backup_dir, verify};
use anyhow::{Context, Error, Result};
use change::RunNotes;
use host::record::Intent;
use serde_json::Value;
use std::path::Path;

pub struct Apply<'a> {
    pub observed: &'a Observed,
    pub backup: Option<Backup<'a>>,
    pub restore: Option<Restore<'a>>,
    pub made: Option<Manifest>,
    pub pruned: Vec<String>,
    pub thawed: Vec<String>,
    pub warnings: Vec<String>,
}

impl<'a> Apply<'a> {
    pub fn new(
        observed: &'a Observed,
        backup: Option<Backup<'a>>,
        restore: Option<Restore<'a>>,
    ) -> Apply<'a> {
        Apply {
            observed,
            backup,
            restore,
            made: None,
            pruned: Vec::new(),
            thawed: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub fn act(&mut self, action: &Action, intent: Option<&Intent>) -> Result<()> {
        let intent = intent.context("a step without an intent")?;
        let Observed { tools, project, state_dir, stored, .. } = self.observed;
        match action {
            Action::Thaw(frozen) => {
                let _shield = host::interrupt::shield();
                self.thawed.extend(freeze::thaw(&tools.docker, frozen)?);
                intent.note(freeze::NOTE, &Frozen::default())
            }
            Action::RestorePrevious(work) => {
                self.restore_previous(work, intent)?;
                intent.note(work::NOTE, &Value::Null)
            }
            Action::Finish(work) => {
                self.finish(work, intent)?;
                intent.note(work::NOTE, &Value::Null)
            }
            Action::Clear(name) => {
                backup_dir::remove(&stored.dir, name)?;
                verify::clean(&tools.docker, project, &stored.dir)?;
                intent.note(unfinished::PARTIAL, &Value::Null)
            }
            Action::Backup => {
                let backup = self.backup.as_ref().context("no backup was planned")?;
                self.made = Some(backup.make(intent)?);
                Ok(())
            }
            Action::Prune(name) => {
                backup::remove(&stored.dir, name)?;
                self.pruned.push(name.clone());
                Ok(())
            }
            Action::Remove(name) => backup::remove(&stored.dir, name),
            Action::Drop(id) => {
                let all = parked::read(state_dir)?;
                match all.iter().find(|one| one.id == *id) {
                    Some(one) => parked::remove(state_dir, &one.work),
                    None => Ok(()),
                }
            }
            Action::Check
            | Action::Load
            | Action::Stage
            | Action::Stop
            | Action::Swap
            | Action::Start => {
                let restore = self.restore.as_mut().context("no restore was planned")?;
                restore.act(action, intent)
            }
        }
    }

    /// Reverts the restore of a killed run.
    fn restore_previous(&mut self, work: &Work, intent: &Intent) -> Result<()> {
        let Observed { tools, state_dir, .. } = self.observed;
        let mut work = work.clone();
        self.thawed.extend(Revert { tools, state_dir }.run(&mut work, intent)?);
        self.warnings.extend(work.set_aside_warning());
        self.warnings.extend(revert::kept_warning(&work));
        Ok(())
    }

    /// Finishes the restore of a killed run.
    fn finish(&mut self, work: &Work, intent: &Intent) -> Result<()> {
        let Observed { task, tools, state_dir, stored, .. } = self.observed;
        let goal = Goal::resume(state_dir, work, true)?;
        let mut restore = Restore::new(task, tools, state_dir, &stored.dir, goal);
        restore
            .finish(intent)
            .with_context(|| format!("cannot finish the killed restore {}", work.id))?;
        self.thawed.extend(restore.goal.to_run());
        self.warnings.extend(restore.into_warnings());
        Ok(())
    }

    /// Cleans up after a failed step. If everything could be reverted, no intent is left for the next run.
    pub fn give_up(&mut self, error: Error) -> Error {
        let state_dir = &self.observed.state_dir;
        let error = match self.restore.as_mut().filter(|restore| restore.work_is_noted) {
            Some(restore) => match revert(state_dir, restore, error) {
                Ok(error) => error,
                // It could not be reverted: the intent is left for the next run.
                Err(error) => return error,
            },
            None => error,
        };
        let reverted = match UnfinishedRun::read(state_dir) {
            Ok(Some(unfinished)) => {
                unfinished.frozen.is_none() && (unfinished.work.is_none() || self.restore.is_some())
            }
            _ => false,
        };
        if reverted {
            // If this fails, the next run finds the intent, and has nothing to do for it.
            let _ = RunNotes::close(state_dir, TASK);
        }
        error
    }
}

fn revert(state_dir: &Path, restore: &mut Restore<'_>, error: Error) -> Result<Error, Error> {
    match RunNotes::find(state_dir, TASK) {
        Ok(Some(run)) => restore.give_up(error, run.intent()),
        Ok(None) => Err(error),
        Err(why) => Err(error.context(format!("{why:#}"))),
    }
}
