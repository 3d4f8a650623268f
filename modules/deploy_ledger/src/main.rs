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
use options::{InfoOptions, Options};
use plan::Action;
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
    change::run(
        invocation,
        plan,
        &Consent::none(),
        None,
        |action, _| apply::act(&options, action),
        || apply::verify(&options, &actions),
    )
}

fn tell(invocation: &Invocation) -> Result<Outcome> {
    info::info(&InfoOptions::parse(&invocation.options)?)
}
