//! The deploys that the lines of a ledger describe.

use super::skim::Skim;
use super::{Event, Line, Opening, Outcome, Phase, RestorePoint, Scope, VERSION};
use ansible_module::Failure;
use host::clock::Utc;
use host::deploy_id::DeployId;
use serde::Deserialize;
use std::collections::HashMap;

/// A ledger up to this size is always parsed in full.
const SHORT: usize = 1 << 20;

#[derive(Clone, Debug)]
pub struct Closed {
    pub at: Utc,
    pub outcome: Outcome,
    pub color: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Deploy {
    pub id: DeployId,
    pub opening: Opening,
    pub opened: Utc,
    pub last: Utc,
    pub phases: Vec<(Utc, Phase)>,
    pub restore_points: Vec<(Utc, RestorePoint)>,
    /// When it rolled back by itself, and why.
    pub reverted: Option<(Utc, Option<String>)>,
    pub closed: Option<Closed>,
    /// Who took over from it, and when.
    pub superseded: Option<(DeployId, Utc)>,
    pub void: Option<(Utc, String)>,
}

impl Deploy {
    fn new(at: Utc, id: DeployId, opening: Opening) -> Deploy {
        Deploy {
            id,
            opening,
            opened: at,
            last: at,
            phases: Vec::new(),
            restore_points: Vec::new(),
            reverted: None,
            closed: None,
            superseded: None,
            void: None,
        }
    }

    pub fn is_open(&self) -> bool {
        self.closed.is_none() && self.superseded.is_none()
    }

    pub fn outcome(&self) -> Option<Outcome> {
        self.closed.as_ref().map(|closed| closed.outcome)
    }

    pub fn is_done(&self) -> bool {
        self.outcome() == Some(Outcome::Done)
    }

    pub fn is_good(&self) -> bool {
        self.is_done() && self.void.is_none() && !self.opening.purpose.keeps_release()
    }

    /// When it failed: recorded that itself, or was taken over.
    pub fn failed(&self) -> Option<Utc> {
        match (&self.closed, &self.superseded) {
            (Some(closed), _) => (closed.outcome != Outcome::Done).then_some(closed.at),
            (None, superseded) => superseded.as_ref().map(|(_, at)| *at),
        }
    }

    /// Seconds from its opening to its end; 0 when the clock was set back.
    pub fn seconds(&self) -> Option<i64> {
        self.closed.as_ref().map(|closed| (closed.at.unix() - self.opened.unix()).max(0))
    }

    /// The restore point as it was recorded last.
    pub fn restore_point(&self, like: &RestorePoint) -> Option<&RestorePoint> {
        self.restore_points.iter().rev().map(|(_, point)| point).find(|point| point.is_same(like))
    }
}

/// The content of a ledger.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// In the order in which they were opened.
    pub deploys: Vec<Deploy>,
    known: HashMap<DeployId, usize>,
    /// App and environment of its first line.
    pub belongs_to: Option<(String, String)>,
    /// Invalid lines, and why.
    pub damaged: Vec<String>,
    /// Bytes of a last line without an end: a crash in the middle of a write.
    pub torn: usize,
    /// The last line.
    pub newest: Option<(Utc, DeployId, Event)>,
}

impl Ledger {
    /// Parses a ledger as far as the scope needs it. A short one is always parsed in full.
    pub fn parse(bytes: &[u8], scope: Scope<'_>) -> Result<Ledger, Failure> {
        Ledger::read(bytes, if bytes.len() <= SHORT { Scope::All } else { scope })
    }

    /// Does the same, however short the ledger is.
    pub(super) fn read(bytes: &[u8], scope: Scope<'_>) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::default();
        // The end of the last whole line, with its newline.
        let end = memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
        ledger.torn = bytes.len() - end;
        let mut newest: Option<&[u8]> = None;
        for found in Skim::through(&bytes[..end], scope) {
            let text = &bytes[found.place];
            if text.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice::<Line>(text) {
                Ok(line) if line.v == VERSION => {
                    ledger.add(line.at, line.deploy, line.event);
                    newest = Some(text);
                }
                other => ledger.refuse(found.number, text, other.err())?,
            }
        }
        ledger.newest = newest
            .and_then(|text| serde_json::from_slice::<Line>(text).ok())
            .map(|line| (line.at, line.deploy, line.event));
        Ok(ledger)
    }

