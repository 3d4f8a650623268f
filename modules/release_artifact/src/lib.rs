//! `release_artifact`: fetches a release from the forge's package registry, checks and unpacks it, makes it
//! current, and keeps the previous one. `release_artifact_info` lists the releases.

mod apply;
mod bounds;
mod download;
mod extract;
mod folder;
mod info;
mod install;
mod names;
mod options;
mod owner;
mod plan;
mod push;
mod record;
mod registry;
mod spec;
mod state;
mod sums;
mod unpack_error;

use ansible_module::{Invocation, Outcome, Served};
use anyhow::Result;
use apply::Apply;
use change::{Consent, Session};
use options::{Task, Wanted};
use serde_json::{Value, json};
use state::State;

/// The modules that this crate serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info::info }];

fn run(invocation: &Invocation) -> Result<Outcome> {
    let task = Task::parse(&invocation.options)?;
    let session = Session::new(invocation, Consent::none()).lock(|| match &task.wanted {
        Wanted::Available | Wanted::Pushed(_) => Ok(Vec::new()),
        Wanted::Present | Wanted::Current | Wanted::Absent => apply::lock(&task, task.folder()?),
    })?;
    let session = session.optional_fence(task.fence.as_ref())?;
    let mut outcome = match &task.wanted {
        Wanted::Available => available(&task)?,
        Wanted::Pushed(src) => push::run(&session, &task, src, invocation.check_mode)?,
        Wanted::Present | Wanted::Current | Wanted::Absent => {
            here(&session, &task, invocation.check_mode)?
        }
    };
    outcome.warnings.splice(0..0, task.warnings());
    Ok(outcome)
}

/// Asks whether the release is available, also in check mode. A release that is unpacked and unchanged needs
/// no registry, so that going back to it works without one.
fn available(task: &Task) -> Result<Outcome> {
    if let Ok(folder) = task.folder() {
        let state = State::observe(folder)?;
        let record = state.release(&task.sha).and_then(|release| release.record.as_ref().ok());
        let wanted = task.source.as_ref().and_then(|source| source.sha256);
        let ours =
            record.is_some_and(|record| wanted.is_none_or(|sum| sum.to_string() == record.sha256));
        if ours && state.damage(&task.sha)?.is_none() {
            return Ok(state.facts(Outcome::default(), &task.sha).fact("here", true));
        }
    }
    let found = registry::must_have(task.source()?, &task.sha)?;
    Ok(Outcome::default().fact("registry", found.to_json()).fact("here", false))
}

/// Runs the states that concern the folder of releases.
fn here(session: &Session<'_>, task: &Task, check_mode: bool) -> Result<Outcome> {
    let folder = task.folder()?;
    let state = State::observe(folder)?;
    let plan = plan::plan(&state, task, state.damage_for(task)?)?;
    if !plan.steps.iter().any(|step| step.action == plan::Action::Fetch) {
        // A release that is unpacked already may be one to go back to.
        host::reserve::open();
    }
    let mut apply = Apply::new(task, folder, &state);
    let verify = || -> Result<Value> {
        let now = State::observe(folder)?;
        now.holds(task)?;
        Ok(now.view())
    };
    let done = session.carry_out(plan, |action, _| apply.act(action), verify)?;
    let (download, removed) = (apply.download, apply.removed);
    let unchecked = download["checked"].as_array().is_some_and(Vec::is_empty);
    let mut outcome = done.fact("download", download).fact("removed", json!(removed));
    if unchecked {
        outcome.warnings.push(format!(
            "the archive of release {} was not compared with a sum: give sha256 or sums_url, since the registry sends none",
            task.sha
        ));
    }
    let now = if check_mode { state } else { State::observe(folder)? };
    outcome.warnings.extend(now.warnings());
    Ok(now.facts(outcome, &task.sha))
}
