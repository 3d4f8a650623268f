//! The folder of releases and the paths in it.

use crate::names::ReleaseSha;
use std::path::{Path, PathBuf};

const RELEASES: &str = "releases";

/// The folder that holds `releases`, `current` and `previous`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    pub dest: PathBuf,
}

impl Folder {
    pub fn releases(&self) -> PathBuf {
        self.dest.join(RELEASES)
    }

    pub fn records(&self) -> PathBuf {
        self.dest.join(".reversible")
    }

    /// Returns the text of a link to a release.
    pub fn target(sha: &ReleaseSha) -> PathBuf {
        Path::new(RELEASES).join(sha.as_str())
    }
}
