//! From a tar archive to files in a folder that it cannot leave.
//!
//! Each name is taken apart into plain parts, and each part is opened from the one before, nothing
//! followed. A file is made, never opened: what is there already is refused. Links may not leave the
//! folder, be it by their text or by another link. What is no file, folder or link, or would run with
//! the rights of another user, is refused by its name.
//! Invariant: whatever the archive holds, nothing outside of the folder is made, changed or removed.

use crate::bounds::{LONGEST_NAME, Meter, Metered};
use crate::dir_stack::{DirStack, INSIDE};
use crate::owner::Owner;
use crate::record::{NotedKind, note};
use crate::stopped::{Stopped, own, refused, said, shown, wrote};
use anyhow::{Context, Error};
use archive::names::{parts, stays_inside};
use archive::sparse::{self, Fault, Pax, Sparse};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, fchown, fchownat, linkat, symlinkat};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Each part of the way down is held open.
const DEEPEST: usize = 200;
const BUFFER: usize = 256 << 10;

/// How what is unpacked looks.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub owner: Owner,
    /// Bits that no file or folder gets.
    pub umask: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub entries: u64,
    pub bytes: u64,
}

/// Unpacks all of `archive` into the empty folder `root`, and writes the listing.
pub fn run(
    archive: impl Read,
    root: OwnedFd,
    look: Look,
    meter: &Meter,
    listing: &mut dyn Write,
) -> Result<Count, Stopped> {
    let mut tree = Extracting {
        stack: DirStack::new(root),
        // Its own mode, unless the archive has an entry for it.
        folders: BTreeMap::from([(PathBuf::new(), 0o755 & !look.umask)]),
        links: Vec::new(),
        look,
        meter,
        listing,
        buffer: vec![0; BUFFER],
        count: Count::default(),
    };
    unpack(archive, &mut tree).map_err(|stopped| meter.judge(stopped))?;
    Ok(tree.count)
}

fn unpack(archive: impl Read, tree: &mut Extracting<'_>) -> Result<(), Stopped> {
    let mut archive = Metered::new(archive, tree.meter);
    let damaged = |error: io::Error| {
        Stopped::Damaged(format!("it is no sound tar archive ({})", said(&error)))
    };
    let mut tar = tar::Archive::new(&mut archive);
    for entry in tar.entries().map_err(damaged)? {
        host::interrupt::check().map_err(Error::from)?;
        let mut entry = entry.map_err(damaged)?;
        tree.meter.entry()?;
        tree.entry(&mut entry)?;
        // Here and not by the next one: what stands before that one has its own bound.
        io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
        tree.meter.entry_ended();
    }
    tree.meter.entries_ended();
    // To its very end: only there the compression says whether all of it was sound.
    io::copy(&mut archive, &mut io::sink()).map_err(damaged)?;
    if archive.zeros() < 512 {
        return Err(Stopped::Damaged("it has no end: the last part is missing".into()));
    }
    if tree.count.entries == 0 {
        return Err(Stopped::Damaged("it holds nothing".into()));
    }
    tree.finish()
}

struct Extracting<'a> {
    /// To the folder of the entry before.
    stack: DirStack,
    /// Their modes are set at the end: one that we cannot write to must be filled first.
    folders: BTreeMap<PathBuf, u32>,
    links: Vec<PathBuf>,
    look: Look,
    meter: &'a Meter,
    listing: &'a mut dyn Write,
    buffer: Vec<u8>,
    count: Count,
}

