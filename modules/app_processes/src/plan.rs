//! Plans which processes are stopped and started. Pure.

use crate::kept::LogsToKeep;
use crate::options::{Options, Process, State};
use crate::process::{Pid, RunningProcess};
use ansible_module::Failure;
use change::{Plan, Step, Undo};
use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub enum Action {
    Keep(LogsToKeep),
    /// Stops processes. Pid files of processes that do not run any more are removed too.
    End(Vec<RunningProcess>),
    Start,
}

pub fn plan(
    options: &Options,
    seen: &[Option<Pid>],
    logs_to_keep: Option<&LogsToKeep>,
) -> Plan<Action> {
    let before = running(&options.processes, seen);
    let mut plan = Plan::nothing("processes", json!({ "running": before }));
    if options.state == State::Observed {
        return plan;
    }
    if let Some(logs_to_keep) = logs_to_keep
        .filter(|logs_to_keep| !logs_to_keep.has_folder || !logs_to_keep.names.is_empty())
    {
        let place = logs_to_keep.folder.display();
        let text = match logs_to_keep.names.as_slice() {
            [] => format!("make the folder {place}"),
            some => format!("keep in {place} the logs of {}", some.join(", ")),
        };
        plan.steps.push(Step::new(Action::Keep(logs_to_keep.clone()), text));
    }
    let to_stop: Vec<RunningProcess> = (options.processes.iter().zip(seen))
        .filter_map(|(one, pid)| {
            Some(RunningProcess {
                name: one.name.clone(),
                pid: (*pid)?,
                pidfile: one.pidfile.clone(),
            })
        })
        .collect();
    if !to_stop.is_empty() {
        let text = format!("end {}", host::joined(to_stop.iter().map(|one| one.name.as_str())));
        plan.steps.push(Step::new(Action::End(to_stop), text));
    }
    let all = || options.processes.iter().map(|one| one.name.as_str());
    let mut after: Vec<&str> = Vec::new();
    if options.state == State::Restarted && !options.processes.is_empty() {
        plan.steps.push(Step::new(Action::Start, format!("start {}", host::joined(all()))));
        after = all().collect();
    }
    plan.undo = Undo::None("stopped processes are started by a task with their argv".into());
    plan.after = json!({ "running": after });
    plan
}

pub fn running(processes: &[Process], seen: &[Option<Pid>]) -> Value {
    let running = processes.iter().zip(seen).filter(|(_, pid)| pid.is_some());
    running.map(|(one, _)| one.name.as_str()).collect()
}

/// Verifies that each process is in the wanted state.
pub fn verify(options: &Options, now: &[Option<Pid>]) -> Result<(), Failure> {
    let wrong: Vec<&str> = (options.processes.iter().zip(now))
        .filter(|(_, pid)| pid.is_some() != (options.state == State::Restarted))
        .map(|(one, _)| one.name.as_str())
        .collect();
    let what = match options.state {
        State::Restarted => "started, but does not run: see its log for the reason",
        State::Stopped | State::Observed => "stopped, but still runs",
    };
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Failure::new("not_verified", format!("{}: was {what}", wrong.join(", ")))),
    }
}
