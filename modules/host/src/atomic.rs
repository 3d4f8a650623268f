//! Changing files so that a reader, a crash or a full disk finds the old content or the new, never
//! something between.
//!
//! [`Replace`] writes a temporary file next to the old one and renames it over; [`write_new`] makes
//! a file that must not exist yet; [`append_line`] adds one line to a file of lines. Invariants:
//! what was reported as written is on the disk (file and folder synced); after an error the old
//! content is untouched and the temporary file is removed. A rollback finds room even on a full disk
//! ([`crate::reserve`]).
//!
//! A symbolic link at the end of the path, or on the way, is followed (its target is replaced, the
//! link stays) when root or the user that runs us owns it and nobody else can write to its folder;
//! any other link, and a dangling one, is refused. The folder is held open, so that whoever owns a
//! part of the path cannot lead a write elsewhere meanwhile. Hard links keep the old content.

mod lines;
mod links;
mod location;
mod temp_file;

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use location::{LastLink, Location, Old};
use temp_file::TempFile;

pub(crate) use lines::open_to_append;
pub use lines::{End, append_json, append_line, parse_lines, read_json, whole_lines};
pub use links::{Entry, entry, remove, write_link};

use crate::beneath::Dir;
use crate::clock;
use crate::meta::Meta;
use crate::reserve;

/// Whether the old file is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backup {
    #[default]
    None,
    /// It is kept as `<name>.<UTC time>.bak` in the same folder: as a hard link, or as a copy where
    /// the file system has no hard links.
    Keep,
}

/// Replaces a file. Owner, mode and extended attributes (SELinux label, ACLs) are those of the old
/// file, unless they are set here.
#[derive(Debug)]
#[must_use = "nothing is replaced until it is written"]
pub struct Replace<'a> {
    path: &'a Path,
    mode: Option<u32>,
    new_mode: u32,
    owner: Option<(u32, u32)>,
    backup: Backup,
}

/// The result of a replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The path of the file itself, after symbolic links were followed.
    pub path: PathBuf,
    /// Whether there was an old file.
    pub existed: bool,
    pub backup: Option<PathBuf>,
}

impl<'a> Replace<'a> {
    pub fn new(path: &'a Path) -> Self {
        Replace { path, mode: None, new_mode: 0o600, owner: None, backup: Backup::None }
    }

    /// Sets the mode of the new file, whatever mode the old one has.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets the mode for the case that there is no old file (0600 by default).
    pub fn new_mode(mut self, mode: u32) -> Self {
        self.new_mode = mode;
        self
    }

    /// Sets uid and gid of the new file, whoever owns the old one.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }

    pub fn backup(mut self, backup: Backup) -> Self {
        self.backup = backup;
        self
    }

    pub fn write(self, content: &[u8]) -> Result<Replaced> {
        reserve::writing(self.path, || self.attempt(&mut |file| Ok(file.write_all(content)?)))
            .with_context(|| self.cannot())
    }

    /// Replaces the file by what `fill` writes: for content that does not fit into memory.
    pub fn write_with(self, fill: &mut dyn FnMut(&mut File) -> Result<()>) -> Result<Replaced> {
        self.attempt(fill).with_context(|| self.cannot())
    }

    fn cannot(&self) -> String {
        format!("cannot replace {}", self.path.display())
    }

    fn attempt(&self, fill: &mut dyn FnMut(&mut File) -> Result<()>) -> Result<Replaced> {
        let location = locate(self.path, LastLink::Follow)?;
        let mut new = make_temp_file(&location)?;
        fill(new.file())?;
        self.set_attributes(new.file(), location.old.as_ref())?;
        new.file().sync_all().context("cannot sync the new file")?;
        let backup = match (&location.old, self.backup) {
            (Some(old), Backup::Keep) => Some(back_up(&location, old)?),
            _ => None,
        };
        new.replace(&location.name).context("cannot rename the new file over the old")?;
        location.sync()?;
        Ok(Replaced { path: location.file_path(), existed: location.old.is_some(), backup })
    }

