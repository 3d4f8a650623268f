//! Looking at a whole tree, and at what an earlier index knows of it: what must be copied?
//!
//! A file counts as unchanged when its change time, size, inode, mode and owner are as they were. The
//! change time says so only under conditions, and where they do not hold the line has none, so that
//! the file is copied each time: file systems that tell it late or not at all (network, FUSE, and
//! tmpfs, which does not move it for writes through memory), and a change so shortly before the look that
//! another one could bear the same time.
//!
//! Invariant: with [`Writers::There`] the file systems are synced after the look and before anything is
//! read. A page of a mapped file that was dirty already can be written to without a trace; after the
//! sync it is clean, and the next write moves the change time.

use crate::Form;
use crate::fault::Named;
use crate::index::{IndexReader, IndexWriter};
use crate::line::{Line, What};
use anyhow::{Context, Result, ensure};
use host::meta::Kind;
use host::walk::{Cause, Entry, Missed, Tree, order};
use rustix::fs::{FsWord, fstatfs, syncfs};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Clocks of file systems are coarse, some tell only whole seconds.
const TOO_SHORT: Duration = Duration::from_secs(2);

/// A tree, or one entry of it (a mount can be a single file: then the tree is the folder that it lies
/// in, and the folder itself is no part of it).
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub tree: &'a Tree,
    pub only: Option<&'a OsStr>,
    /// Paths below the root that are passed over, with all that is in them.
    pub leave_out: &'a [PathBuf],
}

/// Who may write while we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Nobody: all programs that had it open have ended.
    Gone,
    /// Somebody, or programs that are frozen and will go on.
    There,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub entries: u64,
    /// As their sizes say, and what they take on the disk.
    pub bytes: u64,
    pub allocated: u64,
    /// Of these, what must be copied (as it lies on the disk).
    pub to_copy: u64,
    pub to_copy_entries: u64,
}

/// A look at a tree. It lies in a file without a name, however many entries there are.
#[derive(Debug)]
pub struct Scan {
    pub totals: Totals,
    /// Mounts inside of the tree that were not entered.
    pub mounts: Named,
    /// Gone, or replaced, while we looked.
    pub vanished: u64,
    lines: File,
}

/// Whether change times of this tree can be trusted at all; if not, copying it before the freeze is
/// of no use.
pub fn tells_changes(tree: &Tree) -> Result<bool> {
    let root = tree.folder(Path::new(""))?;
    trusted(&root).context("cannot tell the kind of the file system")
}

impl Scan {
    /// `before` is an index of the same source. The scratch folder takes some 30 bytes an entry.
    pub fn new(
        source: &Source<'_>,
        before: Option<IndexReader>,
        writers: Writers,
        scratch: &Path,
    ) -> Result<Scan> {
        let unnamed = || {
            tempfile::tempfile_in(scratch)
                .with_context(|| format!("cannot make a file in {}", scratch.display()))
        };
        let lines = unnamed()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut look = Look {
            source,
            before: Before::new(before)?,
            sure_until: now.saturating_sub(TOO_SHORT),
            systems: HashMap::new(),
            groups: BTreeMap::new(),
            out: IndexWriter::new(
                lines.try_clone().context("cannot keep a file open")?,
                Form::Zstd,
            )?,
            totals: Totals::default(),
            mounts: Named::default(),
            vanished: 0,
        };
        look.all()?;
        if writers == Writers::There {
            for fd in look.systems.values().filter_map(|system| system.handle.as_ref()) {
                syncfs(fd).context("cannot sync the file system that is read")?;
            }
        }
        look.out.finish()?;
        Ok(Scan { totals: look.totals, mounts: look.mounts, vanished: look.vanished, lines })
    }

    /// The lines in their order.
    pub(crate) fn read(&self) -> Result<IndexReader> {
        let mut lines = self.lines.try_clone().context("cannot keep a file open")?;
        lines.seek(SeekFrom::Start(0)).context("cannot read what was looked at")?;
        IndexReader::new(lines)
    }
}

struct Look<'a> {
    source: &'a Source<'a>,
    before: Before,
    /// Changes before this are distinguished from later ones. Since 1970.
    sure_until: Duration,
    /// By device.
    systems: HashMap<u64, System>,
    /// Files with several names that are still to come: the segment of the first one, and how many.
    groups: BTreeMap<(u64, u64), (Option<u32>, u64)>,
    out: IndexWriter,
    totals: Totals,
    mounts: Named,
    vanished: u64,
}

struct System {
    trusted: bool,
    handle: Option<OwnedFd>,
}

