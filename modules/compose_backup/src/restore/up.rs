//! Starts services as they were recorded, and verifies them.
//!
//! Invariant: success means that every recorded service was seen running, healthy if it has a health check,
//! and with the recorded image, compared by its configuration and its layers.

use crate::compose::Compose;
use crate::docker::inspect::Container;
use crate::images::{self, Loaded, inspect};
use crate::manifest::ServiceRecord;
use crate::options::Task;
use crate::parked::RestoreFile;
use crate::resolved;
use crate::restore::containers::{self, Recorded};
use crate::restore::goal::Goal;
use crate::state::Tools;
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::deadline::{Deadline, TimedOut, poll_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const FIRST_LOOK: Duration = Duration::from_millis(200);

/// What a start waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Started,
    Healthy,
}

/// A service and the image that it runs on.
#[derive(Clone, Debug)]
pub struct Running {
    pub service: String,
    pub image_id: String,
}

pub struct Starting<'a> {
    pub task: &'a Task,
    pub tools: &'a Tools,
    pub state_dir: &'a Path,
    pub goal: &'a Goal,
}

impl Starting<'_> {
    /// Starts the services; returns warnings.
    pub fn start(&self, loaded: &[Loaded], until: Until) -> Result<Vec<String>> {
        let recorded = Recorded {
            docker: &self.tools.docker,
            project: &self.goal.project,
            services: &self.goal.services,
            loaded,
            alone: self.goal.is_partial,
        };
        let services = recorded.running();
        if services.is_empty() && containers::idle(&self.goal.services).is_empty() {
            return Ok(Vec::new());
        }
        let (compose, warnings) = self.compose(loaded)?;
        // With --wait, Compose counts a container that has ended successfully as failed.
        let mut records = self.goal.services.values().flat_map(|one| &one.containers);
        let all_ran =
            records.all(|one| one.state == "running" && one.health.as_deref() != Some("unhealthy"));
        recorded
            .bring_up(&compose, all_ran && until == Until::Healthy, self.task.wait)
            .context("starting the services")?;
        if until == Until::Healthy {
            self.wait(&services)?;
        }
        recorded.pause_again()?;
        Ok(warnings)
    }

    fn wait(&self, services: &[String]) -> Result<()> {
        let mut missing = Vec::new();
        let deadline = Deadline::after(self.task.wait);
        let seen =
            poll_until(deadline, FIRST_LOOK, "the services to be running and healthy", || {
                let containers = self.tools.docker.containers_of(&self.goal.project)?;
                missing =
                    services.iter().filter_map(|name| self.trouble(name, &containers)).collect();
                Ok(missing.is_empty().then_some(()))
            });
        seen.map_err(|error| match error.downcast_ref::<TimedOut>() {
            Some(_) => {
                let msg = format!("the restored services do not run: {}", missing.join("; "));
                Failure::new("not_verified", msg).caused_by(error).into()
            }
            None => error,
        })
    }

    fn trouble(&self, service: &str, containers: &[Container]) -> Option<String> {
        let wanted = self.goal.services.get(service).map_or(1, |one| one.scale);
        let all: Vec<&Container> =
            containers.iter().filter(|one| one.service() == Some(service)).collect();
        let good = |one: &&&Container| {
            one.is_up() && one.health().is_none_or(|health| health == "healthy")
        };
        let may_be_unhealthy = self.goal.services.get(service).is_some_and(was_unhealthy);
        let up = all.iter().filter(|one| good(one) || (may_be_unhealthy && one.is_up())).count();
        (up < wanted).then(|| {
            let state = |one: &&Container| {
                let health = one.health().unwrap_or("");
                let text = format!("{} is {} {health}", one.name(), one.state.status);
                text.trim_end().to_owned()
            };
            format!("{service}: {up} of {wanted} ({})", host::joined(all.iter().map(state)))
        })
    }

    /// Uses the restored files if they resolve to the recorded configuration, else that configuration.
    fn compose(&self, loaded: &[Loaded]) -> Result<(Compose, Vec<String>)> {
        let goal = self.goal;
        let mut config = goal.config.clone();
        let changed = self.replace_references(&mut config, loaded)?;
        let dir = &goal.work.project_dir;
        let (mut compose, same) =
            self.tools.recorded(&goal.project, dir, &goal.compose, &goal.config);
        if same && !changed {
            return Ok((compose, Vec::new()));
        }
        without_profiles(&mut config);
        let path = RestoreFile::Compose.write(self.state_dir, &goal.work.id, &config)?;
        // A missing folder is made, since relative paths were resolved with it.
        std::fs::create_dir_all(&goal.work.project_dir).context("making the project's folder")?;
        compose.files = vec![path];
        (compose.profiles, compose.env_files) = (Vec::new(), Vec::new());
        let warning = format!(
            "the services were started from the recorded configuration, since the files in {} resolve to another one (by a \
             variable of the environment, or an image by its digest): the next `docker compose up` may recreate them",
            goal.work.project_dir.display()
        );
        Ok((compose, if goal.is_partial { Vec::new() } else { vec![warning] }))
    }

    /// Replaces image references by id or digest, which a loaded image cannot get, by the image's current id.
    fn replace_references(&self, config: &mut Value, loaded: &[Loaded]) -> Result<bool> {
        let mut changed = false;
        for (name, record) in &self.goal.services {
            let now = loaded.iter().find(|one| Some(&one.id) == record.image_id.as_ref());
            let wanted = match (now, &record.image_id) {
                (Some(_), _) if images::is_tag(&record.image) => continue,
                (Some(now), _) => &now.id_now,
                // A tag may have been moved while the container was running.
                (None, Some(id)) if self.goal.undone.is_some() => id,
                (None, _) => continue,
            };
            let seen = inspect(&self.tools.docker, &record.image)?;
            if seen.is_none_or(|seen| now.is_none() && seen.id != *wanted) {
                config["services"][name]["image"] = json!(wanted);
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Checks that the running images are the recorded ones.
    pub fn compare(&self, loaded: &[Loaded]) -> Result<Vec<Running>> {
        let docker = &self.tools.docker;
        let containers = docker.containers_of(&self.goal.project)?;
        let mut running = Vec::new();
        for name in self.goal.to_run() {
            let record = &self.goal.services[&name];
            for container in
                containers.iter().filter(|one| one.service() == Some(&name) && one.state.running)
            {
                let wrong = |how: String| {
                    let msg = format!("service {name} runs on {}, which {how}", container.image);
                    Failure::new("not_verified", msg)
                };
                let image = loaded.iter().find(|one| Some(&one.id) == record.image_id.as_ref());
                match (&self.goal.manifest, &self.goal.folder, image) {
                    (Some(manifest), Some(folder), Some(_)) => {
                        let recorded = manifest
                            .images
                            .iter()
                            .find(|one| Some(&one.id) == record.image_id.as_ref());
                        let recorded = recorded.context("an image is not in the manifest")?;
                        let seen = inspect(docker, &container.image)?;
                        let seen =
                            seen.ok_or_else(|| wrong("is not in the engine any more".into()))?;
                        if let Some(how) =
                            images::difference_to(recorded, &folder.join("images"), &seen)?
                        {
                            return Err(wrong(how).into());
                        }
                    }
                    _ if record.image_id.as_ref().is_none_or(|id| *id == container.image) => {}
                    _ => return Err(wrong("is not the one that ran before".into()).into()),
                }
                running.push(Running { service: name.clone(), image_id: container.image.clone() });
            }
        }
        Ok(running)
    }
}

/// Whether it was already unhealthy when it was recorded.
fn was_unhealthy(record: &ServiceRecord) -> bool {
    record.containers.iter().any(|one| one.health.as_deref() == Some("unhealthy"))
}

/// Sorts recorded services into levels: each depends only on earlier ones.
pub fn levels(services: &BTreeMap<String, ServiceRecord>) -> Vec<Vec<String>> {
    resolved::levels(services.iter().map(|(name, record)| (name, &record.depends_on)))
}

fn without_profiles(config: &mut Value) {
    let services = config.get_mut("services").and_then(Value::as_object_mut);
    for service in services.into_iter().flat_map(|map| map.values_mut()) {
        if let Some(service) = service.as_object_mut() {
            service.remove("profiles");
        }
    }
}
