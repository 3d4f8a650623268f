//! Changing files so that a reader, a crash or a full disk finds the old content or the new, never
//! something between.
//!
//! [`Replace`] writes a new file beside the old and renames it over; [`write_new`] makes a file
//! that must not be there yet; [`append_line`] adds one line to a file of lines. Invariants: what
//! was reported as written is on the disk (file and folder synced); after an error the old content
//! is untouched and no file of ours is left beside it. What goes back finds room on a full disk
//! ([`crate::reserve`]).
//!
//! A symbolic link at the target, or on the way to it, is followed (its target is replaced, the link
//! stays) when root or we own the link, and nobody else can write to the folder it lies in; else it is
//! refused. A link to nothing is refused. The folder is held, so that nobody who owns a part of the
//! path leads us elsewhere meanwhile. Other names of the file (hard links) keep the old content.

mod fresh;
mod lines;
mod links;
mod place;

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use fresh::Fresh;
use place::{Last, Old, Place};

pub(crate) use lines::open_to_append;
pub use lines::{End, append_line, whole_lines};
pub use links::{Named, look, remove, write_link};

use crate::beneath::Dir;
use crate::clock;
use crate::meta::Meta;
use crate::reserve;

/// What becomes of the old file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backup {
    #[default]
    None,
    /// It stays as `<name>.<UTC time>.bak` beside the new one: the very same file (a hard link), a
    /// copy where there are no hard links.
    Keep,
}

/// Replacing a file. Owner, mode and extended attributes (SELinux label, ACLs) of the old one are
/// carried over, unless given here.
#[derive(Debug)]
#[must_use = "nothing is replaced until it is written"]
pub struct Replace<'a> {
    path: &'a Path,
    mode: Option<u32>,
    new_mode: u32,
    owner: Option<(u32, u32)>,
    backup: Backup,
}

/// What a replacement has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The file itself: where a symbolic link led.
    pub path: PathBuf,
    pub was: Was,
    pub backup: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Was {
    Absent,
    There,
}

impl<'a> Replace<'a> {
    pub fn new(path: &'a Path) -> Self {
        Replace { path, mode: None, new_mode: 0o600, owner: None, backup: Backup::None }
    }

    /// The mode of the new file, whatever the old one's was.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// The mode when there is no old file (0600 unless said otherwise).
    pub fn new_mode(mut self, mode: u32) -> Self {
        self.new_mode = mode;
        self
    }

    /// Uid and gid of the new file, whatever the old one's were.
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

    /// For content that does not fit into memory.
    pub fn write_with(self, fill: &mut dyn FnMut(&mut File) -> Result<()>) -> Result<Replaced> {
        self.attempt(fill).with_context(|| self.cannot())
    }

    fn cannot(&self) -> String {
        format!("cannot replace {}", self.path.display())
    }

    fn attempt(&self, fill: &mut dyn FnMut(&mut File) -> Result<()>) -> Result<Replaced> {
        let place = place_of(self.path, Last::Follow)?;
        let mut new = new_in(&place)?;
        fill(new.file())?;
        self.dress(new.file(), place.old.as_ref())?;
        new.file().sync_all().context("cannot sync the new file")?;
        let backup = match (&place.old, self.backup) {
            (Some(old), Backup::Keep) => Some(keep(&place, old)?),
            _ => None,
        };
        new.replace(&place.name).context("cannot rename the new file over the old")?;
        place.sync()?;
        let was = if place.old.is_some() { Was::There } else { Was::Absent };
        Ok(Replaced { path: place.file_path(), was, backup })
    }