impl Look<'_> {
    fn all(&mut self) -> Result<()> {
        let tree = self.source.tree;
        if let Some(name) = self.source.only {
            let entry = tree.entry(Path::new(name))?;
            ensure!(entry.meta.kind != Kind::Folder, "{} is a folder", entry.path.display());
            return self.entry(&entry);
        }
        self.entry(&Entry { path: PathBuf::new(), meta: *tree.meta() })?;
        let mut walk = tree.sorted();
        while let Some(found) = walk.next() {
            host::interrupt::check()?;
            match found {
                Ok(entry) if self.source.leave_out.contains(&entry.path) => walk.pass_over(&entry),
                Ok(entry) => self.entry(&entry)?,
                Err(Missed { cause: Cause::Vanished | Cause::Swapped, .. }) => self.vanished += 1,
                Err(Missed { path, cause: Cause::OtherFilesystem }) => self.mounts.note(path),
                Err(missed) => return Err(missed.into()),
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        let mut line = Line::of(&entry.path, &entry.meta);
        if !self.system(entry)? || !self.is_sure(entry.meta.changed) {
            line.changed = None;
        }
        let first = line.shared().and_then(|key| self.groups.get(&key)).map(|group| group.0);
        let before = self.before.at(&line.path)?.filter(|before| before.unchanged(&line));
        // A further name is worth nothing without the content that it shares.
        let usable =
            |before: &&Line| before.what != What::HardLink || first == Some(before.segment);
        if let Some(before) = before.filter(usable) {
            (line.what, line.stored) = (before.what, before.stored);
            (line.segment, line.times) = (before.segment, before.times);
        }
        self.note_group(&line);
        let Totals { entries, bytes, allocated, to_copy, to_copy_entries } = &mut self.totals;
        *entries += 1;
        let on_disk = match line.what {
            What::File => entry.meta.allocated.min(entry.meta.size),
            _ => 0,
        };
        *bytes += if line.what == What::File { line.size } else { 0 };
        *allocated += on_disk;
        if line.segment.is_none() && line.what != What::Socket {
            *to_copy += on_disk;
            *to_copy_entries += 1;
        }
        self.out.write(&line)
    }

    fn note_group(&mut self, line: &Line) {
        let Some(key) = line.shared() else { return };
        let (_, left) = self.groups.entry(key).or_insert((line.segment, line.links));
        *left -= 1;
        if *left == 0 {
            self.groups.remove(&key);
        }
    }

    fn is_sure(&self, (seconds, nanos): (i64, u32)) -> bool {
        let sure = (self.sure_until.as_secs() as i64, self.sure_until.subsec_nanos());
        (seconds, nanos) < sure
    }

    /// Whether the entry's file system can be trusted; it is remembered for the sync.
    fn system(&mut self, entry: &Entry) -> Result<bool> {
        if let Some(system) = self.systems.get(&entry.meta.dev) {
            return Ok(system.trusted);
        }
        let tree = self.source.tree;
        let handle = match entry.meta.kind {
            Kind::Folder => tree.folder(&entry.path).map(|dir| Some(dir.into())),
            Kind::File => tree.open_file(entry).map(|file| Some(file.into())),
            // Mounted for itself: rare enough to be copied each time.
            Kind::Link | Kind::Special => Ok(None),
        };
        let system = match handle {
            Ok(Some(fd)) => System {
                trusted: trusted(&fd)
                    .with_context(|| format!("cannot ask where {} lies", entry.path.display()))?,
                handle: Some(fd),
            },
            Ok(None) => System { trusted: false, handle: None },
            // It will be missed again when it is read.
            Err(_) => return Ok(false),
        };
        let trusted = system.trusted;
        self.systems.insert(entry.meta.dev, system);
        Ok(trusted)
    }
}

/// The lines of an earlier index, asked for in the same order.
struct Before {
    reader: Option<IndexReader>,
    line: Option<Line>,
}

impl Before {
    fn new(mut reader: Option<IndexReader>) -> Result<Before> {
        let line = reader.as_mut().map(IndexReader::read).transpose()?.flatten();
        Ok(Before { reader, line })
    }

    fn at(&mut self, path: &Path) -> Result<Option<&Line>> {
        while let (Some(reader), Some(line)) = (&mut self.reader, &self.line) {
            match order(&line.path, path) {
                Ordering::Less => self.line = reader.read()?,
                Ordering::Equal => break,
                Ordering::Greater => return Ok(None),
            }
        }
        Ok(self.line.as_ref())
    }
}

/// File systems of this machine whose change time is known to move with every change.
fn trusted(fd: impl AsFd) -> rustix::io::Result<bool> {
    const KNOWN: [FsWord; 8] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683e, // btrfs
        0x2fc1_2fc1, // zfs
        0x794c_7630, // overlay: that of the files below
        0xf2f5_2010, // f2fs
        0xca45_1a4e, // bcachefs
        0x3153_464a, // jfs
    ];
    Ok(KNOWN.contains(&fstatfs(fd)?.f_type))
}
