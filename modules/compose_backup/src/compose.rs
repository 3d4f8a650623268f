//! Compose, as `docker compose` or the standalone `docker-compose`: reads a project's configuration and
//! brings services up.
//!
//! Invariants: Compose gets the environment of the task, for variables such as `${VERSION}`; nothing is
//! built or pulled; the values of the project's env files are censored in the output of every command.

use crate::docker::{Docker, explained};
use crate::resolved::Resolved;
use ansible_module::Failure;
use anyhow::{Error, Result};
use host::command::{Command, Failed, Output};
use host::folder;
use host::program;
use host::secret::SHORTEST_INSIDE;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const QUERY_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest configuration, with its whole environment.
const LONGEST_CONFIG: usize = 64 << 20;

/// Where docker looks for its plugins, after the home of its user.
const PLUGINS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// The installed Compose.
#[derive(Clone, Debug)]
pub struct Program {
    installation: Installation,
}

#[derive(Clone, Debug)]
enum Installation {
    /// The docker plugin, with its path if it is in one of docker's usual folders.
    Plugin(Option<PathBuf>),
    Standalone(PathBuf),
}

impl Program {
    pub fn find(docker: &Docker) -> Result<Program> {
        let plugin = plugin();
        // Docker is asked only if the plugin cannot be seen: that starts three programs.
        if plugin.is_some() || docker.run(docker_compose(docker).args(VERSION)).is_ok() {
            return Ok(Program { installation: Installation::Plugin(plugin) });
        }
        let missing = |cause: Error| {
            let msg = "there is no Compose v2 here: neither `docker compose` nor a `docker-compose` of version 2";
            Error::from(Failure::new("program_missing", msg).caused_by(cause))
        };
        let standalone = program::look("docker-compose")?.map_err(|why| missing(why.into()))?;
        let found = Program { installation: Installation::Standalone(standalone.clone()) };
        let version = found.version(docker).map_err(missing)?;
        match version.starts_with("0.") || version.starts_with("1.") {
            true => Err(missing(anyhow::anyhow!("{} is {version}", standalone.display()))),
            false => Ok(found),
        }
    }

    pub fn version(&self, docker: &Docker) -> Result<String> {
        let out = docker.run(self.query(docker).args(VERSION))?;
        Ok(out.text()?.trim().trim_start_matches('v').to_owned())
    }

    fn command(&self, docker: &Docker) -> Command {
        match &self.installation {
            Installation::Plugin(_) => docker_compose(docker),
            Installation::Standalone(program) => Command::new(program),
        }
    }

    /// Returns the command for queries. It starts the plugin directly: docker would start it twice, to inspect
    /// it and to run it.
    fn query(&self, docker: &Docker) -> Command {
        match &self.installation {
            Installation::Plugin(Some(plugin)) => Command::new(plugin),
            _ => self.command(docker),
        }
    }
}

const VERSION: [&str; 2] = ["version", "--short"];

fn docker_compose(docker: &Docker) -> Command {
    docker.command().arg("compose")
}

/// Finds the plugin that docker would run, unless docker is configured with further folders or another user
/// could change the plugin.
fn plugin() -> Option<PathBuf> {
    let own = match std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(&std::env::var_os("HOME")?).join(".docker"),
    };
    let settings = std::fs::read_to_string(own.join("config.json")).unwrap_or_default();
    let folders = [own.join("cli-plugins")].into_iter().chain(PLUGINS.map(PathBuf::from));
    let found = folders.map(|folder| folder.join("docker-compose")).find(|path| path.exists())?;
    let is_usual = !settings.contains("cliPluginsExtraDirs") && found.is_absolute();
    (is_usual && folder::check_program(&found).is_ok()).then_some(found)
}

/// A project, with the options that Compose gets.
#[derive(Clone, Debug)]
pub struct Compose {
    pub docker: Docker,
    pub program: Program,
    pub project_dir: PathBuf,
    /// The compose files; if empty, Compose looks for them.
    pub files: Vec<PathBuf>,
    pub env_files: Vec<PathBuf>,
    pub project: Option<String>,
    pub profiles: Vec<String>,
    secrets: Vec<String>,
}

/// How services are brought up.
pub struct Up<'a> {
    pub services: &'a [String],
    pub scale: &'a BTreeMap<String, usize>,
    /// Whether to start containers; if not, missing ones are only created.
    pub start: bool,
    /// Whether to leave out the services that these depend on.
    pub alone: bool,
    /// Whether Compose waits until all are running and healthy.
    pub wait: bool,
    pub patience: Duration,
}

impl Compose {
    pub fn new(docker: &Docker, program: &Program, project_dir: &Path) -> Compose {
        Compose {
            docker: docker.clone(),
            program: program.clone(),
            project_dir: project_dir.to_owned(),
            files: Vec::new(),
            env_files: Vec::new(),
            project: None,
            profiles: Vec::new(),
            secrets: Vec::new(),
        }
    }

