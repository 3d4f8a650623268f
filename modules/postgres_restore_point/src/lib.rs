//! `postgres_restore_point`: copies a PostgreSQL database within its cluster, and rolls back to the copy by a swap of names.
//! `postgres_restore_point_info` lists the copies.
//!
//! A restore point is a database that was dumped from one snapshot while it was used, restored at once, checked against
//! what the snapshot saw, and closed (`capture.rs`). A rollback destroys nothing: both databases stay complete and swap
//! their names in one transaction of the server (`swap.rs`). After a kill the OID under the name shows whether that was
//! done, and `order.rs` finishes it before anything else is planned. A database counts as ours if a comment on it says
//! so and our record of its OID confirms it (`state.rs`).

mod back;
mod capture;
mod checks;
mod clone;
mod compare;
mod contents;
mod count;
mod dumped;
mod info;
mod names;
mod options;
mod order;
mod plan;
mod present;
mod properties;
mod prune;
mod psql;
mod quote;
mod record;
mod role;
mod rows;
mod schema;
mod session;
mod spec;
mod state;
mod storage;
mod survey;
mod swap;
mod unfinished;

use ansible_module::{Failure, Invocation, Outcome, Served};
use anyhow::{Context, Error, Result};
use capture::Capture;
use change::{Consent, Plan, RunNotes, Session};
use clone::Cloning;
use contents::Contents;
use host::deadline::Deadline;
use host::deploy_id::DeployId;
use host::interrupt;
use host::lock::Lock;
use host::record::Intent;
use host::space::Space;
use names::Kind;
use options::{Count, Counting, LookingInto, RowsWanted, Subject, TASK, Task, Wanted, new_id};
use plan::Action;
use psql::Psql;
use serde_json::{Value, json};
use state::State;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use unfinished::{GOAL, Goal, UnfinishedRun, what};

const LOCKS: &str = "/run/reversible-postgres";

/// The modules that this crate serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info }];

fn info(invocation: &Invocation) -> Result<Outcome> {
    require_root()?;
    let subject = Subject::parse(&invocation.options)?;
    let counting = Counting::parse(&invocation.options)?;
    let rows = RowsWanted::parse(&invocation.options, invocation.check_mode)?;
    let into = LookingInto::parse(&invocation.options)?;
    info::of(&Psql::find(&subject.connection)?, &subject, &counting, rows.as_ref(), &into)
}

fn require_root() -> Result<(), Failure> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err(Failure::new(
            "permission_denied",
            "the clients run as os_user, which only root can do",
        )),
    }
}

fn lock(subject: &Subject, run: Option<&DeployId>, timeout: Duration) -> Result<Vec<Lock>> {
    let name = &subject.name;
    Lock::acquire_in(Path::new(LOCKS), name, &subject.database, TASK, run, timeout)
        .map(|it| vec![it])
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    require_root()?;
    let task = Task::parse(&invocation.options)?;
    let consent = match &task.wanted {
        Wanted::Present(_) | Wanted::Cloned { .. } => Consent::none(),
        _ => Consent::from(invocation)?,
    };
    let psql = Psql::find(&task.subject.connection)?;
    let mut session = Session::new(invocation, consent)
        .lock(|| lock(&task.subject, task.run(), task.lock_timeout))?
        .fence(task.run(), &task.subject.state_dir)?
        .intent_in(&task.subject.state_dir, TASK);
    if task.is_rollback() {
        session = session.as_rollback(task.rollback.as_ref());
    }
    let unfinished = UnfinishedRun::read(&task.subject.state_dir)?;
    let mut state = state::observe(&psql, &task.subject)?;
    let mut ordered = Outcome::default();
    if unfinished.is_waiting() {
        let plan = order::plan(&state, &unfinished);
        if invocation.check_mode && !plan.steps.is_empty() {
            let mut outcome = session.carry_out(plan, |_, _| Ok(()), || Ok(Value::Null))?;
            outcome.warnings.push(format!(
                "the run of {} was killed: what it has left is finished or removed first, and the task is planned after that",
                unfinished.since
            ));
            return Ok(outcome);
        }
        if !invocation.check_mode {
            let _shield = interrupt::shield();
            order::end_creation(&psql, &unfinished)?;
            state = state::observe(&psql, &task.subject)?;
            let plan = order::plan(&state, &unfinished);
            ordered = session.recover(plan, |fix, _| order::act(fix, &psql, &task))?;
            state = state::observe(&psql, &task.subject)?;
        }
    }
    let outcome = match session.done_before(&state.view())? {
        Some(done) => {
            if let Some(id) = session.rollback() {
                back::refuse_lost(&state, id)?;
            }
            done
        }
        None => run_planned(&session, invocation, &task, &psql, &state, &unfinished)?,
    };
    Ok(with_recovery(outcome, ordered, &unfinished))
}

