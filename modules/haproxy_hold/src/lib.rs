//! `haproxy_hold`: lets requests of an app wait in HAProxy for a limited time while the app restarts.
//! `haproxy_hold_info` reports what is held, until when, and how many requests wait.
//!
//! A Lua script of the role `haproxy` holds the requests; the module changes its map and reads its
//! counters. One value in the live map and in its file (which a reload reads) says what is held and until
//! when: a killed run leaves at most a hold that ends at its time, and `released` removes the rest of it.
//! So there is no intent record. Old workers of a reload have their own maps, and are reached through the
//! master socket.

mod apply;
mod options;
mod plan;
mod script;
mod spec;
mod state;

use ansible_module::{Failure, Invocation, Outcome, Served};
use anyhow::Result;
use apply::Apply;
use change::{Consent, Session};
use haproxy::locks;
use options::{Subject, Task, Wanted};
use serde_json::{Value, json};
use state::{State, TASK};

/// The modules that this crate serves.
pub const MODULES: &[Served] =
    &[Served { spec: &spec::MODULE, run }, Served { spec: &spec::INFO, run: info }];

fn info(invocation: &Invocation) -> Result<Outcome> {
    let raw = &invocation.options;
    let seen = state::observe(&Subject::parse(raw)?)?;
    let key: Option<String> = raw.get("map_key")?;
    let keys = match key {
        Some(key) => vec![options::word("map_key", key)?],
        None => seen.keys(),
    };
    let described = keys.iter().filter_map(|key| Some(seen.describe(key, &seen.hold(key)?)));
    let least = |of: fn(&state::Edge) -> u64| seen.edges.iter().map(of).min();
    Ok(Outcome::default().fact("holds", described.collect::<Vec<_>>()).fact(
        "limits",
        json!({
            "seconds": least(|edge| edge.report.seconds),
            "requests": least(|edge| edge.report.requests),
        }),
    ))
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    let task = Task::parse(&invocation.options)?;
    if task.wanted == Wanted::Released {
        host::reserve::open();
    }
    let session = Session::new(invocation, Consent::none())
        .lock(|| {
            let one = task.state_dir.join("hold");
            Ok(vec![locks::lock(&one, TASK, task.deploy.as_ref(), task.lock_timeout)?])
        })?
        .fence(task.deploy.as_ref(), &task.state_dir)?;
    let seen = state::observe(&task.subject)?;
    apply::ensure_backends(&task, &seen)?;
    let plan = plan::plan(&task, &seen)?;
    let does_nothing = plan.steps.is_empty() || invocation.check_mode;
    let mut apply = Apply {
        task: &task,
        state: &seen,
        hold: seen.hold(&task.key),
        open_requests: 0,
        old_workers_released: Vec::new(),
        without_server: Vec::new(),
    };
    let outcome = session.carry_out(plan, |action, _| apply.act(*action), || verify(&task))?;
    if does_nothing {
        return Ok(with_counts(outcome, &task, &apply, &seen));
    }
    let released = apply.hold.as_ref().filter(|_| task.wanted == Wanted::Released);
    let mut now = apply::wait_until_released(&task, released)?;
    now.add_ended(std::mem::take(&mut apply.old_workers_released));
    Ok(with_counts(outcome, &task, &apply, &now))
}

fn verify(task: &Task) -> Result<Value> {
    let now = state::observe(&task.subject)?;
    let is_done = match task.wanted {
        Wanted::Held => now.is_held_everywhere(&task.key),
        Wanted::Released => now.values(&task.key).iter().all(Option::is_none),
    };
    match is_done {
        true => Ok(now.view(&task.key)),
        false => {
            let msg = format!(
                "{} is not {} everywhere: HAProxy or {} says something else",
                task.key,
                if task.wanted == Wanted::Held { "held" } else { "released" },
                host::joined(now.files.keys().map(|path| path.display()))
            );
            Err(Failure::new("not_verified", msg).into())
        }
    }
}

/// Adds the counts of the hold to the result, and warnings about requests that were not answered.
fn with_counts(mut outcome: Outcome, task: &Task, apply: &Apply<'_>, now: &State) -> Outcome {
    let Some(hold) = &apply.hold else { return outcome.fact("hold", Value::Null) };
    let key = &task.key;
    let count = now.count(key, hold);
    let mut warn = |text: String| outcome.warnings.push(text);
    if count.refused > 0 {
        let most = now.edges.iter().map(|edge| edge.report.requests).min().unwrap_or_default();
        warn(format!(
            "{} requests of {key} got 503, since {most} waited already (haproxy_hold_requests)",
            count.refused
        ));
    }
    if count.expired > 0 {
        warn(format!(
            "{} requests of {key} had waited until the hold ended by itself, and went to their servers, up or not",
            count.expired
        ));
    }
    if apply.open_requests > 0 {
        warn(format!("{} requests of {key} are still under way", apply.open_requests));
    }
    if !apply.without_server.is_empty() {
        let backends = apply.without_server.join(", ");
        warn(format!("requests of {key} were released while HAProxy saw no server up: {backends}"));
    }
    let mut described = now.describe(key, hold);
    if !task.backends.is_empty() {
        described["under_way"] = json!(apply.open_requests);
    }
    outcome.fact("hold", described)
}
