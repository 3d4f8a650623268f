//! The errors of unpacking.
//!
//! Invariant: a name from an archive is shown as one word of ASCII of limited length.

use ansible_module::Failure;
use anyhow::Error;
use archive::names::escaped;
use probe::shown::clipped;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

#[derive(Debug)]
pub enum UnpackError {
    /// The archive is damaged; the text completes "the archive is damaged: ...".
    Damaged(String),
    /// The archive is refused, or cannot be written.
    Other(Error),
}

impl From<Error> for UnpackError {
    fn from(error: Error) -> UnpackError {
        UnpackError::Other(error)
    }
}

/// Formats a name for a message.
pub fn shown(name: &[u8]) -> String {
    escaped(OsStr::from_bytes(name)).chars().take(300).collect()
}

/// Formats the error of a library, which may quote the archive.
pub fn error_text(error: &io::Error) -> String {
    clipped(&error.to_string(), 300)
}

pub fn refused(name: &[u8], why: &str) -> UnpackError {
    let msg = format!("the entry {} of the archive {why}; nothing of it is kept", shown(name));
    UnpackError::Other(Failure::new("refused_entry", msg).with("entry", shown(name)).into())
}

/// Makes the error for a failed system call.
pub fn io_error(error: io::Error, name: &[u8]) -> UnpackError {
    match Errno::from_io_error(&error) {
        Some(Errno::EXIST) => refused(name, "is there twice"),
        Some(Errno::NAMETOOLONG) => {
            refused(name, "has a name that is too long for this filesystem")
        }
        _ => write_error(error, name),
    }
}

pub fn write_error(error: io::Error, name: &[u8]) -> UnpackError {
    UnpackError::Other(
        Error::from(error).context(format!("cannot write the entry {}", shown(name))),
    )
}
