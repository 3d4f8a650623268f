//! The options as typed values, with the checks that a spec cannot express.

use crate::names::{Dataset, snapshot_name};
use ansible_module::{Failure, Options as RawOptions};
use host::deploy_id::DeployId;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::time::Duration;

/// The name of this task's intent.
pub const TASK: &str = "zfs_pre_deploy";

/// Longer names of state folders are cut, and distinguished by a hash.
const LONGEST_FOLDER: usize = 120;

/// The datasets of a task, and the folder of the module's records about them.
#[derive(Debug)]
pub struct Subject {
    /// In the order of their names, each once.
    pub datasets: Vec<Dataset>,
    pub recursive: bool,
    pub exclude: Vec<Dataset>,
    pub skip_missing: bool,
    pub app: Option<String>,
    /// None for the info module when it was asked about everything.
    pub state_dir: Option<PathBuf>,
}

impl Subject {
    /// Parses the options that both modules share; one that a module does not have counts as not given.
    pub fn parse(raw: &RawOptions) -> Result<Subject, Failure> {
        let mut datasets: Vec<Dataset> = raw.get("datasets")?;
        datasets.sort();
        datasets.dedup();
        let app = word(raw, "app")?;
        let state_dir = match (raw.get::<Option<PathBuf>>("state_dir")?, &app, datasets.first()) {
            (Some(folder), _, _) => Some(folder),
            (None, Some(app), _) => Some(folder_for(app)),
            (None, None, Some(first)) => Some(folder_for(first.as_str())),
            (None, None, None) => None,
        };
        Ok(Subject {
            datasets,
            recursive: raw.get::<Option<bool>>("recursive")?.unwrap_or(true),
            exclude: raw.get::<Option<_>>("exclude")?.unwrap_or_default(),
            skip_missing: raw.get::<Option<String>>("missing")?.as_deref() == Some("skip"),
            app,
            state_dir,
        })
    }
}

fn folder_for(subject: &str) -> PathBuf {
    let mut name = subject.replace('/', "+");
    if name.len() > LONGEST_FOLDER {
        let hex = host::hex(&Sha256::digest(subject.as_bytes())[..6]);
        name = format!("{}~{hex}", &name[..LONGEST_FOLDER]);
    }
    format!("/var/lib/reversible/zfs-{name}").into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Swap,
    Rollback,
}

/// A restore point: the deploy that took it, and the short name of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub deploy: DeployId,
    pub snapshot: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Present(Point),
    RolledBack(Point, Method),
    /// Makes a parked state live again.
    Undone(String),
    Absent(Point),
    AbsentParked(String),
    /// Only prunes.
    Pruned,
}

#[derive(Debug)]
pub struct Task {
    pub subject: Subject,
    pub state_dir: PathBuf,
    pub wanted: Wanted,
    pub release: Option<String>,
    pub hold: bool,
    pub retain: Option<usize>,
    pub keep: Vec<String>,
    pub lock_timeout: Duration,
    pub task_timeout: Duration,
    pub rollback: Option<DeployId>,
    /// The id of this run, which the fence compares.
    pub run_id: Option<DeployId>,
}

impl Task {
    pub fn parse(raw: &RawOptions) -> Result<Task, Failure> {
        let subject = Subject::parse(raw)?;
        if subject.datasets.is_empty() {
            return Err(Failure::bad_option("datasets", "expected at least one dataset"));
        }
        let state_dir = subject.state_dir.clone().ok_or_else(|| {
            Failure::bad_option("state_dir", "no state_dir, app or dataset names the folder")
        })?;
        let state: String = raw.get("state")?;
        let deploy: Option<DeployId> = raw.get("deploy_id")?;
        let rollback: Option<DeployId> = raw.get("rollback_id")?;
        let retain: Option<usize> = raw.get("retain")?;
        if retain.is_some() && state == "rolled_back" {
            return Err(Failure::bad_option("retain", "a rollback prunes nothing"));
        }
        let wanted = wanted(raw, &state, deploy.clone(), retain)?;
        // In a rollback the deploy id names the restore point and not this run.
        let run_id = rollback.clone().or(deploy.filter(|_| state == "present"));
        Ok(Task {
            subject,
            state_dir,
            wanted,
            release: word(raw, "release")?,
            hold: raw.get("hold")?,
            retain,
            keep: raw.get("keep")?,
            lock_timeout: raw.seconds("lock_timeout")?,
            task_timeout: raw.seconds("task_timeout")?,
            rollback,
            run_id,
        })
    }

