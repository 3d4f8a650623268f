//! `docker image inspect`: what an engine says about one image.
//!
//! Invariant: "not there" is only what the engine itself calls so; an engine that does not answer is
//! an error.

use crate::docker::Docker;
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

/// The fields that every engine from 20.10 on tells.
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
    /// Uncompressed; on a containerd store with what is compressed added.
    #[serde(default)]
    pub size: u64,
    /// Absent when the engine has the name of an image and not its content.
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

    /// Where a container of it gets a volume even when none is asked for.
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

/// Older engines write `<none>:<none>` for no name.
fn named(names: Option<&[String]>) -> Vec<String> {
    let mut names: Vec<String> =
        names.unwrap_or_default().iter().filter(|name| !name.contains("<none>")).cloned().collect();
    names.sort();
    names
}

/// The image of this id or name; `None` when the engine has none.
pub fn inspect(docker: &Docker, image: &str) -> Result<Option<Inspected>> {
    docker.image(image).with_context(|| format!("cannot look at the image {image}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_engines_say() {
        let text = r#"{"Id": "sha256:aa", "RepoTags": ["<none>:<none>"], "RepoDigests": null, "Os": "linux",
            "RootFS": {"Type": "layers", "Layers": ["sha256:bb"]}, "Config": null}"#;
        let seen: Inspected = serde_json::from_str(text).unwrap();
        assert_eq!((seen.tags(), seen.layers()), (Vec::new(), &["sha256:bb".to_owned()][..]));
        let text = r#"{"Id": "sha256:aa", "RepoTags": ["b:1", "a:1"]}"#;
        let seen: Inspected = serde_json::from_str(text).unwrap();
        assert_eq!((seen.tags(), seen.layers().len()), (vec!["a:1".into(), "b:1".to_owned()], 0));
    }
}
