//! The options as typed values, with the checks that a spec cannot express.

use ansible_module::{Failure, Options};
use host::deploy_id::DeployId;
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// The project, and the folders of this module.
#[derive(Clone, Debug)]
pub struct Subject {
    pub project_dir: Option<PathBuf>,
    pub files: Vec<PathBuf>,
    pub env_files: Vec<PathBuf>,
    pub project: Option<String>,
    pub profiles: Vec<String>,
    pub backup_dir: PathBuf,
    state_dir: Option<PathBuf>,
    pub docker_host: Option<String>,
}

impl Subject {
    pub fn parse(options: &Options) -> Result<Subject, Failure> {
        let project_dir: Option<PathBuf> = options.get("project_dir")?;
        let project_dir = project_dir.map(|path| plain("project_dir", path)).transpose()?;
        let in_project = |name: &'static str| -> Result<Vec<PathBuf>, Failure> {
            let list: Vec<PathBuf> = options.get(name)?;
            let full = |path: PathBuf| match &project_dir {
                Some(folder) => folder.join(path),
                None => path,
            };
            list.into_iter().map(|path| plain(name, full(path))).collect()
        };
        let (files, env_files) = (in_project("files")?, in_project("env_files")?);
        let project: Option<String> = options.get("project")?;
        if let Some(odd) = project.as_ref().filter(|name| !is_project(name)) {
            let msg = format!(
                "expected lower case letters, digits, _ and -, a letter or digit first, got {odd:?}"
            );
            return Err(Failure::bad_option("project", msg));
        }
        let state_dir: Option<PathBuf> = options.get("state_dir")?;
        Ok(Subject {
            project_dir: project_dir.or_else(|| files.first()?.parent().map(Path::to_owned)),
            files,
            env_files,
            project,
            profiles: options.get("profiles")?,
            backup_dir: plain("backup_dir", options.get("backup_dir")?)?,
            state_dir: state_dir.map(|path| plain("state_dir", path)).transpose()?,
            docker_host: options.get("docker_host")?,
        })
    }

    pub fn state_dir(&self, project: &str) -> PathBuf {
        let default = || format!("/var/lib/reversible/compose-{project}").into();
        self.state_dir.clone().unwrap_or_else(default)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Named(String),
    Deploy(DeployId),
    Latest,
}

