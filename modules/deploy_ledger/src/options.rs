//! The options as typed values, with the checks that a spec cannot express.

use crate::ledger::{
    Cap, Config, Data, Event, Flip, Opening, Outcome, Phase, Purpose, RestorePoint, Status,
};
use crate::readiness::Layers;
use ansible_module::{Failure, Options as RawOptions};
use host::deploy_id::DeployId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::path::PathBuf;

/// Limit for the data of one phase.
const MAX_DATA: usize = 1 << 20;

/// The name of an app or an environment, which is used in file names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Name, String> {
        let inner =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        let sound = bytes.len() <= 64
            && bytes.iter().copied().all(inner)
            && edge(bytes.first())
            && edge(bytes.last());
        match sound {
            true => Ok(Name(text)),
            false => Err(format!(
                "expected 1 to 64 letters in lower case, digits, '.', '_' or '-', with a letter or digit at both ends, got {text:?}"
            )),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The app, the environment and the folder of a ledger.
#[derive(Debug)]
pub struct LedgerId {
    pub app: Name,
    pub env: Name,
    pub folder: PathBuf,
}

impl LedgerId {
    fn parse(raw: &RawOptions) -> Result<LedgerId, Failure> {
        let (app, env): (Name, Name) = (raw.get("app")?, raw.get("env")?);
        let folder: Option<PathBuf> = raw.get("path")?;
        let folder = folder.unwrap_or_else(|| format!("/var/lib/reversible/{app}-{env}").into());
        Ok(LedgerId { app, env, folder })
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("ledger.jsonl")
    }

    /// The name for messages.
    pub fn name(&self) -> String {
        format!("{} in {}", self.app, self.env)
    }
}

/// What the task does.
#[derive(Debug)]
pub enum Task {
    Record { deploy: DeployId, event: Box<Event>, cap: Cap },
    Report { deploy: DeployId, link: Link },
    Compact { retain: usize },
}

#[derive(Debug)]
pub struct Options {
    pub at: LedgerId,
    pub task: Task,
    /// Whether the run may get a later id than it was given.
    pub next_id: bool,
    pub outcome_file: Option<PathBuf>,
    pub metrics_file: Option<PathBuf>,
    pub report_markdown: Option<PathBuf>,
    pub report_html: Option<PathBuf>,
    pub layers: Option<Layers>,
    /// Flips from the history of the load balancers.
    pub flips: Vec<Flip>,
    /// The links of the report, when the report goes to the controller.
    pub imported: Option<Link>,
}

impl Options {
    pub fn parse(raw: &RawOptions) -> Result<Options, Failure> {
        let at = LedgerId::parse(raw)?;
        let state: String = raw.get("state")?;
        let task = match state.as_str() {
            "compacted" => Task::Compact { retain: raw.get("retain")? },
            "report" => Task::Report { deploy: raw.get("deploy_id")?, link: Link::parse(raw)? },
            state => Task::Record {
                deploy: raw.get("deploy_id")?,
                event: Box::new(event(state, &at, raw)?),
                cap: cap(raw)?,
            },
        };
        let metrics_file: Option<PathBuf> = raw.get("metrics_file")?;
        if metrics_file.as_ref().is_some_and(|path| path.extension().is_none_or(|it| it != "prom"))
        {
            let msg =
                "argument 'metrics_file' must end in .prom: node-exporter reads no other files";
            return Err(Failure::new("bad_options", msg));
        }
        Ok(Options {
            at,
            task,
            next_id: state == "open" && raw.get("next_id")?,
            outcome_file: raw.get("outcome_file")?,
            metrics_file,
            report_markdown: raw.get("report_markdown")?,
            report_html: raw.get("report_html")?,
            layers: layers(raw)?,
            flips: flips(raw)?,
            imported: match raw.get::<Option<String>>("bring_to")? {
                Some(_) => Some(Link::parse(raw)?),
                None => None,
            },
        })
    }

    pub fn deploy(&self) -> Option<&DeployId> {
        match &self.task {
            Task::Record { deploy, .. } | Task::Report { deploy, .. } => Some(deploy),
            Task::Compact { .. } => None,
        }
    }

    /// The id to check against the fence; none for states that only describe an old deploy.
    pub fn fenced_by(&self) -> Option<&DeployId> {
        match &self.task {
            Task::Record { deploy, event, .. } => {
                (!matches!(**event, Event::Void { .. })).then_some(deploy)
            }
            Task::Report { .. } | Task::Compact { .. } => None,
        }
    }
}

/// Parses `state: fence_lowered`, which needs no ledger: the folder, if one is named, and the id.
pub fn fence_to_lower(raw: &RawOptions) -> Result<Option<(Option<PathBuf>, DeployId)>, Failure> {
    match raw.get::<String>("state")? == "fence_lowered" {
        true => Ok(Some((raw.get("path")?, raw.get("deploy_id")?))),
        false => Ok(None),
    }
}

fn event(state: &str, at: &LedgerId, raw: &RawOptions) -> Result<Event, Failure> {
    Ok(match state {
        "open" => {
            let commit: Option<String> = raw.get("config_commit")?;
            let (dirty, remote) = (raw.get("config_dirty")?, raw.get("config_remote")?);
            Event::Open(Opening {
                app: at.app.to_string(),
                env: at.env.to_string(),
                release: raw.get("release")?,
                by: raw.get("by")?,
                lease: raw.get("lease")?,
                take_over: raw.get("take_over")?,
                back_to: raw.get("back_to")?,
                reason: raw.get("reason")?,
                config: commit.map(|commit| Config { commit, dirty, remote }),
                purpose: raw.get::<Purpose>("purpose")?,
                unlock: raw.get("unlock")?,
            })
        }
        "phase" => Event::Phase(Phase {
            phase: raw.get("phase")?,
            status: raw.get::<Status>("status")?,
            data: data(raw, "data")?,
        }),
        "restore_point" => Event::RestorePoint(RestorePoint {
            layer: named(raw, "layer")?,
            name: named(raw, "name")?,
            host: raw.get("host")?,
            guid: raw.get("guid")?,
            digest: raw.get("digest")?,
            cost: data(raw, "cost")?,
            data: data(raw, "data")?,
        }),
        "heartbeat" => Event::Heartbeat {},
        "revert" => Event::Revert { reason: raw.get("reason")? },
        "closed" => {
            Event::Close { outcome: raw.get::<Outcome>("outcome")?, color: raw.get("color")? }
        }
        _ => Event::Void { reason: raw.get("reason")? },
    })
}

fn cap(raw: &RawOptions) -> Result<Cap, Failure> {
    Ok(Cap { most: raw.get("revert_cap")?, window: raw.get("revert_window")? })
}

fn data(raw: &RawOptions, option: &str) -> Result<Data, Failure> {
    let map: Option<Map<String, Value>> = raw.get(option)?;
    let map = map.unwrap_or_default();
    let size = Value::Object(map.clone()).to_string().len();
    let wrong = |why: String| Failure::new("bad_options", format!("argument '{option}' {why}"));
    if size > MAX_DATA {
        return Err(wrong(format!("is {size} bytes; a record holds at most {MAX_DATA}")));
    }
    Data::of(map).map_err(|why| wrong(format!("cannot be written down: {why}")))
}

fn named(raw: &RawOptions, option: &str) -> Result<String, Failure> {
    let text: String = raw.get(option)?;
    match text.trim().is_empty() {
        true => Err(Failure::new("bad_options", format!("argument '{option}' must not be empty"))),
        false => Ok(text),
    }
}

fn flips(raw: &RawOptions) -> Result<Vec<Flip>, Failure> {
    let lines: Option<Vec<Map<String, Value>>> = raw.get("flips")?;
    let flips = lines.unwrap_or_default().iter().map(Flip::parse).collect::<Result<Vec<_>, _>>()?;
    Ok(flips.into_iter().flatten().collect())
}

fn layers(raw: &RawOptions) -> Result<Option<Layers>, Failure> {
    let map: Option<Map<String, Value>> = raw.get("layers")?;
    map.map(Layers::parse).transpose()
}

/// Template of the URL of a release.
#[derive(Clone, Debug)]
pub struct Link(Option<String>);

impl Link {
    fn parse(raw: &RawOptions) -> Result<Link, Failure> {
        let template: Option<String> = raw.get("release_url")?;
        let template = template.filter(|text| !text.is_empty());
        let wrong = |why| Err(Failure::new("bad_options", format!("argument 'release_url' {why}")));
        match &template {
            Some(text) if !(text.starts_with("https://") || text.starts_with("http://")) => {
                wrong("must begin with https:// or http://")
            }
            Some(text) if !text.contains("{sha}") => wrong("must hold {sha}"),
            // Markdown ends a URL at the first of these, and the rest would be markup.
            Some(text) if text.contains(|c: char| c.is_control() || " <>\"`\\".contains(c)) => {
                wrong("must be a URL, without spaces, quotes, < and >")
            }
            _ => Ok(Link(template)),
        }
    }

    pub fn to(&self, release: &str, at: &LedgerId) -> Option<String> {
        // A release should be a commit; anything else must not change the rest of the URL.
        let sha = host::percent_encode(release, b"");
        self.0.as_ref().map(|template| {
            let filled = template.replace("{app}", &at.app.0).replace("{env}", &at.env.0);
            filled.replace("{sha}", &sha)
        })
    }
}

#[derive(Debug)]
pub struct InfoOptions {
    pub at: LedgerId,
    pub deploy: Option<DeployId>,
    pub limit: usize,
    pub keep_deploys: usize,
    pub layers: Option<Layers>,
    pub flips: Vec<Flip>,
    pub cap: Cap,
}

impl InfoOptions {
    pub fn parse(raw: &RawOptions) -> Result<InfoOptions, Failure> {
        let limit: usize = raw.get("limit")?;
        let limit = if limit == 0 { usize::MAX } else { limit };
        Ok(InfoOptions {
            at: LedgerId::parse(raw)?,
            deploy: raw.get("deploy_id")?,
            limit,
            keep_deploys: raw.get("keep_deploys")?,
            layers: layers(raw)?,
            flips: flips(raw)?,
            cap: cap(raw)?,
        })
    }
}
