//! Copies the data of the mounts in one or two passes, and links what earlier backups already have.
//!
//! Invariants: a linked file was hashed in this run and has the sum of the earlier manifest, else the whole
//! mount is copied again; during the last pass nothing writes to the data.

use crate::backup_dir::BackupDir;
use crate::backup_writer::BackupWriter;
use crate::manifest::{Kind, Mount, NotData, SegmentRecord, Sum};
use crate::options::Compression;
use crate::progress::Progress;
use ansible_module::Failure;
use anyhow::{Context, Error, Result};
use archive::chain::{self, Used};
use archive::{Captured, Form, IndexReader, IndexWriter, Scan, Segment, Source, Writers};
use host::beneath::Mounts;
use host::walk::Tree;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The approximate size of an entry without its content.
const ENTRY: u64 = 100;

impl From<Compression> for Form {
    fn from(compression: Compression) -> Form {
        match compression {
            Compression::Zstd => Form::Zstd,
            Compression::Gzip => Form::Gzip,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// All containers run, and another pass follows.
    Live,
    /// All containers run, and no other pass follows.
    OnlyLive,
    /// Containers that write are paused.
    Paused,
    /// Nothing writes.
    Quiet,
}

/// A mount in the newest backup that has it.
#[derive(Clone, Debug)]
pub struct EarlierCopy {
    folder: PathBuf,
    mount: Mount,
    sums: BTreeMap<String, Sum>,
}

impl EarlierCopy {
    pub fn of(stored: &BackupDir, mount: &Mount) -> Option<EarlierCopy> {
        let name = |one: &Mount| one.volume.as_ref().map(|volume| volume.name.clone());
        let same = |one: &&Mount| {
            one.source == mount.source
                && name(one) == name(mount)
                && (one.kind == Kind::File) == (mount.kind == Kind::File)
        };
        stored.valid().find_map(|(kept, manifest)| {
            let before = manifest.mounts.iter().find(same)?;
            let names = before.segments.iter().map(|one| &one.file).chain([&before.index]);
            let sums =
                names.filter_map(|name| Some((name.clone(), manifest.contents.get(name)?.clone())));
            Some(EarlierCopy {
                folder: kept.path.clone(),
                mount: before.clone(),
                sums: sums.collect(),
            })
        })
    }

    fn should_start_over(&self) -> bool {
        let segments = &self.mount.segments;
        let stored = segments.iter().map(|one| (one.number, one.stored)).collect();
        let used =
            segments.iter().map(|one| (one.number, Used { entries: 1, bytes: one.used })).collect();
        chain::should_start_new_chain(&stored, &used)
    }

    fn index(&self) -> Result<IndexReader> {
        IndexReader::new(File::open(self.folder.join(&self.mount.index))?)
    }
}

/// The tree of a mount, or the single file of it.
struct MountTree {
    tree: Tree,
    only: Option<OsString>,
}

impl MountTree {
    fn open(mount: &Mount) -> Result<MountTree> {
        MountTree::at(&mount.source, mount.kind == Kind::File)
    }

    fn at(path: &Path, is_file: bool) -> Result<MountTree> {
        let (root, only) = match is_file {
            true => {
                let parent = path.parent().context("a file has no parent folder")?;
                (parent, path.file_name().map(OsString::from))
            }
            false => (path, None),
        };
        Ok(MountTree { tree: Tree::open(root, Mounts::Cross)?, only })
    }

    fn source(&self) -> Source<'_> {
        Source { tree: &self.tree, only: self.only.as_deref(), leave_out: &[] }
    }

    /// Returns the size on disk of everything that has changed since the index; of everything without one.
    fn changed(&self, since: Option<IndexReader>, scratch: &Path) -> Result<u64> {
        let totals = Scan::new(&self.source(), since, Writers::Stopped, scratch)?.totals;
        Ok(totals.to_copy + ENTRY * totals.to_copy_entries)
    }
}

/// Estimates how much of a mount would be copied, as its size on disk.
pub fn estimate(mount: &Mount, before: Option<&EarlierCopy>, scratch: &Path) -> Result<u64> {
    let tree = MountTree::open(mount)?;
    let before =
        before.filter(|before| !before.should_start_over()).and_then(|before| before.index().ok());
    tree.changed(before, scratch).map_err(|why| unreadable(mount, why))
}

/// Returns an upper bound of what was written below `path` since `index` was made: a file whose change time
/// says nothing counts as written. Without a readable index everything counts.
pub fn written(path: &Path, index: Option<&Path>, scratch: &Path) -> Result<u64> {
    let is_file = !path.symlink_metadata()?.is_dir();
    let tree = MountTree::at(path, is_file)?;
    let since = index.and_then(|index| IndexReader::new(File::open(index).ok()?).ok());
    match since.map(|since| tree.changed(Some(since), scratch)) {
        Some(Ok(bytes)) => Ok(bytes),
        _ => tree.changed(None, scratch),
    }
}

pub struct Data {
    form: Form,
    mounts: Vec<MountCopy>,
}

/// A mount that is being copied.
struct MountCopy {
    mount: Mount,
    tree: MountTree,
    /// The segments that are linked from an earlier backup and those that were made so far.
    segments: Vec<SegmentRecord>,
    /// The newest index, in the new backup or in an earlier one.
    index: Option<PathBuf>,
    captured: Captured,
}

impl Data {
    /// Links what earlier backups already have.
    pub fn new(
        stored: &BackupDir,
        mounts: &[Mount],
        form: Form,
        writer: &mut BackupWriter,
    ) -> Result<Data> {
        writer.subfolder("data")?;
        let mounts = mounts.iter().map(|mount| {
            let tree = MountTree::open(mount).map_err(|why| unreadable(mount, why))?;
            let mut one = MountCopy {
                mount: mount.clone(),
                tree,
                segments: Vec::new(),
                index: None,
                captured: Captured::default(),
            };
            if let Some(before) =
                EarlierCopy::of(stored, mount).filter(|before| !before.should_start_over())
            {
                one.link(&before, writer)?;
            }
            Ok(one)
        });
        Ok(Data { form, mounts: mounts.collect::<Result<_>>()? })
    }

