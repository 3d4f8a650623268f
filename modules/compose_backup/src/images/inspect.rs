//! `docker image inspect`: the engine's description of an image.
//!
//! Invariant: an image is missing only if the engine says so; an engine that does not answer is an error.

use crate::docker::Docker;
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

/// The fields that every engine from 20.10 on has.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    pub id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    /// The uncompressed size; with the containerd image store, plus the compressed size.
    #[serde(default)]
    pub size: u64,
    /// Missing if the engine has only the name of an image and not its content.
    #[serde(rename = "RootFS", default)]
    root_fs: RootFs,
    #[serde(default)]
    pub config: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Inspected {
    pub fn layers(&self) -> &[String] {
        self.root_fs.layers.as_deref().unwrap_or_default()
    }

    /// Returns the paths where every container of the image gets a volume.
    pub fn volumes(&self) -> Vec<String> {
        let volumes = self.config.get("Volumes").and_then(Value::as_object);
        volumes.into_iter().flat_map(|map| map.keys().cloned()).collect()
    }

    pub fn tags(&self) -> Vec<String> {
        named(self.repo_tags.as_deref())
    }

    pub fn repo_digests(&self) -> Vec<String> {
        named(self.repo_digests.as_deref())
    }
}

/// Sorts names, without the `<none>:<none>` that older engines write for no name.
fn named(names: Option<&[String]>) -> Vec<String> {
    let mut names: Vec<String> =
        names.unwrap_or_default().iter().filter(|name| !name.contains("<none>")).cloned().collect();
    names.sort();
    names
}

/// Inspects the image with this id or name; `None` if the engine does not have it.
pub fn inspect(docker: &Docker, image: &str) -> Result<Option<Inspected>> {
    docker.image(image).with_context(|| format!("cannot inspect the image {image}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_engines_are_parsed() {
        let text = r#"{"Id": "sha256:aa", "RepoTags": ["<none>:<none>"], "RepoDigests": null, "Os": "linux",
            "RootFS": {"Type": "layers", "Layers": ["sha256:bb"]}, "Config": null}"#;
        let seen: Inspected = serde_json::from_str(text).unwrap();
        assert_eq!((seen.tags(), seen.layers()), (Vec::new(), &["sha256:bb".to_owned()][..]));
        let text = r#"{"Id": "sha256:aa", "RepoTags": ["b:1", "a:1"]}"#;
        let seen: Inspected = serde_json::from_str(text).unwrap();
        assert_eq!((seen.tags(), seen.layers().len()), (vec!["a:1".into(), "b:1".to_owned()], 0));
    }
}
