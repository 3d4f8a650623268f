//! What a restore leads to: from a backup, or from what an earlier restore has parked.

use crate::backup_dir::{BackupDir, StoredBackup};
use crate::manifest::{ComposeRecord, FileRecord, Kind, Manifest, Mount, ServiceRecord};
use crate::observed::Observed;
use crate::options::{Task, Wanted, Which};
use crate::parked::{self, Parked};
use crate::restore::part::Part;
use crate::restore::part::sibling;
use crate::restore::work::Work;
use crate::state::Tools;
use crate::{backup_writer, freeze::Frozen};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::atomic::Replace;
use host::clock;
use host::deploy_id::DeployId;
use host::regular::{self, Links};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const GOAL: &str = "goal.json";

/// What a part is made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Content {
    Mount(Box<Mount>),
    File(FileRecord),
    /// It lies there already, parked by an earlier restore, or nothing is to be there.
    Parked,
}

/// Kept in the state folder from its beginning to its end, so that a run that is killed can be finished
/// also where the backup is gone, or what it undoes.
#[derive(Serialize, Deserialize)]
pub struct Goal {
    /// For sentences: the backup's name, or what is undone.
    pub title: String,
    pub project: String,
    pub manifest: Option<Manifest>,
    /// The backup's folder.
    pub folder: Option<PathBuf>,
    pub undone: Option<Work>,
    pub work: Work,
    /// The configuration as it is now, for the way back.
    pub config_before: Option<Value>,
    /// As many as the work has parts.
    pub contents: Vec<Content>,
    /// The configuration that the services are started with.
    pub config: Value,
    pub compose: ComposeRecord,
    /// The services that are put back, as they were.
    pub services: BTreeMap<String, ServiceRecord>,
    /// Not all of the project: its files stay as they are.
    pub is_partial: bool,
    /// A killed run had begun it.
    pub resumes: bool,
    /// And services have run since on what it had put in place.
    pub has_run: bool,
    pub warnings: Vec<String>,
}

impl Goal {
    /// `key` is the id under which it is done once, where it has one.
    pub fn of(observed: &Observed, key: Option<&str>) -> Result<Goal> {
        match &observed.task.wanted {
            Wanted::Undone(id) => of_parked(observed, key, id),
            Wanted::Restored(which) => of_backup(observed, key, which),
            _ => anyhow::bail!("no restore is wanted"),
        }
    }

    /// The goal of a run that was killed.
    pub fn begun(state_dir: &Path, work: &Work, has_run: bool) -> Result<Goal> {
        let path = parked::file(state_dir, &work.id, GOAL)?;
        let content =
            std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let goal: Goal = serde_json::from_slice(&content)
            .with_context(|| format!("understanding {}", path.display()))?;
        Ok(Goal { work: work.clone(), resumes: true, has_run, ..goal })
    }

    pub fn write(&self, state_dir: &Path) -> Result<()> {
        let path = parked::file(state_dir, &self.work.id, GOAL)?;
        Replace::new(&path).mode(0o600).write(&serde_json::to_vec(self)?).map(drop)
    }

