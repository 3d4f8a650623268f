//! The options as typed values, with the checks that a spec cannot express.

use ansible_module::{Failure, Options as RawOptions};
use host::deploy_id::DeployId;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Deserialize)]
pub struct Process {
    pub name: String,
    pub pidfile: PathBuf,
    #[serde(default)]
    pub argv: Option<Vec<String>>,
    pub user: String,
    pub chdir: Option<PathBuf>,
    pub log: Option<PathBuf>,
    #[serde(default)]
    pub environment: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Restarted,
    Stopped,
    Observed,
}

#[derive(Debug)]
pub struct Options {
    pub processes: Vec<Process>,
    pub state: State,
    pub stop_timeout: Duration,
    pub unless_systemd: bool,
    pub kept_logs: Option<PathBuf>,
    pub log_lines: usize,
    /// The id of the run, and the folder of its fence.
    pub fence: Option<(DeployId, PathBuf)>,
}

impl Options {
    pub fn parse(raw: &RawOptions) -> Result<Options, Failure> {
        let processes: Vec<Process> = raw.get("processes")?;
        let state: State = raw.get("state")?;
        let kept_logs: Option<PathBuf> = raw.get("kept_logs")?;
        let bad = |why: String| Err(Failure::new("bad_options", why));
        let (mut names, mut pidfiles) = (BTreeSet::new(), BTreeSet::new());
        for one in &processes {
            let at = format!("argument 'processes', {}:", one.name);
            if !names.insert(&one.name) || !pidfiles.insert(&one.pidfile) {
                return bad(format!("{at} its name and its pidfile must be no other's"));
            }
            let program = one.argv.as_ref().and_then(|argv| argv.first());
            if state == State::Restarted && !program.is_some_and(|it| it.starts_with('/')) {
                return bad(format!("{at} argv must begin with the absolute path of a program"));
            }
        }
        let unnameable = |one: &&Process| one.name.is_empty() || one.name.contains('/');
        if let Some(one) = processes.iter().find(unnameable).filter(|_| kept_logs.is_some()) {
            return bad(format!(
                "argument 'processes': {:?} cannot be the name of a file in kept_logs",
                one.name
            ));
        }
        Ok(Options {
            processes,
            state,
            stop_timeout: raw.seconds("stop_timeout")?,
            unless_systemd: raw.get("unless_systemd")?,
            kept_logs: kept_logs.filter(|_| state == State::Stopped),
            log_lines: raw.get("log_lines")?,
            fence: raw.get::<Option<DeployId>>("deploy_id")?.zip(raw.get("state_dir")?),
        })
    }
}