#[derive(Clone, Debug)]
pub enum Wanted {
    Present,
    Restored(Which),
    Undone(String),
    Thawed,
    Absent { which: Option<Which>, parked: Vec<String> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Stop,
    Pause,
    Live,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Stop => "stop",
            Mode::Pause => "pause",
            Mode::Live => "live",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Dump {
    pub service: String,
    pub name: String,
    pub command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    Checksums,
    Restore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    Zstd,
    Gzip,
}

#[derive(Clone, Debug)]
pub struct Task {
    pub subject: Subject,
    pub wanted: Wanted,
    pub deploy: Option<DeployId>,
    pub rollback: Option<DeployId>,
    pub services: Vec<String>,
    pub release: Option<String>,
    pub exclude: Vec<String>,
    pub mode: Mode,
    pub dumps: Vec<Dump>,
    pub logs: u64,
    pub retain: Option<usize>,
    pub keep: Vec<String>,
    pub min_free: u64,
    pub compression: Compression,
    pub proof: Proof,
    pub stop_timeout: Option<u64>,
    pub wait: Duration,
    pub timeout: Duration,
    pub lock_timeout: Duration,
}

impl Task {
    pub fn parse(options: &Options) -> Result<Task, Failure> {
        let deploy: Option<DeployId> = options.get("deploy_id")?;
        Ok(Task {
            subject: Subject::parse(options)?,
            wanted: wanted(options, which(options, deploy.as_ref())?)?,
            deploy,
            rollback: options.get("rollback_id")?,
            services: options.get("services")?,
            release: options.get("release")?,
            exclude: options.get("exclude")?,
            mode: options.get("consistency")?,
            dumps: dumps(options)?,
            logs: options.get("logs")?,
            retain: options.get("retain")?,
            keep: options.get("keep")?,
            min_free: options.get("min_free")?,
            compression: options.get("compression")?,
            proof: options.get("verify")?,
            stop_timeout: options.get("stop_timeout")?,
            wait: options.seconds("wait_timeout")?,
            timeout: options.seconds("timeout")?,
            lock_timeout: options.seconds("lock_timeout")?,
        })
    }

    /// Returns the id of this run, for the fence.
    pub fn run(&self) -> Option<&DeployId> {
        match self.wanted {
            Wanted::Present => self.deploy.as_ref(),
            _ => self.rollback.as_ref(),
        }
    }

    pub fn is_restore(&self) -> bool {
        matches!(self.wanted, Wanted::Restored(_) | Wanted::Undone(_))
    }
}

/// Parses the options that name a backup.
fn which(options: &Options, deploy: Option<&DeployId>) -> Result<Option<Which>, Failure> {
    let name: Option<String> = options.get("name")?;
    if let Some(odd) = name.as_ref().filter(|name| !crate::backup_dir::is_name(name)) {
        let why = format!("expected backup-YYYYMMDD-HHMMSS, got {odd:?}");
        return Err(Failure::bad_option("name", why));
    }
    let latest = options.get::<Option<bool>>("latest")?.unwrap_or(false);
    Ok(match (name, deploy, latest) {
        (Some(name), _, _) => Some(Which::Named(name)),
        (None, Some(id), false) => Some(Which::Deploy(id.clone())),
        (None, _, true) => Some(Which::Latest),
        (None, None, false) => None,
    })
}

fn wanted(options: &Options, which: Option<Which>) -> Result<Wanted, Failure> {
    let state: String = options.get("state")?;
    let undo: Option<String> = options.get("undo")?;
    Ok(match (state.as_str(), undo, which) {
        ("restored", Some(id), _) => Wanted::Undone(restore_id("undo", id)?),
        ("restored", None, Some(which)) => Wanted::Restored(which),
        ("restored", None, None) => {
            let why = "expected true, or give name or deploy_id";
            return Err(Failure::bad_option("latest", why));
        }
        ("thawed", _, _) => Wanted::Thawed,
        ("absent", _, which) => {
            let ids: Vec<String> = options.get("parked")?;
            let parked = ids.into_iter().map(|id| restore_id("parked", id));
            Wanted::Absent { which, parked: parked.collect::<Result<_, _>>()? }
        }
        _ => Wanted::Present,
    })
}

fn dumps(options: &Options) -> Result<Vec<Dump>, Failure> {
    let dumps: Vec<Dump> = options.get("dumps")?;
    for dump in &dumps {
        if !is_file_name(&dump.name) || dump.command.is_empty() {
            let why = format!("dump {:?} needs a plain file name and a command", dump.name);
            return Err(Failure::bad_option("dumps", why));
        }
        if dumps.iter().filter(|one| one.name == dump.name).count() > 1 {
            let why = format!("two dumps have the name {:?}", dump.name);
            return Err(Failure::bad_option("dumps", why));
        }
    }
    Ok(dumps)
}

fn plain(name: &str, path: PathBuf) -> Result<PathBuf, Failure> {
    let is_plain =
        path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    match is_plain {
        true => Ok(path.components().collect()),
        false => Err(Failure::bad_option(
            name,
            format!("expected an absolute path without .., got {:?}", path.display()),
        )),
    }
}

/// Checks an id that becomes a part of a path.
fn restore_id(name: &str, id: String) -> Result<String, Failure> {
    match is_file_name(&id) {
        true => Ok(id),
        false => {
            Err(Failure::bad_option(name, format!("expected the id of a restore, got {id:?}")))
        }
    }
}

pub fn is_file_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= 100 && name.bytes().all(allowed) && !name.starts_with('.')
}

fn is_project(name: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    let first =
        name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    first && name.len() <= 200 && name.bytes().all(allowed)
}
