//! The Docker engine: queries go over its socket (`docker/socket.rs`), changes through the `docker` program.
//! The answers are in `docker/inspect.rs`.
//!
//! Invariants: an engine that does not answer is an error, never an empty answer; names and ids are passed
//! after `--` or as values of options; nothing is pulled.

pub mod inspect;
mod socket;

use ansible_module::Failure;
use anyhow::{Context, Error, Result};
use host::command::{Command, Failed, Output};
use host::program;
use inspect::{Container, PROJECT, RestartPolicy, Volume};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use socket::{Socket, escaped};
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// The deadline of a change. Stopping has its own, longer one.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a stop may take beyond the time that the container has.
const STOP_MARGIN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Docker {
    program: PathBuf,
    /// The address of the engine in docker's notation: `unix:///var/run/docker.sock`.
    pub host: String,
    given_host: Option<String>,
    socket: Socket,
    /// The engine's description, which is read once.
    engine: OnceLock<Engine>,
}

/// The description of an engine.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Engine {
    pub server_version: String,
    /// The storage driver: `overlay2`, or `overlayfs` with the containerd image store.
    #[serde(default)]
    pub driver: String,
    pub docker_root_dir: PathBuf,
}

impl Docker {
    /// Finds the program and the address of its engine.
    pub fn find(given_host: Option<&str>) -> Result<Docker> {
        let program = program::look("docker")?.map_err(|missing| {
            Failure::new("program_missing", "this machine has no docker").caused_by(missing.into())
        })?;
        let docker = Docker {
            program,
            host: String::new(),
            given_host: given_host.map(str::to_owned),
            socket: Socket::at(""),
            engine: OnceLock::new(),
        };
        let host = match given_host.map(str::to_owned).or_else(host_of_environment) {
            Some(host) => host,
            None => docker.host_of_context()?,
        };
        Ok(Docker { socket: Socket::at(&host), host, ..docker })
    }

    /// Returns a docker command whose environment has only docker's own variables.
    pub fn command(&self) -> Command {
        let own = |(name, _): &(OsString, OsString)| {
            name.to_str().is_some_and(|name| name.starts_with("DOCKER_"))
        };
        let command = Command::new(&self.program).deadline(CHANGE_TIMEOUT);
        let command = std::env::vars_os()
            .filter(own)
            .fold(command, |one, (name, value)| one.env(name, value));
        match &self.given_host {
            Some(host) => command.env("DOCKER_HOST", host),
            None => command,
        }
    }

    pub fn given_host(&self) -> Option<&str> {
        self.given_host.as_deref()
    }

    /// Whether the engine is on this machine, so that its paths are valid here.
    pub fn is_local(&self) -> bool {
        self.host.starts_with("unix://") || self.host.starts_with('/')
    }

    /// Checks that the engine answers. It does not read `/info`, for which the engine starts programs.
    pub fn ping(&self) -> Result<()> {
        self.socket.version().map(drop)
    }

