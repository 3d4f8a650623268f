//! `state: present`: the plan of a backup.

use crate::freeze::Frozen;
use crate::observed::Observed;
use crate::options::{Mode, Task};
use crate::plan::{Action, cleanup_steps};
use crate::state::Project;
use crate::survey::Survey;
use change::{Plan, Step, Undo};
use serde_json::json;

/// Makes the plan. Without a `survey` there already is a backup of this deploy.
pub fn plan(observed: &Observed, project: &Project, survey: Option<&Survey>) -> Plan<Action> {
    let Observed { task, stored, parked, .. } = observed;
    let mut steps = cleanup_steps(stored, observed.unfinished.as_ref());
    if let Some(survey) = survey {
        steps.push(Step::new(Action::Backup, sentence(task, project, survey)));
    }
    if let Some(retain) = task.retain {
        for name in stored.surplus(retain, &task.keep, survey.is_some()) {
            let text = format!("prune {name}");
            steps.push(Step::new(Action::Prune(name), text));
        }
        // The newest of them undoes the last restore, so it is not removed for this backup. What nobody
        // agreed to lose is only removed by `state: absent`.
        let agreed =
            parked.iter().filter(|one| !one.work.was_put_back && one.work.found.is_empty());
        for old in agreed.skip(retain).filter(|one| !task.keep.contains(&one.id)) {
            let text = format!("drop the parked state of restore {}", old.id);
            steps.push(Step::new(Action::Drop(old.id.clone()), text));
        }
    }
    let warnings = survey.map(|survey| survey.warnings.clone()).unwrap_or_default();
    let before = observed.view();
    let mut after = before.clone();
    if survey.is_some() {
        after["backup"] = json!("a new one");
        after["bytes_to_copy"] = json!(survey.map(|survey| survey.to_copy));
    }
    Plan {
        identities: vec![format!("backup folder {}", stored.dir.display())],
        steps,
        undo: Undo::By("remove the backup with state: absent".into()),
        after,
        warnings,
        ..Plan::nothing(observed.subject(), before)
    }
}

fn sentence(task: &Task, project: &Project, survey: &Survey) -> String {
    let meanwhile = match (task.mode, &survey.frozen) {
        (Mode::Live, _) => "everything keeps running meanwhile".to_owned(),
        (_, frozen) if frozen.is_empty() => "no running container writes to the data".to_owned(),
        (Mode::Pause, frozen) => format!("{} paused while the data is copied", are(frozen)),
        (Mode::Stop, frozen) => format!("{} stopped while the data is copied", are(frozen)),
    };
    format!(
        "back up project {}: {} services, {} images, {} mounts; {meanwhile}",
        project.name(),
        survey.services.len(),
        survey.wanted.len(),
        survey.found.mounts.len()
    )
}

fn are(frozen: &Frozen) -> String {
    let names = frozen.names();
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}
