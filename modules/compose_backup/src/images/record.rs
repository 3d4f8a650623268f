//! The records of images in a backup's manifest.
//!
//! Invariant: an [`ImageRecord`] has everything that is needed to load the image into an engine again: the
//! digest of the configuration and the layers in their order, each of which is a file of the folder.

use archive::Form;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// An image that must be in a backup.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The engine's id of the container's image: `sha256:...`.
    pub id: String,
    /// Its names in the resolved configuration: only these are restored.
    pub references: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The engine's id at the time. With the containerd image store it is not the digest of a configuration.
    pub id: String,
    /// Its names in the resolved configuration.
    pub references: Vec<String>,
    /// All names that it had in the engine at the time, for information.
    pub tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// `sha256:...` of the configuration; its file is `<hex>.json`.
    pub config_digest: String,
    /// The layers in their order; the same one may occur twice.
    pub layers: Vec<LayerRecord>,
    /// The names of its files in the folder, the configuration first.
    pub files: Vec<String>,
    /// The size of what this image added to the backup folder, and of what it shares with earlier backups.
    pub bytes_new: u64,
    pub bytes_linked: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// `sha256:...` of the uncompressed tar archive.
    pub diff_id: String,
    /// The size of the uncompressed archive.
    pub bytes: u64,
    /// The SHA-256 of its first 64 KiB, by which a known layer in a stream is recognised early.
    pub head: String,
}

impl ImageRecord {
    pub fn config_file(&self) -> String {
        format!("{}.json", hex_of(&self.config_digest))
    }

    pub fn diff_ids(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().map(|layer| layer.diff_id.as_str())
    }
}

/// A file of the folder. `sha256` is that of the file as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub name: String,
    pub sha256: String,
    pub bytes: u64,
}

/// The images of a complete earlier backup.
#[derive(Clone, Debug)]
pub struct Earlier {
    pub folder: PathBuf,
    pub images: Vec<ImageRecord>,
    pub files: Vec<FileRecord>,
}

/// The result of [`save`](super::save). Every file was hashed in this run and synced.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    pub images: Vec<ImageRecord>,
    pub files: Vec<FileRecord>,
    pub bytes_new: u64,
    pub bytes_linked: u64,
}

/// Removes the prefix: `sha256:abc` -> `abc`.
pub fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

pub fn digest_of(hex: &str) -> String {
    format!("sha256:{hex}")
}

pub fn layer_file(diff_id: &str, form: Form) -> String {
    let ending = if form == Form::Gzip { "gz" } else { "zst" };
    format!("{}.tar.{ending}", hex_of(diff_id))
}

/// Whether it is 64 lower-case hex digits after `sha256:`. Nothing else becomes a part of a path.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// A recorded image that is in the engine now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The recorded id.
    pub id: String,
    pub config_digest: String,
    /// The id in this engine, which may be another one with the containerd image store.
    pub id_now: String,
    pub references: Vec<String>,
    /// Whether it was not in the engine before.
    pub was_missing: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests() {
        let hex = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
        assert!(is_digest(&digest_of(hex)));
        assert_eq!(layer_file(&digest_of(hex), Form::Gzip), format!("{hex}.tar.gz"));
        for bad in [hex, "sha256:", "sha256:../x", &digest_of(&hex.to_uppercase()), "sha512:00"] {
            assert!(!is_digest(bad), "{bad}");
        }
    }
}
