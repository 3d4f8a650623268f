//! Carries out the steps: writes the workload, waits for its rollout, and reverts a failed one.
//!
//! Invariant: a change by somebody else is never overwritten. Each write contains the `resourceVersion` that was read, and is tried again
//! only if nothing but the status has changed since.

use crate::annotations::{self, CAUSE, DEPLOY, FROM, GOOD, Good, RUN};
use crate::judge::{Fault, Verdict, judge, not_ready, stuck};
use crate::kubectl::{Kubectl, encoded};
use crate::options::{OnFailure, Task};
use crate::plan::{Action, Change};
use crate::state::{self, Revision, State};
use ansible_module::{Failure, progress};
use anyhow::{Error, Result};
use host::deadline::{Deadline, FIRST_PAUSE, TimedOut, poll_until, seconds};
use host::interrupt;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Controllers update the status often during a rollout, and each update makes our write fail with a conflict.
const MAX_TRIES: usize = 20;
/// How long to wait after pods were refused: they may fit into the quota once old ones have ended.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(10);
const LOG_LINES: u32 = 20;

pub struct Apply<'a> {
    pub kubectl: &'a Kubectl,
    pub task: &'a Task,
    /// The workload as this run last wrote or read it.
    pub workload: Value,
}

impl Apply<'_> {
    pub fn act(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::Write(change) => self.write(change),
            Action::Wait => match self.wait() {
                Ok(()) => Ok(()),
                Err(error) => Err(self.revert_after(error)),
            },
            Action::MarkGood => self.mark_good(),
        }
    }

    fn write(&mut self, change: &Change) -> Result<()> {
        let task = self.task;
        self.update(|workload| edit(workload, change, task))
    }

    /// Asks the server whether it would accept the write of a step.
    pub fn try_out(&self, change: &Change) -> Result<()> {
        let mut workload = self.workload.clone();
        edit(&mut workload, change, self.task);
        match self.kubectl.would_replace(&self.task.subject.workload(), &workload) {
            // Its status has changed meanwhile. The run itself would read it again.
            Err(error) if ansible_module::reason(&error) == "conflict" => Ok(()),
            judged => judged,
        }
    }

    fn update(&mut self, edit: impl Fn(&mut Value)) -> Result<()> {
        let path = self.task.subject.workload();
        let mut tries = 0;
        loop {
            let mut new = self.workload.clone();
            edit(&mut new);
            match self.kubectl.replace(&path, &new) {
                Ok(written) => {
                    self.workload = written;
                    return Ok(());
                }
                Err(error) if ansible_module::reason(&error) == "conflict" && tries < MAX_TRIES => {
                    tries += 1
                }
                Err(error) => return Err(error),
            }
            interrupt::check()?;
            let now = self.kubectl.get(&path)?;
            self.refuse_others(&now)?;
            self.workload = now;
        }
    }

    /// Fails if somebody else has changed the workload since this run last wrote or read it.
    fn refuse_others(&self, now: &Value) -> Result<(), Failure> {
        let same = |pointer: &str| now.pointer(pointer) == self.workload.pointer(pointer);
        let notes = [RUN, FROM, GOOD]
            .iter()
            .all(|key| annotations::read(now, key) == annotations::read(&self.workload, key));
        // A write that this run sent before it was killed may arrive late.
        let ours = self.task.run.as_ref().is_some_and(|run| {
            [now, &self.workload].map(|one| annotations::read(one, RUN)) == [Some(run.as_str()); 2]
        });
        if same("/metadata/uid")
            && same("/spec/template")
            && same("/spec/paused")
            && (notes || ours)
        {
            return Ok(());
        }
        let by = annotations::read(now, RUN).unwrap_or("somebody who left no id");
        let msg = format!(
            "{} was changed by {by} during this run; that change is left as it is",
            self.task.subject.shown()
        );
        Err(Failure::new("changed_meanwhile", msg))
    }

    /// Waits until the rollout is complete; the error says why it cannot be.
    fn wait(&mut self) -> Result<()> {
        let (kubectl, task) = (self.kubectl, self.task);
        let mut refused_since: Option<Instant> = None;
        let what = format!("{} to be out", task.subject.shown());
        let deadline = Deadline::after(task.progress_timeout);
        let waited = poll_until(deadline, FIRST_PAUSE, &what, || {
            let seen = state::observe(kubectl, &task.subject)?;
            self.refuse_others(&seen.workload)?;
            let pods = state::pods(kubectl, &task.subject, &seen)?;
            match judge(&seen, &pods, task.crash_restarts) {
                Verdict::Out => Ok(Some(())),
                Verdict::NotYet(for_what) => {
                    if let Some(pod) = stuck(&seen, &pods, task.crash_restarts) {
                        self.delete_stuck(&pod)?;
                    }
                    progress::report(&format!("waits for {for_what}"));
                    refused_since = None;
                    Ok(None)
                }
                Verdict::Failed(fault) => {
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    let may_end = matches!(fault.reason, "quota" | "pods_refused")
                        && since.elapsed() < REFUSAL_PATIENCE;
                    match may_end {
                        true => Ok(None),
                        false => Err(self.failed(fault)),
                    }
                }
            }
        });
        waited.map_err(|error| match error.downcast_ref::<TimedOut>() {
            Some(_) => self.timed_out(),
            None => error,
        })
    }

    /// Deletes a pod that blocks the rollout; its volume claims stay. It is never deleted by force, since then two pods could write to one
    /// volume.
    fn delete_stuck(&self, pod: &str) -> Result<()> {
        let subject = &self.task.subject;
        if !self.task.delete_stuck_pods {
            let msg = format!(
                "{}: pod {pod} of another revision does not get ready, and until it is deleted its controller gives no pod the new template; \
                 delete_stuck_pods: true does it, or `kubectl --context {} -n {} delete pod {pod}`",
                subject.shown(),
                subject.access.context,
                subject.namespace
            );
            return Err(Failure::new("stuck_pod", msg).into());
        }
        progress::report(&format!("deletes pod {pod}, which does not get ready"));
        self.kubectl.delete(&format!("{}/{}", subject.path("/api/v1", "pods"), encoded(pod)))
    }

    fn failed(&self, fault: Fault) -> Error {
        let shown = self.task.subject.shown();
        let mut failure =
            Failure::new(fault.reason, format!("{shown} does not come up: {}", fault.msg));
        if let Some((pod, container)) = &fault.log_of {
            let path = format!(
                "{}/{}/log?container={}&previous=true&tailLines={LOG_LINES}",
                self.task.subject.path("/api/v1", "pods"),
                encoded(pod),
                encoded(container)
            );
            let log = self
                .kubectl
                .text(&path)
                .unwrap_or_else(|error| format!("(its log cannot be read: {error:#})"));
            let last = log.trim().lines().last().unwrap_or("(its log is empty)").to_owned();
            failure.msg = format!("{}; the last line of its log: {last}", failure.msg);
            failure = failure.with("log", log.lines().map(str::to_owned).collect::<Vec<_>>());
        }
        failure.into()
    }

    /// Makes the failure for a missed deadline: the pods that are not ready, each with its last event.
    fn timed_out(&self) -> Error {
        let (task, limit) = (self.task, seconds(self.task.progress_timeout));
        let observed = state::observe(self.kubectl, &task.subject)
            .and_then(|seen| Ok((state::pods(self.kubectl, &task.subject, &seen)?, seen)));
        let pods = match observed {
            Ok((pods, seen)) => not_ready(&seen, &pods),
            Err(_) => Vec::new(),
        };
        let described: Vec<String> = pods
            .into_iter()
            .map(|(uid, words)| format!("{words}{}", self.last_event(&uid)))
            .collect();
        let described = match described.is_empty() {
            true => "its pods give no reason".to_owned(),
            false => described.join("; "),
        };
        let msg = format!("{} is not out after {limit}: {described}", task.subject.shown());
        Failure::new("not_out_in_time", msg).into()
    }

    fn last_event(&self, uid: &str) -> String {
        let path = format!(
            "{}?fieldSelector=involvedObject.uid%3D{}",
            self.task.subject.path("/api/v1", "events"),
            encoded(uid)
        );
        let Ok(events) = self.kubectl.get(&path) else { return String::new() };
        let warnings =
            events["items"].as_array().into_iter().flatten().filter(|one| one["type"] == "Warning");
        let last =
            warnings.max_by_key(|one| one["lastTimestamp"].as_str().unwrap_or_default().to_owned());
        let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
        last.map(|one| format!(" ({}: {})", text(one, "reason"), text(one, "message")))
            .unwrap_or_default()
    }

    /// Reverts a failed rollout unless the task says otherwise, and adds the result to the error.
    fn revert_after(&mut self, error: Error) -> Error {
        let reason = ansible_module::reason(&error);
        if reason == "changed_meanwhile" {
            return error;
        }
        if reason == "interrupted" {
            let msg =
                "the rollout goes on without this run; run the same task again, which waits for it";
            return Failure::new(reason, msg).caused_by(error).into();
        }
        if self.task.is_rollback() || self.task.on_failure == OnFailure::Leave {
            return Failure::new(reason, "it is left as it is")
                .with("reverted", false)
                .caused_by(error)
                .into();
        }
        let _shield = interrupt::shield();
        match self.revert() {
            Ok(Some(to)) => Failure::new(reason, format!("it has gone back to {to}"))
                .with("reverted", true)
                .caused_by(error)
                .into(),
            Ok(None) => Failure::new(reason, "there is no revision to go back to")
                .with("reverted", false)
                .caused_by(error)
                .into(),
            Err(why) => {
                let msg = format!(
                    "going back failed, too ({why:#}): find out why, then run state: rolled_back"
                );
                Failure::new(reason, msg).with("reverted", false).caused_by(error).into()
            }
        }
    }

    fn revert(&mut self) -> Result<Option<String>> {
        let seen = state::observe(self.kubectl, &self.task.subject)?;
        let name = annotations::read(&self.workload, FROM).unwrap_or_default().to_owned();
        let Some(to) = seen
            .named(&name)
            .filter(|to| to.template != self.workload["spec"]["template"])
            .cloned()
        else {
            return Ok(None);
        };
        progress::report(&format!("goes back to {}", to.shown()));
        self.update(|workload| restore(workload, &to))?;
        self.wait()?;
        Ok(Some(to.shown()))
    }

    fn mark_good(&mut self) -> Result<()> {
        let seen = state::observe(self.kubectl, &self.task.subject)?;
        self.refuse_others(&seen.workload)?;
        self.workload = seen.workload.clone();
        let Some(current) = seen.current() else {
            let holder = seen.kind.holder();
            anyhow::bail!("the {holder} of {} is gone", self.task.subject.shown())
        };
        let deploy_id = annotations::read(&self.workload, DEPLOY).map(str::to_owned);
        let good = annotations::with_good(
            annotations::good(&self.workload),
            Good { revision: current.name.clone(), deploy_id },
        );
        self.update(|workload| {
            annotations::write_good(workload, &good);
            annotations::write(workload, FROM, None);
        })
    }
}

fn edit(workload: &mut Value, change: &Change, task: &Task) {
    workload["spec"]["template"] = change.template.clone();
    annotations::write(workload, DEPLOY, change.deploy_id.as_deref());
    annotations::write(workload, CAUSE, change.cause.as_deref());
    annotations::write(workload, FROM, Some(change.from.as_deref().unwrap_or_default()));
    annotations::write_good(workload, &change.good);
    if let Some(run) = &task.run {
        annotations::write(workload, RUN, Some(run.as_str()));
    }
}

fn restore(workload: &mut Value, to: &Revision) {
    workload["spec"]["template"] = to.template.clone();
    annotations::write(workload, DEPLOY, to.deploy_id.as_deref());
    annotations::write(workload, CAUSE, to.cause.as_deref());
    annotations::write(workload, FROM, None);
}

/// Checks that the rollout is still complete.
pub fn verify(kubectl: &Kubectl, task: &Task) -> Result<State> {
    let seen = state::observe(kubectl, &task.subject)?;
    match judge(&seen, &[], task.crash_restarts) {
        Verdict::Out => Ok(seen),
        other => Err(Failure::new(
            "not_verified",
            format!("{} is not out any more: {other:?}", task.subject.shown()),
        )
        .into()),
    }
}
