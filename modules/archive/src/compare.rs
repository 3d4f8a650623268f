//! How a tree differs from its index: by kind, size, mode, owner, time and links of each entry.
//!
//! Contents and attributes are not compared: they stand in the segments, whose sums are known.

use crate::fault::Named;
use crate::index::IndexReader;
use crate::line::{Line, What};
use crate::scan::Source;
use anyhow::Result;
use host::walk::{Cause, Entry, Missed, Sorted, order};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// In the index, and not in the tree.
    pub missing: Named,
    /// In the tree, and not in the index.
    pub added: Named,
    pub changed: Named,
    /// How many entries are alike.
    pub same: u64,
}

impl Differences {
    pub fn none(&self) -> bool {
        self.missing.count + self.added.count + self.changed.count == 0
    }
}

/// Sockets count for nothing on either side.
pub fn compare(source: &Source<'_>, mut index: IndexReader) -> Result<Differences> {
    let mut now = Now::new(source)?;
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
            Some(line) if line.what == What::Socket => {}
            other => return Ok(other),
        }
    }
}

fn alike(then: &Line, now: &Line) -> bool {
    let seen = |line: &Line| (line.mode, line.uid, line.gid, line.size, line.modified, line.links);
    then.same_kind(now) && seen(then) == seen(now)
}

struct Now<'a> {
    /// What comes before the walk: the root, or the one entry.
    first: Option<Entry>,
    walk: Option<Sorted<'a>>,
    leave_out: BTreeSet<&'a PathBuf>,
}

impl<'a> Now<'a> {
    fn new(source: &Source<'a>) -> Result<Now<'a>> {
        let leave_out = source.leave_out.iter().collect();
        Ok(match source.only {
            Some(name) => {
                let first = match source.tree.entry(Path::new(name)) {
                    Err(Missed { cause: Cause::Vanished, .. }) => None,
                    other => Some(other?),
                };
                Now { first, walk: None, leave_out }
            }
            None => {
                let first = Some(Entry { path: PathBuf::new(), meta: *source.tree.meta() });
                Now { first, walk: Some(source.tree.sorted()), leave_out }
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
                    if line.what != What::Socket {
                        return Ok(Some(line));
                    }
                }
                // Gone meanwhile, or a mount that was not entered by the capture either.
                Some(Err(Missed {
                    cause: Cause::Vanished | Cause::Swapped | Cause::OtherFilesystem,
                    ..
                })) => {}
                Some(Err(missed)) => return Err(missed.into()),
            }
        }
    }
}
