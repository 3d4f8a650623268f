//! Finds the lines of a few deploys in a long ledger without parsing all of it.
//!
//! Our lines have a fixed beginning, which shows the deploy and the kind of event without parsing; any
//! other line is parsed here. Invariant: the holder of the lease, the current and the last good deploy
//! are found as if every line had been parsed. Damage further inside an older deploy's line is noticed
//! when that deploy is asked for, and before compacting.

use super::{Event, Line, Opening, Outcome, Purpose, Scope, VERSION};
use host::deploy_id::DeployId;
use memchr::{memchr_iter, memmem};
use std::collections::HashMap;
use std::ops::Range;

/// `{"v":1,"at":"2026-11-21T08:45:00Z","deploy":"20261121t084500z-7f3a","event":{"close":...`
const FRONT: &[u8] = b"{\"v\":1,\"at\":\"";
const MIDDLE: &[u8] = b"Z\",\"deploy\":\"";
const BACK: &[u8] = b"\",\"event\":{\"";
const TIME: usize = 19;
const ID: usize = 21;
/// Cannot occur within a string, where the quotes would be escaped.
const TAKES_NOTHING_OVER: &[u8] = b"\"take_over\":null";
/// Present in openings of whatever is not a deploy.
const HAS_PURPOSE: &[u8] = b",\"purpose\":\"";
const UNLOCKS: &[u8] = b",\"unlock\":\"";

type Key = [u8; ID];

/// One line, and the index of its deploy.
pub(super) struct Found {
    pub number: usize,
    pub place: Range<usize>,
    deploy: Option<usize>,
}

/// The parts of a deploy that decide whether it is needed.
#[derive(Default)]
struct Outline {
    outcome: Option<Outcome>,
    void: bool,
    reverted: bool,
    superseded_by: Option<usize>,
    keeps_release: bool,
    /// Whether it may lock deploys, or has unlocked them.
    about_lock: bool,
    /// Whether something about it is wrong, so that all its lines are parsed.
    odd: bool,
}

impl Outline {
    fn is_open(&self) -> bool {
        self.outcome.is_none() && self.superseded_by.is_none()
    }

    fn is_done(&self) -> bool {
        self.outcome == Some(Outcome::Done)
    }

    fn is_good(&self) -> bool {
        self.is_done() && !self.void && !self.keeps_release
    }

    fn left_its_release(&self) -> bool {
        !self.keeps_release
            && matches!(self.outcome, Some(Outcome::Done | Outcome::FailedNotReverted))
    }
}

/// Recognises openings that need not be parsed.
struct Plain {
    takes_nothing: memmem::Finder<'static>,
    more: [memmem::Finder<'static>; 2],
}

impl Plain {
    fn new() -> Plain {
        Plain {
            takes_nothing: memmem::Finder::new(TAKES_NOTHING_OVER),
            more: [HAS_PURPOSE, UNLOCKS].map(memmem::Finder::new),
        }
    }

    fn is(&self, event: &[u8]) -> bool {
        self.takes_nothing.find(event).is_some()
            && self.more.iter().all(|more| more.find(event).is_none())
    }
}

enum Kind {
    /// None for a deploy that takes nothing over and unlocks nothing.
    Open(Option<Box<Opening>>),
    Close(Outcome),
    Void,
    Revert,
    Other,
}

#[derive(Default)]
pub(super) struct Skim {
    lines: Vec<Found>,
    outlines: Vec<Outline>,
    known: HashMap<Key, usize>,
}

impl Skim {
    /// Returns the lines that the scope needs, and all invalid ones, in their order.
    pub fn through(bytes: &[u8], scope: Scope<'_>) -> Vec<Found> {
        let mut skim = Skim::default();
        let plain = Plain::new();
        let (mut from, mut last) = (0, None);
        for (number, end) in memchr_iter(b'\n', bytes).enumerate() {
            let text = &bytes[from..end];
            let deploy = skim.line(text, &plain, last);
            last = deploy.map(|deploy| (key(text), deploy)).and_then(|(key, at)| Some((key?, at)));
            skim.lines.push(Found { number: number + 1, place: from..end, deploy });
            from = end + 1;
        }
        let wanted = skim.wanted(scope);
        let mut lines = skim.lines;
        lines.retain(|line| line.deploy.is_none_or(|deploy| wanted[deploy]));
        lines
    }

