//! Saves images: links what earlier backups already have, and reads the rest from one stream of the engine.
//!
//! Invariants: an image that earlier backups have completely is not read from the engine; a file of an earlier
//! backup counts only if it was hashed in this run; an image that cannot be saved completely fails the
//! backup.

use crate::docker::Docker;
use crate::images::Progress;
use crate::images::files;
use crate::images::inspect::{Inspected, inspect};
use crate::images::layer::{LayerReader, ReadLayer};
use crate::images::pipe;
use crate::images::record::{
    Earlier, FileRecord, ImageRecord, LayerRecord, Saved, Wanted, digest_of, hex_of, is_digest,
};
use crate::images::stream::{Received, receive};
use ansible_module::Failure;
use anyhow::{Context, Result, ensure};
use archive::Form;
use host::deadline::Deadline;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// The smallest estimate for an image with new content.
const SMALLEST_NEW: u64 = 1 << 20;

/// Saves images into the folder (made if missing), which must be on the file system of the earlier backups.
/// `earlier` are only complete backups, the newest first.
pub fn save(
    docker: &Docker,
    wanted: &[Wanted],
    earlier: &[Earlier],
    to: &Path,
    form: Form,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Saved> {
    if !to.is_dir() {
        let made = DirBuilder::new().mode(0o700).create(to);
        made.with_context(|| format!("cannot make the folder {}", to.display()))?;
    }
    let images = inspect_all(docker, wanted)?;
    let mut folder = Folder { path: to, earlier, kept: BTreeMap::new(), layers: HashMap::new() };
    let mut configs = HashMap::new();
    let mut unknown: Vec<&Image> = Vec::new();
    for image in &images {
        // All known layers are linked, also those of an image with new content.
        let mut whole = true;
        for layer in image.seen.layers() {
            whole &= folder.link_layer(layer)?;
        }
        match folder.link_config(image)? {
            Some(config) if whole => drop(configs.insert(image.id(), config)),
            _ => unknown.push(image),
        }
    }
    if !unknown.is_empty() {
        folder.stream(docker, &unknown, &mut configs, form, deadline, progress)?;
    }
    let mut saved = Saved::default();
    let mut counted = HashSet::new();
    for image in &images {
        let config =
            configs.get(image.id()).context("an image was saved without its configuration")?;
        let record = folder.record(image, config, &mut counted)?;
        saved.bytes_new += record.bytes_new;
        saved.bytes_linked += record.bytes_linked;
        saved.images.push(record);
    }
    saved.files = folder.kept.into_values().map(|kept| kept.file).collect();
    host::atomic::sync_folder(to)?;
    Ok(saved)
}

/// Estimates an upper bound of what [`save`] would write, only from the engine's descriptions.
pub fn estimate(docker: &Docker, wanted: &[Wanted], earlier: &[Earlier]) -> Result<u64> {
    let known: HashMap<&str, u64> = (earlier.iter().flat_map(|one| &one.images))
        .flat_map(|image| &image.layers)
        .map(|layer| (layer.diff_id.as_str(), layer.bytes))
        .collect();
    let new_of = |image: &Image| {
        let layers: HashSet<&String> = image.seen.layers().iter().collect();
        let known: Vec<u64> =
            layers.iter().filter_map(|layer| known.get(layer.as_str()).copied()).collect();
        match known.len() == layers.len() {
            true => 0,
            // An archive is larger than its content, so the known part may seem larger than the whole.
            false => image.seen.size.saturating_sub(known.iter().sum()).max(SMALLEST_NEW),
        }
    };
    Ok(inspect_all(docker, wanted)?.iter().map(new_of).sum())
}

struct Image {
    references: Vec<String>,
    seen: Inspected,
}

impl Image {
    fn id(&self) -> &str {
        &self.seen.id
    }
}

/// Inspects the wanted images; one that is wanted twice is returned once.
fn inspect_all(docker: &Docker, wanted: &[Wanted]) -> Result<Vec<Image>> {
    let mut images: Vec<Image> = Vec::new();
    for one in wanted {
        let seen = inspect(docker, &one.id)?.filter(|seen| !seen.layers().is_empty());
        let Some(seen) = seen else {
            let name = one.references.first().map_or("", String::as_str);
            let msg = format!(
                "the image {} {name} is not in the engine any more, though a container was made \
                 from it: pull or build it again, or make the container again",
                one.id
            );
            return Err(Failure::new("image_missing", msg).with("image", one.id.clone()).into());
        };
        ensure!(
            is_digest(&seen.id) && seen.layers().iter().all(|layer| is_digest(layer)),
            "the engine's description of the image {} has a malformed SHA-256 digest",
            one.id
        );
        let same = images.iter_mut().find(|image| image.seen.id == seen.id);
        match same {
            Some(image) => image.references.extend(one.references.iter().cloned()),
            None => images.push(Image { references: one.references.clone(), seen }),
        }
    }
    for image in &mut images {
        image.references.sort();
        image.references.dedup();
    }
    Ok(images)
}

/// A file in the folder that was hashed in this run.
struct InFolder {
    file: FileRecord,
    linked: bool,
}

struct Folder<'a> {
    path: &'a Path,
    earlier: &'a [Earlier],
    /// The files, by name.
    kept: BTreeMap<String, InFolder>,
    /// The layers and the names of their files, by diff id.
    layers: HashMap<String, (LayerRecord, String)>,
}

