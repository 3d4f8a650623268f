//! What `deploy_ledger` and `deploy_ledger_info` accept, typed and checked once.

use crate::ledger::{Event, Outcome, Status};
use ansible_module::{
    Default, Failure, Kind, Module, Opt, Options as Given, Return, Rule, Support,
};
use host::deploy_id::DeployId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::path::PathBuf;

/// A phase's data is evidence, not an archive.
const MOST_DATA: usize = 1 << 20;

const WHERE: &[Opt] = &[
    Opt::new("app", Kind::Str).required().about(&[
        "The name of the app: letters in lower case, digits, C(.), C(_) and C(-).",
    ]),
    Opt::new("env", Kind::Str).required().about(&[
        "The environment, such as V(staging) or V(prod); written like O(app).",
    ]),
    Opt::new("path", Kind::Path).about(&[
        "The folder of the ledger. It must be root's, on a path that no one else can write to, and outside of everything that can be rolled back.",
        "The default is C(/var/lib/reversible/<app>-<env>).",
    ]),
];

const CHANGE: &[Opt] = &[
    Opt::new("deploy_id", Kind::Str).required().about(&[
        "The unique id of the deploy: UTC time and four hex digits, such as V(20261121t084500z-7f3a).",
        "It is the fence too: once a newer deploy was opened, an older one can record nothing more.",
    ]),
    Opt::new("state", Kind::Str).required().choices(&["open", "phase", "closed", "void"]).about(&[
        "V(open) begins the deploy and takes the lease of the app and environment.",
        "V(phase) appends what happened in a phase.",
        "V(closed) ends the deploy with its outcome and gives the lease back.",
        "V(void) marks a deploy whose release must not be gone back to.",
    ]),
    Opt::new("release", Kind::Str).about(&["The release that is deployed, as a commit SHA. For O(state=open)."]),
    Opt::new("by", Kind::Str).default(Default::Str("")).about(&[
        "Who or what runs the deploy, as the next one should read it when this one is in its way. For O(state=open).",
    ]),
    Opt::new("lease", Kind::Int).default(Default::Int(1800)).about(&[
        "After how many seconds without a record this deploy counts as abandoned. For O(state=open).",
        "An abandoned deploy still holds the lease: only O(take_over) gets past it.",
    ]),
    Opt::new("take_over", Kind::Str).about(&[
        "The id of the deploy that holds the lease and is known to be dead. For O(state=open).",
        "It is refused when another deploy holds the lease by then.",
    ]),
    Opt::new("phase", Kind::Str).about(&["The name of the phase. For O(state=phase)."]),
    Opt::new("status", Kind::Str).default(Default::Str("done")).choices(&["started", "done", "failed"]).about(&[
        "How the phase stands. For O(state=phase).",
    ]),
    Opt::new("data", Kind::Dict).about(&[
        "What belongs to the record of the phase: restore points, guids, digests, counts. No secrets. For O(state=phase).",
    ]),
    Opt::new("outcome", Kind::Str).choices(&["done", "failed_reverted", "failed_not_reverted"]).about(&[
        "How the deploy ended. For O(state=closed).",
    ]),
    Opt::new("reason", Kind::Str).about(&["Why the deploy is void. For O(state=void)."]),
];

pub const MODULE: Module = Module {
    name: "deploy_ledger",
    short: "Record deploys, and let one at a time change an app",
    about: &[
        "The ledger is the record of the deploys of one app in one environment: when they were opened, what each phase did and captured, how they ended, and which are void.",
        "An open deploy holds the lease of the app and environment. A second run is refused with the first one's id, since when it runs and in which phase it is.",
        "The same task again changes nothing. Nothing that was recorded is ever rewritten.",
    ],
    version_added: "0.1.0",
    options: &[WHERE, CHANGE],
    rules: &[
        Rule::RequiredIf("state", "phase", &["phase"]),
        Rule::RequiredIf("state", "closed", &["outcome"]),
        Rule::RequiredIf("state", "void", &["reason"]),
    ],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "The ledger is a file of one JSON object a line, F(ledger.jsonl), only appended to and synced. A last line that was torn by a crash is reported and left out.",
        "A ledger with a line that cannot be read, or that a newer version wrote, is not written to.",
    ],
    seealso: &["reversible.deploy.deploy_ledger_info"],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT],
};

