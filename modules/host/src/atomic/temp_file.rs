//! A temporary file in the folder of the file that it will replace; dropping it removes it.

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::io::Errno;

use crate::beneath::Dir;

/// How much of the target's name is used in that of the temporary file: a name has at most 255 bytes.
const LONGEST_NAME: usize = 200;
const RANDOM: usize = 6;
const SUFFIX: &[u8] = b".new";
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const MOST_TRIES: usize = 1000;

pub(super) struct TempFile<'a> {
    dir: &'a Dir,
    name: OsString,
    file: File,
    is_renamed: bool,
}

impl<'a> TempFile<'a> {
    /// Makes an empty file with mode 0600.
    pub(super) fn make(dir: &'a Dir, target: &OsStr) -> io::Result<TempFile<'a>> {
        for _ in 0..MOST_TRIES {
            let name = name(target);
            match dir.make_file(&name, 0o600) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return Ok(TempFile { dir, name, file: made?, is_renamed: false }),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Renames it to the target's name, replacing what has it.
    pub(super) fn replace(mut self, name: &OsStr) -> io::Result<()> {
        self.dir.replace(&self.name, self.dir, name)?;
        self.is_renamed = true;
        Ok(())
    }

    /// Renames it to a name that must not exist yet.
    pub(super) fn rename(mut self, name: &OsStr) -> io::Result<()> {
        self.dir.rename(&self.name, self.dir, name)?;
        self.is_renamed = true;
        Ok(())
    }
}

impl Drop for TempFile<'_> {
    fn drop(&mut self) {
        if !self.is_renamed {
            let _ = self.dir.remove(&self.name);
        }
    }
}

/// Removes the temporary files that killed runs left for this target. The error names the file that
/// could not be removed.
pub(super) fn sweep(dir: &Dir, target: &OsStr) -> Result<(), (OsString, io::Error)> {
    let cannot_list = |error: Errno| (target.to_owned(), error.into());
    let prefix = prefix(target);
    for entry in dir.list().map_err(cannot_list)? {
        let entry = entry.map_err(cannot_list)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let random = name.as_bytes().strip_prefix(&prefix[..]);
        let random = random.and_then(|rest| rest.strip_suffix(SUFFIX));
        if random.is_some_and(|random| {
            random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric)
        }) {
            match dir.remove(name) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err((name.to_owned(), error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Returns a random name for a temporary file of this target.
pub(super) fn name(target: &OsStr) -> OsString {
    OsString::from_vec([&prefix(target)[..], &random(), SUFFIX].concat())
}

fn prefix(target: &OsStr) -> Vec<u8> {
    let name = target.as_bytes();
    [b".", &name[..name.len().min(LONGEST_NAME)], b"."].concat()
}

/// The standard library seeds this from the kernel, each time differently.
fn random() -> [u8; RANDOM] {
    let mut number = RandomState::new().build_hasher().finish();
    [(); RANDOM].map(|()| {
        let letter = ALPHABET[(number % ALPHABET.len() as u64) as usize];
        number /= ALPHABET.len() as u64;
        letter
    })
}
