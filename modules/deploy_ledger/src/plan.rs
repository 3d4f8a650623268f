//! Plans from state and options which lines are appended and which files are written. Pure.
//!
//! - `record`: which events may be recorded about a deploy

mod record;

use crate::ledger::{Event, ImportedFlip, Ledger, Outcome, compact};
use crate::metrics;
use crate::options::{Options, Task};
use crate::report;
use crate::state::State;
use ansible_module::Failure;
use change::{Plan, Step, Undo};
use host::deploy_id::DeployId;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub enum Action {
    /// Appends a rollback that was made while the ledger could not be reached.
    Import(ImportedFlip),
    Append(Box<Event>),
    Remove(PathBuf),
    Write {
        path: PathBuf,
        content: String,
        mode: u32,
    },
    /// Writes the metrics, which are made only then, since they include the appended line.
    Metrics(PathBuf),
    Compact(Vec<u8>),
}

/// Mode of files for workflows and node-exporter.
const PUBLIC: u32 = 0o644;
/// Mode of reports, which hold the output of programs.
const PRIVATE: u32 = 0o600;

/// `predicted`: in check mode the deploy is not open, since the task that opens it changed nothing.
pub fn plan(state: &State, options: &Options, predicted: bool) -> Result<Plan<Action>, Failure> {
    let mut plan = Plan::nothing(format!("ledger of {}", state.name), Value::Null);
    plan.warnings = state.warnings();
    plan.identities =
        state.ledger.holder().map(|holder| format!("holder {}", holder.id)).into_iter().collect();
    ensure_undamaged(state, options, &mut plan)?;
    folders(state, predicted, &mut plan)?;
    match &options.task {
        Task::Record { deploy, event, cap } => {
            let unopened = state.ledger.deploy(deploy).is_none() && predicted;
            let text = record::sentence(&state.ledger, deploy, event, *cap, unopened)?;
            record_event(state, options, (deploy, event), text, unopened, &mut plan);
        }
        Task::Report { deploy, .. } if state.ledger.deploy(deploy).is_none() && predicted => {
            plan.warnings
                .push(format!("deploy {deploy} is not open yet; in a real run it would be"));
        }
        Task::Report { deploy, link } => {
            let known = state.ledger.deploy(deploy);
            let known = known.ok_or_else(|| record::unknown(&state.ledger, deploy))?;
            let report = report::collect(&state.ledger, known, &options.at, link);
            for (path, text) in [
                (&options.report_markdown, report::markdown(&report)),
                (&options.report_html, report::html(&report)),
            ] {
                write(state, path.as_ref(), text, PRIVATE, "the report", &mut plan);
            }
            plan.undo = Undo::None("the report can be written again at any time".into());
            write_metrics_if_changed(state, options, &mut plan);
            (plan.before, plan.after) = file_states(state, &plan);
        }
        Task::Compact { retain } => forget(state, *retain, &mut plan),
    }
    Ok(plan)
}

/// A ledger with an invalid line is read, and never changed.
fn ensure_undamaged(
    state: &State,
    options: &Options,
    plan: &mut Plan<Action>,
) -> Result<(), Failure> {
    let Some(first) = state.ledger.damaged.first() else { return Ok(()) };
    let damaged = format!("{} cannot be trusted ({first})", state.file);
    if let Task::Report { .. } = options.task {
        plan.warnings.push(format!("{damaged}; the report may lack something"));
        return Ok(());
    }
    Err(Failure::new(
        "ledger_damaged",
        format!(
            "{damaged}; nothing was written; repair that line, or move the file away to begin a \
             new ledger"
        ),
    )
    .with("damaged", state.ledger.damaged.clone()))
}

/// Checks the folders of all files before anything is recorded.
fn folders(state: &State, predicted: bool, plan: &mut Plan<Action>) -> Result<(), Failure> {
    for file in state.files.keys() {
        let folder = file.parent().unwrap_or(Path::new("/"));
        if folder.is_dir() {
            continue;
        }
        let msg =
            format!("cannot write {}: its folder does not exist: make it first", file.display());
        match predicted {
            true => plan.warnings.push(msg),
            false => return Err(Failure::new("no_folder", msg)),
        }
    }
    Ok(())
}

