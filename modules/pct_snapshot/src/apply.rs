//! Apply: steps to effects. What a step was about is noted before it, and the state is read again
//! after it: neither an exit code nor any output of Proxmox proves anything.
//!
//! Invariant: a snapshot that Proxmox lists as complete was committed in one write with the removal
//! of its lock, so reading the list proves both.

use crate::boot;
use crate::cluster::Cluster;
use crate::container::Snapshots;
use crate::filesystems::{self, Frozen};
use crate::freezer;
use crate::marker::Marker;
use crate::options::TASK;
use crate::options::{Task, Wanted};
use crate::pct::{Pct, Trouble, explained, makes_volume_anew};
use crate::plan::Action;
use crate::read::Reader;
use crate::refuse;
use crate::rollback::Goal;
use crate::state::State;
use crate::unfinished::{self, Doing, What};
use ansible_module::Failure;
use anyhow::{Context, Result, bail};
use host::clock;
use host::command::Failed;
use host::deadline::{Deadline, FIRST_PAUSE, poll_until};
use host::folder::SafeFolder;
use host::interrupt;
use host::lock::Lock;
use host::record::Intent;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOCKS: &str = "/run/reversible-pct";
/// After `pct shutdown` has come back.
const DOWN: Duration = Duration::from_secs(15);

/// One task at a time for a container. Not in the state folder: a run that is refused leaves nothing
/// behind there.
pub fn lock(task: &Task) -> Result<Vec<Lock>> {
    let folder = SafeFolder::ensure(Path::new(LOCKS), 0o700)?;
    let vmid = task.subject.vmid;
    Lock::acquire(&folder.join(format!("{vmid}.lock")), TASK, task.run(), task.lock_timeout)
        .map(|lock| vec![lock])
        .with_context(|| format!("waiting for another task on CT {vmid}"))
}

pub struct Apply<'a> {
    pub task: &'a Task,
    pub reader: &'a Reader,
    pub cluster: &'a Cluster,
    pub goal: Option<Goal>,
    /// As it was last read.
    pub seen: Snapshots,
    /// A step was begun.
    pub begun: bool,
    /// We stopped the container.
    pub stopped: bool,
    /// Proxmox may be half way through something: only the next run can tell.
    pub unsettled: bool,
    pub rolled_back: bool,
    /// An earlier rollback, which was not this one, was not finished.
    instead_of_another: bool,
    other_was_done: bool,
    pub safety: Option<String>,
    freezable: Vec<PathBuf>,
}

