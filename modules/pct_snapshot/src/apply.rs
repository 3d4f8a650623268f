//! Carries out the steps. Each step is recorded before it is started, and the state is read again after it:
//! exit codes and output of Proxmox are not proof of anything.
//!
//! Invariant: a snapshot that Proxmox lists as complete was committed in one write with the removal
//! of its lock, so reading the list proves both.

mod rollback;

use crate::container::Snapshots;
use crate::filesystems::{self, Frozen};
use crate::freezer;
use crate::marker::Marker;
use crate::options::TASK;
use crate::options::{Task, Wanted};
use crate::pct::{Pct, PveError, explained};
use crate::plan::Action;
use crate::read::Reader;
use crate::rollback::Goal;
use crate::state::State;
use crate::unfinished::{self, StepNote, What};
use ansible_module::Failure;
use anyhow::{Context, Result, bail};
use host::clock;
use host::command::Failed;
use host::deadline::{Deadline, FIRST_PAUSE, poll_until};
use host::interrupt;
use host::lock::Lock;
use host::record::Intent;
use serde_json::Value;
use std::path::{Path, PathBuf};

const LOCKS: &str = "/run/reversible-pct";

/// Locks a container. The lock is not in the state folder, so that a refused run leaves nothing there.
pub fn lock(task: &Task) -> Result<Vec<Lock>> {
    let name = task.subject.vmid.to_string();
    let (locks, subject) = (Path::new(LOCKS), format!("CT {name}"));
    let lock =
        Lock::acquire_in(locks, &name, &subject, TASK, task.run.as_ref(), task.lock_timeout)?;
    Ok(vec![lock])
}

pub struct Apply<'a> {
    pub task: &'a Task,
    pub reader: &'a Reader,
    pub goal: Option<Goal>,
    /// The snapshots as they were last read.
    pub seen: Snapshots,
    /// Whether a step was started.
    pub started: bool,
    /// Whether this run has stopped the container.
    pub stopped: bool,
    /// Whether a command of Proxmox may have been interrupted, which only the next run can see.
    pub unsettled: bool,
    pub rolled_back: bool,
    /// Whether an earlier run with another rollback was not finished.
    instead_of_another: bool,
    other_was_done: bool,
    pub safety: Option<String>,
    freezable: Vec<PathBuf>,
}

