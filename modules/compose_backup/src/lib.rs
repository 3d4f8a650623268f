//! `compose_backup`: backs a Docker Compose project up before a deploy, and restores it.
//! `compose_backup_info` lists the backups and what is going on.
//!
//! A restore stages the data next to the current one, stops the services, disables their restart policies,
//! and exchanges each folder in one system call (`host::spot`): no path of a service is ever missing, so
//! nothing makes an empty folder there. Old and new data are identified by inode and birth time, which are
//! noted before the first exchange, and not by names; anything else that is found there is set aside under a
//! name that is reported. The engine's start time of every container is noted as well: if a container was
//! started since, a killed restore is finished instead of reverted; all that this needs is in the state
//! folder (`goal.json`). In both cases old and new data are kept: only `state: absent` (`absent.rs`) removes
//! data that was live, and `retain` data whose loss was agreed to. No configuration says which replica has
//! which anonymous volume: if a container is missing, a stand-in that never runs gets its volumes, and
//! Compose passes them on to the container that replaces it (`containers.rs`).

mod absent;
mod apply;
mod backup;
mod backup_dir;
mod backup_writer;
mod compose;
mod data;
mod decide;
mod docker;
mod dumps;
mod freeze;
mod images;
mod info;
mod manifest;
mod mounts;
mod observed;
mod options;
mod parked;
mod plan;
mod present;
mod progress;
mod project;
mod resolved;
mod restore;
mod spec;
mod state;
mod sums;
mod survey;
mod unfinished;
mod verify;

use ansible_module::{Failure, Invocation, Outcome, Served};
use anyhow::Result;
use apply::Apply;
use backup_dir::BackupDir;
use change::{Consent, Session};
use decide::Decided;
use host::lock::Lock;
use manifest::Manifest;
use observed::Observed;
use options::{Task, Wanted};
use serde_json::json;
use state::{Project, TASK, Tools};
use std::path::Path;

const LOCKS: &str = "/run/reversible-compose";

/// The modules that this crate serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info::info }];

fn run(invocation: &Invocation) -> Result<Outcome> {
    let task = Task::parse(&invocation.options)?;
    let consent = match task.wanted {
        Wanted::Present | Wanted::Thawed => Consent::none(),
        _ => Consent::from(invocation)?,
    };
    let tools = Tools::find(&task.subject)?;
    tools.docker.ping()?;
    // The previous holder of the lock may have changed everything, so the state is read after this.
    let mut locked = None;
    let session = Session::new(invocation, consent).lock(|| {
        let (lock, project) = lock(&task, &tools)?;
        locked = Some(project);
        Ok(vec![lock])
    })?;
    let now = Project::read(&tools, &task.subject);
    let stored = BackupDir::read(&task.subject.backup_dir)?;
    let project = match (&now, &task.wanted) {
        (Ok(now), _) => now.name().to_owned(),
        // A project that cannot be read cannot be backed up.
        (Err(_), Wanted::Present) => return now.map(|_| Outcome::default()),
        (Err(_), _) => state::name_of(Some(&tools), &task.subject, &stored)?,
    };
    stored.refuse_other_projects(&project)?;
    if let Some(locked) = locked.filter(|locked| *locked != project) {
        let msg = format!(
            "the project was {locked} a moment ago and is {project} now: run the task again; nothing was changed"
        );
        return Err(Failure::new("changing", msg).into());
    }
    let state_dir = task.subject.state_dir(&project);
    let mut session = session.fence(task.run(), &state_dir)?.intent_in(&state_dir, TASK);
    if task.is_restore() {
        session = session.as_rollback(task.rollback.as_ref());
    }
    let observed = Observed::read(task, tools, project, state_dir, now)?;
    let cleanup_plan = match invocation.check_mode {
        true => None,
        false => observed.cleanup_plan(session.rollback()),
    };
    let Some(cleanup_plan) = cleanup_plan else {
        return carry_out(&observed, invocation, &session);
    };
    let mut apply = Apply::new(&observed, None, None);
    let mut before = session.recover(cleanup_plan, |action, intent| apply.act(action, intent))?;
    before.warnings.extend(apply.warnings);
    let before = before.fact("thawed", apply.thawed);
    // The state observed so far was that before the cleanup.
    let Observed { task, tools, project, state_dir, .. } = observed;
    let now = Project::read(&tools, &task.subject);
    let observed = Observed::read(task, tools, project, state_dir, now)?;
    let after = carry_out(&observed, invocation, &session)?;
    Ok(merged(before, after))
}

