//! Makes a backup: everything is written into a temporary folder, verified, synced, and then renamed.
//!
//! Invariant: containers are frozen only during the last pass over the data, and are started again before
//! anything else is done, whatever happens.

use crate::backup_dir::{self, BackupDir, PARTIAL};
use crate::backup_writer::BackupWriter;
use crate::data::{Data, Pass};
use crate::freeze::{self, Times};
use crate::images;
use crate::manifest::{
    Consistency, EngineRecord, FORMAT, FileRecord, Manifest, Role, Sizes, Sum, Verdicts,
};
use crate::options::{Mode, Proof, Task};
use crate::progress::Progress;
use crate::state::{Project, Tools};
use crate::survey::Survey;
use crate::unfinished;
use crate::{backup_writer, dumps, sums, verify};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::clock;
use host::deadline::Deadline;
use host::deploy_id::DeployId;
use host::folder::SafeFolder;
use host::record::Intent;
use host::walk::Leases;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

pub struct Backup<'a> {
    pub task: &'a Task,
    pub tools: &'a Tools,
    pub project: &'a Project,
    pub survey: &'a Survey,
}

impl Backup<'_> {
    /// Makes a backup. If it fails, the incomplete folder is removed.
    pub fn make(&self, intent: &Intent) -> Result<Manifest> {
        let dir = SafeFolder::ensure(&self.task.subject.backup_dir, 0o700)?;
        let stored = BackupDir::read(dir.path())?;
        let at = clock::now();
        let name = stored.new_name(at);
        let partial = format!("{name}{PARTIAL}");
        intent.note(unfinished::PARTIAL, &partial)?;
        let made = self.fill(&dir, &stored, &name, &partial, intent);
        if made.is_err() && dir.join(&partial).exists() {
            // An error here must not hide the first one.
            let _shield = host::interrupt::shield();
            let _ = backup_dir::remove(dir.path(), &partial);
        }
        let mut manifest = made?;
        intent.note(unfinished::PARTIAL, &Value::Null)?;
        self.wait_for_health(&mut manifest)?;
        Ok(manifest)
    }

    /// Waits until the services are healthy again, since what follows may depend on them: a deploy, a gate.
    fn wait_for_health(&self, manifest: &mut Manifest) -> Result<()> {
        let were_healthy = (self.survey.records.values().flat_map(|one| &one.containers))
            .filter(|one| one.health.as_deref() == Some("healthy"))
            .filter(|one| manifest.consistency.frozen.contains(&one.name));
        let ids: Vec<&str> = were_healthy.map(|one| one.id.as_str()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let sick = freeze::wait_for_health(&self.tools.docker, &ids, self.task.wait)?;
        if !sick.is_empty() {
            let names = sick.join(", ");
            manifest.warnings.push(format!(
                "{names} was healthy before the backup, and is not healthy again yet"
            ));
        }
        Ok(())
    }

    fn fill(
        &self,
        dir: &SafeFolder,
        stored: &BackupDir,
        name: &str,
        partial: &str,
        intent: &Intent,
    ) -> Result<Manifest> {
        let (task, project, survey) = (self.task, self.project, self.survey);
        let mut progress = Progress::new(dir.path());
        let mut writer = BackupWriter::begin(&dir.join(partial))?;
        let mut manifest = self.begin_manifest(stored, name)?;
        let files = self.copy_files(&mut writer)?;
        manifest.logs = dumps::logs(
            task.logs,
            self.tools,
            project,
            &survey.services,
            &mut writer,
            &mut manifest.warnings,
        )?;
        manifest.dumps = dumps::take(task, self.tools, project, &mut writer, &mut progress)?;
        self.save_images(&mut writer, &mut manifest, &mut progress)?;
        self.copy_data(stored, &mut writer, &mut manifest, &mut progress, intent)?;
        manifest.files = files;
        writer.sync()?;
        progress.begin("verifying the backup", None);
        manifest.verify.checksums = Some(sums::verify_new(&writer, &mut progress)?);
        manifest.contents = writer.contents.clone();
        manifest.sizes = sizes(&writer, &manifest);
        if task.proof == Proof::Restore {
            progress.begin("restoring the backup to verify it", None);
            manifest.write(&writer.folder)?;
            let verdict = verify::restore(self.tools, task, &manifest, &writer.folder)?;
            manifest.verify.restore = Some(verdict);
        }
        manifest.write(&writer.folder)?;
        writer.sync()?;
        std::fs::rename(&writer.folder, dir.join(name))
            .context("renaming the new backup to its final name")?;
        host::atomic::sync_folder(dir.path())?;
        match manifest.is_good() {
            true => stored.write_pointer(name)?,
            false => return Err(not_verified(&manifest).into()),
        }
        Ok(manifest)
    }

    /// Copies the data of the mounts. The containers that write are frozen for the last pass.
    fn copy_data(
        &self,
        stored: &BackupDir,
        writer: &mut BackupWriter,
        manifest: &mut Manifest,
        progress: &mut Progress,
        intent: &Intent,
    ) -> Result<()> {
        let (task, survey) = (self.task, self.survey);
        let mut data = Data::new(stored, &survey.found.mounts, task.compression.into(), writer)?;
        if task.mode != Mode::Live && survey.to_copy >= LIVE_FROM {
            data.pass(Pass::Live, true, writer, progress)?;
        }
        let (guard, last) = match survey.frozen.is_empty() {
            true => (None, if task.mode == Mode::Live { Pass::OnlyLive } else { Pass::Quiet }),
            false => {
                let docker = &self.tools.docker;
                let guard = freeze::freeze(docker, intent, &survey.frozen, task.stop_timeout)?;
                (Some(guard), if survey.frozen.paused { Pass::Paused } else { Pass::Quiet })
            }
        };
        data.pass(last, !survey.foreign_writers.is_empty(), writer, progress)?;
        let times = guard.map_or(Ok(Times::default()), |guard| guard.thaw())?;
        manifest.not_data.extend(data.sockets());
        let (mounts, changed) = data.finish(writer)?;
        manifest.mounts = mounts;
        manifest.consistency = self.consistency(&times, changed);
        if !manifest.consistency.changed_while_read.is_empty() {
            let names = manifest.consistency.changed_while_read.join(", ");
            manifest.warnings.push(format!("changed while they were read: {names}"));
        }
        Ok(())
    }

    fn begin_manifest(&self, stored: &BackupDir, name: &str) -> Result<Manifest> {
        let (task, project, survey) = (self.task, self.project, self.survey);
        let engine = self.tools.docker.engine()?;
        let all = project.all_services();
        let mut compose = project.files.record.clone();
        compose.profiles = project.compose.profiles.clone();
        Ok(Manifest {
            format: FORMAT,
            program: format!("compose_backup {}", env!("CARGO_PKG_VERSION")),
            name: name.to_owned(),
            sequence: stored.next_sequence(),
            at: clock::now(),
            deploy_id: task.deploy.clone().map_or_else(DeployId::generate, Ok)?,
            release: task.release.clone(),
            project: project.name().to_owned(),
            project_dir: project.compose.project_dir.clone(),
            engine: EngineRecord {
                version: engine.server_version.clone(),
                compose: self.tools.program.version(&self.tools.docker)?,
                storage: engine.driver.clone(),
            },
            compose,
            services: survey.records.clone(),
            left_out: all.difference(&survey.services).cloned().collect(),
            images: Vec::new(),
            mounts: Vec::new(),
            not_data: survey.found.not_data.clone(),
            excluded: survey.found.excluded.clone(),
            files: Vec::new(),
            dumps: Vec::new(),
            logs: Vec::new(),
            consistency: Consistency::default(),
            sizes: Sizes::default(),
            contents: Default::default(),
            verify: Verdicts::default(),
            warnings: survey.warnings.clone(),
        })
    }

    /// Copies the resolved configuration and every file that it was made from.
    fn copy_files(&self, writer: &mut BackupWriter) -> Result<Vec<FileRecord>> {
        writer.subfolder("config/files")?;
        let resolved = serde_json::to_vec_pretty(&self.project.resolved.value)?;
        writer.bytes("config/compose.json", &resolved)?;
        let secrets = self.project.resolved.files.iter().map(|path| (path, Role::Secret));
        let project_files = self.project.files.all.iter().map(|(path, role)| (path, *role));
        let mut records: Vec<FileRecord> = Vec::new();
        let mut leases = Leases::default();
        for (path, role) in project_files.chain(secrets) {
            if records.iter().any(|one| one.path == *path) || path.is_dir() {
                continue;
            }
            let n = records.len() + 1;
            let mut copy = || -> Result<FileRecord> {
                let mut file = leases.open_path(path)?;
                let meta = backup_writer::meta_of(&file)?;
                writer.copy(&format!("config/files/{n}"), &mut file)?;
                Ok(FileRecord { n, path: path.clone(), role, meta })
            };
            let record = copy().map_err(|error| {
                let msg = format!(
                    "cannot copy {}, which belongs to the project; no backup was made",
                    path.display()
                );
                Failure::new("unreadable", msg).caused_by(error)
            })?;
            records.push(record);
        }
        Ok(records)
    }

    fn save_images(
        &self,
        writer: &mut BackupWriter,
        manifest: &mut Manifest,
        progress: &mut Progress,
    ) -> Result<()> {
        let (task, survey) = (self.task, self.survey);
        progress.begin("images", None);
        let to = writer.path("images");
        let deadline = Deadline::after(task.timeout);
        let saved = images::save(
            &self.tools.docker,
            &survey.wanted,
            &survey.earlier,
            &to,
            task.compression.into(),
            deadline,
            &mut |bytes| progress.update(bytes),
        )?;
        for file in &saved.files {
            let name = format!("images/{}", file.name);
            let sum = Sum { sha256: file.sha256.clone(), bytes: file.bytes };
            // Each was hashed while it was written; a file that other backups also have is a link.
            match writer.path(&name).metadata().is_ok_and(|meta| meta.nlink() > 1) {
                true => writer.has_linked(&name, &sum),
                false => writer.wrote(&name, &sum.sha256, sum.bytes),
            }
        }
        manifest.images = saved.images;
        Ok(())
    }

    fn consistency(&self, times: &Times, changed: Vec<String>) -> Consistency {
        let survey = self.survey;
        let meaning = match self.task.mode {
            Mode::Stop => {
                "the containers that write were stopped: the data is as they leave it when they end"
            }
            Mode::Pause => {
                "the containers that write were paused one after the other: the data is at best as after a power failure"
            }
            Mode::Live => {
                "the containers kept running: what they wrote meanwhile may be incomplete"
            }
        };
        Consistency {
            mode: self.task.mode.name().to_owned(),
            meaning: meaning.to_owned(),
            frozen: survey.frozen.names(),
            freeze_ms: millis(times.stop + times.copy + times.start),
            stop_ms: millis(times.stop),
            copy_ms: millis(times.copy),
            start_ms: millis(times.start),
            changed_while_read: changed,
            foreign_writers: survey.foreign_writers.clone(),
        }
    }
}