    /// Gives the new file its owner, attributes and mode. The mode comes last: chown takes bits
    /// away, and an ACL holds them too.
    fn dress(&self, new: &File, old: Option<&Old>) -> Result<()> {
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

/// What a replacement would find: none where there is no file. What [`Replace`] refuses is refused
/// here as well, and no pipe keeps us waiting.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let attempt = || -> Result<Option<Vec<u8>>> {
        let Some(old) = find(path)? else { return Ok(None) };
        let (mut file, mut bytes) = (old.file, Vec::new());
        file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    attempt().with_context(|| format!("cannot read {}", path.display()))
}

/// The same file held open, for content that does not fit into memory.
pub fn open(path: &Path) -> Result<Option<(File, Metadata)>> {
    let found = find(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(found.map(|old| (old.file, old.metadata)))
}

fn find(path: &Path) -> Result<Option<Old>> {
    Ok(Place::find(path, Last::Follow)?.and_then(|place| place.old))
}

/// What a folder is like that files can be made in, none where it is missing: the way to it is judged as that to a file.
pub fn folder_meta(path: &Path) -> Result<Option<Meta>> {
    let attempt =
        || -> Result<Option<Meta>> { Ok(place::folder(path, None)?.map(Meta::read).transpose()?) };
    attempt().with_context(|| format!("cannot use the folder {}", path.display()))
}

/// Makes a folder, and those above it that are missing. One that is there keeps its mode.
pub fn make_folder(path: &Path, mode: u32) -> Result<()> {
    place::folder(path, Some(mode))
        .map(drop)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Gives a folder that is there, reached by the same rules, another mode or owner (uid, gid); the mode last, since chown takes bits away.
pub fn dress_folder(
    path: &Path,
    mode: Option<u32>,
    owner: (Option<u32>, Option<u32>),
) -> Result<()> {
    let attempt = || -> Result<()> {
        let dir = place::folder(path, None)?.context("it does not exist")?;
        // What is held by O_PATH alone takes neither fchmod(2) nor fchown(2).
        let dir = File::from(std::os::fd::OwnedFd::from(dir.folder(Path::new(""))?));
        if owner != (None, None) {
            fchown(&dir, owner.0, owner.1).context("cannot give it another owner")?;
        }
        if let Some(mode) = mode {
            dir.set_permissions(PermissionsExt::from_mode(mode)).context("cannot set its mode")?;
        }
        Ok(())
    };
    attempt().with_context(|| format!("the folder {}", path.display()))
}

/// Makes a file that must not be there (O_EXCL; a symbolic link counts as there), with this mode,
/// whole or not at all.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let attempt = || -> Result<()> {
        let place = place_of(path, Last::Leave)?;
        let mut new = new_in(&place)?;
        new.file().write_all(content)?;
        new.file().set_permissions(PermissionsExt::from_mode(mode))?;
        new.file().sync_all()?;
        new.take(&place.name)?;
        place.sync()
    };
    reserve::writing(path, attempt)
        .with_context(|| format!("cannot write the new file {}", path.display()))
}

/// Makes renames and new names in a folder last.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("cannot sync the folder {}", folder.display()))
}

/// The folder must be there.
fn place_of(path: &Path, last: Last) -> Result<Place> {
    Place::find(path, last)?.with_context(|| {
        format!("cannot make a file in {}: No such file or directory", folder_of(path).display())
    })
}

/// 0600 until it is dressed.
fn new_in(place: &Place) -> Result<Fresh<'_>> {
    Fresh::make(&place.dir, &place.name)
        .with_context(|| format!("cannot make a file in {}", place.folder_path().display()))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

/// Removes what a replacement of this file that was killed (-9) has left beside it. Only under a
/// lock that all who replace the file hold.
pub fn sweep(path: &Path) -> Result<()> {
    let place = place_of(path, Last::Leave)?;
    fresh::sweep(&place.dir, &place.name).map_err(|(name, error)| {
        let left = place.path_of(&name);
        anyhow::Error::from(error)
            .context(format!("cannot remove {}, left by a killed run", left.display()))
    })
}

/// Keeps the old file under another name, on the disk before the old name is taken.
fn keep(place: &Place, old: &Old) -> Result<PathBuf> {
    let stem = [place.name.as_bytes(), b".", clock::now().compact().as_bytes()].concat();
    for n in 0..1000 {
        let suffix = if n == 0 { ".bak".to_owned() } else { format!(".{n}.bak") };
        let name = OsString::from_vec([&stem, suffix.as_bytes()].concat());
        let dir = &place.dir;
        let kept = match dir.hard_link(&place.name, dir, &name) {
            // Of this file system, or of this file, there are no hard links.
            Err(error) if error.kind() != ErrorKind::AlreadyExists => copy_to(dir, &name, old),
            linked => linked,
        };
        match kept {
            Ok(()) => {
                place.sync()?;
                return Ok(place.path_of(&name));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("cannot keep the old file as {}", place.path_of(&name).display())
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

/// Copies all extended attributes but those that are computed from the content (IMA, EVM). What the
/// new file got from its folder (a default ACL) and the old one did not have is taken away.
fn copy_attributes(from: &File, to: &File) -> Result<()> {
    let wanted = attributes(from).context("cannot list the extended attributes of the old file")?;
    for (name, value) in &wanted {
        if matches!(name.as_slice(), b"security.ima" | b"security.evm") {
            continue;
        }
        rustix::fs::fsetxattr(to, name.as_slice(), value, XattrFlags::empty())
            .map_err(std::io::Error::from)
            .with_context(|| {
                format!(
                    "cannot carry over the extended attribute {}",
                    String::from_utf8_lossy(name)
                )
            })?;
    }
    if !wanted.iter().any(|(name, _)| name == ACL) {
        match rustix::fs::fremovexattr(to, ACL) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => {
                return Err(std::io::Error::from(error))
                    .context("cannot remove an ACL that the folder gave to the new file");
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
