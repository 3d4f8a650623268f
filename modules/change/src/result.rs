//! The result of a module that changes something: its keys, and the failure of a step.

use crate::plan::Plan;
use ansible_module::{Failure, Kind, Return, StepDone};
use anyhow::Error;
use serde_json::json;

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

/// Makes the failure of a step, with the steps that were done before it.
pub(crate) fn step_failure<A>(
    error: Error,
    plan: &Plan<A>,
    step: &str,
    done: &[StepDone],
) -> Error {
    let reason = ansible_module::outermost_reason(&error).unwrap_or("step_failed");
    let evidence = Failure::new(reason, step)
        .with("changed", !done.is_empty())
        .with("plan", plan.sentences())
        .with("plan_id", plan.id())
        .with("steps", json!(done))
        .caused_by(error);
    evidence.into()
}
