//! `compose_backup`: a Docker Compose project backed up before a deploy, and put back.
//! `compose_backup_info` tells which backups there are and what is going on.

mod absent;
mod apply;
mod backup;
mod backup_dir;
mod backup_writer;
mod compose;
mod data;
mod docker;
mod dumps;
mod freeze;
mod images;
mod info;
mod manifest;
mod mounts;
mod options;
mod parked;
mod plan;
mod present;
mod progress;
mod project;
mod resolved;
mod restore;
mod spec;
mod state;
mod sums;
mod survey;
mod unfinished;
mod verify;

use ansible_module::{Failure, Invocation, Outcome, Served};
use anyhow::{Context, Error, Result};
use apply::Apply;
use backup::Backup;
use backup_dir::BackupDir;
use change::{Consent, Plan, RunNotes, Session};
use host::folder::SafeFolder;
use host::lock::Lock;
use manifest::Manifest;
use options::{Task, Wanted};
use plan::Action;
use restore::goal::Goal;
use restore::run::Restore;
use restore::work::Work;
use serde_json::json;
use state::{Project, TASK, Tools};
use std::path::{Path, PathBuf};
use survey::Survey;
use unfinished::UnfinishedRun;

const LOCKS: &str = "/run/reversible-compose";

/// What this program serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info::info }];

/// What a run knows before it plans.
struct Observed {
    task: Task,
    tools: Tools,
    project: String,
    state_dir: PathBuf,
    stored: BackupDir,
    parked: Vec<parked::Parked>,
    unfinished: Option<UnfinishedRun>,
    /// The project's files as they are now, where they can be read.
    now: Result<Project>,
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    let task = Task::parse(&invocation.options)?;
    let consent = match task.wanted {
        Wanted::Present | Wanted::Thawed => Consent::none(),
        _ => Consent::from(invocation)?,
    };
    let tools = Tools::find(&task.subject)?;
    tools.docker.reach()?;
    // Whoever held the lock before may have changed everything: what counts is read after this.
    let mut locked = None;
    let session = Session::new(invocation, consent).lock(|| {
        let (lock, project) = lock(&task, &tools)?;
        locked = Some(project);
        Ok(vec![lock])
    })?;
    let now = Project::read(&tools, &task.subject);
    let stored = BackupDir::read(&task.subject.backup_dir)?;
    let project = match (&now, &task.wanted) {
        (Ok(now), _) => now.name().to_owned(),
        // A backup of what cannot be read is no backup.
        (Err(_), Wanted::Present) => return now.map(|_| Outcome::default()),
        (Err(_), _) => state::name_of(Some(&tools), &task.subject, &stored)?,
    };
    stored.refuse_others(&project)?;
    if let Some(locked) = locked.filter(|locked| *locked != project) {
        let msg = format!(
            "the project was {locked} a moment ago and is {project} now: run the task again; nothing was changed"
        );
        return Err(Failure::new("changing", msg).into());
    }
    let state_dir = task.subject.state_dir(&project);
    let mut session = session.fence(task.run(), &state_dir)?.intent_in(&state_dir, TASK);
    if task.is_restore() {
        session = session.goes_back(task.rollback.as_ref());
    }
    let observed = Observed::read(task, tools, project, state_dir, now)?;
    let settled = match invocation.check_mode {
        true => None,
        false => observed.settle(&session)?,
    };
    let Some(before) = settled else { return observed.carry_out(invocation, &session) };
    // What was looked at until here was the state that the killed run had left.
    let Observed { task, tools, project, state_dir, .. } = observed;
    let now = Project::read(&tools, &task.subject);
    let observed = Observed::read(task, tools, project, state_dir, now)?;
    let after = observed.carry_out(invocation, &session)?;
    Ok(joined(before, after))
}

/// The result of a run that first had to put in order what a killed one had left.
fn joined(before: Outcome, mut after: Outcome) -> Outcome {
    after.changed |= before.changed;
    after.steps.splice(0..0, before.steps);
    after.warnings.splice(0..0, before.warnings);
    after.diff.splice(0..0, before.diff);
    after.plan = Some(before.plan.into_iter().chain(after.plan).flatten().collect());
    if let Some(thawed) = before.facts.get("thawed") {
        after.facts.insert("thawed".to_owned(), thawed.clone());
    }
    after
}

/// One task at a time for a project, and the project's name. Not in the state folder: a run that is refused
/// leaves nothing behind there.
fn lock(task: &Task, tools: &Tools) -> Result<(Lock, String)> {
    let project =
        state::name_of(Some(tools), &task.subject, &BackupDir::read(&task.subject.backup_dir)?)?;
    let folder = SafeFolder::ensure(Path::new(LOCKS), 0o700)?;
    let path = folder.join(format!("{project}.lock"));
    let lock = Lock::acquire(&path, TASK, task.run(), task.lock_timeout)
        .with_context(|| format!("waiting for another task on project {project}"))?;
    Ok((lock, project))
}

