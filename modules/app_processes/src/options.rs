//! What `app_processes` accepts, typed and checked once.

use crate::process::Pid;
use ansible_module::{
    Default, Failure, Kind, Module, Opt, Options as Given, Return, Rule, Support,
};
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
}

impl Options {
    pub fn parse(given: &Given) -> Result<Options, Failure> {
        let processes: Vec<Process> = given.get("processes")?;
        let state: State = given.get("state")?;
        let kept_logs: Option<PathBuf> = given.get("kept_logs")?;
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
                "argument 'processes': {:?} is no name for a file in kept_logs",
                one.name
            ));
        }
        Ok(Options {
            processes,
            state,
            stop_timeout: given.seconds("stop_timeout")?,
            unless_systemd: given.get("unless_systemd")?,
            kept_logs: kept_logs.filter(|_| state == State::Stopped),
            log_lines: given.get("log_lines")?,
        })
    }

    /// Each is as it was asked for.
    pub fn verify(&self, now: &[Option<Pid>]) -> Result<(), Failure> {
        let wrong: Vec<&str> = (self.processes.iter().zip(now))
            .filter(|(_, pid)| pid.is_some() != (self.state == State::Restarted))
            .map(|(one, _)| one.name.as_str())
            .collect();
        let what = match self.state {
            State::Restarted => "started, but does not run: its log says why",
            State::Stopped | State::Observed => "ended, but still runs",
        };
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Failure::new("not_verified", format!("{}: was {what}", wrong.join(", ")))),
        }
    }
}

const PROCESS: &[Opt] = &[
    Opt::new("name", Kind::Str).required().about(&["How it is called in the result."]),
    Opt::new("pidfile", Kind::AbsolutePath).required().about(&[
        "Where its process id is kept; when it began stands beside it, in a file ending in C(.began).",
        "Its folder, and all above it, must be such that only root can change them: who can write to it could have any process ended.",
        "A process of another user than O(processes[].user), or that began at another time, is not touched, whatever the file says.",
    ]),
    Opt::new("argv", Kind::List).elements(Kind::Str).about(&[
        "The program, by its absolute path, and its arguments. No shell. For O(state=restarted).",
    ]),
    Opt::new("user", Kind::Str).default(Default::Str("root")).about(&[
        "Who it runs as: a name in F(/etc/passwd), or a number.",
        "A number that does not stand there has the group of the same number and no other; it wants C(setpriv) of util-linux.",
    ]),
    Opt::new("chdir", Kind::AbsolutePath).about(&["The folder that it runs in. The default is C(/)."]),
    Opt::new("log", Kind::AbsolutePath).about(&[
        "A regular file to which what it prints is appended; its folder is made. Without it, that is lost.",
        "In a folder that others than root can change, it is opened with the rights of O(processes[].user), for writing and for reading, and refused for root.",
    ]),
    Opt::new("environment", Kind::Dict).secret().about(&[
        "Variables for it. It has C(PATH), C(HOME) and C(TZ) else, and the locale C(C.UTF-8). They are not shown. What is a secret by its name (C(password), C(token), C(key), ...) is hidden wherever it turns up.",
    ]),
];

const RUN: &[Opt] = &[
    Opt::new("processes", Kind::List)
        .elements(Kind::Dict)
        .required()
        .options(PROCESS)
        .about(&["The processes. They are ended side by side, then started side by side."]),
    Opt::new("state", Kind::Str)
        .default(Default::Str("restarted"))
        .choices(&["restarted", "stopped", "observed"])
        .about(&[
            "V(restarted) ends what runs, all of it, and starts it again.",
            "V(stopped) only ends it.",
            "V(observed) changes nothing: it tells what runs and, with O(log_lines), what was printed last.",
        ]),
    Opt::new("kept_logs", Kind::AbsolutePath).about(&[
        "For O(state=stopped): a folder into which the logs are copied first, as C(<name>.log); a copy that is there already stays.",
        "It is made where it is missing (0700). It must be root's, on a path that no one else can write to.",
        "Of a log that is longer than 64 MiB its end is kept. One that does not exist is passed over.",
    ]),
    Opt::new("log_lines", Kind::Count).default(Default::Int(0)).about(&[
        "For O(state=observed): how many of the last lines of each log to return in RV(logs). They may hold secrets.",
    ]),
    Opt::new("stop_timeout", Kind::Seconds)
        .default(Default::Float(15.0))
        .about(&["Seconds that each has to end after SIGTERM. What still runs then is killed."]),
    Opt::new("unless_systemd", Kind::Bool).default(Default::Bool(false)).about(&[
        "Whether to do nothing on a machine where systemd runs. RV(systemd) says which it is.",
    ]),
];

pub const MODULE: Module = Module {
    name: "app_processes",
    short: "End and start the processes of an app side by side, where no systemd runs",
    about: &[
        "For machines and containers without a service manager: several processes are ended and started anew, all at the same time.",
        "They are started by C(start-stop-daemon) and go on without the connection. Nobody starts one again when it ends: where systemd runs, use units.",
    ],
    version_added: "0.1.0",
    options: &[RUN],
    rules: &[] as &[Rule],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "C(start-stop-daemon) is that of dpkg (1.20.6 or later): busybox has one that cannot write a log.",
        "A process that ended, but whose parent has not asked how, counts as ended.",
        "A run that was killed has ended some of them, or started some: the same task again ends and starts all.",
    ],
    seealso: &["reversible.deploy.health_gate"],
    examples: include_str!("examples.yml"),
    returns: &[
        change::RESULT,
        &[
            Return::new("systemd", Kind::Bool, "always", "Whether systemd runs on the machine."),
            Return::new(
                "logs",
                Kind::Dict,
                "O(state=observed) with O(log_lines)",
                "The last lines of each log that there is, by the name of its process.",
            ),
        ],
    ],
};
