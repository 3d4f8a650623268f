//! Carries out the steps.
//!
//! Invariant: the end of a hold is in the map before any request waits, so that a killed run holds none
//! for longer.

use crate::options::Task;
use crate::plan::Action;
use crate::script::Hold;
use crate::state::{OldWorker, State, TASK, observe, old_workers};
use ansible_module::Failure;
use anyhow::{Context, Result};
use haproxy::reader::{Reader, ensure_read, ensure_replaceable, readers};
use haproxy::{file, locks, map, stat};
use host::atomic::{Replace, sweep};
use host::deadline::Deadline;
use host::interrupt;
use std::path::Path;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(50);
/// Waiting requests check the map a few times a second.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

pub struct Apply<'a> {
    pub task: &'a Task,
    pub state: &'a State,
    /// The hold that this run sets or releases.
    pub hold: Option<Hold>,
    /// Requests that were still being answered when draining ended.
    pub open_requests: u64,
    /// The old workers of a reload as they were when they were asked to release.
    pub old_workers_released: Vec<OldWorker>,
    /// Backends that had no server when requests were released.
    pub without_server: Vec<String>,
}

impl Apply<'_> {
    pub fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Hold => self.hold(),
            Action::Drain => self.drain(),
            Action::WaitForServers => self.wait_for_servers(),
            Action::Release => self.release(),
        }
    }

    fn hold(&mut self) -> Result<()> {
        let (task, since) = (self.task, self.state.now());
        let most = u64::try_from(task.most.as_millis()).unwrap_or(u64::MAX);
        let by = task.deploy.as_ref().map(ToString::to_string);
        let hold = Hold { since, until: since.saturating_add(most), by };
        let value = hold.to_string();
        self.hold = Some(hold);
        let readers = readers(&self.state.sockets())?;
        for path in self.state.files.keys() {
            ensure_replaceable(&readers, path).context("nothing was changed")?;
        }
        // Signals are ignored here: else the hold could be at some HAProxies only.
        let _shield = interrupt::shield();
        let held = self.hold_everywhere(&readers, &value);
        held.map_err(|error| match self.release() {
            Ok(()) => error.context("no request is held"),
            Err(more) => error.context(format!(
                "requests may be held for {} (releasing them failed as well: {more:#})",
                host::deadline::seconds(task.most)
            )),
        })
    }

    /// Writes the file first: a reload reads it, and a file that cannot be written fails before requests
    /// wait.
    fn hold_everywhere(&self, readers: &[Reader], value: &str) -> Result<()> {
        let key = &self.task.key;
        for path in self.state.files.keys() {
            let new = self.rewrite(path, |text| map::with_value(text, key, value))?;
            ensure_read(readers, path, &new)?;
        }
        for edge in &self.state.edges {
            match edge.live.contains_key(key) {
                true => map::set_live(&edge.socket, &edge.report.map, key, value)?,
                false => map::add_live(&edge.socket, &edge.report.map, key, value)?,
            }
        }
        Ok(())
    }

    /// Releases the waiting requests first, then changes the file.
    fn release(&mut self) -> Result<()> {
        let key = &self.task.key;
        let mut first_error = Ok(());
        for edge in &self.state.edges {
            let released = map::remove_live(&edge.socket, &edge.report.map, key);
            first_error = first_error.and(released);
        }
        // Looked up again: there may have been a reload since.
        match old_workers(&self.task.subject) {
            Ok(old) => self.old_workers_released = old,
            Err(error) => first_error = first_error.and(Err(error)),
        }
        for worker in &self.old_workers_released {
            // It may have ended since, with its requests.
            let _ = worker.ask(&format!("del map {} {key}", worker.report.map.display()));
        }
        for path in self.state.files.keys() {
            let written = self.rewrite(path, |text| map::without_key(text, key));
            let written = written.map(drop).with_context(|| {
                format!("HAProxy would hold {key} again if it were reloaded before the hold ends")
            });
            first_error = first_error.and(written);
        }
        first_error
    }

    /// Changes a file, which holds of other apps share; an unchanged file is not written.
    fn rewrite(&self, path: &Path, change: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<Vec<u8>> {
        let task = self.task;
        let _lock = locks::lock(path, TASK, task.deploy.as_ref(), task.lock_timeout)?;
        sweep(path)?;
        let text = file::read(path).with_context(|| format!("reading {}", path.display()))?;
        let new = change(&text);
        if new != text {
            Replace::new(path).write(&new)?;
        }
        Ok(new)
    }

    /// Waits until the servers have no requests; new ones are held. A tunnel may never end.
    fn drain(&mut self) -> Result<()> {
        let deadline = Deadline::after(self.task.drain_timeout);
        loop {
            self.open_requests = 0;
            for edge in &self.state.edges {
                for backend in &self.task.backends {
                    let servers = stat::servers(&edge.socket, Some(backend))?;
                    self.open_requests += servers.iter().map(|server| server.sessions).sum::<u64>();
                }
            }
            if self.open_requests == 0 || deadline.passed() {
                return Ok(());
            }
            deadline.sleep(POLL)?;
        }
    }

    /// Waits for servers that are up. After that the requests are released in any case, since the hold ends.
    fn wait_for_servers(&mut self) -> Result<()> {
        let ends = self.hold.as_ref().map_or(0, |hold| hold.until);
        let left = Duration::from_millis(ends.saturating_sub(self.state.now()));
        let deadline = Deadline::after(self.task.up_timeout.min(left));
        loop {
            self.without_server.clear();
            for edge in &self.state.edges {
                for backend in &self.task.backends {
                    let servers = stat::servers(&edge.socket, Some(backend))?;
                    if !servers.iter().any(stat::Server::is_up) {
                        self.without_server.push(backend.clone());
                    }
                }
            }
            if self.without_server.is_empty() || deadline.passed() {
                return Ok(());
            }
            deadline.sleep(POLL)?;
        }
    }
}

/// Refuses backends that a HAProxy does not have.
pub fn ensure_backends(task: &Task, state: &State) -> Result<()> {
    for edge in &state.edges {
        for backend in &task.backends {
            if stat::servers(&edge.socket, Some(backend))?.is_empty() {
                let msg = format!(
                    "HAProxy at {} has no backend {backend} with servers; nothing was changed",
                    edge.socket
                );
                return Err(Failure::new("no_backend", msg).into());
            }
        }
    }
    Ok(())
}

/// Waits a few seconds until no request is held any more, and returns the state.
pub fn wait_until_released(task: &Task, hold: Option<&Hold>) -> Result<State> {
    let deadline = Deadline::after(RELEASE_TIMEOUT);
    loop {
        let now = observe(&task.subject)?;
        let waiting = hold.map_or(0, |hold| now.count(&task.key, hold).waiting);
        if waiting == 0 || deadline.passed() {
            return Ok(now);
        }
        deadline.sleep(POLL)?;
    }
}
