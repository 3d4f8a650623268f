//! Carries out the flip, the gates after it, and the record. `back.rs` reverts a failed flip.
//!
//! Invariant: everything that is changed is read again under the lock of this HAProxy, since other apps flip
//! there too.

use crate::color::Color;
use crate::gate;
use crate::history::{Entry, History, Verdict};
use crate::options::{Method, Subject, Task};
use crate::plan::{Action, Switch};
use crate::reload;
use crate::servers::Fleet;
use crate::state::{State, SwitchNote, digest};
use ansible_module::Failure;
use anyhow::{Context, Result, bail, ensure};
use haproxy::reader::{ensure_read, readers};
use haproxy::stat::Count;
use haproxy::{file, map};
use host::atomic::{Replace, sweep};
use host::clock;
use host::deadline::Deadline;
use host::interrupt;
use host::record::Intent;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const POLL: Duration = Duration::from_millis(100);

pub struct Apply<'a> {
    pub task: &'a Task,
    pub state: &'a State,
    pub switch: &'a Switch,
    pub numbers: Numbers,
    /// Requests to the old colour from the beginning of the run until the flip.
    pub old_requests: Count,
    /// Why the new colour stays active although the run fails.
    pub stays: Option<String>,
    /// Whether something was changed, or may have been.
    pub flipped: bool,
    /// Whether HAProxy may have read the change.
    pub reloaded: bool,
}

/// The result of a flip, also of one that failed.
#[derive(Default)]
pub struct Numbers {
    /// When the flip began, in seconds since 1970.
    at: Option<f64>,
    milliseconds: Map<String, Value>,
    proof: Option<Value>,
    pub budget: Option<Value>,
    sessions_left: Option<u64>,
    pub reverted: bool,
}

impl Numbers {
    pub fn took(&mut self, what: &str, began: Instant) {
        let milliseconds = (began.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
        self.milliseconds.insert(what.to_owned(), json!(milliseconds));
    }

    pub fn to_json(&self) -> Value {
        let mut all = json!({
            "at": self.at,
            "milliseconds": self.milliseconds,
            "sessions_left": self.sessions_left,
            "reverted": self.reverted,
        });
        for (key, value) in [("proof", &self.proof), ("budget", &self.budget)] {
            if let Some(value) = value {
                all[key] = value.clone();
            }
        }
        all
    }
}

impl<'a> Apply<'a> {
    pub fn new(task: &'a Task, state: &'a State, switch: &'a Switch) -> Apply<'a> {
        // A killed run may have flipped already: a failure from here on reverts that too.
        let flipped = switch.resumes;
        let old_requests = state.noted.as_ref().filter(|_| flipped).map(|noted| noted.old_requests);
        Apply {
            task,
            state,
            switch,
            numbers: Numbers::default(),
            old_requests: old_requests.unwrap_or_default(),
            stays: None,
            flipped,
            reloaded: flipped,
        }
    }

    pub fn act(&mut self, action: &Action, intent: Option<&Intent>) -> Result<()> {
        let began = Instant::now();
        let (what, done) = match action {
            Action::Flip => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                self.numbers.at = since.ok().map(|since| since.as_secs_f64());
                ("flip", self.flip(intent))
            }
            Action::Prove => ("prove", self.prove()),
            Action::Watch => ("watch", self.watch()),
            Action::Record => ("record", self.record()),
        };
        self.numbers.took(what, began);
        done
    }

    fn flip(&mut self, intent: Option<&Intent>) -> Result<()> {
        // Signals are ignored here, so that the live map and its file agree.
        let _shield = interrupt::shield();
        let task = self.task;
        sweep_record(&task.subject)?;
        self.count_old_requests()?;
        if let Some(intent) = intent {
            let Switch { from, to, release, .. } = self.switch;
            let unproven = self.state.unproven(to.other());
            let (release, old_requests) = (release.clone(), self.old_requests);
            let noted = SwitchNote { from: *from, to: *to, release, unproven, old_requests };
            intent.note(SwitchNote::NOTE, &noted)?;
        }
        match &task.subject.method {
            Method::Map(file) => self.flip_map(file)?,
            Method::Reload => self.flip_config()?,
        }
        write_record(task, self.switch.to)
    }

    /// Counts the recent requests to the old colour; the totals since HAProxy's start may contain an outage.
    fn count_old_requests(&mut self) -> Result<()> {
        let (state, switch) = (self.state, self.switch);
        // A killed run has flipped already, and has noted these counts.
        let flipped_before = switch.resumes && state.active == Some(switch.to);
        if self.task.budget.is_some() && !flipped_before {
            let old = switch.from.unwrap_or(switch.to.other());
            let now = Fleet::observe(&state.groups, old, &state.sockets)?;
            self.old_requests = now.since(state.fleet(old));
        }
        Ok(())
    }

    fn flip_map(&mut self, file: &Path) -> Result<()> {
        let (subject, state) = (&self.task.subject, self.state);
        let value = state.pattern.name(self.switch.to);
        let _lock = self.task.lock(file)?;
        sweep(file)?;
        let text = file::read(file).with_context(|| format!("reading {}", file.display()))?;
        ensure_unchanged(map::file_value(&text, &subject.key) == state.file, file)?;
        for (socket, seen) in state.sockets.iter().zip(&state.live) {
            ensure_unchanged(map::live_value(socket, file, &subject.key)? == *seen, file)?;
        }
        let readers = readers(&state.sockets)?;
        // Noted before the change: without an answer it is unknown whether HAProxy has changed it.
        self.flipped = true;
        // The file first: if it cannot be written, no request has been sent to the new colour.
        let new = map::with_value(&text, &subject.key, &value);
        Replace::new(file).write(&new).context(
            "the map file could not be written, so the live map would be lost at the next reload",
        )?;
        ensure_read(&readers, file, &new)?;
        for socket in &state.sockets {
            map::set_live(socket, file, &subject.key, &value)?;
        }
        self.verify_map(file, &value)
    }

