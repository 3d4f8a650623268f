//! What a restore takes out of service, measured: what was written to each part since, and what containers
//! that are made again have written outside of their mounts. Reads only.
//!
//! Invariant: what cannot be measured has no size, and stands in nobody's way: data that cannot be read is
//! a reason to restore.

use crate::data;
use crate::docker::inspect::{CONFIG_HASH, Container};
use crate::manifest::ServiceRecord;
use crate::restore::goal::{Content, Goal};
use crate::restore::part::Part;
use crate::state::Tools;
use anyhow::Result;
use change::Loss;
use std::path::{Path, PathBuf};

pub struct Losses {
    /// By the exchange of parts.
    pub data: Vec<Loss>,
    /// By containers that take the place of others.
    pub layers: Vec<Loss>,
}

/// `scratch` is a folder for files without names.
pub fn measure(tools: &Tools, goal: &Goal, scratch: &Path) -> Result<Losses> {
    let parts = goal.work.parts.iter().zip(&goal.contents).filter(|(part, _)| !part.absent);
    let data = parts.map(|(part, content)| {
        let what = match goal.manifest {
            Some(_) => format!("what was written to {} since {}", part.title, goal.title),
            None => format!("what was written to {} since that restore", part.title),
        };
        Loss { bytes: written(goal, part, content, scratch), ..Loss::plain(what) }
    });
    Ok(Losses { data: data.collect(), layers: layers(tools, goal)? })
}

fn written(goal: &Goal, part: &Part, content: &Content, scratch: &Path) -> Option<u64> {
    let index: Option<PathBuf> = match (content, &goal.folder) {
        (Content::Mount(mount), Some(folder)) => Some(folder.join(&mount.index)),
        _ => None,
    };
    // A killed run has parked it already.
    let is_parked = part.parked.symlink_metadata().is_ok();
    let path = if is_parked { &part.parked } else { &part.source };
    data::written(path, index.as_deref(), scratch).ok()
}

fn layers(tools: &Tools, goal: &Goal) -> Result<Vec<Loss>> {
    // Those that a killed run has found were named by it; the others are its own, and what is left of a plan
    // that was agreed to may lose nothing else.
    if goal.resumes {
        return Ok(Vec::new());
    }
    let all = tools.docker.containers_of(&goal.project)?;
    let mut replaced: Vec<&Container> = Vec::new();
    let made = |record: &ServiceRecord| record.running || !record.containers.is_empty();
    for (service, record) in goal.services.iter().filter(|(_, record)| made(record)) {
        let number = if record.running { record.scale } else { record.containers.len() };
        // One that never ran has written nothing.
        let of_service =
            all.iter().filter(|one| one.service() == Some(service) && one.started().is_some());
        let (kept, others): (Vec<_>, Vec<_>) = of_service.partition(|one| stays(one, record));
        replaced.extend(others);
        replaced.extend(kept.into_iter().skip(number));
    }
    // Also where it is nothing yet: the plan that somebody has seen is to stay the same plan.
    let layer = |one: &Container| {
        let what = format!("what {} has written outside of its mounts", one.name());
        Loss { bytes: one.own_layer(), ..Loss::plain(what) }
    };
    Ok(tools.docker.with_own_layers(&replaced)?.iter().map(layer).collect())
}

/// Compose takes a container for its service as it was recorded, and it has the volumes that it had. Where
/// that is not known it counts as one that is replaced.
fn stays(container: &Container, record: &ServiceRecord) -> bool {
    if record.containers.iter().any(|known| known.id == container.id) {
        return !record.drift;
    }
    let same = record.containers.iter().find(|known| Some(known.number) == container.number());
    let mut volumes = same.iter().flat_map(|known| &known.volumes);
    volumes.all(|(target, name)| container.has_volume(target, name))
        && record.image_id.as_deref() == Some(&container.image)
        && record.config_hash.is_some()
        && record.config_hash.as_deref() == container.label(CONFIG_HASH)
}
