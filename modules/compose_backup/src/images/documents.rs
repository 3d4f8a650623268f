//! The JSON documents in an engine's stream of images: configurations, manifests, indexes.
//!
//! Invariant: a document is found by the digest of its bytes, so it does not matter how an engine names it
//! (a folder for each layer before 25, `blobs/sha256` since then, also manifests with the containerd image
//! store), and a wrong name has no effect.

use crate::images::record::digest_of;
use anyhow::{Result, ensure};
use host::hex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// The largest document; configurations have a few KiB.
pub const LARGEST: u64 = 4 << 20;
const MOST_BYTES: usize = 32 << 20;
/// The deepest nesting: an index of indexes, and some more.
const DEEPEST: usize = 4;

#[derive(Default)]
pub struct Documents {
    by_digest: HashMap<String, Vec<u8>>,
    bytes: usize,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    rootfs: Option<RootFs>,
    #[serde(default)]
    config: Option<serde_json::Value>,
    #[serde(default)]
    layers: Option<serde_json::Value>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

/// The configuration of an image.
pub struct Config<'a> {
    pub digest: String,
    pub bytes: &'a [u8],
}

impl Documents {
    pub fn add(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.bytes += bytes.len();
        ensure!(
            self.bytes <= MOST_BYTES,
            "the engine's stream contains more than {MOST_BYTES} bytes of descriptions"
        );
        self.by_digest.insert(digest_of(&hex(&Sha256::digest(&bytes))), bytes);
        Ok(())
    }

    /// Finds the configuration of the image with this id and these layers; `None` if the stream has none, or
    /// several that fit.
    pub fn config_of(&self, id: &str, layers: &[String]) -> Option<Config<'_>> {
        self.below(id, layers, 0).or_else(|| self.only_one_with(layers))
    }

    fn below(&self, digest: &str, layers: &[String], depth: usize) -> Option<Config<'_>> {
        let document = self.parsed(digest).filter(|_| depth <= DEEPEST)?;
        if document.rootfs.as_ref().is_some_and(|rootfs| rootfs.diff_ids == layers) {
            let bytes = self.by_digest.get(digest)?;
            return Some(Config { digest: digest.to_owned(), bytes });
        }
        if let (Some(config), Some(_)) = (&document.config, &document.layers) {
            return self.below(config["digest"].as_str()?, layers, depth + 1);
        }
        document.manifests.iter().find_map(|one| self.below(&one.digest, layers, depth + 1))
    }

    fn only_one_with(&self, layers: &[String]) -> Option<Config<'_>> {
        let mut fitting = self.by_digest.keys().filter(|digest| {
            let rootfs = self.parsed(digest).and_then(|document| document.rootfs);
            rootfs.is_some_and(|rootfs| rootfs.diff_ids == layers)
        });
        let digest = fitting.next().filter(|_| fitting.next().is_none())?;
        Some(Config { digest: digest.clone(), bytes: self.by_digest.get(digest)? })
    }

    fn parsed(&self, digest: &str) -> Option<Document> {
        serde_json::from_slice(self.by_digest.get(digest)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(documents: &mut Documents, text: &str) -> String {
        documents.add(text.as_bytes().to_vec()).unwrap();
        digest_of(&hex(&Sha256::digest(text)))
    }

    #[test]
    fn configurations_are_found_by_id() {
        let mut documents = Documents::default();
        let layers = ["sha256:11".to_owned()];
        let of = |more: &str| format!(r#"{{"rootfs": {{"diff_ids": ["sha256:11"]}}{more}}}"#);
        let one = add(&mut documents, &of(""));
        let found = |documents: &Documents, id: &str| {
            documents.config_of(id, &layers).map(|found| found.digest)
        };
        // The id is the configuration's own digest, as in an engine's classic store.
        assert_eq!(found(&documents, &one), Some(one.clone()));
        // The id is unknown, but only one configuration fits.
        assert_eq!(found(&documents, "sha256:ff"), Some(one.clone()));
        assert!(documents.config_of(&one, &["sha256:22".into()]).is_none());
        let two = add(&mut documents, &of(r#", "author": "x""#));
        assert_eq!(found(&documents, "sha256:ff"), None);
        // A containerd store: index, manifest, configuration.
        let manifest =
            add(&mut documents, &format!(r#"{{"config": {{"digest": "{two}"}}, "layers": []}}"#));
        let index = add(
            &mut documents,
            &format!(r#"{{"manifests": [{{"digest": "sha256:00"}}, {{"digest": "{manifest}"}}]}}"#),
        );
        assert_eq!(found(&documents, &manifest), Some(two.clone()));
        assert_eq!(found(&documents, &index), Some(two));
    }

    #[test]
    fn documents_are_bounded() {
        let mut documents = Documents { bytes: MOST_BYTES - 2, ..Documents::default() };
        documents.add(b"{}".to_vec()).unwrap();
        assert!(documents.add(b"{}".to_vec()).is_err());
    }
}
