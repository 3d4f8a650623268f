//! Files that may be missing without that being an error.

use std::io::{self, ErrorKind};
use std::path::Path;

/// Turns the error "not found" of a call, such as reading or removing a file, into `None`.
pub fn none_if_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a file in a folder; `None` if it is missing. A missing folder is an error: otherwise its
/// records would count as never written.
pub(crate) fn read_in(folder: &Path, path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Err(error) if !folder.is_dir() => Err(error),
        read => none_if_missing(read),
    }
}
