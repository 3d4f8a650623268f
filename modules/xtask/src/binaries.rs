//! Builds the modules' static binaries, or reuses cached ones of the same sources, and puts them where the action plugin and Ansible look
//! for them.
//!
//! Invariant: a filled folder has exactly these binaries, so that no older version of another architecture remains.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;

use crate::cache::Cache;
use crate::elf;
use crate::inputs::{self, Inputs};
use crate::progress::Progress;
use crate::spec::{self, Module};
use crate::target::{Arch, Toolchain, advice};
use crate::workspace::{ModuleCrate, Workspace, cargo, run, run_visibly};

pub const BIN: &str = "plugins/plugin_utils/bin";

/// Puts the binaries into the checkout, which is used in place through `.dev`.
pub fn collection(workspace: &Workspace, arches: &[Arch]) -> Result<()> {
    link_in_place(workspace)?;
    let toolchains = available(workspace, arches, false)?;
    fill(
        workspace,
        &workspace.shipped(),
        &toolchains,
        &workspace.collection().join(BIN),
        Take::Cached,
    )?;
    Ok(())
}

/// Returns the architectures that this machine can build for. A missing toolchain is reported; it is an error only for the machine's own
/// architecture.
pub fn available(
    workspace: &Workspace,
    arches: &[Arch],
    draft: bool,
) -> Result<Vec<(Arch, Toolchain)>> {
    let mut found = Vec::new();
    for &arch in arches {
        match find(workspace, arch, draft) {
            Some(toolchain) => found.push((arch, toolchain)),
            None if arch.is_native() => bail!("no Rust target for this machine: {}", advice(arch)),
            None => {
                println!("{}: not built, no toolchain for it here ({})", arch.name(), advice(arch))
            }
        }
    }
    ensure!(!found.is_empty(), "none of the architectures that were asked for can be built");
    Ok(found)
}

/// A draft build is only for other architectures, since the machine's own binaries are those that are tested.
pub fn find(workspace: &Workspace, arch: Arch, draft: bool) -> Option<Toolchain> {
    let found = Toolchain::find(workspace, arch)?;
    Some(if draft && !arch.is_native() { found.drafting() } else { found })
}

/// Whether cached binaries of the same sources and tools may be used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Take {
    Cached,
    Nothing,
}

/// A wanted binary: its crate, its toolchain, and the hash of its inputs.
struct Wanted<'a> {
    module: &'a ModuleCrate,
    arch: Arch,
    toolchain: &'a Toolchain,
    inputs: Option<String>,
}

impl Wanted<'_> {
    fn file(&self) -> String {
        format!("{}_{}", self.module.name, self.arch.name())
    }
}

/// A binary from the cache or from a build.
struct Found<'a> {
    wanted: Wanted<'a>,
    path: PathBuf,
    content: Vec<u8>,
}

/// Fills `folder` with the binaries of these crates, and a link for each further module that one serves; returns the modules.
pub fn fill<'a>(
    workspace: &Workspace,
    crates: &[&'a ModuleCrate],
    toolchains: &'a [(Arch, Toolchain)],
    folder: &Path,
    take: Take,
) -> Result<Vec<Module<'a>>> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let found = take_or_build(workspace, crates, toolchains, take)?;
    for binary in &found {
        check(workspace, binary).with_context(|| format!("binary {}", binary.path.display()))?;
    }
    let native: Vec<_> = found
        .iter()
        .filter(|binary| binary.wanted.arch.is_native())
        .map(|binary| (binary.wanted.module, binary.path.clone()))
        .collect();
    let modules =
        if native.is_empty() { specs(workspace, crates)? } else { spec::read_all(&native)? };

    let mut expected = BTreeSet::new();
    for Found { wanted, content, .. } in &found {
        let file = wanted.file();
        let state = if put(folder, &file, content)? { "new" } else { "unchanged" };
        println!("{file}: {:.2} MiB, {state}", content.len() as f64 / f64::from(1 << 20));
        for served in modules.iter().filter(|served| served.source.name == wanted.module.name) {
            if served.spec.name != wanted.module.name {
                let link = format!("{}_{}", served.spec.name, wanted.arch.name());
                put_link(folder, &link, &file)?;
                expected.insert(link);
            }
        }
        expected.insert(file);
    }
    remove_others(folder, &expected)?;
    Ok(modules)
}