impl Extracting<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), Stopped> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        if kind.is_pax_local_extensions() {
            // Those that count stand before an entry and are not seen here.
            return Err(refused(&entry.path_bytes(), "is of a kind that no release needs"));
        }
        let sparse = sparse_of(entry)?;
        let name = match &sparse {
            Ok(Some(sparse)) => sparse.name.as_bytes().to_owned(),
            _ => entry.path_bytes().into_owned(),
        };
        let refuse = |why: &str| refused(&name, why);
        if name.len() >= LONGEST_NAME {
            return Err(refuse("has a name that is too long for any file"));
        }
        let sparse = sparse.map_err(refuse)?;
        let parts = parts(&name).map_err(refuse)?;
        if parts.len() > DEEPEST {
            return Err(refuse("lies too deep"));
        }
        let mode = entry.header().mode().map_err(|_| refuse("has no mode that can be read"))?;
        if kind.is_dir() {
            return self.folder(&parts, mode & 0o777 & !self.look.umask, &name);
        }
        let Some((leaf, above)) = parts.split_last() else {
            return Err(refuse("has no name"));
        };
        if mode & 0o6000 != 0 && !kind.is_symlink() {
            return Err(refuse("would run with the rights of its owner or group (setuid, setgid)"));
        }
        let path: PathBuf = parts.iter().collect();
        let target = entry.link_name_bytes().map(|target| target.into_owned());
        if target.as_ref().is_some_and(|target| target.len() >= LONGEST_NAME) {
            return Err(refuse("leads to a name that is too long for any file"));
        }
        match (kind, target) {
            (EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse, _) => {
                self.enter(above, &name)?;
                let what = What {
                    mode: mode & 0o777 & !self.look.umask,
                    sparse,
                    holes: kind.is_gnu_sparse(),
                };
                self.file(entry, leaf, &path, what, &name)
            }
            (EntryType::Symlink, Some(target)) => {
                if target.is_empty() || !stays_inside(above.len(), &target) {
                    return Err(refuse("is a symbolic link that leads out of the release"));
                }
                self.enter(above, &name)?;
                let target = OsString::from_vec(target);
                self.symlink(leaf, &path, &target, &name)
            }
            (EntryType::Link, Some(target)) => self.hard_link(&parts, &path, &target, &name),
            (EntryType::Char | EntryType::Block, _) => Err(refuse("is a device")),
            (EntryType::Fifo, _) => Err(refuse("is a pipe")),
            _ => Err(refuse("is of a kind that no release needs")),
        }
    }

    /// Goes to a folder, and makes what is missing of it.
    fn enter(&mut self, folder: &[OsString], name: &[u8]) -> Result<(), Stopped> {
        for path in self.stack.enter(folder, name)? {
            self.made_folder(path, 0o755 & !self.look.umask)?;
        }
        Ok(())
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.stack.here()
    }

    fn made_folder(&mut self, path: PathBuf, mode: u32) -> Result<(), Stopped> {
        self.noted(&NotedKind::Folder, path.as_os_str())?;
        self.folders.insert(path, mode);
        Ok(())
    }

    fn folder(&mut self, parts: &[OsString], mode: u32, name: &[u8]) -> Result<(), Stopped> {
        self.enter(parts, name)?;
        let path: PathBuf = parts.iter().collect();
        self.folders.insert(path, mode);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        leaf: &OsStr,
        path: &Path,
        what: What,
        name: &[u8],
    ) -> Result<(), Stopped> {
        self.meter.file(what.sparse.as_ref().map_or(entry.size(), |sparse| sparse.size))?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | INSIDE;
        let fd = openat(self.here(), leaf, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let mut file = File::from(fd.map_err(|error| own(error, name))?);
        let damaged = |error: io::Error| {
            Stopped::Damaged(format!("it ends in the middle of {} ({})", shown(name), said(&error)))
        };
        let full = |error: io::Error| wrote(error, name);
        let size = if let Some(Sparse { size, .. }) = what.sparse {
            sparse::unpack(entry, &mut file, size).map_err(|fault| match fault {
                Fault::Archive(error) => damaged(error),
                Fault::File(error) => full(error),
            })?;
            size
        } else {
            let mut size = 0;
            loop {
                let read = filled(entry, &mut self.buffer).map_err(damaged)?;
                if read == 0 {
                    break;
                }
                host::interrupt::check().map_err(Error::from)?;
                // The holes of the old form come from nowhere: the archive is not read for them.
                self.meter.in_time()?;
                let bytes = &self.buffer[..read];
                let wrote = match what.holes {
                    true => sparse::with_holes(&mut file, bytes),
                    false => file.write_all(bytes),
                };
                wrote.map_err(full)?;
                size += read as u64;
            }
            if size != entry.size() {
                return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
            }
            if what.holes {
                file.set_len(size).map_err(full)?;
            }
            size
        };
        let modified = entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok());
        let modified = modified.unwrap_or(0);
        self.dress(&file, what.mode, modified).map_err(|error| own(error, name))?;
        self.count.bytes += size;
        self.noted(&NotedKind::File { mode: what.mode, size, modified }, path.as_os_str())
    }

    fn dress(&self, file: &File, mode: u32, modified: i64) -> nix::Result<()> {
        let owner = &self.look.owner;
        if owner.is_told() {
            fchown(file, owner.user, owner.group)?;
        }
        fchmod(file, Mode::from_bits_truncate(mode))?;
        futimens(file, &TimeSpec::UTIME_OMIT, &TimeSpec::new(modified, 0))
    }

    fn symlink(
        &mut self,
        leaf: &OsStr,
        path: &Path,
        target: &OsStr,
        name: &[u8],
    ) -> Result<(), Stopped> {
        symlinkat(target, self.here(), leaf).map_err(|error| own(error, name))?;
        let owner = &self.look.owner;
        if owner.is_told() {
            fchownat(self.here(), leaf, owner.user, owner.group, AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|error| own(error, name))?;
        }
        self.links.push(path.to_owned());
        self.noted(&NotedKind::Link { target }, path.as_os_str())
    }

    /// To a file of this archive, found part by part as every other entry.
    fn hard_link(
        &mut self,
        to: &[OsString],
        path: &Path,
        target: &[u8],
        name: &[u8],
    ) -> Result<(), Stopped> {
        let out = || refused(name, "is a hard link to something that is no file of the release");
        let from = parts(target).map_err(|_| out())?;
        let (Some((from_leaf, from_above)), Some((leaf, above))) =
            (from.split_last(), to.split_last())
        else {
            return Err(out());
        };
        let folder = self.stack.find(from_above).ok_or_else(out)?;
        let stat = fstatat(&folder, from_leaf.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let is_file = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        let Some(stat) = stat.ok().filter(|stat| is_file(stat.st_mode)) else {
            return Err(out());
        };
        self.enter(above, name)?;
        let here = self.here();
        linkat(&folder, from_leaf.as_os_str(), here, leaf.as_os_str(), LinkatFlags::empty())
            .map_err(|error| own(error, name))?;
        #[allow(clippy::unnecessary_cast)] // The fields' types differ between architectures.
        let kind = NotedKind::File {
            mode: stat.st_mode & 0o7777,
            size: stat.st_size as u64,
            modified: stat.st_mtime as i64,
        };
        self.noted(&kind, path.as_os_str())
    }

    fn noted(&mut self, kind: &NotedKind<'_>, path: &OsStr) -> Result<(), Stopped> {
        let target = if let NotedKind::Link { target } = kind { target.len() } else { 0 };
        self.meter.made(path.len() + target)?;
        self.count.entries += 1;
        note(&mut self.listing, kind, path)
            .context("cannot write the listing of the release")
            .map_err(Stopped::For)
    }

    /// What can only be done when all is there: where links lead, the folders' owners and modes.
    fn finish(&mut self) -> Result<(), Stopped> {
        for link in std::mem::take(&mut self.links) {
            self.meter.in_time()?;
            if self.stack.leads_out(&link) {
                let name = link.as_os_str().as_bytes();
                return Err(refused(name, "is a symbolic link that leads out of the release"));
            }
        }
        // What is in a folder sorts after it and is set first: a folder that cannot be passed
        // through ends the way.
        for (path, mode) in std::mem::take(&mut self.folders).into_iter().rev() {
            self.meter.in_time()?;
            let parts: Vec<OsString> = path.iter().map(OsStr::to_owned).collect();
            let name = path.as_os_str().as_bytes();
            self.enter(&parts, name)?;
            let owner = &self.look.owner;
            let set = || -> nix::Result<()> {
                if owner.is_told() {
                    fchownat(self.here(), "", owner.user, owner.group, AtFlags::AT_EMPTY_PATH)?;
                }
                // An O_PATH descriptor cannot be given to fchmod(2).
                let mode = Mode::from_bits_truncate(mode);
                fchmodat(self.here(), ".", mode, FchmodatFlags::FollowSymlink)
            };
            set().map_err(|error| own(error, name))?;
        }
        Ok(())
    }
}

struct What {
    mode: u32,
    sparse: Option<Sparse>,
    /// The old form of sparse files, whose holes come as zeros.
    holes: bool,
}

fn sparse_of<R: Read>(
    entry: &mut tar::Entry<'_, R>,
) -> Result<Result<Option<Sparse>, &'static str>, Stopped> {
    let damaged =
        |error: io::Error| Stopped::Damaged(format!("a PAX header is broken ({})", said(&error)));
    let mut pax = Pax::default();
    if let Some(extensions) = entry.pax_extensions().map_err(damaged)? {
        for extension in extensions {
            let extension = extension.map_err(damaged)?;
            if let Ok(key) = extension.key() {
                pax.note(key, extension.value_bytes());
            }
        }
    }
    Ok(pax.finish())
}

/// As much as there is, up to the whole buffer.
fn filled(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod hostile;
