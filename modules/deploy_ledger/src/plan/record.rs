//! Decides which events may be recorded about a deploy.

use crate::ledger::{Cap, Deploy, Event, Ledger, Locked, Opening, Purpose};
use crate::state::{is_abandoned, silent_for};
use ansible_module::Failure;
use host::deploy_id::DeployId;

/// The step as a sentence; `None` when the event is recorded already.
pub(super) fn sentence(
    ledger: &Ledger,
    id: &DeployId,
    event: &Event,
    cap: Cap,
    unopened: bool,
) -> Result<Option<String>, Failure> {
    let recorded = is_recorded(ledger, id, event, cap, unopened)?;
    Ok((!recorded).then(|| describe(id, event)))
}

/// Returns whether the event is recorded already, and refuses one that may not be recorded.
fn is_recorded(
    ledger: &Ledger,
    id: &DeployId,
    event: &Event,
    cap: Cap,
    unopened: bool,
) -> Result<bool, Failure> {
    let known = ledger.deploy(id);
    let open = || open_deploy(ledger, known, id, unopened);
    Ok(match event {
        Event::Open(opening) => match known {
            Some(deploy) if deploy.is_open() => true,
            Some(deploy) => return Err(ended(deploy)),
            None => {
                may_open(ledger, id, opening.take_over.as_ref())?;
                may_deploy(ledger, id, opening, cap)?;
                false
            }
        },
        Event::Phase(phase) => {
            let last = open()?.and_then(|deploy| deploy.phases.last());
            last.is_some_and(|(_, last)| last == phase)
        }
        Event::RestorePoint(point) => {
            open()?.and_then(|deploy| deploy.restore_point(point)) == Some(point)
        }
        Event::Heartbeat {} => open().map(|_| false)?,
        Event::Revert { .. } => open()?.is_some_and(|deploy| deploy.reverted.is_some()),
        Event::Close { outcome, .. } => match known {
            Some(deploy) if deploy.outcome() == Some(*outcome) => true,
            Some(deploy) if deploy.closed.is_some() => return Err(ended(deploy)),
            _ => open().map(|_| false)?,
        },
        Event::Void { reason } => match known {
            Some(deploy) => deploy.void.as_ref().is_some_and(|(_, why)| why == reason),
            None if unopened => false,
            None => return Err(unknown(ledger, id)),
        },
    })
}

fn describe(id: &DeployId, event: &Event) -> String {
    match event {
        Event::Open(opening) => opened(id, opening),
        Event::Phase(phase) => {
            format!("record that phase {} of deploy {id} is {}", phase.phase, phase.status.word())
        }
        Event::RestorePoint(point) => {
            let host = point.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
            format!(
                "record the restore point {} of {}{host} for deploy {id}",
                point.name, point.layer
            )
        }
        Event::Heartbeat {} => format!("record that deploy {id} is alive"),
        Event::Revert { .. } => format!("record that deploy {id} goes back by itself"),
        Event::Close { outcome, .. } => format!("close deploy {id} as {}", outcome.word()),
        Event::Void { reason } => format!("mark deploy {id} as void: {reason}"),
    }
}

fn opened(id: &DeployId, opening: &Opening) -> String {
    let part = |before: &str, what: Option<&str>| match what {
        Some(what) => format!("{before}{what}"),
        None => String::new(),
    };
    format!(
        "open deploy {id}{}{}{}{}",
        part(" of release ", opening.release.as_deref()),
        part(", going back to before ", opening.back_to.as_ref().map(DeployId::as_str)),
        part(", taking over from ", opening.take_over.as_ref().map(DeployId::as_str)),
        part(", unlocking deploys after ", opening.unlock.as_ref().map(DeployId::as_str)),
    )
}

