//! Carrying a plan out: the same way for every module.

use crate::consent::Consent;
use crate::journal::Journal;
use crate::plan::Plan;
use ansible_module::{Diff, Failure, Invocation, Kind, Outcome, Return, StepDone, tell};
use anyhow::{Error, Result};
use host::record::Intent;
use host::reserve;
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
    if begun.is_some() || journal.as_ref().is_some_and(|journal| journal.rollback.is_some()) {
        // Back, or to the end of what was begun: also on a full disk.
        reserve::open();
    }
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
        (None, Some(journal)) => Some(journal.begin(&plan)?),
        (None, None) => None,
    };
    for (n, step) in plan.steps.iter().enumerate() {
        tell(&format!("step {} of {}: {}", n + 1, plan.steps.len(), step.text));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Loss, Step};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn invocation() -> Invocation {
        Invocation {
            module: "specimen",
            check_mode: false,
            diff: false,
            verbosity: 0,
            tmpdir: None,
            options: Default::default(),
        }
    }

    fn carried_out(state_dir: &Path, step: Step<()>) -> Result<Outcome> {
        let mut plan = Plan::nothing("CT 101", Value::Null);
        plan.steps.push(step);
        let journal = Journal { state_dir, task: "test", rollback: None };
        let act = |_: &(), intent: Option<&Intent>| {
            assert!(intent.is_some());
            Ok(())
        };
        run(&invocation(), plan, &Consent::none(), Some(journal), act, || Ok(Value::Null))
    }

    #[test]
    fn only_a_run_that_is_not_refused_makes_its_folder() {
        let above = tempfile::tempdir().unwrap();
        let state_dir = above.path().join("deep/state");
        let loses = Step::new((), "roll back").loses(Loss::plain("all"));
        assert!(carried_out(&state_dir, loses).is_err());
        assert!(!above.path().join("deep").exists());
        carried_out(&state_dir, Step::new((), "take")).unwrap();
        let mode = || state_dir.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        // A module may have made it for others to read.
        std::fs::set_permissions(&state_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        carried_out(&state_dir, Step::new((), "take")).unwrap();
        assert_eq!(mode(), 0o755);
    }
}
