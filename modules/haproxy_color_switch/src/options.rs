//! The options as typed values, with the checks that a spec cannot express.

use crate::color::{Color, Pattern};
use crate::history::MIN_KEPT;
use crate::question::Question;
use crate::reload::Reloader;
use crate::servers::{Group, ServerName};
use ansible_module::{Failure, Options as RawOptions};
use haproxy::locks;
use haproxy::socket::Socket;
use host::clock::Utc;
use host::deploy_id::DeployId;
use host::lock::Lock;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of this task's intent and locks.
pub const TASK: &str = "haproxy_color_switch";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// The colour is the value of a key in this map.
    Map(PathBuf),
    Reload,
}

/// The HAProxy, app and components to observe.
#[derive(Debug)]
pub struct Subject {
    pub method: Method,
    pub key: String,
    pub config: PathBuf,
    /// Empty when it is to be found in the configuration.
    pub sockets: Vec<Socket>,
    pub state_dir: PathBuf,
    /// Empty when they are to be found in the configuration.
    pub groups: Vec<Group>,
    pub server_name: ServerName,
}

impl Subject {
    pub fn parse(raw: &RawOptions) -> Result<Subject, Failure> {
        let key: String = raw.get("map_key")?;
        let (method, map): (Option<String>, Option<PathBuf>) =
            (raw.get("method")?, raw.get("map")?);
        let method = match (method.as_deref(), map) {
            (Some("map") | None, Some(map)) => Method::Map(command_path("map", map)?),
            _ => Method::Reload,
        };
        if !is_word(&key) || key.starts_with(['.', '/', '#']) {
            let expected = "letters, digits and any of . _ : @ -, beginning with none of . and #";
            return Err(Failure::bad_option(
                "map_key",
                format!("expected {expected}, got {key:?}"),
            ));
        }
        let state_dir: Option<PathBuf> = raw.get("state_dir")?;
        let state_dir = state_dir.unwrap_or_else(|| format!("/var/lib/reversible/{key}").into());
        let sockets: Vec<String> = raw.get("stats_socket")?;
        let sockets = sockets.iter().map(|text| Socket::parse(text));
        let server_name: String = raw.get("server_name")?;
        let server_name = ServerName::parse(&server_name)
            .map_err(|why| Failure::bad_option("server_name", why))?;
        let backends: Vec<String> = raw.get("backends")?;
        let groups = backends.iter().map(|name| group(name, &server_name));
        Ok(Subject {
            method,
            config: command_path("config", raw.get("config")?)?,
            sockets: sockets
                .collect::<Result<_, _>>()
                .map_err(|why| Failure::bad_option("stats_socket", why))?,
            state_dir: command_path("state_dir", state_dir)?,
            groups: groups.collect::<Result<_, _>>()?,
            server_name,
            key,
        })
    }

    pub fn active_color_file(&self) -> PathBuf {
        self.state_dir.join("active-color")
    }

    pub fn history_file(&self) -> PathBuf {
        self.state_dir.join("active-color.history")
    }

    /// The file with the last configuration of a colour.
    pub fn kept_config(&self, color: Color) -> PathBuf {
        self.state_dir.join(format!("config.{color}"))
    }

    /// The file with the digest of the configuration that we wrote last.
    pub fn digest_file(&self) -> PathBuf {
        self.state_dir.join("config.sha256")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Color(Color),
    Previous,
}

/// The new configuration.
#[derive(Debug)]
pub enum Content {
    Text(String),
    File(PathBuf),
    /// The kept configuration of the colour.
    Kept,
}

#[derive(Debug)]
pub struct Budget {
    pub watch: Duration,
    pub max_failed: Option<u64>,
    /// By how much it may exceed the share of the old colour.
    pub max_share: f64,
    /// An absolute limit, independent of the old colour.
    pub max_total: Option<f64>,
    pub min_requests: u64,
}

/// When the colour's servers were recreated. With fractions, since whole seconds would cost up to one
/// second of waiting.
#[derive(Debug)]
pub struct Since {
    pub text: String,
    /// Since 1970.
    pub at: Duration,
}

impl Since {
    fn parse(text: &str) -> Result<Since, Failure> {
        let example = "2026-11-21T08:45:00Z or 2026-11-21T08:45:00.25Z";
        let wrong = || {
            Failure::bad_option("since", format!("expected UTC, such as {example}, got {text:?}"))
        };
        let parts = text.strip_suffix('Z').and_then(|rest| rest.split_once('.'));
        let (seconds, fraction) = match parts {
            Some((seconds, digits)) => (format!("{seconds}Z"), format!("0.{digits}")),
            None => (text.to_owned(), "0".to_owned()),
        };
        let seconds: Utc = seconds.parse().map_err(|_| wrong())?;
        let digits = fraction.bytes().skip(2).all(|byte| byte.is_ascii_digit());
        let fraction: f64 = fraction.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        let at = Duration::from_secs(seconds.unix().unsigned_abs());
        Ok(Since { text: text.to_owned(), at: at + Duration::from_secs_f64(fraction) })
    }
}

/// The task.
#[derive(Debug)]
pub struct Task {
    pub subject: Subject,
    pub wanted: Wanted,
    pub release: Option<String>,
    pub content: Content,
    pub validate: Vec<String>,
    pub reloader: Reloader,
    pub deploy: Option<DeployId>,
    pub rollback: Option<DeployId>,
    pub target_timeout: Duration,
    pub since: Option<Since>,
    pub probe: Option<Question>,
    pub prove: Option<Question>,
    pub budget: Option<Budget>,
    pub drain: Duration,
    pub void: bool,
    pub settle: bool,
    pub keep: usize,
    pub lock_timeout: Duration,
}

impl Task {
    pub fn parse(raw: &RawOptions) -> Result<Task, Failure> {
        let subject = Subject::parse(raw)?;
        let wanted: String = raw.get("color")?;
        let expected = "one word of letters, digits and any of . _ : @ / -";
        let release = raw.checked("release", expected, is_word)?;
        let content = content(raw, &subject.method)?;
        let validate = validate(raw)?;
        let keep = history(raw)?;
        let (drift, since): (String, Option<String>) = (raw.get("drift")?, raw.get("since")?);
        Ok(Task {
            wanted: Color::parse(&wanted).map_or(Wanted::Previous, Wanted::Color),
            content,
            validate,
            reloader: reloader(raw)?,
            deploy: raw.get("deploy_id")?,
            rollback: raw.get("rollback_id")?,
            target_timeout: raw.seconds("target_timeout")?,
            since: since.map(|text| Since::parse(&text)).transpose()?,
            probe: Question::parse_probe(raw, release.as_deref())?,
            prove: Question::parse_prove(raw, release.as_deref())?,
            budget: budget(raw)?,
            drain: raw.seconds("drain_timeout")?,
            void: raw.get("void")?,
            settle: drift == "settle",
            keep,
            lock_timeout: raw.seconds("lock_timeout")?,
            release,
            subject,
        })
    }

