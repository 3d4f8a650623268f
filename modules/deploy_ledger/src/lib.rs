//! `deploy_ledger`: the one record of the deploys of an app in an environment, and the lease that
//! lets one run at a time change it. `deploy_ledger_info` reads it.

mod apply;
mod brief;
mod info;
mod ledger;
mod lower;
mod metrics;
mod options;
mod plan;
mod readiness;
mod report;
mod spec;
mod spec_info;
mod state;

use ansible_module::{Invocation, Outcome, Served};
use anyhow::Result;
use change::{Consent, Session};
use host::deploy_id::DeployId;
use host::fence::Fence;
use ledger::{Event, Scope};
use options::{InfoOptions, Link, Options, Task};
use plan::Action;
use serde_json::{Value, json};

/// The modules that this crate serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec_info::INFO, run: answer }];

fn run(invocation: &Invocation) -> Result<Outcome> {
    if let Some((folder, to)) = options::fence_to_lower(&invocation.options)? {
        return lower::lower(invocation, folder.as_deref(), &to);
    }
    let mut options = Options::parse(&invocation.options)?;
    let session =
        Session::new(invocation, Consent::from(invocation)?).lock(|| apply::lock(&options))?;
    let moved = take_next_id(&mut options)?;
    let session = session.fence(options.fenced_by(), &options.at.folder)?;
    let mut state = state::observe_all(&options)?;
    state.import_flips(&options.flips, &options.at);
    let mut plan = plan::plan(&state, &options, invocation.check_mode)?;
    plan.warnings.extend(moved);
    let actions: Vec<Action> = plan.steps.iter().map(|step| step.action.clone()).collect();
    let outcome = session.carry_out(
        plan,
        |action, _| apply::act(&options, action),
        || apply::verify(&options, &actions),
    )?;
    let outcome = match &options.task {
        Task::Record { deploy, event, .. } if matches!(**event, Event::Open(_)) => outcome
            .fact("deploy_id", deploy.as_str())
            .fact("stays", state::migrated(&state.ledger))
            .fact("taken", state::taken(&state.ledger)),
        _ => outcome,
    };
    Ok(match (&options.imported, options.deploy()) {
        (Some(link), Some(deploy)) if !invocation.check_mode => {
            outcome.fact("report", report_now(&options, deploy, link)?)
        }
        _ => outcome,
    })
}

/// Gives a new deploy an id above all that were opened before, and returns a warning that says so.
fn take_next_id(options: &mut Options) -> Result<Option<String>> {
    let folder = options.at.folder.clone();
    let Task::Record { deploy, .. } = &mut options.task else { return Ok(None) };
    if !options.next_id || !folder.is_dir() {
        return Ok(None);
    }
    // An id ahead of the clock is wrong, and must not be followed.
    let (Some(fence), None) = (Fence::read(&folder)?, Fence::ahead(&folder)?) else {
        return Ok(None);
    };
    if *deploy >= fence {
        return Ok(None);
    }
    let scope = Scope::About { newest: 1, named: Some(deploy) };
    // A superseded run must not come back under another id.
    if state::observe(&options.at, scope)?.ledger.deploy(deploy).is_some() {
        return Ok(None);
    }
    let next = deploy.after(&fence)?;
    let moved = format!(
        "{deploy} is below {fence}, which was opened before (in the same second, or the clock of this controller is behind): \
         this deploy is {next}"
    );
    *deploy = next;
    Ok(Some(moved))
}

/// Makes the report for the controller, which writes it to files.
fn report_now(options: &Options, deploy: &DeployId, link: &Link) -> Result<Value> {
    let state = state::observe_all(options)?;
    Ok(state.ledger.deploy(deploy).map_or(Value::Null, |known| {
        let report = report::collect(&state.ledger, known, &options.at, link);
        json!({ "markdown": report::markdown(&report), "html": report::html(&report) })
    }))
}

fn answer(invocation: &Invocation) -> Result<Outcome> {
    info::info(&InfoOptions::parse(&invocation.options)?)
}
