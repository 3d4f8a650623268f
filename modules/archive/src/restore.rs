//! Restores a tree from its index and segments.
//!
//! The segments hold their entries in the order of the index: so all of them are read once and in
//! parallel, each decompressed by its own thread.
//! Invariants: whatever index and segments say, nothing outside of the folder is created, changed or
//! removed: names are split into parts, each folder is opened from the root without following links,
//! and files are created and never opened. After success the tree is on the disk as the index says, and
//! each segment that was read has its expected checksum.

mod hashed;
mod make;

use crate::capture::Progress;
use crate::decode;
use crate::fault::{Damaged, NotEmpty};
use crate::head::Head;
use crate::index::IndexReader;
use crate::line::{EntryKind, Line};
use crate::names::parts;
use crate::pipe::{Inlet, Outlet, pipe};
use crate::segment::Reader;
use anyhow::{Context, Result, anyhow, ensure};
use hashed::Hashed;
use host::beneath::{Dir, Mounts};
use host::walk::Tree;
use make::Maker;
use rustix::fs::syncfs;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;
use tar::EntryType;

/// After so many bytes a sync is started, so that the last one has little to wait for.
const SYNC_EVERY: u64 = 64 << 20;

/// A segment of a backup.
pub struct Stored {
    pub number: u32,
    pub file: File,
    /// Expected checksum of the file, in hex; the file is hashed while it is restored.
    pub sha256: Option<String>,
}

/// What a restore has created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub entries: u64,
    pub bytes: u64,
    /// Attributes that this file system does not support, as "path: name".
    pub unset: crate::fault::PathSample,
}

/// Restores into an empty folder; one that a killed run has left half filled must be cleared first.
/// Segments that the index does not refer to may be missing.
pub fn restore(
    index: File,
    segments: Vec<Stored>,
    into: Dir,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Counts> {
    let tree = Tree::at(into.try_clone().context("cannot keep the folder open")?, Mounts::Refuse)?;
    ensure!(tree.walk().next().is_none(), NotEmpty);
    let mut index = IndexReader::new(index)?;
    let counts = thread::scope(|scope| {
        let mut sources = HashMap::new();
        let mut decoding = Vec::new();
        for stored in segments {
            let (inlet, outlet) = pipe();
            let number = stored.number;
            let from = Reader::new(number, outlet);
            sources.insert(number, SegmentSource { from, entries: 0 });
            decoding.push((number, scope.spawn(move || decode_to(stored, inlet))));
        }
        let mut restorer = Restorer { maker: Maker::new(&tree)?, sources, groups: HashMap::new() };
        let (wake, woken) = sync_channel::<()>(1);
        let syncing = scope.spawn(|| woken.into_iter().try_for_each(|()| syncfs(&into)));
        let mut asked = 0;
        let done = restorer.restore_all(&mut index, &mut |now| {
            if now.bytes - asked >= SYNC_EVERY {
                asked = now.bytes;
                // Full: a sync is running, and the next request will cover this.
                let _ = wake.try_send(());
            }
            progress(now);
        });
        let done = done.map(|()| std::mem::take(&mut restorer.maker.counts));
        drop((restorer, wake));
        let synced = syncing.join().map_err(|_| anyhow!("a worker thread panicked"))?;
        let done = done.and_then(|counts| {
            synced.context("cannot sync the restored files")?;
            Ok(counts)
        });
        // To the reader, damage that a decoder has found looks like an early end.
        let damage = decoding.into_iter().find_map(|(number, thread)| match thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(Damaged(format!("segment {number} is damaged: {why}")).into()),
            Err(_) => Some(anyhow!("a worker thread panicked")),
        });
        match (done, damage) {
            (Ok(_), Some(damage)) => Err(damage),
            (Err(error), Some(damage)) if error.is::<Damaged>() => Err(damage),
            (done, _) => done,
        }
    })?;
    // One call for all files: a sync of each would wait for the disk each time.
    syncfs(&into).context("cannot sync the restored files")?;
    Ok(counts)
}

fn decode_to(stored: Stored, to: Inlet) -> Result<(), String> {
    let Stored { file, sha256, .. } = stored;
    let mut from = BufReader::with_capacity(256 << 10, Hashed::new(file));
    decode::run(&mut from, &to)?;
    // Before its end only a failed restore stops reading, so the checksum is not needed.
    let at_end = from.fill_buf().is_ok_and(<[u8]>::is_empty);
    match sha256 {
        Some(sum) if at_end && from.into_inner().sum() != sum => Err("its sum differs".into()),
        _ => Ok(()),
    }
}

