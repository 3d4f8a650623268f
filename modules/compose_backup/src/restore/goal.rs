//! The goal of a restore: the state of a backup, or what an earlier restore has parked.

use crate::backup_dir::{BackupDir, StoredBackup};
use crate::manifest::{ComposeRecord, FileRecord, Kind, Manifest, Mount, ServiceRecord};
use crate::observed::Observed;
use crate::options::{Task, Wanted, Which};
use crate::parked::{Parked, RestoreFile};
use crate::restore::part::Part;
use crate::restore::part::sibling;
use crate::restore::work::Work;
use crate::state::Tools;
use crate::{backup_writer, freeze::Frozen};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::atomic::read_json;
use host::clock;
use host::deploy_id::DeployId;
use host::regular::{self, Links};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The source of a part's data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Content {
    Mount(Box<Mount>),
    File(FileRecord),
    /// It was parked by an earlier restore and needs no staging, or there must be nothing.
    Parked,
}

/// The goal is kept in the state folder during the whole restore, so that a killed run can be finished even
/// if the backup, or the restore that it undoes, is not available any more.
#[derive(Serialize, Deserialize)]
pub struct Goal {
    /// The name of the backup or what is undone, for messages.
    pub title: String,
    pub project: String,
    pub manifest: Option<Manifest>,
    /// The backup's folder.
    pub folder: Option<PathBuf>,
    pub undone: Option<Work>,
    pub work: Work,
    /// The current configuration, for a revert.
    pub config_before: Option<Value>,
    /// The source of each part of `work`.
    pub contents: Vec<Content>,
    /// The configuration that the services are started with.
    pub config: Value,
    pub compose: ComposeRecord,
    /// The services that are restored, as they were recorded.
    pub services: BTreeMap<String, ServiceRecord>,
    /// Whether only a part of the project is restored, without its files.
    pub is_partial: bool,
    /// Whether this run continues a killed one.
    pub resumes: bool,
    /// Whether services have run on the restored data since.
    pub has_run: bool,
    pub warnings: Vec<String>,
}

impl Goal {
    /// Makes the goal of this task. `key` is the id under which it is done only once, if it has one.
    pub fn of(observed: &Observed, key: Option<&str>) -> Result<Goal> {
        match &observed.task.wanted {
            Wanted::Undone(id) => of_parked(observed, key, id),
            Wanted::Restored(which) => of_backup(observed, key, which),
            _ => anyhow::bail!("no restore is wanted"),
        }
    }

    /// Reads the goal of an unfinished run.
    pub fn resume(state_dir: &Path, work: &Work, has_run: bool) -> Result<Goal> {
        let goal: Goal = RestoreFile::Goal.read(state_dir, &work.id)?;
        Ok(Goal { work: work.clone(), resumes: true, has_run, ..goal })
    }

    pub fn write(&self, state_dir: &Path) -> Result<()> {
        RestoreFile::Goal.write(state_dir, &self.work.id, self).map(drop)
    }

    /// Returns the services that will run in the end.
    pub fn to_run(&self) -> Vec<String> {
        self.services.iter().filter(|(_, one)| one.running).map(|(name, _)| name.clone()).collect()
    }

    pub fn mounts(&self) -> impl Iterator<Item = (&Mount, &Part)> {
        self.contents.iter().zip(&self.work.parts).filter_map(|(content, part)| match content {
            Content::Mount(mount) => Some((&**mount, part)),
            _ => None,
        })
    }
}

pub fn find<'a>(stored: &'a BackupDir, which: &Which) -> Result<(&'a StoredBackup, &'a Manifest)> {
    let none = |what: String| {
        let names = stored.backups.iter().map(|backup| &backup.name).take(5);
        let has = host::joined_or(names, "no backups");
        let msg = format!(
            "there is no backup {what} in {}; it has {has}; nothing was changed",
            stored.dir.display()
        );
        Failure::new("no_backup", msg)
    };
    Ok(match which {
        Which::Latest => stored.newest().ok_or_else(|| none("that is complete".into()))?,
        Which::Deploy(id) => {
            stored.of_deploy(id.as_str()).ok_or_else(|| none(format!("of deploy {id}")))?
        }
        Which::Named(name) => {
            let kept = stored.find(name).ok_or_else(|| none(name.clone()))?;
            match &kept.manifest {
                Ok(manifest) => (kept, manifest),
                // Read again, to return the error itself.
                Err(_) => {
                    return Err(Manifest::read(&kept.path)
                        .err()
                        .context("the manifest changed meanwhile")?);
                }
            }
        }
    })
}

