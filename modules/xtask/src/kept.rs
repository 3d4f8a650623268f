//! Binaries that were built before, kept by what went into them (`inputs`): whoever has the same sources, tools and settings builds
//! nothing. They lie in the lab's cache where there is one, so that a fresh clone has them too, else within the target folder. A file's name
//! holds the hash of its content, and what does not match it is not used.

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

/// Of each binary; those that were last used. More than the branches that anyone works on side by side.
const KEPT: usize = 8;
const PARTIAL: &str = ".partial-";

pub struct Kept {
    folder: PathBuf,
}

impl Kept {
    pub fn find(workspace: &Workspace) -> Self {
        let of_the_lab = target::lab_cache().filter(|cache| cache.is_dir());
        Self { folder: of_the_lab.unwrap_or_else(|| workspace.target_dir.clone()).join("binaries") }
    }

    /// The binary of this name that was made of these inputs, and what it holds.
    pub fn take(&self, name: &str, inputs: &str) -> Option<(PathBuf, Vec<u8>)> {
        let start = format!("{name}-{inputs}-");
        for entry in fs::read_dir(&self.folder).ok()?.flatten() {
            let file = entry.file_name();
            let Some(sum) = file.to_str().and_then(|file| file.strip_prefix(&start)) else {
                continue;
            };
            let content = fs::read(entry.path()).ok()?;
            if sha256(&content) == sum {
                // Cannot be said of a cache that is mounted read-only, where nothing is removed either.
                File::open(entry.path()).and_then(|file| file.set_modified(SystemTime::now())).ok();
                return Some((entry.path(), content));
            }
        }
        None
    }

    pub fn keep(&self, name: &str, inputs: &str, content: &[u8]) -> Result<()> {
        let keep = || -> Result<()> {
            fs::create_dir_all(&self.folder)?;
            let mut file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&self.folder)?;
            file.write_all(content)?;
            file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
            file.persist(self.folder.join(format!("{name}-{inputs}-{}", sha256(content))))?;
            self.remove_old()
        };
        keep().with_context(|| format!("keeping {name} in {}", self.folder.display()))
    }

    fn remove_old(&self) -> Result<()> {
        let mut files: BTreeMap<String, Vec<(SystemTime, PathBuf)>> = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            // Another may have removed it just now.
            let Ok(used) = entry.metadata().and_then(|about| about.modified()) else { continue };
            let name = file.split('-').next().unwrap_or_default().to_owned();
            files.entry(name).or_default().push((used, entry.path()));
        }
        for (_, mut of_one_name) in files {
            of_one_name.sort();
            for (_, path) in of_one_name.iter().rev().skip(KEPT) {
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

    fn kept(folder: &Path) -> Kept {
        Kept { folder: folder.join("binaries") }
    }

    #[test]
    fn gives_back_what_was_kept_for_the_same_inputs_alone() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(folder.path());
        assert!(kept.take("ledger_x86_64", "aa").is_none());
        kept.keep("ledger_x86_64", "aa", b"one").unwrap();
        kept.keep("ledger_x86_64", "ab", b"two").unwrap();
        let (path, content) = kept.take("ledger_x86_64", "aa").unwrap();
        assert_eq!(content, b"one");
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o755);
        for (name, inputs) in [("ledger_x86_64", "ac"), ("ledger_x86_64", "a"), ("ledger", "aa")] {
            assert!(kept.take(name, inputs).is_none(), "{name} {inputs}");
        }
    }

    #[test]
    fn does_not_give_what_was_changed_and_keeps_it_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(folder.path());
        kept.keep("ledger_x86_64", "aa", b"whole").unwrap();
        let (path, _) = kept.take("ledger_x86_64", "aa").unwrap();
        fs::write(&path, b"whol").unwrap();
        assert!(kept.take("ledger_x86_64", "aa").is_none());
        kept.keep("ledger_x86_64", "aa", b"whole").unwrap();
        assert_eq!(kept.take("ledger_x86_64", "aa").unwrap().1, b"whole");
    }

    #[test]
    fn few_are_kept_of_each_and_those_that_were_used_last() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(folder.path());
        let long_ago = SystemTime::UNIX_EPOCH;
        for number in 0..KEPT {
            let (name, inputs) = ("gate_x86_64", format!("{number}"));
            kept.keep(name, &inputs, b"gate").unwrap();
            let path = kept.take(name, &inputs).unwrap().0;
            File::open(path).unwrap().set_modified(long_ago).unwrap();
        }
        kept.keep("ledger_x86_64", "0", b"ledger").unwrap();
        kept.take("gate_x86_64", "3").unwrap();
        kept.keep("gate_x86_64", "last", b"gate").unwrap();
        let there = |name| kept.take("gate_x86_64", name).is_some();
        assert_eq!(fs::read_dir(&kept.folder).unwrap().count(), KEPT + 1);
        assert!(there("3") && there("last") && kept.take("ledger_x86_64", "0").is_some());
    }
}
