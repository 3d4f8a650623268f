//! Records that survive a kill -9: which change was started ([`Intent`]), and which rollbacks are done
//! ([`Done`]).
//!
//! Invariants: an intent is on the disk before the first change and stays until the change is finished
//! or reverted; a note is on the disk when `note` returns, so write it before its step; an unreadable
//! record is an error, never "nothing was started". Order at the end of a rollback: `Done::record`, then
//! `Intent::finish`; after a kill between them the next run finds both.
//!
//! The folder is the target's state folder ([`crate::folder::SafeFolder`]), which no rollback touches;
//! the caller holds the task's lock.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::atomic::{
    Replace, append_json, parse_lines, sweep, sync_folder, whole_lines, write_new,
};
use crate::clock::{self, Utc};
use crate::lock::Lock;
use crate::missing::read_in;

/// How many rollbacks are kept on record at least.
pub const DONE_KEPT: usize = 200;
/// How many records the file may have before it is pruned: so it is not rewritten each time.
const DONE_MOST: usize = 250;
const DONE_LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The record of a change that was started. Dropping it keeps the file, for the next run.
#[derive(Debug)]
#[must_use = "an intent must be finished once its change is done or reverted"]
pub struct Intent {
    task: String,
    path: PathBuf,
}

/// The first line of an intent; its notes follow.
#[derive(Serialize, Deserialize)]
struct FirstLine {
    task: String,
    since: Utc,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub key: String,
    pub value: Value,
}

/// A change that an earlier run began and did not finish.
#[derive(Debug)]
pub struct Found<V> {
    pub since: Utc,
    pub value: V,
    /// In the order in which they were written.
    pub notes: Vec<Note>,
    /// For further notes, and to finish it.
    pub intent: Intent,
}

impl<V> Found<V> {
    /// Returns the last note with this key.
    pub fn note(&self, key: &str) -> Option<&Value> {
        self.notes.iter().rev().find(|note| note.key == key).map(|note| &note.value)
    }
}

impl Intent {
    /// Records what is about to be changed. Refused ([`Unfinished`]) while there is an earlier intent of
    /// the task.
    pub fn begin(dir: &Path, task: &str, value: &impl Serialize) -> Result<Intent> {
        let value = serde_json::to_value(value)
            .with_context(|| format!("cannot record the intent of {task}"))?;
        Self::begin_value(dir, task, value)
    }

    fn begin_value(dir: &Path, task: &str, value: Value) -> Result<Intent> {
        let path = path_of(dir, task)?;
        let line = serde_json::to_string(&FirstLine {
            task: task.to_owned(),
            since: clock::now(),
            value,
        })? + "\n";
        sweep(&path)?;
        match write_new(&path, line.as_bytes(), 0o600) {
            Ok(()) => Ok(Intent { task: task.to_owned(), path }),
            Err(error) if exists(&error) => Err(Unfinished { task: task.to_owned(), path }.into()),
            Err(error) => Err(error.context(format!("cannot record the intent of {task}"))),
        }
    }

    /// Adds a fact that a later run cannot observe: a parked name, a pause, a lock.
    pub fn note(&self, key: &str, value: &impl Serialize) -> Result<()> {
        let note = Note { key: key.to_owned(), value: serde_json::to_value(value)? };
        // Not recreated when somebody has removed it: the intent itself would be missing.
        ensure!(
            self.path.exists(),
            "cannot note {key}: somebody has removed the intent {}",
            self.path.display()
        );
        append_json(&self.path, &note)
    }

    /// Removes the record: the change is done or reverted.
    pub fn finish(self) -> Result<()> {
        let done = std::fs::remove_file(&self.path)
            .with_context(|| format!("cannot remove the intent {}", self.path.display()));
        done.and_then(|()| sync_folder(self.path.parent().unwrap_or(Path::new("/"))))
    }

    pub fn task(&self) -> &str {
        &self.task
    }

