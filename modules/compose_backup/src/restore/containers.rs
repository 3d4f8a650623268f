//! Restores containers as they were recorded: running ones are started, ended ones are created but not started,
//! paused ones are paused again.
//!
//! Each replica gets its own anonymous volumes. A configuration cannot say which replica has which, but a
//! container that Compose recreates takes over the volumes of the one that it replaces. If that one is
//! missing, a stand-in with its labels and volumes is made.
//!
//! Invariants: a stand-in never runs; a container that is replaced by one has been stopped, and its volumes
//! are kept; each step looks at the current state and may be repeated.

use crate::compose::{Compose, Up};
use crate::docker::Docker;
use crate::docker::inspect::{CONFIG_HASH, Container, NUMBER, ONE_OFF, PROJECT, SERVICE};
use crate::images::{self, Loaded};
use crate::manifest::{ContainerRecord, ServiceRecord};
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// The services of a project as they were recorded.
pub struct Recorded<'a> {
    pub docker: &'a Docker,
    pub project: &'a str,
    pub services: &'a BTreeMap<String, ServiceRecord>,
    /// The images of the backup in the engine.
    pub loaded: &'a [Loaded],
    /// Whether to leave out the services that these depend on.
    pub alone: bool,
}

impl Recorded<'_> {
    pub fn running(&self) -> Vec<String> {
        let running = self.services.iter().filter(|(_, one)| one.running);
        running.map(|(name, _)| name.clone()).collect()
    }

    /// Brings them up. With `wait`, Compose waits until all run.
    pub fn bring_up(&self, compose: &Compose, wait: bool, patience: Duration) -> Result<()> {
        self.make_stand_ins()?;
        let up = |services: &[String], start: bool, alone: bool| {
            let scale = services.iter().filter_map(|name| {
                let record = self.services.get(name)?;
                let number = if start { record.scale } else { record.containers.len() };
                // Also for one, since the configuration may say more.
                Some((name.clone(), number))
            });
            let scale = scale.collect();
            let up = Up { services, scale: &scale, start, alone, wait: wait && start, patience };
            match services.is_empty() {
                true => Ok(()),
                false => compose.up(&up).map(drop),
            }
        };
        let idle = idle(self.services);
        let running = self.running();
        // Compose does not start paused containers.
        let paused = self.paused(|now| now.state.paused)?;
        self.docker.unpause(&ids(&paused))?;
        up(&idle, false, true)?;
        // Without `--no-deps` Compose would also start an idle service that others depend on: a job would
        // change the restored data.
        up(&running, true, self.alone || !idle.is_empty())
    }

    pub fn pause_again(&self) -> Result<()> {
        let paused = self.paused(|now| now.state.running && !now.state.paused)?;
        self.docker.pause(&ids(&paused))
    }

    /// Returns the containers that were recorded as paused and have this state.
    fn paused(&self, state: impl Fn(&Container) -> bool) -> Result<Vec<Container>> {
        if !self.any(ContainerRecord::is_paused) {
            return Ok(Vec::new());
        }
        let was_paused = |now: &Container| {
            let record = now.service().and_then(|name| self.services.get(name));
            let mut recorded = record.iter().flat_map(|one| &one.containers);
            recorded.any(|one| one.is_paused() && Some(one.number) == now.number())
        };
        let all = self.docker.containers_of(self.project)?;
        Ok(all.into_iter().filter(|now| was_paused(now) && state(now)).collect())
    }

    fn any(&self, is: impl Fn(&ContainerRecord) -> bool) -> bool {
        self.services.values().flat_map(|one| &one.containers).any(is)
    }

    fn make_stand_ins(&self) -> Result<()> {
        if !self.any(|one| !one.volumes.is_empty()) {
            return Ok(());
        }
        let now = self.docker.containers_of(self.project)?;
        for (service, record) in self.services {
            let wanted = record.containers.iter().filter(|one| one.was_running() == record.running);
            for one in wanted {
                let mut volumes = Vec::new();
                for (target, name) in &one.volumes {
                    // A volume that is not in the backup may not exist any more.
                    if self.docker.volume(name)?.is_some() {
                        volumes.push((target.as_path(), name.as_str()));
                    }
                }
                let current = now
                    .iter()
                    .find(|it| it.service() == Some(service) && it.number() == Some(one.number));
                let has = |(target, name): &(&Path, &str)| {
                    current.is_some_and(|current| current.has_volume(target, name))
                };
                if volumes.iter().all(has) {
                    continue;
                }
                if let Some(current) = current {
                    self.docker.stop(&[&current.id], None)?;
                    self.docker.remove_container(&current.id)?;
                }
                self.make_stand_in(service, record, one, &volumes)?;
            }
        }
        Ok(())
    }

    fn make_stand_in(
        &self,
        service: &str,
        record: &ServiceRecord,
        one: &ContainerRecord,
        volumes: &[(&Path, &str)],
    ) -> Result<()> {
        let loaded = self.loaded.iter().find(|image| Some(&image.id) == record.image_id.as_ref());
        let image = match (loaded, &record.image_id) {
            (Some(loaded), _) => &loaded.id_now,
            (None, Some(id)) => id,
            (None, None) => &record.image,
        };
        let labels = [
            (PROJECT, self.project),
            (SERVICE, service),
            (NUMBER, &one.number.to_string()),
            (ONE_OFF, "False"),
            // A hash of no configuration, so that Compose replaces it.
            (CONFIG_HASH, "stand-in"),
        ];
        let labels = labels.map(|(name, value)| format!("--label={name}={value}"));
        let mounts = volumes.iter().map(|(target, name)| {
            format!(
                "type=volume,source={name},volume-nocopy,{}",
                field("target", &target.display())
            )
        });
        // Otherwise the engine would make a new volume for each of these.
        let others =
            images::inspect(self.docker, image)?.map(|it| it.volumes()).unwrap_or_default();
        let is_other =
            |path: &&String| volumes.iter().all(|(target, _)| *target != Path::new(path));
        let others = others
            .iter()
            .filter(is_other)
            .map(|path| format!("type=tmpfs,{}", field("target", path)));
        let mounts = mounts.chain(others).map(|mount| format!("--mount={mount}"));
        self.docker.create_container(labels.into_iter().chain(mounts).collect(), image)
    }
}

/// Returns the services whose containers were all stopped.
pub fn idle(services: &BTreeMap<String, ServiceRecord>) -> Vec<String> {
    let idle = services.iter().filter(|(_, one)| !one.running && !one.containers.is_empty());
    idle.map(|(name, _)| name.clone()).collect()
}

fn ids(containers: &[Container]) -> Vec<&str> {
    containers.iter().map(|one| one.id.as_str()).collect()
}

/// Quotes a field of the comma-separated values of `--mount`.
fn field(key: &str, value: &dyn Display) -> String {
    format!("\"{key}={}\"", value.to_string().replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_one_field_whatever_it_is_called() {
        assert_eq!(field("target", &"/a,readonly"), "\"target=/a,readonly\"");
        assert_eq!(field("target", &"/a\"b"), "\"target=/a\"\"b\"");
    }
}
