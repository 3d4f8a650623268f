//! Reads the stream of `docker save` in each of its layouts: a folder with `layer.tar` for each layer (20.10
//! to 24), an OCI layout whose blobs are uncompressed layers (25 and later), or compressed ones (containerd
//! image store).
//!
//! Invariant: no name in the stream is relied on or used as a path. JSON is read as a document, anything that
//! may be a layer is hashed; both are then found by their digests.

use crate::images::documents::{Documents, LARGEST};
use crate::images::layer::{LayerReader, ReadLayer};
use anyhow::{Context, Result};
use archive::decode::fill;
use host::interrupt;
use std::collections::HashMap;
use std::io::{self, Read};

/// The smallest size of an uncompressed layer; anything smaller is a version file.
const SMALLEST_TAR: u64 = 512;

/// The size of a tar header.
const HEAD: usize = 512;

#[derive(Default)]
pub struct Received {
    pub documents: Documents,
    /// The layers by diff id.
    pub layers: HashMap<String, ReadLayer>,
}

/// Reads the stream to its end.
pub fn receive(mut from: impl Read, reader: &mut LayerReader<'_>) -> Result<Received> {
    let mut received = Received::default();
    let mut archive = tar::Archive::new(&mut from);
    let what = "cannot read the engine's stream of images";
    for entry in archive.entries().context(what)? {
        interrupt::check()?;
        let mut entry = entry.context(what)?;
        // Folders, and links to layers that are also in the stream.
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let size = entry.size();
        let mut head = [0; HEAD];
        let length = fill(&mut entry, &mut head).context(what)?;
        let mut entry = head[..length].chain(entry);
        match kind_of(&head[..length], size) {
            Kind::Document => {
                let mut bytes = Vec::with_capacity(size as usize);
                entry.read_to_end(&mut bytes).context(what)?;
                received.documents.add(bytes)?;
            }
            Kind::Layer => {
                let layer = reader.read(entry)?;
                received.layers.entry(layer.record.diff_id.clone()).or_insert(layer);
            }
            Kind::Other => {}
        }
    }
    // The engine may still write padding, and must not find its pipe closed.
    io::copy(&mut from, &mut io::sink()).context(what)?;
    Ok(received)
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Document,
    Layer,
    Other,
}

fn kind_of(head: &[u8], size: u64) -> Kind {
    let compressed = head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    // Checked before JSON: the name of a layer's first entry may begin with a brace.
    if compressed || head.get(257..262) == Some(b"ustar") {
        return Kind::Layer;
    }
    match head.first() {
        Some(b'{' | b'[') if size <= LARGEST => Kind::Document,
        _ if size >= SMALLEST_TAR => Kind::Layer,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::record::digest_of;
    use archive::Form;
    use host::hex;
    use sha2::{Digest, Sha256};
    use std::collections::HashSet;
    use std::path::Path;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "b/layer.tar", "../a/layer.tar").unwrap();
        builder.into_inner().unwrap()
    }

    fn receive_into(folder: &Path, bytes: &[u8]) -> Result<Received> {
        let (form, known_heads) = (Form::Zstd, HashSet::new());
        let progress: &mut (dyn FnMut(u64) + Send) = &mut |_| {};
        receive(bytes, &mut LayerReader { folder, form, known_heads, progress, seen: 0 })
    }

    #[test]
    fn layers_and_documents_are_recognised_by_content() {
        let folder = tempfile::tempdir().unwrap();
        // A layer whose first entry looks like JSON, and an empty one.
        let (braces, empty) = (archive(&[("{a}", b"x")]), [0; 1024]);
        let mut zipped = Vec::new();
        {
            let packed = folder.path().join("packed");
            let mut encoder =
                archive::Encoder::small(std::fs::File::create(&packed).unwrap(), Form::Gzip)
                    .unwrap();
            encoder.put(&braces).unwrap();
            encoder.finish().unwrap();
            zipped.extend(std::fs::read(&packed).unwrap());
            std::fs::remove_file(packed).unwrap();
        }
        let bytes = archive(&[
            ("a/VERSION", b"1.0"),
            ("a/json", br#"{"id": "a"}"#),
            ("etc/passwd", &braces),
            ("again", &zipped),
            ("empty", &empty),
        ]);
        let received = receive_into(folder.path(), &bytes).unwrap();
        let id = |bytes: &[u8]| digest_of(&hex(&Sha256::digest(bytes)));
        let mut layers: Vec<_> = received.layers.keys().cloned().collect();
        let mut expected = vec![id(&braces), id(&empty)];
        layers.sort();
        expected.sort();
        assert_eq!(layers, expected);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = archive(&[("layer", &[b'x'; 9000])]);
        assert!(receive_into(folder.path(), &bytes[..5000]).is_err());
    }
}
