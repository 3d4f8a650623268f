//! Decides on the plan of a run, and on what carries it out.

use crate::backup::Backup;
use crate::manifest::Manifest;
use crate::observed::Observed;
use crate::options::Wanted;
use crate::plan::{Action, cleanup_steps};
use crate::restore;
use crate::restore::goal::Goal;
use crate::restore::run::Restore;
use crate::restore::work::Work;
use crate::survey::{self, Survey};
use crate::{absent, present};
use ansible_module::Failure;
use anyhow::Result;
use change::Plan;
use std::path::Path;

pub struct Decided<'a> {
    pub plan: Plan<Action>,
    pub backup: Option<Backup<'a>>,
    pub restore: Option<Restore<'a>>,
    /// The existing backup that the task refers to.
    pub about: Option<(String, Option<Manifest>)>,
}

impl Observed {
    /// Returns the plan that cleans up after an unfinished run, unless this run continues exactly that run.
    pub fn cleanup_plan(&self, key: Option<&str>) -> Option<Plan<Action>> {
        let unfinished = self.unfinished.as_ref()?;
        let nothing = unfinished.work.is_none() && unfinished.frozen.is_none();
        if self.resumed(key).is_some() || nothing || matches!(self.task.wanted, Wanted::Thawed) {
            return None;
        }
        let steps = cleanup_steps(&self.stored, Some(unfinished));
        Some(Plan { steps, ..Plan::nothing(self.subject(), self.view()) })
    }

    /// Returns the unfinished restore if this run continues it. Without an id, a restore whose services have run
    /// since counts as another one: what was written since must be parked.
    fn resumed(&self, key: Option<&str>) -> Option<(&Work, bool)> {
        let unfinished = self.unfinished.as_ref()?;
        let work = unfinished.work.as_ref().filter(|work| work.kept.is_none())?;
        let same = match &self.task.wanted {
            Wanted::Restored(which) => (restore::goal::find(&self.stored, which))
                .is_ok_and(|(kept, _)| work.backup.as_ref() == Some(&kept.name)),
            Wanted::Undone(id) => work.undo_of.as_ref() == Some(id),
            _ => false,
        };
        let is_same_run = key.map_or(!unfinished.goes_forward, |key| key == work.id);
        (same && is_same_run).then_some((work, unfinished.goes_forward))
    }

    pub fn survey(&self, scratch: &Path) -> Result<Option<Survey>> {
        let task = &self.task;
        let has_one =
            task.deploy.as_ref().and_then(|id| self.stored.of_deploy(id.as_str())).is_some();
        match (&task.wanted, &self.now) {
            (Wanted::Present, Ok(now)) if !has_one => {
                survey::survey(task, &self.tools, now, &self.stored, scratch).map(Some)
            }
            _ => Ok(None),
        }
    }

    pub fn decide<'a>(
        &'a self,
        survey: Option<&'a Survey>,
        key: Option<&str>,
        scratch: &Path,
    ) -> Result<Decided<'a>> {
        let Observed { task, tools, stored, .. } = self;
        let nothing = Decided {
            plan: Plan::nothing(self.subject(), self.view()),
            backup: None,
            restore: None,
            about: None,
        };
        Ok(match (&task.wanted, &self.now) {
            (Wanted::Present, Ok(now)) => Decided {
                plan: present::plan(self, now, survey),
                backup: survey.map(|survey| Backup { task, tools, project: now, survey }),
                about: (task.deploy.as_ref().and_then(|id| stored.of_deploy(id.as_str())))
                    .map(|(kept, manifest)| (kept.name.clone(), Some(manifest.clone()))),
                ..nothing
            },
            (Wanted::Present, Err(why)) => {
                return Err(Failure::new("no_project", format!("{why:#}")).into());
            }
            (Wanted::Thawed, _) => {
                let steps = cleanup_steps(stored, self.unfinished.as_ref());
                Decided { plan: Plan { steps, ..nothing.plan }, ..nothing }
            }
            (Wanted::Absent { which, parked }, _) => {
                let (plan, name) = absent::plan(self, which.as_ref(), parked, scratch);
                Decided { plan, about: name.map(|name| (name, None)), ..nothing }
            }
            (Wanted::Restored(_) | Wanted::Undone(_), _) => {
                let mut goal = match self.resumed(key) {
                    Some((work, has_run)) => Goal::resume(&self.state_dir, work, has_run)?,
                    None => Goal::of(self, key)?,
                };
                goal.warnings = restore::refuse::check(task, tools, &goal)?;
                let about = goal.manifest.as_ref().map(|one| (one.name.clone(), Some(one.clone())));
                let losses = restore::loss::measure(tools, &goal, scratch)?;
                let plan = restore::plan::plan(&goal, stored, self.unfinished.as_ref(), losses)?;
                let restore = Restore::new(task, tools, &self.state_dir, &stored.dir, goal);
                Decided { plan, restore: Some(restore), about, ..nothing }
            }
        })
    }
}