fn with_recovery(mut outcome: Outcome, ordered: Outcome, unfinished: &UnfinishedRun) -> Outcome {
    let sentences: Vec<String> = ordered.plan.unwrap_or_default();
    if ordered.changed {
        outcome.changed = true;
        outcome.warnings.push(format!(
            "the run of {} was killed; finished first: {}",
            unfinished.since,
            sentences.join("; ")
        ));
    }
    outcome
}

fn run_planned(
    session: &Session<'_>,
    invocation: &Invocation,
    task: &Task,
    psql: &Psql,
    state: &State,
    unfinished: &UnfinishedRun,
) -> Result<Outcome> {
    match &task.wanted {
        Wanted::Present(id) => capture(session, task, psql, state, id.as_str()),
        Wanted::RolledBack(_) | Wanted::Undone(_) => {
            let same = unfinished
                .goal
                .as_ref()
                .is_some_and(|goal| goal.key.is_none() && goal.what == what(task));
            match order::reached(state, &unfinished.goal)
                .filter(|_| same && session.rollback().is_none())
            {
                // Just finished for the killed run; without an id nothing else shows that it is done.
                Some(parked) => {
                    let parked = json!({ "id": parked.id, "database": parked.name });
                    let outcome = session.carry_out(
                        plan::nothing(state),
                        |_, _| Ok(()),
                        || Ok(state.view()),
                    )?;
                    Ok(outcome.fact("parked", parked))
                }
                None => go_back(session, invocation, task, psql, state),
            }
        }
        Wanted::Cloned { id, role } => make_clone(session, task, psql, state, id.as_str(), role),
        _ => {
            let plan = prune::absent(state, task)?;
            let outcome = session.carry_out(
                plan,
                |action, _| act_removal(action, psql, task),
                || seen(psql, task),
            );
            Ok(outcome?.fact("deploy_id", json!(null)).fact("restore_point", json!(null)))
        }
    }
}

fn act_removal(action: &Action, psql: &Psql, task: &Task) -> Result<()> {
    match action {
        Action::Remove(removal) => prune::drop_database(psql, task, removal),
        _ => anyhow::bail!("a removal does nothing else"),
    }
}

/// Observes the current state for the result.
fn seen(psql: &Psql, task: &Task) -> Result<Value> {
    Ok(state::observe(psql, &task.subject)?.view())
}

fn capture(
    session: &Session<'_>,
    task: &Task,
    psql: &Psql,
    state: &State,
    id: &str,
) -> Result<Outcome> {
    let is_new = !present::is_captured(state, id);
    let live = state.live()?;
    let name = names::ours(&live.name, Kind::RestorePoint, id);
    let mut capture = None;
    let mut warned = None;
    if is_new {
        capture = Some(prepare(task, psql, state, id)?);
        let what = format!("a restore point of {}", live.name);
        warned = require_room(
            &what,
            task,
            state,
            Room { work: live.bytes, data: live.bytes.saturating_mul(2) },
        )?;
    }
    let mut plan = present::plan(state, task, id)?;
    plan.warnings.extend(warned);
    let done = session.carry_out(
        plan,
        |action, intent| match (action, &mut capture) {
            (Action::Remove(_), _) => act_removal(action, psql, task),
            (_, Some(capture)) => {
                let intent = intent.context("a change needs a recorded intent")?;
                match action {
                    Action::Dump => capture.dump(intent),
                    Action::Restore => capture.restore(intent),
                    Action::Check => capture.check(),
                    Action::Keep => capture.keep(intent),
                    _ => anyhow::bail!("a capture does nothing else"),
                }
            }
            _ => anyhow::bail!("nothing is captured"),
        },
        || {
            let now = state::observe(psql, &task.subject)?;
            let is_there = now
                .ours(Kind::RestorePoint)
                .iter()
                .any(|(entry, found)| entry.id == id && !found.allow);
            anyhow::ensure!(is_there, "{name} is not there, ours and closed");
            Ok(now.view())
        },
    );
    let outcome = done.map_err(|error| recover(error, psql, task))?;
    let storage = json!(storage::find(&state.cluster));
    Ok(outcome.fact("deploy_id", id).fact("restore_point", name).fact("storage", storage))
}