fn record_event(
    state: &State,
    options: &Options,
    (id, event): (&DeployId, &Event),
    text: Option<String>,
    unopened: bool,
    plan: &mut Plan<Action>,
) {
    let ledger = &state.ledger;
    plan.before = State::view(ledger, id);
    plan.after = plan.before.clone();
    let Some(text) = text else {
        outcome(state, options, event, plan);
        write_metrics_if_changed(state, options, plan);
        return;
    };
    let opens = matches!(event, Event::Open { .. });
    if unopened && !opens {
        plan.warnings
            .push(format!("deploy {id} is not open yet; in a real run it would be by now"));
    } else {
        plan.after = State::view(&after(ledger, id, event), id);
    }
    plan.undo = match opens {
        true => Undo::By("close the deploy".into()),
        false => Undo::None("what was recorded stays recorded".into()),
    };
    // An old outcome is removed before the lease is taken, and a new one is written after it is given
    // back: a run that is killed in between leaves none.
    if let (true, Some((path, Some(_)))) = (opens, file(state, options.outcome_file.as_ref())) {
        let text = format!("remove {}, the outcome of an earlier run", path.display());
        plan.steps.push(Step::new(Action::Remove(path.clone()), text));
    }
    for imported in &state.imported {
        let flip = &imported.flip;
        let text = format!(
            "record the rollback {} to {}, which only the load balancers know of",
            flip.id, flip.color
        );
        plan.steps.push(Step::new(Action::Import(imported.clone()), text));
    }
    plan.steps.push(Step::new(Action::Append(Box::new(event.clone())), text));
    outcome(state, options, event, plan);
    if let Some(path) = &options.metrics_file {
        let text = format!("write the metrics to {}", path.display());
        plan.steps.push(Step::new(Action::Metrics(path.clone()), text));
    }
}

/// The ledger of this deploy after the event is recorded.
fn after(ledger: &Ledger, id: &DeployId, event: &Event) -> Ledger {
    let taken = match event {
        Event::Open(opening) => opening.take_over.as_ref(),
        _ => None,
    };
    let mut after = ledger.only(&[Some(id), ledger.holder().map(|holder| &holder.id), taken]);
    after.add(id.utc(), id.clone(), event.clone());
    after
}

fn outcome(state: &State, options: &Options, event: &Event, plan: &mut Plan<Action>) {
    if let Event::Close { outcome, .. } = event {
        let text = format!("{}\n", Outcome::word(*outcome));
        write(state, options.outcome_file.as_ref(), text, PUBLIC, "the outcome", plan);
    }
}

fn write_metrics_if_changed(state: &State, options: &Options, plan: &mut Plan<Action>) {
    let Some((path, was)) = file(state, options.metrics_file.as_ref()) else { return };
    let text = metrics::render(&state.ledger, options, was);
    if was != Some(text.as_bytes()) {
        let sentence = format!("write the metrics to {}", path.display());
        plan.steps.push(Step::new(Action::Metrics(path.clone()), sentence));
    }
}

fn write(
    state: &State,
    path: Option<&PathBuf>,
    content: String,
    mode: u32,
    what: &str,
    plan: &mut Plan<Action>,
) {
    let Some((path, was)) = file(state, path) else { return };
    if was != Some(content.as_bytes()) {
        let text = format!("write {what} to {}", path.display());
        plan.steps.push(Step::new(Action::Write { path: path.clone(), content, mode }, text));
    }
}

/// A file of the task with its present content.
fn file<'a>(state: &'a State, path: Option<&PathBuf>) -> Option<(&'a PathBuf, Option<&'a [u8]>)> {
    path.and_then(|path| state.files.get_key_value(path))
        .map(|(path, content)| (path, content.as_deref()))
}

fn file_states(state: &State, plan: &Plan<Action>) -> (Value, Value) {
    let written = |path: &PathBuf| {
        plan.steps.iter().any(|step| match &step.action {
            Action::Write { path: other, .. } | Action::Metrics(other) => path == other,
            _ => false,
        })
    };
    let (mut before, mut after) = (Map::new(), Map::new());
    for (path, content) in &state.files {
        let key = path.display().to_string();
        let word = match (content, written(path)) {
            (None, _) => "missing",
            (Some(_), true) => "outdated",
            (Some(_), false) => "written",
        };
        before.insert(key.clone(), json!(word));
        after.insert(key, json!(if written(path) { "written" } else { word }));
    }
    (json!({ "files": before }), json!({ "files": after }))
}

fn forget(state: &State, retain: usize, plan: &mut Plan<Action>) {
    let (left, forgotten, shortened) = compact(&state.bytes, &state.ledger, retain);
    let deploys = state.ledger.deploys.len();
    plan.before = json!({ "deploys": deploys });
    plan.after = json!({ "deploys": deploys - forgotten });
    plan.undo = Undo::None("the lines are gone".into());
    if left == state.bytes {
        return;
    }
    let text = format!(
        "compact the ledger: forget {forgotten} of {deploys} deploys, and of {shortened} all but how they ended"
    );
    plan.steps.push(Step::new(Action::Compact(left), text));
}
