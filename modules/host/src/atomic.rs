//! Changing files so that a reader, a crash or a full disk finds the old content or the new, never
//! something between.
//!
//! [`Replace`] writes a new file beside the old and renames it over; [`write_new`] makes a file
//! that must not be there yet; [`append_line`] adds one line to a file of lines. Invariants: what
//! was reported as written is on the disk (file and folder synced); after an error the old content
//! is untouched and no file of ours is left beside it. What goes back finds room on a full disk
//! ([`crate::reserve`]).
//!
//! A symbolic link at the target is followed (its target is replaced, the link stays) when root or
//! we own the link, and nobody else can write to the folder it lies in; else it is refused. A link
//! to nothing is refused. Other names of the file (hard links) keep the old content.

mod lines;

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use tempfile::NamedTempFile;

pub(crate) use lines::open_to_append;
pub use lines::{End, append_line, whole_lines};

use crate::clock;
use crate::regular::{self, Links};
use crate::reserve;

const MOST_LINKS: usize = 8;

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
        let (path, old) = target_of(self.path)?;
        let folder = folder_of(&path);
        let mut temp = temp_beside(&path)?;
        fill(temp.as_file_mut())?;
        self.dress(temp.as_file(), old.as_ref())?;
        temp.as_file().sync_all().context("cannot sync the new file")?;
        let backup = match (&old, self.backup) {
            (Some(old), Backup::Keep) => Some(keep(&path, old)?),
            _ => None,
        };
        temp.persist(&path)
            .map_err(|error| error.error)
            .context("cannot rename the new file over the old")?;
        sync_folder(folder)?;
        Ok(Replaced { path, was: if old.is_some() { Was::There } else { Was::Absent }, backup })
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
        let (_, Some(mut old)) = target_of(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        old.file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    attempt().with_context(|| format!("cannot read {}", path.display()))
}

/// Makes a file that must not be there (O_EXCL; a symbolic link counts as there), with this mode,
/// whole or not at all.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let attempt = || -> Result<()> {
        let mut temp = temp_beside(path)?;
        temp.write_all(content)?;
        temp.as_file().set_permissions(PermissionsExt::from_mode(mode))?;
        temp.as_file().sync_all()?;
        temp.persist_noclobber(path).map_err(|error| error.error)?;
        sync_folder(folder_of(path))
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

struct Old {
    file: File,
    metadata: Metadata,
}

/// The file that is really to be replaced, and the old one when there is one.
fn target_of(path: &Path) -> Result<(PathBuf, Option<Old>)> {
    let mut path = path.to_owned();
    for links in 0..=MOST_LINKS {
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound && links == 0 => {
                return Ok((path, None));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot look at {}", path.display()));
            }
        };
        if !metadata.is_symlink() {
            ensure!(metadata.is_file(), "{} is not a regular file", path.display());
            let file = regular::open(&path, Links::Refuse)
                .with_context(|| format!("cannot open {}", path.display()))?;
            let metadata = file.metadata()?;
            return Ok((path, Some(Old { file, metadata })));
        }
        path = follow(&path, &metadata)?;
    }
    bail!("{} is one symbolic link too many: give the real path", path.display())
}

fn follow(link: &Path, metadata: &Metadata) -> Result<PathBuf> {
    let trusted = |uid: u32| uid == 0 || uid == geteuid().as_raw();
    let folder = folder_of(link);
    let around =
        folder.metadata().with_context(|| format!("cannot look at {}", folder.display()))?;
    let closed =
        trusted(around.uid()) && (around.mode() & 0o022 == 0 || around.mode() & 0o1000 != 0);
    ensure!(
        trusted(metadata.uid()) && closed,
        "{} is a symbolic link that others could have made (owner uid {}; its folder: uid {}, mode {:04o}): give the real path",
        link.display(),
        metadata.uid(),
        around.uid(),
        around.mode() & 0o7777
    );
    let target =
        link.read_link().with_context(|| format!("cannot read the link {}", link.display()))?;
    Ok(folder.join(target))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

/// Of the old name, this much goes into the new one's: a name may have 255 bytes.
const LONGEST_NAME: usize = 200;
const RANDOM: usize = 6;
const SUFFIX: &str = ".new";

/// A new file of ours beside `path`, 0600 until it is dressed; dropping it removes it.
fn temp_beside(path: &Path) -> Result<NamedTempFile> {
    let name = path.file_name().context("the path has no file name")?.as_bytes();
    let prefix = [b".", &name[..name.len().min(LONGEST_NAME)], b"."].concat();
    let folder = folder_of(path);
    tempfile::Builder::new()
        .prefix(&std::ffi::OsString::from_vec(prefix))
        .rand_bytes(RANDOM)
        .suffix(SUFFIX)
        .tempfile_in(folder)
        .with_context(|| format!("cannot make a file in {}", folder.display()))
}

/// Removes what a replacement of this file that was killed (-9) has left beside it. Only under a
/// lock that all who replace the file hold.
pub fn sweep(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    let name = path.file_name().context("the path has no file name")?.as_bytes();
    let prefix = [b".", &name[..name.len().min(LONGEST_NAME)], b"."].concat();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries.flatten() {
        let found = entry.file_name();
        let random = found
            .as_bytes()
            .strip_prefix(&prefix[..])
            .and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
        if random.is_some_and(|random| {
            random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric)
        }) {
            match std::fs::remove_file(entry.path()) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| {
                        format!("cannot remove {}, left by a killed run", entry.path().display())
                    });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Keeps the old file under another name, on the disk before the old name is taken.
fn keep(path: &Path, old: &Old) -> Result<PathBuf> {
    let stem = [path.as_os_str().as_bytes(), b".", clock::now().compact().as_bytes()].concat();
    for n in 0..1000 {
        let suffix = if n == 0 { ".bak".to_owned() } else { format!(".{n}.bak") };
        let backup = PathBuf::from(OsStr::from_bytes(&[&stem, suffix.as_bytes()].concat()));
        let kept = match std::fs::hard_link(path, &backup) {
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw_os_error),
                    Some(Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP)
                ) =>
            {
                copy_to(&backup, old)
            }
            other => other,
        };
        match kept {
            Ok(()) => {
                sync_folder(folder_of(path))?;
                return Ok(backup);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot keep the old file as {}", backup.display()));
            }
        }
    }
    bail!("cannot keep the old file: there are a thousand backups of this second already")
}

fn copy_to(backup: &Path, old: &Old) -> std::io::Result<()> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut copy = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(flags.bits())
        .open(backup)?;
    let mut fill = || {
        std::io::copy(&mut &old.file, &mut copy)?;
        fchown(&copy, Some(old.metadata.uid()), Some(old.metadata.gid()))?;
        copy_attributes(&old.file, &copy).map_err(std::io::Error::other)?;
        copy.set_permissions(PermissionsExt::from_mode(old.metadata.mode() & 0o7777))?;
        copy.sync_all()
    };
    fill().inspect_err(|_| {
        let _ = std::fs::remove_file(backup);
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
