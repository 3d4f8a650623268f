//! Copies what a scan has found into a segment, and writes the index of the tree.
//!
//! After [`Pass::First`] another capture follows, when nobody writes any more: files that must be copied
//! then in any case are skipped now and are not in this index, and no file is read twice. With
//! [`Pass::Last`] the index is complete; a file that changes while it is read is read again, and named
//! in the result when it never comes to rest.
//!
//! Invariant: a line of the index has a change time only when the file did not change from that time
//! until its content was read. So the next capture copies again whatever is uncertain.

use crate::attributes::{self, Attributes, Handle};
use crate::chain::Used;
use crate::extents::Extents;
use crate::fault::PathSample;
use crate::head::Head;
use crate::index::IndexWriter;
use crate::line::{EntryKind, Line};
use crate::scan::{Scan, Source};
use crate::segment::{ReadOutcome, Segment};
use anyhow::{Context, Result};
use host::meta::Meta;
use host::walk::{Cause, Entry, Leases, Missed, Tree};
use rustix::fs::{major, minor, readlinkat};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::EntryType;

/// How often a file is read that changes while it is read.
const MAX_COPIES: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    First,
    Last,
}

/// How far a capture or a restore has come; reported after each piece of a file and each entry.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    pub entries: u64,
    /// Bytes of content copied so far.
    pub bytes: u64,
    /// Bytes of content to copy as the scan has counted them; 0 in a restore.
    pub total: u64,
    pub path: &'a Path,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    pub entries: u64,
    /// The sum of the files' sizes.
    pub bytes: u64,
    /// What was copied into the segment; a segment without entries is not needed.
    pub copied: Used,
    /// What the index refers to in each segment.
    pub used: BTreeMap<u32, Used>,
    /// Sockets: they are in the index, and their content is not copied.
    pub sockets: PathSample,
    /// Files that changed each time they were read.
    pub unstable: PathSample,
    /// How many entries were removed since the scan.
    pub vanished: u64,
}

impl Scan {
    /// Copies what the scan has marked. The segment's number must be higher than all in the earlier index.
    pub fn copy(
        &self,
        source: &Source<'_>,
        pass: Pass,
        segment: &mut Segment,
        index: &mut IndexWriter,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Captured> {
        let mut lines = self.read()?;
        let mut copier = Copier {
            tree: source.tree,
            pass,
            segment,
            index,
            progress,
            total: self.totals.to_copy,
            bytes: 0,
            groups: HashMap::new(),
            leases: Leases::default(),
            captured: Captured { vanished: self.vanished, ..Captured::default() },
        };
        while let Some(line) = lines.read()? {
            host::interrupt::check()?;
            if line.segment.is_some() || line.kind == EntryKind::Socket {
                copier.write_line(&line)?;
            } else if pass == Pass::Last || line.changed.is_some() {
                let shown = line.path.clone();
                let copied = copier.copy_entry(line);
                copied.with_context(|| format!("cannot copy {}", shown.display()))?;
            }
        }
        Ok(copier.captured)
    }
}

struct Copier<'a> {
    tree: &'a Tree,
    pass: Pass,
    segment: &'a mut Segment,
    index: &'a mut IndexWriter,
    progress: &'a mut dyn FnMut(Progress<'_>),
    total: u64,
    bytes: u64,
    /// Files with several names that are in this segment and have names still to come.
    groups: HashMap<(u64, u64), Group>,
    leases: Leases,
    captured: Captured,
}

struct Group {
    first: Box<[u8]>,
    changed: Option<(i64, u32)>,
    left: u64,
}

