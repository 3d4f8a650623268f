//! The checkout: its folders and its module crates, which are listed only in Cargo's metadata.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The largest binary unless its crate says otherwise, since it is sent to every target and hashed there.
const DEFAULT_MAX_MIB: u64 = 2;

pub struct Workspace {
    pub root: PathBuf,
    pub target_dir: PathBuf,
    pub version: String,
    pub modules: Vec<ModuleCrate>,
    /// The Cargo.toml of every crate.
    pub manifests: Vec<PathBuf>,
}

/// A crate with `[package.metadata.ansible]`. Its binary has the crate's name and may serve several modules.
#[derive(Clone, Debug)]
pub struct ModuleCrate {
    pub name: String,
    /// Its folder, relative to the root.
    pub folder: String,
    /// Its folder and those of the workspace's crates that it depends on, relative to the root, sorted.
    pub sources: Vec<String>,
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
    dependencies: Vec<Dependency>,
    metadata: Option<PackageMetadata>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Dependency {
    /// `None` for a crate without modules.
    kind: Option<String>,
    path: Option<PathBuf>,
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
        let mut versions = BTreeSet::new();
        for package in &metadata.packages {
            versions.insert(package.version.clone());
            modules.extend(package.module_crate(&metadata)?);
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
            manifests: metadata.packages.into_iter().map(|package| package.manifest_path).collect(),
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
    fn module_crate(&self, all: &Metadata) -> Result<Option<ModuleCrate>> {
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
        let mut sources = BTreeSet::new();
        let mut further = vec![self];
        while let Some(package) = further.pop() {
            if sources.insert(package.folder(&all.workspace_root)?) {
                for path in package.built_with() {
                    let found = all
                        .packages
                        .iter()
                        .find(|other| other.manifest_path.parent() == Some(path));
                    further.push(found.with_context(|| {
                        format!("{}: not a crate of the workspace", path.display())
                    })?);
                }
            }
        }
        Ok(Some(ModuleCrate {
            name: self.name.clone(),
            folder: self.folder(&all.workspace_root)?,
            sources: sources.into_iter().collect(),
            shipped: ansible.ship,
            max_bytes: ansible.max_mib.unwrap_or(DEFAULT_MAX_MIB) * 1024 * 1024,
        }))
    }
}

impl Package {
    fn folder(&self, root: &Path) -> Result<String> {
        let folder = self.manifest_path.parent().and_then(|folder| folder.strip_prefix(root).ok());
        let folder =
            folder.with_context(|| format!("crate {}: outside of the workspace", self.name))?;
        Ok(folder.to_string_lossy().into_owned())
    }

    /// Returns the folders of its path dependencies, without those that only its tests need.
    fn built_with(&self) -> impl Iterator<Item = &Path> {
        let built_with = |dependency: &&Dependency| dependency.kind.as_deref() != Some("dev");
        self.dependencies
            .iter()
            .filter(built_with)
            .filter_map(|dependency| dependency.path.as_deref())
    }
}

/// Returns the cargo that runs this program.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command and returns its output; an error contains its stderr.
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

/// Runs a command whose output the user sees.
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
                "targets":[{{"name":"{binary}","kind":["bin"]}}],"dependencies":[],"metadata":{ansible}}}"#
        )
    }

    fn needing(package: &str, needs: &[(&str, &str)]) -> String {
        let needs: Vec<_> = needs
            .iter()
            .map(|(name, kind)| format!(r#"{{"kind":{kind},"path":"/w/modules/{name}"}}"#))
            .collect();
        package.replace(r#""dependencies":[]"#, &format!(r#""dependencies":[{}]"#, needs.join(",")))
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
    fn a_module_crate_knows_what_it_is_built_with() {
        let zfs = package("zfs", "zfs", r#"{"ansible":{"ship":true}}"#);
        let zfs =
            needing(&zfs, &[("change", "null"), ("tools", r#""build""#), ("fake", r#""dev""#)]);
        let change = needing(&package("change", "change", "null"), &[("host", "null")]);
        let others = ["tools", "fake", "host"].map(|name| package(name, name, "null"));
        let all = [&[zfs.clone(), change.clone()], &others[..]].concat();
        let found = workspace(&all).unwrap();
        let expected = ["change", "host", "tools", "zfs"].map(|name| format!("modules/{name}"));
        assert_eq!(found.modules[0].sources, expected);
        assert!(found.manifests.contains(&PathBuf::from("/w/modules/fake/Cargo.toml")));
        assert!(workspace(&[zfs, change]).is_err());
    }

    #[test]
    fn refuses_a_module_crate_without_its_binary_or_with_an_unknown_key() {
        assert!(workspace(&[package("zfs", "other", r#"{"ansible":{"ship":true}}"#)]).is_err());
        assert!(
            workspace(&[package("zfs", "zfs", r#"{"ansible":{"ship":true,"max_mb":3}}"#)]).is_err()
        );
    }
}
