//! What `deploy_ledger` and `deploy_ledger_info` accept, typed and checked once.

use crate::ledger::{
    Cap, Config, Data, Event, Flip, Opening, Outcome, Phase, Purpose, RestorePoint, Status,
};
use crate::readiness::Layers;
use ansible_module::{Failure, Options as Given};
use host::deploy_id::DeployId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::path::PathBuf;

/// What is recorded with a phase is evidence, not an archive.
const MOST_DATA: usize = 1 << 20;

/// The name of an app or an environment: it becomes a part of file names.
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

/// Which ledger.
#[derive(Debug)]
pub struct Where {
    pub app: Name,
    pub env: Name,
    pub folder: PathBuf,
}

impl Where {
    fn parse(given: &Given) -> Result<Where, Failure> {
        let (app, env): (Name, Name) = (given.get("app")?, given.get("env")?);
        let folder: Option<PathBuf> = given.get("path")?;
        let folder = folder.unwrap_or_else(|| format!("/var/lib/reversible/{app}-{env}").into());
        Ok(Where { app, env, folder })
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("ledger.jsonl")
    }

    /// As a person says it.
    pub fn name(&self) -> String {
        format!("{} in {}", self.app, self.env)
    }
}

/// What a task is about.
#[derive(Debug)]
pub enum Task {
    Record { deploy: DeployId, event: Box<Event>, cap: Cap },
    Report { deploy: DeployId, link: Link },
    Compact { retain: usize },
}

#[derive(Debug)]
pub struct Options {
    pub at: Where,
    pub task: Task,
    /// The run was given its id by a clock, and can do with the next one.
    pub next_id: bool,
    pub outcome_file: Option<PathBuf>,
    pub metrics_file: Option<PathBuf>,
    pub report_markdown: Option<PathBuf>,
    pub report_html: Option<PathBuf>,
    pub layers: Option<Layers>,
    /// What the load balancers remember.
    pub flips: Vec<Flip>,
    /// Its links, when the report goes to the controller.
    pub brought: Option<Link>,
}

