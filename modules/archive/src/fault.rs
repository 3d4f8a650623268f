//! What can be wrong with an archive, and the stable codes.

use host::walk::Missed;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// It is not what was written once: bytes have changed, or some are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged(pub String);

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Damaged {}

/// A file could be opened and not read.
#[derive(Debug)]
pub struct Unreadable(pub io::Error);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it cannot be read ({})", self.0)
    }
}

impl std::error::Error for Unreadable {}

/// Putting back begins with an empty folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEmpty;

impl fmt::Display for NotEmpty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the folder to put into is not empty")
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

/// Paths that a person should hear of: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub count: u64,
    pub first: Vec<PathBuf>,
}

impl Named {
    const MOST: usize = 100;

    pub fn note(&mut self, path: impl Into<PathBuf>) {
        self.count += 1;
        if self.first.len() < Named::MOST {
            self.first.push(path.into());
        }
    }
}
