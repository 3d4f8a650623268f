//! A cache of built binaries by the hash of their inputs (`inputs`), so that the same sources, tools and settings are built once. It is in
//! the lab's cache if there is one, which a fresh clone shares, else in the target folder.
//!
//! Invariant: a file's name contains the hash of its content, and a file that does not match it is not used.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::target;
use crate::workspace::Workspace;

/// How many versions of a binary are cached, by last use: more than anyone has branches in work.
const MAX_VERSIONS: usize = 8;
const PARTIAL: &str = ".partial-";

pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub fn find(workspace: &Workspace) -> Self {
        let lab_cache = target::lab_cache().filter(|cache| cache.is_dir());
        Self { folder: lab_cache.unwrap_or_else(|| workspace.target_dir.clone()).join("binaries") }
    }

    /// Finds the binary of this name and these inputs; returns its path and content.
    pub fn take(&self, name: &str, inputs: &str) -> Option<(PathBuf, Vec<u8>)> {
        let start = format!("{name}-{inputs}-");
        for entry in fs::read_dir(&self.folder).ok()?.flatten() {
            let file = entry.file_name();
            let Some(sum) = file.to_str().and_then(|file| file.strip_prefix(&start)) else {
                continue;
            };
            let content = fs::read(entry.path()).ok()?;
            if sha256(&content) == sum {
                // This fails if the cache is mounted read-only, where nothing is removed either.
                File::open(entry.path()).and_then(|file| file.set_modified(SystemTime::now())).ok();
                return Some((entry.path(), content));
            }
        }
        None
    }

    pub fn store(&self, name: &str, inputs: &str, content: &[u8]) -> Result<()> {
        let store = || -> Result<()> {
            fs::create_dir_all(&self.folder)?;
            let mut file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&self.folder)?;
            file.write_all(content)?;
            file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
            file.persist(self.folder.join(format!("{name}-{inputs}-{}", sha256(content))))?;
            self.remove_old()
        };
        store().with_context(|| format!("storing {name} in {}", self.folder.display()))
    }

    fn remove_old(&self) -> Result<()> {
        let mut files: BTreeMap<String, Vec<(SystemTime, PathBuf)>> = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            // Another process may have removed it just now.
            let Ok(used) = entry.metadata().and_then(|about| about.modified()) else { continue };
            let name = file.split('-').next().unwrap_or_default().to_owned();
            files.entry(name).or_default().push((used, entry.path()));
        }
        for (_, mut of_one_name) in files {
            of_one_name.sort();
            for (_, path) in of_one_name.iter().rev().skip(MAX_VERSIONS) {
                fs::remove_file(path).ok();
            }
        }
        Ok(())
    }
}

pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn cache_in(folder: &Path) -> Cache {
        Cache { folder: folder.join("binaries") }
    }

    #[test]
    fn returns_only_what_was_stored_for_the_same_inputs() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache_in(folder.path());
        assert!(cache.take("ledger_x86_64", "aa").is_none());
        cache.store("ledger_x86_64", "aa", b"one").unwrap();
        cache.store("ledger_x86_64", "ab", b"two").unwrap();
        let (path, content) = cache.take("ledger_x86_64", "aa").unwrap();
        assert_eq!(content, b"one");
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o755);
        for (name, inputs) in [("ledger_x86_64", "ac"), ("ledger_x86_64", "a"), ("ledger", "aa")] {
            assert!(cache.take(name, inputs).is_none(), "{name} {inputs}");
        }
    }

    #[test]
    fn does_not_give_what_was_changed_and_keeps_it_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache_in(folder.path());
        cache.store("ledger_x86_64", "aa", b"whole").unwrap();
        let (path, _) = cache.take("ledger_x86_64", "aa").unwrap();
        fs::write(&path, b"whol").unwrap();
        assert!(cache.take("ledger_x86_64", "aa").is_none());
        cache.store("ledger_x86_64", "aa", b"whole").unwrap();
        assert_eq!(cache.take("ledger_x86_64", "aa").unwrap().1, b"whole");
    }

    #[test]
    fn the_last_used_versions_of_each_binary_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache_in(folder.path());
        let long_ago = SystemTime::UNIX_EPOCH;
        for number in 0..MAX_VERSIONS {
            let (name, inputs) = ("gate_x86_64", format!("{number}"));
            cache.store(name, &inputs, b"gate").unwrap();
            let path = cache.take(name, &inputs).unwrap().0;
            File::open(path).unwrap().set_modified(long_ago).unwrap();
        }
        cache.store("ledger_x86_64", "0", b"ledger").unwrap();
        cache.take("gate_x86_64", "3").unwrap();
        cache.store("gate_x86_64", "last", b"gate").unwrap();
        let there = |name| cache.take("gate_x86_64", name).is_some();
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), MAX_VERSIONS + 1);
        assert!(there("3") && there("last") && cache.take("ledger_x86_64", "0").is_some());
    }
}
