//! Copying what a scan has found into a segment, and writing the index of the tree.
//!
//! With [`Pass::First`] another capture follows, when nobody writes any more: what is sure to be copied
//! then is left out now, of contents and of the index, and nothing is tried twice. With [`Pass::Last`]
//! the index is complete; a file that changes while it is read is read again, and named in the end.
//!
//! Invariant: a line of the index has a change time only when the content in its segment was read
//! without a change since that time. So the next capture copies again whatever is not certain.

use crate::attributes::{self, Attributes, Held};
use crate::chain::Used;
use crate::extents::Extents;
use crate::fault::Named;
use crate::head::Head;
use crate::index::IndexWriter;
use crate::line::{Line, What};
use crate::scan::{Scan, Source};
use crate::segment::{Came, Segment};
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

const TRIES: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    First,
    Last,
}

/// How far it is; told after each piece of a file and each entry.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    pub entries: u64,
    /// Bytes of content that went through.
    pub bytes: u64,
    /// How many there are, as far as the scan (or the index) could tell.
    pub of: u64,
    pub path: &'a Path,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    pub entries: u64,
    /// As the files' sizes say.
    pub bytes: u64,
    /// What went into the segment; without an entry, the segment is not needed.
    pub copied: Used,
    /// What the index wants of each segment.
    pub used: BTreeMap<u32, Used>,
    /// They are named in the index and made by the program that listens.
    pub sockets: Named,
    /// Changed each time that they were read.
    pub unsettled: Named,
    /// Gone since they were looked at.
    pub vanished: u64,
}