/// Refuses what cannot be captured, and finds the programs.
fn prepare<'a>(task: &'a Task, psql: &'a Psql, state: &'a State, id: &str) -> Result<Capture<'a>> {
    present::refuse(state, id)?;
    let live = state.live()?;
    let contents: Contents =
        psql.ask(&format!("looking into {}", live.name), &live.name, contents::CARRIED)?;
    contents::refuse(live, &contents)?;
    let major = state.cluster.major();
    Ok(Capture {
        task,
        psql,
        live,
        id: id.to_owned(),
        name: names::ours(&live.name, Kind::RestorePoint, id),
        pg_dump: psql.tool("pg_dump", major)?,
        pg_restore: psql.tool("pg_restore", major)?,
        seen: None,
    })
}

fn make_clone(
    session: &Session<'_>,
    task: &Task,
    psql: &Psql,
    state: &State,
    id: &str,
    role: &str,
) -> Result<Outcome> {
    let (point, found) = clone::point(state, id)?;
    let live = state.live()?;
    role::refuse(psql, live, role)?;
    let mut plan = clone::plan(state, id, role, point);
    if !clone::is_cloned(state, id) {
        let freed = state.ours(names::Kind::Clone).iter().map(|(_, clone)| clone.bytes).sum();
        let data = found.bytes.saturating_mul(2).saturating_sub(freed);
        let what = format!("a clone of {}", found.name);
        plan.warnings.extend(require_room(&what, task, state, Room { work: 0, data })?);
    }
    let name = names::ours(&live.name, Kind::Clone, id);
    let cloning = Cloning { task, psql, live, point, role, name: name.clone() };
    let done = session.carry_out(
        plan,
        |action, intent| match action {
            Action::Remove(_) => act_removal(action, psql, task),
            Action::Clone => cloning.create(intent.context("a change needs a recorded intent")?),
            Action::GiveClone => cloning.give(),
            Action::KeepClone => cloning.keep(intent.context("a change needs a recorded intent")?),
            _ => anyhow::bail!("a clone needs nothing else"),
        },
        || {
            let now = state::observe(psql, &task.subject)?;
            anyhow::ensure!(clone::is_cloned(&now, id), "{name} is not there, or not ours");
            Ok(now.view())
        },
    );
    let outcome = done.map_err(|error| recover(error, psql, task))?;
    Ok(outcome.fact("deploy_id", id).fact("restore_point", json!(point.name)).fact("clone", name))
}

/// The bytes that are needed in `work_dir`, and where the server has its data.
struct Room {
    work: u64,
    data: u64,
}

/// Requires space: for the dump, for the copy and for the WAL of the copy. Returns a warning about what cannot be checked.
fn require_room(what: &str, task: &Task, state: &State, room: Room) -> Result<Option<String>> {
    let is_here = task.subject.connection.host.as_ref().is_none_or(|host| host.starts_with('/'));
    let data = state.cluster.data_directory.as_deref().filter(|_| is_here);
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let data = data.filter(|path| device(path).is_some());
    let require = |path: &Path, bytes: u64| match bytes {
        0 => Ok(()),
        bytes => Space::require(what, path, Space { bytes, inodes: None }),
    };
    let Some(data) = data else {
        require(&task.work_dir, room.work)?;
        let warning =
            "the disk of the server is not visible from this machine, so the free space is unknown";
        return Ok(Some(warning.into()));
    };
    if device(data) == device(&task.work_dir) {
        require(data, room.work.saturating_add(room.data))?;
    } else {
        require(&task.work_dir, room.work)?;
        require(data, room.data)?;
    }
    Ok(None)
}

