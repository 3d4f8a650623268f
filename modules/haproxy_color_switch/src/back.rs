//! Reverts the flip in the run that has flipped: the live HAProxy, its files and the record.
//!
//! Invariants: it needs no disk space, and no signal stops it; the files are reverted even if HAProxy
//! does not run, since it reads them when it starts.

use crate::apply::{Apply, entry, write_record};
use crate::color::Color;
use crate::history::Verdict;
use crate::options::{Method, TASK};
use crate::reload;
use crate::state::digest;
use ansible_module::{Failure, reason};
use anyhow::{Context, Result, ensure};
use change::RunNotes;
use haproxy::socket::{is_gone, retry_while_down};
use haproxy::{file, map};
use host::atomic::Replace;
use host::deadline::seconds;
use host::none_if_missing;
use host::{interrupt, reserve};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

impl Apply<'_> {
    /// After a failure, makes the old colour active again wherever something was changed.
    pub fn revert(&mut self, error: anyhow::Error) -> anyhow::Error {
        let _shield = interrupt::shield();
        reserve::open();
        let old = self.switch.from;
        if !self.flipped {
            // The unfinished work of an older run stays recorded.
            let intent = match self.state.noted {
                Some(_) => Ok(()),
                None => self.close(),
            };
            return match intent {
                Ok(()) => error,
                Err(why) => why.context(error.to_string()),
            };
        }
        if let Some(why) = self.stays.take() {
            return self.stay(error, &why);
        }
        let began = Instant::now();
        let restored = match &self.task.subject.method {
            Method::Map(file) => self.revert_map(file, old),
            Method::Reload => self.revert_config(old),
        };
        self.numbers.took("back", began);
        let color = old.map_or("the previous state", Color::word);
        let done =
            restored.and_then(|not_running| self.revert_record(&error, old).map(|()| not_running));
        let done = done.and_then(|not_running| self.close().map(|()| not_running));
        match done {
            Ok(not_running) => {
                self.numbers.reverted = true;
                let after = seconds(began.elapsed());
                let msg = match not_running.as_slice() {
                    [] => format!("{color} is active again after {after}"),
                    not_running => format!(
                        "{color} is active in the files again, which HAProxy reads when it starts ({})",
                        not_running.join("; ")
                    ),
                };
                Failure::new(reason(&error), msg)
                    .with("flip", self.numbers.to_json())
                    .caused_by(error)
                    .into()
            }
            Err(why) => {
                let msg = format!(
                    "{} did not stay active, and {color} could NOT be restored everywhere ({why:#}); look with \
                     haproxy_color_switch_info and run the task again with color: {color}",
                    self.switch.to
                );
                Failure::new("not_reverted", msg)
                    .with("changed", true)
                    .with("flip", self.numbers.to_json())
                    .with("because", format!("{error:#}"))
                    .into()
            }
        }
    }

    /// Ends a failed run with the new colour active, because the old one was worse: people must decide.
    fn stay(&self, error: anyhow::Error, why: &str) -> anyhow::Error {
        let (task, to) = (self.task, self.switch.to);
        let history = self.history(Verdict::Void);
        let recorded = (history.write(&task.subject.history_file(), task.keep))
            .and_then(|()| write_record(task, to))
            .and_then(|()| self.close());
        let msg = match recorded {
            Ok(()) => format!("{to} stays active, since {why}"),
            Err(failed) => {
                format!("{to} stays active, since {why}, which could NOT be recorded ({failed:#})")
            }
        };
        Failure::new(reason(&error), msg)
            .with("flip", self.numbers.to_json())
            .with("stays", why)
            .caused_by(error)
            .into()
    }

    /// Removes the intent, after the change was reverted or is meant to stay.
    fn close(&self) -> Result<()> {
        RunNotes::close(&self.task.subject.state_dir, TASK)
    }

    /// Returns the sockets where no HAProxy runs.
    fn revert_map(&self, file: &Path, old: Option<Color>) -> Result<Vec<String>> {
        let (key, state) = (&self.task.subject.key, self.state);
        let _lock = self.task.lock(file)?;
        // A killed run had flipped already, so the present value is the new one: the colour gives the old.
        let before = |seen: &Option<String>| match (old, self.switch.resumes) {
            (Some(color), true) => Some(state.pattern.name(color)),
            _ => seen.clone(),
        };
        // The file first: an HAProxy that is just starting reads it.
        let written = match before(&state.file) {
            Some(value) => file::read(file)
                .map_err(anyhow::Error::from)
                .and_then(|text| restore(file, &map::with_value(&text, key, &value)))
                .with_context(|| format!("writing {}", file.display())),
            None => Ok(()),
        };
        let (mut failed, mut not_running, mut running) = (Vec::new(), Vec::new(), Vec::new());
        for (socket, seen) in state.sockets.iter().zip(&state.live) {
            let Some(value) = before(seen) else { continue };
            match retry_while_down(|| map::set_live(socket, file, key, &value)) {
                Ok(()) => running.push((socket, value)),
                Err(why) if is_gone(&why) => not_running.push(format!("{why:#}")),
                Err(why) => failed.push(format!("{why:#}")),
            }
        }
        written?;
        ensure!(failed.is_empty(), "{}", failed.join("; "));
        for (socket, value) in running {
            let live = map::live_value(socket, file, key)?;
            ensure!(live.as_ref() == Some(&value), "{key} reads back as {live:?} at {socket}");
        }
        Ok(not_running)
    }

    fn revert_config(&self, old: Option<Color>) -> Result<Vec<String>> {
        let subject = &self.task.subject;
        let _lock = self.task.lock(&subject.config)?;
        let kept = old.filter(|_| self.switch.resumes).map(|color| subject.kept_config(color));
        let text = match kept.filter(|path| path.exists()) {
            Some(path) => {
                file::read(&path).with_context(|| format!("reading {}", path.display()))?
            }
            None => self.state.text.clone(),
        };
        restore(&subject.config, &text)?;
        let mut not_running = Vec::new();
        if let Some(reload) = self.switch.reload.as_ref().filter(|_| self.reloaded) {
            match reload::reload(reload, &self.state.sockets) {
                Err(why) if is_gone(&why) => not_running.push(format!("{why:#}")),
                reloaded => reloaded?,
            }
        }
        // After a failed write the content of the file is unknown.
        let path = subject.digest_file();
        restore(&path, format!("{}\n", digest(&text)).as_bytes()).or_else(|_| remove(&path))?;
        Ok(not_running)
    }

    /// Restores the record, and marks the release as void when it was the reason.
    fn revert_record(&self, error: &anyhow::Error, old: Option<Color>) -> Result<()> {
        let subject = &self.task.subject;
        let mut history = self.state.history.clone();
        let mut word = self.state.record.clone();
        if let Some(color) = old.filter(|color| *color != self.switch.to) {
            if matches!(reason(error), "not_proven" | "budget_broken") {
                let release = history.newest_of(color).filter(|held| held.verdict == Verdict::Good);
                let release = release.and_then(|held| held.release.clone());
                let run = self.task.run().map(ToString::to_string);
                let failed = self.switch.release.clone();
                history.add(entry(self.switch.to, failed, run.clone(), Verdict::Void));
                // The release that a killed run had made active was not proven either.
                let proven = self.state.unproven(color).is_none();
                let verdict = if proven { Verdict::Good } else { Verdict::Void };
                history.add(entry(color, release, run, verdict));
                word = Some(color.to_string());
            } else if self.switch.resumes {
                word = Some(color.to_string());
            }
        }
        let text = history.text(self.task.keep);
        for (path, text) in [
            (subject.active_color_file(), word.map(|word| word + "\n")),
            (subject.history_file(), Some(text)),
        ] {
            match text.filter(|text| !text.is_empty()) {
                Some(text) => restore(&path, text.as_bytes())?,
                None => remove(&path)?,
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<()> {
    none_if_missing(fs::remove_file(path))?;
    Ok(())
}

/// Writes the old content. A full disk has no space for a new file, so then the file is overwritten in
/// place, which is not atomic.
fn restore(path: &Path, bytes: &[u8]) -> Result<()> {
    if file::read(path).is_ok_and(|now| now == bytes) {
        return Ok(());
    }
    let Err(first) = Replace::new(path).new_mode(0o644).write(bytes) else { return Ok(()) };
    let in_place = || -> Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
        Ok(file.sync_all()?)
    };
    in_place().map_err(|_| first)
}
