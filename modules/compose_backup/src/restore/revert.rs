//! Reverts a restore: puts the parked data back and starts the services on it.
//!
//! Invariants: each step looks at the current state and may be repeated; services are stopped before
//! anything is exchanged, and started after everything was exchanged back; the restored data is kept, with a
//! record of its own, since something may have been written to it.

use crate::compose::Compose;
use crate::docker::inspect::Container;
use crate::freeze::{self, Frozen};
use crate::images;
use crate::options::Mode;
use crate::parked::{self, RestoreFile};
use crate::restore::containers::Recorded;
use crate::restore::part::Part;
use crate::restore::part::sibling;
use crate::restore::staging::remove_staged;
use crate::restore::swap::{self, Aside};
use crate::restore::up;
use crate::restore::work::Work;
use crate::state::Tools;
use anyhow::{Context, Result};
use host::atomic::read_json;
use host::deploy_id::DeployId;
use host::record::Intent;
use std::path::{Path, PathBuf};
use std::time::Duration;

const START: Duration = Duration::from_secs(300);

pub struct Revert<'a> {
    pub tools: &'a Tools,
    pub state_dir: &'a Path,
}

impl Revert<'_> {
    /// Reverts the restore; returns the names of the containers that were started.
    pub fn run(&self, work: &mut Work, intent: &Intent) -> Result<Vec<String>> {
        let _shield = host::interrupt::shield();
        if !work.touched {
            remove_staged(work)?;
            self.forget(work)?;
            return Ok(Vec::new());
        }
        let docker = &self.tools.docker;
        // Noted once: later, the names do not show any more which parts were exchanged.
        if work.kept.is_none() && work.exchanged_after.is_some() {
            for part in &mut work.parts {
                part.was_in_place = swap::is_exchanged(part)?;
            }
            work.kept = Some(DeployId::generate()?.to_string());
            work.note(intent)?;
        }
        if let Some(kept) =
            work.kept.clone().filter(|_| work.parts.iter().any(|part| part.was_in_place))
        {
            self.exchange(work, &kept, intent)?;
        }
        images::retag(docker, &work.tags)?;
        let started = self.start(work)?;
        work.restore_policies(docker)?;
        remove_staged(work)?;
        self.record(work)?;
        self.forget(work)?;
        Ok(started)
    }

    fn forget(&self, work: &Work) -> Result<()> {
        // The id may also be that of the restore that was to be undone.
        match work.undo_of.as_ref() == Some(&work.id) {
            true => Ok(()),
            false => parked::forget(self.state_dir, &work.id),
        }
    }

    fn exchange(&self, work: &mut Work, kept: &str, intent: &Intent) -> Result<()> {
        let docker = &self.tools.docker;
        let containers = docker.containers_of(&work.project)?;
        // Only containers that use the data must be stopped.
        let affected: Vec<&Container> =
            containers.iter().filter(|one| work.uses_any(one)).collect();
        work.disable_policies(docker, &affected, intent)?;
        let services = up::levels(&work.services_before);
        Frozen::of(&affected, &services, Mode::Stop).stop(docker, None)?;
        let (id, parts) = (work.id.clone(), work.parts.clone());
        for part in parts.iter().rev().filter(|part| part.was_in_place) {
            let kept = kept_path(work, part, kept);
            let note = &mut |path| {
                work.found.push(path);
                work.note(intent)
            };
            swap::backward(part, &kept, &mut Aside { id: &id, note })
                .with_context(|| format!("putting {} back", part.title))?;
        }
        Ok(())
    }

    /// Records the restored data that is kept, so that it is listed; only `state: absent` removes it.
    fn record(&self, work: &mut Work) -> Result<()> {
        let Some(kept) = work.kept.clone() else { return Ok(()) };
        let mut parts = work.parts.clone();
        // Data that an earlier restore has parked belongs to that restore again.
        parts.retain(|part| part.was_in_place && work.undo_of.is_none());
        for part in &mut parts {
            part.parked = kept_path(work, part, &kept);
        }
        work.parts = parts;
        if work.parked().next().is_none() {
            return Ok(());
        }
        let record = Work { id: kept, was_put_back: true, kept: None, ..work.clone() };
        parked::write(self.state_dir, &record)
    }

    /// Starts the containers that ran before if they still exist; else Compose recreates them from the noted
    /// configuration.
    fn start(&self, work: &Work) -> Result<Vec<String>> {
        let docker = &self.tools.docker;
        let ids: Vec<&str> =
            work.stopped.levels.iter().flatten().map(|held| held.id.as_str()).collect();
        let existing = docker.inspect_containers(&ids)?;
        if existing.len() == ids.len() {
            return freeze::thaw(docker, &work.stopped);
        }
        let config = RestoreFile::Before.path(self.state_dir, &work.id)?;
        if !config.exists() {
            return freeze::thaw(docker, &work.stopped);
        }
        let compose = self.compose(work, config)?;
        let before = Recorded {
            docker,
            project: &work.project,
            services: &work.services_before,
            loaded: &[],
            alone: false,
        };
        before.bring_up(&compose, false, START)?;
        before.pause_again()?;
        Ok(before.running())
    }

    /// Uses the project's files if they resolve to the noted configuration, else that configuration.
    fn compose(&self, work: &Work, noted: PathBuf) -> Result<Compose> {
        let value = read_json(&noted)?;
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

/// Returns a warning that says where the restored data is parked after a revert.
pub fn kept_warning(work: &Work) -> Option<String> {
    let kept = work.kept.as_ref()?;
    let paths = work.parked_paths();
    let text = || {
        format!(
            "the data of the reverted restore {} is parked at {}: state: absent with parked: [{kept}] removes it",
            work.id,
            paths.join(", ")
        )
    };
    (!paths.is_empty()).then(text)
}

fn kept_path(work: &Work, part: &Part, kept: &str) -> PathBuf {
    match (&work.undo_of, &part.staged) {
        (Some(_), Some(staged)) => staged.clone(),
        _ => sibling(&part.source, "parked", kept),
    }
}
