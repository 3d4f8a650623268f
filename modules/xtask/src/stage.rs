//! Makes a copy of everything that is shipped, with real folders where Ansible's tools expect them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use walkdir::{DirEntry, WalkDir};

use crate::binaries::{self, BIN, Take};
use crate::docs;
use crate::galaxy;
use crate::layout::{FILES, FOLDERS};
use crate::links;
use crate::target::{Arch, Toolchain};
use crate::workspace::Workspace;

pub fn stage(
    workspace: &Workspace,
    dir: &Path,
    with_tests: bool,
    arches: &[Arch],
    draft: bool,
) -> Result<()> {
    let toolchains = binaries::available(workspace, arches, draft)?;
    let place = stage_with(workspace, dir, with_tests, &toolchains, Take::Cached)?;
    println!("{}", place.display());
    Ok(())
}

pub fn stage_with(
    workspace: &Workspace,
    dir: &Path,
    with_tests: bool,
    toolchains: &[(Arch, Toolchain)],
    take: Take,
) -> Result<PathBuf> {
    let galaxy = galaxy::check_version(workspace)?;
    let parent = dir.join("ansible_collections").join(&galaxy.namespace);
    let place = parent.join(&galaxy.name);
    let inside = std::path::absolute(dir)?.starts_with(workspace.collection());
    ensure!(!inside, "{}: the copy must not be inside of the collection", dir.display());
    let ours = place.join("galaxy.yml").is_file() && !place.is_symlink();
    ensure!(
        ours || !place.exists(),
        "{}: it exists and was not made by this command, so it is not replaced",
        place.display()
    );
    fs::create_dir_all(&parent).with_context(|| format!("making {}", parent.display()))?;

    let copy = tempfile::Builder::new().prefix(".stage-").tempdir_in(&parent)?;
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755))?;
    for (from, to) in FILES {
        copy_file(&workspace.root.join(from), &copy.path().join(to))?;
    }
    for (from, to) in FOLDERS {
        let from = workspace.root.join(from);
        if from.is_dir() {
            copy_folder(&from, &copy.path().join(to))?;
        }
    }
    links::follow(&workspace.root, copy.path())?;
    let crates = if with_tests { workspace.all() } else { workspace.shipped() };
    let modules = binaries::fill(workspace, &crates, toolchains, &copy.path().join(BIN), take)?;
    if with_tests {
        docs::write_into(copy.path(), &modules)?;
    }

    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))?;
    }
    fs::rename(copy.keep(), &place).with_context(|| format!("making {}", place.display()))?;
    Ok(place)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in WalkDir::new(from).follow_links(true).into_iter().filter_entry(is_shipped) {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from)?);
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target)?;
        } else {
            copy_file(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Whether an entry is shipped: files of editors, Python and git are not, and the binaries come from the build.
fn is_shipped(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    entry.depth() == 0
        || !(name.starts_with('.')
            || name.ends_with('~')
            || name.ends_with(".pyc")
            || name.starts_with("__")
            || entry.path().ends_with(BIN))
        || name == "__init__.py"
}

/// Copies a file with mode 0644 or 0755, independent of the umask of the checkout.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let context = || format!("copying {} to {}", from.display(), to.display());
    fs::copy(from, to).with_context(context)?;
    let executable = fs::metadata(from).with_context(context)?.permissions().mode() & 0o100 != 0;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_what_is_shipped_and_nothing_that_lies_about() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("__pycache__")).unwrap();
        fs::create_dir_all(from.join("action/.hidden")).unwrap();
        for file in [
            "a.py",
            "a.pyc",
            "a.py~",
            ".swp",
            "__init__.py",
            "__pycache__/a.pyc",
            "action/b.py",
            "action/.hidden/c",
        ] {
            fs::write(from.join(file), file).unwrap();
        }
        fs::set_permissions(from.join("a.py"), fs::Permissions::from_mode(0o700)).unwrap();
        copy_folder(&from, &to).unwrap();
        let mut found: Vec<_> = WalkDir::new(&to).into_iter().map(|entry| entry.unwrap()).collect();
        found.retain(|entry| entry.file_type().is_file());
        let mut names: Vec<_> = found
            .iter()
            .map(|entry| entry.path().strip_prefix(&to).unwrap().to_str().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["__init__.py", "a.py", "action/b.py"]);
        assert_eq!(fs::metadata(to.join("a.py")).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
