//! Docker, through its client's JSON: `docker` (these containers are healthy) and `compose` (a whole
//! project is).
//!
//! Invariant: healthy means running, and said to be healthy by the container's own check if it has one.
//! A check that is still starting, a paused container and one that restarts again and again have not
//! held.

use super::program;
use crate::observation::{Ask, Observation, Try, last_line, shown};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use host::deadline::Deadline;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    pub id: String,
    name: String,
    #[serde(default)]
    pub restart_count: u64,
    state: State,
    #[serde(default)]
    config: Config,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: String,
    #[serde(default)]
    exit_code: i64,
    health: Option<Health>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    status: String,
    log: Option<Vec<Check>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(default)]
    output: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    labels: Option<BTreeMap<String, String>>,
}

impl Container {
    pub fn name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(name).map(String::as_str)
    }

    fn is_healthy(&self) -> Result<(), String> {
        let name = shown(self.name());
        if self.state.status != "running" {
            let code = match self.state.status.as_str() {
                "exited" | "dead" => format!(" with {}", self.state.exit_code),
                _ => String::new(),
            };
            return Err(format!("{name} is {}{code}, not running", shown(&self.state.status)));
        }
        match &self.state.health {
            Some(health) if !["healthy", "none", ""].contains(&health.status.as_str()) => {
                let log = health.log.as_ref().and_then(|log| log.last());
                let said = log.map(|check| last_line(&check.output)).unwrap_or_default();
                let said = if said.is_empty() { said } else { format!(": {said}") };
                Err(format!("{name} is {}{said}", shown(&health.status)))
            }
            _ => Ok(()),
        }
    }

    /// Whether the container has a health check.
    fn is_checked(&self) -> bool {
        self.state.health.as_ref().is_some_and(|health| health.status == "healthy")
    }
}

/// Inspects containers by names or ids; all of them must exist.
pub fn inspect(names: &[String], deadline: Deadline) -> Result<Vec<Container>, String> {
    let command = program::command("docker", deadline)?;
    let command = command.args(["inspect", "--type", "container", "--"]).args(names);
    let containers: Vec<Container> = command
        .run()
        .map_err(|failed| match missing_container(&failed.stderr) {
            Some(name) => format!("there is no container {name}"),
            None => failed.to_string(),
        })?
        .json()
        .map_err(|why| format!("{why:#}"))?;
    match containers.len() == names.len() {
        true => Ok(containers),
        false => Err("docker inspect did not report all containers".to_owned()),
    }
}

/// Parses `Error: No such container: web`; Docker 28 and newer print it in lower case.
fn missing_container(stderr: &str) -> Option<String> {
    let (_, name) = stderr.lines().find_map(|line| {
        line.split_once("o such container: ").or_else(|| line.split_once("o such object: "))
    })?;
    Some(shown(name))
}

fn judge(containers: &[Container]) -> Observation {
    let failure: Vec<String> =
        containers.iter().filter_map(|container| container.is_healthy().err()).collect();
    let healthy = containers.len() - failure.len();
    let unchecked = containers.iter().filter(|one| one.is_healthy().is_ok() && !one.is_checked());
    let mut answer = format!("{healthy} of {} healthy", containers.len());
    match unchecked.count() {
        0 => {}
        unchecked => answer += &format!(", {unchecked} of them running without a check"),
    }
    let verdict = if failure.is_empty() { Ok(()) } else { Err(failure.join(", ")) };
    Observation::new(answer).value(healthy as f64).judged(verdict)
}

pub struct Docker {
    containers: Vec<String>,
}

impl Docker {
    pub fn parse(options: &mut ProbeOptions) -> Result<Docker, Failure> {
        let containers = options.words("containers")?;
        if containers.is_empty() {
            return Err(options.refuse("kind docker needs containers".to_owned()));
        }
        Ok(Docker { containers })
    }
}

impl Ask for Docker {
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        Ok(judge(&inspect(&self.containers, now.deadline())?))
    }
}

/// A project, found by the labels that Compose puts on its containers, so that the target needs no Compose.
pub struct Compose {
    project: String,
    services: Vec<String>,
    count: Option<u64>,
}

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const ONE_OFF: &str = "com.docker.compose.oneoff";

impl Compose {
    pub fn parse(options: &mut ProbeOptions) -> Result<Compose, Failure> {
        let project = options.word("project")?;
        let project = project.ok_or_else(|| options.refuse("kind compose needs project".into()))?;
        let (services, count) = (options.words("services")?, options.integer("count", 1)?);
        Ok(Compose { project, services, count })
    }

