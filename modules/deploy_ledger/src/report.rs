//! The report of one deploy, made from the ledger.
//!
//! Invariants: it is made from the ledger alone, so the same ledger gives the same report; and output of
//! programs is text in it, never markup (each form escapes all of it).
//!
//! - `recorded`: what the phases recorded: plans, losses, flips, probes, last messages
//! - `markdown`, `html`: the two forms; `wording`: durations, sizes and values in both

mod html;
mod markdown;
mod recorded;
mod wording;

pub use html::html;
pub use markdown::markdown;

use crate::brief::brief;
use crate::ledger::{Deploy, Ledger, Outcome, Phase, Status};
use crate::options::{LedgerId, Link};
use crate::state::is_abandoned;
use host::clock::Utc;
use recorded::{Flip, Recorded};
use wording::duration;

/// How the deploy ended, or that it is open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Reverted,
    Bad,
    Open,
}

pub(super) struct Fact {
    pub label: &'static str,
    pub text: String,
    pub link: Option<String>,
}

pub(super) struct Moment {
    pub at: Utc,
    pub text: String,
    pub verdict: Option<Verdict>,
}

/// One phase: from when to when, in seconds since the deploy was opened.
pub(super) struct Bar {
    pub phase: String,
    pub from: i64,
    pub to: i64,
    /// `None` if only its start was recorded.
    pub status: Option<Status>,
}

pub(super) struct Report {
    pub title: String,
    pub verdict: Verdict,
    pub badge: &'static str,
    pub summary: Vec<String>,
    pub facts: Vec<Fact>,
    pub moments: Vec<Moment>,
    pub bars: Vec<Bar>,
    /// Seconds from its opening to its end, or to its last record.
    pub span: i64,
    pub recorded: Recorded,
    pub points: Vec<Vec<String>>,
    pub resolution: Vec<String>,
}

impl Report {
    pub(super) fn failed(&self) -> bool {
        self.verdict != Verdict::Good
    }
}

pub fn collect(ledger: &Ledger, deploy: &Deploy, at: &LedgerId, link: &Link) -> Report {
    let before = ledger.before(&deploy.id);
    let (verdict, badge) = verdict(deploy);
    let back = deploy.opening.back_to.is_some()
        || deploy.reverted.is_some()
        || deploy.outcome() == Some(Outcome::FailedReverted);
    let what = if back { "rollback" } else { "deploy" };
    let date: String = deploy.opened.to_string().chars().take(10).collect();
    let recorded = Recorded::of(deploy);
    Report {
        title: format!("{} {what} - {date}", at.app),
        verdict,
        badge,
        summary: summary(deploy, at, &recorded),
        facts: facts(deploy, before, at, link),
        moments: moments(deploy),
        bars: bars(deploy),
        span: (end(deploy).unix() - deploy.opened.unix()).max(0),
        points: wording::points(deploy),
        resolution: resolution(deploy, before),
        recorded,
    }
}

fn verdict(deploy: &Deploy) -> (Verdict, &'static str) {
    match (deploy.outcome(), &deploy.superseded) {
        (Some(Outcome::Done), _) if deploy.void.is_some() => (Verdict::Bad, "done, now void"),
        (Some(Outcome::Done), _) => (Verdict::Good, "done"),
        (Some(Outcome::FailedReverted), _) => (Verdict::Reverted, "failed, reverted"),
        (Some(Outcome::FailedNotReverted), _) => (Verdict::Bad, "failed, not reverted"),
        (None, Some(_)) => (Verdict::Bad, "died, taken over"),
        (None, None) if is_abandoned(deploy) => (Verdict::Bad, "abandoned"),
        (None, None) => (Verdict::Open, "open"),
    }
}

fn end(deploy: &Deploy) -> Utc {
    match (&deploy.closed, &deploy.superseded) {
        (Some(closed), _) => closed.at,
        (None, Some((_, at))) => *at,
        (None, None) => deploy.last,
    }
}

