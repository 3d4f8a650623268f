//! Scans a whole tree, and compares it with an earlier index to find what must be copied.
//!
//! A file counts as unchanged when its change time, size, inode, mode and owner are as they were. The
//! line of a file whose change time proves nothing has none, so that the file is copied each time. It
//! proves nothing on file systems that update it late or not at all (network, FUSE, and tmpfs, which
//! does not update it for writes through memory), and after a change so shortly before the scan that
//! another change could have the same time.
//!
//! Invariant: with [`Writers::Running`] the file systems are synced after the scan and before any file
//! is read. A page of a mapped file that is dirty already can be written to without a new change time;
//! after the sync it is clean, and the next write updates the change time.

use crate::Form;
use crate::fault::PathSample;
use crate::index::{IndexReader, IndexWriter};
use crate::line::{EntryKind, Line};
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

/// File systems have coarse clocks, some with whole seconds only.
const CLOCK_RESOLUTION: Duration = Duration::from_secs(2);

/// A tree, or one entry of it: a mount can be a single file, and then the tree is its folder, which
/// does not belong to the source.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub tree: &'a Tree,
    pub only: Option<&'a OsStr>,
    /// Paths below the root that are skipped, with everything in them.
    pub leave_out: &'a [PathBuf],
}

/// Whether programs may write while the tree is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// None: all programs that had the tree open have ended.
    Stopped,
    /// Some run, or are frozen and will continue.
    Running,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub entries: u64,
    /// Sum of the sizes, and of what the files take on the disk.
    pub bytes: u64,
    pub allocated: u64,
    /// The part that must be copied, in bytes on the disk.
    pub to_copy: u64,
    pub to_copy_entries: u64,
}

/// The result of a scan. Its lines are in an unnamed file, so that any number of entries takes no memory.
#[derive(Debug)]
pub struct Scan {
    pub totals: Totals,
    /// Mounts inside the tree, which are not entered.
    pub mounts: PathSample,
    /// How many entries were removed or replaced during the scan.
    pub vanished: u64,
    lines: File,
}

/// Whether the file system of this tree has reliable change times; if not, copying it before the
/// programs are stopped is of no use.
pub fn has_reliable_change_times(tree: &Tree) -> Result<bool> {
    let root = tree.folder(Path::new(""))?;
    reliable(&root).context("cannot determine the kind of the file system")
}

impl Scan {
    /// Scans the source; `before` is an earlier index of it. The scratch folder needs some 30 bytes for
    /// each entry.
    pub fn new(
        source: &Source<'_>,
        before: Option<IndexReader>,
        writers: Writers,
        scratch: &Path,
    ) -> Result<Scan> {
        let unnamed = || {
            tempfile::tempfile_in(scratch)
                .with_context(|| format!("cannot create a file in {}", scratch.display()))
        };
        let lines = unnamed()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut scanner = Scanner {
            source,
            before: EarlierIndex::new(before)?,
            sure_until: now.saturating_sub(CLOCK_RESOLUTION),
            systems: HashMap::new(),
            groups: BTreeMap::new(),
            out: IndexWriter::new(
                lines.try_clone().context("cannot duplicate a descriptor")?,
                Form::Zstd,
            )?,
            totals: Totals::default(),
            mounts: PathSample::default(),
            vanished: 0,
        };
        scanner.scan()?;
        if writers == Writers::Running {
            for fd in scanner.systems.values().filter_map(|system| system.handle.as_ref()) {
                syncfs(fd).context("cannot sync the file system that is read")?;
            }
        }
        scanner.out.finish()?;
        Ok(Scan {
            totals: scanner.totals,
            mounts: scanner.mounts,
            vanished: scanner.vanished,
            lines,
        })
    }