    pub fn pass(
        &mut self,
        pass: Pass,
        writers_elsewhere: bool,
        writer: &mut BackupWriter,
        progress: &mut Progress,
    ) -> Result<()> {
        for one in &mut self.mounts {
            let title = one.mount.title();
            progress.begin(format!("data of {title}"), None);
            one.pass(pass, writers_elsewhere, self.form, writer, progress)
                .map_err(|why| unreadable(&one.mount, why))?;
        }
        Ok(())
    }

    /// Returns the sockets in the data, which are not copied: programs make them when they listen.
    pub fn sockets(&self) -> Vec<NotData> {
        let of_one = |one: &MountCopy| {
            let paths = one.captured.sockets.first.clone();
            let (root, user) = (one.mount.source.clone(), one.mount.users.first().cloned());
            let named = paths.into_iter().map(move |path| NotData {
                target: user.as_ref().map(|user| user.target.join(&path)).unwrap_or_default(),
                service: user.as_ref().map(|user| user.service.clone()).unwrap_or_default(),
                source: root.join(path),
                why: "a socket".to_owned(),
            });
            named.collect::<Vec<_>>()
        };
        self.mounts.iter().flat_map(of_one).collect()
    }

    /// Returns the records for the manifest, and the files that changed each time they were read.
    pub fn finish(self, writer: &mut BackupWriter) -> Result<(Vec<Mount>, Vec<String>)> {
        let (mut mounts, mut changed) = (Vec::new(), Vec::new());
        for one in self.mounts {
            let root = one.mount.source.clone();
            let unstable = &one.captured.unstable;
            changed.extend(unstable.first.iter().map(|path| root.join(path).display().to_string()));
            if unstable.count > unstable.first.len() as u64 {
                changed.push(format!(
                    "{} more below {}",
                    unstable.count - unstable.first.len() as u64,
                    root.display()
                ));
            }
            mounts.push(one.finish(writer)?);
        }
        Ok((mounts, changed))
    }
}

impl MountCopy {
    /// Links all files of an earlier copy or none, since an index is useless without one of its segments.
    fn link(&mut self, before: &EarlierCopy, writer: &mut BackupWriter) -> Result<()> {
        let mut linked = Vec::new();
        for segment in before.mount.segments.iter().filter(|one| one.used > 0 || one.stored == 0) {
            let ending = segment.file.split_once(".tar.").map_or("zst", |(_, ending)| ending);
            let file = format!("data/{}.{}.tar.{ending}", self.mount.n, segment.number);
            let sum = before.sums.get(&segment.file);
            let is_linked = sum.is_some_and(|sum| {
                writer.link(&before.folder.join(&segment.file), &file, sum).unwrap_or(false)
            });
            if !is_linked {
                host::interrupt::check()?;
                return linked.iter().try_for_each(|one: &SegmentRecord| writer.unlink(&one.file));
            }
            linked.push(SegmentRecord { file, ..segment.clone() });
        }
        let path = before.folder.join(&before.mount.index);
        let is_intact = before.sums.get(&before.mount.index).is_some_and(|sum| {
            crate::backup_writer::sum_of(&path).is_ok_and(|(sha256, _)| sha256 == sum.sha256)
        });
        if !is_intact {
            return linked.iter().try_for_each(|one| writer.unlink(&one.file));
        }
        self.segments = linked;
        self.index = Some(path);
        Ok(())
    }

