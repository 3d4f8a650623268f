//! From a tar archive to files in a folder that it cannot leave.
//!
//! Each name is taken apart into plain parts, and nothing on the way down is followed
//! ([`host::beneath`]). A file is made, never opened: what is there already is refused. Links may not leave the
//! folder, be it by their text or by another link. What is no file, folder or link, or would run with
//! the rights of another user, is refused by its name.
//! Invariant: whatever the archive holds, nothing outside of the folder is made, changed or removed.

use crate::bounds::{LONGEST_NAME, Meter, Metered};
use crate::owner::Owner;
use crate::record::{NotedKind, note};
use crate::stopped::{Stopped, own, refused, said, shown, wrote};
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

/// Deeper than any release is; of each entry every part of the way down may have to be made.
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
    root: Dir,
    look: Look,
    meter: &Meter,
    listing: &mut dyn Write,
) -> Result<Count, Stopped> {
    let here = root.try_clone().context("cannot keep the folder open")?;
    let mut tree = Extracting {
        root,
        here: (PathBuf::new(), here),
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
    root: Dir,
    /// The folder of the entry before.
    here: (PathBuf, Dir),
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

    /// What is made is for us alone until all is there.
    fn make(&mut self, folder: &[OsString], name: &[u8]) -> Result<io::Result<Dir>, Stopped> {
        let mut dir = self.root.folder(Path::new(""));
        for (at, part) in folder.iter().enumerate() {
            let above = dir.map_err(|error| in_no_folder(error, name))?;
            match above.make_folder(part, 0o700) {
                Ok(()) => {
                    let path: PathBuf = folder[..=at].iter().collect();
                    self.noted(&NotedKind::Folder, path.as_os_str())?;
                    self.folders.insert(path, 0o755 & !self.look.umask);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(own(error, name)),
            }
            dir = above.folder(Path::new(part));
        }
        Ok(dir)
    }

    fn here(&self) -> &Dir {
        &self.here.1
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
        let mut file = self.here().make_file(leaf, 0o600).map_err(|error| own(error, name))?;
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
                let read = fill(entry, &mut self.buffer).map_err(damaged)?;
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

    fn dress(&self, file: &File, mode: u32, modified: i64) -> io::Result<()> {
        let owner = &self.look.owner;
        if owner.is_told() {
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
    ) -> Result<(), Stopped> {
        self.here().make_link(leaf, target).map_err(|error| own(error, name))?;
        let owner = &self.look.owner;
        if owner.is_told() {
            chownat(self.here(), leaf, owner.user, owner.group, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| own(error.into(), name))?;
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
        let from_above: PathBuf = from_above.iter().collect();
        let folder = self.root.folder(&from_above).map_err(|_| out())?;
        let found = folder.stat(from_leaf).ok().flatten();
        let found = found.filter(|found| found.kind == Kind::File).ok_or_else(out)?;
        self.enter(above, name)?;
        folder.hard_link(from_leaf, self.here(), leaf).map_err(|error| own(error, name))?;
        let (size, modified) = (found.size, found.modified.0);
        let kind = NotedKind::File { mode: found.mode & 0o7777, size, modified };
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
            if leads_out(&self.root, &link) {
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
            let set = || -> rustix::io::Result<()> {
                if owner.is_told() {
                    fchown(self.here(), owner.user, owner.group)?;
                }
                fchmod(self.here(), Mode::from_raw_mode(mode))
            };
            set().map_err(|error| own(error.into(), name))?;
        }
        Ok(())
    }
}

fn in_no_folder(error: io::Error, name: &[u8]) -> Stopped {
    match is_no_folder(&error) {
        true => refused(name, "lies in something that is no folder"),
        false => own(error, name),
    }
}

/// Whether a symbolic link leads out of the root, by whatever other links. The kernel is asked to
/// go there; one that cannot tell, and a link to nothing, count as inside: the text was judged.
fn leads_out(root: &Dir, link: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // A rename elsewhere may keep the kernel from being sure; it then asks to be asked again.
    let mut answers = (0..100).map(|_| openat2(root, link, flags, Mode::empty(), inside).err());
    let answer = answers.find(|error| !matches!(error, Some(Errno::AGAIN | Errno::INTR)));
    matches!(answer, None | Some(Some(Errno::XDEV)))
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

#[cfg(test)]
mod hostile;