    /// Opens the lines of the scan.
    pub(crate) fn read(&self) -> Result<IndexReader> {
        let mut lines = self.lines.try_clone().context("cannot duplicate a descriptor")?;
        lines.seek(SeekFrom::Start(0)).context("cannot read the lines of the scan")?;
        IndexReader::new(lines)
    }
}

struct Scanner<'a> {
    source: &'a Source<'a>,
    before: EarlierIndex,
    /// A change before this time cannot have the same time as a later change. Since 1970.
    sure_until: Duration,
    /// File systems by device number.
    systems: HashMap<u64, System>,
    /// For files with several names: the segment of the first one, and how many are still to come.
    groups: BTreeMap<(u64, u64), (Option<u32>, u64)>,
    out: IndexWriter,
    totals: Totals,
    mounts: PathSample,
    vanished: u64,
}

struct System {
    reliable: bool,
    handle: Option<OwnedFd>,
}

impl Scanner<'_> {
    fn scan(&mut self) -> Result<()> {
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
        let before = self.before.find(&line.path)?.filter(|before| before.unchanged(&line));
        // A further name is of no use without the content that it shares.
        let usable =
            |before: &&Line| before.kind != EntryKind::HardLink || first == Some(before.segment);
        if let Some(before) = before.filter(usable) {
            (line.kind, line.stored) = (before.kind, before.stored);
            (line.segment, line.copies) = (before.segment, before.copies);
        }
        self.note_group(&line);
        let Totals { entries, bytes, allocated, to_copy, to_copy_entries } = &mut self.totals;
        *entries += 1;
        let on_disk = match line.kind {
            EntryKind::File => entry.meta.allocated.min(entry.meta.size),
            _ => 0,
        };
        *bytes += if line.kind == EntryKind::File { line.size } else { 0 };
        *allocated += on_disk;
        if line.segment.is_none() && line.kind != EntryKind::Socket {
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

    /// Whether the entry's file system has reliable change times; it is noted for the sync.
    fn system(&mut self, entry: &Entry) -> Result<bool> {
        if let Some(system) = self.systems.get(&entry.meta.dev) {
            return Ok(system.reliable);
        }
        let tree = self.source.tree;
        let handle = match entry.meta.kind {
            Kind::Folder => tree.folder(&entry.path).map(|dir| Some(dir.into())),
            Kind::File => tree.open_file(entry).map(|file| Some(file.into())),
            // A mount of a link or device is rare enough to be copied each time.
            Kind::Link | Kind::Special => Ok(None),
        };
        let system = match handle {
            Ok(Some(fd)) => System {
                reliable: reliable(&fd).with_context(|| {
                    format!("cannot determine the file system of {}", entry.path.display())
                })?,
                handle: Some(fd),
            },
            Ok(None) => System { reliable: false, handle: None },
            // The same error will be reported when it is read.
            Err(_) => return Ok(false),
        };
        let reliable = system.reliable;
        self.systems.insert(entry.meta.dev, system);
        Ok(reliable)
    }
}

/// The lines of an earlier index, to be looked up in their order.
struct EarlierIndex {
    reader: Option<IndexReader>,
    line: Option<Line>,
}

impl EarlierIndex {
    fn new(mut reader: Option<IndexReader>) -> Result<EarlierIndex> {
        let line = reader.as_mut().map(IndexReader::read).transpose()?.flatten();
        Ok(EarlierIndex { reader, line })
    }

    fn find(&mut self, path: &Path) -> Result<Option<&Line>> {
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

/// Whether this is a local file system that updates the change time with every change.
fn reliable(fd: impl AsFd) -> rustix::io::Result<bool> {
    const RELIABLE: [FsWord; 8] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683e, // btrfs
        0x2fc1_2fc1, // zfs
        0x794c_7630, // overlay: the change time of the files below
        0xf2f5_2010, // f2fs
        0xca45_1a4e, // bcachefs
        0x3153_464a, // jfs
    ];
    Ok(RELIABLE.contains(&fstatfs(fd)?.f_type))
}
