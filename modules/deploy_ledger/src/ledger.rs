//! The ledger's file, and what its lines add up to. No I/O here.
//!
//! Invariant: a line that was written is never changed. A line is one JSON object with the version
//! of its format; a reader that meets a newer version says so and does not guess.

use ansible_module::Failure;
use host::atomic::whole_lines;
use host::clock::Utc;
use host::deploy_id::DeployId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Started,
    Done,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    FailedReverted,
    FailedNotReverted,
}

/// What a line records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Open {
        app: String,
        env: String,
        release: Option<String>,
        by: String,
        /// Seconds of silence after which the deploy counts as abandoned.
        lease: u64,
        take_over: Option<DeployId>,
    },
    Phase {
        phase: String,
        status: Status,
        data: Map<String, Value>,
    },
    Close {
        outcome: Outcome,
    },
    Void {
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Line {
    v: u32,
    at: Utc,
    deploy: DeployId,
    event: Event,
}

/// The line for an event, without its newline.
pub fn line(at: Utc, deploy: &DeployId, event: &Event) -> serde_json::Result<String> {
    let line = Line { v: VERSION, at, deploy: deploy.clone(), event: event.clone() };
    serde_json::to_string(&line)
}

#[derive(Clone, Debug)]
pub struct Phase {
    pub phase: String,
    pub status: Status,
    pub at: Utc,
    pub data: Map<String, Value>,
}

#[derive(Clone, Debug)]
pub struct Deploy {
    pub id: DeployId,
    pub release: Option<String>,
    pub by: String,
    pub lease: u64,
    pub opened: Utc,
    pub last: Utc,
    pub phases: Vec<Phase>,
    pub outcome: Option<Outcome>,
    pub superseded_by: Option<DeployId>,
    pub void: Option<String>,
}

impl Deploy {
    pub fn is_open(&self) -> bool {
        self.outcome.is_none() && self.superseded_by.is_none()
    }
}

/// All that a ledger says.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// In the order in which they were opened.
    pub deploys: Vec<Deploy>,
    /// App and environment, as its first line says.
    pub belongs_to: Option<(String, String)>,
    /// Lines that cannot be read, and why.
    pub damaged: Vec<String>,
    /// Bytes of a last line without an end: a crash in the middle of a write.
    pub torn: usize,
}

impl Ledger {
    pub fn parse(bytes: &[u8]) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::default();
        let (lines, torn) = whole_lines(bytes);
        ledger.torn = torn.map_or(0, <[u8]>::len);
        for (number, text) in lines.enumerate() {
            if text.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice::<Line>(text) {
                Ok(line) if line.v == VERSION => ledger.add(line.at, line.deploy, line.event),
                other => ledger.refuse(number + 1, text, other.err())?,
            }
        }
        Ok(ledger)
    }

    /// A line of a newer version ends the reading; any other strange line is kept in mind.
    fn refuse(
        &mut self,
        number: usize,
        text: &[u8],
        why: Option<serde_json::Error>,
    ) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        match serde_json::from_slice::<Version>(text) {
            Ok(Version { v }) if v > VERSION => Err(Failure::new(
                "newer_version",
                format!(
                    "line {number} was written by a newer version (format {v}, this one knows \
                     {VERSION}): update the collection on this controller"
                ),
            )),
            _ => {
                let why = why.map_or("its version is unknown".to_owned(), |why| why.to_string());
                self.damaged.push(format!("line {number}: {why}"));
                Ok(())
            }
        }
    }

    /// The open deploy that holds the lease.
    pub fn holder(&self) -> Option<&Deploy> {
        self.deploys.iter().rev().find(|deploy| deploy.is_open())
    }

    pub fn deploy(&self, id: &DeployId) -> Option<&Deploy> {
        self.deploys.iter().rev().find(|deploy| deploy.id == *id)
    }

    /// What the ledger says once `event` is recorded.
    pub fn add(&mut self, at: Utc, id: DeployId, event: Event) {
        let known = self.deploys.iter_mut().rev().find(|deploy| deploy.id == id);
        match (event, known) {
            (Event::Open { app, env, release, by, lease, take_over }, None) => {
                self.belongs_to.get_or_insert((app, env));
                let taken =
                    self.deploys.iter_mut().rev().find(|old| Some(&old.id) == take_over.as_ref());
                if let Some(taken) = taken {
                    taken.superseded_by = Some(id.clone());
                }
                let (phases, outcome, superseded_by, void) = (Vec::new(), None, None, None);
                self.deploys.push(Deploy {
                    id,
                    release,
                    by,
                    lease,
                    opened: at,
                    last: at,
                    phases,
                    outcome,
                    superseded_by,
                    void,
                });
            }
            (Event::Phase { phase, status, data }, Some(deploy)) => {
                deploy.last = at;
                deploy.phases.push(Phase { phase, status, at, data });
            }
            (Event::Close { outcome }, Some(deploy)) => {
                deploy.last = at;
                deploy.outcome = Some(outcome);
            }
            (Event::Void { reason }, Some(deploy)) => deploy.void = Some(reason),
            (Event::Open { .. }, Some(_)) => {
                self.damaged.push(format!("deploy {id} is opened twice"));
            }
            (_, None) => self.damaged.push(format!("deploy {id} is recorded but was never opened")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = r#"{"v":1,"at":"2026-11-21T08:45:00Z","deploy":"20261121t084500z-7f3a","event":{"open":{"app":"shop","env":"prod","release":null,"by":"","lease":60,"take_over":null}}}"#;
    const CLOSE: &str = r#"{"v":1,"at":"2026-11-21T08:46:00Z","deploy":"20261121t084500z-7f3a","event":{"close":{"outcome":"done"}}}"#;

    fn parse(text: &str) -> Ledger {
        Ledger::parse(text.as_bytes()).unwrap_or_else(|failure| panic!("{failure}"))
    }

    #[test]
    fn a_ledger_torn_at_any_byte_is_what_was_whole() {
        let text = format!("{OPEN}\n{CLOSE}\n");
        for cut in 0..=text.len() {
            let ledger = parse(&text[..cut]);
            let whole = text[..cut].matches('\n').count();
            assert_eq!(ledger.deploys.len(), whole.min(1), "cut at {cut}");
            assert_eq!(ledger.holder().is_some(), whole == 1, "cut at {cut}");
            assert!(ledger.damaged.is_empty(), "cut at {cut}");
        }
    }

    #[test]
    fn lines_that_cannot_be_read_are_kept_in_mind() {
        let ledger = parse(&format!("{OPEN}\nby hand\n{{\"v\":0}}\n{CLOSE}\n"));
        assert_eq!(ledger.damaged.len(), 2);
        assert!(ledger.damaged[0].starts_with("line 2: "));
        assert!(ledger.holder().is_none());
    }

    #[test]
    fn a_newer_version_is_not_guessed_at() {
        let failure = Ledger::parse(b"{\"v\":2,\"new\":true}\n").map(|_| ()).unwrap_err();
        assert_eq!(failure.reason, "newer_version");
    }

    #[test]
    fn taking_over_ends_the_other_lease() {
        let next = OPEN
            .replace("084500z-7f3a", "090000z-0001")
            .replace("\"take_over\":null", "\"take_over\":\"20261121t084500z-7f3a\"");
        let ledger = parse(&format!("{OPEN}\n{next}\n"));
        assert_eq!(ledger.holder().map(|deploy| deploy.id.as_str()), Some("20261121t090000z-0001"));
        let first = &ledger.deploys[0];
        assert_eq!(
            first.superseded_by.as_ref().map(DeployId::as_str),
            Some("20261121t090000z-0001")
        );
    }
}
