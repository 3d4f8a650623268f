//! Stops or pauses the containers that write, and starts them again whatever happens.
//!
//! Invariants: the intent names the frozen containers before the first one is touched; dropping the guard
//! thaws, under a shield from signals; thawing looks at the current state of each container, so it may be
//! repeated, and continues after one that fails.

use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::options::Mode;
use ansible_module::Failure;
use anyhow::{Error, Result};
use host::deadline::{Deadline, poll_until};
use host::interrupt;
use host::record::Intent;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

pub const NOTE: &str = "frozen";
/// How long the start of a container waits for its dependencies to be healthy.
const HEALTHY: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub id: String,
    pub name: String,
    /// Whether it had been paused before.
    #[serde(default)]
    pub was_paused: bool,
}

/// The containers that were running, by levels, in the order in which they are started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    pub paused: bool,
    pub levels: Vec<Vec<Held>>,
}

impl Frozen {
    /// Collects the running ones of `containers` by the levels of their services.
    pub fn of(containers: &[&Container], levels: &[Vec<String>], mode: Mode) -> Frozen {
        let level_of = |container: &Container| {
            let service = container.service().unwrap_or_default();
            levels.iter().position(|level| level.iter().any(|one| one == service))
        };
        let mut held = vec![Vec::new(); levels.len() + 1];
        for container in containers.iter().filter(|one| one.state.running) {
            let one = Held {
                id: container.id.clone(),
                name: container.name().to_owned(),
                was_paused: container.state.paused,
            };
            held[level_of(container).unwrap_or(levels.len())].push(one);
        }
        held.retain(|level| !level.is_empty());
        Frozen { paused: mode == Mode::Pause, levels: held }
    }

    pub fn names(&self) -> Vec<String> {
        self.levels.iter().flatten().map(|held| held.name.clone()).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Stops or pauses all, dependents first. Signals have to wait: an interrupted stop would go on in the
    /// engine after the next run has found everything running.
    pub fn stop(&self, docker: &Docker, patience: Option<u64>) -> Result<()> {
        let _shield = interrupt::shield();
        for level in self.levels.iter().rev() {
            let ids: Vec<&str> = level.iter().map(|held| held.id.as_str()).collect();
            match self.paused {
                true => docker.pause(&ids)?,
                false => docker.stop(&ids, patience)?,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub stop: Duration,
    pub copy: Duration,
    pub start: Duration,
}

/// Frozen containers, which are started again when it is dropped.
pub struct Guard<'a> {
    docker: &'a Docker,
    intent: &'a Intent,
    frozen: &'a Frozen,
    began: Instant,
    stopped: Instant,
    done: bool,
}

/// Notes what is about to be frozen, and freezes it. If that fails half way, everything is started again.
pub fn freeze<'a>(
    docker: &'a Docker,
    intent: &'a Intent,
    frozen: &'a Frozen,
    patience: Option<u64>,
) -> Result<Guard<'a>> {
    intent.note(NOTE, frozen)?;
    let began = Instant::now();
    let mut guard = Guard { docker, intent, frozen, began, stopped: began, done: false };
    frozen.stop(docker, patience)?;
    guard.stopped = Instant::now();
    Ok(guard)
}

impl Guard<'_> {
    pub fn thaw(mut self) -> Result<Times> {
        let copied = Instant::now();
        self.done = true;
        let _shield = interrupt::shield();
        thaw(self.docker, self.frozen)?;
        let times = Times {
            stop: self.stopped - self.began,
            copy: copied - self.stopped,
            start: copied.elapsed(),
        };
        self.intent.note(NOTE, &Frozen::default())?;
        Ok(times)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let _shield = interrupt::shield();
        // If it fails, the note is kept, and the next run tries again.
        if thaw(self.docker, self.frozen).is_ok() {
            let _ = self.intent.note(NOTE, &Frozen::default());
        }
    }
}

