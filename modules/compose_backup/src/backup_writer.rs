//! Writes the files of a backup with mode 0600 and hashes them; reads and restores the metadata of a
//! project's files.
//!
//! Invariant: no file of a backup is written twice, and its sum is that of the bytes that were written.

use crate::manifest::{FileMeta, Sum};
use anyhow::{Context, Result, ensure};
use host::hex;
use host::regular::{self, Links};
use rustix::fs::XattrFlags;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A folder that will become a backup.
pub struct BackupWriter {
    pub folder: PathBuf,
    pub contents: BTreeMap<String, Sum>,
    /// The names of hard links to files of earlier backups.
    linked: BTreeSet<String>,
}

impl BackupWriter {
    /// Makes the folder, which must not exist.
    pub fn begin(folder: &Path) -> Result<BackupWriter> {
        DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("making {}", folder.display()))?;
        Ok(BackupWriter {
            folder: folder.to_owned(),
            contents: BTreeMap::new(),
            linked: BTreeSet::new(),
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&path);
        made.with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// Makes a new file. Its sum must be passed to [`Self::wrote`] afterwards.
    pub fn create(&self, name: &str) -> Result<File> {
        let path = self.folder.join(name);
        let new = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        new.with_context(|| format!("making {}", path.display()))
    }

    pub fn wrote(&mut self, name: &str, sha256: &str, bytes: u64) {
        self.contents.insert(name.to_owned(), Sum { sha256: sha256.to_owned(), bytes });
    }

    /// Links a file of an earlier backup if its sum is right.
    pub fn link(&mut self, from: &Path, name: &str, sum: &Sum) -> Result<bool> {
        let to = self.folder.join(name);
        let regular =
            from.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == sum.bytes);
        if !regular || std::fs::hard_link(from, &to).is_err() {
            return Ok(false);
        }
        let same = sum_of(&to).is_ok_and(|(sha256, _)| sha256 == sum.sha256);
        match same {
            true => self.has_linked(name, sum),
            false => std::fs::remove_file(&to).with_context(|| format!("removing {name}"))?,
        }
        Ok(same)
    }

    /// Records a file that the caller has linked.
    pub fn has_linked(&mut self, name: &str, sum: &Sum) {
        self.wrote(name, &sum.sha256, sum.bytes);
        self.linked.insert(name.to_owned());
    }

    pub fn is_linked(&self, name: &str) -> bool {
        self.linked.contains(name)
    }

    pub fn linked_bytes(&self) -> u64 {
        self.linked.iter().filter_map(|name| self.contents.get(name)).map(|sum| sum.bytes).sum()
    }

    /// Removes a file from the backup.
    pub fn unlink(&mut self, name: &str) -> Result<()> {
        self.contents.remove(name);
        self.linked.remove(name);
        std::fs::remove_file(self.folder.join(name)).with_context(|| format!("removing {name}"))
    }

    pub fn bytes(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.copy(name, &mut &*content).map(drop)
    }

    /// Copies everything that can be read into a new file.
    pub fn copy(&mut self, name: &str, from: &mut dyn Read) -> Result<u64> {
        let mut to = self.create(name)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        let mut total = 0;
        loop {
            host::interrupt::check()?;
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).with_context(|| format!("reading for {name}")),
            };
            hash.update(&buffer[..n]);
            to.write_all(&buffer[..n]).with_context(|| format!("writing {name}"))?;
            total += n as u64;
        }
        self.wrote(name, &hex(&hash.finalize()), total);
        Ok(total)
    }

    /// Hashes and records a file of [`Self::create`] that a command has written.
    pub fn hash_file(&mut self, name: &str) -> Result<u64> {
        let (sha256, bytes) = sum_of(&self.folder.join(name))?;
        self.wrote(name, &sha256, bytes);
        Ok(bytes)
    }

    /// Syncs everything to the disk.
    pub fn sync(&self) -> Result<()> {
        let folder = File::open(&self.folder).context("opening the new backup")?;
        rustix::fs::syncfs(&folder).map_err(std::io::Error::from).context("syncing the new backup")
    }
}

