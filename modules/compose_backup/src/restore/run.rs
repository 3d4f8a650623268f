//! Carries out the steps of a restore.
//!
//! Invariants: each step is noted in the intent before it is done; services are stopped only after
//! everything that can be prepared is ready; neither the previous data is removed, nor data that services
//! have run on.

use crate::freeze::{self, Frozen, Held};
use crate::images::{self, Loaded};
use crate::manifest::Mount;
use crate::mounts::uses;
use crate::options::{Mode, Task};
use crate::parked::{self, RestoreFile};
use crate::plan::Action;
use crate::progress::Progress;
use crate::restore::goal::{Content, Goal};
use crate::restore::part::Part;
use crate::restore::revert::{self, Revert};
use crate::restore::staging;
use crate::restore::swap::{self, Aside, Foreign};
use crate::restore::up::{self, Running, Until};
use crate::state::Tools;
use crate::sums;
use crate::survey::earlier_of;
use ansible_module::{Failure, Outcome};
use anyhow::{Context, Error, Result};
use host::beneath::Dir;
use host::command::Failed;
use host::deadline::Deadline;
use host::record::{Done, Intent};
use host::spot::Spot;
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;

pub struct Restore<'a> {
    task: &'a Task,
    tools: &'a Tools,
    state_dir: &'a Path,
    backup_dir: &'a Path,
    pub goal: Goal,
    pub work_is_noted: bool,
    loaded: Vec<Loaded>,
    running: Vec<Running>,
    warnings: Vec<String>,
}

