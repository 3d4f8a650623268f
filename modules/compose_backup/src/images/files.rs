//! The files of the images' folder: writes and checks them, and links those of earlier backups.
//!
//! Invariants: all have mode 0600, since an image may contain secrets; a link counts only after its target
//! was hashed and has the sum of the earlier manifest.

use crate::images::record::FileRecord;
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::{hex, interrupt};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const PIECE: usize = 256 << 10;

/// Makes a file, or truncates one that an earlier run has left.
pub fn create(path: &Path) -> Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.with_context(|| format!("cannot make the file {}", path.display()))
}

pub fn write(folder: &Path, name: &str, content: &[u8]) -> Result<FileRecord> {
    let mut file = create(&folder.join(name))?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.with_context(|| format!("cannot write {name}"))?;
    let sha256 = hex(&Sha256::digest(content));
    Ok(FileRecord { name: name.to_owned(), sha256, bytes: content.len() as u64 })
}

/// The sum and the size of a file. A signal ends it.
pub fn sum(path: &Path) -> Result<(String, u64)> {
    let reading = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        interrupt::check()?;
        let length = file.read(&mut piece).with_context(reading)?;
        if length == 0 {
            return Ok((hex(&hash.finalize()), bytes));
        }
        hash.update(&piece[..length]);
        bytes += length as u64;
    }
}

/// Links a file of an earlier backup if it has the sum of that backup's manifest. False if it is missing or
/// damaged or cannot be linked: then it must be written again.
pub fn link(from: &Path, to: &Path, file: &FileRecord) -> Result<bool> {
    let (from, to) = (from.join(&file.name), to.join(&file.name));
    // The size is checked first, without reading. A hard link to a symbolic link would be useless.
    let regular = |meta: fs::Metadata| meta.is_file() && meta.len() == file.bytes;
    if !from.symlink_metadata().is_ok_and(regular) {
        return Ok(false);
    }
    if fs::hard_link(&from, &to).is_err() {
        return Ok(false);
    }
    let is_intact = match sum(&to) {
        Ok((sha256, _)) => sha256 == file.sha256,
        Err(error) if host::reason(&error) == Some("interrupted") => return Err(error),
        Err(_) => false,
    };
    if !is_intact {
        fs::remove_file(&to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    Ok(is_intact)
}

/// Fails with `damaged` and the file's name unless each file has the sum of its record.
pub fn check(folder: &Path, files: &[FileRecord], progress: super::Progress<'_>) -> Result<()> {
    let mut seen = 0;
    for file in files {
        let path = folder.join(&file.name);
        let damaged = |how: String| {
            let msg =
                format!("the backup is damaged: {} {how}; use another backup", path.display());
            Failure::new("damaged", msg).with("damaged", path.display().to_string())
        };
        if !path.exists() {
            return Err(damaged("is missing".into()).into());
        }
        let (sha256, bytes) = match sum(&path) {
            Ok(seen) => seen,
            Err(error) if host::reason(&error) == Some("interrupted") => return Err(error),
            Err(error) => return Err(damaged("cannot be read".into()).caused_by(error).into()),
        };
        if bytes != file.bytes {
            return Err(damaged(format!("has {bytes} bytes and not {}", file.bytes)).into());
        }
        if sha256 != file.sha256 {
            return Err(damaged("has another SHA-256 sum than its manifest says".into()).into());
        }
        seen += bytes;
        progress(seen);
    }
    Ok(())
}

pub fn remove(folder: &Path, name: &str) -> Result<()> {
    fs::remove_file(folder.join(name)).with_context(|| format!("cannot remove {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn only_intact_files_are_linked() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("a"), root.path().join("b"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        let file = write(&from, "x", b"content").unwrap();
        assert!(link(&from, &to, &file).unwrap());
        assert_eq!(fs::metadata(to.join("x")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(to.join("x")).unwrap().mode() & 0o777, 0o600);
        check(&to, std::slice::from_ref(&file), &mut |_| {}).unwrap();
        fs::remove_file(to.join("x")).unwrap();
        fs::write(from.join("x"), b"kontent").unwrap();
        assert!(!link(&from, &to, &file).unwrap());
        assert!(!to.join("x").exists());
        let error = check(&from, std::slice::from_ref(&file), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("a/x has another SHA-256 sum"), "{error}");
        fs::write(from.join("x"), b"conten").unwrap();
        assert!(!link(&from, &to, &file).unwrap());
        let error = check(&from, std::slice::from_ref(&file), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("has 6 bytes and not 7"), "{error}");
        assert!(!link(&root.path().join("gone"), &to, &file).unwrap());
    }
}
