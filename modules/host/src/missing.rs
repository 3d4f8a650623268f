//! What may be missing without that being an error.

use std::io::{self, ErrorKind};
use std::path::Path;

/// The result of a call for something that may be missing, such as the content of a file or its
/// removal: `None` where it is.
pub fn none_if_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The content of a file in a folder. Where the folder itself is missing that is an error: what is
/// kept there would be taken for never written.
pub(crate) fn read_in(folder: &Path, path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Err(error) if !folder.is_dir() => Err(error),
        read => none_if_missing(read),
    }
}
