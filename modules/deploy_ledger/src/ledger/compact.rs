//! Which lines are kept when a ledger is made shorter.
//!
//! Invariant: what is kept is kept byte for byte, in its order; and what the ledger says of who
//! holds the lease, what is current, what was last good and what is void is the same afterwards.

use super::{Deploy, Event, Ledger, Line};
use host::atomic::whole_lines;
use host::deploy_id::DeployId;
use std::collections::HashMap;

/// How much of a deploy is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Whole,
    /// That it was, how it ended, that it went back or is void.
    Verdict,
}

/// What is left, and how many deploys are forgotten and how many shortened. The ledger must be
/// sound: no damaged lines.
pub fn compact(bytes: &[u8], ledger: &Ledger, retain: usize) -> (Vec<u8>, usize, usize) {
    let kept = keep(ledger, retain);
    let mut left = Vec::new();
    let (lines, _torn) = whole_lines(bytes);
    for text in lines {
        let Ok(line) = serde_json::from_slice::<Line>(text) else { continue };
        let stays = match (kept.get(&line.deploy), &line.event) {
            (None, _) => false,
            (_, Event::Heartbeat {}) => ledger.deploy(&line.deploy).is_some_and(Deploy::is_open),
            (Some(Kept::Whole), _) => true,
            (Some(Kept::Verdict), Event::Phase(_) | Event::RestorePoint(_)) => false,
            (Some(Kept::Verdict), _) => true,
        };
        if stays {
            left.extend_from_slice(text);
            left.push(b'\n');
        }
    }
    let shortened = kept.iter().filter(|(id, how)| {
        let carries =
            |deploy: &Deploy| !(deploy.phases.is_empty() && deploy.restore_points.is_empty());
        **how == Kept::Verdict && ledger.deploy(id).is_some_and(carries)
    });
    let shortened = shortened.count();
    (left, ledger.deploys.len() - kept.len(), shortened)
}

fn keep(ledger: &Ledger, retain: usize) -> HashMap<DeployId, Kept> {
    let mut kept = HashMap::new();
    let newest = ledger.deploys.len().saturating_sub(retain);
    for (at, deploy) in ledger.deploys.iter().enumerate() {
        if at >= newest || deploy.is_open() {
            kept.insert(deploy.id.clone(), Kept::Whole);
        } else if deploy.void.is_some() || deploy.reverted.is_some() {
            kept.insert(deploy.id.clone(), Kept::Verdict);
        }
    }
    for special in [ledger.current(), ledger.last_good()].into_iter().flatten() {
        kept.insert(special.id.clone(), Kept::Whole);
    }
    // What locks deploys, and what has unlocked them.
    let verdicts: [fn(&Deploy) -> bool; 4] = [
        Deploy::is_done,
        |deploy| deploy.failed().is_some(),
        Deploy::locks,
        |deploy| deploy.opening.unlock.is_some(),
    ];
    for dated in verdicts {
        if let Some(deploy) = ledger.newest_that(dated) {
            kept.entry(deploy.id.clone()).or_insert(Kept::Verdict);
        }
    }
    // Without the run that took over from it, a dead one would hold the lease again. Later ones take
    // over from earlier ones, so once through is enough.
    for deploy in &ledger.deploys {
        if let (Some((by, _)), true) = (&deploy.superseded, kept.contains_key(&deploy.id)) {
            kept.entry(by.clone()).or_insert(Kept::Verdict);
        }
    }
    kept
}