fn go_back(
    session: &Session<'_>,
    invocation: &Invocation,
    task: &Task,
    psql: &Psql,
    state: &State,
) -> Result<Outcome> {
    let key = session.rollback().map(str::to_owned);
    let id = match (&task.rollback, invocation.check_mode) {
        (Some(id), _) => Some(id.to_string()),
        (None, true) => None,
        (None, false) => Some(new_id()?.to_string()),
    };
    let (plan, goal) = back::plan(state, task, key, id.as_deref())?;
    let live = state.live()?;
    let written = written(invocation, task, psql, state, &goal)?;
    let sessions = plan::sessions(&live.sessions);
    let done = session.carry_out(
        plan,
        |action, intent| match action {
            Action::CheckIncoming => {
                begin(intent, &goal)?;
                swap::check(psql, &goal.incoming)
            }
            Action::Swap => swap::swap(psql, task, &goal),
            _ => anyhow::bail!("a rollback does nothing else"),
        },
        || {
            let now = state::observe(psql, &task.subject)?;
            let live = now.live()?;
            anyhow::ensure!(
                live.oid == goal.incoming.oid && live.allow,
                "{} is not what it should be now",
                live.name
            );
            anyhow::ensure!(
                now.there(&goal.outgoing).is_some_and(|parked| !parked.allow),
                "{} is not there, ours and closed",
                goal.outgoing.name
            );
            Ok(now.view())
        },
    );
    let mut outcome = done.map_err(|error| recover(error, psql, task))?;
    if !invocation.check_mode {
        outcome.undo = Some(format!("state: rolled_back with parked: {}", goal.outgoing.id));
    }
    let point = (goal.incoming.kind == Kind::RestorePoint).then_some(&goal.incoming);
    Ok(outcome
        .fact("deploy_id", json!(point.map(|point| &point.id)))
        .fact("restore_point", json!(point.map(|point| &point.name)))
        .fact("parked", json!({ "id": goal.outgoing.id, "database": goal.outgoing.name }))
        .fact("written", written)
        .fact("sessions", sessions))
}

/// Describes what a rollback costs, by the counters or by the rows. Check mode takes the lock for that; a run has it.
fn written(
    invocation: &Invocation,
    task: &Task,
    psql: &Psql,
    state: &State,
    goal: &Goal,
) -> Result<Value> {
    let is_to_lock = task.counting.count == Count::Exact && invocation.check_mode;
    let _lock = match is_to_lock {
        true => Some(lock(&task.subject, task.run(), task.lock_timeout)?),
        false => None,
    };
    let deadline = Deadline::after(task.counting.timeout);
    Ok(info::written(psql, state, &goal.incoming, task.counting.count, deadline, None))
}

/// Notes before the first change what cannot be observed later.
fn begin(intent: Option<&Intent>, goal: &Goal) -> Result<()> {
    intent.context("a change needs a recorded intent")?.note(GOAL, goal)
}

/// After a failure: finishes or removes what was begun, as the next run would, if that is possible.
fn recover(error: Error, psql: &Psql, task: &Task) -> Error {
    let _shield = interrupt::shield();
    let known = error.chain().filter_map(|cause| cause.downcast_ref::<Failure>());
    let reason = known
        .last()
        .map(|failure| failure.reason)
        .or_else(|| host::reason(&error))
        .unwrap_or("failed");
    match finish_killed_run(psql, task) {
        Ok(None) => error,
        Ok(Some(outcome_text)) => Failure::new(reason, outcome_text).caused_by(error).into(),
        Err(why) => {
            let outcome_text = format!(
                "what was begun could not be finished or removed ({why:#}); run the same task again, which does that first"
            );
            Failure::new(reason, outcome_text).caused_by(error).into()
        }
    }
}

/// Finishes or removes what was begun and describes the result; `None` if nothing was begun.
fn finish_killed_run(psql: &Psql, task: &Task) -> Result<Option<String>> {
    let unfinished = UnfinishedRun::read(&task.subject.state_dir)?;
    if !unfinished.is_waiting() {
        return Ok(None);
    }
    order::end_creation(psql, &unfinished)?;
    let state = state::observe(psql, &task.subject)?;
    let plan: Plan<order::Fix> = order::plan(&state, &unfinished);
    plan.steps.iter().try_for_each(|step| order::act(&step.action, psql, task))?;
    let outcome_text = match order::reached(&state, &unfinished.goal) {
        Some(parked) => {
            format!("the names are swapped, and what was live is parked as {}", parked.name)
        }
        None => "everything is as it was before".to_owned(),
    };
    RunNotes::close(&task.subject.state_dir, TASK)?;
    Ok(Some(outcome_text))
}
