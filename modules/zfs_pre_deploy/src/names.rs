//! The names that ZFS allows, checked before it is called: datasets, and the short names of
//! snapshots.
//!
//! Invariant: what is parsed is never read by `zfs` as an option, a snapshot, a bookmark or a range.

use serde::{Deserialize, Serialize};
use std::fmt;

/// `ZFS_MAX_DATASET_NAME_LEN` without its NUL, for `dataset@snapshot` as a whole.
pub const LONGEST: usize = 255;

/// A filesystem or a volume, by its whole name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Dataset(String);

impl Dataset {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.: ".contains(&byte)
}

impl TryFrom<String> for Dataset {
    type Error = String;

    fn try_from(text: String) -> Result<Dataset, String> {
        if text.len() > LONGEST {
            let shown: String = text.chars().take(40).collect();
            return Err(format!(
                "{shown:?}... has {} characters, and ZFS allows {LONGEST}",
                text.chars().count()
            ));
        }
        if text.contains(['@', '#', '%']) {
            return Err(format!(
                "expected the name of a dataset, got {text:?}, which names a snapshot or a bookmark"
            ));
        }
        let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(is_allowed);
        // ZFS: a pool's name begins with a letter.
        let begins = text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
        match begins && text.split('/').all(part) && !text.ends_with(' ') {
            true => Ok(Dataset(text)),
            false => {
                Err(format!("expected the exact name of a dataset, such as tank/app, got {text:?}"))
            }
        }
    }
}

impl From<Dataset> for String {
    fn from(dataset: Dataset) -> String {
        dataset.0
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the pool of a dataset or a snapshot.
pub fn pool_of(name: &str) -> &str {
    name.split(['/', '@', '#']).next().unwrap_or(name)
}

/// Returns the parent of a dataset; a pool's root dataset has none.
pub fn parent_of(dataset: &str) -> Option<&str> {
    dataset.rsplit_once('/').map(|(parent, _)| parent)
}

/// Returns what follows the name of `root`: `""` for itself, `/a/b` below it.
pub fn below<'a>(dataset: &'a str, root: &str) -> Option<&'a str> {
    let rest = dataset.strip_prefix(root)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// The short name of a snapshot: `prefix` and a deploy id.
pub fn snapshot_name(prefix: &str, id: &str) -> Result<String, String> {
    let name = format!("{prefix}{id}");
    let good = |byte: u8| is_allowed(byte) && byte != b' ';
    match prefix.bytes().all(good) && !prefix.starts_with('-') && name.len() < LONGEST {
        true => Ok(name),
        false => Err(format!("expected letters, digits and any of - _ . :, got {prefix:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_datasets() {
        for good in ["tank", "tank/a", "rpool/data/subvol-101-disk-0", "t/a b/c:d.e_f", "t/-x"] {
            assert_eq!(Dataset::try_from(good.to_owned()).unwrap().as_str(), good);
        }
        let long = format!("tank/{}", "a".repeat(300));
        for bad in [
            "", "/", "tank/", "/tank", "tank//a", "tank/.", "tank/..", "-r", "-", "1tank",
            "tank/a@b", "tank/a#b", "tank/a%b", "tank/ä", "tank/a\n", "tank/a\t", "tank/a*",
            "tank/a ", &long,
        ] {
            assert!(Dataset::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(Dataset::try_from(long).unwrap_err().contains("305 characters"));
    }

    #[test]
    fn parts() {
        assert_eq!(pool_of("tank/a@x"), "tank");
        assert_eq!((parent_of("tank/a/b"), parent_of("tank")), (Some("tank/a"), None));
        assert_eq!(below("tank/a/b", "tank/a"), Some("/b"));
        assert_eq!(below("tank/a", "tank/a"), Some(""));
        assert_eq!(below("tank/ab", "tank/a"), None);
        assert_eq!(snapshot_name("pre-deploy-", "x").unwrap(), "pre-deploy-x");
        for bad in ["a@", "a/", "-", "a b", "a%", "a,"] {
            assert!(snapshot_name(bad, "x").is_err(), "{bad}");
        }
    }
}