fn of_backup(observed: &Observed, key: Option<&str>, which: &Which) -> Result<Goal> {
    let (kept, manifest) = find(&observed.stored, which)?;
    let services = chosen(&observed.task, manifest)?;
    let is_partial = services.len() < manifest.services.len() || !manifest.left_out.is_empty();
    let id = id_of(key)?;
    let mut parts: Vec<(Part, Content)> = Vec::new();
    for mount in &manifest.mounts {
        if services.keys().any(|service| mount.is_used_by(service)) {
            let source = source_now(&observed.tools, mount)?;
            parts.push((
                part_of(mount.title(), source, mount.kind == Kind::File, &id),
                Content::Mount(Box::new(mount.clone())),
            ));
        }
    }
    if !is_partial {
        for file in &manifest.files {
            let inside = parts.iter().any(|(part, _)| file.path.starts_with(&part.source));
            if inside || is_same(&kept.path, manifest, file) {
                continue;
            }
            let source = file.path.clone();
            let title = source.display().to_string();
            parts.push((part_of(title, source, true, &id), Content::File(file.clone())));
        }
    }
    let (parts, contents) = parts.into_iter().unzip();
    let current = current_state(observed, manifest.project_dir.clone(), id, parts);
    let work = Work { backup: Some(manifest.name.clone()), ..current };
    let path = kept.path.join("config/compose.json");
    let damaged =
        || Failure::new("damaged", format!("cannot read {}: use another backup", path.display()));
    Ok(Goal {
        title: manifest.name.clone(),
        project: observed.project.clone(),
        folder: Some(kept.path.clone()),
        undone: None,
        config_before: observed.now.as_ref().ok().map(|now| now.resolved.value.clone()),
        work,
        contents,
        config: read_json(&path).map_err(|why| damaged().caused_by(why))?,
        compose: manifest.compose.clone(),
        services,
        is_partial,
        resumes: false,
        has_run: false,
        warnings: Vec::new(),
        manifest: Some(manifest.clone()),
    })
}

fn of_parked(observed: &Observed, key: Option<&str>, of: &str) -> Result<Goal> {
    let (all, subject) = (&observed.parked, observed.subject());
    let Some(Parked { work: old, .. }) = all.iter().find(|one| one.id == of) else {
        let ids = host::joined_or(all.iter().map(|one| &one.id), "none");
        let msg = format!(
            "no restore {of} of {subject} has parked anything; recorded are {ids}; nothing was changed"
        );
        return Err(Failure::new("no_backup", msg).into());
    };
    if old.was_put_back {
        let msg = format!(
            "{of} is not a restore that can be undone: it is the data of a reverted restore, parked at {}; nothing was \
             changed",
            old.parked_paths().join(", ")
        );
        return Err(Failure::new("no_backup", msg).into());
    }
    let path = RestoreFile::Before.path(&observed.state_dir, of)?;
    let config = std::fs::read(&path).map_err(|why| {
        let msg = format!("the project could not be read before restore {of}, so its services cannot be started again; its data is parked at {}", old.parked_paths().join(", "));
        Failure::new("no_backup", msg).caused_by(why.into())
    })?;
    let id = id_of(key)?;
    let parts = old.parts.iter().map(|part| {
        let staged = (!part.absent).then(|| part.parked.clone());
        Part::new(part.title.clone(), part.source.clone(), staged, part.is_file, &id)
    });
    let parts = parts.collect();
    let current = current_state(observed, old.project_dir.clone(), id, parts);
    let work = Work { undo_of: Some(of.to_owned()), ..current };
    Ok(Goal {
        title: work.title(),
        project: observed.project.clone(),
        manifest: None,
        folder: None,
        config_before: observed.now.as_ref().ok().map(|now| now.resolved.value.clone()),
        contents: work.parts.iter().map(|_| Content::Parked).collect(),
        config: serde_json::from_slice(&config)
            .with_context(|| format!("parsing {}", path.display()))?,
        compose: old
            .compose_before
            .clone()
            .context("the restore did not record the project's files")?,
        services: old.services_before.clone(),
        is_partial: false,
        resumes: false,
        has_run: false,
        warnings: Vec::new(),
        undone: Some(old.clone()),
        work,
    })
}

