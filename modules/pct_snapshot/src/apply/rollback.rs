//! The steps of a rollback: stop, take a snapshot of the failed state, roll back, start.
//!
//! Invariant: after an interrupted rollback the container keeps Proxmox's lock, so that nobody starts it.

use super::Apply;
use crate::boot;
use crate::pct::{Pct, PveError, explained, recreate_volume_command};
use crate::refuse;
use crate::unfinished::{self, StepNote, What};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::clock;
use host::command::Failed;
use host::interrupt;
use host::record::Intent;
use std::time::Duration;

/// How long to wait until the container is down after `pct shutdown` has returned.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

impl Apply<'_> {
    pub(super) fn stop(&mut self) -> Result<()> {
        // An interrupted shutdown would end after the check whether the container runs.
        let _shield = interrupt::shield();
        let vmid = self.task.subject.vmid;
        let (processes, mounts) = self.frozen()?;
        if (processes || !mounts.is_empty()) && self.reader.config()?.lock.is_none() {
            // Frozen processes do not react to a shutdown, which then hangs past its timeout.
            let refuse::Obstacle { reason, text } = refuse::frozen(vmid, processes, &mounts);
            return Err(Failure::new(reason, text).into());
        }
        self.stopped = true;
        let done = match self.task.graceful {
            Some(span) => self.retry_while_locked(|pct| pct.shutdown(span)),
            None => self.retry_while_locked(Pct::stop),
        };
        match (boot::wait_for(self.reader, false, STOP_TIMEOUT)?, done) {
            (true, _) => Ok(()),
            (false, Err(failed)) => Err(explained(failed, "stopping the container").into()),
            (false, Ok(())) => {
                Err(Failure::new("still_running", "it still runs after it was stopped").into())
            }
        }
    }

    pub(super) fn snapshot_failed_state(&mut self, intent: &Intent) -> Result<()> {
        let goal = self.goal.clone().context("only a rollback keeps the state before")?;
        let name = match goal.safety {
            Some(name) => name,
            None => format!("failed-{}", clock::now().compact()),
        };
        intent.note(unfinished::SAFETY, &name)?;
        let text = format!("before the rollback to {}", goal.rollback.to);
        self.take(&name, &text, &goal.safety_marker, intent)
            .context("keeping the state as it is now")?;
        self.safety = Some(name);
        Ok(())
    }

    pub(super) fn roll_back(&mut self, intent: &Intent) -> Result<()> {
        let goal = self.goal.clone().context("there is nothing to roll back to")?;
        let to = goal.rollback.to.as_str();
        // A backup that began meanwhile, or a lost quorum, would interrupt the rollback.
        self.refuse_changed()?;
        let _shield = interrupt::shield();
        intent.note(unfinished::STEP, &StepNote { what: What::Rollback, name: to.to_owned() })?;
        let was_unsettled = std::mem::replace(&mut self.unsettled, true);
        let done = self.retry_while_locked(|pct| pct.rollback(to));
        let config = self.reader.config().context("looking what the rollback has left")?;
        let is_there = config.lock.is_none() && config.parent.as_deref() == Some(to);
        match done {
            Ok(()) if is_there => {
                intent.note(unfinished::ROLLED_BACK, &true)?;
                (self.unsettled, self.rolled_back) = (false, true);
                self.seen.parent = Some(to.to_owned());
                self.seen.running = false;
                Ok(())
            }
            Ok(()) => {
                let msg = format!("pct rollback ended with 0, but the container is not on {to}");
                Err(Failure::new("not_verified", msg).into())
            }
            Err(failed) if config.lock.as_deref() == Some("rollback") => {
                Err(self.partly_rolled_back(to, failed).into())
            }
            Err(failed) => {
                // There is no lock, so Proxmox has refused before it touched a volume.
                self.unsettled = was_unsettled || matches!(PveError::of(&failed), PveError::Hangs);
                Err(explained(failed, &format!("rolling back to {to}")).into())
            }
        }
    }

    fn partly_rolled_back(&self, to: &str, failed: Failed) -> Failure {
        let vmid = self.task.subject.vmid;
        let kept = match &self.safety {
            Some(name) => format!(", and the state before is in {name}"),
            None => String::new(),
        };
        let begin = format!("the rollback of CT {vmid} to {to}");
        let failure = match PveError::of(&failed) {
            PveError::Hangs => Failure::new(
                "timed_out",
                format!(
                    "{begin} was not done within task_timeout, was told to end, and may not do so at once; the container is \
                     stopped and has the lock rollback{kept}; look at its task, then run the same task again: \
                     it waits for that task to end, and goes on from there"
                ),
            ),
            _ => {
                let how = match recreate_volume_command(&failed, to) {
                    Some(command) => format!(
                        " (a volume was removed, and not recreated from its snapshot: `{command}` does it)"
                    ),
                    None => String::new(),
                };
                Failure::new(
                    "half_rolled_back",
                    format!(
                        "{begin} failed at a volume: earlier ones are rolled back, later ones are not; the \
                         container is stopped and its lock rollback is left in place, so that nobody starts \
                         it as it is{kept}; put right what failed{how} and run the same task again: it removes \
                         its lock and rolls back again"
                    ),
                )
            }
        };
        failure.caused_by(failed.into())
    }

    fn refuse_changed(&self) -> Result<()> {
        if !self.reader.cluster.has_quorum(self.reader.pvesh.as_ref())? {
            let msg = "the cluster has lost its quorum meanwhile, so that Proxmox could not finish the rollback";
            return Err(Failure::new("no_quorum", msg).into());
        }
        Ok(())
    }

    pub(super) fn start(&mut self) -> Result<()> {
        // A killed run may have started it already.
        let started = if self.seen.running { Ok(()) } else { boot::start(self.reader) };
        let seen = started.and_then(|()| {
            self.seen.running = true;
            boot::wait_until_ready(self.reader, &self.task.ready, self.task.boot_timeout)
        });
        seen.with_context(|| {
            let to = self.goal.as_ref().map_or("the snapshot", |goal| goal.rollback.to.as_str());
            format!("CT {} was rolled back to {to}", self.task.subject.vmid)
        })
    }
}