fn summary(deploy: &Deploy, at: &LedgerId, recorded: &Recorded) -> Vec<String> {
    let release = deploy.opening.release.as_deref().unwrap_or("(no release was named)");
    let took = duration((end(deploy).unix() - deploy.opened.unix()).max(0));
    let after = match deploy.outcome() {
        Some(Outcome::Done) => format!("was done after {took}"),
        Some(Outcome::FailedReverted) => {
            format!("failed and was rolled back, {took} after it began")
        }
        Some(Outcome::FailedNotReverted) => {
            format!("failed and was not rolled back, {took} after it began")
        }
        None => match &deploy.superseded {
            Some((by, _)) => format!("never said how it ended; {by} took over from it"),
            None => format!("has not ended; it was last heard of at {}", deploy.last),
        },
    };
    let mut all = vec![format!("Release {release} of {} {after}.", at.name())];
    if let Some(old) = &deploy.opening.back_to {
        all.push(format!("It went back to the restore points of deploy {old}."));
    }
    all.extend(deploy.opening.reason.as_ref().map(|why| format!("Reason: {why}")));
    if let Some((_, Some(why))) = &deploy.reverted {
        all.push(format!("Reason for the rollback: {why}"));
    }
    all.extend(deploy.void.as_ref().map(|(_, why)| format!("It is void: {why}")));
    all.extend(exposure(deploy, recorded));
    let wrong =
        recorded.said.iter().rev().find_map(|said| said.message.as_ref().map(|it| (said, it)));
    if let (Some((said, message)), true) = (wrong, deploy.outcome() != Some(Outcome::Done)) {
        all.push(format!("Phase {} said: {message}", said.phase));
    }
    all
}

/// For how long users had a release that was bad.
fn exposure(deploy: &Deploy, recorded: &Recorded) -> Option<String> {
    let between = |from: Utc, to: Utc| duration((to.unix() - from.unix()).max(0));
    let done = |until: Utc| {
        let before = |(at, phase): &&(Utc, Phase)| {
            at.unix() <= until.unix() && matches!(phase.status, Status::Done)
        };
        deploy.phases.iter().rev().find(before).map_or(deploy.opened, |(at, _)| *at)
    };
    if let Some(exposed) = recorded.flips.iter().filter_map(|flip| flip.exposed()).reduce(f64::max)
    {
        return Some(format!(
            "Users had it for {}, until what served before was active again.",
            wording::milliseconds(&exposed.into())
        ));
    }
    match (deploy.outcome(), &deploy.reverted, &deploy.closed, &deploy.void) {
        (Some(Outcome::FailedReverted), Some((at, _)), Some(closed), _) => {
            Some(format!("Users had it for at most {}.", between(done(*at), closed.at)))
        }
        (Some(Outcome::Done), _, Some(closed), Some((void, _))) => {
            Some(format!("Users had it for about {}.", between(closed.at, *void)))
        }
        _ => None,
    }
}

fn facts(deploy: &Deploy, before: Option<&Deploy>, at: &LedgerId, link: &Link) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut fact = |label, text: Option<String>, link| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            facts.push(Fact { label, text, link });
        }
    };
    let opening = &deploy.opening;
    let to = |release: Option<&String>| release.and_then(|release| link.to(release, at));
    fact("App", Some(at.app.to_string()), None);
    fact("Environment", Some(at.env.to_string()), None);
    fact("Release", opening.release.clone(), to(opening.release.as_ref()));
    if let Some(before) = before {
        let release = before.opening.release.clone();
        let link = to(release.as_ref());
        let void = before.void.as_ref().map_or("", |_| " (void)");
        let text = format!("{}{void}", release.unwrap_or_else(|| before.id.to_string()));
        fact("Release before", Some(text), link);
    }
    fact("Deploy id", Some(deploy.id.to_string()), None);
    fact("Run by", Some(opening.by.clone()), None);
    fact("Opened", Some(deploy.opened.to_string()), None);
    fact("Ended", deploy.closed.as_ref().map(|closed| closed.at.to_string()), None);
    let silent = deploy.is_open().then(|| deploy.last.to_string());
    fact("Last heard of", silent, None);
    fact("Duration", deploy.seconds().map(duration), None);
    fact("Active colour", deploy.closed.as_ref().and_then(|it| it.color.clone()), None);
    let config = opening.config.as_ref().map(|config| {
        let dirty = match config.dirty {
            Some(true) => " with changes that are in no commit",
            Some(false) => "",
            None => " (nobody looked for uncommitted changes)",
        };
        format!("{}{dirty}", config.commit)
    });
    fact("Configuration", config, None);
    fact("Took over from", opening.take_over.as_ref().map(ToString::to_string), None);
    fact("Taken over by", deploy.superseded.as_ref().map(|(by, _)| by.to_string()), None);
    facts
}