impl Options {
    pub fn parse(given: &Given) -> Result<Options, Failure> {
        let at = Where::parse(given)?;
        let state: String = given.get("state")?;
        let task = match state.as_str() {
            "compacted" => Task::Compact { retain: given.get("retain")? },
            "report" => Task::Report { deploy: given.get("deploy_id")?, link: Link::parse(given)? },
            state => Task::Record {
                deploy: given.get("deploy_id")?,
                event: Box::new(event(state, &at, given)?),
                cap: cap(given)?,
            },
        };
        let metrics_file: Option<PathBuf> = given.get("metrics_file")?;
        if metrics_file.as_ref().is_some_and(|path| path.extension().is_none_or(|it| it != "prom"))
        {
            let msg =
                "argument 'metrics_file' must end in .prom: node-exporter reads no other files";
            return Err(Failure::new("bad_options", msg));
        }
        Ok(Options {
            at,
            task,
            next_id: state == "open" && given.get("next_id")?,
            outcome_file: given.get("outcome_file")?,
            metrics_file,
            report_markdown: given.get("report_markdown")?,
            report_html: given.get("report_html")?,
            layers: layers(given)?,
            flips: flips(given)?,
            brought: match given.get::<Option<String>>("bring_to")? {
                Some(_) => Some(Link::parse(given)?),
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

    /// The id that the fence looks at. What is said about an old deploy is no act of that deploy.
    pub fn fenced_by(&self) -> Option<&DeployId> {
        match &self.task {
            Task::Record { deploy, event, .. } => {
                (!matches!(**event, Event::Void { .. })).then_some(deploy)
            }
            Task::Report { .. } | Task::Compact { .. } => None,
        }
    }
}

/// For `state: fence_lowered`, which is about no ledger: the folder, where one is named, and the id.
pub fn fence_to_lower(given: &Given) -> Result<Option<(Option<PathBuf>, DeployId)>, Failure> {
    match given.get::<String>("state")? == "fence_lowered" {
        true => Ok(Some((given.get("path")?, given.get("deploy_id")?))),
        false => Ok(None),
    }
}

fn event(state: &str, at: &Where, given: &Given) -> Result<Event, Failure> {
    Ok(match state {
        "open" => {
            let commit: Option<String> = given.get("config_commit")?;
            let (dirty, remote) = (given.get("config_dirty")?, given.get("config_remote")?);
            Event::Open(Opening {
                app: at.app.to_string(),
                env: at.env.to_string(),
                release: given.get("release")?,
                by: given.get("by")?,
                lease: given.get("lease")?,
                take_over: given.get("take_over")?,
                back_to: given.get("back_to")?,
                reason: given.get("reason")?,
                config: commit.map(|commit| Config { commit, dirty, remote }),
                purpose: given.get::<Purpose>("purpose")?,
                unlock: given.get("unlock")?,
            })
        }
        "phase" => Event::Phase(Phase {
            phase: given.get("phase")?,
            status: given.get::<Status>("status")?,
            data: data(given, "data")?,
        }),
        "restore_point" => Event::RestorePoint(RestorePoint {
            layer: named(given, "layer")?,
            name: named(given, "name")?,
            host: given.get("host")?,
            guid: given.get("guid")?,
            digest: given.get("digest")?,
            cost: data(given, "cost")?,
            data: data(given, "data")?,
        }),
        "heartbeat" => Event::Heartbeat {},
        "revert" => Event::Revert { reason: given.get("reason")? },
        "closed" => {
            Event::Close { outcome: given.get::<Outcome>("outcome")?, color: given.get("color")? }
        }
        _ => Event::Void { reason: given.get("reason")? },
    })
}

fn cap(given: &Given) -> Result<Cap, Failure> {
    Ok(Cap { most: given.get("revert_cap")?, window: given.get("revert_window")? })
}

fn data(given: &Given, option: &str) -> Result<Data, Failure> {
    let map: Option<Map<String, Value>> = given.get(option)?;
    let map = map.unwrap_or_default();
    let size = Value::Object(map.clone()).to_string().len();
    let wrong = |why: String| Failure::new("bad_options", format!("argument '{option}' {why}"));
    if size > MOST_DATA {
        return Err(wrong(format!("is {size} bytes; a record holds at most {MOST_DATA}")));
    }
    Data::of(map).map_err(|why| wrong(format!("cannot be written down: {why}")))
}

fn named(given: &Given, option: &str) -> Result<String, Failure> {
    let text: String = given.get(option)?;
    match text.trim().is_empty() {
        true => Err(Failure::new("bad_options", format!("argument '{option}' must not be empty"))),
        false => Ok(text),
    }
}

fn flips(given: &Given) -> Result<Vec<Flip>, Failure> {
    let lines: Option<Vec<Map<String, Value>>> = given.get("flips")?;
    let flips = lines.unwrap_or_default().iter().map(Flip::parse).collect::<Result<Vec<_>, _>>()?;
    Ok(flips.into_iter().flatten().collect())
}

fn layers(given: &Given) -> Result<Option<Layers>, Failure> {
    let map: Option<Map<String, Value>> = given.get("layers")?;
    map.map(Layers::parse).transpose()
}

/// Where a release can be looked at.
#[derive(Clone, Debug)]
pub struct Link(Option<String>);

impl Link {
    fn parse(given: &Given) -> Result<Link, Failure> {
        let template: Option<String> = given.get("release_url")?;
        let template = template.filter(|text| !text.is_empty());
        let wrong = |why| Err(Failure::new("bad_options", format!("argument 'release_url' {why}")));
        match &template {
            Some(text) if !(text.starts_with("https://") || text.starts_with("http://")) => {
                wrong("must begin with https:// or http://")
            }
            Some(text) if !text.contains("{sha}") => wrong("must hold {sha}"),
            // In Markdown it ends at the first of these, and what follows would be markup.
            Some(text) if text.contains(|c: char| c.is_control() || " <>\"`\\".contains(c)) => {
                wrong("must be a URL, without spaces, quotes, < and >")
            }
            _ => Ok(Link(template)),
        }
    }

    pub fn to(&self, release: &str, at: &Where) -> Option<String> {
        // A release is a commit; whatever else it holds must stay within its part of the address.
        let safe = |byte: u8| match byte {
            byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        };
        let sha: String = release.bytes().map(safe).collect();
        self.0.as_ref().map(|template| {
            let filled = template.replace("{app}", &at.app.0).replace("{env}", &at.env.0);
            filled.replace("{sha}", &sha)
        })
    }
}

#[derive(Debug)]
pub struct InfoOptions {
    pub at: Where,
    pub deploy: Option<DeployId>,
    pub limit: usize,
    pub keep_deploys: usize,
    pub layers: Option<Layers>,
    pub flips: Vec<Flip>,
    pub cap: Cap,
}

impl InfoOptions {
    pub fn parse(given: &Given) -> Result<InfoOptions, Failure> {
        let limit: usize = given.get("limit")?;
        let limit = if limit == 0 { usize::MAX } else { limit };
        Ok(InfoOptions {
            at: Where::parse(given)?,
            deploy: given.get("deploy_id")?,
            limit,
            keep_deploys: given.get("keep_deploys")?,
            layers: layers(given)?,
            flips: flips(given)?,
            cap: cap(given)?,
        })
    }
}
