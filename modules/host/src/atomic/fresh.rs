//! A new file of ours in a held folder, for the name of another: dropping it removes it.

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Of the other's name, this much goes into the new one's: a name may have 255 bytes.
const LONGEST_NAME: usize = 200;
const RANDOM: usize = 6;
const SUFFIX: &[u8] = b".new";
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const MOST_TRIES: usize = 1000;

pub(super) struct Fresh<'a> {
    folder: BorrowedFd<'a>,
    name: OsString,
    file: File,
    has_moved: bool,
}

impl<'a> Fresh<'a> {
    /// 0600.
    pub(super) fn make(folder: BorrowedFd<'a>, beside: &OsStr) -> io::Result<Fresh<'a>> {
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..MOST_TRIES {
            let name = [&prefix(beside)[..], &random(), SUFFIX].concat();
            let name = OsString::from_vec(name);
            match rustix::fs::openat(folder, &name, how, Mode::RUSR | Mode::WUSR) {
                Err(Errno::EXIST) => {}
                made => return Ok(Fresh { folder, name, file: made?.into(), has_moved: false }),
            }
        }
        Err(Errno::EXIST.into())
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Takes the place of what has this name.
    pub(super) fn replace(mut self, name: &OsStr) -> io::Result<()> {
        rustix::fs::renameat(self.folder, &self.name, self.folder, name)?;
        self.has_moved = true;
        Ok(())
    }

    /// Takes a name that must be free.
    pub(super) fn take(mut self, name: &OsStr) -> io::Result<()> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(self.folder, &self.name, self.folder, name, flags) {
            // A file system that does not know the flag. The other name goes when this is dropped.
            Err(Errno::INVAL | Errno::NOSYS) => {
                let flags = AtFlags::empty();
                rustix::fs::linkat(self.folder, &self.name, self.folder, name, flags)?;
            }
            done => {
                done?;
                self.has_moved = true;
            }
        }
        Ok(())
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if !self.has_moved {
            let _ = rustix::fs::unlinkat(self.folder, &self.name, AtFlags::empty());
        }
    }
}

/// Removes what was made for this name by one that was killed; the name that could not be removed, too.
pub(super) fn sweep(folder: &File, beside: &OsStr) -> Result<(), (OsString, io::Error)> {
    let of_all = |error: Errno| (beside.to_owned(), error.into());
    let prefix = prefix(beside);
    for entry in rustix::fs::Dir::read_from(folder).map_err(of_all)?.flatten() {
        let name = entry.file_name().to_bytes();
        let random = name.strip_prefix(&prefix[..]).and_then(|rest| rest.strip_suffix(SUFFIX));
        if random.is_some_and(|random| {
            random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric)
        }) {
            match rustix::fs::unlinkat(folder.as_fd(), entry.file_name(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err((OsStr::from_bytes(name).to_owned(), error.into())),
            }
        }
    }
    Ok(())
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