/// What was decided.
struct Decided<'a> {
    plan: Plan<Action>,
    backup: Option<Backup<'a>>,
    restore: Option<Restore<'a>>,
    /// The backup that it is about, when there is one already.
    about: Option<(String, Option<Manifest>)>,
}

impl Observed {
    fn read(
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

    /// What a killed run has left stopped or half exchanged is put in order first, unless this run
    /// goes on with just that.
    fn settle(&self, session: &Session<'_>) -> Result<Option<Outcome>> {
        let Some(unfinished) = &self.unfinished else { return Ok(None) };
        let goes_on = self.resumed(session.rollback()).is_some();
        let nothing = unfinished.work.is_none() && unfinished.frozen.is_none();
        if goes_on || nothing || matches!(self.task.wanted, Wanted::Thawed) {
            return Ok(None);
        }
        let steps = plan::leftovers(&self.stored, Some(unfinished));
        let plan = Plan {
            steps,
            ..Plan::nothing(format!("project {}", self.project), state::view(&self.stored))
        };
        let mut apply = self.apply(None, None);
        let mut done = session.put_in_order(plan, |action, intent| apply.act(action, intent))?;
        done.warnings.extend(apply.warnings);
        Ok(Some(done.fact("thawed", apply.thawed)))
    }

    /// What a killed run has begun, when this is the same restore again. With no id to tell, one whose
    /// services have run since is another: what was written then is to be parked, as it is asked for.
    fn resumed(&self, key: Option<&str>) -> Option<(&Work, bool)> {
        let unfinished = self.unfinished.as_ref()?;
        let work = unfinished.work.as_ref().filter(|work| work.kept.is_none())?;
        let same = match &self.task.wanted {
            Wanted::Restored(which) => (restore::goal::find(&self.stored, which))
                .is_ok_and(|(kept, _)| work.backup.as_ref() == Some(&kept.name)),
            Wanted::Undone(id) => work.undo_of.as_ref() == Some(id),
            _ => false,
        };
        let is_mine = key.map_or(!unfinished.goes_forward, |key| key == work.id);
        (same && is_mine).then_some((work, unfinished.goes_forward))
    }

    fn apply<'a>(&'a self, backup: Option<Backup<'a>>, restore: Option<Restore<'a>>) -> Apply<'a> {
        Apply {
            project: self.project.clone(),
            task: &self.task,
            tools: &self.tools,
            backup_dir: &self.stored.dir,
            state_dir: self.state_dir.clone(),
            backup,
            restore,
            made: None,
            pruned: Vec::new(),
            thawed: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn carry_out(&self, invocation: &Invocation, session: &Session<'_>) -> Result<Outcome> {
        let key = session.rollback();
        if let Some(done) = session.done_before(&state::view(&self.stored))? {
            return Ok(done.fact("rollback_id", json!(key)));
        }
        let scratch = invocation.tmpdir.clone().unwrap_or_else(std::env::temp_dir);
        let survey = self.survey(&scratch)?;
        let Decided { plan, backup, restore, about } =
            self.decide(survey.as_ref(), key, &scratch)?;
        let mut apply = self.apply(backup, restore);
        let done = session.carry_out(
            plan,
            |action, intent| apply.act(action, intent),
            || Ok(state::view(&BackupDir::read(&self.task.subject.backup_dir)?)),
        );
        if self.stored.is_misdirected() && !invocation.check_mode {
            // Only an export: what is wrong with it has been said.
            let _ = BackupDir::repoint(&self.stored.dir);
        }
        let outcome = done.map_err(|error| self.give_up(error, &mut apply))?;
        Ok(self.facts(outcome, apply, about, invocation.check_mode))
    }

    fn survey(&self, scratch: &Path) -> Result<Option<Survey>> {
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

    fn decide<'a>(
        &'a self,
        survey: Option<&'a Survey>,
        key: Option<&str>,
        scratch: &Path,
    ) -> Result<Decided<'a>> {
        let (task, stored, unfinished) = (&self.task, &self.stored, self.unfinished.as_ref());
        let nothing = Decided {
            plan: Plan::nothing(format!("project {}", self.project), state::view(stored)),
            backup: None,
            restore: None,
            about: None,
        };
        Ok(match (&task.wanted, &self.now) {
            (Wanted::Present, Ok(now)) => Decided {
                plan: present::plan(task, now, stored, &self.parked, unfinished, survey),
                backup: survey.map(|survey| Backup {
                    task,
                    tools: &self.tools,
                    project: now,
                    survey,
                }),
                about: (task.deploy.as_ref().and_then(|id| stored.of_deploy(id.as_str())))
                    .map(|(kept, manifest)| (kept.name.clone(), Some(manifest.clone()))),
                ..nothing
            },
            (Wanted::Present, Err(why)) => {
                return Err(Failure::new("no_project", format!("{why:#}")).into());
            }
            (Wanted::Thawed, _) => {
                let steps = plan::leftovers(stored, unfinished);
                Decided { plan: Plan { steps, ..nothing.plan }, ..nothing }
            }
            (Wanted::Absent { which, parked }, _) => {
                let (plan, name) = absent::plan(
                    &self.project,
                    stored,
                    &self.parked,
                    unfinished,
                    which.as_ref(),
                    parked,
                    scratch,
                );
                Decided { plan, about: name.map(|name| (name, None)), ..nothing }
            }
            (Wanted::Restored(_) | Wanted::Undone(_), now) => {
                let now = now.as_ref().ok();
                let mut goal = match self.resumed(key) {
                    Some((work, has_run)) => Goal::begun(&self.state_dir, work, has_run)?,
                    None => {
                        Goal::of(task, &self.tools, &self.project, now, stored, &self.parked, key)?
                    }
                };
                goal.warnings = restore::refuse::check(task, &self.tools, &goal)?;
                let about = goal.manifest.as_ref().map(|one| (one.name.clone(), Some(one.clone())));
                let losses = restore::loss::measure(&self.tools, &goal, scratch)?;
                let plan = restore::plan::plan(&goal, stored, unfinished, losses)?;
                let restore = Restore::new(task, &self.tools, &self.state_dir, &stored.dir, goal);
                Decided { plan, restore: Some(restore), about, ..nothing }
            }
        })
    }