/// Records the current state, for a revert.
fn current_state(observed: &Observed, project_dir: PathBuf, id: String, parts: Vec<Part>) -> Work {
    let now = observed.now.as_ref().ok();
    let records = now.map(|now| {
        let all: BTreeSet<String> = now.all_services();
        all.into_iter().map(|name| (name.clone(), now.service(&name))).collect()
    });
    Work {
        id,
        project: observed.project.clone(),
        project_dir,
        backup: None,
        undo_of: None,
        at: clock::now(),
        parts,
        touched: false,
        stopped: Frozen::default(),
        policies: Vec::new(),
        exchanged_after: None,
        started: false,
        kept: None,
        was_put_back: false,
        found: Vec::new(),
        services_before: records.unwrap_or_default(),
        compose_before: now.map(|now| ComposeRecord {
            profiles: now.compose.profiles.clone(),
            ..now.files.record.clone()
        }),
        tags: Vec::new(),
        loaded: Vec::new(),
    }
}

fn id_of(key: Option<&str>) -> Result<String> {
    match key {
        Some(key) => Ok(key.to_owned()),
        None => Ok(DeployId::generate()?.to_string()),
    }
}

fn part_of(title: String, source: PathBuf, is_file: bool, id: &str) -> Part {
    let staged = sibling(&source, "restoring", id);
    // A single file is staged in a folder of its own.
    let staged = match (is_file, source.file_name()) {
        (true, Some(name)) => staged.join(name),
        _ => staged,
    };
    Part::new(title, source, Some(staged), is_file, id)
}

fn chosen(task: &Task, manifest: &Manifest) -> Result<BTreeMap<String, ServiceRecord>> {
    if let Some(odd) = task.services.iter().find(|name| !manifest.services.contains_key(*name)) {
        let (backup, names) = (&manifest.name, host::joined(manifest.services.keys()));
        let why = format!("{backup} has no service {odd:?}; it has {names}");
        return Err(Failure::bad_option("services", why).into());
    }
    let wanted = |name: &String| task.services.is_empty() || task.services.contains(name);
    let all = manifest.services.iter().filter(|(name, _)| wanted(name));
    Ok(all.map(|(name, record)| (name.clone(), record.clone())).collect())
}

/// Returns the current source of a mount: a volume may have been recreated since.
fn source_now(tools: &Tools, mount: &Mount) -> Result<PathBuf> {
    let Some(volume) = &mount.volume else { return Ok(mount.source.clone()) };
    match tools.docker.volume(&volume.name)? {
        Some(now) if now.is_plain() => Ok(now.mountpoint),
        Some(_) => Ok(mount.source.clone()),
        None => {
            let root = &tools.docker.engine()?.docker_root_dir;
            Ok(root.join("volumes").join(&volume.name).join("_data"))
        }
    }
}

/// Whether a file of the project is unchanged, so that it needs no exchange.
fn is_same(backup: &Path, manifest: &Manifest, file: &FileRecord) -> bool {
    let sum = manifest.contents.get(&format!("config/files/{}", file.n));
    let now = backup_writer::sum_of(&file.path);
    let meta = regular::open(&file.path, Links::Follow)
        .map_err(anyhow::Error::from)
        .and_then(|open| backup_writer::meta_of(&open));
    let same_meta = meta.is_ok_and(|meta| {
        (meta.mode, meta.uid, meta.gid, &meta.xattrs)
            == (file.meta.mode, file.meta.uid, file.meta.gid, &file.meta.xattrs)
    });
    same_meta
        && now.is_ok_and(|(sha256, _)| sum.is_some_and(|sum| sum.sha256 == sha256))
        && backup.exists()
}
