//! Files that a task names: maps, configurations, pid files.
//!
//! Invariant: what is no regular file is neither waited for nor read without end.

use host::regular::{self, Links};
use std::io;
use std::path::Path;

/// A map of a million names is smaller.
const LARGEST: u64 = 64 << 20;

pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    regular::read(path, Links::Follow, LARGEST)
}
