//! The options as typed values, with the checks that a spec cannot express.

use crate::owner::Owner;
use crate::subject::Subject;
use ansible_module::{Failure, Options as RawOptions};
use host::deploy_id::DeployId;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Revision(u64),
    Deploy(DeployId),
    /// The newest good revision that is not current.
    Previous,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Image { container: Option<String>, image: String },
    RolledBack(Target),
    Migrated(Migration),
}

/// A command of the new image that runs once, before any pod has that image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    pub container: Option<String>,
    pub image: String,
    pub command: Vec<String>,
    pub id: DeployId,
    pub deadline: Duration,
    /// How many Jobs of migrations are kept, this one included.
    pub retain: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    Undo,
    Leave,
}

#[derive(Clone, Debug)]
pub struct Task {
    pub subject: Subject,
    pub wanted: Wanted,
    pub cause: Option<String>,
    /// The id of this run, for the fence.
    pub run: Option<DeployId>,
    /// The owner that the operator has configured to leave the workload alone.
    pub owner: Option<Owner>,
    pub on_failure: OnFailure,
    pub crash_restarts: u64,
    pub delete_stuck_pods: bool,
    pub progress_timeout: Duration,
}

impl Task {
    pub fn parse(raw: &RawOptions) -> Result<Task, Failure> {
        let subject = Subject::parse(raw)?;
        let state: String = raw.get("state")?;
        let deploy: Option<DeployId> = raw.get("deploy_id")?;
        let rollback: Option<DeployId> = raw.get("rollback_id")?;
        let image: Option<String> = raw.get("image")?;
        let revision: Option<u64> = raw.get("to_revision")?;
        let command: Option<Vec<String>> = raw.get("command")?;
        if command.is_some() && state != "migrated" {
            return Err(Failure::bad_option("command", "only state: migrated takes it"));
        }
        if raw.get::<Option<u64>>("retain")?.is_some() && state != "migrated" {
            return Err(Failure::bad_option("retain", "only state: migrated takes it"));
        }
        let (wanted, run) = match (state.as_str(), image) {
            ("migrated", Some(image)) => {
                let migration = migration(raw, self::image(image)?, command, deploy.clone())?;
                (Wanted::Migrated(migration), deploy)
            }
            ("migrated", None) => {
                return Err(Failure::bad_option("image", "state: migrated needs it"));
            }
            ("present", Some(image)) => {
                if revision.is_some() {
                    return Err(Failure::bad_option(
                        "to_revision",
                        "only state: rolled_back takes it",
                    ));
                }
                let container: Option<String> = raw.get("container")?;
                (Wanted::Image { container, image: self::image(image)? }, deploy)
            }
            ("rolled_back", None) => {
                let target = match (revision, deploy) {
                    (Some(number), _) => Target::Revision(number),
                    (None, Some(id)) => Target::Deploy(id),
                    (None, None) => Target::Previous,
                };
                (Wanted::RolledBack(target), rollback)
            }
            ("rolled_back", Some(_)) => {
                return Err(Failure::bad_option("image", "state: rolled_back does not take it"));
            }
            _ => return Err(Failure::bad_option("image", "state: present needs it")),
        };
        let cause: Option<String> = raw.get("cause")?;
        if cause
            .as_ref()
            .is_some_and(|text| text.chars().any(char::is_control) || text.len() > 1000)
        {
            return Err(Failure::bad_option("cause", "expected one line of at most 1000 bytes"));
        }
        let owner: Option<String> = raw.get("owner")?;
        let on_failure: String = raw.get("on_failure")?;
        Ok(Task {
            subject,
            wanted,
            cause,
            run,
            owner: owner.as_deref().and_then(Owner::parse),
            on_failure: if on_failure == "undo" { OnFailure::Undo } else { OnFailure::Leave },
            crash_restarts: raw.get("crash_restarts")?,
            delete_stuck_pods: raw.get("delete_stuck_pods")?,
            progress_timeout: raw.seconds("progress_timeout")?,
        })
    }

    pub fn is_rollback(&self) -> bool {
        matches!(self.wanted, Wanted::RolledBack(_))
    }
}

fn migration(
    raw: &RawOptions,
    image: String,
    command: Option<Vec<String>>,
    id: Option<DeployId>,
) -> Result<Migration, Failure> {
    let command = command.unwrap_or_default();
    if command.first().is_none_or(String::is_empty) {
        return Err(Failure::bad_option("command", "expected a program and its arguments"));
    }
    // Without an id nothing would tell a migration that was run from one that is to be run.
    let id = id.ok_or_else(|| Failure::bad_option("deploy_id", "state: migrated needs it"))?;
    Ok(Migration {
        container: raw.get("container")?,
        image,
        command,
        id,
        deadline: raw.seconds("deadline")?,
        retain: raw.get("retain")?,
    })
}

/// Checks an image's reference: the API server accepts spaces, which no kubelet can pull.
fn image(text: String) -> Result<String, Failure> {
    match text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        true => Err(Failure::bad_option(
            "image",
            format!("expected a reference such as registry.example/shop/web:1.4, got {text:?}"),
        )),
        false => Ok(text),
    }
}

#[cfg(test)]
impl Task {
    /// Makes a task for the Deployment `web` with default options.
    pub fn sample(wanted: Wanted) -> Task {
        Task {
            subject: Subject::sample(),
            wanted,
            cause: None,
            run: None,
            owner: None,
            on_failure: OnFailure::Undo,
            crash_restarts: 3,
            delete_stuck_pods: false,
            progress_timeout: Duration::from_secs(600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_one_word() {
        assert!(image("shop: 1".into()).is_err());
    }
}