fn moments(deploy: &Deploy) -> Vec<Moment> {
    let mut all: Vec<Moment> = Vec::new();
    let mut add = |at: Utc, text: String, verdict| all.push(Moment { at, text, verdict });
    add(deploy.opened, "Deploy started".into(), None);
    for (at, phase) in &deploy.phases {
        match phase.status {
            Status::Started => add(*at, format!("Phase {} began", phase.phase), None),
            Status::Done => add(*at, format!("Phase {} done", phase.phase), Some(Verdict::Good)),
            Status::Failed => add(*at, format!("Phase {} failed", phase.phase), Some(Verdict::Bad)),
        }
    }
    for (at, point) in &deploy.restore_points {
        add(*at, format!("Captured the restore point {} of {}", point.name, point.layer), None);
    }
    for (at, phase) in &deploy.phases {
        if let Some(flip) = Flip::of_phase(phase) {
            let took = flip.numbers.iter().find(|(label, _)| *label == "Flip");
            let took = took.map(|(_, took)| format!(" in {took}")).unwrap_or_default();
            let (text, verdict) = match flip.exposed() {
                Some(exposed) => (
                    format!(
                        "Flipped{took}, and back: users had it for {}",
                        wording::milliseconds(&exposed.into())
                    ),
                    Verdict::Reverted,
                ),
                None => (format!("Flipped{took}"), Verdict::Good),
            };
            add(*at, text, Some(verdict));
        }
    }
    if let Some((at, why)) = &deploy.reverted {
        let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        add(*at, format!("Rollback initiated by the run itself{why}"), Some(Verdict::Reverted));
    }
    if let Some((by, at)) = &deploy.superseded {
        add(*at, format!("Found dead; deploy {by} took over"), Some(Verdict::Bad));
    }
    if let Some(closed) = &deploy.closed {
        let (verdict, _) = verdict(&Deploy { void: None, ..deploy.clone() });
        add(closed.at, format!("Closed as {}", closed.outcome.word()), Some(verdict));
    }
    if let Some((at, why)) = &deploy.void {
        add(*at, format!("Marked as void: {why}"), Some(Verdict::Bad));
    }
    // The sort is stable: records of the same second stay in order.
    all.sort_by_key(|moment| moment.at);
    all
}

fn bars(deploy: &Deploy) -> Vec<Bar> {
    let since = |at: Utc| (at.unix() - deploy.opened.unix()).max(0);
    let mut bars: Vec<Bar> = Vec::new();
    let mut last = 0;
    for (at, phase) in &deploy.phases {
        let now = since(*at);
        let running =
            bars.iter_mut().rev().find(|bar| bar.phase == phase.phase && bar.status.is_none());
        match (phase.status, running) {
            (Status::Started, _) => {
                bars.push(Bar { phase: phase.phase.clone(), from: now, to: now, status: None });
            }
            (status, Some(bar)) => (bar.to, bar.status) = (now.max(bar.from), Some(status)),
            // Only its end was recorded: it began at the previous record.
            (status, None) => bars.push(Bar {
                phase: phase.phase.clone(),
                from: last.min(now),
                to: now,
                status: Some(status),
            }),
        }
        last = now;
    }
    let end = since(end(deploy));
    for bar in bars.iter_mut().filter(|bar| bar.status.is_none()) {
        bar.to = end.max(bar.from);
    }
    bars
}

fn resolution(deploy: &Deploy, before: Option<&Deploy>) -> Vec<String> {
    let mut all = Vec::new();
    let landed = before.map(|before| {
        let release = brief(before)["release"].as_str().unwrap_or("of no name").to_owned();
        format!("release {release} (deploy {})", before.id)
    });
    match (deploy.outcome(), landed) {
        (Some(Outcome::FailedReverted), Some(landed)) => {
            all.push(format!("Rolled back to {landed}."))
        }
        (Some(Outcome::FailedReverted), None) => all.push("Rolled back.".into()),
        (Some(Outcome::Done), _) => {}
        (Some(Outcome::FailedNotReverted), Some(landed)) => {
            all.push(format!("Not rolled back. The release before it was {landed}."));
        }
        (Some(Outcome::FailedNotReverted), None) => all.push("Not rolled back.".into()),
        (None, _) => all.push("The run did not say how it ended: look at what serves now.".into()),
    }
    if let Some(old) = &deploy.opening.back_to {
        all.push(format!("Rolled back to the restore points of deploy {old}."));
    }
    all
}