    /// Censors the values of an env file.
    pub fn hide_values_of(&mut self, text: &str) {
        let values = text.lines().filter_map(|line| {
            let (name, value) = line.trim().split_once('=')?;
            (!name.starts_with('#')).then(|| value.trim().trim_matches(['"', '\'']).to_owned())
        });
        self.hide(values);
    }

    pub fn hide(&mut self, values: impl IntoIterator<Item = String>) {
        let long = |value: &String| value.chars().count() >= SHORTEST_INSIDE;
        self.secrets.extend(values.into_iter().filter(long));
        self.secrets.sort_unstable();
        self.secrets.dedup();
    }

    fn command(&self) -> Command {
        self.with_project(self.program.command(&self.docker))
    }

    fn query(&self) -> Command {
        self.with_project(self.program.query(&self.docker))
    }

    fn with_project(&self, command: Command) -> Command {
        let fixed = ["LC_ALL", "LANGUAGE", "PATH"];
        let command = (std::env::vars_os())
            .filter(|(name, _)| !fixed.iter().any(|own| name == own))
            .fold(command, |one, (name, value)| one.env(name, value));
        let command = match self.docker.given_host() {
            Some(host) => command.env("DOCKER_HOST", host),
            None => command,
        };
        let mut command = self.secrets.iter().fold(command, |one, secret| one.secret(secret));
        command = command.cwd(&self.project_dir).arg("--project-directory").arg(&self.project_dir);
        for file in &self.files {
            command = command.arg("--file").arg(file);
        }
        for file in &self.env_files {
            command = command.arg("--env-file").arg(file);
        }
        for profile in &self.profiles {
            command = command.arg("--profile").arg(profile);
        }
        if let Some(project) = &self.project {
            command = command.arg("--project-name").arg(project);
        }
        command.deadline(QUERY_TIMEOUT).output_limit(LONGEST_CONFIG)
    }

    /// Reads the resolved configuration: all files merged, all variables replaced.
    pub fn config(&self) -> Result<Resolved> {
        let command = self.query().args(["config", "--format", "json"]);
        let out = command.run().map_err(|failed| self.explained(failed))?;
        let value: Value = out.json()?;
        Resolved::parse(value).map_err(|why| {
            let msg = format!(
                "cannot parse the configuration that compose prints for {}",
                self.project_dir.display()
            );
            Failure::new("compose_invalid", msg).caused_by(why).into()
        })
    }

    /// Reads the hash that each service's containers would have as a label if they were created now.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        let asked = self.query().args(["config", "--hash", "*"]).run();
        let Ok(out) = asked else { return BTreeMap::new() };
        let line = |line: &str| -> Option<(String, String)> {
            let (service, hash) = line.split_once(' ')?;
            Some((service.to_owned(), hash.trim().to_owned()))
        };
        out.text().unwrap_or_default().lines().filter_map(line).collect()
    }

    pub fn up(&self, up: &Up<'_>) -> Result<Output> {
        let mut command = self.command().deadline(up.patience + QUERY_TIMEOUT).args([
            "up",
            if up.start { "--detach" } else { "--no-start" },
            "--no-build",
            "--pull",
            "never",
        ]);
        if up.wait {
            command = command.arg("--wait");
        }
        if up.alone {
            command = command.arg("--no-deps");
        }
        for (service, number) in up.scale {
            command = command.arg("--scale").arg(format!("{service}={number}"));
        }
        let run = command.arg("--").args(up.services).run();
        run.map_err(|failed| explained(failed, &self.docker.host))
    }

    /// Explains why Compose cannot read the project.
    fn explained(&self, failed: Failed) -> Error {
        // The plugin may not work with this docker.
        if let Err(why) = self.program.version(&self.docker) {
            let msg = "Compose v2 is installed here, but it cannot be run";
            return Failure::new("program_missing", msg).caused_by(why).into();
        }
        let text = failed.stderr.to_lowercase();
        let dir = self.project_dir.display();
        let last = failed.stderr.trim().lines().last().unwrap_or_default().to_owned();
        let failure = if text.contains("no configuration file provided") {
            Failure::new(
                "no_project",
                format!("there is no compose file in {dir}; give project_dir or files"),
            )
        } else if text.contains("env file")
            || (text.contains(".env") && text.contains("no such file"))
        {
            let msg = format!("an env file of {dir} is missing: {last}; nothing was changed");
            Failure::new("env_file_missing", msg)
        } else if text.contains("no such file") {
            Failure::new(
                "no_project",
                format!("a file of the project in {dir} is missing: {last}; nothing was changed"),
            )
        } else {
            let msg =
                format!("compose cannot read the project in {dir}: {last}; nothing was changed");
            Failure::new("compose_invalid", msg)
        };
        failure.caused_by(failed.into()).into()
    }
}