    fn verify_map(&self, file: &Path, value: &str) -> Result<()> {
        let key = &self.task.subject.key;
        for socket in &self.state.sockets {
            let live = map::live_value(socket, file, key)?;
            ensure!(live.as_deref() == Some(value), "{key} reads back as {live:?} at {socket}");
        }
        let text = file::read(file).with_context(|| format!("reading {} back", file.display()))?;
        let written = map::file_value(&text, key);
        ensure!(
            written.as_deref() == Some(value),
            "{key} reads back as {written:?} in {}",
            file.display()
        );
        Ok(())
    }

    fn flip_config(&mut self) -> Result<()> {
        let (Some(content), Some(reload)) = (&self.switch.content, &self.switch.reload) else {
            bail!("there is no new configuration to load");
        };
        let subject = &self.task.subject;
        let _lock = self.task.lock(&subject.config)?;
        sweep(&subject.config)?;
        let now = file::read(&subject.config)
            .with_context(|| format!("reading {}", subject.config.display()))?;
        ensure_unchanged(now == self.state.text, &subject.config)?;
        if let Some(from) = self.switch.from.filter(|_| now != *content) {
            Replace::new(&subject.kept_config(from)).mode(0o600).write(&now)?;
        }
        self.flipped = true;
        Replace::new(&subject.config).write(content)?;
        ensure_read(&readers(&self.state.sockets)?, &subject.config, content)?;
        self.reloaded = true;
        reload::reload(reload, &self.state.sockets)?;
        gate::target_after_reload(self.state, self.task, self.switch)?;
        Replace::new(&subject.digest_file()).write(format!("{}\n", digest(content)).as_bytes())?;
        Ok(())
    }

    fn prove(&mut self) -> Result<()> {
        let Some(prove) = &self.task.prove else { return Ok(()) };
        let proof = prove.ask(None, self.switch.release.as_deref());
        interrupt::check()?;
        let proof = proof.map_err(|why| {
            Failure::new(
                "not_proven",
                format!("{} does not answer as expected: {why}", self.switch.to),
            )
        })?;
        self.numbers.proof = Some(proof.to_json());
        Ok(())
    }

    fn record(&mut self) -> Result<()> {
        let task = self.task;
        self.history(Verdict::Good).write(&task.subject.history_file(), task.keep)?;
        write_record(task, self.switch.to)
    }

    /// The history with the colour that this run has made active.
    pub fn history(&self, verdict: Verdict) -> History {
        let (task, switch) = (self.task, self.switch);
        let mut history = self.state.history.clone();
        let newest = history.newest().cloned();
        if let Some(from) = switch.from {
            let unproven = self.state.unproven(from);
            if let Some(unproven) = unproven.filter(|_| from != switch.to) {
                // It was not proven, since its run was killed: no rollback may go to it.
                history.add(entry(from, unproven.release, None, Verdict::Void));
            } else if newest.as_ref().map(|entry| entry.color) != Some(from) && from != switch.to {
                // It was active, and no known run has made it so.
                history.add(entry(from, None, None, Verdict::Good));
            }
            if task.void && from != switch.to {
                history.void_newest_of(from);
            }
        }
        let known = newest.filter(|entry| entry.color == switch.to).and_then(|entry| entry.release);
        let release = switch.release.clone().or(known);
        let run = task.run().map(ToString::to_string);
        history.add(entry(switch.to, release, run, verdict));
        history
    }

    /// Waits until the old colour has no sessions. Remaining sessions are reported, and are no failure.
    pub fn drain(&mut self) -> Result<()> {
        let (began, deadline) = (Instant::now(), Deadline::after(self.task.drain));
        let old = self.switch.to.other();
        loop {
            let fleet = Fleet::observe(&self.state.groups, old, &self.state.sockets)?;
            self.numbers.sessions_left = Some(fleet.sessions());
            // The flip is proven and recorded: a signal only ends the wait.
            if fleet.sessions() == 0 || deadline.passed() || deadline.sleep(POLL).is_err() {
                self.numbers.took("drain", began);
                return Ok(());
            }
        }
    }
}

pub fn entry(
    color: Color,
    release: Option<String>,
    run: Option<String>,
    verdict: Verdict,
) -> Entry {
    Entry { time: clock::now(), color, release, deploy_id: run, verdict }
}

/// Removes temporary files of killed runs of this app, whose lock we hold.
fn sweep_record(subject: &Subject) -> Result<()> {
    let kept = Color::BOTH.map(|color| subject.kept_config(color));
    let ours = [subject.active_color_file(), subject.history_file(), subject.digest_file()];
    ours.iter().chain(&kept).try_for_each(|path| sweep(path))
}

pub fn write_record(task: &Task, color: Color) -> Result<()> {
    // Other users run the commands of runbooks that read it.
    let path = task.subject.active_color_file();
    Replace::new(&path).new_mode(0o644).write(format!("{color}\n").as_bytes())?;
    Ok(())
}

fn ensure_unchanged(same: bool, subject: &Path) -> Result<()> {
    match same {
        true => Ok(()),
        false => {
            let msg = format!(
                "{} was changed by someone else meanwhile; nothing was changed; run the task again",
                subject.display()
            );
            Err(Failure::new("moved", msg).into())
        }
    }
}
