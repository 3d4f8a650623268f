//! Plan: what runs now, to what is ended and started. Pure.

use crate::kept::Unkept;
use crate::options::{Options, Process, State};
use crate::process::{Doomed, Pid};
use ansible_module::Failure;
use change::{Plan, Step, Undo};
use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub enum Action {
    Keep(Unkept),
    /// Also what left a pid file and does not run any more: the file goes.
    End(Vec<Doomed>),
    Start,
}

pub fn plan(options: &Options, seen: &[Option<Pid>], unkept: Option<&Unkept>) -> Plan<Action> {
    let before = running(&options.processes, seen);
    let mut plan = Plan::nothing("processes", json!({ "running": before }));
    if options.state == State::Observed {
        return plan;
    }
    if let Some(unkept) = unkept.filter(|unkept| !unkept.has_folder || !unkept.names.is_empty()) {
        let place = unkept.folder.display();
        let text = match unkept.names.as_slice() {
            [] => format!("make the folder {place}"),
            some => format!("keep in {place} the logs of {}", some.join(", ")),
        };
        plan.steps.push(Step::new(Action::Keep(unkept.clone()), text));
    }
    let doomed: Vec<Doomed> = (options.processes.iter().zip(seen))
        .filter_map(|(one, pid)| {
            Some(Doomed { name: one.name.clone(), pid: (*pid)?, pidfile: one.pidfile.clone() })
        })
        .collect();
    if !doomed.is_empty() {
        let text = format!("end {}", names(doomed.iter().map(|one| one.name.as_str())));
        plan.steps.push(Step::new(Action::End(doomed), text));
    }
    let all = || options.processes.iter().map(|one| one.name.as_str());
    let mut after: Vec<&str> = Vec::new();
    if options.state == State::Restarted && !options.processes.is_empty() {
        plan.steps.push(Step::new(Action::Start, format!("start {}", names(all()))));
        after = all().collect();
    }
    plan.undo = Undo::None("what was ended is started by a task that says how".into());
    plan.after = json!({ "running": after });
    plan
}

fn names<'a>(all: impl Iterator<Item = &'a str>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

pub fn running(processes: &[Process], seen: &[Option<Pid>]) -> Value {
    let running = processes.iter().zip(seen).filter(|(_, pid)| pid.is_some());
    running.map(|(one, _)| one.name.as_str()).collect()
}

/// Each is as it was asked for.
pub fn verify(options: &Options, now: &[Option<Pid>]) -> Result<(), Failure> {
    let wrong: Vec<&str> = (options.processes.iter().zip(now))
        .filter(|(_, pid)| pid.is_some() != (options.state == State::Restarted))
        .map(|(one, _)| one.name.as_str())
        .collect();
    let what = match options.state {
        State::Restarted => "started, but does not run: its log says why",
        State::Stopped | State::Observed => "ended, but still runs",
    };
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Failure::new("not_verified", format!("{}: was {what}", wrong.join(", ")))),
    }
}
