//! Opens files that another user could have made, without ever blocking.
//!
//! Invariants: nothing but a regular file is opened for reading (its kind is checked by O_PATH first),
//! so no pipe blocks and no device is triggered; a lease that the owner of the file holds is an error
//! ([`ErrorKind::WouldBlock`]), and the kernel asks the owner to give it up; what is read into memory is
//! bounded.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::meta::{Kind, Meta};

/// What to do if the path itself is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    Refuse,
    Follow,
}

/// Opens a regular file for reading.
pub fn open(path: &Path, links: Links) -> io::Result<File> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if links == Links::Refuse {
        flags |= OFlags::NOFOLLOW;
    }
    open_held(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Opens for reading what is held by O_PATH, if it is a regular file.
pub fn open_held(held: impl AsFd) -> io::Result<File> {
    check_is_regular(&held)?;
    let path = format!("/proc/self/fd/{}", held.as_fd().as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::WOULDBLOCK) => Err(io::Error::new(
            ErrorKind::WouldBlock,
            "its owner holds a lease on it (see /proc/locks), and was asked to give it up",
        )),
        opened => Ok(File::from(opened?)),
    }
}

/// Returns a file that was opened without blocking, if it is a regular one.
pub(crate) fn require_regular(file: File) -> io::Result<File> {
    check_is_regular(&file).map(|()| file)
}

pub(crate) fn is_link() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is a symbolic link; give the real path")
}

fn check_is_regular(held: impl AsFd) -> io::Result<()> {
    match Meta::read(held)?.kind {
        Kind::File => Ok(()),
        Kind::Link => Err(is_link()),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Reads a regular file; an error if it has more than `most` bytes.
pub fn read(path: &Path, links: Links, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path, links)?;
    let longer = || {
        let why = format!("it is longer than {}", crate::space::human(most));
        io::Error::new(ErrorKind::FileTooLarge, why)
    };
    // The length is checked first: a sparse file may be huge.
    if file.metadata()?.len() > most {
        return Err(longer());
    }
    let mut content = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut content)?;
    match content.len() as u64 > most {
        true => Err(longer()),
        false => Ok(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_regular_files_up_to_the_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("/dev/zero", at("endless")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            0o700.into(),
            0,
        )
        .unwrap();
        for links in [Links::Refuse, Links::Follow] {
            assert_eq!(read(&at("file"), links, 5).unwrap(), b"12345");
            assert_eq!(read(&at("file"), links, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
            assert_eq!(read(&at("none"), links, 4).unwrap_err().kind(), ErrorKind::NotFound);
            for odd in ["pipe", "endless", "."] {
                let error = read(&at(odd), links, 5).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{odd}: {error}");
            }
        }
        assert_eq!(read(&at("link"), Links::Follow, 5).unwrap(), b"12345");
        assert!(read(&at("link"), Links::Refuse, 5).is_err());
        File::create(at("holes")).unwrap().set_len(1 << 40).unwrap();
        let error = read(&at("holes"), Links::Refuse, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }
}
