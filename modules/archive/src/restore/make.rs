//! Making one entry after the other below the root.
//!
//! Invariants: a folder belongs to us alone (0700) until all in it is made, and gets owner, attributes,
//! mode and times when it is left; a file gets them before the next entry. Two descriptors are open,
//! however deep the tree is.

use super::{Counts, damaged, split};
use crate::attributes::{self, Attributes, Held};
use crate::capture::Progress;
use crate::head::Head;
use crate::line::{Line, What};
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
    /// The folder of the entry before.
    here: (PathBuf, Dir),
    /// The way down to it, each to be dressed when it is left.
    open: Vec<(Line, Attributes)>,
    pub counts: Counts,
}

impl<'a> Maker<'a> {
    pub fn new(tree: &'a Tree) -> Result<Maker<'a>> {
        let root = tree.folder(Path::new(""))?;
        // What is made in it must not be given any.
        attributes::without_acl(root.as_fd()).context("cannot take the ACLs of the folder away")?;
        Ok(Maker {
            tree,
            here: (PathBuf::new(), root),
            open: Vec::new(),
            counts: Counts::default(),
        })
    }

    /// Before an entry at this path: the folders that it does not lie in are done.
    pub fn leave(&mut self, path: &Path) -> Result<()> {
        while self.open.last().is_some_and(|(line, _)| !path.starts_with(&line.path)) {
            self.leave_one()?;
        }
        Ok(())
    }

    pub fn finish(&mut self) -> Result<()> {
        while !self.open.is_empty() {
            self.leave_one()?;
        }
        Ok(())
    }

    fn leave_one(&mut self) -> Result<()> {
        match self.open.pop() {
            Some((line, attributes)) => self.set_folder_attributes(&line, &attributes),
            None => Ok(()),
        }
    }

    pub fn hard_link(&mut self, first: &Path, path: &Path) -> Result<()> {
        let (folder, from) = split(first).ok_or_else(|| damaged("a file has no name"))?;
        let there = self.tree.folder(folder)?;
        let name = self.enter(path)?;
        there.hard_link(from, &self.here.1, name).context("cannot make the hard link")?;
        self.counts.entries += 1;
        Ok(())
    }

    /// What its head and the content behind it say.
    pub fn make<R: BufRead>(
        &mut self,
        line: Line,
        head: Head,
        from: &mut Reader<R>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        self.counts.entries += 1;
        if line.what == What::Folder {
            if !line.path.as_os_str().is_empty() {
                let name = self.enter(&line.path)?;
                self.here.1.make_folder(name, 0o700).context("cannot make the folder")?;
            }
            self.open.push((line, head.attributes));
            return Ok(());
        }
        let name = self.enter(&line.path)?;
        if line.what == What::File {
            return self.file(&line, name, &head, from, progress);
        }
        let here = &self.here.1;
        let made = match line.what {
            What::Link => here.make_link(name, OsStr::from_bytes(&head.target)),
            What::Pipe => here.make_special(name, FileType::Fifo, 0),
            _ => {
                let kind = match line.what {
                    What::BlockDevice => FileType::BlockDevice,
                    _ => FileType::CharacterDevice,
                };
                here.make_special(name, kind, makedev(head.device.0, head.device.1))
            }
        };
        made.context("cannot make it")?;
        self.dress_by_name(&line, name, &head.attributes)
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
        let mut file = self.here.1.make_file(name, 0o600).context("cannot make the file")?;
        if let Some(size) = head.sparse {
            let unpacked = sparse::unpack(&mut from.content(), &mut file, size);
            unpacked.map_err(|fault| match fault {
                Fault::Archive(error) => from.cut(&error),
                Fault::File(error) => anyhow::Error::from(error).context("cannot write the file"),
            })?;
            self.counts.bytes += line.stored;
        } else {
            let mut left = head.size;
            while left > 0 {
                host::interrupt::check()?;
                // Out of the very piece that was decompressed into: nothing is copied once more.
                let mut content = from.content();
                let step = match content.fill_buf() {
                    Ok(piece) => {
                        file.write_all(piece).context("cannot write the file")?;
                        piece.len()
                    }
                    Err(error) => return Err(from.cut(&error)),
                };
                content.consume(step);
                left -= step as u64;
                self.counts.bytes += step as u64;
                let (entries, bytes) = (self.counts.entries, self.counts.bytes);
                progress(Progress { entries, bytes, of: 0, path: &line.path });
            }
        }
        self.dress(&file, line, &head.attributes)
            .context("cannot give it its owner, mode and times")
    }

    /// Something that is open. Writing and chown take capabilities and setuid bits away, and an ACL
    /// holds bits of the mode: hence the order.
    fn dress(&mut self, file: &File, line: &Line, attributes: &Attributes) -> Result<()> {
        fchown(file, Some(Uid::from_raw(line.uid)), Some(Gid::from_raw(line.gid)))?;
        if !attributes.is_empty() {
            let left = attributes::set(Held::Open(file.as_fd()), attributes)?;
            self.note_unset(line, &left);
        }
        fchmod(file, Mode::from_raw_mode(line.mode))?;
        futimens(file, &times(line))?;
        Ok(())
    }

    /// What cannot be opened. It was made just now in a folder that is ours alone.
    fn dress_by_name(&mut self, line: &Line, name: &OsStr, attributes: &Attributes) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let here = &self.here.1;
        chownat(here, name, Some(Uid::from_raw(line.uid)), Some(Gid::from_raw(line.gid)), flags)?;
        let held = here.look(Path::new(name))?;
        let left = match attributes.is_empty() {
            true => Vec::new(),
            false => attributes::set(Held::Path(held.as_fd()), attributes)?,
        };
        if line.what != What::Link {
            // chmod has no way not to follow that every kernel knows.
            let path = format!("/proc/self/fd/{}", held.as_raw_fd());
            chmodat(CWD, path, Mode::from_raw_mode(line.mode), AtFlags::empty())?;
        }
        utimensat(here, name, &times(line), flags)?;
        self.note_unset(line, &left);
        Ok(())
    }

    fn set_folder_attributes(&mut self, line: &Line, attributes: &Attributes) -> Result<()> {
        let folder = File::from(OwnedFd::from(self.tree.folder(&line.path)?));
        self.dress(&folder, line, attributes).with_context(|| {
            format!("cannot give the folder {} its owner, mode and times", line.path.display())
        })
    }

    fn note_unset(&mut self, line: &Line, left: &[Vec<u8>]) {
        for name in left {
            let name = String::from_utf8_lossy(name);
            self.counts.unset.note(format!("{}: {name}", line.path.display()));
        }
    }

    /// Goes to the entry's folder; its name there.
    fn enter<'p>(&mut self, path: &'p Path) -> Result<&'p OsStr> {
        let (folder, name) = split(path).ok_or_else(|| damaged("an entry has no name"))?;
        if self.here.0 != folder {
            let known = self.open.last().is_some_and(|(line, _)| line.path == folder);
            if !known {
                return Err(damaged("the folder that it lies in comes nowhere before it"));
            }
            self.here = (folder.to_owned(), self.tree.folder(folder)?);
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
