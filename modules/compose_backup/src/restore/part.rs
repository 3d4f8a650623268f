//! A part of a restore: the path of the data, the staged data that replaces it, and where it is parked.

use host::beneath::Identity;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A folder or file that is exchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub title: String,
    pub source: PathBuf,
    /// The staged data that replaces it; `None` if there must be nothing.
    #[serde(rename = "fresh")]
    pub staged: Option<PathBuf>,
    pub parked: PathBuf,
    /// Whether there is nothing to park.
    pub absent: bool,
    /// Whether it is a file, which is staged in a folder of its own.
    pub is_file: bool,
    /// The identity of the staging folder that this restore has made.
    #[serde(default)]
    pub made: Option<Identity>,
    /// The identities of the previous and of the staged data, noted before the first exchange.
    #[serde(default)]
    pub old: Option<Identity>,
    #[serde(default)]
    pub new: Option<Identity>,
    /// Whether the staged data has been in place.
    #[serde(default)]
    #[serde(rename = "stood")]
    pub was_in_place: bool,
}

impl Part {
    pub fn new(
        title: String,
        source: PathBuf,
        staged: Option<PathBuf>,
        is_file: bool,
        id: &str,
    ) -> Part {
        let parked = sibling(&source, "parked", id);
        let absent = source.symlink_metadata().is_err();
        let (made, old, new) = (None, None, None);
        Part { title, source, staged, parked, absent, is_file, made, old, new, was_in_place: false }
    }

    /// Returns the staging folder.
    pub fn staging_folder(&self) -> Option<&Path> {
        let staged = self.staged.as_deref()?;
        if self.is_file { staged.parent() } else { Some(staged) }
    }
}

/// Returns a name next to a path, such as `<path>.parked-<id>`.
pub fn sibling(path: &Path, word: &str, id: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_else(|| OsStr::new("")).to_owned();
    name.push(format!(".{word}-{id}"));
    path.with_file_name(name)
}