struct SegmentSource {
    from: Reader<Outlet>,
    /// Entries restored from it; an unused segment is not read to its end.
    entries: u64,
}

struct Restorer<'a> {
    maker: Maker<'a>,
    sources: HashMap<u32, SegmentSource>,
    /// Files with several names of which some are still to come.
    groups: HashMap<(u64, u64), Group>,
}

struct Group {
    first: PathBuf,
    size: u64,
    modified: (i64, u32),
    /// How many names are still to come.
    left: u64,
}

impl Restorer<'_> {
    fn restore_all(
        &mut self,
        index: &mut IndexReader,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        while let Some(line) = index.read()? {
            host::interrupt::check()?;
            let path = line.path.clone();
            if let Err(error) = self.restore_entry(line, progress) {
                // A damaged index may be the cause, and only its end shows whether it is sound.
                while index.read()?.is_some() {}
                return Err(error.context(format!("cannot restore {}", path.display())));
            }
            let counts = &self.maker.counts;
            let (entries, bytes) = (counts.entries, counts.bytes);
            progress(Progress { entries, bytes, total: 0, path: &path });
        }
        self.maker.finish()?;
        for (_, source) in self.sources.drain().filter(|(_, source)| source.entries > 0) {
            source.from.finish()?;
        }
        Ok(())
    }

    fn restore_entry(&mut self, line: Line, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        self.maker.complete_folders(&line.path)?;
        if line.kind == EntryKind::Socket {
            return Ok(());
        }
        if let Some(key) = line.shared() {
            if let Some(group) = self.groups.get_mut(&key) {
                let same = (group.size, group.modified) == (line.size, line.modified);
                if same {
                    self.maker.hard_link(&group.first, &line.path)?;
                    group.left = group.left.saturating_sub(1);
                    if group.left == 0 {
                        self.groups.remove(&key);
                    }
                    return Ok(());
                }
            } else if line.kind != EntryKind::HardLink {
                let (first, left) = (line.path.clone(), line.links - 1);
                let (size, modified) = (line.size, line.modified);
                self.groups.insert(key, Group { first, size, modified, left });
            }
        }
        if line.kind == EntryKind::HardLink {
            return Err(damaged("the first name of this hard link does not stand before it"));
        }
        let number = line.segment.ok_or_else(|| damaged("no segment is named for its content"))?;
        let source = self.sources.get_mut(&number);
        let source = source.ok_or_else(|| Damaged(format!("segment {number} is missing")))?;
        source.entries += 1;
        let head = find(&mut source.from, &line)?;
        self.maker.make(line, head, &mut source.from, progress)
    }
}

/// Finds the newest copy of the entry, which is the last one with its name.
fn find(from: &mut Reader<Outlet>, line: &Line) -> Result<Head> {
    let mut left = line.copies.max(1);
    loop {
        let Some(head) = from.next()? else {
            return Err(from.damaged("it lacks an entry of the index"));
        };
        let path: PathBuf = parts(&head.name)
            .map_err(|why| from.damaged(&format!("it holds an entry that {why}")))?
            .iter()
            .collect();
        if path != line.path {
            continue;
        }
        left -= 1;
        if left > 0 {
            continue;
        }
        let size = head.sparse.unwrap_or(head.size);
        let right = match (line.kind, head.kind) {
            (EntryKind::File, EntryType::Regular) => size == line.size,
            (EntryKind::Link, EntryType::Symlink) => head.target.len() as u64 == line.size,
            (EntryKind::Folder, EntryType::Directory)
            | (EntryKind::Pipe, EntryType::Fifo)
            | (EntryKind::CharDevice, EntryType::Char)
            | (EntryKind::BlockDevice, EntryType::Block) => true,
            _ => false,
        };
        return match right {
            true => Ok(head),
            false => Err(from.damaged("an entry differs in kind or size from the index")),
        };
    }
}

fn damaged(why: &str) -> anyhow::Error {
    Damaged(format!("the index is damaged: {why}")).into()
}

/// Splits a path into its folder and its name there; `None` for the root.
fn split(path: &Path) -> Option<(&Path, &std::ffi::OsStr)> {
    Some((path.parent()?, path.file_name()?)).filter(|_| !path.as_os_str().as_bytes().is_empty())
}