impl Copier<'_> {
    fn write_line(&mut self, line: &Line) -> Result<()> {
        let captured = &mut self.captured;
        captured.entries += 1;
        if line.kind == EntryKind::File {
            captured.bytes += line.size;
        }
        if line.kind == EntryKind::Socket {
            captured.sockets.note(&line.path);
        }
        if let Some(segment) = line.segment {
            let used = captured.used.entry(segment).or_default();
            used.entries += 1;
            used.bytes += line.stored;
        }
        self.index.write(line)?;
        let (entries, bytes, total) = (captured.entries, self.bytes, self.total);
        (self.progress)(Progress { entries, bytes, total, path: &line.path });
        Ok(())
    }

    fn copy_entry(&mut self, mut line: Line) -> Result<()> {
        loop {
            let (held, entry) = match self.tree.look(&line.path) {
                Ok(found) => found,
                Err(Missed { cause: Cause::Vanished | Cause::Swapped, .. }) => {
                    self.captured.vanished += 1;
                    return Ok(());
                }
                Err(missed) => return Err(missed.into()),
            };
            if changed_since_scan(&line, &entry.meta) {
                if self.pass == Pass::First {
                    return Ok(());
                }
                let fresh = Line::of(&line.path, &entry.meta);
                if fresh.kind == EntryKind::Folder && line.kind != EntryKind::Folder {
                    // The scan did not look into it.
                    self.captured.unstable.note(&line.path);
                    return Ok(());
                }
                // Nothing was synced since it changed.
                line = Line { changed: None, copies: line.copies, ..fresh };
            }
            let stable = match self.append(&mut line, &held, &entry) {
                // The holder of the lease has been asked to give it up, and the last pass is still to come.
                Err(why) if self.pass == Pass::First && is_leased(&why) => return Ok(()),
                stable => stable?,
            };
            if !stable {
                if self.pass == Pass::Last && line.copies < MAX_COPIES {
                    continue;
                }
                line.changed = None;
                if self.pass == Pass::Last {
                    self.captured.unstable.note(&line.path);
                }
            }
            return self.write_line(&line);
        }
    }

    /// Appends the entry to the segment. `false`: it changed while it was read.
    fn append(&mut self, line: &mut Line, held: &OwnedFd, entry: &Entry) -> Result<bool> {
        line.segment = Some(self.segment.number());
        line.copies += 1;
        if line.kind == EntryKind::Socket {
            self.captured.copied.entries += 1;
            (line.segment, line.copies) = (None, 0);
            return Ok(true);
        }
        if let Some(group) = line.shared().and_then(|key| self.groups.get_mut(&key)) {
            // All names get one change time: they are copied again together, or not at all.
            line.changed = line.changed.filter(|_| line.changed == group.changed);
            line.kind = EntryKind::HardLink;
            let target = group.first.to_vec();
            group.left = group.left.saturating_sub(1);
            if group.left == 0 {
                line.shared().and_then(|key| self.groups.remove(&key));
            }
            self.captured.copied.entries += 1;
            self.segment.head(&Head { target, ..head(line, EntryType::Link) })?;
            return Ok(true);
        }
        let stable = match line.kind {
            EntryKind::File => {
                let file = match self.pass {
                    Pass::First => Tree::open_held(held, entry)?,
                    Pass::Last => self.leases.open(self.tree, held, entry)?,
                };
                self.append_content(line, &file, entry)?
            }
            _ => self.append_special(line, held, entry)?,
        };
        self.captured.copied.entries += 1;
        if let Some(key) = line.shared() {
            let first = line.path.as_os_str().as_bytes().into();
            let changed = line.changed.filter(|_| stable);
            self.groups.insert(key, Group { first, changed, left: line.links - 1 });
        }
        Ok(stable)
    }

    /// Appends an entry that has no content.
    fn append_special(&mut self, line: &Line, held: &OwnedFd, entry: &Entry) -> Result<bool> {
        let attributes = attributes_of(Handle::Path(held.as_fd()))?;
        let rdev = entry.meta.rdev;
        let mut head = Head { attributes, ..head(line, entry_type(line.kind)) };
        match line.kind {
            EntryKind::Link => {
                let target = readlinkat(held, "", Vec::new()).context("cannot read the link")?;
                head.target = target.into_bytes();
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                head.device = (major(rdev), minor(rdev))
            }
            _ => {}
        }
        self.segment.head(&head)?;
        Ok(true)
    }

    fn append_content(&mut self, line: &mut Line, file: &File, entry: &Entry) -> Result<bool> {
        let size = entry.meta.size;
        let extents = match entry.meta.allocated < size {
            true => Extents::of(file, size).context("cannot find its holes")?,
            false => None,
        };
        let attributes = attributes_of(Handle::Open(file.as_fd()))?;
        let mut head = Head { attributes, size, ..head(line, EntryType::Regular) };
        line.stored = extents.as_ref().map_or(size, Extents::data);
        let map = extents.as_ref().map(Extents::map).unwrap_or_default();
        if extents.is_some() {
            (head.size, head.sparse) = (map.len() as u64 + line.stored, Some(size));
        }
        self.segment.head(&head)?;
        self.segment.bytes(&map)?;
        let one = [(0, size)];
        let pieces = extents.as_ref().map_or(&one[..], Extents::pieces);
        let (entries, total) = (self.captured.entries, self.total);
        let mut complete = true;
        for (from, length) in pieces {
            let outcome = self.segment.piece(file, *from, *length, &mut |step| {
                host::interrupt::check()?;
                self.bytes += step;
                let bytes = self.bytes;
                (self.progress)(Progress { entries, bytes, total, path: &line.path });
                Ok(())
            })?;
            complete &= outcome == ReadOutcome::Complete;
        }
        self.segment.pad(head.size)?;
        self.captured.copied.bytes += line.stored;
        let after = Meta::read(file).context("cannot read its metadata again")?;
        Ok(complete && after == entry.meta)
    }
}

fn is_leased(error: &anyhow::Error) -> bool {
    let missed = error.downcast_ref::<Missed>();
    missed.is_some_and(|missed| matches!(missed.cause, Cause::Leased(_)))
}

/// Whether the entry is no longer as the scan saw it.
fn changed_since_scan(line: &Line, meta: &Meta) -> bool {
    let now = Line::of(&line.path, meta);
    let seen = |line: &Line| (line.ino, line.size, line.modified);
    line.changed.is_some_and(|changed| changed != meta.changed)
        || seen(line) != seen(&now)
        || !line.same_kind(&now)
}

fn attributes_of(held: Handle<'_>) -> Result<Attributes> {
    attributes::read(held).context("cannot read its extended attributes")
}

fn entry_type(kind: EntryKind) -> EntryType {
    match kind {
        EntryKind::Folder => EntryType::Directory,
        EntryKind::HardLink => EntryType::Link,
        EntryKind::Link => EntryType::Symlink,
        EntryKind::Pipe => EntryType::Fifo,
        EntryKind::CharDevice => EntryType::Char,
        EntryKind::BlockDevice => EntryType::Block,
        EntryKind::File | EntryKind::Socket => EntryType::Regular,
    }
}

fn head(line: &Line, kind: EntryType) -> Head {
    let mut name = line.path.as_os_str().as_bytes().to_vec();
    if kind == EntryType::Directory {
        name.extend_from_slice(if name.is_empty() { b"./" } else { b"/" });
    }
    Head {
        kind,
        name,
        mode: line.mode,
        uid: line.uid,
        gid: line.gid,
        size: 0,
        modified: line.modified,
        target: Vec::new(),
        device: (0, 0),
        attributes: Vec::new(),
        sparse: None,
    }
}