    fn pass(
        &mut self,
        pass: Pass,
        writers_elsewhere: bool,
        form: Form,
        writer: &mut BackupWriter,
        progress: &mut Progress,
    ) -> Result<()> {
        // A copy before the freeze is useless if later changes cannot be detected.
        if pass == Pass::Live && !archive::scan::has_reliable_change_times(&self.tree.tree)? {
            return Ok(());
        }
        let source = self.tree.source();
        let before =
            self.index.as_ref().map(|path| IndexReader::new(File::open(path)?)).transpose()?;
        let writers = match pass {
            Pass::Quiet if !writers_elsewhere => Writers::Stopped,
            _ => Writers::Running,
        };
        let scan = Scan::new(&source, before, writers, &writer.folder)?;
        let number = self.segments.iter().map(|one| one.number + 1).max().unwrap_or(0);
        let n = self.mount.n;
        let ending = if form == Form::Zstd { "zst" } else { "gz" };
        let name = format!("data/{n}.{number}.tar.{ending}");
        let (index, how) = match pass {
            Pass::Live => (format!("data/{n}.live.index.zst"), archive::Pass::First),
            _ => (format!("data/{n}.index.zst"), archive::Pass::Last),
        };
        let mut segment = Segment::new(writer.create(&name)?, form, number)?;
        let mut lines = IndexWriter::new(writer.create(&index)?, Form::Zstd)?;
        let captured = scan
            .copy(&source, how, &mut segment, &mut lines, &mut |now| progress.update(now.bytes))?;
        let written = segment.finish()?;
        let listed = lines.finish()?;
        match captured.copied.entries {
            0 => std::fs::remove_file(writer.path(&name))?,
            _ => {
                writer.wrote(&name, &written.sha256, written.bytes);
                let stored = captured.copied.bytes;
                self.segments.push(SegmentRecord { number, file: name, stored, used: 0 });
            }
        }
        if pass != Pass::Live {
            writer.wrote(&index, &listed.sha256, listed.bytes);
        }
        self.index = Some(writer.path(&index));
        self.captured = captured;
        Ok(())
    }

    fn finish(mut self, writer: &mut BackupWriter) -> Result<Mount> {
        let n = self.mount.n;
        let live = writer.path(&format!("data/{n}.live.index.zst"));
        if live.exists() {
            std::fs::remove_file(&live)?;
        }
        for segment in &mut self.segments {
            segment.used = self.captured.used.get(&segment.number).map_or(0, |used| used.bytes);
        }
        let wanted = |one: &SegmentRecord| self.captured.used.contains_key(&one.number);
        let (kept, surplus): (Vec<_>, Vec<_>) = self.segments.into_iter().partition(wanted);
        surplus.iter().try_for_each(|one| writer.unlink(&one.file))?;
        self.mount.segments = kept;
        self.mount.index = format!("data/{n}.index.zst");
        self.mount.entries = self.captured.entries;
        self.mount.bytes = self.captured.bytes;
        Ok(self.mount)
    }
}

/// Adds the mount to an error and keeps its reason.
fn unreadable(mount: &Mount, why: Error) -> Error {
    let code = archive::reason(&why);
    let context = format!("copying {}", mount.title());
    match code {
        Some("unreadable") => {
            let msg = format!("cannot read all of {}; no backup was made", mount.title());
            Failure::new("unreadable", msg).caused_by(why).into()
        }
        Some("bad_archive") => Failure::new("damaged", context).caused_by(why).into(),
        _ => why.context(context),
    }
}
