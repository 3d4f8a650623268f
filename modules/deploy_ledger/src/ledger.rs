//! The events of a ledger and their form in its file. No I/O here.
//!
//! Invariant: a written line is never changed. A line is one JSON object with the version of its format;
//! a reader reports a newer version as an error.
//!
//! - `book`: the deploys that the lines describe
//! - `skim`: finds the lines of a few deploys in a long ledger
//! - `compact`: which lines are kept when the ledger is compacted
//! - `locked`: what locks deploys until a person unlocks them
//! - `flips`: rollbacks made while the ledger could not be reached

mod book;
mod compact;
mod flips;
#[cfg(test)]
mod hostile;
mod locked;
mod skim;
#[cfg(test)]
mod tests;

pub use book::{Deploy, Ledger};
pub use compact::compact;
pub use flips::{Flip, ImportedFlip};
pub use locked::{Cap, Locked};

use host::clock::Utc;
use host::deploy_id::DeployId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub const VERSION: u32 = 1;

/// Which deploys a reader needs in full.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    All,
    /// The newest, one that is named, and all that decide who holds the lease and what is current.
    About {
        newest: usize,
        named: Option<&'a DeployId>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Started,
    Done,
    Failed,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Status::Started => "started",
            Status::Done => "done",
            Status::Failed => "failed",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    FailedReverted,
    FailedNotReverted,
}

impl Outcome {
    /// The word in the outcome file.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::FailedReverted => "failed_reverted",
            Outcome::FailedNotReverted => "failed_not_reverted",
        }
    }
}

/// What a run is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    #[default]
    Deploy,
    Rollback,
    /// Needs the lease, and does not change the release.
    Maintenance,
    /// Locks deploys for a reason of a person's own, and does not change the release.
    Lock,
}

impl Purpose {
    fn is_deploy(&self) -> bool {
        *self == Purpose::Deploy
    }

    fn keeps_release(self) -> bool {
        matches!(self, Purpose::Maintenance | Purpose::Lock)
    }
}

/// The event that a line records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Open(Opening),
    Phase(Phase),
    RestorePoint(RestorePoint),
    /// Says that the run is alive.
    Heartbeat {},
    /// The run rolls back by itself.
    Revert {
        reason: Option<String>,
    },
    Close {
        outcome: Outcome,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        color: Option<String>,
    },
    Void {
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    pub app: String,
    pub env: String,
    pub release: Option<String>,
    pub by: String,
    /// Seconds of silence after which the deploy counts as abandoned.
    pub lease: u64,
    pub take_over: Option<DeployId>,
    /// The deploy whose restore points a rollback uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<DeployId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The configuration repository that the run was started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Config>,
    #[serde(default, skip_serializing_if = "Purpose::is_deploy")]
    pub purpose: Purpose,
    /// The run that locked deploys, named by a person to unlock them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlock: Option<DeployId>,
}

impl Opening {
    /// Whether it is a deploy, and neither a rollback nor maintenance.
    pub fn is_deploy(&self) -> bool {
        self.purpose.is_deploy() && self.back_to.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub commit: String,
    /// Whether the repository had uncommitted changes; none when that was not checked.
    pub dirty: Option<bool>,
    /// URL to fetch it from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    pub phase: String,
    pub status: Status,
    pub data: Data,
}

/// A restore point in one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestorePoint {
    pub layer: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Identifies it among several of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The cost of going back, as far as it was known.
    #[serde(default)]
    pub cost: Data,
    #[serde(default)]
    pub data: Data,
}

impl RestorePoint {
    /// Whether both records are about the same restore point; the later one counts.
    pub fn is_same(&self, other: &RestorePoint) -> bool {
        (&self.layer, &self.host, &self.name) == (&other.layer, &other.host, &other.name)
    }
}

/// A JSON object as it was written. Thousands are read to show a few, so it is parsed only when needed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Box<RawValue>", into = "Box<RawValue>")]
pub struct Data(Box<RawValue>);

impl Data {
    pub fn of(map: Map<String, Value>) -> serde_json::Result<Data> {
        serde_json::value::to_raw_value(&map).map(Data)
    }

    pub fn map(&self) -> Map<String, Value> {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.map().is_empty()
    }
}

impl Default for Data {
    fn default() -> Data {
        Data(RawValue::from_string("{}".into()).unwrap_or_default())
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Data) -> bool {
        self.0.get() == other.0.get() || self.map() == other.map()
    }
}

impl TryFrom<Box<RawValue>> for Data {
    type Error = &'static str;

    fn try_from(raw: Box<RawValue>) -> Result<Data, Self::Error> {
        match raw.get().starts_with('{') {
            true => Ok(Data(raw)),
            false => Err("expected an object"),
        }
    }
}

impl From<Data> for Box<RawValue> {
    fn from(data: Data) -> Box<RawValue> {
        data.0
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    v: u32,
    at: Utc,
    deploy: DeployId,
    event: Event,
}

/// Encodes the line of an event, without its newline.
pub fn line(at: Utc, deploy: &DeployId, event: &Event) -> serde_json::Result<String> {
    let line = Line { v: VERSION, at, deploy: deploy.clone(), event: event.clone() };
    serde_json::to_string(&line)
}
