//! `kube_rollout`: rolls a new image of a Kubernetes workload out, waits until the rollout is complete, and rolls it back.
//! `kube_rollout_info` lists the workload's revisions, and which of them could run.
//!
//! The progress of a run is recorded in annotations of the workload (`annotations.rs`), so the module may run on any machine that
//! reaches the cluster. A change and its annotations are one write, which the server refuses if somebody else has written since
//! (`apply.rs`). So a killed run has either changed nothing, or left a rollout that Kubernetes continues, annotated with the revision
//! to go back to; the next run waits for it. Of two runs at once the older one is refused, or stops where it finds the newer one's
//! annotations.
//!
//! A migration is a Job of the new image (`job.rs`, `migrate.rs`); it is its own record, by its name.

mod annotations;
mod apply;
mod canary;
mod findings;
mod info;
mod job;
mod judge;
mod kubectl;
mod migrate;
mod options;
mod owner;
mod plan;
mod spec;
mod state;
mod subject;
mod template;

use ansible_module::{Invocation, Outcome, Served};
use anyhow::Result;
use apply::Apply;
use change::{Consent, Session};
use findings::{Findings, Objects};
use host::fence::Fence;
use kubectl::Kubectl;
use options::{Task, Wanted};
use owner::Found;
use plan::Action;
use serde_json::json;
use state::State;
use subject::Subject;

/// The modules that this crate serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info }];

fn info(invocation: &Invocation) -> Result<Outcome> {
    let subject = Subject::parse(&invocation.options)?;
    info::of(&Kubectl::find(&subject.access)?, &subject)
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    let task = Task::parse(&invocation.options)?;
    if let Some(run) = &task.run {
        Fence::check_clock(run)?;
    }
    let kubectl = Kubectl::find(&task.subject.access)?;
    let session = Session::new(invocation, Consent::none());
    let seen = state::observe(&kubectl, &task.subject)?;
    plan::refuse(&task, &seen)?;
    let (owner, warnings) = owner(&kubectl, &task.subject, &seen)?;
    owner::refuse(owner.as_ref(), task.owner, &task.subject)?;
    if let Wanted::Migrated(migration) = &task.wanted {
        return migrate::run(&kubectl, &session, &task, migration, &seen, invocation.check_mode)
            .map(|outcome| with(outcome, warnings));
    }
    let mut plan = match task.is_rollback() {
        false => plan::present(&task, &seen)?,
        true => {
            let target = plan::target(&task, &seen)?;
            let findings = match target {
                Some(target) => Objects::default().check(
                    &kubectl,
                    &task.subject,
                    &target.template,
                    &target.created,
                )?,
                None => Findings::default(),
            };
            plan::rolled_back(&task, &seen, target, &findings)?
        }
    };
    let mut apply = Apply { kubectl: &kubectl, task: &task, workload: seen.workload.clone() };
    if invocation.check_mode {
        for step in &plan.steps {
            if let Action::Write(change) = &step.action {
                apply.try_out(change)?;
            }
        }
    }
    plan.warnings.extend(warnings);
    let outcome = session.carry_out(
        plan,
        |action, _| apply.act(action),
        || Ok(apply::verify(&kubectl, &task)?.view()),
    )?;
    let subject = &task.subject;
    Ok(outcome
        .fact("context", json!(subject.access.context))
        .fact("namespace", json!(subject.namespace)))
}

/// Finds another tool that manages the workload, by the marks on it or by an object that refers to it.
fn owner(
    kubectl: &Kubectl,
    subject: &Subject,
    seen: &State,
) -> Result<(Option<Found>, Vec<String>)> {
    match owner::find(&seen.workload, subject) {
        Some(found) => Ok((Some(found), Vec::new())),
        None => canary::find(kubectl, subject),
    }
}

fn with(mut outcome: Outcome, warnings: Vec<String>) -> Outcome {
    outcome.warnings.extend(warnings);
    outcome
}
