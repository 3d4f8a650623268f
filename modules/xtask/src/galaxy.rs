//! galaxy.yml: the metadata of the collection. Its version is that of the workspace.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::workspace::Workspace;

/// The metadata as in an archive's MANIFEST.json, which has every key, in this order.
#[derive(Deserialize, Serialize)]
pub struct Galaxy {
    pub namespace: String,
    pub name: String,
    pub version: String,
    authors: Vec<String>,
    pub readme: String,
    #[serde(default)]
    tags: Vec<String>,
    description: Option<String>,
    #[serde(default)]
    license: Vec<String>,
    license_file: Option<String>,
    #[serde(default)]
    dependencies: BTreeMap<String, String>,
    repository: Option<String>,
    documentation: Option<String>,
    homepage: Option<String>,
    issues: Option<String>,
}

/// Reads galaxy.yml, and refuses another version than that of the crates.
pub fn check_version(workspace: &Workspace) -> Result<Galaxy> {
    let path = workspace.root.join("galaxy.yml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let galaxy: Galaxy = serde_yaml_ng::from_str(&text).context("reading galaxy.yml")?;
    ensure!(
        galaxy.version == workspace.version,
        "galaxy.yml says version {}, Cargo.toml says {}: they must be the same",
        galaxy.version,
        workspace.version
    );
    Ok(galaxy)
}
