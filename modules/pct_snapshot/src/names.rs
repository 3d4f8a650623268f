//! The names that Proxmox allows, checked before it is called: containers' numbers and snapshots'
//! names.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The number of a container. Proxmox: `^[1-9][0-9]{2,8}$`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vmid(u32);

impl Vmid {
    /// The lowest number.
    pub const FIRST: Vmid = Vmid(100);

    pub fn number(self) -> u32 {
        self.0
    }

    pub fn parse(text: &str) -> Result<Vmid, String> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number @ 100..=999_999_999) if digits && !text.starts_with('0') => Ok(Vmid(number)),
            _ => Err(format!("expected the number of a container, 100 to 999999999, got {text:?}")),
        }
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a snapshot, which is case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);

const MAX_LENGTH: usize = 40;

impl SnapshotName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = String;

    fn try_from(text: String) -> Result<SnapshotName, String> {
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if matches!(text.as_str(), "current" | "vzdump") {
            return Err(format!("{text:?} is reserved by Proxmox"));
        }
        if text.len() > MAX_LENGTH {
            return Err(format!(
                "{text:?} has {} characters, and Proxmox allows {MAX_LENGTH}",
                text.chars().count()
            ));
        }
        let begins = text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
        match begins && text.len() >= 2 && text.bytes().all(sound) {
            true => Ok(SnapshotName(text)),
            false => Err(format!(
                "expected 2 to {MAX_LENGTH} letters, digits, '_' and '-', a letter first, got {text:?}"
            )),
        }
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> String {
        name.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the names that are most similar to `name`, the most similar first.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const MAX_SUGGESTIONS: usize = 3;
    let mut all: Vec<(usize, &str)> =
        known.map(|other| (distance(&name.to_lowercase(), &other.to_lowercase()), other)).collect();
    all.sort();
    all.into_iter().take(MAX_SUGGESTIONS).map(|(_, other)| other).collect()
}

/// Computes the Levenshtein distance.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<SnapshotName, String> {
        SnapshotName::try_from(text.to_owned())
    }

    #[test]
    fn numbers_of_containers() {
        for good in ["100", "101", "999999999"] {
            assert_eq!(Vmid::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "0", "99", "1000000000", "0101", "+101", "-101", "1e3", "shop", " 101"] {
            assert!(Vmid::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_snapshots() {
        let longest = "a".repeat(40);
        for good in ["ab", "A1", "pre-deploy-20261121t084500z-7f3a", "Current", &longest] {
            assert_eq!(name(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(41);
        for bad in ["", "a", "1a", "-a", "a.b", "a b", "aé", "current", "vzdump", "a\n", &long] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert!(name("vzdump").unwrap_err().contains("is reserved"));
        assert!(name(&long).unwrap_err().contains("41 characters"));
    }

    #[test]
    fn the_most_similar_name_comes_first() {
        let known = ["pre-deploy-a", "before-upgrade", "snap1", "pre-upgrade"];
        assert_eq!(nearest("pre-upgrad", known.into_iter())[0], "pre-upgrade");
        assert_eq!(nearest("SNAP1", known.into_iter())[0], "snap1");
        assert!(nearest("x", [].into_iter()).is_empty());
    }
}
