//! What a restore is about: noted in the intent before anything is touched, kept as the record of
//! what it has parked when it is done.
//!
//! Invariant: which parts are exchanged is not noted but looked at: each part's three names say where
//! it stands.

use crate::freeze::Frozen;
use crate::images::TagWas;
use crate::manifest::{ComposeRecord, ServiceRecord};
use host::clock::Utc;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub const NOTE: &str = "restore";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    /// The rollback id: part of the names of what is parked.
    pub id: String,
    pub project: String,
    pub project_dir: PathBuf,
    /// What is put back: a backup, or what an earlier restore has parked.
    pub backup: Option<String>,
    pub undo_of: Option<String>,
    pub at: Utc,
    pub parts: Vec<Part>,
    /// Services are stopped from here on, and parts exchanged.
    pub begun: bool,
    /// What ran before.
    pub stopped: Frozen,
    pub services_before: BTreeMap<String, ServiceRecord>,
    pub compose_before: Option<ComposeRecord>,
    /// What the names of images pointed to before.
    pub tags: Vec<TagWas>,
}

/// One thing that is exchanged by renaming.
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
}

impl Work {
    /// What this one is about, for a sentence.
    pub fn title(&self) -> String {
        match (&self.backup, &self.undo_of) {
            (Some(name), _) => name.clone(),
            (None, Some(id)) => format!("what restore {id} has parked"),
            (None, None) => "nothing".to_owned(),
        }
    }

    pub fn parked_paths(&self) -> Vec<String> {
        let there = self.parts.iter().filter(|part| part.parked.symlink_metadata().is_ok());
        there.map(|part| part.parked.display().to_string()).collect()
    }
}