impl Folder<'_> {
    /// Links a layer of an earlier backup; true if the layer is in the folder now.
    fn link_layer(&mut self, diff_id: &str) -> Result<bool> {
        if self.layers.contains_key(diff_id) {
            return Ok(true);
        }
        let hex = hex_of(diff_id);
        for earlier in self.earlier {
            let mut layers = earlier.images.iter().flat_map(|image| &image.layers);
            let Some(layer) = layers.find(|layer| layer.diff_id == diff_id) else { continue };
            let of_it = |file: &&FileRecord| {
                file.name.strip_prefix(hex).is_some_and(|rest| rest.starts_with(".tar."))
            };
            let Some(file) = earlier.files.iter().find(of_it) else { continue };
            if self.link(earlier, file)? {
                self.layers.insert(diff_id.to_owned(), (layer.clone(), file.name.clone()));
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Links the configuration if an earlier backup has the same image; returns its digest.
    fn link_config(&mut self, image: &Image) -> Result<Option<String>> {
        for earlier in self.earlier {
            let same = |record: &&ImageRecord| {
                record.id == image.id()
                    && record.diff_ids().eq(image.seen.layers().iter().map(String::as_str))
            };
            let Some(record) = earlier.images.iter().find(same) else { continue };
            let name = record.config_file();
            let Some(file) = earlier.files.iter().find(|file| file.name == name) else { continue };
            // The name must be the sum.
            let name_matches = record.config_digest == digest_of(&file.sha256);
            if name_matches && self.link(earlier, file)? {
                return Ok(Some(record.config_digest.clone()));
            }
        }
        Ok(None)
    }

    fn link(&mut self, earlier: &Earlier, file: &FileRecord) -> Result<bool> {
        if self.kept.contains_key(&file.name) {
            return Ok(true);
        }
        let linked = files::link(&earlier.folder, self.path, file)?;
        if linked {
            self.keep(file.clone(), true);
        }
        Ok(linked)
    }

    fn keep(&mut self, file: FileRecord, linked: bool) {
        self.kept.insert(file.name.clone(), InFolder { file, linked });
    }

    /// Lets the engine stream these images, and stores what is new.
    fn stream<'i>(
        &mut self,
        docker: &Docker,
        images: &[&'i Image],
        configs: &mut HashMap<&'i str, String>,
        form: Form,
        deadline: Deadline,
        progress: Progress<'_>,
    ) -> Result<()> {
        let mut known_heads: HashSet<String> =
            self.layers.values().map(|(layer, _)| layer.head.clone()).collect();
        loop {
            let guessed = !known_heads.is_empty();
            let heads = std::mem::take(&mut known_heads);
            let received = self.ask(docker, images, heads, form, deadline, &mut *progress)?;
            let missing = self.store_received(images, configs, received)?;
            let Some((image, what)) = missing else { return Ok(()) };
            // A layer that only began like a known one was not stored: read the stream again, and store
            // all layers this time.
            if !guessed {
                let msg = format!(
                    "cannot save the image {} ({}): the engine's stream does not contain {what}; pull or \
                     build the image again",
                    image.references.join(", "),
                    image.id()
                );
                let failure = Failure::new("image_missing", msg);
                return Err(failure.with("image", image.id().to_owned()).into());
            }
        }
    }

    fn ask(
        &self,
        docker: &Docker,
        images: &[&Image],
        known_heads: HashSet<String>,
        form: Form,
        deadline: Deadline,
        progress: Progress<'_>,
    ) -> Result<Received> {
        let ids = images.iter().map(|image| image.id());
        let command = docker.command().deadline(deadline).args(["image", "save", "--"]).args(ids);
        let mut reader = LayerReader { folder: self.path, form, known_heads, progress, seen: 0 };
        let names = host::joined(images.iter().flat_map(|one| &one.references));
        pipe::reading(command, |end| receive(end, &mut reader))
            .map_err(|error| pipe::explained(docker, error))
            .with_context(|| format!("cannot save the images {names}"))
    }

    /// Stores what was received; returns an image and what it lacks, if one is incomplete.
    fn store_received<'i>(
        &mut self,
        images: &[&'i Image],
        configs: &mut HashMap<&'i str, String>,
        received: Received,
    ) -> Result<Option<(&'i Image, String)>> {
        let of_images: HashSet<&String> =
            images.iter().flat_map(|image| image.seen.layers()).collect();
        for (diff_id, ReadLayer { record, file }) in received.layers {
            let Some(file) = file else { continue };
            if of_images.contains(&diff_id) && !self.layers.contains_key(&diff_id) {
                self.layers.insert(diff_id, (record, file.name.clone()));
                self.keep(file, false);
            } else if !self.kept.contains_key(&file.name) {
                // It may be of another platform.
                files::remove(self.path, &file.name)?;
            }
        }
        for image in images {
            let lacks = image.seen.layers().iter().find(|layer| !self.layers.contains_key(*layer));
            if let Some(layer) = lacks {
                return Ok(Some((image, format!("its layer {layer}"))));
            }
            let Some(config) = received.documents.config_of(image.id(), image.seen.layers()) else {
                return Ok(Some((image, "its configuration".into())));
            };
            let name = format!("{}.json", hex_of(&config.digest));
            if !self.kept.contains_key(&name) {
                let file = files::write(self.path, &name, config.bytes)?;
                self.keep(file, false);
            }
            configs.insert(image.id(), config.digest);
        }
        Ok(None)
    }

    /// Makes the record of an image. Each file is counted once, for the first image that needs it.
    fn record(
        &self,
        image: &Image,
        config: &str,
        counted: &mut HashSet<String>,
    ) -> Result<ImageRecord> {
        let mut record = ImageRecord {
            id: image.seen.id.clone(),
            references: image.references.clone(),
            tags: image.seen.tags(),
            repo_digests: image.seen.repo_digests(),
            config_digest: config.to_owned(),
            layers: Vec::new(),
            files: Vec::new(),
            bytes_new: 0,
            bytes_linked: 0,
        };
        record.files.push(record.config_file());
        for diff_id in image.seen.layers() {
            let (layer, name) =
                self.layers.get(diff_id).context("an image was saved without a layer")?;
            record.layers.push(layer.clone());
            if !record.files.contains(name) {
                record.files.push(name.clone());
            }
        }
        for name in &record.files {
            let kept = self.kept.get(name).context("an image was saved without a file")?;
            if counted.insert(name.clone()) {
                match kept.linked {
                    true => record.bytes_linked += kept.file.bytes,
                    false => record.bytes_new += kept.file.bytes,
                }
            }
        }
        Ok(record)
    }
}
