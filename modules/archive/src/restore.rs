//! A tree made again from its index and segments.
//!
//! The index says what there is, in order, and each segment holds its entries in the same order: so all
//! are read side by side, once, each decompressed by a thread of its own.
//! Invariants: whatever index and segments say, nothing outside of the folder is made, changed or
//! removed: names are taken apart, each folder is opened from the root with nothing followed, and
//! files are made and never opened. When it ends well, all is on the disk, and is what the index says;
//! and each segment that something was wanted of has the sum that was given for it.

mod hashed;
mod make;

use crate::capture::Progress;
use crate::decode;
use crate::fault::{Damaged, NotEmpty};
use crate::head::Head;
use crate::index::IndexReader;
use crate::line::{Line, What};
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

/// After so many bytes the disk begins to write: at the end there is little to wait for.
const SYNC_EVERY: u64 = 64 << 20;

/// A segment as it lies in a backup.
pub struct Stored {
    pub number: u32,
    pub file: File,
    /// Of the file, in hex: it is hashed while it is read, so that nobody has to read it before.
    pub sha256: Option<String>,
}

/// What was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub entries: u64,
    pub bytes: u64,
    /// Attributes that this file system does not take, as "path: name".
    pub unset: crate::fault::Named,
}

/// Into an empty folder. Segments that nothing is wanted of may be missing. A folder that was left half filled is
/// to be cleared first.
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
            sources.insert(number, SegmentSource { from, asked: 0 });
            decoding.push((number, scope.spawn(move || decode_to(stored, inlet))));
        }
        let mut putting = Putting { maker: Maker::new(&tree)?, sources, groups: HashMap::new() };
        let (wake, woken) = sync_channel::<()>(1);
        let syncing = scope.spawn(|| woken.into_iter().try_for_each(|()| syncfs(&into)));
        let mut asked = 0;
        let done = putting.all(&mut index, &mut |now| {
            if now.bytes - asked >= SYNC_EVERY {
                asked = now.bytes;
                // Full: it is at work, and the next time will do.
                let _ = wake.try_send(());
            }
            progress(now);
        });
        let done = done.map(|()| std::mem::take(&mut putting.maker.counts));
        drop((putting, wake));
        let synced = syncing.join().map_err(|_| anyhow!("a thread of ours died"))?;
        let done = done.and_then(|counts| {
            synced.context("cannot sync what was put back")?;
            Ok(counts)
        });
        // A damage that a decoder found looks like an early end to the one who reads.
        let damage = decoding.into_iter().find_map(|(number, thread)| match thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(Damaged(format!("segment {number} is damaged: {why}")).into()),
            Err(_) => Some(anyhow!("a thread of ours died")),
        });
        match (done, damage) {
            (Ok(_), Some(damage)) => Err(damage),
            (Err(error), Some(damage)) if error.is::<Damaged>() => Err(damage),
            (done, _) => done,
        }
    })?;
    // One call for all files, where each file's own would wait for the disk each time.
    syncfs(&into).context("cannot sync what was put back")?;
    Ok(counts)
}

fn decode_to(stored: Stored, to: Inlet) -> Result<(), String> {
    let Stored { file, sha256, .. } = stored;
    let mut from = BufReader::with_capacity(256 << 10, Hashed::new(file));
    decode::run(&mut from, &to)?;
    // Not at its end: whoever wanted something of it has left, and not because all was well.
    let at_end = from.fill_buf().is_ok_and(<[u8]>::is_empty);
    match sha256 {
        Some(sum) if at_end && from.into_inner().sum() != sum => Err("its sum differs".into()),
        _ => Ok(()),
    }
}

struct SegmentSource {
    from: Reader<Outlet>,
    /// Entries that were asked for; a segment that nothing was asked of is not read to its end.
    asked: u64,
}

struct Putting<'a> {
    maker: Maker<'a>,
    sources: HashMap<u32, SegmentSource>,
    /// Files that have more names: the first one's path, and how many are still to come.
    groups: HashMap<(u64, u64), Group>,
}

struct Group {
    first: PathBuf,
    size: u64,
    modified: (i64, u32),
    left: u64,
}

impl Putting<'_> {
    fn all(
        &mut self,
        index: &mut IndexReader,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        while let Some(line) = index.read()? {
            host::interrupt::check()?;
            let path = line.path.clone();
            if let Err(error) = self.one(line, progress) {
                // Only at its end the index says whether it is sound: what it said may be the cause.
                while index.read()?.is_some() {}
                return Err(error.context(format!("cannot put {} back", path.display())));
            }
            let counts = &self.maker.counts;
            let (entries, bytes) = (counts.entries, counts.bytes);
            progress(Progress { entries, bytes, of: 0, path: &path });
        }
        self.maker.finish()?;
        for (_, source) in self.sources.drain().filter(|(_, source)| source.asked > 0) {
            source.from.finish()?;
        }
        Ok(())
    }

    fn one(&mut self, line: Line, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        self.maker.leave(&line.path)?;
        if line.what == What::Socket {
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
            } else if line.what != What::HardLink {
                let (first, left) = (line.path.clone(), line.links - 1);
                let (size, modified) = (line.size, line.modified);
                self.groups.insert(key, Group { first, size, modified, left });
            }
        }
        if line.what == What::HardLink {
            return Err(damaged("what it is a further name of comes nowhere before it"));
        }
        let number = line.segment.ok_or_else(|| damaged("its content is nowhere"))?;
        let source = self.sources.get_mut(&number);
        let source = source.ok_or_else(|| Damaged(format!("segment {number} is missing")))?;
        source.asked += 1;
        let head = find(&mut source.from, &line)?;
        self.maker.make(line, head, &mut source.from, progress)
    }
}

/// Goes to the entry, which is the last of those with its name.
fn find(from: &mut Reader<Outlet>, line: &Line) -> Result<Head> {
    let mut left = line.times.max(1);
    loop {
        let Some(head) = from.next()? else {
            return Err(from.damaged("it does not hold what the index says"));
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
        let right = match (line.what, head.kind) {
            (What::File, EntryType::Regular) => size == line.size,
            (What::Link, EntryType::Symlink) => head.target.len() as u64 == line.size,
            (What::Folder, EntryType::Directory)
            | (What::Pipe, EntryType::Fifo)
            | (What::CharDevice, EntryType::Char)
            | (What::BlockDevice, EntryType::Block) => true,
            _ => false,
        };
        return match right {
            true => Ok(head),
            false => Err(from.damaged("it holds something else than the index says")),
        };
    }
}

fn damaged(why: &str) -> anyhow::Error {
    Damaged(format!("the index is damaged: {why}")).into()
}

/// The folder that a path lies in, and its name there; the root has none.
fn split(path: &Path) -> Option<(&Path, &std::ffi::OsStr)> {
    Some((path.parent()?, path.file_name()?)).filter(|_| !path.as_os_str().as_bytes().is_empty())
}
