//! Plan: state and options to the lines that are appended. Pure.

use crate::ledger::{Deploy, Event, Ledger};
use crate::options::Options;
use crate::state::{State, silent_for};
use ansible_module::Failure;
use change::{Plan, Step, Undo};
use host::deploy_id::DeployId;

/// `predicted`: in check mode a run was not opened by the task that would have opened it.
pub fn plan(state: &State, options: &Options, predicted: bool) -> Result<Plan<Event>, Failure> {
    let ledger = &state.ledger;
    if let Some(first) = ledger.damaged.first() {
        return Err(Failure::new(
            "ledger_damaged",
            format!(
                "{} cannot be trusted ({first}); nothing was written; repair that line, or move \
                 the file away to begin a new ledger",
                state.file
            ),
        )
        .with("damaged", ledger.damaged.clone()));
    }
    let id = &options.deploy;
    let known = ledger.deploy(id);
    let unopened = known.is_none() && predicted;
    let mut plan = Plan::nothing(format!("ledger of {}", state.name), State::view(ledger, id));
    plan.warnings = state.warnings();
    plan.identities =
        ledger.holder().map(|holder| format!("holder {}", holder.id)).into_iter().collect();
    let text = match &options.event {
        Event::Open { release, take_over, .. } => {
            match known {
                Some(deploy) if deploy.is_open() => return Ok(plan),
                Some(deploy) => return Err(ended(deploy)),
                None => {}
            }
            may_open(ledger, id, take_over.as_ref())?;
            plan.undo = Undo::By("close the deploy".into());
            let release =
                release.as_ref().map(|sha| format!(" of release {sha}")).unwrap_or_default();
            let instead = take_over.as_ref().map(|old| format!(", taking over from {old}"));
            format!("open deploy {id}{release}{}", instead.unwrap_or_default())
        }
        Event::Phase { phase, status, data } => {
            if let Some(last) =
                open_deploy(ledger, known, id, unopened)?.and_then(|deploy| deploy.phases.last())
            {
                if (&last.phase, &last.status, &last.data) == (phase, status, data) {
                    return Ok(plan);
                }
            }
            let status = format!("{status:?}").to_lowercase();
            format!("record that phase {phase} of deploy {id} is {status}")
        }
        Event::Close { outcome } => {
            match known {
                Some(deploy) if deploy.outcome == Some(*outcome) => return Ok(plan),
                Some(deploy) if deploy.outcome.is_some() => return Err(ended(deploy)),
                _ => open_deploy(ledger, known, id, unopened)?,
            };
            let outcome = serde_json::to_value(outcome).unwrap_or_default();
            format!("close deploy {id} as {}", outcome.as_str().unwrap_or_default())
        }
        Event::Void { reason } => {
            match known {
                Some(deploy) if deploy.void.as_ref() == Some(reason) => return Ok(plan),
                Some(_) => {}
                None if unopened => {}
                None => return Err(unknown(ledger, id)),
            }
            format!("mark deploy {id} as void: {reason}")
        }
    };
    if unopened && !matches!(options.event, Event::Open { .. }) {
        plan.warnings
            .push(format!("deploy {id} is not open yet; in a real run it would be by now"));
    } else {
        let mut after = ledger.clone();
        after.add(options.deploy.utc(), id.clone(), options.event.clone());
        plan.after = State::view(&after, id);
    }
    if !matches!(options.event, Event::Open { .. }) {
        plan.undo = Undo::None("what was recorded stays recorded".into());
    }
    plan.steps = vec![Step::new(options.event.clone(), text)];
    Ok(plan)
}

/// One deploy at a time, and no way past another one but by its name.
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
    let phase = holder
        .phases
        .last()
        .map_or("before its first phase".into(), |last| format!("last in phase {}", last.phase));
    let by = match holder.by.as_str() {
        "" => String::new(),
        by => format!(" by {by}"),
    };
    let silent = silent_for(holder);
    let abandoned = if silent > holder.lease { ", and counts as abandoned" } else { "" };
    let named = match take_over {
        Some(named) => format!(", not {named}"),
        None => String::new(),
    };
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
    let how = match (&deploy.superseded_by, deploy.outcome) {
        (Some(other), _) => format!("was taken over by {other}"),
        (None, Some(outcome)) => format!("was closed as {outcome:?}"),
        (None, None) => "is open".into(),
    };
    Failure::new(
        "deploy_ended",
        format!("deploy {} {how}; a new run needs a new deploy id", deploy.id),
    )
}

fn unknown(ledger: &Ledger, id: &DeployId) -> Failure {
    let newest: Vec<&str> =
        ledger.deploys.iter().rev().take(3).map(|deploy| deploy.id.as_str()).collect();
    let known = match newest.as_slice() {
        [] => "the ledger is empty".to_owned(),
        ids => format!("the newest are {}", ids.join(", ")),
    };
    Failure::new("unknown_deploy", format!("deploy {id} was never opened ({known}); open it first"))
}
