//! Keeping images: links to what earlier backups hold, and one stream from the engine for the rest.
//!
//! Invariants: an image of which everything is known is not asked of the engine at all; nothing is
//! believed to be known that was not hashed in this run; an image that cannot be kept whole fails the
//! backup.

use crate::docker::Docker;
use crate::images::Progress;
use crate::images::files;
use crate::images::inspect::{Inspected, inspect};
use crate::images::layer::{Taken, Taker};
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

/// An image with something new is taken to need this much at least.
const SMALLEST_NEW: u64 = 1 << 20;

/// Puts the wanted images into the folder (made when it is missing), which must lie on the file
/// system of the earlier ones. `earlier`: newest first, of complete backups only.
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
    let images = look(docker, wanted)?;
    let mut folder = Folder { path: to, earlier, kept: BTreeMap::new(), layers: HashMap::new() };
    let mut configs = HashMap::new();
    let mut unknown: Vec<&Image> = Vec::new();
    for image in &images {
        // All layers that can be linked are, also of an image that has something new.
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
            configs.get(image.id()).context("an image was kept without its configuration")?;
        let record = folder.record(image, config, &mut counted)?;
        saved.bytes_new += record.bytes_new;
        saved.bytes_linked += record.bytes_linked;
        saved.images.push(record);
    }
    saved.files = folder.kept.into_values().map(|kept| kept.file).collect();
    host::atomic::sync_folder(to)?;
    Ok(saved)
}

/// An upper bound of what [`save`] would write, from what the engine says alone.
pub fn estimate(docker: &Docker, wanted: &[Wanted], earlier: &[Earlier]) -> Result<u64> {
    let known: HashMap<&str, u64> = (earlier.iter().flat_map(|one| &one.images))
        .flat_map(|image| &image.layers)
        .map(|layer| (layer.diff_id.as_str(), layer.bytes))
        .collect();
    let new_of = |image: &Image| {
        let layers: HashSet<&String> = image.seen.layers().iter().collect();
        let had: Vec<u64> =
            layers.iter().filter_map(|layer| known.get(layer.as_str()).copied()).collect();
        match had.len() == layers.len() {
            true => 0,
            // An archive is larger than what it holds: what is known may seem more than all of it.
            false => image.seen.size.saturating_sub(had.iter().sum()).max(SMALLEST_NEW),
        }
    };
    Ok(look(docker, wanted)?.iter().map(new_of).sum())
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

/// What the engine says of each wanted image; the same one, wanted twice, comes once.
fn look(docker: &Docker, wanted: &[Wanted]) -> Result<Vec<Image>> {
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
            "the engine says of the image {} what is no SHA-256 digest",
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

/// A file that is in the folder, hashed in this run.
struct InFolder {
    file: FileRecord,
    linked: bool,
}

struct Folder<'a> {
    path: &'a Path,
    earlier: &'a [Earlier],
    /// By name.
    kept: BTreeMap<String, InFolder>,
    /// By diff id: the layer, and its file's name.
    layers: HashMap<String, (LayerRecord, String)>,
}

impl Folder<'_> {
    /// Whether the layer is in the folder now, out of an earlier backup.
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

    /// The configuration's digest, when an earlier backup holds the very same image.
    fn link_config(&mut self, image: &Image) -> Result<Option<String>> {
        for earlier in self.earlier {
            let same = |record: &&ImageRecord| {
                record.id == image.id()
                    && record.diff_ids().eq(image.seen.layers().iter().map(String::as_str))
            };
            let Some(record) = earlier.images.iter().find(same) else { continue };
            let name = record.config_file();
            let Some(file) = earlier.files.iter().find(|file| file.name == name) else { continue };
            // The name is the sum.
            let honest = record.config_digest == digest_of(&file.sha256);
            if honest && self.link(earlier, file)? {
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

    /// Lets the engine stream these images, and keeps what is new.
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
            let missing = self.take_in(images, configs, received)?;
            let Some((image, what)) = missing else { return Ok(()) };
            // A layer that began like a known one and was another was not kept: once more, and
            // this time all of them are.
            if !guessed {
                let msg = format!(
                    "cannot keep the image {} ({}): the engine's stream has not {what}; pull or \
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
        let mut taker = Taker { folder: self.path, form, known_heads, progress, seen: 0 };
        let names: Vec<String> = images.iter().flat_map(|one| one.references.clone()).collect();
        pipe::reading(command, |end| receive(end, &mut taker))
            .map_err(|error| pipe::explained(docker, error))
            .with_context(|| format!("cannot keep the images {}", names.join(", ")))
    }

    /// Sorts what has come; `Some` names an image and what it lacks.
    fn take_in<'i>(
        &mut self,
        images: &[&'i Image],
        configs: &mut HashMap<&'i str, String>,
        received: Received,
    ) -> Result<Option<(&'i Image, String)>> {
        let of_images: HashSet<&String> =
            images.iter().flat_map(|image| image.seen.layers()).collect();
        for (diff_id, Taken { record, file }) in received.layers {
            let Some(file) = file else { continue };
            if of_images.contains(&diff_id) && !self.layers.contains_key(&diff_id) {
                self.layers.insert(diff_id, (record, file.name.clone()));
                self.keep(file, false);
            } else if !self.kept.contains_key(&file.name) {
                // Of another platform, say.
                files::remove(self.path, &file.name)?;
            }
        }
        for image in images {
            let lacks = image.seen.layers().iter().find(|layer| !self.layers.contains_key(*layer));
            if let Some(layer) = lacks {
                return Ok(Some((image, format!("its layer {layer}"))));
            }
            let Some(config) = received.docs.config_of(image.id(), image.seen.layers()) else {
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

    /// Each file counts once, for the first image that needs it.
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
                self.layers.get(diff_id).context("an image was kept without a layer")?;
            record.layers.push(layer.clone());
            if !record.files.contains(name) {
                record.files.push(name.clone());
            }
        }
        for name in &record.files {
            let kept = self.kept.get(name).context("an image was kept without a file")?;
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