/// Allows one open deploy at a time; only naming that one in `take_over` gets past it.
fn may_open(ledger: &Ledger, id: &DeployId, take_over: Option<&DeployId>) -> Result<(), Failure> {
    let Some(holder) = ledger.holder() else {
        return match take_over {
            None => Ok(()),
            Some(named) => Err(Failure::new(
                "nothing_to_take_over",
                format!(
                    "{named} does not hold the lease (nobody does): open {id} without take_over"
                ),
            )),
        };
    };
    if take_over == Some(&holder.id) {
        return Ok(());
    }
    let phase = holder.phases.last().map_or("before its first phase".into(), |(_, last)| {
        format!("last in phase {}", last.phase)
    });
    let by = match holder.opening.by.as_str() {
        "" => String::new(),
        by => format!(" by {by}"),
    };
    let abandoned = if is_abandoned(holder) { ", and counts as abandoned" } else { "" };
    let named = match take_over {
        Some(named) => format!(", not {named}"),
        None => String::new(),
    };
    let silent = silent_for(holder);
    Err(Failure::new(
        "lease_held",
        format!(
            "deploy {} holds the lease{named}: opened{by} at {}, {phase}, heard of {silent} s \
             ago{abandoned}; wait for it, or if that run is dead pass take_over: {}",
            holder.id, holder.opened, holder.id
        ),
    )
    .with("holder", holder.id.as_str()))
}

/// Refuses a deploy while deploys are locked, another lock, which would hide the first one, and whoever
/// would unlock them without knowing by what. A rollback is never refused.
fn may_deploy(ledger: &Ledger, id: &DeployId, opening: &Opening, cap: Cap) -> Result<(), Failure> {
    let unlocks = opening.purpose == Purpose::Maintenance && opening.unlock.is_some();
    let concerns = opening.is_deploy() || unlocks || opening.purpose == Purpose::Lock;
    let Some(Locked { by, why, until }) = ledger.locked(cap).filter(|_| concerns) else {
        return Ok(());
    };
    if opening.unlock.as_ref() == Some(&by.id) {
        let left = ledger.locks_without(&by.id);
        if let Some(other) = left.last().filter(|_| opening.is_deploy()) {
            let msg = format!(
                "deploys of {} in {} are locked by several runs, and {id} was not opened: {why}; unlock {} by the playbook \
                 reversible.deploy.unlock, and then {}",
                opening.app, opening.env, by.id, other.id
            );
            return Err(Failure::new("locked", msg).with("locked_by", by.id.as_str()));
        }
        return Ok(());
    }
    let named = match &opening.unlock {
        Some(named) => format!(" (not {named})"),
        None => String::new(),
    };
    Err(Failure::new(
        "locked",
        format!(
            "deploys of {} in {} are locked, and {id} was not opened: {why}; see that {until}, then pass unlock: {}{named}",
            opening.app, opening.env, by.id
        ),
    )
    .with("locked_by", by.id.as_str()))
}

fn open_deploy<'a>(
    ledger: &Ledger,
    known: Option<&'a Deploy>,
    id: &DeployId,
    unopened: bool,
) -> Result<Option<&'a Deploy>, Failure> {
    match known {
        Some(deploy) if deploy.is_open() => Ok(Some(deploy)),
        Some(deploy) => Err(ended(deploy)),
        None if unopened => Ok(None),
        None => Err(unknown(ledger, id)),
    }
}

fn ended(deploy: &Deploy) -> Failure {
    let how = match (&deploy.superseded, deploy.outcome()) {
        (Some((other, _)), _) => format!("was taken over by {other}"),
        (None, Some(outcome)) => format!("was closed as {}", outcome.word()),
        (None, None) => "is open".into(),
    };
    Failure::new(
        "deploy_ended",
        format!("deploy {} {how}; a new run needs a new deploy id", deploy.id),
    )
}

pub(super) fn unknown(ledger: &Ledger, id: &DeployId) -> Failure {
    let newest = host::joined(ledger.deploys.iter().rev().take(3).map(|deploy| &deploy.id));
    let known = match newest.as_str() {
        "" => "the ledger is empty".to_owned(),
        ids => format!("the newest are {ids}"),
    };
    Failure::new("unknown_deploy", format!("deploy {id} was never opened ({known}); open it first"))
}
