//! Observes the project: its files, its containers and its configuration. Reads only.

use crate::backup_dir::BackupDir;
use crate::compose::{Compose, Program};
use crate::docker::Docker;
use crate::docker::inspect::{CONFIG_FILES, CONFIG_HASH, Container, ENV_FILES, WORKING_DIR};
use crate::manifest::{ComposeRecord, ContainerRecord, ServiceRecord};
use crate::options::Subject;
use crate::project::{self, Files};
use crate::resolved::Resolved;
use ansible_module::Failure;
use anyhow::Result;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of this module's intents and locks.
pub const TASK: &str = "compose_backup";

/// The programs that are used.
pub struct Tools {
    pub docker: Docker,
    pub program: Program,
}

impl Tools {
    pub fn find(subject: &Subject) -> Result<Tools> {
        if !nix::unistd::geteuid().is_root() {
            let msg =
                "the data of containers belongs to many users: only root can read and restore it";
            return Err(Failure::new("not_root", msg).into());
        }
        let docker = Docker::find(subject.docker_host.as_deref())?;
        if !docker.is_local() {
            let msg = format!(
                "the engine at {} is on another machine, whose files cannot be read from here: run \
                 the task on that machine; nothing was changed",
                docker.host
            );
            return Err(Failure::new("engine_remote", msg).into());
        }
        let program = Program::find(&docker)?;
        Ok(Tools { docker, program })
    }

    /// Returns Compose for a recorded project, and whether its files still resolve to `config`.
    pub fn recorded(
        &self,
        project: &str,
        project_dir: &Path,
        record: &ComposeRecord,
        config: &Value,
    ) -> (Compose, bool) {
        let mut compose = Compose::new(&self.docker, &self.program, project_dir);
        compose.project = Some(project.to_owned());
        compose.profiles = record.profiles.clone();
        if record.given_files {
            compose.files = record.files.clone();
        }
        if record.env_files != [project_dir.join(".env")] {
            compose.env_files = record.env_files.clone();
        }
        for file in &record.env_files {
            compose.hide_values_of(&project::text_of(file).unwrap_or_default());
        }
        let same = compose.config().is_ok_and(|now| now.value == *config);
        (compose, same)
    }

    /// Returns Compose for the project of the task, without running it.
    pub fn compose(&self, subject: &Subject) -> Result<Compose> {
        let mut compose = match &subject.project_dir {
            Some(folder) => self.compose_in(subject, folder)?,
            None => self.compose_of_labels(subject)?,
        };
        compose.profiles = subject.profiles.clone();
        if !subject.env_files.is_empty() {
            compose.env_files = subject.env_files.clone();
        }
        for file in project::env_files(&compose) {
            if let Some(text) = project::text_of(&file) {
                compose.hide_values_of(&text);
            }
        }
        Ok(compose)
    }

    fn compose_in(&self, subject: &Subject, folder: &Path) -> Result<Compose> {
        if !folder.is_dir() {
            let msg = format!(
                "the folder {} does not exist; give project_dir; nothing was changed",
                folder.display()
            );
            return Err(Failure::new("no_project", msg).into());
        }
        let mut compose = Compose::new(&self.docker, &self.program, folder);
        compose.files = subject.files.clone();
        compose.project = subject.project.clone();
        Ok(compose)
    }

    /// Finds the project's folder and files in the labels of its containers.
    fn compose_of_labels(&self, subject: &Subject) -> Result<Compose> {
        let name = subject.project.as_deref().unwrap_or_default();
        let containers = self.docker.containers_of(name)?;
        let labelled = containers.iter().find_map(|one| Some((one, one.label(WORKING_DIR)?)));
        let Some((container, folder)) = labelled else {
            let msg = format!(
                "no container of project {name} has the label with its folder: give project_dir; nothing was changed"
            );
            return Err(Failure::new("no_project", msg).into());
        };
        let paths = |label: &str| -> Vec<PathBuf> {
            let list = container.label(label).unwrap_or_default().split(',');
            list.filter(|path| !path.is_empty()).map(PathBuf::from).collect()
        };
        let mut compose = Compose::new(&self.docker, &self.program, Path::new(folder));
        compose.project = Some(name.to_owned());
        compose.files = paths(CONFIG_FILES);
        compose.env_files = paths(ENV_FILES);
        Ok(compose)
    }
}

/// The resolved project.
pub struct Project {
    pub compose: Compose,
    pub resolved: Resolved,
    pub containers: Vec<Container>,
    pub files: Files,
    hashes: BTreeMap<String, String>,
}

impl Project {
    pub fn read(tools: &Tools, subject: &Subject) -> Result<Project> {
        let mut compose = tools.compose(subject)?;
        let mut resolved = compose.config()?;
        let containers = tools.docker.containers_of(&resolved.project)?;
        // A service of a profile that is not enabled counts if it has containers.
        let enabled: BTreeSet<&str> = resolved.services.keys().map(String::as_str).collect();
        if containers.iter().any(|one| one.service().is_some_and(|name| !enabled.contains(name))) {
            let more = profiles_of(&compose, &containers);
            if !more.is_empty() {
                compose.profiles.extend(more);
                resolved = compose.config()?;
            }
        }
        compose.project = Some(resolved.project.clone());
        compose.hide(resolved.environment());
        let files = project::files_of(&compose);
        let hashes = compose.hashes();
        Ok(Project { compose, resolved, containers, files, hashes })
    }