    /// The services that are to run in the end.
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
        let names: Vec<&str> =
            stored.backups.iter().map(|kept| kept.name.as_str()).take(5).collect();
        let has = if names.is_empty() { "none at all".to_owned() } else { names.join(", ") };
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
                // Once more, for the error itself.
                Err(_) => {
                    return Err(Manifest::read(&kept.path).err().context("it was read now")?);
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
    let before = before(observed, manifest.project_dir.clone(), id, parts);
    let work = Work { backup: Some(manifest.name.clone()), ..before };
    let path = kept.path.join("config/compose.json");
    let damaged = || {
        Failure::new("damaged", format!("{} cannot be read: take another backup", path.display()))
    };
    let config = std::fs::read(&path).map_err(|why| damaged().caused_by(why.into()))?;
    Ok(Goal {
        title: manifest.name.clone(),
        project: observed.project.clone(),
        folder: Some(kept.path.clone()),
        undone: None,
        config_before: observed.now.as_ref().ok().map(|now| now.resolved.value.clone()),
        work,
        contents,
        config: serde_json::from_slice(&config).map_err(|why| damaged().caused_by(why.into()))?,
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
        let ids: Vec<&str> = all.iter().map(|one| one.id.as_str()).collect();
        let msg = format!(
            "nothing is parked by a restore {of} of {subject}; there is {}; nothing was changed",
            if ids.is_empty() { "none at all".to_owned() } else { ids.join(", ") }
        );
        return Err(Failure::new("no_backup", msg).into());
    };
    if old.was_put_back {
        let msg = format!(
            "{of} is no restore that can be undone: it is what a restore had put in place before it was taken back, \
             parked at {}; nothing was changed",
            old.parked_paths().join(", ")
        );
        return Err(Failure::new("no_backup", msg).into());
    }
    let path = parked::file(&observed.state_dir, of, "before.json")?;
    let config = std::fs::read(&path).map_err(|why| {
        let msg = format!("the project could not be read before restore {of}, so that there is nothing to start again; its data is parked at {}", old.parked_paths().join(", "));
        Failure::new("no_backup", msg).caused_by(why.into())
    })?;
    let id = id_of(key)?;
    let parts = old.parts.iter().map(|part| {
        let fresh = (!part.absent).then(|| part.parked.clone());
        Part::new(part.title.clone(), part.source.clone(), fresh, part.is_file, &id)
    });
    let parts = parts.collect();
    let before = before(observed, old.project_dir.clone(), id, parts);
    let work = Work { undo_of: Some(of.to_owned()), ..before };
    Ok(Goal {
        title: work.title(),
        project: observed.project.clone(),
        manifest: None,
        folder: None,
        config_before: observed.now.as_ref().ok().map(|now| now.resolved.value.clone()),
        contents: work.parts.iter().map(|_| Content::Parked).collect(),
        config: serde_json::from_slice(&config)
            .with_context(|| format!("understanding {}", path.display()))?,
        compose: old
            .compose_before
            .clone()
            .context("the restore has not noted the project's files")?,
        services: old.services_before.clone(),
        is_partial: false,
        resumes: false,
        has_run: false,
        warnings: Vec::new(),
        undone: Some(old.clone()),
        work,
    })
}

/// What is there now, for the way back.
fn before(observed: &Observed, project_dir: PathBuf, id: String, parts: Vec<Part>) -> Work {
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
        begun: false,
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
    let fresh = sibling(&source, "restoring", id);
    // A single file lies in a folder of its own until it is whole.
    let fresh = match (is_file, source.file_name()) {
        (true, Some(name)) => fresh.join(name),
        _ => fresh,
    };
    Part::new(title, source, Some(fresh), is_file, id)
}

fn chosen(task: &Task, manifest: &Manifest) -> Result<BTreeMap<String, ServiceRecord>> {
    if let Some(odd) = task.services.iter().find(|name| !manifest.services.contains_key(*name)) {
        let names: Vec<&str> = manifest.services.keys().map(String::as_str).collect();
        let msg = format!(
            "argument 'services': {} has no service {odd:?}; it has {}",
            manifest.name,
            names.join(", ")
        );
        return Err(Failure::new("bad_options", msg).into());
    }
    let wanted = |name: &String| task.services.is_empty() || task.services.contains(name);
    let all = manifest.services.iter().filter(|(name, _)| wanted(name));
    Ok(all.map(|(name, record)| (name.clone(), record.clone())).collect())
}

/// Where a mount's data belongs now: a volume may have been recreated since.
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

/// A file of the project that is as it was needs no exchange.
fn is_same(backup: &Path, manifest: &Manifest, file: &FileRecord) -> bool {
    let sum = manifest.contents.get(&format!("config/files/{}", file.n));
    let now = backup_writer::sum_of(&file.path);
    let meta = regular::open(&file.path, Links::Follow)
        .map_err(anyhow::Error::from)
        .and_then(|open| backup_writer::meta_of(&open));
    let dressed = meta.is_ok_and(|meta| {
        (meta.mode, meta.uid, meta.gid, &meta.xattrs)
            == (file.meta.mode, file.meta.uid, file.meta.gid, &file.meta.xattrs)
    });
    dressed
        && now.is_ok_and(|(sha256, _)| sum.is_some_and(|sum| sum.sha256 == sha256))
        && backup.exists()
}
