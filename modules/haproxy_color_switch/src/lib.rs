//! `haproxy_color_switch`: flips between blue and green, proves and watches the new colour, and reverts a
//! flip that fails. `haproxy_color_switch_info` reports the active colour and whether a rollback is possible.
//!
//! The module holds two locks: one of its app's state for the whole run, and one of the HAProxy's file only
//! while it flips or reverts, so that watching one app does not block flips of others. Gates before the change (`gate.rs`) refuse; gates after it (`Apply::prove`,
//! `budget.rs`) lead to `back.rs`, which alone reverts a flip. The live map is the
//! authority, and its file keeps it over restarts; `active-color` and its history are exports, and only the
//! history's verdicts are read back. A run that is killed leaves its intent; the next one treats
//! the state that it finds as its own (no drift) and finishes, or reverts. The budget judges by requests
//! that came while the run watched, before the flip and after it (`Fleet::since`), never by the totals of
//! counters. A file is replaced before anything live changes, and compared as HAProxy's
//! master sees it (`haproxy::reader`). A revert that was not completed keeps its intent, which
//! explains the state to the next run. A copy of a configuration that HAProxy checks is locked; a run
//! removes those that are not.

mod apply;
mod back;
mod budget;
mod color;
mod config;
mod gate;
mod history;
mod options;
mod plan;
mod question;
mod reload;
mod servers;
mod spec;
mod state;

use ansible_module::{Diff, Failure, Invocation, Outcome, Served};
use anyhow::Result;
use apply::Apply;
use change::{Consent, Session};
use host::folder::SafeFolder;
use options::{Method, Subject, TASK, Task, Wanted};
use plan::{Action, Switch};
use serde_json::{Value, json};
use state::State;
use std::time::Instant;

/// The modules that this crate serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info }];

fn info(invocation: &Invocation) -> Result<Outcome> {
    let subject = Subject::parse(&invocation.options)?;
    Ok(state::observe(&subject)?.facts(Outcome::default()))
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    let task = Task::parse(&invocation.options)?;
    // The lock of the app is held until the end, since watching the budget is part of the flip.
    let mut session = Session::new(invocation, Consent::none())
        .lock(|| Ok(vec![task.lock(&task.subject.active_color_file())?]))?
        .fence(task.run(), &task.subject.state_dir)?
        .intent_in(&task.subject.state_dir, TASK);
    if task.wanted == Wanted::Previous || task.rollback.is_some() {
        session = session.as_rollback(task.rollback.as_ref());
    }
    let state = state::observe(&task.subject)?;
    if let Some(done) = session.done_before(&state.view())? {
        return Ok(state.facts(done));
    }
    let mut switch = plan::resolve(&state, &task)?;
    switch.content = gate::content(&state, &task, &switch)?;
    if switch.content.as_ref().is_some_and(|new| *new != state.text || state.unfinished.is_some()) {
        switch.reload = Some(task.reloader.choose(&state.sockets)?);
    }
    let plan = plan::plan(&state, &task, &switch)?;
    let flips = plan.steps.iter().any(|step| step.action == Action::Flip);
    let nothing_to_do = plan.steps.is_empty();
    let mut apply = Apply::new(&task, &state, &switch);
    if flips && !invocation.check_mode {
        pass_gates(&mut apply)?;
    }
    if !nothing_to_do && !invocation.check_mode {
        SafeFolder::ensure(&task.subject.state_dir, 0o755)?.keep_reserve();
    }
    let mut seen = None;
    let verify = || -> Result<Value> {
        let now = state::observe(&task.subject)?;
        match now.active == Some(switch.to) && now.drift.is_empty() {
            true => Ok(seen.insert(now).view()),
            false => {
                let msg =
                    format!("{} is not active everywhere: {}", switch.to, now.drift.join("; "));
                Err(Failure::new("not_verified", msg).into())
            }
        }
    };
    let done = session.carry_out(plan, |action, intent| apply.act(action, intent), verify);
    let mut outcome = done.map_err(|error| apply.revert(error))?;
    if invocation.check_mode {
        outcome = outcome.fact("gates", gates(&task, flips));
    } else if nothing_to_do {
        prove_active_color(&task, &switch)?;
    } else {
        if flips && !task.drain.is_zero() {
            apply.drain()?;
        }
        outcome = outcome.fact("flip", apply.numbers.to_json());
    }
    show_config(&mut outcome, &state, &task, &switch);
    let now =
        if invocation.check_mode || nothing_to_do { state } else { state::observe(&task.subject)? };
    Ok(now.facts(outcome))
}

/// Checks the map's file and the target before the flip; an unfinished run is reverted if a check fails.
fn pass_gates(apply: &mut Apply<'_>) -> Result<()> {
    let (task, state, switch) = (apply.task, apply.state, apply.switch);
    if let Err(error) = gate::file(state, task) {
        return Err(if switch.resumes { apply.revert(error) } else { error });
    }
    let began = Instant::now();
    if let Err(error) = gate::target(state, task, switch) {
        return Err(match switch.resumes {
            true => apply.revert(error),
            false => Failure::new("target_down", "nothing was changed").caused_by(error).into(),
        });
    }
    apply.numbers.took("target", began);
    Ok(())
}

/// Verifies that the servers answer, if nothing had to be changed.
fn prove_active_color(task: &Task, switch: &Switch) -> Result<(), Failure> {
    let Some(prove) = &task.prove else { return Ok(()) };
    prove.ask(None, switch.release.as_deref()).map(drop).map_err(|why| {
        let msg = format!(
            "{} is active already, but does not answer as expected: {why}; nothing was changed",
            switch.to
        );
        Failure::new("not_proven", msg)
    })
}

/// Check mode predicts actions, never the results of gates.
fn gates(task: &Task, flips: bool) -> Value {
    let mut gates = serde_json::Map::new();
    let mut not_evaluated = |name: &str, asked: bool| {
        if asked {
            gates.insert(name.to_owned(), json!("not evaluated"));
        }
    };
    not_evaluated("target", flips);
    not_evaluated("probe", flips && task.probe.is_some());
    not_evaluated("prove", task.prove.is_some());
    not_evaluated("error_budget", flips && task.budget.is_some());
    not_evaluated("drain", flips && !task.drain.is_zero());
    Value::Object(gates)
}

/// The diff of the configuration without possible secrets.
fn show_config(outcome: &mut Outcome, state: &State, task: &Task, switch: &Switch) {
    let Some(new) = switch.content.as_ref().filter(|new| **new != state.text) else { return };
    if task.subject.method == Method::Reload {
        outcome.diff.push(Diff::States {
            subject: task.subject.config.display().to_string(),
            before: json!(config::without_secrets(&state.text)),
            after: json!(config::without_secrets(new)),
        });
    }
}
