//! The way back of a restore: what it has parked serves again.
//!
//! Invariant: it looks at what is there and may be repeated; services are stopped before anything is
//! renamed, and started when everything is in its place.

use crate::compose::{Compose, Up};
use crate::docker::inspect::Container;
use crate::freeze::{self, Frozen};
use crate::images;
use crate::parked;
use crate::restore::run::tidy;
use crate::restore::swap;
use crate::restore::up;
use crate::restore::work::Work;
use crate::state::Tools;
use crate::task::Mode;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const START: Duration = Duration::from_secs(300);

pub struct Back<'a> {
    pub tools: &'a Tools,
    pub state_dir: &'a Path,
}

impl Back<'_> {
    /// Names what was started.
    pub fn put_back(&self, work: &Work) -> Result<Vec<String>> {
        let _shield = host::interrupt::shield();
        if !work.begun {
            tidy(work, work.backup.is_some())?;
            return Ok(Vec::new());
        }
        let docker = &self.tools.docker;
        let containers = docker.containers_of(&work.project)?;
        let running: Vec<&Container> = containers.iter().filter(|one| one.state.running).collect();
        let mut touched = false;
        for part in &work.parts {
            touched |= swap::is_begun(part)?;
        }
        if touched {
            let services = up::levels(&work.services_before);
            // Only what shares the data has to stand still; what went on all the time may go on.
            let affected: Vec<&Container> =
                running.into_iter().filter(|one| uses_any(one, work)).collect();
            Frozen::of(&affected, &services, Mode::Stop).stop(docker, None)?;
            for part in work.parts.iter().rev() {
                swap::backward(part).with_context(|| format!("putting {} back", part.title))?;
            }
        }
        images::retag(docker, &work.tags)?;
        let started = self.start(work)?;
        tidy(work, work.backup.is_some())?;
        if work.undo_of.is_none() {
            parked::forget(self.state_dir, &work.id)?;
        }
        Ok(started)
    }

    /// The very containers that ran before, where they are still there; else compose makes them anew
    /// from the configuration that was noted.
    fn start(&self, work: &Work) -> Result<Vec<String>> {
        let docker = &self.tools.docker;
        let ids: Vec<&str> =
            work.stopped.levels.iter().flatten().map(|held| held.id.as_str()).collect();
        let left = docker.inspect_containers(&ids)?;
        if left.len() == ids.len() {
            return freeze::thaw(docker, &work.stopped);
        }
        let config = parked::file(self.state_dir, &work.id, "before.json")?;
        if !config.exists() {
            return freeze::thaw(docker, &work.stopped);
        }
        let compose = self.compose(work, config)?;
        let before = work.services_before.iter().filter(|(_, one)| one.running);
        let services: Vec<String> = before.clone().map(|(name, _)| name.clone()).collect();
        let scale: BTreeMap<String, usize> = before
            .filter(|(_, one)| one.scale > 1)
            .map(|(name, one)| (name.clone(), one.scale))
            .collect();
        if !services.is_empty() {
            let up = Up {
                services: &services,
                scale: &scale,
                alone: false,
                wait: false,
                patience: START,
            };
            compose.up(&up)?;
        }
        Ok(services)
    }

    /// The files are in their place again, and mean what they meant; else what was noted counts.
    fn compose(&self, work: &Work, noted: PathBuf) -> Result<Compose> {
        let content =
            std::fs::read(&noted).with_context(|| format!("reading {}", noted.display()))?;
        let value = serde_json::from_slice(&content)
            .with_context(|| format!("understanding {}", noted.display()))?;
        let record = work.compose_before.clone().unwrap_or_default();
        let dir = &work.project_dir;
        let (mut compose, same) = self.tools.recorded(&work.project, dir, &record, &value);
        if !same {
            compose.files = vec![noted];
            (compose.profiles, compose.env_files) = (vec!["*".to_owned()], Vec::new());
        }
        Ok(compose)
    }
}

fn uses_any(container: &Container, work: &Work) -> bool {
    container.mounts.iter().any(|one| {
        work.parts.iter().any(|part| {
            one.source.starts_with(&part.source) || part.source.starts_with(&one.source)
        })
    })
}
