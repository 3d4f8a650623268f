//! The checkout: its folders and its module crates. Cargo's metadata is the only list of modules there is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// A binary is sent to every target once and hashed there at every run: 2 MiB, or what its crate asks for.
const DEFAULT_MAX_MIB: u64 = 2;

pub struct Workspace {
    pub root: PathBuf,
    pub target_dir: PathBuf,
    pub version: String,
    pub modules: Vec<ModuleCrate>,
}

/// A crate with `[package.metadata.ansible]`. Its binary has the crate's name and may serve several modules.
#[derive(Clone, Debug)]
pub struct ModuleCrate {
    pub name: String,
    /// Its folder, from the root.
    pub folder: String,
    pub shipped: bool,
    pub max_bytes: u64,
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    target_directory: PathBuf,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    metadata: Option<PackageMetadata>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct PackageMetadata {
    ansible: Option<AnsibleMetadata>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnsibleMetadata {
    ship: bool,
    max_mib: Option<u64>,
}

impl Workspace {
    pub fn find() -> Result<Self> {
        let output = run(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        Self::parse(&output)
    }

    fn parse(metadata: &str) -> Result<Self> {
        let metadata: Metadata =
            serde_json::from_str(metadata).context("reading `cargo metadata`")?;
        let mut modules = Vec::new();
        let mut versions = std::collections::BTreeSet::new();
        for package in &metadata.packages {
            versions.insert(package.version.clone());
            modules.extend(package.module_crate(&metadata.workspace_root)?);
        }
        modules.sort_by(|a, b| a.name.cmp(&b.name));
        ensure!(
            versions.len() == 1,
            "the workspace's crates must all have one version, and have {versions:?}"
        );
        Ok(Self {
            root: metadata.workspace_root,
            target_dir: metadata.target_directory,
            version: versions.pop_first().unwrap_or_default(),
            modules,
        })
    }

    pub fn collection(&self) -> PathBuf {
        self.root.join("collection")
    }

    pub fn shipped(&self) -> Vec<&ModuleCrate> {
        self.modules.iter().filter(|module| module.shipped).collect()
    }

    pub fn all(&self) -> Vec<&ModuleCrate> {
        self.modules.iter().collect()
    }
}

impl Package {
    fn module_crate(&self, root: &Path) -> Result<Option<ModuleCrate>> {
        let Some(ansible) = self.metadata.as_ref().and_then(|metadata| metadata.ansible.as_ref())
        else {
            return Ok(None);
        };
        let has_binary = |target: &Target| {
            target.name == self.name && target.kind.iter().any(|kind| kind == "bin")
        };
        ensure!(
            self.targets.iter().any(has_binary),
            "crate {}: a module crate needs a binary of its own name",
            self.name
        );
        let folder = self.manifest_path.parent().and_then(|folder| folder.strip_prefix(root).ok());
        let folder =
            folder.with_context(|| format!("crate {}: outside of the workspace", self.name))?;
        Ok(Some(ModuleCrate {
            name: self.name.clone(),
            folder: folder.to_string_lossy().into_owned(),
            shipped: ansible.ship,
            max_bytes: ansible.max_mib.unwrap_or(DEFAULT_MAX_MIB) * 1024 * 1024,
        }))
    }
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command whose output we read; a failure carries what it wrote to stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{command:?}: its output is not UTF-8"))
}

/// Runs a command that the person watches.
pub fn run_visibly(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, binary: &str, ansible: &str) -> String {
        format!(
            r#"{{"name":"{name}","version":"0.1.0","manifest_path":"/w/modules/{name}/Cargo.toml",
                "targets":[{{"name":"{binary}","kind":["bin"]}}],"metadata":{ansible}}}"#
        )
    }

    fn workspace(packages: &[String]) -> Result<Workspace> {
        let packages = packages.join(",");
        Workspace::parse(&format!(
            r#"{{"workspace_root":"/w","target_directory":"/t","packages":[{packages}]}}"#
        ))
    }

    #[test]
    fn finds_module_crates_by_their_metadata() {
        let workspace = workspace(&[
            package("zfs", "zfs", r#"{"ansible":{"ship":true,"max_mib":3}}"#),
            package("host", "host", "null"),
            package("fake", "fake", r#"{"ansible":{"ship":false}}"#),
        ])
        .unwrap();
        let names: Vec<_> =
            workspace.modules.iter().map(|module| (module.name.as_str(), module.shipped)).collect();
        assert_eq!(names, [("fake", false), ("zfs", true)]);
        assert_eq!(workspace.shipped()[0].max_bytes, 3 << 20);
        assert_eq!(workspace.shipped()[0].folder, "modules/zfs");
    }

    #[test]
    fn refuses_a_module_crate_without_its_binary_or_with_an_unknown_key() {
        assert!(workspace(&[package("zfs", "other", r#"{"ansible":{"ship":true}}"#)]).is_err());
        assert!(
            workspace(&[package("zfs", "zfs", r#"{"ansible":{"ship":true,"max_mb":3}}"#)]).is_err()
        );
    }
}