/// Returns the cached binaries of this machine's architecture.
pub fn cached_native<'a>(
    workspace: &Workspace,
    crates: &[&'a ModuleCrate],
) -> Result<Vec<(&'a ModuleCrate, PathBuf)>> {
    let native = Arch::ALL.into_iter().find(|arch| arch.is_native());
    let Some((arch, toolchain)) =
        native.and_then(|arch| Some((arch, Toolchain::find(workspace, arch)?)))
    else {
        return Ok(vec![]);
    };
    let (cache, mut found) = (Cache::find(workspace), Vec::new());
    let Some(inputs) = Inputs::find(workspace, &toolchain)? else { return Ok(found) };
    for &module in crates {
        let wanted =
            Wanted { module, arch, toolchain: &toolchain, inputs: Some(inputs.of(module)?) };
        if let Some((path, _)) =
            wanted.inputs.as_deref().and_then(|hash| cache.take(&wanted.file(), hash))
        {
            found.push((module, path));
        }
    }
    Ok(found)
}

fn take_or_build<'a>(
    workspace: &Workspace,
    crates: &[&'a ModuleCrate],
    toolchains: &'a [(Arch, Toolchain)],
    take: Take,
) -> Result<Vec<Found<'a>>> {
    let cache = Cache::find(workspace);
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (arch, toolchain) in toolchains {
        let inputs = if take == Take::Cached { Inputs::find(workspace, toolchain)? } else { None };
        for &module in crates {
            let inputs = inputs.as_ref().map(|inputs| inputs.of(module)).transpose()?;
            let wanted = Wanted { module, arch: *arch, toolchain, inputs };
            match wanted.inputs.as_deref().and_then(|hash| cache.take(&wanted.file(), hash)) {
                Some((path, content)) => found.push(Found { wanted, path, content }),
                None => missing.push(wanted),
            }
        }
    }
    // Test-only modules by themselves: what cargo is asked for together may get other features than apart.
    for shipped in [true, false] {
        build(workspace, missing.iter().filter(|wanted| wanted.module.shipped == shipped))?;
    }
    let mut now = BTreeMap::new();
    for wanted in missing {
        let Toolchain { target_dir, triple, profile, .. } = wanted.toolchain;
        let path = target_dir.join(triple).join(profile).join(&wanted.module.name);
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        if let Some(hash) = &wanted.inputs {
            inputs::check(workspace, wanted.module, &path.with_extension("d"))?;
            let name = wanted.arch.name();
            if !now.contains_key(name) {
                now.insert(name, Inputs::find(workspace, wanted.toolchain)?);
            }
            let now = match now.get(name) {
                Some(Some(inputs)) => Some(inputs.of(wanted.module)?),
                _ => None,
            };
            // Not if somebody has changed a source while cargo was reading them. A cache may be mounted read-only.
            if now.as_ref() == Some(hash) {
                cache
                    .store(&wanted.file(), hash, &content)
                    .unwrap_or_else(|error| println!("{error:#}: the next one builds it again"));
            }
        }
        found.push(Found { wanted, path, content });
    }
    Ok(found)
}

/// Builds for all architectures at once, since linking, the long part, uses only one core. Cargo always gets all shipped crates and then the
/// programs to build: a crate built alone might get other features of shared dependencies.
fn build<'a>(workspace: &Workspace, wanted: impl Iterator<Item = &'a Wanted<'a>>) -> Result<()> {
    let mut of_one_arch: BTreeMap<&str, Vec<&Wanted>> = BTreeMap::new();
    for binary in wanted {
        of_one_arch.entry(binary.arch.name()).or_default().push(binary);
    }
    let mut progress = Progress::new(&workspace.target_dir);
    let (all, mut running) = (of_one_arch.len(), Vec::new());
    for (number, (arch, binaries)) in of_one_arch.into_iter().enumerate() {
        let names: Vec<_> = binaries.iter().map(|binary| binary.module.name.as_str()).collect();
        let toolchain = binaries[0].toolchain;
        let what = format!("{} for {arch} ({})", names.join(", "), toolchain.profile);
        println!("building {what}: {} of {all}, {}", number + 1, progress.expectation(&what));
        let mut command = toolchain.cargo_build(workspace);
        let packages: BTreeSet<_> = workspace
            .shipped()
            .into_iter()
            .map(|module| module.name.as_str())
            .chain(names.clone())
            .collect();
        command.args(packages.into_iter().flat_map(|name| ["--package", name]));
        command.args(names.into_iter().flat_map(|name| ["--bin", name]));
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        running.push((arch, what, child));
    }
    let failed = progress.wait(running)?;
    ensure!(failed.is_empty(), "cargo could not build for {}", failed.join(" and "));
    Ok(())
}

/// A tolerance, since the C library in a static binary has another size on other systems (80 KiB between Debian 12 and Ubuntu 24.04).
const LIBC: u64 = 128 << 10;

