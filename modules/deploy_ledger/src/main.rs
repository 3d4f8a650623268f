//! `deploy_ledger`: the one record of the deploys of an app in an environment, and the lease that
//! lets one run at a time change it. `deploy_ledger_info` reads it.

mod apply;
mod info;
mod ledger;
mod metrics;
mod options;
mod plan;
mod readiness;
mod report;
mod state;

use ansible_module::{Invocation, Outcome, Served, serve};
use anyhow::Result;
use change::Consent;
use host::deploy_id::DeployId;
use ledger::Event;
use options::{InfoOptions, Link, Options, Task};
use plan::Action;
use serde_json::{Value, json};
use std::process::ExitCode;

fn main() -> ExitCode {
    serve(&[Served { spec: &options::MODULE, run }, Served { spec: &options::INFO, run: tell }])
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    let options = Options::parse(&invocation.options)?;
    // Held until the result is known, so that nobody writes between observe and verify.
    let _lock = match invocation.check_mode {
        true => None,
        false => apply::enter(&options)?,
    };
    // Looked at here and raised by a deploy that is opened: one that is refused must not put the
    // one that runs out of action.
    if let Some(id) = options.fenced_by() {
        change::look_at_fence(id, &options.at.folder)?;
    }
    let state = state::observe_all(&options)?;
    let plan = plan::plan(&state, &options, invocation.check_mode)?;
    let actions: Vec<Action> = plan.steps.iter().map(|step| step.action.clone()).collect();
    let outcome = change::run(
        invocation,
        plan,
        &Consent::none(),
        None,
        |action, _| apply::act(&options, action),
        || apply::verify(&options, &actions),
    )?;
    let outcome = match &options.task {
        Task::Record { event, .. } if matches!(**event, Event::Open(_)) => outcome
            .fact("stays", state::migrated(&state.ledger))
            .fact("taken", state::taken(&state.ledger)),
        _ => outcome,
    };
    Ok(match (&options.brought, options.deploy()) {
        (Some(link), Some(deploy)) if !invocation.check_mode => {
            outcome.fact("report", report_now(&options, deploy, link)?)
        }
        _ => outcome,
    })
}

/// For the controller, which writes it down.
fn report_now(options: &Options, deploy: &DeployId, link: &Link) -> Result<Value> {
    let state = state::observe_all(options)?;
    Ok(state.ledger.deploy(deploy).map_or(Value::Null, |known| {
        let story = report::tell(&state.ledger, known, &options.at, link);
        json!({ "markdown": report::markdown(&story), "html": report::html(&story) })
    }))
}

fn tell(invocation: &Invocation) -> Result<Outcome> {
    info::info(&InfoOptions::parse(&invocation.options)?)
}
