//! Streams the archive for `docker load` from the backup's files, in the layout of `docker save` before 25,
//! which every engine accepts.
//!
//! Invariant: a layer with another digest than its name aborts the stream, and the engine then loads nothing.

use crate::images::Progress;
use crate::images::layer::decompress;
use crate::images::record::{ImageRecord, LayerRecord, digest_of, hex_of};
use anyhow::{Context, Result, ensure};
use host::{hex, interrupt};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

const PIECE: usize = 256 << 10;

/// Writes the images, each with the name that it will get.
pub fn send(
    to: impl Write,
    images: &[(&ImageRecord, String)],
    from: &Path,
    progress: Progress<'_>,
) -> Result<()> {
    let mut archive = tar::Builder::new(to);
    let mut sent = HashSet::new();
    let mut bytes = 0;
    for (image, _) in images {
        let name = image.config_file();
        if sent.insert(name.clone()) {
            let config = std::fs::read(from.join(&name));
            let config = config.with_context(|| format!("cannot read {name} of the backup"))?;
            archive.append(&header(&name, config.len() as u64)?, &config[..])?;
        }
        for layer in &image.layers {
            let name = tar_name(layer);
            if sent.insert(name.clone()) {
                let file = file_of(image, layer, from)?;
                let read = BufReader::with_capacity(PIECE, file);
                let mut layer_bytes = HashingReader {
                    from: decompress(read).context("cannot read a layer of the backup")?,
                    layer,
                    hash: Sha256::new(),
                    remaining: layer.bytes,
                    progress: &mut *progress,
                    seen: &mut bytes,
                };
                archive.append(&header(&name, layer.bytes)?, &mut layer_bytes)?;
                layer_bytes.check()?;
            }
        }
    }
    let manifest: Vec<_> = (images.iter())
        .map(|(image, tag)| {
            let layers: Vec<String> = image.layers.iter().map(tar_name).collect();
            json!({"Config": image.config_file(), "RepoTags": [tag], "Layers": layers})
        })
        .collect();
    let manifest = serde_json::to_vec(&manifest)?;
    archive.append(&header("manifest.json", manifest.len() as u64)?, &manifest[..])?;
    archive.into_inner()?.flush()?;
    Ok(())
}

fn header(name: &str, bytes: u64) -> Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_cksum();
    Ok(header)
}

fn tar_name(layer: &LayerRecord) -> String {
    format!("{}.tar", hex_of(&layer.diff_id))
}

fn file_of(image: &ImageRecord, layer: &LayerRecord, from: &Path) -> Result<File> {
    let tar = tar_name(layer);
    let name = (image.files.iter())
        .find(|name| name.starts_with(&tar))
        .with_context(|| format!("the backup names no file for the layer {}", layer.diff_id))?;
    File::open(from.join(name)).with_context(|| format!("cannot read {name} of the backup"))
}

/// Reads exactly as many bytes as the record says, and hashes them.
struct HashingReader<'a> {
    from: Box<dyn Read + 'a>,
    layer: &'a LayerRecord,
    hash: Sha256,
    remaining: u64,
    progress: Progress<'a>,
    seen: &'a mut u64,
}

impl Read for HashingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        interrupt::check().map_err(io::Error::other)?;
        let most = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.from.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.hash.update(&buffer[..read]);
        self.remaining -= read as u64;
        *self.seen += read as u64;
        (self.progress)(*self.seen);
        Ok(read)
    }
}

impl HashingReader<'_> {
    fn check(mut self) -> Result<()> {
        let more = self.from.read(&mut [0])?;
        let found = digest_of(&hex(&self.hash.finalize()));
        ensure!(
            more == 0 && found == self.layer.diff_id,
            "the backup's file of the layer {} has another content; nothing was loaded",
            self.layer.diff_id
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::files;

    /// A folder with one image of one layer, whose bytes are `content`.
    fn image(folder: &Path, content: &[u8], promised: &[u8]) -> ImageRecord {
        let layer = LayerRecord {
            diff_id: digest_of(&hex(&Sha256::digest(promised))),
            bytes: promised.len() as u64,
            head: String::new(),
        };
        let name = format!("{}.tar.zst", hex_of(&layer.diff_id));
        let file = files::create(&folder.join(&name)).unwrap();
        let mut encoder = archive::Encoder::small(file, archive::Form::Zstd).unwrap();
        encoder.put(content).unwrap();
        encoder.finish().unwrap();
        let config = b"{}";
        let config_digest = digest_of(&hex(&Sha256::digest(config)));
        let config_name = format!("{}.json", hex_of(&config_digest));
        files::write(folder, &config_name, config).unwrap();
        ImageRecord {
            id: config_digest.clone(),
            references: Vec::new(),
            tags: Vec::new(),
            repo_digests: Vec::new(),
            config_digest,
            // The same layer twice is sent once.
            layers: vec![layer.clone(), layer],
            files: vec![config_name, name],
            bytes_new: 0,
            bytes_linked: 0,
        }
    }

    #[test]
    fn the_archive_has_the_layout_of_docker_save() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path(), &[7; 3000], &[7; 3000]);
        let mut bytes = Vec::new();
        send(&mut bytes, &[(&image, "a:1".into())], folder.path(), &mut |_| {}).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            seen.push((entry.path().unwrap().display().to_string(), content));
        }
        assert_eq!(seen[0], (image.config_file(), b"{}".to_vec()));
        assert_eq!(seen[1], (tar_name(&image.layers[0]), vec![7; 3000]));
        let manifest: serde_json::Value = serde_json::from_slice(&seen[2].1).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["a:1"]));
        assert_eq!((manifest[0]["Layers"].as_array().unwrap().len(), seen.len()), (2, 3));
    }

    #[test]
    fn a_layer_with_other_content_aborts_the_stream() {
        for content in [&[8_u8; 3000][..], &[7; 2000], &[7; 4000]] {
            let folder = tempfile::tempdir().unwrap();
            let image = image(folder.path(), content, &[7; 3000]);
            let mut bytes = Vec::new();
            let sent = send(&mut bytes, &[(&image, "a:1".into())], folder.path(), &mut |_| {});
            assert!(sent.is_err());
        }
    }
}