/// The sum of a file as it is now.
pub fn sum_of(path: &Path) -> Result<(String, u64)> {
    let what = || format!("reading {}", path.display());
    let mut file = regular::open(path, Links::Follow).with_context(what)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        host::interrupt::check()?;
        match file.read(&mut buffer).with_context(what)? {
            0 => return Ok((hex(&hash.finalize()), total)),
            n => {
                hash.update(&buffer[..n]);
                total += n as u64;
            }
        }
    }
}

/// Reads owner, mode, time and extended attributes of an open file.
pub fn meta_of(file: &File) -> Result<FileMeta> {
    let meta = file.metadata()?;
    ensure!(meta.is_file(), "it is not a regular file");
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(std::io::Error::from(error).into()),
    };
    let mut xattrs = Vec::new();
    let mut value = vec![0; 64 << 10];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if let Ok(length) = rustix::fs::fgetxattr(file, name, &mut value[..]) {
            xattrs.push((hex(name), hex(&value[..length])));
        }
    }
    Ok(FileMeta {
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0)),
        xattrs,
    })
}

/// Sets owner, extended attributes, mode and time of a file. The mode comes after the owner, since chown(2)
/// clears bits; the time comes last.
pub fn set_meta(file: &File, meta: &FileMeta) -> Result<()> {
    fchown(file, Some(meta.uid), Some(meta.gid)).context("giving it to its owner")?;
    for (name, value) in &meta.xattrs {
        let (name, value) = (unhex(name)?, unhex(value)?);
        rustix::fs::fsetxattr(file, name.as_slice(), &value, XattrFlags::empty())
            .map_err(std::io::Error::from)
            .with_context(|| format!("setting {}", String::from_utf8_lossy(&name)))?;
    }
    file.set_permissions(PermissionsExt::from_mode(meta.mode)).context("setting its mode")?;
    let seconds = Duration::new(u64::try_from(meta.mtime.0).unwrap_or(0), meta.mtime.1);
    file.set_modified(SystemTime::UNIX_EPOCH + seconds).context("setting its time")
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    ensure!(text.is_ascii() && text.len() % 2 == 0, "malformed hexadecimal text in a manifest");
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_files() {
        let temp = tempfile::tempdir().unwrap();
        let mut writer = BackupWriter::begin(&temp.path().join("b.partial")).unwrap();
        writer.subfolder("config/files").unwrap();
        writer.bytes("config/files/1", b"hello").unwrap();
        let sum = &writer.contents["config/files/1"];
        assert_eq!(sum.sha256, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        assert_eq!((sum.sha256.clone(), 5), sum_of(&writer.path("config/files/1")).unwrap());
        let mode = writer.path("config/files/1").metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(writer.bytes("config/files/1", b"again").is_err());
    }

    #[test]
    fn metadata_is_read_and_set() {
        let temp = tempfile::tempdir().unwrap();
        let [one, other] =
            ["one", "other"].map(|name| File::create(temp.path().join(name)).unwrap());
        let mut meta = meta_of(&one).unwrap();
        (meta.mode, meta.mtime) = (0o640, (1_700_000_000, 5));
        meta.xattrs.push((hex(b"user.note"), hex(b"x y")));
        // Not every file system supports extended attributes.
        if set_meta(&other, &meta).is_err() {
            meta.xattrs.clear();
            set_meta(&other, &meta).unwrap();
        }
        assert_eq!(meta_of(&other).unwrap(), meta);
    }

    #[test]
    fn hashing_a_pipe_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, 0o600.into(), 0).unwrap();
        assert!(format!("{:#}", sum_of(&pipe).unwrap_err()).contains("not a regular file"));
    }
}