pub const INFO: Module = Module {
    name: "deploy_ledger_info",
    short: "Read the record of deploys",
    about: &[
        "Tells who holds the lease of an app and environment, and lists its deploys, the newest first. Changes nothing.",
    ],
    version_added: "0.1.0",
    options: &[
        WHERE,
        &[
            Opt::new("deploy_id", Kind::Str).about(&["Only this deploy."]),
            Opt::new("limit", Kind::Int)
                .default(Default::Int(20))
                .about(&["At most so many deploys; V(0) for all."]),
        ],
    ],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &[],
    seealso: &["reversible.deploy.deploy_ledger"],
    examples: include_str!("examples_info.yml"),
    returns: &[&[
        Return::new("ledger", Kind::Str, "success", "The file that was read.")
            .sample(r#""/var/lib/reversible/shop-staging/ledger.jsonl""#),
        Return::new(
            "holder",
            Kind::Dict,
            "success",
            "The open deploy that holds the lease, or null.",
        )
        .contains(&[
            Return::new("deploy_id", Kind::Str, "always", "Its id."),
            Return::new("phase", Kind::Str, "always", "The last phase that it recorded, or null."),
            Return::new("by", Kind::Str, "always", "Who opened it."),
            Return::new("silent_for", Kind::Int, "always", "Seconds since it was last heard of."),
            Return::new(
                "abandoned",
                Kind::Bool,
                "always",
                "Whether that is longer than its lease.",
            ),
        ]),
        Return::new("deploys", Kind::List, "success", "The deploys, the newest first.").contains(
            &[
                Return::new("deploy_id", Kind::Str, "always", "The id of the deploy."),
                Return::new("release", Kind::Str, "always", "The release, or null."),
                Return::new("opened", Kind::Str, "always", "When it was opened, in UTC."),
                Return::new("last", Kind::Str, "always", "When it was last heard of, in UTC."),
                Return::new("by", Kind::Str, "always", "Who opened it."),
                Return::new("outcome", Kind::Str, "always", "How it ended, or null."),
                Return::new(
                    "superseded_by",
                    Kind::Str,
                    "always",
                    "The deploy that took over from it, or null.",
                ),
                Return::new("void", Kind::Str, "always", "Why it is void, or null."),
                Return::new("phases", Kind::List, "always", "What it recorded, the oldest first.")
                    .contains(&[
                        Return::new("phase", Kind::Str, "always", "The name of the phase."),
                        Return::new("status", Kind::Str, "always", "How it stood."),
                        Return::new("at", Kind::Str, "always", "When that was recorded, in UTC."),
                        Return::new("data", Kind::Dict, "always", "What was recorded with it."),
                    ]),
            ],
        ),
        Return::new(
            "damaged",
            Kind::List,
            "success",
            "Lines that cannot be read, and why. Empty for a sound ledger.",
        ),
    ]],
};

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
        if !folder.is_absolute() {
            return Err(Failure::new(
                "bad_options",
                format!("argument 'path' must be an absolute path, got: {}", folder.display()),
            ));
        }
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

#[derive(Debug)]
pub struct Options {
    pub at: Where,
    pub deploy: DeployId,
    pub event: Event,
}

impl Options {
    pub fn parse(given: &Given) -> Result<Options, Failure> {
        let at = Where::parse(given)?;
        let deploy = given.get("deploy_id")?;
        let state: String = given.get("state")?;
        let event = match state.as_str() {
            "open" => Event::Open {
                app: at.app.to_string(),
                env: at.env.to_string(),
                release: given.get("release")?,
                by: given.get("by")?,
                lease: given.get("lease")?,
                take_over: given.get("take_over")?,
            },
            "phase" => Event::Phase {
                phase: given.get("phase")?,
                status: given.get::<Status>("status")?,
                data: data(given)?,
            },
            "closed" => Event::Close { outcome: given.get::<Outcome>("outcome")? },
            _ => Event::Void { reason: given.get("reason")? },
        };
        Ok(Options { at, deploy, event })
    }

    /// The id that the fence looks at. Marking an old deploy as void is no act of that deploy.
    pub fn fenced_by(&self) -> Option<&DeployId> {
        match self.event {
            Event::Void { .. } => None,
            _ => Some(&self.deploy),
        }
    }
}

fn data(given: &Given) -> Result<Map<String, Value>, Failure> {
    let data: Option<Map<String, Value>> = given.get("data")?;
    let data = data.unwrap_or_default();
    let size = Value::Object(data.clone()).to_string().len();
    if size > MOST_DATA {
        return Err(Failure::new(
            "bad_options",
            format!("argument 'data' is {size} bytes; a record holds at most {MOST_DATA}"),
        ));
    }
    Ok(data)
}

#[derive(Debug)]
pub struct InfoOptions {
    pub at: Where,
    pub deploy: Option<DeployId>,
    pub limit: usize,
}

impl InfoOptions {
    pub fn parse(given: &Given) -> Result<InfoOptions, Failure> {
        let limit: usize = given.get("limit")?;
        let limit = if limit == 0 { usize::MAX } else { limit };
        Ok(InfoOptions { at: Where::parse(given)?, deploy: given.get("deploy_id")?, limit })
    }
}