    /// Takes the lock of a file or socket that only one task may change.
    pub fn lock(&self, what: &Path) -> anyhow::Result<Lock> {
        locks::lock(what, TASK, self.run(), self.lock_timeout)
    }

    /// The id of the run itself, which is the fence.
    pub fn run(&self) -> Option<&DeployId> {
        self.rollback.as_ref().or(self.deploy.as_ref())
    }
}

fn content(raw: &RawOptions, method: &Method) -> Result<Content, Failure> {
    let (text, file): (Option<String>, Option<PathBuf>) = (raw.get("content")?, raw.get("src")?);
    if *method != Method::Reload && (text.is_some() || file.is_some()) {
        let msg =
            "a new configuration goes with method: reload; with a map the configuration stays";
        return Err(Failure::bad_option("content", msg.to_owned()));
    }
    Ok(match (text, file) {
        (Some(text), _) => Content::Text(text),
        (_, Some(file)) => Content::File(command_path("src", file)?),
        _ => Content::Kept,
    })
}

fn validate(raw: &RawOptions) -> Result<Vec<String>, Failure> {
    let validate: Vec<String> = raw.get("validate")?;
    if validate.iter().any(|word| word.contains("%s")) {
        return Ok(validate);
    }
    let msg = "expected a program and its arguments, one of them with %s for the file";
    Err(Failure::bad_option("validate", msg.to_owned()))
}

fn history(raw: &RawOptions) -> Result<usize, Failure> {
    let keep: usize = raw.get("history")?;
    if keep >= MIN_KEPT {
        return Ok(keep);
    }
    let msg = format!("expected at least {MIN_KEPT}: the active one and the one to roll back to");
    Err(Failure::bad_option("history", msg))
}

fn reloader(raw: &RawOptions) -> Result<Reloader, Failure> {
    let master: Option<PathBuf> = raw.get("master_socket")?;
    let master = master.map(|path| command_path("master_socket", path).map(Socket::Unix));
    Ok(Reloader {
        master: master.transpose()?,
        unit: raw.get("unit")?,
        pidfile: raw.get("pidfile")?,
    })
}

fn group(name: &str, server_name: &ServerName) -> Result<Group, Failure> {
    let pattern = Pattern::parse(name);
    let bare = name.replacen(Pattern::PLACEHOLDER, "", 1);
    let sound = bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    match pattern {
        _ if !sound || name.is_empty() => Err(Failure::bad_option(
            "backends",
            format!(
                "{name:?} is no name of a backend: expected letters, digits and any of - _ . :, and {{color}} at most once"
            ),
        )),
        Some(pattern) => Ok(Group::OneEach(pattern)),
        None => Ok(Group::Shared(name.to_owned(), server_name.clone())),
    }
}

fn budget(raw: &RawOptions) -> Result<Option<Budget>, Failure> {
    #[derive(Deserialize)]
    struct Raw {
        watch: f64,
        max_failed: Option<u64>,
        max_share: f64,
        max_total: Option<f64>,
        min_requests: u64,
    }
    let Some(raw) = raw.get::<Option<Raw>>("error_budget")? else { return Ok(None) };
    let watch = Duration::from_secs_f64(raw.watch);
    let Raw { max_failed, max_share, max_total, min_requests, .. } = raw;
    for (name, share) in [("max_share", Some(max_share)), ("max_total", max_total)] {
        if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
            let msg = format!("expected a share from 0 to 1, got {share}");
            return Err(Failure::bad_option(&format!("error_budget.{name}"), msg));
        }
    }
    let budget = Budget { watch, max_failed, max_share, max_total, min_requests };
    Ok(Some(budget).filter(|budget| !budget.watch.is_zero()))
}

/// A path that goes into a command to HAProxy, where a space or a semicolon ends a word.
fn command_path(name: &str, path: PathBuf) -> Result<PathBuf, Failure> {
    let text = path.to_string_lossy();
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ';' | '\\' | '#');
    match !text.contains(odd) {
        true => Ok(path),
        false => Err(Failure::bad_option(
            name,
            format!("expected a path without spaces and ; \\ #, got {text:?}"),
        )),
    }
}

/// One word in a command to HAProxy and in a line of the history.
fn is_word(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@/-".contains(&byte);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(sound) && text != "-"
}