    /// Gives the new file its owner, attributes and mode. The mode comes last: chown(2) clears the
    /// set-id bits, and an ACL changes the group bits.
    fn set_attributes(&self, new: &File, old: Option<&Old>) -> Result<()> {
        let has = new.metadata()?;
        let (uid, gid) = self
            .owner
            .or(old.map(|old| (old.metadata.uid(), old.metadata.gid())))
            .unwrap_or((has.uid(), has.gid()));
        if (uid, gid) != (has.uid(), has.gid()) {
            fchown(new, Some(uid), Some(gid))
                .with_context(|| format!("cannot give the new file to {uid}:{gid}"))?;
        }
        if let Some(old) = old {
            copy_attributes(&old.file, new)?;
        }
        let mode =
            self.mode.or(old.map(|old| old.metadata.mode() & 0o7777)).unwrap_or(self.new_mode);
        new.set_permissions(PermissionsExt::from_mode(mode))
            .context("cannot set the mode of the new file")
    }
}

/// Reads a file that [`Replace`] would replace; `None` where there is none. What `Replace` refuses
/// is refused here as well, and reading never blocks on a named pipe.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let attempt = || -> Result<Option<Vec<u8>>> {
        let Some(old) = find(path)? else { return Ok(None) };
        let (mut file, mut bytes) = (old.file, Vec::new());
        file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    attempt().with_context(|| format!("cannot read {}", path.display()))
}

/// Opens the same file instead of reading it: for content that does not fit into memory.
pub fn open(path: &Path) -> Result<Option<(File, Metadata)>> {
    let found = find(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(found.map(|old| (old.file, old.metadata)))
}

fn find(path: &Path) -> Result<Option<Old>> {
    Ok(Location::find(path, LastLink::Follow)?.and_then(|location| location.old))
}

/// Reads the metadata of a folder; `None` where it is missing. Its path is checked as that of a file.
pub fn folder_meta(path: &Path) -> Result<Option<Meta>> {
    let attempt = || -> Result<Option<Meta>> {
        Ok(location::folder(path, None)?.map(Meta::read).transpose()?)
    };
    attempt().with_context(|| format!("cannot use the folder {}", path.display()))
}

/// Makes a folder and its missing parents. One that exists keeps its mode.
pub fn make_folder(path: &Path, mode: u32) -> Result<()> {
    location::folder(path, Some(mode))
        .map(drop)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Changes the mode or the owner (uid, gid) of an existing folder. Its path is checked as that of a
/// file. The mode comes last, since chown(2) clears the set-id bits.
pub fn set_folder_attributes(
    path: &Path,
    mode: Option<u32>,
    owner: (Option<u32>, Option<u32>),
) -> Result<()> {
    let attempt = || -> Result<()> {
        let dir = location::folder(path, None)?.context("it does not exist")?;
        // An O_PATH descriptor takes neither fchmod(2) nor fchown(2).
        let dir = File::from(std::os::fd::OwnedFd::from(dir.folder(Path::new(""))?));
        if owner != (None, None) {
            fchown(&dir, owner.0, owner.1).context("cannot give it another owner")?;
        }
        if let Some(mode) = mode {
            dir.set_permissions(PermissionsExt::from_mode(mode)).context("cannot set its mode")?;
        }
        Ok(())
    };
    attempt().with_context(|| format!("cannot change the folder {}", path.display()))
}

/// Makes a new file with this mode and content, completely or not at all. Whatever already has the
/// name, even a symbolic link, is an error.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let attempt = || -> Result<()> {
        let location = locate(path, LastLink::Keep)?;
        let mut new = make_temp_file(&location)?;
        new.file().write_all(content)?;
        new.file().set_permissions(PermissionsExt::from_mode(mode))?;
        new.file().sync_all()?;
        new.rename(&location.name)?;
        location.sync()
    };
    reserve::writing(path, attempt)
        .with_context(|| format!("cannot write the new file {}", path.display()))
}

/// Syncs a folder, so that renames and new names in it survive a crash.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("cannot sync the folder {}", folder.display()))
}

/// Finds the folder and the name of a file; the folder must exist.
fn locate(path: &Path, last: LastLink) -> Result<Location> {
    Location::find(path, last)?.with_context(|| {
        format!("cannot make a file in {}: No such file or directory", folder_of(path).display())
    })
}