    /// Puts things in order after a step that failed. What could be taken back needs no next run.
    fn give_up(&self, error: Error, apply: &mut Apply<'_>) -> Error {
        let error = match apply.restore.as_mut().filter(|restore| restore.work_is_noted) {
            Some(restore) => match self.taken_back(restore, error) {
                Ok(error) => error,
                // It could not be put back: the intent stays for the next run.
                Err(error) => return error,
            },
            None => error,
        };
        let settled = match UnfinishedRun::read(&self.state_dir) {
            Ok(Some(unfinished)) => {
                unfinished.frozen.is_none()
                    && (unfinished.work.is_none() || apply.restore.is_some())
            }
            _ => false,
        };
        if settled {
            // Else the next run finds it, and has nothing left to do for it.
            let _ = RunNotes::close(&self.state_dir, TASK);
        }
        error
    }

    fn taken_back(&self, restore: &mut Restore<'_>, error: Error) -> Result<Error, Error> {
        match RunNotes::find(&self.state_dir, TASK) {
            Ok(Some(run)) => restore.give_up(error, run.intent()),
            Ok(None) => Err(error),
            Err(why) => Err(error.context(format!("{why:#}"))),
        }
    }

    fn facts(
        &self,
        outcome: Outcome,
        apply: Apply<'_>,
        about: Option<(String, Option<Manifest>)>,
        check_mode: bool,
    ) -> Outcome {
        let Apply { made, restore, pruned, thawed, warnings, .. } = apply;
        let fresh = made.is_some();
        let (name, manifest) = match (made, about) {
            (Some(made), _) => (Some(made.name.clone()), Some(made)),
            (None, Some((name, manifest))) => (Some(name), manifest),
            (None, None) => (None, None),
        };
        let path = name.as_ref().map(|name| self.task.subject.backup_dir.join(name));
        let mut outcome = outcome
            .fact("backup", json!(name))
            .fact("path", json!(path))
            .fact("deploy_id", json!(manifest.as_ref().map(|one| &one.deploy_id)))
            .fact("thawed", thawed);
        outcome.warnings.extend(self.stored.warnings.clone());
        outcome.warnings.extend(warnings);
        if let (Wanted::Present, Some(manifest)) = (&self.task.wanted, manifest) {
            if fresh {
                let said = manifest.warnings.iter().filter(|one| !outcome.warnings.contains(one));
                let said: Vec<String> = said.cloned().collect();
                outcome.warnings.extend(said);
            }
            outcome = outcome
                .fact("freeze_ms", manifest.consistency.freeze_ms)
                .fact("bytes", manifest.sizes.bytes)
                .fact("bytes_new", manifest.sizes.bytes_new)
                .fact("bytes_linked", manifest.sizes.bytes_linked)
                .fact("consistency", json!(manifest.consistency))
                .fact("pruned", pruned);
        }
        match restore {
            Some(restore) if !check_mode => restore.facts(outcome),
            _ => outcome,
        }
    }
}
