//! Unpacks a tar archive into a folder that it cannot leave.
//!
//! Each name is split into plain parts, and no symbolic link on the way down is followed
//! ([`host::beneath`]). Files are created, never opened: a name that exists is refused. Links may not leave the
//! folder, by their text or by another link. Anything else than files, folders and links is refused, and so
//! is what would run with the rights of another user.
//! Invariant: whatever the archive holds, nothing outside of the folder is made, changed or removed.

use crate::bounds::{MAX_NAME, MeteredReader, Usage};
use crate::owner::Owner;
use crate::record::{EntryKind, note};
use crate::unpack_error::{UnpackError, error_text, io_error, refused, shown, write_error};
use anyhow::{Context, Error};
use archive::decode::fill;
use archive::names::{parts, stays_inside};
use archive::sparse::{self, Fault, Pax, Sparse};
use host::beneath::{Dir, is_no_folder};
use host::meta::Kind;
use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, chownat, fchmod, fchown,
    futimens, openat2,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// The maximum depth of an entry, since each folder above it may have to be made.
const MAX_DEPTH: usize = 200;
const BUFFER: usize = 256 << 10;

/// The owner and mode of what is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    pub owner: Owner,
    /// The mode bits that no file or folder gets.
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
    root: Dir,
    attributes: Attributes,
    usage: &Usage,
    listing: &mut dyn Write,
) -> Result<Count, UnpackError> {
    let here = root.try_clone().context("cannot keep the folder open")?;
    let mut tree = Extracting {
        root,
        here: (PathBuf::new(), here),
        // The mode of the release's folder, unless the archive has an entry for it.
        folders: BTreeMap::from([(PathBuf::new(), 0o755 & !attributes.umask)]),
        links: Vec::new(),
        attributes,
        usage,
        listing,
        buffer: vec![0; BUFFER],
        count: Count::default(),
    };
    unpack(archive, &mut tree).map_err(|stopped| usage.judge(stopped))?;
    Ok(tree.count)
}

fn unpack(archive: impl Read, tree: &mut Extracting<'_>) -> Result<(), UnpackError> {
    let mut archive = MeteredReader::new(archive, tree.usage);
    let damaged = |error: io::Error| {
        UnpackError::Damaged(format!("it is not a valid tar archive ({})", error_text(&error)))
    };
    let mut tar = tar::Archive::new(&mut archive);
    for entry in tar.entries().map_err(damaged)? {
        host::interrupt::check().map_err(Error::from)?;
        let mut entry = entry.map_err(damaged)?;
        tree.usage.entry()?;
        tree.entry(&mut entry)?;
        // Read here and not by the iterator: the headers before the next entry have their own bound.
        io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
        tree.usage.entry_ended();
    }
    tree.usage.entries_ended();
    // Read to the end of the compressed stream, where its checksum is.
    io::copy(&mut archive, &mut io::sink()).map_err(damaged)?;
    if archive.zeros() < 512 {
        return Err(UnpackError::Damaged("its end is missing".into()));
    }
    if tree.count.entries == 0 {
        return Err(UnpackError::Damaged("it is empty".into()));
    }
    tree.finish()
}

struct Extracting<'a> {
    root: Dir,
    /// The folder of the previous entry.
    here: (PathBuf, Dir),
    /// The folders and their modes, which are set at the end: a read-only folder must be filled first.
    folders: BTreeMap<PathBuf, u32>,
    links: Vec<PathBuf>,
    attributes: Attributes,
    usage: &'a Usage,
    listing: &'a mut dyn Write,
    buffer: Vec<u8>,
    count: Count,
}