/// Makes a temporary file for this name, with mode 0600.
fn make_temp_file(location: &Location) -> Result<TempFile<'_>> {
    TempFile::make(&location.dir, &location.name)
        .with_context(|| format!("cannot make a file in {}", location.folder_path().display()))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

/// Removes the temporary files of killed (-9) replacements of this file. The caller must hold the lock
/// that everyone who replaces the file takes.
pub fn sweep(path: &Path) -> Result<()> {
    let location = locate(path, LastLink::Keep)?;
    temp_file::sweep(&location.dir, &location.name).map_err(|(name, error)| {
        let leftover = location.path_of(&name);
        anyhow::Error::from(error)
            .context(format!("cannot remove {}, left by a killed run", leftover.display()))
    })
}

/// Keeps the old file under another name, and syncs that before the old name is replaced.
fn back_up(location: &Location, old: &Old) -> Result<PathBuf> {
    let stem = [location.name.as_bytes(), b".", clock::now().compact().as_bytes()].concat();
    for n in 0..1000 {
        let suffix = if n == 0 { ".bak".to_owned() } else { format!(".{n}.bak") };
        let name = OsString::from_vec([&stem, suffix.as_bytes()].concat());
        let dir = &location.dir;
        let kept = match dir.hard_link(&location.name, dir, &name) {
            // The file system has no hard links, or does not allow one of this file.
            Err(error) if error.kind() != ErrorKind::AlreadyExists => copy_to(dir, &name, old),
            linked => linked,
        };
        match kept {
            Ok(()) => {
                location.sync()?;
                return Ok(location.path_of(&name));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("cannot keep the old file as {}", location.path_of(&name).display())
                });
            }
        }
    }
    bail!("cannot keep the old file: there are a thousand backups of this second already")
}

fn copy_to(dir: &Dir, name: &OsStr, old: &Old) -> std::io::Result<()> {
    let mut copy = dir.make_file(name, 0o600)?;
    let mut fill = || {
        std::io::copy(&mut &old.file, &mut copy)?;
        fchown(&copy, Some(old.metadata.uid()), Some(old.metadata.gid()))?;
        copy_attributes(&old.file, &copy).map_err(std::io::Error::other)?;
        copy.set_permissions(PermissionsExt::from_mode(old.metadata.mode() & 0o7777))?;
        copy.sync_all()
    };
    fill().inspect_err(|_| {
        let _ = dir.remove(name);
    })
}

const ACL: &[u8] = b"system.posix_acl_access";

/// Copies all extended attributes but those that are computed from the content (IMA, EVM). An ACL
/// that the new file inherited from its folder is removed if the old file has none.
fn copy_attributes(from: &File, to: &File) -> Result<()> {
    let wanted = attributes(from).context("cannot list the extended attributes of the old file")?;
    for (name, value) in &wanted {
        if matches!(name.as_slice(), b"security.ima" | b"security.evm") {
            continue;
        }
        rustix::fs::fsetxattr(to, name.as_slice(), value, XattrFlags::empty())
            .map_err(std::io::Error::from)
            .with_context(|| {
                format!("cannot copy the extended attribute {}", String::from_utf8_lossy(name))
            })?;
    }
    if !wanted.iter().any(|(name, _)| name == ACL) {
        match rustix::fs::fremovexattr(to, ACL) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => {
                return Err(std::io::Error::from(error))
                    .context("cannot remove the ACL that the new file inherited from its folder");
            }
        }
    }
    Ok(())
}

fn attributes(file: &File) -> std::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // A list and a value can each have 64 KiB at most (XATTR_LIST_MAX, XATTR_SIZE_MAX).
    let mut buffer = vec![0; 64 << 10];
    let names = match rustix::fs::flistxattr(file, &mut buffer[..]) {
        Ok(length) => buffer[..length].to_vec(),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match rustix::fs::fgetxattr(file, name, &mut buffer[..]) {
            Ok(length) => all.push((name.to_vec(), buffer[..length].to_vec())),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}
