//! Chooses the lines that are kept when a ledger is compacted.
//!
//! Invariant: lines are kept byte for byte and in order; and the holder of the lease, the current and the
//! last good deploy, and which ones are void, are the same afterwards.

use super::{Deploy, Event, Ledger, Line};
use host::atomic::whole_lines;
use host::deploy_id::DeployId;
use std::collections::HashMap;

/// How much of a deploy is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// Only its opening, its end, and whether it went back or is void.
    Verdict,
}

/// Returns the remaining lines, and how many deploys were forgotten and shortened. The ledger must have
/// no damaged lines.
pub fn compact(bytes: &[u8], ledger: &Ledger, retain: usize) -> (Vec<u8>, usize, usize) {
    let kept = keep(ledger, retain);
    let mut left = Vec::new();
    let (lines, _torn) = whole_lines(bytes);
    for text in lines {
        let Ok(line) = serde_json::from_slice::<Line>(text) else { continue };
        let stays = match (kept.get(&line.deploy), &line.event) {
            (None, _) => false,
            (_, Event::Heartbeat {}) => ledger.deploy(&line.deploy).is_some_and(Deploy::is_open),
            (Some(Extent::Whole), _) => true,
            (Some(Extent::Verdict), Event::Phase(_) | Event::RestorePoint(_)) => false,
            (Some(Extent::Verdict), _) => true,
        };
        if stays {
            left.extend_from_slice(text);
            left.push(b'\n');
        }
    }
    let shortened = kept.iter().filter(|(id, how)| {
        let carries =
            |deploy: &Deploy| !(deploy.phases.is_empty() && deploy.restore_points.is_empty());
        **how == Extent::Verdict && ledger.deploy(id).is_some_and(carries)
    });
    let shortened = shortened.count();
    (left, ledger.deploys.len() - kept.len(), shortened)
}

fn keep(ledger: &Ledger, retain: usize) -> HashMap<DeployId, Extent> {
    let mut kept = HashMap::new();
    let newest = ledger.deploys.len().saturating_sub(retain);
    for (at, deploy) in ledger.deploys.iter().enumerate() {
        if at >= newest || deploy.is_open() {
            kept.insert(deploy.id.clone(), Extent::Whole);
        } else if deploy.void.is_some() || deploy.reverted.is_some() {
            kept.insert(deploy.id.clone(), Extent::Verdict);
        }
    }
    for special in [ledger.current(), ledger.last_good()].into_iter().flatten() {
        kept.insert(special.id.clone(), Extent::Whole);
    }
    // What locks deploys, and what has unlocked them.
    let unlocks_rollbacks =
        |deploy: &Deploy| deploy.opening.unlock.as_ref().is_some_and(|id| !ledger.is_by_person(id));
    let verdicts: [&dyn Fn(&Deploy) -> bool; 5] = [
        &Deploy::is_done,
        &|deploy| deploy.failed().is_some(),
        &Deploy::locks,
        &|deploy| deploy.opening.unlock.is_some(),
        &unlocks_rollbacks,
    ];
    let dated = verdicts.into_iter().filter_map(|dated| ledger.newest_that(dated));
    for deploy in dated.chain(ledger.locks()) {
        kept.entry(deploy.id.clone()).or_insert(Extent::Verdict);
    }
    loop {
        let before = kept.len();
        // Without the run that took over from it, a dead one would hold the lease again.
        for deploy in &ledger.deploys {
            if let (Some((by, _)), true) = (&deploy.superseded, kept.contains_key(&deploy.id)) {
                kept.entry(by.clone()).or_insert(Extent::Verdict);
            }
        }
        keep_unlocked(ledger, &mut kept);
        if kept.len() == before {
            return kept;
        }
    }
}

/// A lock of a person is kept with what has unlocked it: without that it would lock deploys again, and without
/// the lock the other would be taken for one that unlocks rollbacks.
fn keep_unlocked(ledger: &Ledger, kept: &mut HashMap<DeployId, Extent>) {
    for deploy in &ledger.deploys {
        let named = deploy.opening.unlock.as_ref().filter(|id| ledger.is_by_person(id));
        let Some(lock) = named else { continue };
        let pair = [lock, &deploy.id];
        if pair.iter().any(|id| kept.contains_key(id)) {
            for id in pair {
                kept.entry(id.clone()).or_insert(Extent::Verdict);
            }
        }
    }
}
