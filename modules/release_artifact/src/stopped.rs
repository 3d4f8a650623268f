//! Why unpacking stopped, and the sentences for it.
//!
//! Invariant: a name from an archive is shown in one word of ASCII, and never whole when it is long.

use ansible_module::Failure;
use anyhow::Error;
use archive::names::escaped;
use probe::shown::clipped;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

#[derive(Debug)]
pub enum Stopped {
    /// The archive is not as it should be; completes "the archive is damaged: ...".
    Damaged(String),
    /// It is what it should be, and is not wanted; or the disk does not take it.
    For(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Stopped {
        Stopped::For(error)
    }
}

/// A name as it may stand in a message.
pub fn shown(name: &[u8]) -> String {
    escaped(OsStr::from_bytes(name)).chars().take(300).collect()
}

/// What a library says of an archive: it may repeat what stands there.
pub fn said(error: &io::Error) -> String {
    clipped(&error.to_string(), 300)
}

pub fn refused(name: &[u8], why: &str) -> Stopped {
    let msg = format!("the entry {} of the archive {why}; nothing of it is kept", shown(name));
    Stopped::For(Failure::new("refused_entry", msg).with("entry", shown(name)).into())
}

/// What the kernel did not do.
pub fn own(error: io::Error, name: &[u8]) -> Stopped {
    match Errno::from_io_error(&error) {
        Some(Errno::EXIST) => refused(name, "is there twice"),
        Some(Errno::NAMETOOLONG) => {
            refused(name, "has a name that is too long for this filesystem")
        }
        _ => wrote(error, name),
    }
}

pub fn wrote(error: io::Error, name: &[u8]) -> Stopped {
    Stopped::For(Error::from(error).context(format!("cannot write the entry {}", shown(name))))
}