impl<'a> Restore<'a> {
    pub fn new(
        task: &'a Task,
        tools: &'a Tools,
        state_dir: &'a Path,
        backup_dir: &'a Path,
        goal: Goal,
    ) -> Restore<'a> {
        let loaded = goal.work.loaded.clone();
        Restore {
            task,
            tools,
            state_dir,
            backup_dir,
            goal,
            work_is_noted: false,
            loaded,
            running: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub fn act(&mut self, action: &Action, intent: &Intent) -> Result<()> {
        match action {
            Action::Check => self.check(intent),
            Action::Load => {
                self.load(intent)?;
                self.try_exchange()
            }
            Action::Stage => {
                self.make_volumes(intent)?;
                self.stage(intent)
            }
            Action::Stop => self.stop(intent),
            Action::Swap => self.swap(intent),
            Action::Start => self.start(intent, Until::Healthy),
            other => anyhow::bail!("{other:?} is not a step of a restore"),
        }
    }

    fn note(&mut self, intent: &Intent) -> Result<()> {
        self.goal.work.note(intent)?;
        self.work_is_noted = true;
        Ok(())
    }

    fn check(&mut self, intent: &Intent) -> Result<()> {
        // Before the note, since a run that finds the note also reads the goal.
        if !self.goal.resumes {
            self.goal.write(self.state_dir)?;
        }
        self.note(intent)?;
        if let Some(config) = &self.goal.config_before {
            RestoreFile::Before.write(self.state_dir, &self.goal.work.id, config)?;
        }
        let (Some(manifest), Some(folder)) = (&self.goal.manifest, &self.goal.folder) else {
            return Ok(());
        };
        let mut progress = Progress::new(self.backup_dir);
        sums::check_before_restore(folder, manifest, &mut progress)
    }

    fn load(&mut self, intent: &Intent) -> Result<()> {
        let names: Vec<String> = match (&self.goal.manifest, &self.goal.folder, &self.goal.undone) {
            (Some(manifest), Some(folder), _) => {
                let wanted = |image: &&images::ImageRecord| {
                    self.goal.services.values().any(|one| one.image_id.as_ref() == Some(&image.id))
                };
                let records: Vec<_> = manifest.images.iter().filter(wanted).cloned().collect();
                let kept = earlier_of(folder, manifest);
                let mut progress = Progress::new(self.backup_dir);
                progress.begin("images", None);
                let deadline = Deadline::after(self.task.timeout);
                let docker = &self.tools.docker;
                self.loaded = images::load(
                    docker,
                    &records,
                    &kept.files,
                    &kept.folder,
                    deadline,
                    &mut |bytes| progress.update(bytes),
                )?;
                self.goal.work.loaded = self.loaded.clone();
                self.loaded.iter().flat_map(|one| one.references.iter().cloned()).collect()
            }
            (_, _, Some(undone)) => undone.tags.iter().map(|tag| tag.reference.clone()).collect(),
            _ => Vec::new(),
        };
        if self.goal.work.tags.is_empty() {
            self.goal.work.tags = images::tags_now(&self.tools.docker, &names)?;
        }
        self.note(intent)
    }

    /// Tries an exchange after all checks that change nothing, and before anything is stopped.
    fn try_exchange(&self) -> Result<()> {
        match self.goal.work.exchanged_after {
            Some(_) => Ok(()),
            None => staging::try_exchange(&self.goal.work),
        }
    }

    /// Makes missing volumes, with the labels that Compose expects. The engine makes an empty folder for each,
    /// which will be parked; that is noted first.
    fn make_volumes(&mut self, intent: &Intent) -> Result<()> {
        for n in 0..self.goal.contents.len() {
            let Content::Mount(mount) = &self.goal.contents[n] else { continue };
            let Some(volume) = mount.volume.clone() else { continue };
            if self.tools.docker.volume(&volume.name)?.is_none() {
                self.goal.work.parts[n].absent = false;
                self.note(intent)?;
                let labels: Vec<(String, String)> = volume.labels.into_iter().collect();
                self.tools.docker.create_volume(&volume.name, &labels)?;
            }
        }
        Ok(())
    }

    fn stage(&mut self, intent: &Intent) -> Result<()> {
        // Everything was staged before the exchange began, and may be in place by now.
        if self.goal.work.exchanged_after.is_some() {
            return Ok(());
        }
        let folder = self.goal.folder.clone().context("there is no backup to restore")?;
        let mut progress = Progress::new(self.backup_dir);
        for n in 0..self.goal.contents.len() {
            let into = self.staging_folder(n, intent)?;
            let (content, part) = (&self.goal.contents[n], &self.goal.work.parts[n]);
            let bytes = match content {
                Content::Mount(mount) => Some(mount.segments.iter().map(|one| one.used).sum()),
                _ => None,
            };
            progress.begin(format!("staging {}", part.title), bytes);
            let done = match content {
                Content::Mount(mount) => self.put_mount(&folder, mount, part, into, &mut progress),
                Content::File(file) => {
                    staging::put_file(&folder, file, part, &into).map(|()| Vec::new())
                }
                Content::Parked => Ok(Vec::new()),
            };
            let skipped = done.with_context(|| format!("staging {}", part.title))?;
            self.warnings.extend(skipped);
        }
        Ok(())
    }

    /// Makes or empties the staging folder of a part. One that this restore has not made is refused, since it
    /// may belong to the owner of the parent folder.
    fn staging_folder(&mut self, n: usize, intent: &Intent) -> Result<Dir> {
        let part = &self.goal.work.parts[n];
        let path = part.staging_folder().context("nothing is staged for this part")?.to_owned();
        if let Some(above) = path.parent().filter(|above| !above.exists()) {
            std::fs::create_dir_all(above)
                .with_context(|| format!("making {}", above.display()))?;
        }
        let spot = Spot::of(&path)?;
        match spot.identity()? {
            None => drop(spot.make_folder()?),
            existing if existing == part.made => {}
            // The run was killed after it made the folder and before it noted that.
            Some(_) if self.goal.resumes && staging::is_empty_and_ours(&spot)? => {}
            Some(_) => {
                let msg = format!(
                    "{} already exists, and was not made by this restore: find out who made it, and move it away; nothing \
                     was changed",
                    path.display()
                );
                return Err(Failure::new("name_taken", msg).into());
            }
        }
        self.goal.work.parts[n].made = spot.identity()?;
        self.note(intent)?;
        let folder = spot.open()?;
        folder.clear()?;
        Ok(folder)
    }

    /// Restores the data of a mount; returns warnings about attributes that the file system does not support.
    fn put_mount(
        &self,
        folder: &Path,
        mount: &Mount,
        part: &Part,
        into: Dir,
        progress: &mut Progress,
    ) -> Result<Vec<String>> {
        let manifest = self.goal.manifest.as_ref().context("there is no backup to restore")?;
        let index = File::open(folder.join(&mount.index))?;
        let segments = sums::stored(folder, manifest, mount)?;
        let counts = archive::restore(index, segments, into, &mut |now| progress.update(now.bytes));
        let counts = counts.map_err(|why| match archive::reason(&why) {
            Some("bad_archive") => sums::damaged(folder, mount, why),
            _ => why,
        })?;
        let unset = counts.unset.first.iter();
        Ok(unset
            .map(|what| {
                format!("{}: not supported by this file system: {}", part.title, what.display())
            })
            .collect())
    }

    fn stop(&mut self, intent: &Intent) -> Result<()> {
        let containers = self.tools.docker.containers_of(&self.goal.project)?;
        let affected = containers.iter().filter(|one| {
            let of_goal = one.service().is_some_and(|name| self.goal.services.contains_key(name));
            let shares = self.goal.mounts().any(|(mount, _)| uses(one, mount));
            !self.goal.is_partial || of_goal || shares
        });
        let affected: Vec<_> = affected.collect();
        let frozen = Frozen::of(&affected, &up::levels(&self.goal.services), Mode::Stop);
        // If a killed run has already noted what ran, that is not changed.
        if !self.goal.work.touched {
            self.goal.work.stopped = frozen.clone();
            self.goal.work.touched = true;
            self.note(intent)?;
        }
        self.goal.work.disable_policies(&self.tools.docker, &affected, intent)?;
        frozen.stop(&self.tools.docker, self.task.stop_timeout)
    }

    fn swap(&mut self, intent: &Intent) -> Result<()> {
        if self.goal.work.exchanged_after.is_none() {
            self.goal.work.parts.iter_mut().try_for_each(swap::identify)?;
            self.goal.work.exchanged_after = Some(self.goal.work.starts(&self.tools.docker)?);
            self.note(intent)?;
        }
        let foreign = if self.goal.has_run { Foreign::Keep } else { Foreign::Refuse };
        for part in self.goal.work.parts.clone() {
            let (id, work) = (self.goal.work.id.clone(), &mut self.goal.work);
            let note = &mut |path| {
                work.found.push(path);
                work.note(intent)
            };
            swap::forward(&part, foreign, &mut Aside { id: &id, note })
                .with_context(|| format!("exchanging {}", part.title))?;
        }
        Ok(())
    }

    /// Finishes a killed run whose services already run on the restored data: the remaining parts are
    /// exchanged, and the remaining services are started.
    pub fn finish(&mut self, intent: &Intent) -> Result<()> {
        let _shield = host::interrupt::shield();
        if !self.goal.work.all_exchanged()? {
            self.stop(intent)?;
        }
        self.swap(intent)?;
        self.start(intent, Until::Started)?;
        // Otherwise the same rollback would be done a second time.
        Done::record(self.state_dir, &self.goal.work.id, &json!({"restored": self.goal.title}))
    }

    fn start(&mut self, intent: &Intent, until: Until) -> Result<()> {
        self.goal.work.started = true;
        self.note(intent)?;
        let docker = &self.tools.docker;
        let targets = match &self.goal.undone {
            Some(undone) => undone.tags.clone(),
            None => images::targets(&self.loaded),
        };
        images::retag(docker, &targets)?;
        let starting = up::Starting {
            task: self.task,
            tools: self.tools,
            state_dir: self.state_dir,
            goal: &self.goal,
        };
        self.warnings.extend(starting.start(&self.loaded, until)?);
        if until == Until::Healthy {
            self.running = starting.compare(&self.loaded)?;
        }
        self.start_others()?;
        self.goal.work.restore_policies(docker)?;
        if let Some(undone) = &self.goal.undone {
            self.goal.work.found.extend(undone.found.iter().cloned());
        }
        parked::write(self.state_dir, &self.goal.work)?;
        if let Some(undone) = &self.goal.undone {
            // The data that it had parked is back in place: its record would name nothing.
            parked::forget(self.state_dir, &undone.id)?;
        }
        for part in self.goal.work.parts.iter().filter(|part| part.is_file) {
            staging::remove_staging_folder(part)?;
        }
        images::release(docker, &self.loaded)?;
        self.note(intent)
    }

    /// Starts containers that were stopped only because they share the data. Services that are not in the
    /// backup are not started.
    fn start_others(&mut self) -> Result<()> {
        let work = &self.goal.work;
        let of_goal = |held: &Held| {
            let record = work
                .services_before
                .iter()
                .find(|(_, one)| one.containers.iter().any(|it| it.id == held.id));
            record.is_none_or(|(name, _)| self.goal.services.contains_key(name))
        };
        let mut others = work.stopped.clone();
        others.levels.iter_mut().for_each(|level| level.retain(|held| !of_goal(held)));
        if self.goal.is_partial {
            freeze::thaw(&self.tools.docker, &others)?;
        } else if others.levels.iter().any(|level| !level.is_empty()) {
            let names = others.names().join(", ");
            self.warnings.push(format!(
                "{names} is not in the backup: it was stopped and is not started again"
            ));
        }
        Ok(())
    }

    /// Reverts after a failed step. With `Err` the revert or the removal of staged data failed, and the intent
    /// must be kept.
    pub fn give_up(&mut self, error: Error, intent: &Intent) -> Result<Error, Error> {
        let _shield = host::interrupt::shield();
        let work = &mut self.goal.work;
        let revert = Revert { tools: self.tools, state_dir: self.state_dir };
        if !work.touched {
            return match revert.run(work, intent) {
                Ok(_) => Ok(error.context("no service was stopped, and no data was changed")),
                Err(why) => Err(error.context(format!(
                    "no service was stopped, and no data was changed; the staged data could not be removed ({why:#}): the \
                     next run with any state removes it"
                ))),
            };
        }
        let why = format!("{error:#}");
        if self.goal.has_run {
            let msg = format!(
                "{} is in place, and services have run on it, but they could not be started: find out why, then run the \
                 same task again; nothing was reverted, and the previous data stays parked at {}; why: {why}",
                self.goal.title,
                work.parked_paths().join(", ")
            );
            return Err(self.failure("restore_failed", msg, false, &error));
        }
        let services = match work.stopped.is_empty() {
            true => "no service ran before, and none runs now",
            false => "its services run again",
        };
        match revert.run(work, intent) {
            Ok(_) => {
                let msg = format!(
                    "{} could not be restored, so the previous state was restored: {services}; {}why: {why}",
                    self.goal.title,
                    revert::kept_warning(&self.goal.work)
                        .map(|text| text + "; ")
                        .unwrap_or_default()
                );
                Ok(self.failure("restore_failed_put_back", msg, true, &error))
            }
            Err(failed) => {
                let msg = format!(
                    "{} could not be restored, and the previous state could NOT be restored either ({failed:#}); it is \
                     parked at {}; fix that and run state: thawed, which tries again; why the restore failed: {why}",
                    self.goal.title,
                    work.parked_paths().join(", ")
                );
                Err(self.failure("restore_failed", msg, false, &error))
            }
        }
    }

    fn failure(&self, reason: &'static str, msg: String, back: bool, error: &Error) -> Error {
        let mut failure = Failure::new(reason, msg)
            .with("changed", true)
            .with("restored_back", back)
            .with("rollback_id", self.goal.work.id.clone())
            .with("parked", self.goal.work.parked_paths());
        for inner in error.chain().filter_map(|cause| cause.downcast_ref::<Failure>()) {
            for (key, value) in &inner.details {
                if !failure.details.contains_key(key) {
                    failure = failure.with(key, value.clone());
                }
            }
        }
        if let Some(failed) = error.chain().find_map(|cause| cause.downcast_ref::<Failed>()) {
            failure = failure
                .with("cmd", failed.cmd.clone())
                .with("rc", json!(failed.rc))
                .with("stdout", failed.stdout.clone())
                .with("stderr", failed.stderr.clone());
        }
        failure.into()
    }

    pub fn into_warnings(self) -> Vec<String> {
        self.warnings.into_iter().chain(self.goal.work.set_aside_warning()).collect()
    }

    pub fn facts(self, mut outcome: Outcome) -> Outcome {
        outcome.warnings.extend(self.warnings);
        outcome.warnings.extend(self.goal.work.set_aside_warning());
        let images: Vec<Value> = (self.running.iter())
            .map(|one| json!({ "service": one.service, "image_id": one.image_id }))
            .collect();
        let restored: Vec<&String> = self.goal.work.parts.iter().map(|part| &part.title).collect();
        outcome
            .fact("rollback_id", self.goal.work.id.clone())
            .fact("restored", json!(restored))
            .fact("parked", self.goal.work.parked_paths())
            .fact("images", images)
    }
}
