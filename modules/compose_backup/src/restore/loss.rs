//! Measures what a restore takes out of service: what was written to each part since, and what recreated
//! containers have written outside of their mounts. Reads only.
//!
//! Invariant: a loss that cannot be measured has no size, and does not prevent a restore: unreadable data is
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
    /// The losses by the exchange of parts.
    pub data: Vec<Loss>,
    /// The losses by containers that are replaced.
    pub layers: Vec<Loss>,
}

/// Measures the losses. `scratch` is a folder for temporary files.
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
    // An unfinished run may have parked it already.
    let is_parked = part.parked.symlink_metadata().is_ok();
    let path = if is_parked { &part.parked } else { &part.source };
    data::written(path, index.as_deref(), scratch).ok()
}

fn layers(tools: &Tools, goal: &Goal) -> Result<Vec<Loss>> {
    // The killed run has named the containers that it replaces, and any other one is new; and the rest of a
    // confirmed plan must not destroy anything else.
    if goal.resumes {
        return Ok(Vec::new());
    }
    let all = tools.docker.containers_of(&goal.project)?;
    let mut replaced: Vec<&Container> = Vec::new();
    let has_containers = |record: &ServiceRecord| record.running || !record.containers.is_empty();
    for (service, record) in goal.services.iter().filter(|(_, record)| has_containers(record)) {
        let number = if record.running { record.scale } else { record.containers.len() };
        // A container that never ran has written nothing.
        let of_service =
            all.iter().filter(|one| one.service() == Some(service) && one.started().is_some());
        let (kept, others): (Vec<_>, Vec<_>) = of_service.partition(|one| is_kept(one, record));
        replaced.extend(others);
        replaced.extend(kept.into_iter().skip(number));
    }
    // Also if it is nothing yet, so that a plan that somebody has seen does not change.
    let layer = |one: &Container| {
        let what = format!("what {} has written outside of its mounts", one.name());
        Loss { bytes: one.own_layer(), ..Loss::plain(what) }
    };
    Ok(tools.docker.with_own_layers(&replaced)?.iter().map(layer).collect())
}

/// Whether Compose keeps a container for its recorded service, with its recorded volumes. If that is not
/// known, it counts as replaced.
fn is_kept(container: &Container, record: &ServiceRecord) -> bool {
    if record.containers.iter().any(|recorded| recorded.id == container.id) {
        return !record.drift;
    }
    let same =
        record.containers.iter().find(|recorded| Some(recorded.number) == container.number());
    let mut volumes = same.iter().flat_map(|recorded| &recorded.volumes);
    volumes.all(|(target, name)| container.has_volume(target, name))
        && record.image_id.as_deref() == Some(&container.image)
        && record.config_hash.is_some()
        && record.config_hash.as_deref() == container.label(CONFIG_HASH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn record(more: Value) -> ServiceRecord {
        let mut all = json!({
            "image": "shop:1", "image_id": "sha256:1", "running": true, "scale": 1, "config_hash": "c0",
            "drift": false, "depends_on": {},
            "containers": [{
                "id": "old", "name": "web-1", "image_id": "sha256:1", "state": "running", "exit_code": 0,
                "health": null, "number": 1, "volumes": { "/cache": "v1" },
            }],
        });
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    fn container(id: &str, hash: &str, volume: &str) -> Container {
        serde_json::from_value(json!({
            "Id": id, "Name": "/web-1", "Image": "sha256:1", "State": { "Status": "running" },
            "Config": { "Labels": {
                "com.docker.compose.container-number": "1", "com.docker.compose.config-hash": hash,
            }},
            "Mounts": [{ "Type": "volume", "Name": volume, "Destination": "/cache", "RW": true }],
        }))
        .unwrap()
    }

    #[test]
    fn a_container_is_kept_only_if_compose_would_keep_it() {
        assert!(is_kept(&container("old", "c9", "v9"), &record(json!({}))), "the recorded one");
        // The files had changed since it was created, so Compose makes another one.
        assert!(!is_kept(&container("old", "c0", "v1"), &record(json!({ "drift": true }))));
        assert!(is_kept(&container("new", "c0", "v1"), &record(json!({}))));
        for (hash, volume, more) in [
            ("c1", "v1", json!({})),
            ("c0", "v2", json!({})),
            ("c0", "v1", json!({ "image_id": "sha256:2" })),
            ("c0", "v1", json!({ "image_id": null })),
            ("c0", "v1", json!({ "config_hash": null })),
        ] {
            assert!(!is_kept(&container("new", hash, volume), &record(more.clone())), "{more}");
        }
        // Neither side has a hash: that proves nothing.
        let mut plain = container("new", "c0", "v1");
        plain.config = serde_json::from_value(json!({})).unwrap();
        assert!(!is_kept(&plain, &record(json!({ "config_hash": null }))));
    }
}
