//! One thing that a restore exchanges: where it is, where what replaces it lies, and where it is parked.

use host::beneath::Identity;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// One thing that is exchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub title: String,
    pub source: PathBuf,
    /// What takes its place; nothing, where nothing was there.
    pub fresh: Option<PathBuf>,
    pub parked: PathBuf,
    /// There was nothing to park.
    pub absent: bool,
    /// A file: it lies alone in a folder of ours before it is put in its place.
    pub is_file: bool,
    /// The folder that we have made for what is fresh.
    #[serde(default)]
    pub made: Option<Identity>,
    /// What was in the place before, and what is to be; noted before the first exchange.
    #[serde(default)]
    pub old: Option<Identity>,
    #[serde(default)]
    pub new: Option<Identity>,
    /// What is fresh has been in its place.
    #[serde(default)]
    pub stood: bool,
}

impl Part {
    pub fn new(
        title: String,
        source: PathBuf,
        fresh: Option<PathBuf>,
        is_file: bool,
        id: &str,
    ) -> Part {
        let parked = sibling(&source, "parked", id);
        let absent = source.symlink_metadata().is_err();
        let (made, old, new) = (None, None, None);
        Part { title, source, fresh, parked, absent, is_file, made, old, new, stood: false }
    }

    /// The folder in which it lies until it takes its place.
    pub fn holder(&self) -> Option<&std::path::Path> {
        let fresh = self.fresh.as_deref()?;
        if self.is_file { fresh.parent() } else { Some(fresh) }
    }
}

/// `<path>.parked-<id>` and the like.
pub fn sibling(path: &Path, word: &str, id: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_else(|| OsStr::new("")).to_owned();
    name.push(format!(".{word}-{id}"));
    path.with_file_name(name)
}
