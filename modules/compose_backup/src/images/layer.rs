//! Reads a layer from a stream into a compressed file that is named by the digest of its content.
//!
//! Invariant: a layer's file gets its name only after its whole content was hashed, and the name is that
//! hash.

use crate::images::files;
use crate::images::record::{FileRecord, LayerRecord, digest_of, layer_file};
use anyhow::{Context, Error, Result};
use archive::decode::{decoder, fill};
use archive::{Encoder, Form};
use host::hex;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// How many bytes are compared to recognise a known layer before the rest was received.
const HEAD: usize = 64 << 10;
const PIECE: usize = 256 << 10;
const PARTIAL: &str = "layer.partial";

/// A layer that was read from a stream.
pub struct ReadLayer {
    pub record: LayerRecord,
    /// `None` if it begins like a known layer, and was only hashed.
    pub file: Option<FileRecord>,
}

pub struct LayerReader<'a> {
    pub folder: &'a Path,
    pub form: Form,
    /// The heads of the layers that are in the folder already.
    pub known_heads: HashSet<String>,
    pub progress: super::Progress<'a>,
    pub seen: u64,
}

impl LayerReader<'_> {
    /// Reads a layer to its end, whatever compression it has.
    pub fn read(&mut self, from: impl Read) -> Result<ReadLayer> {
        let mut from = decompress(BufReader::with_capacity(PIECE, from))
            .context("cannot read a layer of the engine's stream")?;
        let mut piece = vec![0; PIECE];
        let mut length = fill(&mut from, &mut piece[..HEAD])?;
        let head = hex(&Sha256::digest(&piece[..length]));
        let partial = self.folder.join(PARTIAL);
        let mut encoder = match self.known_heads.contains(&head) {
            true => None,
            false => Some(create(&partial, self.form)?),
        };
        let writing = || format!("cannot write a layer to {}", self.folder.display());
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        while length > 0 {
            hash.update(&piece[..length]);
            if let Some(encoder) = &mut encoder {
                encoder.put(&piece[..length]).with_context(writing)?;
            }
            bytes += length as u64;
            self.seen += length as u64;
            (self.progress)(self.seen);
            length = fill(&mut from, &mut piece)?;
        }
        let diff_id = digest_of(&hex(&hash.finalize()));
        let file = match encoder {
            None => None,
            Some(encoder) => {
                let written = encoder.finish().with_context(writing)?;
                let name = layer_file(&diff_id, self.form);
                std::fs::rename(&partial, self.folder.join(&name))
                    .with_context(|| format!("cannot rename the layer to {name}"))?;
                Some(FileRecord { name, sha256: written.sha256, bytes: written.bytes })
            }
        };
        Ok(ReadLayer { record: LayerRecord { diff_id, bytes, head }, file })
    }
}

/// Decompresses a stream; the compression is recognised by the first bytes and not by a name.
pub fn decompress<'a>(mut from: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>> {
    match Form::of(from.fill_buf()?) {
        Some(Form::Zstd | Form::Gzip) => decoder(from).map_err(Error::msg),
        // An empty layer is an archive of zeros, without a magic number.
        Some(Form::Tar) | None => Ok(Box::new(from)),
    }
}

fn create(path: &Path, form: Form) -> Result<Encoder> {
    let file = files::create(path)?;
    Encoder::new(file, form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn take(bytes: &[u8], form: Form, known: &[&str]) -> (tempfile::TempDir, ReadLayer) {
        let folder = tempfile::tempdir().unwrap();
        let mut reader = LayerReader {
            folder: folder.path(),
            form,
            known_heads: known.iter().map(ToString::to_string).collect(),
            progress: &mut |_| {},
            seen: 0,
        };
        let taken = reader.read(bytes).unwrap();
        (folder, taken)
    }

    fn read(path: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        let file = BufReader::new(File::open(path).unwrap());
        decompress(file).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_layer_is_the_same_whatever_its_compression() {
        let plain: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let diff_id = digest_of(&hex(&Sha256::digest(&plain)));
        let (first, of_plain) = take(&plain, Form::Zstd, &[]);
        let zstd = fs::read(first.path().join(of_plain.file.unwrap().name)).unwrap();
        let (first, of_zstd) = take(&zstd, Form::Gzip, &[]);
        let gzip = fs::read(first.path().join(of_zstd.file.unwrap().name)).unwrap();
        for bytes in [&plain, &zstd, &gzip] {
            let (folder, taken) = take(bytes, Form::Zstd, &[]);
            let file = taken.file.unwrap();
            assert_eq!((&taken.record.diff_id, taken.record.bytes), (&diff_id, 100_000));
            assert_eq!(file.name, format!("{}.tar.zst", diff_id.trim_start_matches("sha256:")));
            assert!(read(&folder.path().join(&file.name)) == plain);
            let (sum, size) = files::sum(&folder.path().join(&file.name)).unwrap();
            assert_eq!((sum, size), (file.sha256, file.bytes));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            // It begins like a known one: it is hashed and not stored.
            let (folder, again) = take(bytes, Form::Zstd, &[&taken.record.head]);
            assert_eq!((again.record, again.file), (taken.record, None));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
