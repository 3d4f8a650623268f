//! The plan of a restore, with what each step takes out of service. Pure.

use crate::backup_dir::BackupDir;
use crate::manifest::{ContainerRecord, ServiceRecord};
use crate::plan::{Action, cleanup_steps};
use crate::restore::containers::idle;
use crate::restore::goal::Goal;
use crate::restore::loss::Losses;
use crate::state;
use crate::unfinished::UnfinishedRun;
use anyhow::Result;
use change::{Loss, Plan, Step, Undo};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

pub fn plan(
    goal: &Goal,
    stored: &BackupDir,
    unfinished: Option<&UnfinishedRun>,
    losses: Losses,
) -> Result<Plan<Action>> {
    let title = &goal.title;
    let services = host::joined(goal.services.keys());
    let mut steps = match goal.resumes {
        true => Vec::new(),
        false => cleanup_steps(stored, unfinished),
    };
    steps.extend(goal_steps(goal, &services, losses));
    let before = state::view(stored);
    let mut after = before.clone();
    after["restored"] = json!(title);
    let mut warnings = goal.warnings.clone();
    if goal.is_partial {
        let stays = stays(goal);
        let others = if stays.is_empty() { String::new() } else { format!("{stays} and ") };
        warnings.push(format!(
            "only {services} of the project is restored: {others}the compose and env files stay as they are",
        ));
    }
    let sources = goal
        .work
        .parts
        .iter()
        .map(|part| format!("{} absent {}", part.source.display(), part.absent));
    let identities = std::iter::once(title.clone()).chain(sources).collect();
    Ok(Plan {
        identities,
        steps,
        undo: Undo::By(format!(
            "state: restored with undo: {}, as long as the parked data is not removed",
            goal.work.id
        )),
        after,
        warnings,
        ..Plan::nothing(format!("project {}", goal.project), before)
    })
}

/// The steps from the stored or parked data to running services.
fn goal_steps(goal: &Goal, services: &str, losses: Losses) -> Vec<Step<Action>> {
    let title = &goal.title;
    let mut steps = vec![Step::new(Action::Check, format!("check {title}"))];
    let swap = if goal.manifest.is_some() {
        let stage = "stage the restored data, with its sums checked";
        steps.push(Step::new(Action::Load, format!("load the images of {services}")));
        steps.push(Step::new(Action::Stage, stage.to_owned()));
        format!("park the current data, and put {title} in its place")
    } else {
        steps.push(Step::new(Action::Load, format!("find the images of {services}")));
        format!("park the current data, and put {title} back in its place")
    };
    let stop = format!("stop {services}, and the services that share their data");
    steps.push(Step::new(Action::Stop, stop));
    let lossy = |step, losses: Vec<Loss>| losses.into_iter().fold(step, Step::loses);
    steps.push(lossy(Step::new(Action::Swap, swap), losses.data));
    steps.push(lossy(Step::new(Action::Start, start(&goal.services)), losses.layers));
    steps
}

/// Names the services of the backup, and those that it left out, that are not restored.
fn stays(goal: &Goal) -> String {
    let Some(manifest) = &goal.manifest else { return String::new() };
    let all: BTreeSet<&String> = manifest.services.keys().chain(&manifest.left_out).collect();
    host::joined(all.into_iter().filter(|name| !goal.services.contains_key(*name)))
}

/// Describes which containers are started, as they were recorded.
fn start(services: &BTreeMap<String, ServiceRecord>) -> String {
    let names = |which: &dyn Fn(&ServiceRecord) -> bool| {
        host::joined(services.iter().filter(|(_, one)| which(one)).map(|(name, _)| name))
    };
    let running = names(&|one| one.running);
    if running.is_empty() {
        return "leave all services stopped, as they were".to_owned();
    }
    let mut text = format!("start {running} with the recorded images");
    let paused = names(&|one| one.containers.iter().any(ContainerRecord::is_paused));
    if !paused.is_empty() {
        text += &format!("; leave {paused} paused");
    }
    let idle = idle(services);
    if !idle.is_empty() {
        text += &format!("; leave {} stopped", idle.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn services(all: Value) -> BTreeMap<String, ServiceRecord> {
        let record = |(name, one): (&String, &Value)| {
            let states = one.as_array().unwrap();
            let containers: Vec<Value> = (states.iter())
                .map(|state| {
                    json!({ "id": "1", "name": "n", "image_id": "i", "state": state, "exit_code": 0, "health": null })
                })
                .collect();
            let running = states.iter().any(|state| state != "exited");
            let record = json!({
                "image": "i", "image_id": null, "running": running, "scale": 1, "config_hash": null,
                "drift": false, "containers": containers, "depends_on": {},
            });
            (name.clone(), serde_json::from_value(record).unwrap())
        };
        all.as_object().unwrap().iter().map(record).collect()
    }

    #[test]
    fn the_start_is_described_as_services_were_recorded() {
        let of = |all| start(&services(all));
        assert_eq!(
            of(json!({ "a": ["exited"], "b": [] })),
            "leave all services stopped, as they were"
        );
        assert_eq!(of(json!({ "a": ["running"] })), "start a with the recorded images");
        assert_eq!(
            of(json!({ "a": ["running"], "b": ["exited"], "c": ["paused"], "d": [] })),
            "start a, c with the recorded images; leave c paused; leave b stopped"
        );
    }
}
