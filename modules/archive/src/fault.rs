//! Errors about archives, and their stable reason codes.

use host::walk::Missed;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The archive is not as it was written: bytes have changed, or some are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged(pub String);

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Damaged {}

/// A file could be opened, but not read.
#[derive(Debug)]
pub struct Unreadable(pub io::Error);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it cannot be read ({})", self.0)
    }
}

impl std::error::Error for Unreadable {}

/// A restore needs an empty folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEmpty;

impl fmt::Display for NotEmpty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the folder to restore into is not empty")
    }
}

impl std::error::Error for NotEmpty {}

/// The code of the first error in the chain that has one: `bad_archive`, `not_empty`, `unreadable`
/// (an entry of the tree), and those of [`host::reason`].
pub fn reason(error: &anyhow::Error) -> Option<&'static str> {
    let own = error.chain().find_map(|cause| {
        if cause.is::<Damaged>() {
            Some("bad_archive")
        } else if cause.is::<NotEmpty>() {
            Some("not_empty")
        } else if cause.is::<Missed>() || cause.is::<Unreadable>() {
            Some("unreadable")
        } else {
            None
        }
    });
    own.or_else(|| host::reason(error))
}

/// Paths for a message: how many there are, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathSample {
    pub count: u64,
    pub first: Vec<PathBuf>,
}

impl PathSample {
    const MAX_NAMED: usize = 100;

    pub fn note(&mut self, path: impl Into<PathBuf>) {
        self.count += 1;
        if self.first.len() < PathSample::MAX_NAMED {
            self.first.push(path.into());
        }
    }
}
