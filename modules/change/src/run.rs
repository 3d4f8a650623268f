//! Carrying a plan out: the same way for every module.

use crate::consent::Consent;
use crate::journal::{Begun, Journal};
use crate::plan::Plan;
use ansible_module::{Diff, Failure, Invocation, Kind, Outcome, Return, StepDone};
use anyhow::{Error, Result};
use host::record::Intent;
use serde_json::{Value, json};
use std::time::Instant;

/// The keys that every changing module returns.
pub const RESULT: &[Return] = &[
    Return::new(
        "plan",
        Kind::List,
        "always",
        "The steps, as sentences. Empty when nothing has to change.",
    )
    .sample(r#"["write the phase flip of deploy 20261121t084500z-7f3a"]"#),
    Return::new(
        "plan_id",
        Kind::Str,
        "always",
        "The id of this plan, for C(confirm) where a module has it.",
    )
    .sample(r#""plan-3f9a0c5512de""#),
    Return::new("loss", Kind::List, "always", "What the plan destroys.").contains(&[
        Return::new("what", Kind::Str, "always", "What is lost, by name."),
        Return::new(
            "accept",
            Kind::Str,
            "always",
            "The word that C(accept) needs for it, or null for the plain action.",
        ),
        Return::new("bytes", Kind::Int, "always", "How much, or null when it cannot be known."),
    ]),
    Return::new("undo", Kind::Str, "always", "How this can be undone, or V(none) and why."),
    Return::new("steps", Kind::List, "always", "The steps that were done.").contains(&[
        Return::new("step", Kind::Str, "always", "The sentence of the plan."),
        Return::new("seconds", Kind::Float, "always", "How long it took."),
    ]),
    Return::new("before", Kind::Dict, "success", "The state before."),
    Return::new(
        "after",
        Kind::Dict,
        "success",
        "The state as it was seen afterwards; in check mode the predicted one.",
    ),
    Return::new("reason", Kind::Str, "failure", "A stable code for why it failed.")
        .sample(r#""superseded""#),
];

/// Check consent, do the steps, look again.
///
/// `apply` does one action; it gets the intent to note in it what cannot be observed again.
/// `verify` observes anew and fails when the world is not what the plan promised; what it returns
/// is the `after` of the result.
pub fn run<A>(
    invocation: &Invocation,
    plan: Plan<A>,
    consent: &Consent,
    journal: Option<Journal<'_>>,
    mut apply: impl FnMut(&A, Option<&Intent>) -> Result<()>,
    verify: impl FnOnce() -> Result<Value>,
) -> Result<Outcome> {
    let mut outcome = plan.described();
    if invocation.check_mode {
        return Ok(outcome);
    }
    let begun = journal.as_ref().map(Journal::unfinished).transpose()?.flatten();
    if let Some(begun) = &begun {
        outcome.warnings.push(format!(
            "a run at {} was stopped half way through {} ({}); this one goes on from what it left",
            begun.since, begun.value.plan_id, begun.value.subject
        ));
    }
    if plan.steps.is_empty() {
        journal.as_ref().map_or(Ok(()), |journal| journal.record_done(&plan.after))?;
        begun.map_or(Ok(()), |begun| begun.intent.finish())?;
        return Ok(outcome);
    }
    consent.check(&plan, begun.as_ref().map(|begun| &begun.value))?;
    let intent = match (begun, &journal) {
        (Some(begun), _) => Some(begun.intent),
        (None, Some(journal)) => {
            Some(Intent::begin(journal.state_dir, journal.task, &Begun::of(&plan, journal))?)
        }
        (None, None) => None,
    };
    for step in &plan.steps {
        let began = Instant::now();
        let done = host::interrupt::check()
            .map_err(Error::from)
            .and_then(|()| apply(&step.action, intent.as_ref()));
        if let Err(error) = done {
            return Err(stopped(error, &plan, &step.text, &outcome.steps));
        }
        let seconds = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        outcome.steps.push(StepDone { step: step.text.clone(), seconds });
    }
    let after = verify().map_err(|error| {
        let what = "every step was done, but looking again showed otherwise";
        stopped(error, &plan, what, &outcome.steps)
    })?;
    // In this order: a rollback that is not known to be done would be done again.
    journal.as_ref().map_or(Ok(()), |journal| journal.record_done(&after))?;
    intent.map_or(Ok(()), Intent::finish)?;
    if let Some(Diff::States { after: shown, .. }) = outcome.diff.first_mut() {
        *shown = after.clone();
    }
    outcome.after = Some(after);
    Ok(outcome)
}

/// The failure of a step, with what had been done before it.
fn stopped<A>(error: Error, plan: &Plan<A>, step: &str, done: &[StepDone]) -> Error {
    let reason = (error.chain())
        .find_map(|cause| cause.downcast_ref::<Failure>().map(|failure| failure.reason))
        .or_else(|| host::reason(&error))
        .unwrap_or("step_failed");
    let evidence = Failure::new(reason, step)
        .with("changed", !done.is_empty())
        .with("plan", plan.sentences())
        .with("plan_id", plan.id())
        .with("steps", json!(done))
        .caused_by(error);
    evidence.into()
}
