//! Compares a tree with its index: kind, size, mode, owner, time and links of each entry.
//!
//! Contents and attributes are not compared: they are in the segments, which have checksums.

use crate::fault::PathSample;
use crate::index::IndexReader;
use crate::line::{EntryKind, Line};
use crate::scan::Source;
use anyhow::Result;
use host::walk::{Cause, Entry, Missed, Sorted, order};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// In the index, and not in the tree.
    pub missing: PathSample,
    /// In the tree, and not in the index.
    pub added: PathSample,
    pub changed: PathSample,
    /// How many entries are alike.
    pub same: u64,
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        self.missing.count + self.added.count + self.changed.count == 0
    }
}

/// Compares without the sockets of either side.
pub fn compare(source: &Source<'_>, mut index: IndexReader) -> Result<Differences> {
    let mut now = Current::new(source)?;
    let mut differences = Differences::default();
    let (mut then, mut entry) = (next(&mut index)?, now.next()?);
    loop {
        host::interrupt::check()?;
        let which = match (&then, &entry) {
            (None, None) => return Ok(differences),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(then), Some(entry)) => order(&then.path, &entry.path),
        };
        if let Some(line) = then.take_if(|_| which.is_le()) {
            match entry.take_if(|_| which.is_eq()) {
                None => differences.missing.note(line.path),
                Some(now) if alike(&line, &now) => differences.same += 1,
                Some(_) => differences.changed.note(line.path),
            }
            then = next(&mut index)?;
            if which.is_eq() {
                entry = now.next()?;
            }
        } else if let Some(line) = entry.take() {
            differences.added.note(line.path);
            entry = now.next()?;
        }
    }
}

fn next(index: &mut IndexReader) -> Result<Option<Line>> {
    loop {
        match index.read()? {
            Some(line) if line.kind == EntryKind::Socket => {}
            other => return Ok(other),
        }
    }
}

fn alike(then: &Line, now: &Line) -> bool {
    let seen = |line: &Line| (line.mode, line.uid, line.gid, line.size, line.modified, line.links);
    then.same_kind(now) && seen(then) == seen(now)
}

/// The entries of the tree, in the order of the index.
struct Current<'a> {
    /// The entry before those of the walk: the root, or the only one.
    first: Option<Entry>,
    walk: Option<Sorted<'a>>,
    leave_out: BTreeSet<&'a PathBuf>,
}

impl<'a> Current<'a> {
    fn new(source: &Source<'a>) -> Result<Current<'a>> {
        let leave_out = source.leave_out.iter().collect();
        Ok(match source.only {
            Some(name) => {
                let first = match source.tree.entry(Path::new(name)) {
                    Err(Missed { cause: Cause::Vanished, .. }) => None,
                    other => Some(other?),
                };
                Current { first, walk: None, leave_out }
            }
            None => {
                let first = Some(Entry { path: PathBuf::new(), meta: *source.tree.meta() });
                Current { first, walk: Some(source.tree.sorted()), leave_out }
            }
        })
    }

    fn next(&mut self) -> Result<Option<Line>> {
        if let Some(entry) = self.first.take() {
            return Ok(Some(Line::of(&entry.path, &entry.meta)));
        }
        let Some(walk) = &mut self.walk else { return Ok(None) };
        loop {
            match walk.next() {
                None => return Ok(None),
                Some(Ok(entry)) if self.leave_out.contains(&entry.path) => walk.pass_over(&entry),
                Some(Ok(entry)) => {
                    let line = Line::of(&entry.path, &entry.meta);
                    if line.kind != EntryKind::Socket {
                        return Ok(Some(line));
                    }
                }
                // Removed since, or a mount, which the capture does not enter either.
                Some(Err(Missed {
                    cause: Cause::Vanished | Cause::Swapped | Cause::OtherFilesystem,
                    ..
                })) => {}
                Some(Err(missed)) => return Err(missed.into()),
            }
        }
    }
}
