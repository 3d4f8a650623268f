//! Creates one entry after the other below the root.
//!
//! Invariants: a folder is root's alone (0700) until everything in it is created, and gets its owner,
//! attributes, mode and times after that; a file gets them before the next entry. Only two descriptors
//! are open, however deep the tree is.

use super::{Counts, damaged, split};
use crate::attributes::{self, Attributes, Handle};
use crate::capture::Progress;
use crate::head::Head;
use crate::line::{EntryKind, Line};
use crate::segment::Reader;
use crate::sparse::{self, Fault};
use anyhow::{Context, Result};
use host::beneath::Dir;
use host::walk::Tree;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat, chownat,
    fchmod, fchown, futimens, makedev, utimensat,
};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub struct Maker<'a> {
    tree: &'a Tree,
    /// Folder of the previous entry.
    current: (PathBuf, Dir),
    /// The folders on the path down to it, which get their metadata when they are complete.
    open: Vec<(Line, Attributes)>,
    pub counts: Counts,
}

impl<'a> Maker<'a> {
    pub fn new(tree: &'a Tree) -> Result<Maker<'a>> {
        let root = tree.folder(Path::new(""))?;
        // New entries would inherit them.
        attributes::remove_acls(root.as_fd()).context("cannot remove the ACLs of the folder")?;
        Ok(Maker {
            tree,
            current: (PathBuf::new(), root),
            open: Vec::new(),
            counts: Counts::default(),
        })
    }

    /// Completes the open folders that do not contain this path.
    pub fn complete_folders(&mut self, path: &Path) -> Result<()> {
        while self.open.last().is_some_and(|(line, _)| !path.starts_with(&line.path)) {
            self.complete_folder()?;
        }
        Ok(())
    }

    pub fn finish(&mut self) -> Result<()> {
        while !self.open.is_empty() {
            self.complete_folder()?;
        }
        Ok(())
    }

    fn complete_folder(&mut self) -> Result<()> {
        match self.open.pop() {
            Some((line, attributes)) => self.set_folder_attributes(&line, &attributes),
            None => Ok(()),
        }
    }

    pub fn hard_link(&mut self, first: &Path, path: &Path) -> Result<()> {
        let (folder, from) = split(first).ok_or_else(|| damaged("a file has no name"))?;
        let there = self.tree.folder(folder)?;
        let name = self.enter(path)?;
        there.hard_link(from, &self.current.1, name).context("cannot create the hard link")?;
        self.counts.entries += 1;
        Ok(())
    }

    /// Creates an entry from its header and the content after it.
    pub fn make<R: BufRead>(
        &mut self,
        line: Line,
        head: Head,
        from: &mut Reader<R>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        self.counts.entries += 1;
        if line.kind == EntryKind::Folder {
            if !line.path.as_os_str().is_empty() {
                let name = self.enter(&line.path)?;
                self.current.1.make_folder(name, 0o700).context("cannot create the folder")?;
            }
            self.open.push((line, head.attributes));
            return Ok(());
        }
        let name = self.enter(&line.path)?;
        if line.kind == EntryKind::File {
            return self.file(&line, name, &head, from, progress);
        }
        let here = &self.current.1;
        let made = match line.kind {
            EntryKind::Link => here.make_link(name, OsStr::from_bytes(&head.target)),
            EntryKind::Pipe => here.make_special(name, FileType::Fifo, 0),
            _ => {
                let kind = match line.kind {
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::CharacterDevice,
                };
                here.make_special(name, kind, makedev(head.device.0, head.device.1))
            }
        };
        made.context("cannot create it")?;
        self.set_metadata_by_name(&line, name, &head.attributes)
            .context("cannot give it its owner, mode and times")
    }

    fn file<R: BufRead>(
        &mut self,
        line: &Line,
        name: &OsStr,
        head: &Head,
        from: &mut Reader<R>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        let mut file = self.current.1.make_file(name, 0o600).context("cannot create the file")?;
        if let Some(size) = head.sparse {
            let unpacked = sparse::unpack(&mut from.content(), &mut file, size);
            unpacked.map_err(|fault| match fault {
                Fault::Archive(error) => from.read_error(&error),
                Fault::File(error) => anyhow::Error::from(error).context("cannot write the file"),
            })?;
            self.counts.bytes += line.stored;
        } else {
            let mut left = head.size;
            while left > 0 {
                host::interrupt::check()?;
                // Written right from the decompressed buffer, without another copy.
                let mut content = from.content();
                let step = match content.fill_buf() {
                    Ok(piece) => {
                        file.write_all(piece).context("cannot write the file")?;
                        piece.len()
                    }
                    Err(error) => return Err(from.read_error(&error)),
                };
                content.consume(step);
                left -= step as u64;
                self.counts.bytes += step as u64;
                let (entries, bytes) = (self.counts.entries, self.counts.bytes);
                progress(Progress { entries, bytes, total: 0, path: &line.path });
            }
        }
        self.set_metadata(&file, line, &head.attributes)
            .context("cannot give it its owner, mode and times")
    }

    /// Sets owner, attributes, mode and times, in this order: writing and chown clear capabilities and
    /// setuid bits, and an ACL contains bits of the mode.
    fn set_metadata(&mut self, file: &File, line: &Line, attributes: &Attributes) -> Result<()> {
        fchown(file, Some(Uid::from_raw(line.uid)), Some(Gid::from_raw(line.gid)))?;
        if !attributes.is_empty() {
            let unset = attributes::set(Handle::Open(file.as_fd()), attributes)?;
            self.note_unset(line, &unset);
        }
        fchmod(file, Mode::from_raw_mode(line.mode))?;
        futimens(file, &times(line))?;
        Ok(())
    }

    /// Does the same for what cannot be opened. It was just created in a folder of root's alone.
    fn set_metadata_by_name(
        &mut self,
        line: &Line,
        name: &OsStr,
        attributes: &Attributes,
    ) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let here = &self.current.1;
        chownat(here, name, Some(Uid::from_raw(line.uid)), Some(Gid::from_raw(line.gid)), flags)?;
        let held = here.look(Path::new(name))?;
        let unset = match attributes.is_empty() {
            true => Vec::new(),
            false => attributes::set(Handle::Path(held.as_fd()), attributes)?,
        };
        if line.kind != EntryKind::Link {
            // Not every kernel has a chmod that does not follow links.
            let path = format!("/proc/self/fd/{}", held.as_raw_fd());
            chmodat(CWD, path, Mode::from_raw_mode(line.mode), AtFlags::empty())?;
        }
        utimensat(here, name, &times(line), flags)?;
        self.note_unset(line, &unset);
        Ok(())
    }

    fn set_folder_attributes(&mut self, line: &Line, attributes: &Attributes) -> Result<()> {
        let folder = File::from(OwnedFd::from(self.tree.folder(&line.path)?));
        self.set_metadata(&folder, line, attributes).with_context(|| {
            format!("cannot give the folder {} its owner, mode and times", line.path.display())
        })
    }

    fn note_unset(&mut self, line: &Line, unset: &[Vec<u8>]) {
        for name in unset {
            let name = String::from_utf8_lossy(name);
            self.counts.unset.note(format!("{}: {name}", line.path.display()));
        }
    }

    /// Opens the entry's folder, and returns its name there.
    fn enter<'p>(&mut self, path: &'p Path) -> Result<&'p OsStr> {
        let (folder, name) = split(path).ok_or_else(|| damaged("an entry has no name"))?;
        if self.current.0 != folder {
            let is_open = self.open.last().is_some_and(|(line, _)| line.path == folder);
            if !is_open {
                return Err(damaged("its folder does not stand before it"));
            }
            self.current = (folder.to_owned(), self.tree.folder(folder)?);
        }
        Ok(name)
    }
}

fn times(line: &Line) -> Timestamps {
    let (seconds, nanos) = line.modified;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    }
}
