//! `release_artifact_info`: the releases that are there, and what the registry says of them. Changes nothing.

use crate::folder::Folder;
use crate::options::InfoTask;
use crate::registry;
use crate::state::State;
use ansible_module::{Failure, Invocation, Outcome};
use anyhow::Result;
use serde_json::{Map, Value, json};

pub fn info(invocation: &Invocation) -> Result<Outcome> {
    let task = InfoTask::parse(&invocation.options)?;
    let mut warnings = Vec::new();
    let mut folders = Vec::new();
    for folder in &task.folders {
        folders.push(describe(folder, &task, &mut warnings)?);
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

/// Describes the releases of one folder, and whether the registry has them.
fn describe(
    folder: &Folder,
    task: &InfoTask,
    warnings: &mut Vec<String>,
) -> Result<Map<String, Value>> {
    let state = State::observe(folder)?;
    warnings.extend(state.warnings());
    let mut releases = state.describe(task.verify)?;
    let mut facts = Map::new();
    if let Some(template) = &task.template {
        let mut shas: Vec<_> = state.releases.iter().map(|release| release.sha.clone()).collect();
        shas.extend(task.sha.clone().filter(|sha| !shas.contains(sha)));
        let mut answers = Map::new();
        for sha in shas {
            let answer = match registry::availability(&template.source(&sha)?, &sha) {
                Ok(answer) => answer.to_json(),
                Err(error) => json!({ "available": null, "why": format!("{error:#}") }),
            };
            host::interrupt::check().map_err(|why| Failure::new("interrupted", why.to_string()))?;
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
