//! Appends and syncs lines, and replaces files, all under the lock of the ledger's folder; verifies the
//! result.

use crate::ledger::{self, Event, ImportedFlip};
use crate::metrics;
use crate::options::{Options, Task};
use crate::plan::Action;
use crate::state::{self, State};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::atomic::Replace;
use host::folder::SafeFolder;
use host::lock::Lock;
use host::{atomic, clock, reserve};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// A task on a ledger takes milliseconds; one that takes longer hangs.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Locks the ledger, and keeps space to write on a full disk. The lock is held until the result is
/// known, so that nobody writes between observe and verify. Only opening a deploy creates the folder: a
/// mistyped app leaves nothing behind.
pub fn lock(options: &Options) -> Result<Vec<Lock>> {
    let at = &options.at;
    let opens = match &options.task {
        Task::Record { event, .. } => matches!(**event, Event::Open(_)),
        _ => false,
    };
    let folder = match opens {
        true => Some(SafeFolder::ensure(&at.folder, 0o700)?),
        false => SafeFolder::find(&at.folder)?,
    };
    let Some(folder) = folder else { return Ok(Vec::new()) };
    folder.keep_reserve();
    // Opening a deploy may use the reserve too, since a rollback is opened the same way.
    reserve::open();
    let file = at.folder.join("ledger.lock");
    Lock::acquire(&file, "deploy_ledger", options.deploy(), LOCK_TIMEOUT)
        .with_context(|| format!("locking the ledger of {}", at.name()))
        .map(|lock| vec![lock])
}

pub fn act(options: &Options, action: &Action) -> Result<()> {
    match action {
        Action::Import(imported) => append_imported(options, imported),
        Action::Append(event) => append(options, event),
        Action::Remove(path) => {
            std::fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
            atomic::sync_folder(path.parent().unwrap_or(Path::new("/")))
        }
        Action::Write { path, content, mode } => {
            Replace::new(path).new_mode(*mode).write(content.as_bytes()).map(drop)
        }
        Action::Metrics(path) => {
            let text = metrics_now(options, path)?;
            Replace::new(path).new_mode(0o644).write(text.as_bytes()).map(drop)
        }
        Action::Compact(left) => {
            let file = options.at.file();
            // Left by a killed run: we hold the lock.
            atomic::sweep(&file)?;
            Replace::new(&file).write(left).map(drop)
        }
    }
}

fn append(options: &Options, event: &Event) -> Result<()> {
    let Task::Record { deploy, .. } = &options.task else { return Ok(()) };
    write_line(options, &ledger::line(clock::now(), deploy, event)?)
}

fn append_imported(options: &Options, imported: &ImportedFlip) -> Result<()> {
    let flip = &imported.flip;
    let mut events = imported.events.iter();
    events.try_for_each(|event| write_line(options, &ledger::line(flip.at, &flip.id, event)?))
}

fn write_line(options: &Options, line: &str) -> Result<()> {
    let file = options.at.file();
    atomic::append_line(&file, line.as_bytes())
        .with_context(|| format!("writing the ledger {}", file.display()))?;
    Ok(())
}

fn metrics_now(options: &Options, path: &Path) -> Result<String> {
    let state = state::observe_all(options)?;
    let was = state.files.get(path).and_then(Option::as_deref);
    Ok(metrics::render(&state.ledger, options, was))
}

/// Verifies that the files hold what was written.
pub fn verify(options: &Options, actions: &[Action]) -> Result<Value> {
    let state = state::observe_all(options)?;
    for action in actions {
        let (place, seen) = match action {
            Action::Import(ImportedFlip { flip, .. }) => {
                let known = state.ledger.deploy(&flip.id).is_some_and(|deploy| !deploy.is_open());
                (state.file.clone(), known)
            }
            Action::Append(event) => (state.file.clone(), newest_is(&state, options, event)),
            Action::Remove(path) => {
                (path.display().to_string(), state.files.get(path) == Some(&None))
            }
            Action::Write { path, content, .. } => {
                let now = state.files.get(path).and_then(Option::as_deref);
                (path.display().to_string(), now == Some(content.as_bytes()))
            }
            Action::Metrics(path) => {
                let now = state.files.get(path).and_then(Option::as_deref);
                let text = metrics::render(&state.ledger, options, now);
                (path.display().to_string(), now == Some(text.as_bytes()))
            }
            Action::Compact(left) => (state.file.clone(), state.bytes == *left),
        };
        if !seen {
            let msg = format!("{place} does not hold what was just written to it");
            return Err(Failure::new("not_verified", msg).into());
        }
    }
    Ok(match &options.task {
        Task::Record { deploy, .. } => State::view(&state.ledger, deploy),
        Task::Report { .. } => {
            let files = state.files.iter().map(|(path, content)| {
                let word = if content.is_some() { "written" } else { "missing" };
                (path.display().to_string(), json!(word))
            });
            json!({ "files": files.collect::<serde_json::Map<_, _>>() })
        }
        Task::Compact { .. } => json!({ "deploys": state.ledger.deploys.len() }),
    })
}

fn newest_is(state: &State, options: &Options, event: &Event) -> bool {
    let newest = state.ledger.newest.as_ref();
    newest.is_some_and(|(_, id, last)| Some(id) == options.deploy() && last == event)
}