/// Merges the results of the cleanup after an unfinished run and of this run.
fn merged(before: Outcome, mut after: Outcome) -> Outcome {
    after.changed |= before.changed;
    after.steps.splice(0..0, before.steps);
    after.warnings.splice(0..0, before.warnings);
    after.diff.splice(0..0, before.diff);
    after.plan = Some(before.plan.into_iter().chain(after.plan).flatten().collect());
    if let Some(thawed) = before.facts.get("thawed") {
        after.facts.insert("thawed".to_owned(), thawed.clone());
    }
    after
}

/// Takes the lock of the project, and returns it with the project's name.
fn lock(task: &Task, tools: &Tools) -> Result<(Lock, String)> {
    let project =
        state::name_of(Some(tools), &task.subject, &BackupDir::read(&task.subject.backup_dir)?)?;
    let subject = format!("project {project}");
    let locks = Path::new(LOCKS);
    let lock = Lock::acquire_in(locks, &project, &subject, TASK, task.run(), task.lock_timeout)?;
    Ok((lock, project))
}

fn carry_out(
    observed: &Observed,
    invocation: &Invocation,
    session: &Session<'_>,
) -> Result<Outcome> {
    let key = session.rollback();
    if let Some(done) = session.done_before(&observed.view())? {
        return Ok(done.fact("rollback_id", json!(key)));
    }
    let scratch = invocation.tmpdir.clone().unwrap_or_else(std::env::temp_dir);
    let survey = observed.survey(&scratch)?;
    let Decided { plan, backup, restore, about } =
        observed.decide(survey.as_ref(), key, &scratch)?;
    let mut apply = Apply::new(observed, backup, restore);
    let done = session.carry_out(
        plan,
        |action, intent| apply.act(action, intent),
        || Ok(state::view(&BackupDir::read(&observed.task.subject.backup_dir)?)),
    );
    if observed.stored.is_pointer_wrong() && !invocation.check_mode {
        // It is only an export, and there is a warning about it.
        let _ = BackupDir::update_pointer(&observed.stored.dir);
    }
    let outcome = done.map_err(|error| apply.give_up(error))?;
    Ok(with_facts(outcome, apply, about, invocation.check_mode))
}

/// Adds the keys of the result that are not those of the plan.
fn with_facts(
    outcome: Outcome,
    apply: Apply<'_>,
    about: Option<(String, Option<Manifest>)>,
    check_mode: bool,
) -> Outcome {
    let Apply { observed, made, restore, pruned, thawed, warnings, .. } = apply;
    let is_new = made.is_some();
    let (name, manifest) = match (made, about) {
        (Some(made), _) => (Some(made.name.clone()), Some(made)),
        (None, Some((name, manifest))) => (Some(name), manifest),
        (None, None) => (None, None),
    };
    let path = name.as_ref().map(|name| observed.task.subject.backup_dir.join(name));
    let mut outcome = outcome
        .fact("backup", json!(name))
        .fact("path", json!(path))
        .fact("deploy_id", json!(manifest.as_ref().map(|one| &one.deploy_id)))
        .fact("thawed", thawed);
    outcome.warnings.extend(observed.stored.warnings.clone());
    outcome.warnings.extend(warnings);
    if let (Wanted::Present, Some(manifest)) = (&observed.task.wanted, manifest) {
        if is_new {
            let new = manifest.warnings.iter().filter(|one| !outcome.warnings.contains(one));
            let new: Vec<String> = new.cloned().collect();
            outcome.warnings.extend(new);
        }
        outcome = outcome
            .fact("freeze_ms", manifest.consistency.freeze_ms)
            .fact("bytes", manifest.sizes.bytes)
            .fact("bytes_new", manifest.sizes.bytes_new)
            .fact("bytes_linked", manifest.sizes.bytes_linked)
            .fact("consistency", json!(manifest.consistency))
            .fact("pruned", pruned);
    }
    match restore {
        Some(restore) if !check_mode => restore.facts(outcome),
        _ => outcome,
    }
}