    pub fn name(&self) -> &str {
        &self.resolved.project
    }

    /// Returns all services: those of the files, and those that only have containers.
    pub fn all_services(&self) -> BTreeSet<String> {
        let of_containers = self.containers.iter().filter_map(|one| one.service());
        self.resolved.services.keys().cloned().chain(of_containers.map(str::to_owned)).collect()
    }

    /// Returns the requested services; an empty list means all.
    pub fn chosen(&self, asked: &[String]) -> Result<BTreeSet<String>, Failure> {
        let all = self.all_services();
        if let Some(odd) = asked.iter().find(|name| !all.contains(*name)) {
            let (project, names) = (self.name(), host::joined(&all));
            let why = format!("project {project} has no service {odd:?}; it has {names}");
            return Err(Failure::bad_option("services", why));
        }
        Ok(if asked.is_empty() { all } else { asked.iter().cloned().collect() })
    }

    pub fn containers_of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |one| one.service() == Some(service))
    }

    /// Records the current state of a service, for the manifest.
    pub fn service(&self, name: &str) -> ServiceRecord {
        let containers: Vec<ContainerRecord> =
            self.containers_of(name).map(container_record).collect();
        let hash = self.hashes.get(name);
        let created_with: Vec<&str> =
            self.containers_of(name).filter_map(|one| one.label(CONFIG_HASH)).collect();
        let configured = self.resolved.services.get(name);
        let running = self.containers_of(name).filter(|one| one.state.running).count();
        ServiceRecord {
            image: match configured {
                Some(_) => self.resolved.image_of(name),
                None => self
                    .containers_of(name)
                    .next()
                    .map(|one| one.config.image.clone())
                    .unwrap_or_default(),
            },
            // That of a running container if there are several; they differ only during a deploy.
            image_id: (self.containers_of(name).max_by_key(|one| one.state.running))
                .map(|one| one.image.clone()),
            running: running > 0,
            scale: if running > 0 {
                running
            } else {
                configured.map_or(1, |service| service.scale)
            },
            drift: hash.is_some_and(|hash| created_with.iter().any(|one| one != hash))
                && self.containers_of(name).any(|one| self.files_are_newer_than(one)),
            config_hash: hash.cloned(),
            containers,
            depends_on: configured.map(|service| service.depends_on.clone()).unwrap_or_default(),
        }
    }
}

impl Project {
    /// Whether the files are newer than a container. The hash alone is not enough: some versions of Compose
    /// hash env files differently here than when they create a container.
    fn files_are_newer_than(&self, container: &Container) -> bool {
        let Some(created) = container.created() else { return true };
        let modified = |path: &PathBuf| path.metadata().map_or(0, |meta| meta.mtime());
        self.files.all.keys().any(|path| modified(path) > created.unix())
    }
}

fn container_record(container: &Container) -> ContainerRecord {
    ContainerRecord {
        id: container.id.clone(),
        name: container.name().to_owned(),
        image_id: container.image.clone(),
        state: container.state.status.clone(),
        exit_code: container.state.exit_code,
        health: container.health().map(str::to_owned),
        number: container.number().unwrap_or_default(),
        volumes: container
            .anonymous_volumes()
            .map(|(at, name)| (at.to_owned(), name.to_owned()))
            .collect(),
    }
}

/// Returns the profiles of services that have containers.
fn profiles_of(compose: &Compose, containers: &[Container]) -> Vec<String> {
    let mut all = compose.clone();
    all.profiles = vec!["*".to_owned()];
    let Ok(resolved) = all.config() else { return Vec::new() };
    let services = resolved.value.get("services");
    let profiles = containers.iter().filter_map(|one| {
        let service = services?.get(one.service()?)?;
        service.get("profiles")?.as_array()?.first()?.as_str().map(str::to_owned)
    });
    let unique: BTreeSet<String> = profiles.collect();
    unique.into_iter().filter(|one| !compose.profiles.contains(one)).collect()
}

/// Finds the name of a project whose files may be missing: from the option, from the backups, or from
/// Compose.
pub fn name_of(tools: Option<&Tools>, subject: &Subject, stored: &BackupDir) -> Result<String> {
    if let Some(name) = &subject.project {
        return Ok(name.clone());
    }
    if let Some((_, manifest)) = stored.valid().next() {
        return Ok(manifest.project.clone());
    }
    match tools {
        Some(tools) => Ok(tools.compose(subject)?.config()?.project),
        None => {
            let folder = subject.project_dir.as_deref().and_then(Path::file_name);
            Ok(folder.map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default())
        }
    }
}

/// Returns what is shown as `before` and `after`.
pub fn view(stored: &BackupDir) -> Value {
    let backups: Vec<&str> = stored.valid().map(|(kept, _)| kept.name.as_str()).collect();
    serde_json::json!({ "backups": backups })
}