impl<'a> Apply<'a> {
    pub fn new(task: &'a Task, reader: &'a Reader, state: &State, goal: Option<Goal>) -> Apply<'a> {
        let unfinished = &state.unfinished;
        let known = |name: &String| state.snapshots.find(name).is_some();
        Apply {
            task,
            reader,
            seen: state.snapshots.clone(),
            started: false,
            stopped: false,
            unsettled: unfinished.touched_volumes(),
            rolled_back: goal.as_ref().is_some_and(|goal| goal.rolled_back),
            other_was_done: unfinished.rolled_back,
            instead_of_another: (unfinished.rollback.as_ref().zip(goal.as_ref()))
                .is_some_and(|(open, goal)| goal.rollback != *open),
            freezable: state.freezable(),
            safety: goal.as_ref().and_then(|goal| goal.safety.clone()).filter(known),
            goal,
        }
    }

    fn pct(&self) -> &'a Pct {
        &self.reader.pct
    }

    pub fn act(&mut self, action: &Action, intent: Option<&Intent>) -> Result<()> {
        let intent = intent.context("a change needs a recorded intent")?;
        if !self.started {
            self.begin(intent)?;
        }
        match action {
            Action::Thaw => {
                let thawed = self.thaw();
                self.keep_record_of(thawed)
            }
            Action::Unlock(lock) => {
                let unlocked = self.unlock(lock);
                self.keep_record_of(unlocked)
            }
            Action::Delete { name, incomplete } => self.delete(name, *incomplete, intent),
            Action::Take => match &self.task.wanted {
                Wanted::Present { name, text, marker } => {
                    self.take(name.as_str(), text, marker, intent)
                }
                _ => bail!("only state: present takes a snapshot"),
            },
            Action::Stop => self.stop(),
            Action::KeepState => self.snapshot_failed_state(intent),
            Action::RollBack => self.roll_back(intent),
            Action::Start => self.start(),
        }
    }

    /// Keeps the record of a killed run while its leftovers could not be removed: only the record marks them as ours.
    fn keep_record_of<T>(&mut self, cleared: Result<T>) -> Result<T> {
        self.unsettled |= cleared.is_err();
        cleared
    }

    /// Records before the first change what cannot be observed later.
    fn begin(&mut self, intent: &Intent) -> Result<()> {
        intent.note(unfinished::BEGAN, &clock::now())?;
        if let Some(goal) = &self.goal {
            intent.note(unfinished::WAS_RUNNING, &goal.was_running)?;
            if self.instead_of_another && !goal.rolled_back {
                // What that one knew is not true of this one, above all what it kept. Before the other
                // notes: between them nothing may read as half way.
                intent.note(unfinished::SAFETY, &Value::Null)?;
                if self.other_was_done {
                    intent.note(unfinished::STEP, &Value::Null)?;
                }
            }
            intent.note(unfinished::ROLLBACK, &goal.rollback)?;
            intent.note(unfinished::ROLLED_BACK, &goal.rolled_back)?;
        }
        self.started = true;
        Ok(())
    }

    fn look(&mut self) -> Result<&Snapshots> {
        self.seen = self.reader.snapshots().context("looking again")?;
        Ok(&self.seen)
    }

    /// Runs a command again as long as it is refused because of another task's lock, until the lock timeout.
    fn retry_while_locked(&self, run: impl Fn(&Pct) -> Result<(), Failed>) -> Result<(), Failed> {
        let mut last = None;
        let deadline = Deadline::after(self.task.lock_timeout);
        let done = poll_until(deadline, FIRST_PAUSE, "the lock", || match run(self.pct()) {
            Ok(()) => Ok(Some(Ok(()))),
            Err(failed) => match PveError::of(&failed) {
                PveError::Locked(_) | PveError::Replication => {
                    last = Some(failed);
                    Ok(None)
                }
                _ => Ok(Some(Err(failed))),
            },
        });
        match (done, last) {
            (Ok(done), _) => done,
            (Err(_), Some(failed)) => Err(failed),
            // It runs at least once, so there is an error when the wait ends.
            (Err(_), None) => run(self.pct()),
        }
    }

    fn unlock(&mut self, ours: &str) -> Result<()> {
        // pct unlock removes any lock, whoever holds it.
        match self.reader.config()?.lock {
            Some(lock) if lock != ours => {
                let msg = format!("the lock is now {lock}, which the killed run did not leave");
                return Err(Failure::new("locked", msg).into());
            }
            Some(_) => {}
            None => return Ok(()),
        }
        let done = self.pct().unlock();
        let lock = self.reader.config()?.lock;
        match (lock, done) {
            (None, _) => Ok(()),
            (Some(lock), Ok(())) => bail!("the lock {lock} is still there after pct unlock"),
            (Some(_), Err(failed)) => Err(explained(failed, "removing our own lock").into()),
        }
    }

    fn take(&mut self, name: &str, text: &str, marker: &Marker, intent: &Intent) -> Result<()> {
        // Signals end the run before or after this, since an interrupted snapshot leaves a lock.
        let _shield = interrupt::shield();
        intent.note(unfinished::STEP, &StepNote { what: What::Snapshot, name: name.to_owned() })?;
        let done = self.retry_while_locked(|pct| pct.snapshot(name, text, marker));
        self.note_hang(&done);
        let there = self.look()?.find(name).cloned();
        let failed = match (&there, done) {
            (Some(there), _) if there.is_complete() && there.marker.as_ref() == Some(marker) => {
                return self.thaw_after_snapshot();
            }
            (_, Err(failed)) if self.may_still_run(What::Snapshot, &failed) => {
                self.unsettled = true;
                let msg = format!(
                    "pct was killed while it took the snapshot {name}, and Proxmox's task of it may go on: \
                     run the task again, it waits for that to end"
                );
                Failure::new("command_failed", msg).caused_by(failed.into())
            }
            (_, Err(failed)) => explained(failed, &format!("taking the snapshot {name}")),
            (_, Ok(())) => {
                let msg = format!(
                    "pct snapshot ended with 0, but snapshot {name} is not there, complete and ours"
                );
                Failure::new("not_verified", msg)
            }
        };
        let broken = there
            .is_some_and(|there| !there.is_complete() && there.marker.as_ref() == Some(marker));
        match broken && !self.unsettled {
            true => Err(self.clear_broken(name, failed)),
            false => Err(failed.into()),
        }
    }

    /// Returns whether the processes are frozen, and which file systems are.
    fn frozen(&self) -> Result<(bool, Vec<Frozen>)> {
        let vmid = self.task.subject.vmid;
        Ok((freezer::is_frozen(vmid)?, filesystems::frozen(vmid, &self.freezable)?))
    }

    pub fn is_frozen_now(&self) -> Result<bool> {
        let (processes, mounts) = self.frozen()?;
        Ok(processes || !mounts.is_empty())
    }

    /// Thaws the container. The file systems first, since frozen processes may be in the middle of a write.
    fn thaw(&self) -> Result<()> {
        let vmid = self.task.subject.vmid;
        let (processes, mounts) = self.frozen()?;
        filesystems::thaw(vmid, &mounts)?;
        if processes { freezer::thaw(vmid) } else { Ok(()) }
    }

    /// Thaws the container after a snapshot, since Proxmox only warns when it cannot. A frozen container belongs to
    /// a task that holds a lock, or was left by our snapshot.
    fn thaw_after_snapshot(&self) -> Result<()> {
        match self.is_frozen_now()? && self.reader.config()?.lock.is_none() {
            true => self.thaw(),
            false => Ok(()),
        }
    }

    /// Whether Proxmox may still do the work of a killed command: its workers outlive the command. If that is not
    /// known, it counts as yes.
    fn may_still_run(&self, what: What, failed: &Failed) -> bool {
        failed.signal.is_some() && !matches!(self.reader.active_task(&[what.task()]), Ok(None))
    }

    /// Removes a failed snapshot of ours that Proxmox could not clean up.
    fn clear_broken(&mut self, name: &str, failed: Failure) -> anyhow::Error {
        let cleared = self.thaw().and_then(|()| self.release("snapshot")).and_then(|()| {
            let done = self.pct().delete(name, true);
            match self.look()?.find(name) {
                None => Ok(()),
                Some(_) => match done {
                    Ok(()) => bail!("pct delsnapshot --force ended with 0, but it is still there"),
                    Err(failed) => Err(failed.into()),
                },
            }
        });
        match cleared {
            Ok(()) => failed.into(),
            Err(why) => {
                self.unsettled = true;
                let msg = format!(
                    "{failed}, and the incomplete snapshot {name} could not be removed ({why:#}); run the task again"
                );
                Failure::new(failed.reason, msg).caused_by(failed.into()).into()
            }
        }
    }

    /// Removes the lock that our own command has left.
    fn release(&self, lock: &str) -> Result<()> {
        match self.reader.config()?.lock {
            Some(held) if held == lock => Ok(self.pct().unlock()?),
            _ => Ok(()),
        }
    }

    fn delete(&mut self, name: &str, incomplete: bool, intent: &Intent) -> Result<()> {
        let _shield = interrupt::shield();
        intent.note(unfinished::STEP, &StepNote { what: What::Delete, name: name.to_owned() })?;
        let mut done = self.retry_while_locked(|pct| pct.delete(name, incomplete));
        let broke_off = self.seen.find(name).is_some_and(|there| !there.is_complete());
        if broke_off && done.as_ref().is_err_and(is_gone_already) {
            // The interrupted run had removed a volume's snapshot without a note of it.
            self.release("snapshot-delete")?;
            done = self.retry_while_locked(|pct| pct.delete(name, true));
        }
        self.note_hang(&done);
        if self.look()?.find(name).is_none() {
            return Ok(());
        }
        let Err(failed) = done else {
            let msg = format!("pct delsnapshot ended with 0, but snapshot {name} is still there");
            return Err(Failure::new("not_verified", msg).into());
        };
        self.unsettled |= self.may_still_run(What::Delete, &failed);
        let broken = self.seen.find(name).is_some_and(|there| !there.is_complete());
        let mut msg = match broken {
            // Proxmox removes it volume by volume.
            true => format!(
                "removing the snapshot {name} was interrupted: it is incomplete now and no rollback to it is possible \
                 any more; run the task again to remove the rest"
            ),
            false => format!("removing the snapshot {name}"),
        };
        let released = if self.unsettled { Ok(()) } else { self.release("snapshot-delete") };
        if let Err(why) = released {
            // The incomplete snapshot stays: forcing it would leave volume snapshots that no one finds again.
            self.unsettled = true;
            msg = format!("{msg}, and its lock could not be removed ({why:#})");
        }
        let failure = match PveError::of(&failed) {
            PveError::NoSpace => {
                let cure = "even a removal needs some space on the storage: extend it, or free other data than snapshots";
                Failure::new("no_space", format!("{msg} ({cure})")).caused_by(failed.into())
            }
            _ => explained(failed, &msg),
        };
        Err(if broken { failure.with("changed", true) } else { failure }.into())
    }

    /// Records that a command was not done in time: it may continue in Proxmox, so nothing may be concluded.
    fn note_hang(&mut self, done: &Result<(), Failed>) {
        if let Err(failed) = done {
            self.unsettled |= matches!(PveError::of(failed), PveError::Hangs);
        }
    }
}

/// Whether the tools of the storages report that there is nothing left to remove.
fn is_gone_already(failed: &Failed) -> bool {
    let text = format!("{}\n{}", failed.stdout, failed.stderr).to_lowercase();
    let words = ["could not find any snapshots", "failed to find logical volume", "no such file"];
    words.iter().any(|part| text.contains(part))
}