    /// The index of the line's deploy; `None` for an invalid line. `last` is that of the previous line,
    /// mostly the same.
    fn line(&mut self, text: &[u8], plain: &Plain, last: Option<(Key, usize)>) -> Option<usize> {
        let (id, kind) = match (key(text), kind(text, plain)) {
            (Some(id), Some(kind)) => (id, kind),
            _ => parse_line(text)?,
        };
        if let Kind::Open(opening) = kind {
            if let Some(at) = self.known.get(&id) {
                self.outlines[*at].odd = true;
                return Some(*at);
            }
            let at = self.outlines.len();
            let taken = opening.as_ref().and_then(|it| self.find(it.take_over.as_ref()?));
            if let Some(taken) = taken {
                self.outlines[taken].superseded_by = Some(at);
            }
            self.known.insert(id, at);
            self.outlines.push(opening.map_or_else(Outline::default, |it| Outline {
                keeps_release: it.purpose.keeps_release(),
                about_lock: matches!(it.purpose, Purpose::Rollback | Purpose::Lock)
                    || it.unlock.is_some(),
                ..Outline::default()
            }));
            return Some(at);
        }
        let at = match last {
            Some((same, at)) if same == id => at,
            _ => *self.known.get(&id)?,
        };
        let outline = &mut self.outlines[at];
        match kind {
            Kind::Close(outcome) => outline.outcome = Some(outcome),
            Kind::Void => outline.void = true,
            Kind::Revert => outline.reverted = true,
            Kind::Open(_) | Kind::Other => {}
        }
        Some(at)
    }

    fn find(&self, id: &DeployId) -> Option<usize> {
        let key: Key = id.as_str().as_bytes().try_into().ok()?;
        self.known.get(&key).copied()
    }

    fn wanted(&self, scope: Scope<'_>) -> Vec<bool> {
        let Scope::About { newest, named } = scope else { return vec![true; self.outlines.len()] };
        let from = self.outlines.len().saturating_sub(newest);
        let mut wanted: Vec<bool> = (self.outlines.iter().enumerate())
            .map(|(at, it)| at >= from || it.is_open() || it.reverted || it.about_lock || it.odd)
            .collect();
        let special: [fn(&Outline) -> bool; 4] =
            [Outline::left_its_release, Outline::is_good, Outline::is_done, |it| {
                !it.is_open() && !it.is_done()
            }];
        for fits in special {
            if let Some(at) = self.outlines.iter().rposition(fits) {
                wanted[at] = true;
            }
        }
        if let Some(at) = named.and_then(|id| self.find(id)) {
            wanted[at] = true;
            if let Some(before) = self.outlines[..at].iter().rposition(Outline::left_its_release) {
                wanted[before] = true;
            }
        }
        // The first line names the app and environment, and the last one is the newest record.
        let last = self.lines.iter().rev().find_map(|line| line.deploy);
        for at in [(!wanted.is_empty()).then_some(0), last].into_iter().flatten() {
            wanted[at] = true;
        }
        // Without the run that took over, a dead one would look open. It always came later.
        for at in 0..wanted.len() {
            if let (true, Some(by)) = (wanted[at], self.outlines[at].superseded_by) {
                wanted[by] = true;
            }
        }
        wanted
    }
}

fn key(text: &[u8]) -> Option<Key> {
    let rest = text.strip_prefix(FRONT)?.get(TIME..)?.strip_prefix(MIDDLE)?;
    rest.get(..ID)?.try_into().ok()
}

fn kind(text: &[u8], plain: &Plain) -> Option<Kind> {
    let at = FRONT.len() + TIME + MIDDLE.len() + ID;
    let event = text.get(at..)?.strip_prefix(BACK).filter(|_| text.ends_with(b"}}"))?;
    for (outcome, front) in [
        (Outcome::Done, &b"close\":{\"outcome\":\"done\""[..]),
        (Outcome::FailedReverted, b"close\":{\"outcome\":\"failed_reverted\""),
        (Outcome::FailedNotReverted, b"close\":{\"outcome\":\"failed_not_reverted\""),
    ] {
        if event.starts_with(front) {
            return Some(Kind::Close(outcome));
        }
    }
    match event {
        event if event.starts_with(b"phase\":{") => Some(Kind::Other),
        event if event.starts_with(b"restore_point\":{") => Some(Kind::Other),
        event if event.starts_with(b"heartbeat\":{") => Some(Kind::Other),
        event if event.starts_with(b"revert\":{") => Some(Kind::Revert),
        event if event.starts_with(b"void\":{") => Some(Kind::Void),
        event if event.starts_with(b"open\":{") && plain.is(event) => Some(Kind::Open(None)),
        _ => None,
    }
}

fn parse_line(text: &[u8]) -> Option<(Key, Kind)> {
    let line = serde_json::from_slice::<Line>(text).ok().filter(|line| line.v == VERSION)?;
    let kind = match line.event {
        Event::Open(opening) => Kind::Open(Some(Box::new(opening))),
        Event::Close { outcome, .. } => Kind::Close(outcome),
        Event::Void { .. } => Kind::Void,
        Event::Revert { .. } => Kind::Revert,
        Event::Phase(_) | Event::RestorePoint(_) | Event::Heartbeat {} => Kind::Other,
    };
    Some((line.deploy.as_str().as_bytes().try_into().ok()?, kind))
}