/// The amount of data from which a first pass before the freeze saves time.
const LIVE_FROM: u64 = 64 << 20;

/// The failure of a backup that did not pass its verification. It is kept, since it may be the only one, and
/// nothing is pruned.
fn not_verified(manifest: &Manifest) -> Failure {
    let verdict = manifest.verify.restore.clone().unwrap_or_default();
    let why =
        verdict.get("why").and_then(Value::as_str).unwrap_or("no reason was given").to_owned();
    let msg = format!(
        "{} is complete, but could not be started as a project of its own: {why}; it is kept, does not count as \
         the latest, and nothing was pruned",
        manifest.name
    );
    Failure::new("not_verified", msg).with("backup", manifest.name.clone()).with("verdict", verdict)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn sizes(writer: &BackupWriter, manifest: &Manifest) -> Sizes {
    let bytes: u64 = writer.contents.values().map(|sum| sum.bytes).sum();
    Sizes {
        bytes,
        bytes_new: bytes.saturating_sub(writer.linked_bytes()),
        bytes_linked: writer.linked_bytes(),
        data: manifest.mounts.iter().map(|mount| mount.bytes).sum(),
    }
}

/// Removes a backup, and updates the pointer to the newest remaining one.
pub fn remove(dir: &Path, name: &str) -> Result<()> {
    backup_dir::remove(dir, name)?;
    BackupDir::update_pointer(dir)
}
