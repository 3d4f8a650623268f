//! The engine: what is asked over its socket (`docker/socket.rs`), what is told to it through the
//! `docker` program, and what its errors mean. What it answers is in `docker/inspect.rs`.
//!
//! Invariants: an engine that does not answer is never taken for one that has nothing; names and
//! ids are passed after `--` or as values of options; nothing is pulled.

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

/// One order to the engine. A stop has its own, longer one.
const ORDER: Duration = Duration::from_secs(60);
/// What a stop may take beyond the time that the container has.
const STOP_MARGIN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Docker {
    program: PathBuf,
    /// Where the engine listens, as docker itself says: `unix:///var/run/docker.sock`.
    pub host: String,
    given_host: Option<String>,
    socket: Socket,
    /// Asked once: it stays what it is as long as a task runs.
    engine: OnceLock<Engine>,
}

/// What the engine is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Engine {
    pub server_version: String,
    /// `overlay2`, or `overlayfs` on a containerd store.
    #[serde(default)]
    pub driver: String,
    pub docker_root_dir: PathBuf,
}

impl Docker {
    /// Finds the program, and asks it where its engine is.
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

    /// A command of docker with nothing but docker's own variables.
    pub fn command(&self) -> Command {
        let own = |(name, _): &(OsString, OsString)| {
            name.to_str().is_some_and(|name| name.starts_with("DOCKER_"))
        };
        let command = Command::new(&self.program).deadline(ORDER);
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

    /// Paths of an engine on another machine say nothing here.
    pub fn is_local(&self) -> bool {
        self.host.starts_with("unix://") || self.host.starts_with('/')
    }

    /// Whether it answers at all; what it is, it starts programs of its own to find out.
    pub fn reach(&self) -> Result<()> {
        self.socket.version().map(drop)
    }

    pub fn engine(&self) -> Result<&Engine> {
        if let Some(known) = self.engine.get() {
            return Ok(known);
        }
        let engine = self.socket.ask("/info")?;
        let engine = engine.with_context(|| format!("what is at {} is no engine", self.host))?;
        Ok(self.engine.get_or_init(|| engine))
    }

    /// The containers of a project, one-off ones (`compose run`) apart, by their names.
    pub fn containers_of(&self, project: &str) -> Result<Vec<Container>> {
        let mine = json!({"label": [format!("{PROJECT}={project}")]});
        let all = self.containers(&mine)?;
        Ok(all.into_iter().filter(|one| !one.is_one_off()).collect())
    }

    /// All containers of the engine.
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
        let listed: Vec<Listed> = listed.context("the engine has no list of its containers")?;
        let ids: Vec<&str> = listed.iter().map(|one| one.id.as_str()).collect();
        let mut all = self.inspect_containers(&ids)?;
        all.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(all)
    }

    /// Those that are there, in the order of `names`; a name that is missing is passed over.
    pub fn inspect_containers(&self, names: &[&str]) -> Result<Vec<Container>> {
        self.each_container(names, "")
    }

    /// The same containers again, with what each has written to its own layer.
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

    /// What `docker image inspect` prints of the image of this id or name.
    pub fn image<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.inspect("images", name, "/json")
    }

    /// Makes a volume of the local driver with these labels. One that is there stays as it is.
    pub fn create_volume(&self, name: &str, labels: &[(String, String)]) -> Result<()> {
        let labels = labels.iter().map(|(key, value)| format!("--label={key}={value}"));
        let create = self.command().args(["volume", "create", "--driver=local"]).args(labels);
        self.run(create.arg("--").arg(name)).map(drop)
    }

    /// With no name the engine would answer with the list of all.
    fn inspect<T: DeserializeOwned>(&self, kind: &str, name: &str, of: &str) -> Result<Option<T>> {
        match name.is_empty() {
            true => Ok(None),
            false => self.socket.ask(&format!("/{kind}/{}{of}", escaped(name))),
        }
    }

    /// `docker stop`; with no time given each container has its own.
    pub fn stop(&self, ids: &[&str], patience: Option<u64>) -> Result<()> {
        let time = patience.map(|seconds| format!("--time={seconds}"));
        let most = Duration::from_secs(patience.unwrap_or(600)) + STOP_MARGIN;
        self.order("stop", time.as_deref(), ids, most)
    }

    pub fn start(&self, ids: &[&str]) -> Result<()> {
        self.order("start", None, ids, ORDER * 2)
    }

    pub fn pause(&self, ids: &[&str]) -> Result<()> {
        self.order("pause", None, ids, ORDER)
    }

    pub fn unpause(&self, ids: &[&str]) -> Result<()> {
        self.order("unpause", None, ids, ORDER)
    }

    /// Its volumes stay.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        self.order("rm", None, &[id], ORDER)
    }

    /// Makes a container that is never to run: it has no network, and no program.
    pub fn create_container(&self, options: Vec<String>, image: &str) -> Result<()> {
        let create = self.command().args(["container", "create", "--pull=never", "--network=none"]);
        self.run(create.args(options).arg("--").args([image, "no-program"])).map(drop)
    }

    pub fn set_restart_policy(&self, policy: &RestartPolicy, ids: &[&str]) -> Result<()> {
        self.order("update", Some(&format!("--restart={policy}")), ids, ORDER)
    }

    fn order(&self, what: &str, option: Option<&str>, ids: &[&str], most: Duration) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let command = self.command().deadline(most).args(["container", what]).args(option);
        self.run(command.arg("--").args(ids)).map(drop)
    }

    /// Runs a command in a container, its output into a file.
    pub fn exec_into(&self, id: &str, words: &[String], to: File, most: Duration) -> Result<()> {
        let exec = self.command().deadline(most).stdout_to(to);
        self.run(exec.args(["container", "exec", "--", id]).args(words)).map(drop)
    }

    /// The last lines that a container has written, both streams.
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

/// What a failed command of docker means.
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
    fn a_silent_engine_is_told_from_a_missing_thing() {
        for said in [
            "cannot connect to the docker daemon at unix:///run/x.sock. is the docker daemon running?",
            "failed to connect to the docker api at unix:///run/x.sock; check if the path is correct",
        ] {
            assert_eq!(reason_of(said), "engine_unreachable", "{said}");
        }
        assert_eq!(reason_of("error: no such volume: x"), "command_failed");
    }
}