impl<'a> Apply<'a> {
    pub fn new(
        task: &'a Task,
        reader: &'a Reader,
        cluster: &'a Cluster,
        state: &State,
        goal: Option<Goal>,
    ) -> Apply<'a> {
        let touched =
            state.unfinished.as_ref().is_some_and(|unfinished| unfinished.touched_volumes());
        let open = state.unfinished.as_ref().and_then(|unfinished| unfinished.open_rollback());
        let known = |name: &String| state.snapshots.find(name).is_some();
        Apply {
            task,
            reader,
            cluster,
            seen: state.snapshots.clone(),
            begun: false,
            stopped: false,
            unsettled: touched,
            rolled_back: goal.as_ref().is_some_and(|goal| goal.rolled_back),
            other_was_done: state
                .unfinished
                .as_ref()
                .is_some_and(|unfinished| unfinished.rolled_back),
            instead_of_another: open
                .is_some_and(|open| goal.as_ref().is_some_and(|goal| goal.rollback != *open)),
            freezable: state.freezable(),
            safety: goal.as_ref().and_then(|goal| goal.safety.clone()).filter(known),
            goal,
        }
    }

    fn pct(&self) -> &'a Pct {
        &self.reader.pct
    }

    pub fn act(&mut self, action: &Action, intent: Option<&Intent>) -> Result<()> {
        let intent = intent.context("a change without a record of it")?;
        if !self.begun {
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
            Action::KeepState => self.keep_state(intent),
            Action::RollBack => self.roll_back(intent),
            Action::Start => self.start(),
        }
    }

    /// What a killed run left and could not be cleared is ours only as long as its record stands.
    fn keep_record_of<T>(&mut self, cleared: Result<T>) -> Result<T> {
        self.unsettled |= cleared.is_err();
        cleared
    }

    /// Notes before the first change what cannot be seen later.
    fn begin(&mut self, intent: &Intent) -> Result<()> {
        intent.note(unfinished::BEGAN, &clock::now())?;
        if let Some(goal) = &self.goal {
            intent.note(unfinished::WAS_RUNNING, &goal.was_running)?;
            if self.instead_of_another && !goal.rolled_back {
                // What that one knew is not true of this one, above all what it kept. Before the other
                // notes: between them nothing may read as half way.
                intent.note(unfinished::SAFETY, &Value::Null)?;
                if self.other_was_done {
                    intent.note(unfinished::DOING, &Value::Null)?;
                }
            }
            intent.note(unfinished::ROLLBACK, &goal.rollback)?;
            intent.note(unfinished::ROLLED_BACK, &goal.rolled_back)?;
        }
        self.begun = true;
        Ok(())
    }

    fn look(&mut self) -> Result<&Snapshots> {
        self.seen = self.reader.snapshots().context("looking again")?;
        Ok(&self.seen)
    }

    /// Again and again, as long as somebody else's lock refuses it and there is patience left.
    fn patiently(&self, run: impl Fn(&Pct) -> Result<(), Failed>) -> Result<(), Failed> {
        let mut last = None;
        let deadline = Deadline::after(self.task.lock_timeout);
        let done = poll_until(deadline, FIRST_PAUSE, "the lock", || match run(self.pct()) {
            Ok(()) => Ok(Some(Ok(()))),
            Err(failed) => match Trouble::of(&failed) {
                Trouble::Locked(_) | Trouble::Replication => {
                    last = Some(failed);
                    Ok(None)
                }
                _ => Ok(Some(Err(failed))),
            },
        });
        match (done, last) {
            (Ok(done), _) => done,
            (Err(_), Some(failed)) => Err(failed),
            // It asks at least once, so something was refused before the wait ended.
            (Err(_), None) => run(self.pct()),
        }
    }

    fn unlock(&mut self, ours: &str) -> Result<()> {
        // pct unlock takes any lock away, whoever holds it.
        match self.reader.config()?.lock {
            Some(lock) if lock != ours => {
                let msg = format!("the lock is {lock} by now, which is not what our run left");
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
        // A signal ends the run before or after this: a snapshot cut in half leaves a lock.
        let _shield = interrupt::shield();
        intent.note(unfinished::DOING, &Doing { what: What::Snapshot, name: name.to_owned() })?;
        let done = self.patiently(|pct| pct.snapshot(name, text, marker));
        self.note_hang(&done);
        let there = self.look()?.find(name).cloned();
        let failed = match (&there, done) {
            (Some(there), _) if there.is_complete() && there.marker.as_ref() == Some(marker) => {
                return self.thaw_after_snapshot();
            }
            (_, Err(failed)) if self.goes_on(What::Snapshot, &failed) => {
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

    /// Whether its processes stand still, and where its file systems do.
    fn frozen(&self) -> Result<(bool, Vec<Frozen>)> {
        let vmid = self.task.subject.vmid;
        Ok((freezer::is_frozen(vmid)?, filesystems::frozen(vmid, &self.freezable)?))
    }

    pub fn stands_still(&self) -> Result<bool> {
        let (processes, mounts) = self.frozen()?;
        Ok(processes || !mounts.is_empty())
    }

    /// Let it go on. The file systems first: what stands still may be in the middle of a write.
    fn thaw(&self) -> Result<()> {
        let vmid = self.task.subject.vmid;
        let (processes, mounts) = self.frozen()?;
        filesystems::thaw(vmid, &mounts)?;
        if processes { freezer::thaw(vmid) } else { Ok(()) }
    }

    /// Proxmox thaws the container before it ends a snapshot, and only warns when it cannot. What it
    /// is frozen by now is somebody's who holds a lock, or is left of our snapshot.
    fn thaw_after_snapshot(&self) -> Result<()> {
        match self.stands_still()? && self.reader.config()?.lock.is_none() {
            true => self.thaw(),
            false => Ok(()),
        }
    }

    /// Whether the work of a command that was killed is still being done: Proxmox's workers outlive
    /// their command. What cannot be known is taken for yes.
    fn goes_on(&self, what: What, failed: &Failed) -> bool {
        failed.signal.is_some() && !matches!(self.reader.active_task(&[what.task()]), Ok(None))
    }

    /// Proxmox could not clean up after a snapshot of ours that failed.
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

    /// Remove the lock that our own command, which has ended, left.
    fn release(&self, lock: &str) -> Result<()> {
        match self.reader.config()?.lock {
            Some(held) if held == lock => Ok(self.pct().unlock()?),
            _ => Ok(()),
        }
    }

    fn delete(&mut self, name: &str, incomplete: bool, intent: &Intent) -> Result<()> {
        let _shield = interrupt::shield();
        intent.note(unfinished::DOING, &Doing { what: What::Delete, name: name.to_owned() })?;
        let mut done = self.patiently(|pct| pct.delete(name, incomplete));
        let broke_off = self.seen.find(name).is_some_and(|there| !there.is_complete());
        if broke_off && done.as_ref().is_err_and(is_gone_already) {
            // The run that broke off had removed a volume's snapshot, and could not note it.
            self.release("snapshot-delete")?;
            done = self.patiently(|pct| pct.delete(name, true));
        }
        self.note_hang(&done);
        if self.look()?.find(name).is_none() {
            return Ok(());
        }
        let Err(failed) = done else {
            let msg = format!("pct delsnapshot ended with 0, but snapshot {name} is still there");
            return Err(Failure::new("not_verified", msg).into());
        };
        self.unsettled |= self.goes_on(What::Delete, &failed);
        let broken = self.seen.find(name).is_some_and(|there| !there.is_complete());
        let mut msg = match broken {
            // It goes volume by volume.
            true => format!(
                "removing the snapshot {name} broke off: it is incomplete now, so that one cannot go back to it \
                 any more; run the task again to remove the rest"
            ),
            false => format!("removing the snapshot {name}"),
        };
        if !self.unsettled
            && let Err(why) = self.release("snapshot-delete")
        {
            // The snapshot stays, incomplete: to force it would leave what no one finds again.
            self.unsettled = true;
            msg = format!("{msg}, and its lock could not be removed ({why:#})");
        }
        let failure = match Trouble::of(&failed) {
            Trouble::NoSpace => {
                let cure = "even a removal needs some room on the storage: let it grow, or free what is not a snapshot";
                Failure::new("no_space", format!("{msg} ({cure})")).caused_by(failed.into())
            }
            _ => explained(failed, &msg),
        };
        Err(if broken { failure.with("changed", true) } else { failure }.into())
    }

    /// A task that was not done in time may go on in Proxmox: nothing may be concluded then.
    fn note_hang(&mut self, done: &Result<(), Failed>) {
        if let Err(failed) = done {
            self.unsettled |= matches!(Trouble::of(failed), Trouble::Hangs);
        }
    }

    fn stop(&mut self) -> Result<()> {
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

    fn keep_state(&mut self, intent: &Intent) -> Result<()> {
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

    fn roll_back(&mut self, intent: &Intent) -> Result<()> {
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
        if !self.cluster.has_quorum(self.reader.pvesh.as_ref())? {
            let msg =
                "the cluster has lost its quorum meanwhile, so that Proxmox would stop half way";
            return Err(Failure::new("no_quorum", msg).into());
        }
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
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

/// What the tools of the storages say when there is nothing left to remove.
fn is_gone_already(failed: &Failed) -> bool {
    let text = format!("{}\n{}", failed.stdout, failed.stderr).to_lowercase();
    let words = ["could not find any snapshots", "failed to find logical volume", "no such file"];
    words.iter().any(|part| text.contains(part))
}