impl Scan {
    /// Copies what must be copied. The segment's number must be higher than all in the earlier index.
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
            of: self.totals.to_copy,
            bytes: 0,
            groups: HashMap::new(),
            leases: Leases::default(),
            captured: Captured { vanished: self.vanished, ..Captured::default() },
        };
        while let Some(line) = lines.read()? {
            host::interrupt::check()?;
            if line.segment.is_some() || line.what == What::Socket {
                copier.keep(&line)?;
            } else if pass == Pass::Last || line.changed.is_some() {
                let shown = line.path.clone();
                let one = copier.one(line);
                one.with_context(|| format!("cannot copy {}", shown.display()))?;
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
    of: u64,
    bytes: u64,
    /// Files with several names that are in this segment, while names are still to come.
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
    fn keep(&mut self, line: &Line) -> Result<()> {
        let captured = &mut self.captured;
        captured.entries += 1;
        if line.what == What::File {
            captured.bytes += line.size;
        }
        if line.what == What::Socket {
            captured.sockets.note(&line.path);
        }
        if let Some(segment) = line.segment {
            let used = captured.used.entry(segment).or_default();
            used.entries += 1;
            used.bytes += line.stored;
        }
        self.index.write(line)?;
        let (entries, bytes, of) = (captured.entries, self.bytes, self.of);
        (self.progress)(Progress { entries, bytes, of, path: &line.path });
        Ok(())
    }

    fn one(&mut self, mut line: Line) -> Result<()> {
        loop {
            let (held, entry) = match self.tree.look(&line.path) {
                Ok(found) => found,
                Err(Missed { cause: Cause::Vanished | Cause::Swapped, .. }) => {
                    self.captured.vanished += 1;
                    return Ok(());
                }
                Err(missed) => return Err(missed.into()),
            };
            if moved(&line, &entry.meta) {
                if self.pass == Pass::First {
                    return Ok(());
                }
                let fresh = Line::of(&line.path, &entry.meta);
                if fresh.what == What::Folder && line.what != What::Folder {
                    // What is in it was not looked at.
                    self.captured.unsettled.note(&line.path);
                    return Ok(());
                }
                // Nothing was synced since.
                line = Line { changed: None, times: line.times, ..fresh };
            }
            let settled = match self.put(&mut line, &held, &entry) {
                // Its owner has been asked, and the last pass is still to come.
                Err(why) if self.pass == Pass::First && is_leased(&why) => return Ok(()),
                settled => settled?,
            };
            if !settled {
                if self.pass == Pass::Last && line.times < TRIES {
                    continue;
                }
                line.changed = None;
                if self.pass == Pass::Last {
                    self.captured.unsettled.note(&line.path);
                }
            }
            return self.keep(&line);
        }
    }

    /// Into the segment. `false`: it changed meanwhile.
    fn put(&mut self, line: &mut Line, held: &OwnedFd, entry: &Entry) -> Result<bool> {
        line.segment = Some(self.segment.number());
        line.times += 1;
        if line.what == What::Socket {
            self.captured.copied.entries += 1;
            (line.segment, line.times) = (None, 0);
            return Ok(true);
        }
        if let Some(group) = line.shared().and_then(|key| self.groups.get_mut(&key)) {
            // One time for all names: they are copied again together, or not at all.
            line.changed = line.changed.filter(|_| line.changed == group.changed);
            line.what = What::HardLink;
            let target = group.first.to_vec();
            group.left = group.left.saturating_sub(1);
            if group.left == 0 {
                line.shared().and_then(|key| self.groups.remove(&key));
            }
            self.captured.copied.entries += 1;
            self.segment.head(&Head { target, ..head(line, EntryType::Link) })?;
            return Ok(true);
        }
        let settled = match line.what {
            What::File => {
                let file = match self.pass {
                    Pass::First => Tree::open_held(held, entry)?,
                    Pass::Last => self.leases.open(self.tree, held, entry)?,
                };
                self.content(line, &file, entry)?
            }
            _ => self.other(line, held, entry)?,
        };
        self.captured.copied.entries += 1;
        if let Some(key) = line.shared() {
            let first = line.path.as_os_str().as_bytes().into();
            let changed = line.changed.filter(|_| settled);
            self.groups.insert(key, Group { first, changed, left: line.links - 1 });
        }
        Ok(settled)
    }

    /// What has no content.
    fn other(&mut self, line: &Line, held: &OwnedFd, entry: &Entry) -> Result<bool> {
        let attributes = attributes_of(Held::Path(held.as_fd()))?;
        let rdev = entry.meta.rdev;
        let mut head = Head { attributes, ..head(line, kind(line.what)) };
        match line.what {
            What::Link => {
                let target = readlinkat(held, "", Vec::new()).context("cannot read the link")?;
                head.target = target.into_bytes();
            }
            What::CharDevice | What::BlockDevice => head.device = (major(rdev), minor(rdev)),
            _ => {}
        }
        self.segment.head(&head)?;
        Ok(true)
    }

    fn content(&mut self, line: &mut Line, file: &File, entry: &Entry) -> Result<bool> {
        let size = entry.meta.size;
        let extents = match entry.meta.allocated < size {
            true => Extents::of(file, size).context("cannot find its holes")?,
            false => None,
        };
        let attributes = attributes_of(Held::Open(file.as_fd()))?;
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
        let (entries, of) = (self.captured.entries, self.of);
        let mut whole = true;
        for (from, length) in pieces {
            let came = self.segment.piece(file, *from, *length, &mut |step| {
                host::interrupt::check()?;
                self.bytes += step;
                let bytes = self.bytes;
                (self.progress)(Progress { entries, bytes, of, path: &line.path });
                Ok(())
            })?;
            whole &= came == Came::All;
        }
        self.segment.pad(head.size)?;
        self.captured.copied.bytes += line.stored;
        let after = Meta::read(file).context("cannot look at it again")?;
        Ok(whole && after == entry.meta)
    }
}

fn is_leased(error: &anyhow::Error) -> bool {
    let missed = error.downcast_ref::<Missed>();
    missed.is_some_and(|missed| matches!(missed.cause, Cause::Leased(_)))
}

/// Whether it is no longer what the scan saw.
fn moved(line: &Line, meta: &Meta) -> bool {
    let now = Line::of(&line.path, meta);
    let seen = |line: &Line| (line.ino, line.size, line.modified);
    line.changed.is_some_and(|changed| changed != meta.changed)
        || seen(line) != seen(&now)
        || !line.same_kind(&now)
}

fn attributes_of(held: Held<'_>) -> Result<Attributes> {
    attributes::read(held).context("cannot read its extended attributes")
}

fn kind(what: What) -> EntryType {
    match what {
        What::Folder => EntryType::Directory,
        What::HardLink => EntryType::Link,
        What::Link => EntryType::Symlink,
        What::Pipe => EntryType::Fifo,
        What::CharDevice => EntryType::Char,
        What::BlockDevice => EntryType::Block,
        What::File | What::Socket => EntryType::Regular,
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
