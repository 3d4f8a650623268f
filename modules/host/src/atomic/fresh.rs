//! A new file of ours in a held folder, for the name of another: dropping it removes it.

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::io::Errno;

use crate::beneath::Dir;

/// Of the other's name, this much goes into the new one's: a name may have 255 bytes.
const LONGEST_NAME: usize = 200;
const RANDOM: usize = 6;
const SUFFIX: &[u8] = b".new";
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const MOST_TRIES: usize = 1000;

pub(super) struct Fresh<'a> {
    dir: &'a Dir,
    name: OsString,
    file: File,
    has_moved: bool,
}

impl<'a> Fresh<'a> {
    /// 0600.
    pub(super) fn make(dir: &'a Dir, beside: &OsStr) -> io::Result<Fresh<'a>> {
        for _ in 0..MOST_TRIES {
            let name = name(beside);
            match dir.make_file(&name, 0o600) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return Ok(Fresh { dir, name, file: made?, has_moved: false }),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Takes the place of what has this name.
    pub(super) fn replace(mut self, name: &OsStr) -> io::Result<()> {
        self.dir.replace(&self.name, self.dir, name)?;
        self.has_moved = true;
        Ok(())
    }

    /// Takes this name, which must be free.
    pub(super) fn take(mut self, name: &OsStr) -> io::Result<()> {
        self.dir.rename(&self.name, self.dir, name)?;
        self.has_moved = true;
        Ok(())
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if !self.has_moved {
            let _ = self.dir.remove(&self.name);
        }
    }
}

/// Removes what was made for this name by one that was killed; the name that could not be removed, too.
pub(super) fn sweep(dir: &Dir, beside: &OsStr) -> Result<(), (OsString, io::Error)> {
    let of_all = |error: Errno| (beside.to_owned(), error.into());
    let prefix = prefix(beside);
    for entry in dir.list().map_err(of_all)? {
        let entry = entry.map_err(of_all)?;
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

/// For what is made beside another, and has not its name yet.
pub(super) fn name(beside: &OsStr) -> OsString {
    OsString::from_vec([&prefix(beside)[..], &random(), SUFFIX].concat())
}

fn prefix(beside: &OsStr) -> Vec<u8> {
    let name = beside.as_bytes();
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
