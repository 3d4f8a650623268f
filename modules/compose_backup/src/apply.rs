//! Apply: steps to effects.

use crate::backup::{self, Backup};
use crate::freeze::{self, Frozen};
use crate::manifest::Manifest;
use crate::options::Task;
use crate::parked;
use crate::plan::Action;
use crate::restore::back::{self, Back};
use crate::restore::goal::Goal;
use crate::restore::run::Restore;
use crate::restore::work;
use crate::state::Tools;
use crate::unfinished;
use crate::{backup_dir, verify};
use anyhow::{Context, Result};
use host::record::Intent;
use serde_json::Value;
use std::path::{Path, PathBuf};

pub struct Apply<'a> {
    pub project: String,
    pub task: &'a Task,
    pub tools: &'a Tools,
    pub backup_dir: &'a Path,
    pub state_dir: PathBuf,
    pub backup: Option<Backup<'a>>,
    pub restore: Option<Restore<'a>>,
    pub made: Option<Manifest>,
    pub pruned: Vec<String>,
    pub thawed: Vec<String>,
    pub warnings: Vec<String>,
}

impl Apply<'_> {
    pub fn act(&mut self, action: &Action, intent: Option<&Intent>) -> Result<()> {
        let intent = intent.context("a step without an intent")?;
        match action {
            Action::Thaw(frozen) => {
                let _shield = host::interrupt::shield();
                self.thawed.extend(freeze::thaw(&self.tools.docker, frozen)?);
                intent.note(freeze::NOTE, &Frozen::default())
            }
            Action::RestorePrevious(work) => {
                let back = Back { tools: self.tools, state_dir: &self.state_dir };
                let mut work = work.clone();
                self.thawed.extend(back.go_back(&mut work, intent)?);
                self.warnings.extend(work.set_aside());
                self.warnings.extend(back::kept(&work));
                intent.note(work::NOTE, &Value::Null)
            }
            Action::Finish(work) => {
                let goal = Goal::begun(&self.state_dir, work, true)?;
                let mut restore =
                    Restore::new(self.task, self.tools, &self.state_dir, self.backup_dir, goal);
                restore.finish(intent).with_context(|| {
                    format!("the killed restore {} could not be finished", work.id)
                })?;
                self.thawed.extend(restore.goal.to_run());
                self.warnings.extend(restore.into_warnings());
                intent.note(work::NOTE, &Value::Null)
            }
            Action::Clear(name) => {
                backup_dir::remove(self.backup_dir, name)?;
                verify::clean(&self.tools.docker, &self.project, self.backup_dir)?;
                intent.note(unfinished::PARTIAL, &Value::Null)
            }
            Action::Backup => {
                let backup = self.backup.as_ref().context("no backup was planned")?;
                self.made = Some(backup.make(intent)?);
                Ok(())
            }
            Action::Prune(name) => {
                backup::remove(self.backup_dir, name)?;
                self.pruned.push(name.clone());
                Ok(())
            }
            Action::Remove(name) => backup::remove(self.backup_dir, name),
            Action::Drop(id) => {
                let all = parked::read(&self.state_dir)?;
                match all.iter().find(|one| one.id == *id) {
                    Some(one) => parked::release(&self.state_dir, &one.work),
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
}
