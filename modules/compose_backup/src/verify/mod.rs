//! `verify: restore`: verifies a backup by starting it as a temporary project, which is then removed.
//!
//! Invariants: nothing of the real project is touched: the temporary one has other names, an internal network,
//! no ports, and copies of the data; whatever happens, it is removed, by the next run if this one is killed.
//! The verdict says what could not be verified.

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
use config::{Inputs, Proof};
use engine::Trouble;
use host::atomic::{Replace, read_json};
use host::clock;
use host::deadline::Deadline;
use scratch::Scratch;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Returns the verdict: `ok`, or `why` not. `Err` is not a verdict: a signal, a full disk, an engine that does
/// not answer; or the backup is damaged.
pub fn restore(tools: &Tools, task: &Task, manifest: &Manifest, folder: &Path) -> Result<Value> {
    let began = Instant::now();
    let backup_dir = folder.parent().context("the backup has no parent folder")?;
    clean(&tools.docker, &manifest.project, backup_dir)?;
    let tried = attempt(tools, task, manifest, folder, backup_dir);
    let log = match &tried {
        Ok((_, Some(trouble))) => Some(engine::last_log_lines(&tools.docker, trouble)),
        _ => None,
    };
    // A signal must not prevent the cleanup.
    let shield = host::interrupt::shield();
    let cleaned = clean(&tools.docker, &manifest.project, backup_dir);
    drop(shield);
    let (proof, trouble) = tried?;
    cleaned.context("removing the temporary project of the verification")?;
    Ok(json!({
        "ok": trouble.is_none(),
        "why": trouble.map(|trouble| trouble.sentence),
        "log": log,
        "at": clock::now(),
        "seconds": (began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        "services": proof.services,
        "left_out": proof.left_out,
    }))
}

/// Removes what a killed verification has left. It is fast if there is nothing.
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
    let recorded: Value = read_json(&folder.join("config/compose.json"))
        .context("cannot read the recorded configuration")?;
    let inputs = Inputs { manifest, loaded: &loaded, scratch: &scratch };
    let proof = config::make(&recorded, &inputs)?;
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
        // Compose says less about what is wrong than the check below.
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

/// Turns a failure of Compose into a verdict, unless it has nothing to do with the backup.
fn refused(error: Error) -> Result<Trouble> {
    match ansible_module::outermost_reason(&error) {
        Some("command_failed") | None => Ok(Trouble {
            sentence: format!("it could not be started: {error:#}"),
            containers: Vec::new(),
        }),
        _ => Err(error),
    }
}
