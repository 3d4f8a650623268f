//! What a restore is about: noted in the intent before anything is touched, kept as the record of
//! what it has parked when it is done.
//!
//! Invariants: which parts are exchanged is not noted but looked at: what stands at each part's names says
//! it. What was ever in its place is kept until `state: absent` removes it, with its loss stated.

use crate::docker::Docker;
use crate::docker::inspect::{Container, RestartPolicy};
use crate::freeze::Frozen;
use crate::images::{Loaded, TagWas};
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
    /// The rollback id: part of the names of what is parked.
    pub id: String,
    pub project: String,
    pub project_dir: PathBuf,
    /// What is put back: a backup, or what an earlier restore has parked.
    pub backup: Option<String>,
    pub undo_of: Option<String>,
    pub at: Utc,
    pub parts: Vec<Part>,
    /// Services are stopped from here on, and parts exchanged.
    pub begun: bool,
    /// What ran before.
    pub stopped: Frozen,
    /// Restart policies that are taken away meanwhile: the engine would start containers at its own start.
    #[serde(default)]
    pub policies: Vec<Policy>,
    /// From the first exchange on: which containers had been started, and when.
    #[serde(default)]
    pub exchanged_after: Option<Vec<Start>>,
    /// Services may have been started on what was put in place.
    #[serde(default)]
    pub started: bool,
    /// The way back is begun: what had been put in place is kept under this id.
    #[serde(default)]
    pub kept: Option<String>,
    /// A record of what was put in place and has been replaced again.
    #[serde(default)]
    pub was_put_back: bool,
    /// Where foreign files and folders went that stood in the way.
    #[serde(default)]
    pub found: Vec<PathBuf>,
    pub services_before: BTreeMap<String, ServiceRecord>,
    pub compose_before: Option<ComposeRecord>,
    /// What the names of images pointed to before.
    pub tags: Vec<TagWas>,
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
    /// What this one is about, for a sentence.
    pub fn title(&self) -> String {
        match (&self.backup, &self.undo_of) {
            (Some(name), _) => name.clone(),
            (None, Some(id)) => format!("what restore {id} has parked"),
            (None, None) => "nothing".to_owned(),
        }
    }

    pub fn note(&self, intent: &Intent) -> Result<()> {
        intent.note(NOTE, self)
    }

    /// All that is kept, also what was found in the way.
    pub fn parked(&self) -> impl Iterator<Item = &PathBuf> {
        let all = self.parts.iter().map(|part| &part.parked).chain(&self.found);
        all.filter(|path| path.symlink_metadata().is_ok())
    }

    pub fn parked_paths(&self) -> Vec<String> {
        self.parked().map(|path| path.display().to_string()).collect()
    }

    /// For the warnings of a result.
    pub fn set_aside(&self) -> Option<String> {
        let there = self.found.iter().filter(|path| path.symlink_metadata().is_ok());
        let paths: Vec<String> = there.map(|path| path.display().to_string()).collect();
        let text = || {
            format!(
                "something was in the way that restore {} knows nothing of, and is set aside: {}",
                self.id,
                paths.join(", ")
            )
        };
        (!paths.is_empty()).then(text)
    }

    /// Some part is exchanged.
    pub fn is_begun(&self) -> Result<bool> {
        self.parts.iter().try_fold(false, |any, part| Ok(any || swap::is_exchanged(part)?))
    }

    /// All are.
    pub fn is_exchanged(&self) -> Result<bool> {
        self.parts.iter().try_fold(true, |all, part| Ok(all && swap::is_exchanged(part)?))
    }

    pub fn uses_any(&self, container: &Container) -> bool {
        // A tmpfs has no source, and every path would lie in it.
        let mut mounts = container.mounts.iter().filter(|one| !one.source.as_os_str().is_empty());
        mounts.any(|one| {
            self.parts.iter().any(|part| {
                one.source.starts_with(&part.source) || part.source.starts_with(&one.source)
            })
        })
    }

    /// When each container that uses one of the parts, or is of the project, was started.
    pub fn starts(&self, docker: &Docker) -> Result<Vec<Start>> {
        let all = docker.all_containers()?;
        let ours =
            all.iter().filter(|one| one.project() == Some(&self.project) || self.uses_any(one));
        let start =
            |one: &Container| Some(Start { id: one.id.clone(), at: one.started()?.to_owned() });
        Ok(ours.filter_map(start).collect())
    }

    /// Whether something was started since the first part was exchanged. By the engine's own times of each
    /// container, compared as texts: a clock that is set back says nothing wrong.
    pub fn has_run_since(&self, docker: &Docker) -> Result<bool> {
        let Some(before) = &self.exchanged_after else { return Ok(false) };
        if self.kept.is_some() || !self.is_begun()? {
            return Ok(false);
        }
        let now = self.starts(docker)?;
        let is_gone = |one: &Start| now.iter().all(|other| other.id != one.id);
        Ok(now.iter().any(|one| !before.contains(one))
            || (self.started && before.iter().any(is_gone)))
    }

    /// So that the engine starts none of these at its own start while parts are exchanged.
    pub fn take_policies(
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
            self.policies.retain(|known| known.id != one.id);
            self.policies.push(Policy { id: one.id.clone(), policy: policy.clone() });
            ids.push(one.id.as_str());
        }
        self.note(intent)?;
        docker.set_restart_policy(&RestartPolicy::no(), &ids)
    }

    /// Containers that are gone had theirs from the configuration, and so have those that took their place.
    pub fn give_policies(&self, docker: &Docker) -> Result<()> {
        let ids: Vec<&str> = self.policies.iter().map(|one| one.id.as_str()).collect();
        let there = docker.inspect_containers(&ids)?;
        for Policy { id, policy } in &self.policies {
            if there.iter().any(|one| one.id == *id) {
                docker.set_restart_policy(policy, &[id])?;
            }
        }
        Ok(())
    }
}
