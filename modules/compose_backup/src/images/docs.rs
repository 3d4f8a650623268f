//! The small JSON documents of an engine's stream: configurations, manifests, indexes.
//!
//! Invariant: a document is found by the digest of its bytes, so that it does not matter how an
//! engine names things (a folder for each layer before 25, `blobs/sha256` since, manifests beside them
//! on a containerd store), and nothing can be told to be what it is not.

use crate::images::record::digest_of;
use anyhow::{Result, ensure};
use host::hex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// What a configuration may have; they are a few KiB.
pub const LARGEST: u64 = 4 << 20;
const MOST_BYTES: usize = 32 << 20;
/// An index of indexes, and some more.
const DEEPEST: usize = 4;

#[derive(Default)]
pub struct Docs {
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

/// A configuration: what an image is.
pub struct Config<'a> {
    pub digest: String,
    pub bytes: &'a [u8],
}

impl Docs {
    pub fn add(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.bytes += bytes.len();
        ensure!(
            self.bytes <= MOST_BYTES,
            "the engine's stream holds more than {MOST_BYTES} bytes of descriptions"
        );
        self.by_digest.insert(digest_of(&hex(&Sha256::digest(&bytes))), bytes);
        Ok(())
    }

    /// The configuration of the image that the engine calls `id` and of which it has told the
    /// layers. `None` when the stream has none, or more than one that it could be.
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

    fn add(docs: &mut Docs, text: &str) -> String {
        docs.add(text.as_bytes().to_vec()).unwrap();
        digest_of(&hex(&Sha256::digest(text)))
    }

    #[test]
    fn from_an_id_to_the_configuration() {
        let mut docs = Docs::default();
        let layers = ["sha256:11".to_owned()];
        let of = |more: &str| format!(r#"{{"rootfs": {{"diff_ids": ["sha256:11"]}}{more}}}"#);
        let one = add(&mut docs, &of(""));
        let found = |docs: &Docs, id: &str| docs.config_of(id, &layers).map(|found| found.digest);
        // The id is the configuration's own digest, as in an engine's classic store.
        assert_eq!(found(&docs, &one), Some(one.clone()));
        // An id that says nothing: there is only one that it can be.
        assert_eq!(found(&docs, "sha256:ff"), Some(one.clone()));
        assert!(docs.config_of(&one, &["sha256:22".into()]).is_none());
        let two = add(&mut docs, &of(r#", "author": "x""#));
        assert_eq!(found(&docs, "sha256:ff"), None);
        // A containerd store: index, manifest, configuration.
        let manifest =
            add(&mut docs, &format!(r#"{{"config": {{"digest": "{two}"}}, "layers": []}}"#));
        let index = add(
            &mut docs,
            &format!(r#"{{"manifests": [{{"digest": "sha256:00"}}, {{"digest": "{manifest}"}}]}}"#),
        );
        assert_eq!(found(&docs, &manifest), Some(two.clone()));
        assert_eq!(found(&docs, &index), Some(two));
    }

    #[test]
    fn no_flood() {
        let mut docs = Docs { bytes: MOST_BYTES - 2, ..Docs::default() };
        docs.add(b"{}".to_vec()).unwrap();
        assert!(docs.add(b"{}".to_vec()).is_err());
    }
}
