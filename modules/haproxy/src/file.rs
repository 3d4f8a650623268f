//! Reads files that a task names: maps, configurations, pid files.
//!
//! Invariant: anything but a regular file is refused, so that no read blocks or has no end.

use host::regular::{self, Links};
use std::io;
use std::path::Path;

/// The largest file that is read; a map of a million names is smaller.
const LARGEST: u64 = 64 << 20;

pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    regular::read(path, Links::Follow, LARGEST)
}
