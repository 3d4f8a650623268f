//! Builds the modules' static binaries and puts them where the action plugin and Ansible look for them. A folder that
//! this has filled holds exactly what was just built: an older binary of another architecture would be another version.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;

use crate::elf;
use crate::spec;
use crate::target::{Arch, Toolchain, advice};
use crate::workspace::{ModuleCrate, Workspace, run};

pub const BIN: &str = "plugins/modules/__bin";

/// Fills the checkout, which is then used in place through `.dev`.
pub fn collection(workspace: &Workspace, arches: &[Arch]) -> Result<()> {
    link_in_place(workspace)?;
    let toolchains = available(workspace, arches, false)?;
    fill(workspace, &workspace.shipped(), &toolchains, &workspace.collection().join(BIN))
}

/// The architectures that this machine can build; one that it cannot is said, unless it is the machine's own.
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

/// A draft is of other architectures only: the machine's own binaries are those that are tested.
pub fn find(workspace: &Workspace, arch: Arch, draft: bool) -> Option<Toolchain> {
    let found = Toolchain::find(workspace, arch)?;
    Some(if draft && !arch.is_native() { found.drafting() } else { found })
}

/// Builds these crates and makes `folder` hold their binaries, and a link for each further module that one serves.
pub fn fill(
    workspace: &Workspace,
    crates: &[&ModuleCrate],
    toolchains: &[(Arch, Toolchain)],
    folder: &Path,
) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    // Test-only modules by themselves: what cargo is asked for together may get other features than apart.
    for shipped in [true, false] {
        let packages: Vec<_> =
            crates.iter().filter(|module| module.shipped == shipped).copied().collect();
        if !packages.is_empty() {
            build(workspace, &packages, toolchains)?;
        }
    }
    let mut built = Vec::new();
    for (arch, toolchain) in toolchains {
        let built_in = toolchain.target_dir.join(&toolchain.triple).join(toolchain.profile);
        for &module in crates {
            let path = built_in.join(&module.name);
            let content = check(workspace, module, *arch, toolchain, &path)
                .with_context(|| format!("binary {}", path.display()))?;
            built.push((module, *arch, path, content));
        }
    }
    let native = built
        .iter()
        .filter(|(_, arch, ..)| arch.is_native())
        .map(|(module, _, path, _)| (*module, path));
    let names = served(workspace, crates, &native.collect::<Vec<_>>())?;

    let mut expected = BTreeSet::new();
    for (module, arch, _, content) in &built {
        let file = format!("{}_{}", module.name, arch.name());
        let state = if put(folder, &file, content)? { "new" } else { "unchanged" };
        println!("{file}: {:.2} MiB, {state}", content.len() as f64 / f64::from(1 << 20));
        for name in
            names.get(&module.name).into_iter().flatten().filter(|name| **name != module.name)
        {
            let link = format!("{name}_{}", arch.name());
            put_link(folder, &link, &file)?;
            expected.insert(link);
        }
        expected.insert(file);
    }
    remove_others(folder, &expected)
}

/// All architectures at once: the long part of each build, the linking, keeps only one core busy.
fn build(
    workspace: &Workspace,
    crates: &[&ModuleCrate],
    toolchains: &[(Arch, Toolchain)],
) -> Result<()> {
    let names: Vec<_> = crates.iter().map(|module| module.name.as_str()).collect();
    let arches: Vec<_> = toolchains.iter().map(|(arch, _)| arch.name()).collect();
    println!("building {} for {}", names.join(", "), arches.join(" and "));
    let mut running = Vec::new();
    for (arch, toolchain) in toolchains {
        let mut command = toolchain.cargo_build(workspace);
        command.args(crates.iter().flat_map(|module| ["--package", &module.name]));
        running.push((arch, command.spawn().with_context(|| format!("starting {command:?}"))?));
    }
    let mut failed = Vec::new();
    for (arch, mut cargo) in running {
        if !cargo.wait()?.success() {
            failed.push(arch.name());
        }
    }
    ensure!(failed.is_empty(), "cargo could not build for {}", failed.join(" and "));
    Ok(())
}

/// By as much the part of a static binary that is the C library's differs between the systems that it is built on (80 KiB between Debian 12
/// and Ubuntu 24.04).
const LIBC: u64 = 128 << 10;

/// A binary that would not run on a target, or that would be felt there, is no success.
fn check(
    workspace: &Workspace,
    module: &ModuleCrate,
    arch: Arch,
    toolchain: &Toolchain,
    path: &Path,
) -> Result<Vec<u8>> {
    let content = fs::read(path).context("reading it")?;
    let elf = elf::parse(&content)?;
    ensure!(
        elf.machine == arch.machine(),
        "made for machine type {}, not for {}",
        elf.machine,
        arch.name()
    );
    ensure!(elf.is_static, "not static: it asks for a program interpreter");
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
    Ok(content)
}

/// The modules that each binary serves. Only a binary of this machine's own can say; otherwise a debug build is asked.
fn served(
    workspace: &Workspace,
    crates: &[&ModuleCrate],
    native: &[(&ModuleCrate, &PathBuf)],
) -> Result<BTreeMap<String, Vec<String>>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (module, path) in native {
        names.insert(
            module.name.clone(),
            spec::read(path)?.into_iter().map(|spec| spec.name).collect(),
        );
    }
    if native.is_empty() {
        for module in spec::read_all(workspace, crates)? {
            names.entry(module.source.name.clone()).or_default().push(module.spec.name);
        }
    }
    Ok(names)
}

/// Writes a file in one step, and only when it differs: whoever runs it meanwhile has the old one or the new one.
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

/// Ansible finds the checkout as a collection through this link (ANSIBLE_COLLECTIONS_PATH=.dev).
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
