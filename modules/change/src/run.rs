//! Carrying a plan out: the same way for every module.

use crate::consent::Consent;
use crate::plan::Plan;
use ansible_module::{Diff, Failure, Invocation, Kind, Outcome, Return, StepDone};
use anyhow::{Error, Result};
use host::folder::SafeFolder;
use host::record::{Done, Found, Intent};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
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
        "The id of this plan, for O(confirm) where a module has it.",
    )
    .sample(r#""plan-3f9a0c5512de""#),
    Return::new("loss", Kind::List, "always", "What the plan destroys.").contains(&[
        Return::new("what", Kind::Str, "always", "What is lost, by name."),
        Return::new(
            "accept",
            Kind::Str,
            "always",
            "The word that O(accept) needs for it, or null for the plain action.",
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

/// Where the intent of a plan is written before its first step, and that a rollback was done.
///
/// Modules whose steps are one atomic write each need none.
pub struct Journal<'a> {
    pub state_dir: &'a Path,
    /// One intent at a time can stand for a task.
    pub task: &'a str,
    /// In a rollback its id (see [`rollback_key`](crate::rollback_key)): it is done once.
    pub rollback: Option<String>,
}

impl Journal<'_> {
    /// The result of a rollback that was already done under this id: nothing, whatever was written
    /// since. To be asked before anything is planned. `state` is what is there now.
    pub fn done_before(&self, invocation: &Invocation, state: &Value) -> Result<Option<Outcome>> {
        let Some(id) = &self.rollback else { return Ok(None) };
        let Some(folder) = SafeFolder::find(self.state_dir)? else { return Ok(None) };
        let Some(done) = Done::recorded(folder.path(), id)? else { return Ok(None) };
        if !invocation.check_mode {
            // Killed between the two last writes: what it had begun is done as well.
            if let Some(begun) = self.unfinished()?.filter(|begun| begun.value.is_by(id)) {
                begun.intent.finish()?;
            }
        }
        let mut outcome = describe(&Plan::<()>::nothing(id, state.clone()));
        outcome
            .warnings
            .push(format!("rollback {id} was done at {}; it is not done again", done.at));
        Ok(Some(outcome))
    }

    fn unfinished(&self) -> Result<Option<Found<Begun>>> {
        Intent::unfinished::<Begun>(self.state_dir, self.task)
    }

    fn record_done(&self, after: &Value) -> Result<()> {
        match &self.rollback {
            Some(id) => Done::record(self.state_dir, id, after),
            None => Ok(()),
        }
    }
}

/// What stands in an intent: what was agreed to, so that a run that was killed half way can be
/// finished under the same consent although the state has moved.
#[derive(Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) plan_id: String,
    subject: String,
    plan: Vec<String>,
    pub(crate) loss: Vec<String>,
    rollback: Option<String>,
}

impl Begun {
    fn of<A>(plan: &Plan<A>, journal: &Journal<'_>) -> Begun {
        Begun {
            plan_id: plan.id(),
            subject: plan.subject.clone(),
            plan: plan.sentences(),
            loss: plan.losses().map(|loss| loss.what.clone()).collect(),
            rollback: journal.rollback.clone(),
        }
    }

    fn is_by(&self, rollback: &str) -> bool {
        self.rollback.as_deref() == Some(rollback)
    }
}

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
    let mut outcome = describe(&plan);
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

fn describe<A>(plan: &Plan<A>) -> Outcome {
    let mut outcome = Outcome {
        changed: !plan.steps.is_empty(),
        plan: Some(plan.sentences()),
        plan_id: Some(plan.id()),
        loss: plan.losses().map(|loss| loss.to_json()).collect(),
        undo: Some(plan.undo.text()),
        before: Some(plan.before.clone()),
        after: Some(plan.after.clone()),
        warnings: plan.warnings.clone(),
        ..Outcome::default()
    };
    if outcome.changed {
        let states = Diff::States {
            subject: plan.subject.clone(),
            before: plan.before.clone(),
            after: plan.after.clone(),
        };
        outcome.diff = vec![states, Diff::Text(plan.rendered())];
    }
    outcome
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