/// Starts the containers that are not running, dependencies first, and pauses again those that had been
/// paused. Returns the names of those that were started.
pub fn thaw(docker: &Docker, frozen: &Frozen) -> Result<Vec<String>> {
    let (mut started, mut failed): (Vec<String>, Vec<(String, Error)>) = (Vec::new(), Vec::new());
    for (n, level) in frozen.levels.iter().enumerate() {
        let ids: Vec<&str> = level.iter().map(|held| held.id.as_str()).collect();
        // A container that was removed meanwhile is skipped.
        let now = docker.inspect_containers(&ids)?;
        let was_paused =
            |one: &&Container| level.iter().any(|held| held.was_paused && held.id == one.id);
        let mut paused: Vec<&Container> = now.iter().filter(|one| one.state.paused).collect();
        paused.retain(|one| !was_paused(one));
        let down: Vec<&Container> = now.iter().filter(|one| !one.state.running).collect();
        for (which, start) in [(&paused, false), (&down, true)] {
            let ids: Vec<&str> = which.iter().map(|one| one.id.as_str()).collect();
            let done = if start { docker.start(&ids) } else { docker.unpause(&ids) };
            let names = which.iter().map(|one| one.name().to_owned());
            match done {
                Ok(()) => started.extend(names),
                Err(error) => failed.push((host::joined(names), error)),
            }
        }
        if n + 1 < frozen.levels.len() && !down.is_empty() {
            wait_until_healthy(docker, &ids);
        }
    }
    let held = frozen.levels.iter().flatten().filter(|held| held.was_paused);
    let held: Vec<&str> = held.map(|held| held.id.as_str()).collect();
    let now = docker.inspect_containers(&held)?;
    let now = now.iter().filter(|one| one.state.running && !one.state.paused);
    let to_pause: Vec<&str> = now.map(|one| one.id.as_str()).collect();
    match failed.into_iter().next() {
        None => docker.pause(&to_pause).map(|()| started),
        Some((names, error)) => {
            let msg = format!(
                "cannot start {names} again; find out why, then run the module with state: thawed"
            );
            Err(Failure::new("not_thawed", msg)
                .with("frozen", frozen.names())
                .caused_by(error)
                .into())
        }
    }
}

/// Waits until these containers are healthy again; returns the names of those that are not.
pub fn wait_for_health(docker: &Docker, ids: &[&str], patience: Duration) -> Result<Vec<String>> {
    let mut sick = Vec::new();
    let waited =
        poll_until(Deadline::after(patience), LOOK, "services to be healthy again", || {
            let now = docker.inspect_containers(ids)?;
            sick = (now.iter().filter(|one| one.health() != Some("healthy")))
                .map(|one| one.name().to_owned())
                .collect();
            Ok(sick.is_empty().then_some(()))
        });
    match waited {
        Err(error) if host::reason(&error) != Some("timed_out") => Err(error),
        _ => Ok(sick),
    }
}

/// Waits for dependencies, as Compose does for `depends_on`. It never fails: their dependents would.
fn wait_until_healthy(docker: &Docker, ids: &[&str]) {
    let _ = poll_until(Deadline::after(HEALTHY), LOOK, "dependencies to be healthy", || {
        let now = docker.inspect_containers(ids)?;
        Ok(now.iter().all(|one| one.health() != Some("starting")).then_some(()))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(service: &str, running: bool, paused: bool) -> Container {
        let labels = json!({ "com.docker.compose.service": service });
        serde_json::from_value(json!({
            "Id": format!("id-{service}"), "Name": format!("/shop-{service}-1"), "Image": "sha256:1",
            "State": { "Status": "any", "Running": running, "Paused": paused },
            "Config": { "Labels": labels },
        }))
        .unwrap()
    }

    #[test]
    fn what_others_depend_on_starts_first_and_what_was_down_stays_down() {
        let levels = [vec!["db".to_owned()], vec!["web".to_owned(), "job".to_owned()]];
        let all = [
            container("web", true, false),
            container("left-over", true, false),
            container("job", false, false),
            container("db", true, true),
        ];
        let frozen = Frozen::of(&all.iter().collect::<Vec<_>>(), &levels, Mode::Stop);
        // A container whose service the files do not have any more is not forgotten.
        assert_eq!(frozen.names(), ["shop-db-1", "shop-web-1", "shop-left-over-1"]);
        assert_eq!(frozen.levels.len(), 3);
        assert!(frozen.levels[0][0].was_paused && !frozen.levels[1][0].was_paused);
        assert!(!frozen.paused && Frozen::of(&[], &levels, Mode::Pause).paused);
        assert!(Frozen::of(&[&all[2]], &levels, Mode::Stop).is_empty());
    }
}
