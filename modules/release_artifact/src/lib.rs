//! `release_artifact`: a release from the forge's package registry, fetched, checked, unpacked and
//! made current; and the way back kept. `release_artifact_info` tells what is there.

mod apply;
mod bounds;
mod download;
mod extract;
mod folder;
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
mod stopped;
mod sums;

use ansible_module::{Failure, Invocation, Outcome, Served};
use anyhow::Result;
use apply::Apply;
use change::{Consent, Session};
use folder::Folder;
use options::{InfoTask, Task, Wanted};
use serde_json::{Map, Value, json};
use state::State;

/// What this program serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info }];

fn run(invocation: &Invocation) -> Result<Outcome> {
    let task = Task::parse(&invocation.options)?;
    let mut session = Session::new(invocation, Consent::none()).lock(|| match &task.wanted {
        Wanted::Available | Wanted::Pushed(_) => Ok(Vec::new()),
        Wanted::Present | Wanted::Current | Wanted::Absent => apply::lock(&task, task.folder()?),
    })?;
    if let Some((id, state_dir)) = &task.fence {
        session = session.fence(Some(id), state_dir)?;
    }
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

/// Asking changes nothing, so check mode asks, too.
fn available(task: &Task) -> Result<Outcome> {
    let found = registry::must_have(task.source()?, &task.sha)?;
    Ok(Outcome::default().fact("registry", found.to_json()))
}

/// What concerns the folder of releases.
fn here(session: &Session<'_>, task: &Task, check_mode: bool) -> Result<Outcome> {
    let folder = task.folder()?;
    let state = State::observe(folder)?;
    let plan = plan::plan(&state, task)?;
    if !plan.steps.iter().any(|step| step.action == plan::Action::Fetch) {
        // What is here already may be the way back.
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
            "the archive of release {} was compared with no sum: give sha256 or sums_url, the registry itself tells none",
            task.sha
        ));
    }
    let now = if check_mode { state } else { State::observe(folder)? };
    outcome.warnings.extend(now.warnings());
    Ok(now.facts(outcome, &task.sha))
}

fn info(invocation: &Invocation) -> Result<Outcome> {
    let task = InfoTask::parse(&invocation.options)?;
    let mut warnings = Vec::new();
    let mut folders = Vec::new();
    for folder in &task.folders {
        folders.push(described(folder, &task, &mut warnings)?);
    }
    let outcome = Outcome { warnings, ..Outcome::default() };
    Ok(match (task.is_one, folders.pop()) {
        (true, Some(facts)) => {
            facts.into_iter().fold(outcome, |outcome, (name, fact)| outcome.fact(&name, fact))
        }
        (_, last) => {
            folders.extend(last);
            outcome.fact("folders", folders)
        }
    })
}

/// What is in one folder, and what the registry says of it.
fn described(
    folder: &Folder,
    task: &InfoTask,
    warnings: &mut Vec<String>,
) -> Result<Map<String, Value>> {
    let state = State::observe(folder)?;
    warnings.extend(state.warnings());
    let mut releases = state.described(task.verify)?;
    let mut facts = Map::new();
    if let Some(template) = &task.template {
        let mut shas: Vec<_> = state.releases.iter().map(|release| release.sha.clone()).collect();
        shas.extend(task.sha.clone().filter(|sha| !shas.contains(sha)));
        let mut answers = Map::new();
        for sha in shas {
            let answer = match registry::look(&template.source(&sha)?, &sha) {
                Ok(answer) => answer.to_json(),
                Err(error) => json!({ "available": null, "why": format!("{error:#}") }),
            };
            host::interrupt::check().map_err(|why| Failure::new(why.reason(), why.to_string()))?;
            answers.insert(sha.to_string(), answer);
        }
        for release in &mut releases {
            let sha = release["sha"].as_str().unwrap_or_default().to_owned();
            release["in_registry"] =
                answers.get(&sha).map_or(Value::Null, |a| a["available"].clone());
        }
        facts.insert("registry".to_owned(), answers.into());
    }
    for (name, fact) in [
        ("dest", json!(folder.dest)),
        ("current", json!(state.current.sha())),
        ("previous", json!(state.previous.sha())),
        ("releases", json!(releases)),
        ("leftovers", json!(state.leftovers)),
    ] {
        facts.insert(name.to_owned(), fact);
    }
    Ok(facts)
}
