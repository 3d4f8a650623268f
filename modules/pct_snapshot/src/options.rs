//! The options as typed values, with the checks that a spec cannot express.

use crate::marker::{Kind, Marker};
use crate::names::{SnapshotName, Vmid};
use ansible_module::{Failure, Options as RawOptions};
use host::deploy_id::DeployId;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// The name of this task's intent and locks.
pub const TASK: &str = "pct_snapshot";

/// The maximum length of a text.
const MAX_TEXT: usize = 8 << 10;

/// The container, and the folder of its records.
#[derive(Debug)]
pub struct Subject {
    pub vmid: Vmid,
    pub state_dir: PathBuf,
}

impl Subject {
    pub fn parse(raw: &RawOptions) -> Result<Option<Subject>, Failure> {
        let Some(vmid) = raw.get::<Option<String>>("vmid")? else { return Ok(None) };
        let vmid = Vmid::parse(vmid.trim()).map_err(|why| Failure::bad_option("vmid", why))?;
        let folder: Option<PathBuf> = raw.get("state_dir")?;
        let state_dir = folder.unwrap_or_else(|| format!("/var/lib/reversible/pct-{vmid}").into());
        Ok(Some(Subject { vmid, state_dir }))
    }
}

/// Which snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Named(SnapshotName),
    Latest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    AsBefore,
    Always,
    Never,
}

#[derive(Debug)]
pub enum Wanted {
    /// The text is written before the marker.
    Present {
        name: SnapshotName,
        text: String,
        marker: Marker,
    },
    RolledBack {
        which: Which,
        deploy: Option<DeployId>,
    },
    /// `None` prunes only.
    Absent {
        name: Option<SnapshotName>,
    },
}

#[derive(Debug)]
pub struct Task {
    pub subject: Subject,
    pub wanted: Wanted,
    pub app: Option<String>,
    pub retain: Option<usize>,
    pub keep: Vec<String>,
    pub start: Start,
    /// `None` kills.
    pub graceful: Option<Duration>,
    pub boot_timeout: Duration,
    pub ready: Vec<String>,
    pub lock_timeout: Duration,
    pub task_timeout: Duration,
    pub rollback: Option<DeployId>,
    /// The id of the run itself, which is the fence.
    pub run: Option<DeployId>,
}

impl Task {
    pub fn parse(raw: &RawOptions) -> Result<Task, Failure> {
        let subject = Subject::parse(raw)?;
        let subject = subject.ok_or_else(|| Failure::bad_option("vmid", "it is missing"))?;
        let state: String = raw.get("state")?;
        let deploy: Option<DeployId> = raw.get("deploy_id")?;
        let rollback: Option<DeployId> = raw.get("rollback_id")?;
        let app = word(raw, "app")?;
        let latest = raw.get::<Option<bool>>("latest")?.unwrap_or(false);
        if latest && state != "rolled_back" {
            return Err(Failure::bad_option("latest", "only state: rolled_back takes it"));
        }
        let name = match (raw.get::<Option<SnapshotName>>("name")?, &deploy) {
            (Some(name), _) => Some(name),
            (None, Some(id)) => Some(name_for(id)?),
            (None, None) => None,
        };
        let wanted = match state.as_str() {
            "present" => present(raw, name, deploy.clone(), app.clone())?,
            "rolled_back" => {
                Wanted::RolledBack { which: which(name, latest)?, deploy: deploy.clone() }
            }
            _ => Wanted::Absent { name },
        };
        let retain = match raw.get::<Option<usize>>("retain")? {
            Some(_) if state == "rolled_back" => {
                return Err(Failure::bad_option("retain", "a rollback prunes nothing"));
            }
            retain => retain,
        };
        let graceful = raw.seconds("shutdown_timeout")?;
        let shutdown: String = raw.get("shutdown")?;
        // In a rollback the deploy id names the restore point and not the run.
        let run = rollback.clone().or(deploy.filter(|_| state == "present"));
        Ok(Task {
            subject,
            wanted,
            app,
            retain,
            keep: raw.get("keep")?,
            start: raw.get("start")?,
            graceful: Some(graceful).filter(|_| shutdown == "graceful"),
            boot_timeout: raw.seconds("boot_timeout")?,
            ready: ready(raw)?,
            lock_timeout: raw.seconds("lock_timeout")?,
            task_timeout: raw.seconds("task_timeout")?,
            rollback,
            run,
        })
    }

    pub fn is_rollback(&self) -> bool {
        matches!(self.wanted, Wanted::RolledBack { .. })
    }
}

/// Parses which snapshot to roll back to.
fn which(name: Option<SnapshotName>, latest: bool) -> Result<Which, Failure> {
    match (name, latest) {
        (Some(name), false) => Ok(Which::Named(name)),
        (None, true) => Ok(Which::Latest),
        (Some(_), true) => Err(Failure::bad_option("latest", "name or deploy_id is given as well")),
        (None, false) => {
            let msg = "the snapshot to roll back to must be given by name, deploy_id or latest";
            Err(Failure::new("bad_options", msg))
        }
    }
}

fn name_for(id: &DeployId) -> Result<SnapshotName, Failure> {
    SnapshotName::try_from(format!("pre-deploy-{id}"))
        .map_err(|why| Failure::bad_option("deploy_id", why))
}

fn present(
    raw: &RawOptions,
    name: Option<SnapshotName>,
    deploy: Option<DeployId>,
    app: Option<String>,
) -> Result<Wanted, Failure> {
    let text: String = raw.get("description")?;
    let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.len() > MAX_TEXT || text.contains(odd) {
        let msg = format!("expected text of at most {MAX_TEXT} bytes, without control characters");
        return Err(Failure::bad_option("description", msg));
    }
    let given_id = || {
        DeployId::generate().map_err(|why| Failure::new("failed", "no id for it").caused_by(why))
    };
    let (name, deploy) = match name {
        Some(name) => (name, deploy),
        None => {
            let id = given_id()?;
            (name_for(&id)?, Some(id))
        }
    };
    let marker = Marker {
        kind: Kind::RestorePoint,
        app,
        deploy: deploy.map(String::from),
        release: word(raw, "release")?,
    };
    Ok(Wanted::Present { name, text: text.trim().to_owned(), marker })
}

fn ready(raw: &RawOptions) -> Result<Vec<String>, Failure> {
    let ready: Vec<String> = raw.get("ready")?;
    match ready.first() {
        Some(program) if program.is_empty() => {
            Err(Failure::bad_option("ready", "expected a program and its arguments"))
        }
        _ => Ok(ready),
    }
}

/// Parses an option that is one word of the marker.
fn word(raw: &RawOptions, name: &'static str) -> Result<Option<String>, Failure> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@/+-".contains(&byte);
    raw.checked(name, "one word of letters, digits and any of . _ : @ / + -", |text| {
        !text.is_empty() && text.len() <= 128 && text.bytes().all(sound)
    })
}