    fn judge(&self, containers: Vec<Container>) -> Observation {
        let wanted = |one: &Container| {
            let service = one.label(SERVICE).unwrap_or_default();
            one.label(ONE_OFF) != Some("True")
                && (self.services.is_empty() || self.services.iter().any(|name| name == service))
        };
        let all: Vec<Container> = containers.into_iter().filter(wanted).collect();
        let mut missing_container = self
            .services
            .iter()
            .filter(|service| !all.iter().any(|one| one.label(SERVICE) == Some(service.as_str())));
        let mut seen = judge(&all);
        if let Some(service) = missing_container.next() {
            seen.failure = Some(format!("the service {service} has no container"));
        } else if all.is_empty() {
            seen.failure = Some(format!("the project {} has no containers", self.project));
        } else if let (None, Some(count)) = (&seen.failure, self.count) {
            if all.len() as u64 != count {
                seen.failure =
                    Some(format!("expected {count} containers, there are {}", all.len()));
            }
        }
        seen
    }
}

impl Ask for Compose {
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        let deadline = now.deadline();
        let filter = format!("label={PROJECT}={}", self.project);
        let args = ["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter];
        let ids: Vec<String> =
            program::text("docker", &args, deadline)?.lines().map(str::to_owned).collect();
        let containers = if ids.is_empty() { Vec::new() } else { inspect(&ids, deadline)? };
        Ok(self.judge(containers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(name: &str, state: Value, service: &str) -> Container {
        let labels = json!({ SERVICE: service, PROJECT: "shop" });
        let all = json!({
            "Id": format!("id-{name}"), "Name": format!("/{name}"), "RestartCount": 0,
            "State": state, "Config": { "Labels": labels },
        });
        serde_json::from_value(all).unwrap()
    }

    fn running(health: Value) -> Value {
        json!({ "Status": "running", "ExitCode": 0, "Health": health })
    }

    #[test]
    fn an_unhealthy_container_is_reported_with_its_reason() {
        let healthy = running(json!({ "Status": "healthy", "Log": [] }));
        assert_eq!(container("a", healthy.clone(), "web").is_healthy(), Ok(()));
        assert_eq!(container("a", json!({"Status": "running"}), "web").is_healthy(), Ok(()));
        for (state, words) in [
            (json!({"Status": "exited", "ExitCode": 137}), "a is exited with 137, not running"),
            (json!({"Status": "paused"}), "a is paused, not running"),
            (json!({"Status": "restarting"}), "a is restarting, not running"),
            (running(json!({"Status": "starting"})), "a is starting"),
            (
                running(json!({"Status": "unhealthy", "Log": [{"Output": "x\ncurl: (7) no\n"}]})),
                "a is unhealthy: curl: (7) no",
            ),
        ] {
            assert_eq!(container("a", state, "web").is_healthy().unwrap_err(), words);
        }
        let seen = judge(&[
            container("a", healthy, "web"),
            container("b", json!({"Status": "running"}), "db"),
        ]);
        assert_eq!(seen.answer, "2 of 2 healthy, 1 of them running without a check");
    }

    #[test]
    fn all_services_of_a_project_must_be_healthy() {
        let compose = |services: &[&str], count| Compose {
            project: "shop".into(),
            services: services.iter().map(|name| (*name).to_owned()).collect(),
            count,
        };
        let all = || {
            vec![
                container("a", json!({"Status": "running"}), "web"),
                container("b", json!({"Status": "exited", "ExitCode": 0}), "migrate"),
            ]
        };
        assert_eq!(compose(&["web"], Some(1)).judge(all()).failure, None);
        let failure = |compose: Compose, all| compose.judge(all).failure.unwrap_or_default();
        assert_eq!(failure(compose(&[], None), all()), "b is exited with 0, not running");
        assert_eq!(
            failure(compose(&["web", "db"], None), all()),
            "the service db has no container"
        );
        assert_eq!(
            failure(compose(&["web"], Some(2)), all()),
            "expected 2 containers, there are 1"
        );
        assert_eq!(failure(compose(&[], None), Vec::new()), "the project shop has no containers");
    }

    #[test]
    fn the_missing_container_is_parsed() {
        assert_eq!(missing_container("Error: No such container: web\n").as_deref(), Some("web"));
        assert_eq!(missing_container("error: no such object: web\n").as_deref(), Some("web"));
        assert_eq!(missing_container("Cannot connect to the Docker daemon"), None);
    }
}