    pub fn engine(&self) -> Result<&Engine> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = self.socket.ask("/info")?;
        let engine =
            engine.with_context(|| format!("there is no Docker engine at {}", self.host))?;
        Ok(self.engine.get_or_init(|| engine))
    }

    /// Returns the containers of a project sorted by name, without one-off ones (`compose run`).
    pub fn containers_of(&self, project: &str) -> Result<Vec<Container>> {
        let filters = json!({"label": [format!("{PROJECT}={project}")]});
        let all = self.containers(&filters)?;
        Ok(all.into_iter().filter(|one| !one.is_one_off()).collect())
    }

    /// Returns all containers of the engine.
    pub fn all_containers(&self) -> Result<Vec<Container>> {
        self.containers(&json!({}))
    }

    fn containers(&self, filters: &Value) -> Result<Vec<Container>> {
        #[derive(Deserialize)]
        struct Listed {
            #[serde(rename = "Id")]
            id: String,
        }
        let filters = escaped(&filters.to_string());
        let listed = self.socket.ask(&format!("/containers/json?all=1&filters={filters}"))?;
        let listed: Vec<Listed> = listed.context("the engine does not list its containers")?;
        let ids: Vec<&str> = listed.iter().map(|one| one.id.as_str()).collect();
        let mut all = self.inspect_containers(&ids)?;
        all.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(all)
    }

    /// Inspects containers in the order of `names`; missing ones are skipped.
    pub fn inspect_containers(&self, names: &[&str]) -> Result<Vec<Container>> {
        self.each_container(names, "")
    }

    /// Inspects the same containers again, with the size of each one's writable layer.
    pub fn with_own_layers(&self, containers: &[&Container]) -> Result<Vec<Container>> {
        let ids: Vec<&str> = containers.iter().map(|one| one.id.as_str()).collect();
        self.each_container(&ids, "?size=1")
    }

    fn each_container(&self, names: &[&str], query: &str) -> Result<Vec<Container>> {
        let one = |name: &&str| self.inspect("containers", name, &format!("/json{query}"));
        names.iter().map(one).filter_map(Result::transpose).collect()
    }

    pub fn volume(&self, name: &str) -> Result<Option<Volume>> {
        self.inspect("volumes", name, "")
    }

    pub fn has_network(&self, name: &str) -> Result<bool> {
        Ok(self.inspect::<Value>("networks", name, "")?.is_some())
    }

    /// Inspects the image with this id or name.
    pub fn image<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.inspect("images", name, "/json")
    }

    /// Makes a volume of the local driver with these labels. An existing one is not changed.
    pub fn create_volume(&self, name: &str, labels: &[(String, String)]) -> Result<()> {
        let labels = labels.iter().map(|(key, value)| format!("--label={key}={value}"));
        let create = self.command().args(["volume", "create", "--driver=local"]).args(labels);
        self.run(create.arg("--").arg(name)).map(drop)
    }

    /// Inspects an object. An empty name is not sent, since the engine would list all objects.
    fn inspect<T: DeserializeOwned>(&self, kind: &str, name: &str, of: &str) -> Result<Option<T>> {
        match name.is_empty() {
            true => Ok(None),
            false => self.socket.ask(&format!("/{kind}/{}{of}", escaped(name))),
        }
    }

    /// Stops containers; without a time each container has its own.
    pub fn stop(&self, ids: &[&str], patience: Option<u64>) -> Result<()> {
        let time = patience.map(|seconds| format!("--time={seconds}"));
        let most = Duration::from_secs(patience.unwrap_or(600)) + STOP_MARGIN;
        self.change("stop", time.as_deref(), ids, most)
    }

    pub fn start(&self, ids: &[&str]) -> Result<()> {
        self.change("start", None, ids, CHANGE_TIMEOUT * 2)
    }

    pub fn pause(&self, ids: &[&str]) -> Result<()> {
        self.change("pause", None, ids, CHANGE_TIMEOUT)
    }

    pub fn unpause(&self, ids: &[&str]) -> Result<()> {
        self.change("unpause", None, ids, CHANGE_TIMEOUT)
    }

    /// Removes a container, but not its volumes.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        self.change("rm", None, &[id], CHANGE_TIMEOUT)
    }

    /// Makes a container that never runs: it has no network and no program.
    pub fn create_container(&self, options: Vec<String>, image: &str) -> Result<()> {
        let create = self.command().args(["container", "create", "--pull=never", "--network=none"]);
        self.run(create.args(options).arg("--").args([image, "no-program"])).map(drop)
    }

    pub fn set_restart_policy(&self, policy: &RestartPolicy, ids: &[&str]) -> Result<()> {
        self.change("update", Some(&format!("--restart={policy}")), ids, CHANGE_TIMEOUT)
    }

    fn change(&self, what: &str, option: Option<&str>, ids: &[&str], most: Duration) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let command = self.command().deadline(most).args(["container", what]).args(option);
        self.run(command.arg("--").args(ids)).map(drop)
    }

    /// Runs a command in a container and writes its output into a file.
    pub fn exec_into(&self, id: &str, words: &[String], to: File, most: Duration) -> Result<()> {
        let exec = self.command().deadline(most).stdout_to(to);
        self.run(exec.args(["container", "exec", "--", id]).args(words)).map(drop)
    }

    /// Returns the last lines of a container's log, both streams.
    pub fn logs(&self, id: &str, lines: u64) -> Result<Vec<u8>> {
        let tail = format!("--tail={lines}");
        let logs = self.command().args(["container", "logs", "--timestamps", &tail, "--", id]);
        let Output { mut stdout, stderr, .. } = self.run(logs)?;
        stdout.extend(stderr);
        Ok(stdout)
    }

    pub fn run(&self, command: Command) -> Result<Output> {
        command.run().map_err(|failed| explained(failed, &self.host))
    }

    fn host_of_context(&self) -> Result<String> {
        #[derive(Deserialize)]
        struct Context {
            #[serde(rename = "Endpoints")]
            endpoints: Endpoints,
        }
        #[derive(Deserialize)]
        struct Endpoints {
            docker: Endpoint,
        }
        #[derive(Deserialize)]
        struct Endpoint {
            #[serde(rename = "Host")]
            host: String,
        }
        let answer = self.run(self.command().args(["context", "inspect"]))?;
        let first = answer.json::<Vec<Context>>()?.into_iter().next();
        Ok(first.context("docker has no context: give docker_host")?.endpoints.docker.host)
    }
}

fn host_of_environment() -> Option<String> {
    std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty())
}

/// Explains a failed docker command.
pub fn explained(failed: Failed, host: &str) -> Error {
    let said = format!("{}\n{}", failed.stderr, failed.stdout).to_lowercase();
    match reason_of(&said) {
        "engine_unreachable" => Failure::new(
            "engine_unreachable",
            format!("the engine at {host} does not answer: start it, or give docker_host"),
        )
        .caused_by(failed.into())
        .into(),
        _ => failed.into(),
    }
}

fn reason_of(said: &str) -> &'static str {
    const UNREACHABLE: &[&str] = &[
        "cannot connect to the docker daemon",
        "failed to connect to the docker api",
        "error during connect",
        "is the docker daemon running",
        "permission denied while trying to connect",
    ];
    match UNREACHABLE.iter().any(|words| said.contains(words)) {
        true => "engine_unreachable",
        false => "command_failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_engine_is_recognised() {
        for said in [
            "cannot connect to the docker daemon at unix:///run/x.sock. is the docker daemon running?",
            "failed to connect to the docker api at unix:///run/x.sock; check if the path is correct",
        ] {
            assert_eq!(reason_of(said), "engine_unreachable", "{said}");
        }
        assert_eq!(reason_of("error: no such volume: x"), "command_failed");
    }
}