    /// Fails for a line of a newer version; notes any other invalid line as damaged.
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
        self.newest_that(Deploy::is_open)
    }

    pub fn deploy(&self, id: &DeployId) -> Option<&Deploy> {
        self.known.get(id).map(|at| &self.deploys[*at])
    }

    pub fn newest_that(&self, fits: impl Fn(&Deploy) -> bool) -> Option<&Deploy> {
        self.deploys.iter().rev().find(|deploy| fits(deploy))
    }

    /// The newest deploy that left its release in place, by its own record.
    pub fn current(&self) -> Option<&Deploy> {
        self.newest_that(left_its_release)
    }

    pub fn last_good(&self) -> Option<&Deploy> {
        self.newest_that(Deploy::is_good)
    }

    /// The deploy whose release was in place when this one was opened, to which its restore points lead.
    pub fn before(&self, id: &DeployId) -> Option<&Deploy> {
        let at = *self.known.get(id)?;
        self.deploys[..at].iter().rev().find(|deploy| left_its_release(deploy))
    }

    /// A ledger of these deploys only, to apply an event to.
    pub fn only(&self, ids: &[Option<&DeployId>]) -> Ledger {
        let mut small = Ledger { belongs_to: self.belongs_to.clone(), ..Ledger::default() };
        for (at, deploy) in self.deploys.iter().enumerate() {
            let wanted = ids.contains(&Some(&deploy.id)) && self.known[&deploy.id] == at;
            if wanted {
                small.known.insert(deploy.id.clone(), small.deploys.len());
                small.deploys.push(deploy.clone());
            }
        }
        small
    }

    /// Applies an event.
    pub fn add(&mut self, at: Utc, id: DeployId, event: Event) {
        let known = self.known.get(&id).map(|index| &mut self.deploys[*index]);
        match (event, known) {
            (Event::Open(opening), None) => self.open(at, id, opening),
            (Event::Open(_), Some(_)) => {
                self.damaged.push(format!("deploy {id} is opened twice"));
            }
            (_, None) => self.damaged.push(format!("deploy {id} is recorded but was never opened")),
            (Event::Void { reason }, Some(deploy)) => deploy.void = Some((at, reason)),
            (event, Some(deploy)) => {
                deploy.last = at;
                match event {
                    Event::Phase(phase) => deploy.phases.push((at, phase)),
                    Event::RestorePoint(point) => deploy.restore_points.push((at, point)),
                    Event::Revert { reason } => deploy.reverted = Some((at, reason)),
                    Event::Close { outcome, color } => {
                        deploy.closed = Some(Closed { at, outcome, color });
                    }
                    Event::Heartbeat {} | Event::Open(_) | Event::Void { .. } => {}
                }
            }
        }
    }

    fn open(&mut self, at: Utc, id: DeployId, opening: Opening) {
        self.belongs_to.get_or_insert_with(|| (opening.app.clone(), opening.env.clone()));
        let taken = opening.take_over.as_ref().and_then(|old| self.known.get(old));
        if let Some(taken) = taken {
            self.deploys[*taken].superseded = Some((id.clone(), at));
        }
        self.known.insert(id.clone(), self.deploys.len());
        self.deploys.push(Deploy::new(at, id, opening));
    }
}

/// Not for a deploy that failed and rolled back, nor for runs that change no release.
fn left_its_release(deploy: &Deploy) -> bool {
    !deploy.opening.purpose.keeps_release()
        && matches!(deploy.outcome(), Some(Outcome::Done | Outcome::FailedNotReverted))
}
