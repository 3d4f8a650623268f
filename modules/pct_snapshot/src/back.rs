//! After a failure: starts the container again where that is safe, and reports where it is not.
//!
//! Invariant: a container whose volumes may be half rolled back is never started, and the record of
//! the record of the run stays as long as the next run needs it.

use crate::apply::Apply;
use crate::boot;
use crate::options::TASK;
use ansible_module::{Failure, reason};
use anyhow::{Error, Result};
use change::RunNotes;
use host::interrupt;
use std::time::Duration;

const START_TIMEOUT: Duration = Duration::from_secs(30);

impl Apply<'_> {
    pub fn recover(&mut self, error: Error) -> Error {
        if !self.started {
            return error;
        }
        let _shield = interrupt::shield();
        if self.unsettled || self.rolled_back {
            return self.with_facts(error, None);
        }
        let was_running = self.goal.as_ref().is_some_and(|goal| goal.was_running);
        // Also a container that a killed run has stopped, which nobody else would start.
        let restarted = match was_running && (self.stopped || !self.seen.running) {
            true => Some(self.start_again()),
            false => None,
        };
        let vmid = self.task.subject.vmid;
        let container_state = match restarted {
            None if was_running => {
                Some(format!("CT {vmid} was not rolled back, and was not stopped"))
            }
            None => None,
            Some(Ok(())) => Some(format!("CT {vmid} was not rolled back, and runs again")),
            Some(Err(why)) => Some(format!(
                "CT {vmid} was not rolled back, is stopped, and could NOT be started again ({why:#})"
            )),
        };
        // The failed run is over: the next one plans again from the observed state.
        let closed = RunNotes::close(&self.task.subject.state_dir, TASK);
        match closed {
            Ok(()) => self.with_facts(error, container_state),
            Err(why) => self.with_facts(why.context(error.to_string()), container_state),
        }
    }

    fn start_again(&self) -> Result<()> {
        // It may still run.
        if boot::wait_for(self.reader, true, Duration::ZERO)? {
            return Ok(());
        }
        boot::start(self.reader)?;
        match boot::wait_for(self.reader, true, START_TIMEOUT)? {
            true => Ok(()),
            false => {
                Err(Failure::new("start_failed", "Proxmox does not report it as running").into())
            }
        }
    }

    fn with_facts(&self, error: Error, container_state: Option<String>) -> Error {
        let reason = reason(&error);
        let failure = match (container_state, self.rolled_back) {
            (Some(container_state), _) => Failure::new(reason, container_state),
            (None, true) => {
                let undone = self.safety.as_ref().map(|name| {
                    format!(
                        "; state: rolled_back with name: {name} and another rollback_id goes back to the state \
                         before"
                    )
                });
                let msg = format!(
                    "the rollback itself is done (run the same task again to finish what comes after it{})",
                    undone.unwrap_or_default()
                );
                Failure::new(reason, msg)
            }
            (None, false) if self.goal.is_none() => return error,
            (None, false) => Failure::new(reason, "the rollback is not done"),
        };
        let failure = failure.with("safety_snapshot", self.safety.clone());
        failure.with("rolled_back", self.rolled_back).caused_by(error).into()
    }
}