    pub fn is_rollback(&self) -> bool {
        matches!(self.wanted, Wanted::RolledBack(..) | Wanted::Undone(_))
    }

    pub fn point(&self) -> Option<&Point> {
        match &self.wanted {
            Wanted::Present(point) | Wanted::RolledBack(point, _) | Wanted::Absent(point) => {
                Some(point)
            }
            Wanted::Undone(_) | Wanted::AbsentParked(_) | Wanted::Pruned => None,
        }
    }
}

fn new_id() -> Result<DeployId, Failure> {
    DeployId::generate()
        .map_err(|why| Failure::new("failed", "cannot generate a deploy id").caused_by(why))
}

fn wanted(
    raw: &RawOptions,
    state: &str,
    deploy: Option<DeployId>,
    retain: Option<usize>,
) -> Result<Wanted, Failure> {
    let method: Method = raw.get("method")?;
    let prefix: String = raw.get("prefix")?;
    let point = |deploy: DeployId| -> Result<Point, Failure> {
        let snapshot = snapshot_name(&prefix, deploy.as_str())
            .map_err(|why| Failure::bad_option("prefix", why))?;
        Ok(Point { deploy, snapshot })
    };
    Ok(match (state, deploy, parked(raw)?) {
        ("present", _, Some(_)) => {
            let why = "only state: rolled_back and state: absent take it";
            return Err(Failure::bad_option("parked", why));
        }
        ("present", Some(id), None) => Wanted::Present(point(id)?),
        ("present", None, None) => Wanted::Present(point(new_id()?)?),
        ("rolled_back", Some(id), None) => Wanted::RolledBack(point(id)?, method),
        ("rolled_back", None, Some(id)) if method == Method::Swap => Wanted::Undone(id),
        ("rolled_back", None, Some(_)) => {
            let why = "a parked state is made live by swap only";
            return Err(Failure::bad_option("method", why));
        }
        ("absent", Some(id), None) => Wanted::Absent(point(id)?),
        ("absent", None, Some(id)) => Wanted::AbsentParked(id),
        ("absent", None, None) if retain.is_some() => Wanted::Pruned,
        (_, Some(_), Some(_)) => {
            let why = "expected either deploy_id or parked, got both";
            return Err(Failure::bad_option("parked", why));
        }
        _ => {
            let msg =
                "expected deploy_id (a restore point) or parked (a parked state), got neither";
            return Err(Failure::new("bad_options", msg));
        }
    })
}

/// The id of a parked state is part of a dataset's name.
fn parked(raw: &RawOptions) -> Result<Option<String>, Failure> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    raw.checked("parked", "the id of a parked state, such as 20261121t090000z-1c2d", |text| {
        !text.is_empty() && text.len() <= 64 && text.bytes().all(is_allowed)
    })
}

/// One word, as it is recorded in a property. `-` is how ZFS says that there is none.
fn word(raw: &RawOptions, name: &'static str) -> Result<Option<String>, Failure> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@+-".contains(&byte);
    raw.checked(name, "one word of letters, digits and any of . _ : @ + -", |text| {
        let is_short = !text.is_empty() && text.len() <= 128;
        is_short && !text.starts_with(['-', '.']) && text.bytes().all(is_allowed)
    })
}

#[cfg(test)]
impl Task {
    /// Makes a task with default options.
    pub fn sample(subject: Subject, wanted: Wanted) -> Task {
        Task {
            state_dir: subject.state_dir.clone().unwrap(),
            subject,
            wanted,
            release: None,
            hold: false,
            retain: None,
            keep: Vec::new(),
            lock_timeout: Duration::ZERO,
            task_timeout: Duration::ZERO,
            rollback: None,
            run_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_folders() {
        let folder = |subject: &str| folder_for(subject).display().to_string();
        assert_eq!(folder("shop-prod"), "/var/lib/reversible/zfs-shop-prod");
        assert_eq!(folder("tank/shop/db"), "/var/lib/reversible/zfs-tank+shop+db");
        let (one, other) = ("a".repeat(200), format!("{}b", "a".repeat(199)));
        assert_ne!(folder(&one), folder(&other));
        assert!(folder(&one).len() < 200);
    }
}
