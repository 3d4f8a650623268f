//! The steps of a rollback: stop, keep the state as it is, roll back, start.
//!
//! Invariant: what Proxmox left half way keeps its lock, so that nobody starts the container as it is.

use super::Apply;
use crate::boot;
use crate::pct::{Pct, Trouble, explained, makes_volume_anew};
use crate::refuse;
use crate::unfinished::{self, Doing, What};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::clock;
use host::command::Failed;
use host::interrupt;
use host::record::Intent;
use std::time::Duration;

/// After `pct shutdown` has come back.
const DOWN: Duration = Duration::from_secs(15);

impl Apply<'_> {
    pub(super) fn stop(&mut self) -> Result<()> {
        // A shutdown that we leave to itself would end after we had looked whether it runs.
        let _shield = interrupt::shield();
        let vmid = self.task.subject.vmid;
        let (processes, mounts) = self.frozen()?;
        if (processes || !mounts.is_empty()) && self.reader.config()?.lock.is_none() {
            // Nothing in it would hear of a shutdown, which then hangs past its timeout.
            let refuse::Obstacle { reason, text } = refuse::frozen(vmid, processes, &mounts);
            return Err(Failure::new(reason, text).into());
        }
        self.stopped = true;
        let done = match self.task.graceful {
            Some(span) => self.patiently(|pct| pct.shutdown(span)),
            None => self.patiently(Pct::stop),
        };
        match (boot::wait_for(self.reader, false, DOWN)?, done) {
            (true, _) => Ok(()),
            (false, Err(failed)) => Err(explained(failed, "stopping the container").into()),
            (false, Ok(())) => {
                Err(Failure::new("still_running", "it was told to stop, and runs still").into())
            }
        }
    }

    pub(super) fn keep_state(&mut self, intent: &Intent) -> Result<()> {
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
        // What a backup that began meanwhile, or a lost quorum, would break half way.
        self.refuse_moved()?;
        let _shield = interrupt::shield();
        intent.note(unfinished::DOING, &Doing { what: What::Rollback, name: to.to_owned() })?;
        let was_unsettled = std::mem::replace(&mut self.unsettled, true);
        let done = self.patiently(|pct| pct.rollback(to));
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
                Err(self.half_way(to, failed).into())
            }
            Err(failed) => {
                // Proxmox refused before it touched a volume: its lock would be there otherwise.
                self.unsettled = was_unsettled || matches!(Trouble::of(&failed), Trouble::Hangs);
                Err(explained(failed, &format!("rolling back to {to}")).into())
            }
        }
    }

    fn half_way(&self, to: &str, failed: Failed) -> Failure {
        let vmid = self.task.subject.vmid;
        let kept = match &self.safety {
            Some(name) => format!(", and the state before is in {name}"),
            None => String::new(),
        };
        let begin = format!("the rollback of CT {vmid} to {to}");
        let failure = match Trouble::of(&failed) {
            Trouble::Hangs => Failure::new(
                "timed_out",
                format!(
                    "{begin} was not done within task_timeout, was told to end, and may not do so at once; the container is \
                     stopped and has the lock rollback{kept}; look at its task, then run the same task again: \
                     it waits for that task to end, and goes on from there"
                ),
            ),
            _ => {
                let how = match makes_volume_anew(&failed, to) {
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

    fn refuse_moved(&self) -> Result<()> {
        if !self.reader.cluster.has_quorum(self.reader.pvesh.as_ref())? {
            let msg =
                "the cluster has lost its quorum meanwhile, so that Proxmox would stop half way";
            return Err(Failure::new("no_quorum", msg).into());
        }
        Ok(())
    }

    pub(super) fn start(&mut self) -> Result<()> {
        // A killed run may have started it, and have seen nothing more.
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