impl Extracting<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), UnpackError> {
        if entry.header().entry_type().is_pax_global_extensions() {
            return Ok(());
        }
        let Head { kind, sparse, name, parts, mode, target } = Head::read(entry)?;
        let refuse = |why: &str| refused(&name, why);
        if kind.is_dir() {
            return self.folder(&parts, mode & 0o777 & !self.attributes.umask, &name);
        }
        let Some((leaf, above)) = parts.split_last() else {
            return Err(refuse("has no name"));
        };
        if mode & 0o6000 != 0 && !kind.is_symlink() {
            return Err(refuse("would run with the rights of its owner or group (setuid, setgid)"));
        }
        let path: PathBuf = parts.iter().collect();
        if target.as_ref().is_some_and(|target| target.len() >= MAX_NAME) {
            return Err(refuse("leads to a name that is too long for any file"));
        }
        match (kind, target) {
            (EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse, _) => {
                self.enter(above, &name)?;
                let what = What {
                    mode: mode & 0o777 & !self.attributes.umask,
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
            _ => Err(refuse("is of an unsupported type")),
        }
    }

    /// Opens a folder, and makes the missing folders on the way.
    fn enter(&mut self, folder: &[OsString], name: &[u8]) -> Result<(), UnpackError> {
        let path: PathBuf = folder.iter().collect();
        if self.here.0 == path {
            return Ok(());
        }
        let opened = match self.root.folder(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(folder, name)?,
            opened => opened,
        };
        self.here = (path, opened.map_err(|error| in_no_folder(error, name))?);
        Ok(())
    }

    /// Makes a folder with mode 0700, which is changed at the end.
    fn make(&mut self, folder: &[OsString], name: &[u8]) -> Result<io::Result<Dir>, UnpackError> {
        let mut dir = self.root.folder(Path::new(""));
        for (at, part) in folder.iter().enumerate() {
            let above = dir.map_err(|error| in_no_folder(error, name))?;
            match above.make_folder(part, 0o700) {
                Ok(()) => {
                    let path: PathBuf = folder[..=at].iter().collect();
                    self.list(&EntryKind::Folder, path.as_os_str())?;
                    self.folders.insert(path, 0o755 & !self.attributes.umask);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error(error, name)),
            }
            dir = above.folder(Path::new(part));
        }
        Ok(dir)
    }

    fn here(&self) -> &Dir {
        &self.here.1
    }

    fn folder(&mut self, parts: &[OsString], mode: u32, name: &[u8]) -> Result<(), UnpackError> {
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
    ) -> Result<(), UnpackError> {
        self.usage.file(what.sparse.as_ref().map_or(entry.size(), |sparse| sparse.size))?;
        let mut file = self.here().make_file(leaf, 0o600).map_err(|error| io_error(error, name))?;
        let damaged = |error: io::Error| {
            UnpackError::Damaged(format!(
                "it ends in the middle of {} ({})",
                shown(name),
                error_text(&error)
            ))
        };
        let full = |error: io::Error| write_error(error, name);
        let size = if let Some(Sparse { size, .. }) = what.sparse {
            sparse::unpack(entry, &mut file, size).map_err(|fault| match fault {
                Fault::Archive(error) => damaged(error),
                Fault::File(error) => full(error),
            })?;
            size
        } else {
            let mut size = 0;
            loop {
                let read = fill(entry, &mut self.buffer).map_err(damaged)?;
                if read == 0 {
                    break;
                }
                host::interrupt::check().map_err(Error::from)?;
                // Checked for each piece: holes of the old format are made without reading the archive.
                self.usage.in_time()?;
                let bytes = &self.buffer[..read];
                let write_error = match what.holes {
                    true => sparse::with_holes(&mut file, bytes),
                    false => file.write_all(bytes),
                };
                write_error.map_err(full)?;
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
        self.set_attributes(&file, what.mode, modified).map_err(|error| io_error(error, name))?;
        self.count.bytes += size;
        self.list(&EntryKind::File { mode: what.mode, size, modified }, path.as_os_str())
    }

    fn set_attributes(&self, file: &File, mode: u32, modified: i64) -> io::Result<()> {
        let owner = &self.attributes.owner;
        if owner.is_set() {
            fchown(file, owner.user, owner.group)?;
        }
        fchmod(file, Mode::from_raw_mode(mode))?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: modified, tv_nsec: 0 },
        };
        Ok(futimens(file, &times)?)
    }

    fn symlink(
        &mut self,
        leaf: &OsStr,
        path: &Path,
        target: &OsStr,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        self.here().make_link(leaf, target).map_err(|error| io_error(error, name))?;
        let owner = &self.attributes.owner;
        if owner.is_set() {
            chownat(self.here(), leaf, owner.user, owner.group, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| io_error(error.into(), name))?;
        }
        self.links.push(path.to_owned());
        self.list(&EntryKind::Link { target }, path.as_os_str())
    }

    /// Makes a hard link to a file of this archive, whose name is resolved like those of entries.
    fn hard_link(
        &mut self,
        to: &[OsString],
        path: &Path,
        target: &[u8],
        name: &[u8],
    ) -> Result<(), UnpackError> {
        let out = || refused(name, "is a hard link to something else than a file of the release");
        let from = parts(target).map_err(|_| out())?;
        let (Some((from_leaf, from_above)), Some((leaf, above))) =
            (from.split_last(), to.split_last())
        else {
            return Err(out());
        };
        let from_above: PathBuf = from_above.iter().collect();
        let folder = self.root.folder(&from_above).map_err(|_| out())?;
        let found = folder.stat(from_leaf).ok().flatten();
        let found = found.filter(|found| found.kind == Kind::File).ok_or_else(out)?;
        self.enter(above, name)?;
        folder.hard_link(from_leaf, self.here(), leaf).map_err(|error| io_error(error, name))?;
        let (size, modified) = (found.size, found.modified.0);
        let kind = EntryKind::File { mode: found.mode & 0o7777, size, modified };
        self.list(&kind, path.as_os_str())
    }

    fn list(&mut self, kind: &EntryKind<'_>, path: &OsStr) -> Result<(), UnpackError> {
        let target = if let EntryKind::Link { target } = kind { target.len() } else { 0 };
        self.usage.made(path.len() + target)?;
        self.count.entries += 1;
        note(&mut self.listing, kind, path)
            .context("cannot write the listing of the release")
            .map_err(UnpackError::Other)
    }

    /// Does what needs all entries: checks where links lead, and sets owners and modes of folders.
    fn finish(&mut self) -> Result<(), UnpackError> {
        for link in std::mem::take(&mut self.links) {
            self.usage.in_time()?;
            if leads_out(&self.root, &link) {
                let name = link.as_os_str().as_bytes();
                return Err(refused(name, "is a symbolic link that leads out of the release"));
            }
        }
        // In reverse order, so that the content of a folder comes before the folder, which may become
        // inaccessible.
        for (path, mode) in std::mem::take(&mut self.folders).into_iter().rev() {
            self.usage.in_time()?;
            let parts: Vec<OsString> = path.iter().map(OsStr::to_owned).collect();
            let name = path.as_os_str().as_bytes();
            self.enter(&parts, name)?;
            let owner = &self.attributes.owner;
            let set = || -> rustix::io::Result<()> {
                if owner.is_set() {
                    fchown(self.here(), owner.user, owner.group)?;
                }
                fchmod(self.here(), Mode::from_raw_mode(mode))
            };
            set().map_err(|error| io_error(error.into(), name))?;
        }
        Ok(())
    }
}

fn in_no_folder(error: io::Error, name: &[u8]) -> UnpackError {
    match is_no_folder(&error) {
        true => refused(name, "is below something that is not a folder"),
        false => io_error(error, name),
    }
}

/// Whether a symbolic link leads out of the root, also by other links. The kernel resolves it; if it cannot,
/// and for a dangling link, the link counts as inside, since its text was checked.
fn leads_out(root: &Dir, link: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // The kernel returns EAGAIN when a rename elsewhere happens meanwhile.
    let mut answers = (0..100).map(|_| openat2(root, link, flags, Mode::empty(), inside).err());
    let answer = answers.find(|error| !matches!(error, Some(Errno::AGAIN | Errno::INTR)));
    matches!(answer, None | Some(Some(Errno::XDEV)))
}

/// The headers of an entry.
struct Head {
    kind: EntryType,
    sparse: Option<Sparse>,
    name: Vec<u8>,
    /// The name, split into plain parts.
    parts: Vec<OsString>,
    mode: u32,
    /// The target of a link.
    target: Option<Vec<u8>>,
}

impl Head {
    /// Reads the headers, and refuses a name or a mode that no entry may have.
    fn read<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Head, UnpackError> {
        let kind = entry.header().entry_type();
        if kind.is_pax_local_extensions() {
            // Headers that belong to an entry come before it and are not seen here.
            return Err(refused(&entry.path_bytes(), "is of an unsupported type"));
        }
        let sparse = sparse_of(entry)?;
        let name = match &sparse {
            Ok(Some(sparse)) => sparse.name.as_bytes().to_owned(),
            _ => entry.path_bytes().into_owned(),
        };
        let refuse = |why: &str| refused(&name, why);
        if name.len() >= MAX_NAME {
            return Err(refuse("has a name that is too long for any file"));
        }
        let sparse = sparse.map_err(refuse)?;
        let parts = parts(&name).map_err(refuse)?;
        if parts.len() > MAX_DEPTH {
            return Err(refuse("is in too many folders"));
        }
        let mode = entry.header().mode().map_err(|_| refuse("has an invalid mode"))?;
        let target = entry.link_name_bytes().map(|target| target.into_owned());
        Ok(Head { kind, sparse, name, parts, mode, target })
    }
}

struct What {
    mode: u32,
    sparse: Option<Sparse>,
    /// Whether it is a sparse file of the old format, whose holes are read as zeros.
    holes: bool,
}

fn sparse_of<R: Read>(
    entry: &mut tar::Entry<'_, R>,
) -> Result<Result<Option<Sparse>, &'static str>, UnpackError> {
    let damaged = |error: io::Error| {
        UnpackError::Damaged(format!("a PAX header is invalid ({})", error_text(&error)))
    };
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

#[cfg(test)]
mod hostile;
