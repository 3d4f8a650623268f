//! The record of a restore: noted in the intent before anything is touched, and kept afterwards as the record
//! of what it has parked.
//!
//! Invariants: which parts are exchanged is not noted, but determined by the identities of what has each
//! part's names. Data that was ever in place is kept until `state: absent` removes it, with its loss stated.

use crate::docker::Docker;
use crate::docker::inspect::{Container, RestartPolicy};
use crate::freeze::Frozen;
use crate::images::{Loaded, TagTarget};
use crate::manifest::{ComposeRecord, ServiceRecord};
use crate::restore::part::Part;
use crate::restore::swap;
use anyhow::Result;
use host::clock::Utc;
use host::record::Intent;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub const NOTE: &str = "restore";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    /// The rollback id, which is a part of the names of parked data.
    pub id: String,
    pub project: String,
    pub project_dir: PathBuf,
    /// The backup that is restored, or the earlier restore that is undone.
    pub backup: Option<String>,
    pub undo_of: Option<String>,
    pub at: Utc,
    pub parts: Vec<Part>,
    /// Whether services may be stopped, and parts exchanged.
    #[serde(rename = "begun")]
    pub touched: bool,
    /// The containers that ran before.
    pub stopped: Frozen,
    /// Restart policies that are disabled meanwhile: otherwise the engine would start containers when it starts.
    #[serde(default)]
    pub policies: Vec<Policy>,
    /// The containers that had been started before the first exchange, and when.
    #[serde(default)]
    pub exchanged_after: Option<Vec<Start>>,
    /// Whether services may have been started on the restored data.
    #[serde(default)]
    pub started: bool,
    /// The id under which the restored data is kept, once a revert has started.
    #[serde(default)]
    pub kept: Option<String>,
    /// Whether this is the record of the data of a reverted restore.
    #[serde(default)]
    pub was_put_back: bool,
    /// Where foreign files and folders that were in the way were set aside.
    #[serde(default)]
    pub found: Vec<PathBuf>,
    pub services_before: BTreeMap<String, ServiceRecord>,
    pub compose_before: Option<ComposeRecord>,
    /// What the tags of images pointed to before.
    pub tags: Vec<TagTarget>,
    /// The images of the backup, as they are in the engine.
    #[serde(default)]
    pub loaded: Vec<Loaded>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub id: String,
    pub policy: RestartPolicy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub id: String,
    pub at: String,
}

impl Work {
    /// Describes what is restored, for messages.
    pub fn title(&self) -> String {
        match (&self.backup, &self.undo_of) {
            (Some(name), _) => name.clone(),
            (None, Some(id)) => format!("the parked data of restore {id}"),
            (None, None) => "nothing".to_owned(),
        }
    }

    pub fn note(&self, intent: &Intent) -> Result<()> {
        intent.note(NOTE, self)
    }

    /// Returns all existing paths of parked data, also what was set aside.
    pub fn parked(&self) -> impl Iterator<Item = &PathBuf> {
        let all = self.parts.iter().map(|part| &part.parked).chain(&self.found);
        all.filter(|path| path.symlink_metadata().is_ok())
    }

    pub fn parked_paths(&self) -> Vec<String> {
        self.parked().map(|path| path.display().to_string()).collect()
    }

    /// Returns a warning about what was set aside.
    pub fn set_aside_warning(&self) -> Option<String> {
        let there = self.found.iter().filter(|path| path.symlink_metadata().is_ok());
        let paths = host::joined(there.map(|path| path.display()));
        let found = format!(
            "restore {} found files that are neither the previous nor the restored data, and set them aside: {paths}",
            self.id
        );
        (!paths.is_empty()).then_some(found)
    }

    /// Whether some part is exchanged.
    pub fn any_exchanged(&self) -> Result<bool> {
        self.parts.iter().try_fold(false, |any, part| Ok(any || swap::is_exchanged(part)?))
    }

    /// Whether all parts are exchanged.
    pub fn all_exchanged(&self) -> Result<bool> {
        self.parts.iter().try_fold(true, |all, part| Ok(all && swap::is_exchanged(part)?))
    }

    pub fn uses_any(&self, container: &Container) -> bool {
        // A tmpfs has an empty source, which every path would start with.
        let mut mounts = container.mounts.iter().filter(|one| !one.source.as_os_str().is_empty());
        mounts.any(|one| {
            self.parts.iter().any(|part| {
                one.source.starts_with(&part.source) || part.source.starts_with(&one.source)
            })
        })
    }

    /// Returns when each container of the project, or that uses one of the parts, was started.
    pub fn starts(&self, docker: &Docker) -> Result<Vec<Start>> {
        let all = docker.all_containers()?;
        let ours =
            all.iter().filter(|one| one.project() == Some(&self.project) || self.uses_any(one));
        let start =
            |one: &Container| Some(Start { id: one.id.clone(), at: one.started()?.to_owned() });
        Ok(ours.filter_map(start).collect())
    }

    /// Whether a container was started since the first exchange. The engine's start times are compared as
    /// texts, so the result does not depend on the clock.
    pub fn has_run_since(&self, docker: &Docker) -> Result<bool> {
        let Some(before) = &self.exchanged_after else { return Ok(false) };
        if self.kept.is_some() || !self.any_exchanged()? {
            return Ok(false);
        }
        let now = self.starts(docker)?;
        let is_gone = |one: &Start| now.iter().all(|other| other.id != one.id);
        Ok(now.iter().any(|one| !before.contains(one))
            || (self.started && before.iter().any(is_gone)))
    }

    /// Disables restart policies, so that the engine does not start these containers when it starts while parts
    /// are exchanged.
    pub fn disable_policies(
        &mut self,
        docker: &Docker,
        containers: &[&Container],
        intent: &Intent,
    ) -> Result<()> {
        let mut ids = Vec::new();
        for one in containers {
            let Some(policy) = one.restart_policy().filter(|policy| policy.restarts()) else {
                continue;
            };
            self.policies.retain(|other| other.id != one.id);
            self.policies.push(Policy { id: one.id.clone(), policy: policy.clone() });
            ids.push(one.id.as_str());
        }
        self.note(intent)?;
        docker.set_restart_policy(&RestartPolicy::no(), &ids)
    }

    /// Restores restart policies. Containers that were replaced have theirs from the configuration.
    pub fn restore_policies(&self, docker: &Docker) -> Result<()> {
        let ids: Vec<&str> = self.policies.iter().map(|one| one.id.as_str()).collect();
        let existing = docker.inspect_containers(&ids)?;
        for Policy { id, policy } in &self.policies {
            if existing.iter().any(|one| one.id == *id) {
                docker.set_restart_policy(policy, &[id])?;
            }
        }
        Ok(())
    }
}
