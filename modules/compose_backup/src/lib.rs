//! `compose_backup`: a Docker Compose project backed up before a deploy, and put back.
//! `compose_backup_info` tells which backups there are and what is going on.
//!
//! The module stages what is restored next to what is there, stops, takes the restart policies
//! away, and exchanges each folder in one call of the kernel (`host::spot`): no path of a service
//! is ever missing, so that nobody makes an empty folder there. Which is which is known by inode
//! and birth time, noted before the first exchange, and not by names: what is neither is set aside
//! under a name that is reported. Before it the engine's time of start of every container is noted.
//! A killed run goes forward when one of them has another since: what it is about is kept whole in
//! the state folder (`goal.json`). Whichever way it goes, both sides are kept: no code removes what
//! has stood in its place but `state: absent` (`absent.rs`), and `retain` for what a consent has
//! named. Which replica has which anonymous volume no configuration can say: where a container is
//! gone, a stand-in that never runs bears its volumes, and Compose hands them on to the one that
//! replaces it (`containers.rs`).

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
use anyhow::{Context, Result};
use apply::Apply;
use backup_dir::BackupDir;
use change::{Consent, Session};
use decide::Decided;
use host::folder::SafeFolder;
use host::lock::Lock;
use manifest::Manifest;
use observed::Observed;
use options::{Task, Wanted};
use serde_json::json;
use state::{Project, TASK, Tools};
use std::path::Path;

const LOCKS: &str = "/run/reversible-compose";

/// What this program serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info::info }];

fn run(invocation: &Invocation) -> Result<Outcome> {
    let task = Task::parse(&invocation.options)?;
    let consent = match task.wanted {
        Wanted::Present | Wanted::Thawed => Consent::none(),
        _ => Consent::from(invocation)?,
    };
    let tools = Tools::find(&task.subject)?;
    tools.docker.reach()?;
    // Whoever held the lock before may have changed everything: what counts is read after this.
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
        // A backup of what cannot be read is no backup.
        (Err(_), Wanted::Present) => return now.map(|_| Outcome::default()),
        (Err(_), _) => state::name_of(Some(&tools), &task.subject, &stored)?,
    };
    stored.refuse_others(&project)?;
    if let Some(locked) = locked.filter(|locked| *locked != project) {
        let msg = format!(
            "the project was {locked} a moment ago and is {project} now: run the task again; nothing was changed"
        );
        return Err(Failure::new("changing", msg).into());
    }
    let state_dir = task.subject.state_dir(&project);
    let mut session = session.fence(task.run(), &state_dir)?.intent_in(&state_dir, TASK);
    if task.is_restore() {
        session = session.goes_back(task.rollback.as_ref());
    }
    let observed = Observed::read(task, tools, project, state_dir, now)?;
    let left = match invocation.check_mode {
        true => None,
        false => observed.left_behind(session.rollback()),
    };
    let Some(left) = left else { return carry_out(&observed, invocation, &session) };
    let mut apply = Apply::new(&observed, None, None);
    let mut before = session.put_in_order(left, |action, intent| apply.act(action, intent))?;
    before.warnings.extend(apply.warnings);
    let before = before.fact("thawed", apply.thawed);
    // What was looked at until here was the state that the killed run had left.
    let Observed { task, tools, project, state_dir, .. } = observed;
    let now = Project::read(&tools, &task.subject);
    let observed = Observed::read(task, tools, project, state_dir, now)?;
    let after = carry_out(&observed, invocation, &session)?;
    Ok(joined(before, after))
}

/// The result of a run that first had to put in order what a killed one had left.
fn joined(before: Outcome, mut after: Outcome) -> Outcome {
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

/// One task at a time for a project, and the project's name. Not in the state folder: a run that is refused
/// leaves nothing behind there.
fn lock(task: &Task, tools: &Tools) -> Result<(Lock, String)> {
    let project =
        state::name_of(Some(tools), &task.subject, &BackupDir::read(&task.subject.backup_dir)?)?;
    let folder = SafeFolder::ensure(Path::new(LOCKS), 0o700)?;
    let path = folder.join(format!("{project}.lock"));
    let lock = Lock::acquire(&path, TASK, task.run(), task.lock_timeout)
        .with_context(|| format!("waiting for another task on project {project}"))?;
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
    if observed.stored.is_misdirected() && !invocation.check_mode {
        // Only an export: what is wrong with it has been said.
        let _ = BackupDir::repoint(&observed.stored.dir);
    }
    let outcome = done.map_err(|error| apply.give_up(error))?;
    Ok(told(outcome, apply, about, invocation.check_mode))
}

/// What the result says beside the plan.
fn told(
    outcome: Outcome,
    apply: Apply<'_>,
    about: Option<(String, Option<Manifest>)>,
    check_mode: bool,
) -> Outcome {
    let Apply { observed, made, restore, pruned, thawed, warnings, .. } = apply;
    let fresh = made.is_some();
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
        if fresh {
            let said = manifest.warnings.iter().filter(|one| !outcome.warnings.contains(one));
            let said: Vec<String> = said.cloned().collect();
            outcome.warnings.extend(said);
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