/// Refuses a binary that would not run on a target, or that is too large.
fn check(workspace: &Workspace, binary: &Found) -> Result<()> {
    let Found { wanted: Wanted { module, arch, toolchain, .. }, path, content } = binary;
    let elf = elf::parse(content)?;
    ensure!(
        elf.machine == arch.machine(),
        "made for machine type {}, not for {}",
        elf.machine,
        arch.name()
    );
    ensure!(elf.is_static, "not static: it asks for a program interpreter");
    for folder in [&workspace.root, &toolchain.target_dir] {
        ensure!(
            !contains(content, folder.as_os_str().as_bytes()),
            "it names {}: another checkout would build another binary",
            folder.display()
        );
    }
    let (size, limit) = (content.len() as u64, module.max_bytes + LIBC);
    ensure!(
        size <= limit || !toolchain.ships(),
        "{size} bytes, the limit is {limit} (`[package.metadata.ansible] max_mib` of its crate, and what a C library may add)"
    );
    if arch.is_native() {
        let version = run(Command::new(path).arg("--version"))?;
        let expected = format!("{} {}", module.name, workspace.version);
        ensure!(version.trim_end() == expected, "--version prints {version:?}, not {expected:?}");
    }
    Ok(())
}

fn contains(content: &[u8], part: &[u8]) -> bool {
    content.windows(part.len()).any(|window| window == part)
}

/// Writes a file atomically, and only if it differs, so that a program that runs it meanwhile has the old or the new one.
fn put(folder: &Path, name: &str, content: &[u8]) -> Result<bool> {
    let path = folder.join(name);
    if !path.is_symlink() && fs::read(&path).is_ok_and(|found| found == content) {
        return Ok(false);
    }
    let mut file = NamedTempFile::new_in(folder)
        .with_context(|| format!("writing in {}", folder.display()))?;
    file.write_all(content)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
    file.persist(&path).with_context(|| format!("writing {}", path.display()))?;
    Ok(true)
}

fn put_link(folder: &Path, name: &str, target: &str) -> Result<()> {
    let path = folder.join(name);
    if fs::read_link(&path).is_ok_and(|found| found == Path::new(target)) {
        return Ok(());
    }
    let link = tempfile::Builder::new().make_in(folder, |path| symlink(target, path))?;
    link.into_temp_path().persist(&path).with_context(|| format!("linking {}", path.display()))
}

fn remove_others(folder: &Path, expected: &BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !expected.contains(entry.file_name().to_string_lossy().as_ref()) {
            fs::remove_file(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
            println!("{}: removed, it is no longer built", entry.file_name().to_string_lossy());
        }
    }
    Ok(())
}

/// Makes the link through which Ansible finds the checkout as a collection (ANSIBLE_COLLECTIONS_PATH=.dev).
fn link_in_place(workspace: &Workspace) -> Result<()> {
    let link = workspace.root.join(".dev/ansible_collections/reversible/deploy");
    if !link.join("galaxy.yml").is_file() {
        ensure!(
            fs::symlink_metadata(&link).is_err(),
            "{}: not a link to this checkout",
            link.display()
        );
        link.parent().map_or(Ok(()), fs::create_dir_all)?;
        symlink("../../..", &link).with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(())
}

/// Reads the specs of these crates, from cached binaries of the same sources if there are any, else from debug builds.
pub fn specs<'a>(workspace: &Workspace, crates: &[&'a ModuleCrate]) -> Result<Vec<Module<'a>>> {
    ensure!(!crates.is_empty(), "no crate has [package.metadata.ansible]");
    let mut binaries = cached_native(workspace, crates)?;
    let missing: Vec<_> = crates
        .iter()
        .filter(|module| !binaries.iter().any(|(cached, _)| cached.name == module.name))
        .collect();
    if !missing.is_empty() {
        let mut build = cargo();
        build.current_dir(&workspace.root).args(["build", "--quiet"]);
        build.args(missing.iter().flat_map(|module| ["--package", &module.name]));
        run_visibly(&mut build)?;
        let debug = workspace.target_dir.join("debug");
        binaries.extend(missing.into_iter().map(|module| (*module, debug.join(&module.name))));
    }
    spec::read_all(&binaries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_ends_with_exactly_what_was_built() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join("gone_x86_64"), "old").unwrap();
        symlink("gone_x86_64", folder.join("ledger_x86_64")).unwrap();
        assert!(put(folder, "ledger_x86_64", b"new").unwrap());
        assert!(!put(folder, "ledger_x86_64", b"new").unwrap());
        put_link(folder, "ledger_info_x86_64", "elsewhere").unwrap();
        put_link(folder, "ledger_info_x86_64", "ledger_x86_64").unwrap();
        remove_others(folder, &["ledger_x86_64", "ledger_info_x86_64"].map(str::to_owned).into())
            .unwrap();
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["ledger_info_x86_64", "ledger_x86_64"]);
        assert!(!folder.join("ledger_x86_64").is_symlink());
        assert_eq!(fs::read(folder.join("ledger_info_x86_64")).unwrap(), b"new");
        assert_eq!(
            fs::metadata(folder.join("ledger_x86_64")).unwrap().permissions().mode() & 0o777,
            0o755
        );
    }
}