    /// Reads what an earlier run of this task began and did not finish.
    pub fn unfinished<V: DeserializeOwned>(dir: &Path, task: &str) -> Result<Option<Found<V>>> {
        let Some(found) = Self::unfinished_value(dir, task)? else {
            return Ok(None);
        };
        let Found { since, value, notes, intent } = found;
        let value = serde_json::from_value(value).with_context(|| {
            format!("cannot read the intent {} (of another version?)", intent.path.display())
        })?;
        Ok(Some(Found { since, value, notes, intent }))
    }

    fn unfinished_value(dir: &Path, task: &str) -> Result<Option<Found<Value>>> {
        let path = path_of(dir, task)?;
        let content = read_in(dir, &path)
            .with_context(|| format!("cannot read the intent {}", path.display()))?;
        let Some(content) = content else { return Ok(None) };
        let parsed = || -> Result<(FirstLine, Vec<Note>)> {
            // A torn last line is a note whose step was not started: `note` had not returned.
            let (mut lines, _torn) = whole_lines(&content);
            let first = serde_json::from_slice(lines.next().context("it is empty or cut off")?)?;
            Ok((first, lines.map(serde_json::from_slice).collect::<Result<_, _>>()?))
        };
        let (FirstLine { task: of, since, value }, notes) = parsed().with_context(|| {
            format!("cannot read the intent {}: find out what {task} was doing, repair that by hand, then remove the file", path.display())
        })?;
        ensure!(
            of == task,
            "cannot use the intent {}: it is of {of}, not of {task}",
            path.display()
        );
        Ok(Some(Found { since, value, notes, intent: Intent { task: of, path } }))
    }
}

/// An earlier intent of the task, which prevents a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub task: String,
    pub path: PathBuf,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot begin {}: an earlier run did not finish (see {}); finish or revert it first",
            self.task,
            self.path.display()
        )
    }
}

impl std::error::Error for Unfinished {}

/// The record of a finished rollback, so that the same id is not rolled back twice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The deploy id of the run that rolled back, or the plan id that was confirmed.
    pub rollback_id: String,
    pub at: Utc,
    pub value: Value,
}

impl Done {
    /// Finds the record of a rollback.
    pub fn recorded(dir: &Path, rollback_id: &str) -> Result<Option<Done>> {
        Ok(Self::all(dir)?.into_iter().rfind(|done| done.rollback_id == rollback_id))
    }

    /// Records that a rollback is done, and its result. Old records are pruned, never the newest
    /// [`DONE_KEPT`].
    pub fn record(dir: &Path, rollback_id: &str, value: &impl Serialize) -> Result<()> {
        let (path, at) = (dir.join(DONE_FILE), clock::now());
        let done =
            Done { rollback_id: rollback_id.to_owned(), at, value: serde_json::to_value(value)? };
        let _lock =
            Lock::acquire(&dir.join(DONE_LOCK), "rollback record", None, DONE_LOCK_PATIENCE)?;
        append_json(&path, &done)?;
        let all = Self::all(dir)?;
        if all.len() > DONE_MOST {
            let mut content = Vec::new();
            for done in &all[all.len() - DONE_KEPT..] {
                serde_json::to_writer(&mut content, done)?;
                content.push(b'\n');
            }
            sweep(&path)?;
            Replace::new(&path).write(&content)?;
        }
        Ok(())
    }

    /// Reads all records, the oldest first.
    pub fn all(dir: &Path) -> Result<Vec<Done>> {
        let path = dir.join(DONE_FILE);
        let content = read_in(dir, &path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .unwrap_or_default();
        // Without its line a rollback would be done again.
        parse_lines(&path, &content, "correct it")
    }
}

const DONE_FILE: &str = "rollbacks.done";
const DONE_LOCK: &str = "rollbacks.lock";

fn path_of(dir: &Path, task: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if task.is_empty() || task.len() > 100 || !task.chars().all(plain) {
        bail!(
            "{task:?} is not a valid name of a task: only letters, digits, \"_\", \"-\" and \".\""
        );
    }
    Ok(dir.join(format!("intent.{task}")))
}

fn exists(error: &anyhow::Error) -> bool {
    let is = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == ErrorKind::AlreadyExists)
    };
    error.chain().any(is)
}
