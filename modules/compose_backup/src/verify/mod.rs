//! `verify: restore`: a backup proven by bringing it up as a project of its own, which is then removed.
//!
//! Invariants: nothing of the real project is touched: other names, a network without a way out, no
//! ports, copies of the data; whatever happens, what was made for the proof is taken away, by the next
//! run when this one is killed. The verdict says what could not be proven so.

mod config;
mod engine;
mod scratch;

use crate::compose::{Compose, Up};
use crate::docker::Docker;
use crate::images;
use crate::manifest::Manifest;
use crate::options::Task;
use crate::resolved::Resolved;
use crate::state::Tools;
use crate::survey::earlier_of;
use anyhow::{Context, Error, Result};
use config::{Given, Proof};
use engine::Trouble;
use host::atomic::Replace;
use host::clock;
use host::deadline::Deadline;
use scratch::Scratch;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// The verdict: `ok`, and `why` not. `Err` says nothing about the backup: a signal, no room, an engine
/// that does not answer; or that the backup is damaged.
pub fn restore(tools: &Tools, task: &Task, manifest: &Manifest, folder: &Path) -> Result<Value> {
    let began = Instant::now();
    let backup_dir = folder.parent().context("a backup lies in no folder")?;
    clean(&tools.docker, &manifest.project, backup_dir)?;
    let tried = attempt(tools, task, manifest, folder, backup_dir);
    let told = match &tried {
        Ok((_, Some(trouble))) => Some(engine::last_words(&tools.docker, trouble)),
        _ => None,
    };
    // Not at the price of leaving it behind.
    let shield = host::interrupt::shield();
    let cleaned = clean(&tools.docker, &manifest.project, backup_dir);
    drop(shield);
    let (proof, trouble) = tried?;
    cleaned.context("removing the throw-away project of the proof")?;
    Ok(json!({
        "ok": trouble.is_none(),
        "why": trouble.map(|trouble| trouble.sentence),
        "log": told,
        "at": clock::now(),
        "seconds": (began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        "services": proof.services,
        "left_out": proof.left_out,
    }))
}

/// Takes away what a proof that was killed has left. Quick when there is nothing.
pub fn clean(docker: &Docker, project: &str, backup_dir: &Path) -> Result<()> {
    engine::remove(docker, &config::project_of(project))?;
    scratch::remove(backup_dir)
}

fn attempt(
    tools: &Tools,
    task: &Task,
    manifest: &Manifest,
    folder: &Path,
    backup_dir: &Path,
) -> Result<(Proof, Option<Trouble>)> {
    let kept = earlier_of(folder, manifest);
    let deadline = Deadline::after(task.timeout);
    let loaded = images::load(
        &tools.docker,
        &kept.images,
        &kept.files,
        &kept.folder,
        deadline,
        &mut |_| {},
    )?;
    let scratch = Scratch::fill(backup_dir, folder, manifest)?;
    let text = std::fs::read(folder.join("config/compose.json"))
        .context("reading the recorded configuration")?;
    let recorded: Value =
        serde_json::from_slice(&text).context("understanding the recorded configuration")?;
    let given = Given { manifest, loaded: &loaded, scratch: &scratch };
    let proof = config::throw_away(&recorded, &given)?;
    if proof.services.is_empty() {
        return Ok((proof, None));
    }
    let file = scratch.path("compose.json");
    Replace::new(&file).mode(0o600).write(&serde_json::to_vec(&proof.config)?)?;
    let mut compose = Compose::new(&tools.docker, &tools.program, scratch.folder());
    compose.project = Some(config::project_of(&manifest.project));
    compose.files = vec![file];
    compose.hide(Resolved::parse(recorded)?.environment());
    let up = Up {
        services: &proof.services,
        scale: &BTreeMap::new(),
        start: true,
        alone: false,
        // Compose says less of what is wrong than a look of our own.
        wait: false,
        patience: task.wait,
    };
    let project = config::project_of(&manifest.project);
    let trouble = match compose.up(&up) {
        Ok(_) => engine::wait(&tools.docker, &project, &proof.services, task.wait)?,
        Err(error) => Some(refused(error)?),
    };
    Ok((proof, trouble))
}

/// Compose could not bring it up: a verdict, unless it says nothing about the backup.
fn refused(error: Error) -> Result<Trouble> {
    let reason = error
        .chain()
        .find_map(|cause| {
            cause.downcast_ref::<ansible_module::Failure>().map(|failure| failure.reason)
        })
        .or_else(|| host::reason(&error));
    match reason {
        Some("command_failed") | None => Ok(Trouble {
            sentence: format!("it could not be started: {error:#}"),
            containers: Vec::new(),
        }),
        _ => Err(error),
    }
}
