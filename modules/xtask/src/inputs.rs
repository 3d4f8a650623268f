//! Hashes the inputs of a binary: the sources of its crate and of the workspace's crates that it depends on, cargo's arguments, the
//! workspace's settings, compiler, linker and C library. The checkout's folder is left out, since binaries do not contain its path
//! (`make test-long` builds the archive in two folders).
//!
//! Invariant: everything that can change a binary changes its hash, or it has no hash; an unnecessary input only costs a build.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::cache::sha256;
use crate::target::{Toolchain, cargo_home};
use crate::workspace::{ModuleCrate, Workspace, cargo, run};

/// Prefixes of the variables that affect cargo, rustc, build scripts and the C compiler.
const AFFECT_BUILDS: [&str; 19] = [
    "AR",
    "CARGO",
    "CC",
    "CFLAGS",
    "COMPILER_PATH",
    "CPATH",
    "CPPFLAGS",
    "CRATE_CC",
    "CXX",
    "C_INCLUDE_PATH",
    "GCC_",
    "HOST_",
    "LDFLAGS",
    "LIBRARY_PATH",
    "PKG_CONFIG",
    "RING_",
    "RUST",
    "TARGET_",
    "ZSTD_",
];
/// Variables with such a prefix that do not change a binary: about output and downloads, those that `cargo run` sets for this program, and
/// those that `Toolchain::cargo_build` replaces.
const HARMLESS: [&str; 23] = [
    "CARGO=",
    "CARGO_BIN_",
    "CARGO_BUILD_JOBS=",
    "CARGO_ENCODED_RUSTFLAGS=",
    "CARGO_HOME=",
    "CARGO_HTTP_",
    "CARGO_INCREMENTAL=0", // as in a release anyway
    "CARGO_MAKEFLAGS=",
    "CARGO_MANIFEST_",
    "CARGO_NET_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_PACKAGE=",
    "CARGO_REGISTR",
    "CARGO_TARGET_DIR=",
    "CARGO_TARGET_TMPDIR=",
    "CARGO_TERM_",
    "RUSTDOC",
    "RUSTFLAGS=",
    "RUSTUP_",
    "RUST_BACKTRACE=",
    "RUST_LOG=",
    "RUST_RECURSION_COUNT=",
    "RUST_TEST_",
];
/// The files of gcc and of the C library that are linked into a static program.
const LINKED: [&str; 14] = [
    "crt1.o",
    "crti.o",
    "crtn.o",
    "crtbeginT.o",
    "crtend.o",
    "libc.a",
    "libm.a",
    "libgcc.a",
    "libgcc_eh.a",
    "libpthread.a",
    "librt.a",
    "libdl.a",
    "libutil.a",
    "libmvec.a",
];

/// The inputs that all binaries of one architecture have in common.
pub struct Inputs<'a> {
    workspace: &'a Workspace,
    common: String,
}

impl<'a> Inputs<'a> {
    /// `None` for a compiler whose inputs are not known.
    pub fn find(workspace: &'a Workspace, toolchain: &Toolchain) -> Result<Option<Self>> {
        let root = &workspace.root;
        let tools = match toolchain.list() {
            Some(list) => fs::read(list).with_context(|| format!("reading {}", list.display()))?,
            None if toolchain.links_with_cc() => tools(root)?,
            None => return Ok(None),
        };
        let mut all = Hashed(Sha256::new());
        all.add("tools", &tools);
        all.add("cargo", run(cargo().arg("-vV").current_dir(root))?.as_bytes());
        all.add("call", call(workspace, toolchain).as_bytes());
        let mut variables: Vec<String> = env::vars_os()
            .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
            .filter(|variable| affects_builds(variable))
            .collect();
        variables.sort();
        let folders = root.ancestors().map(|folder| folder.join(".cargo")).chain(cargo_home());
        let files = folders.flat_map(|folder| [folder.join("config.toml"), folder.join("config")]);
        let settings: Vec<String> = variables
            .into_iter()
            .chain(files.filter_map(|file| fs::read_to_string(file).ok()))
            .collect();
        if settings.iter().any(|setting| names_a_program(setting)) {
            return Ok(None);
        }
        for setting in settings {
            all.add("setting", setting.as_bytes());
        }
        for file in ["Cargo.toml", "Cargo.lock"]
            .map(|name| root.join(name))
            .iter()
            .chain(&workspace.manifests)
        {
            all.add_file(root, file)?;
        }
        Ok(Some(Self { workspace, common: all.end() }))
    }

    pub fn of(&self, module: &ModuleCrate) -> Result<String> {
        let mut all = Hashed(Sha256::new());
        all.add("common", self.common.as_bytes());
        all.add("name", module.name.as_bytes());
        for file in sources(&self.workspace.root, module)? {
            all.add_file(&self.workspace.root, &file)?;
        }
        Ok(all.end())
    }
}

/// Refuses a binary with a file of the workspace that its hash does not cover; `list` is cargo's dependency file of the binary.
pub fn check(workspace: &Workspace, module: &ModuleCrate, list: &Path) -> Result<()> {
    let text = fs::read_to_string(list).with_context(|| format!("reading {}", list.display()))?;
    let covered = sources(&workspace.root, module)?;
    for file in listed(&text).filter(|file| file.starts_with(&workspace.root)) {
        ensure!(
            covered.contains(&file) || workspace.manifests.contains(&file),
            "{} goes into it, and lies neither in its crate nor in one of the workspace that it depends on",
            file.display()
        );
    }
    Ok(())
}

/// Parses `program: file file`, where a backslash precedes a space in a name.
fn listed(text: &str) -> impl Iterator<Item = PathBuf> {
    let files =
        text.split_once(": ").map_or("", |(_, files)| files).trim_end().replace("\\ ", "\0");
    let files: Vec<_> =
        files.split(' ').map(|file| PathBuf::from(file.replace('\0', " "))).collect();
    files.into_iter()
}

/// Returns every file of these crates except their integration tests, sorted.
fn sources(root: &Path, module: &ModuleCrate) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in &module.sources {
        let folder = root.join(folder);
        let tests = folder.join("tests");
        let entries = WalkDir::new(&folder).sort_by_file_name().into_iter();
        for entry in entries.filter_entry(|entry| entry.path() != tests) {
            let entry = entry?;
            if !entry.file_type().is_dir() {
                files.push(entry.into_path());
            }
        }
    }
    Ok(files)
}

/// Returns cargo's command, with placeholders for folders that differ between checkouts.
fn call(workspace: &Workspace, toolchain: &Toolchain) -> String {
    let command = toolchain.cargo_build(workspace);
    let variables = command.get_envs().filter(|(name, _)| *name != "SOURCE_DATE_EPOCH");
    let mut text =
        format!("{:?} {:?}", command.get_args().collect::<Vec<_>>(), variables.collect::<Vec<_>>());
    let folders = [
        Some((toolchain.target_dir.clone(), "<target>")),
        Some((workspace.root.clone(), "<root>")),
        cargo_home().map(|home| (home, "<cargo>")),
    ];
    for (folder, name) in folders.into_iter().flatten() {
        text = text.replace(&folder.display().to_string(), name);
    }
    text
}

fn affects_builds(variable: &str) -> bool {
    let begins = |names: &[&str]| names.iter().any(|name| variable.starts_with(name));
    begins(&AFFECT_BUILDS) && !begins(&HARMLESS)
}

/// Whether a variable replaces the compiler by a program whose inputs are not known.
fn names_a_program(setting: &str) -> bool {
    let setting = setting.to_lowercase();
    setting.starts_with("cc") || ["linker", "wrapper"].iter().any(|word| setting.contains(word))
}

/// Hashes the compiler, the linker and the C library of this machine.
fn tools(root: &Path) -> Result<Vec<u8>> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut all = run(Command::new(rustc).arg("-vV").current_dir(root))?.into_bytes();
    let cc =
        |word: String| run(Command::new("cc").arg(word)).map(|text| text.trim_end().to_owned());
    all.extend(cc("--version".to_owned())?.bytes());
    all.extend(run(Command::new(cc("-print-prog-name=ld".to_owned())?).arg("--version"))?.bytes());
    for name in LINKED {
        // cc names a file that it does not have just as it was asked.
        let path = cc(format!("-print-file-name={name}"))?;
        all.extend(
            fs::read(&path)
                .map_or_else(|_| format!("no {name}"), |content| sha256(&content))
                .bytes(),
        );
    }
    Ok(all)
}

/// Joins parts with their names and lengths, so that different lists never give the same text.
struct Hashed(Sha256);

impl Hashed {
    fn add(&mut self, name: &str, content: &[u8]) {
        self.0.update(format!("{name} {}\n", content.len()));
        self.0.update(content);
    }

    fn add_file(&mut self, root: &Path, path: &Path) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        self.add(&path.strip_prefix(root).unwrap_or(path).to_string_lossy(), &content);
        Ok(())
    }

    fn end(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout(root: &Path) -> (Workspace, ModuleCrate) {
        for (file, text) in [
            ("Cargo.toml", "[workspace]"),
            ("Cargo.lock", "version = 4"),
            ("modules/zfs/Cargo.toml", "[package]"),
            ("modules/zfs/src/main.rs", "fn main() {}"),
            ("modules/zfs/src/examples.yml", "- zfs:"),
            ("modules/zfs/tests/whole.rs", "#[test]"),
            ("modules/host/Cargo.toml", "[package]"),
            ("modules/host/src/lib.rs", "pub fn host() {}"),
            ("modules/other/src/lib.rs", "pub fn other() {}"),
        ] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let zfs = ModuleCrate {
            name: "zfs".into(),
            folder: "modules/zfs".into(),
            sources: vec!["modules/host".into(), "modules/zfs".into()],
            shipped: true,
            max_bytes: 1,
        };
        let workspace = Workspace {
            root: root.to_owned(),
            target_dir: root.join("target"),
            version: "0.1.0".into(),
            modules: vec![zfs.clone()],
            manifests: ["zfs", "host"]
                .map(|name| root.join(format!("modules/{name}/Cargo.toml")))
                .to_vec(),
        };
        (workspace, zfs)
    }

    fn hash(workspace: &Workspace, module: &ModuleCrate) -> String {
        let toolchain = Toolchain::linking_with_cc(workspace);
        Inputs::find(workspace, &toolchain).unwrap().unwrap().of(module).unwrap()
    }

    #[test]
    fn every_input_of_a_binary_changes_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let (workspace, zfs) = checkout(folder.path());
        let before = hash(&workspace, &zfs);
        assert_eq!(hash(&workspace, &zfs), before);
        for file in [
            "Cargo.toml",
            "Cargo.lock",
            ".cargo/config.toml",
            "modules/zfs/Cargo.toml",
            "modules/zfs/src/main.rs",
            "modules/zfs/src/examples.yml",
            "modules/zfs/build.rs",
            "modules/host/src/lib.rs",
        ] {
            let path = folder.path().join(file);
            let text = fs::read_to_string(&path).ok();
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("{}\n", text.as_deref().unwrap_or_default())).unwrap();
            assert_ne!(hash(&workspace, &zfs), before, "{file}");
            match text {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
        }
        for file in ["modules/zfs/tests/whole.rs", "modules/other/src/lib.rs", "README.md"] {
            fs::write(folder.path().join(file), "other").unwrap();
        }
        assert_eq!(hash(&workspace, &zfs), before);
    }

    #[test]
    fn the_hash_depends_on_the_profile_and_not_on_the_folder() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ((workspace, zfs), (twin, _)) = (checkout(one.path()), checkout(other.path()));
        assert_eq!(hash(&workspace, &zfs), hash(&twin, &zfs));
        let draft = Toolchain::linking_with_cc(&workspace).drafting();
        let of_a_draft = Inputs::find(&workspace, &draft).unwrap().unwrap().of(&zfs).unwrap();
        assert_ne!(of_a_draft, hash(&workspace, &zfs));
    }

    #[test]
    fn a_file_from_elsewhere_in_the_workspace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (workspace, zfs) = checkout(folder.path());
        let list = folder.path().join("zfs.d");
        let write = |files: &[&str]| {
            let files: Vec<_> =
                files.iter().map(|file| folder.path().join(file).display().to_string()).collect();
            fs::write(&list, format!("/target/zfs: {} /elsewhere/x.h\n", files.join(" "))).unwrap();
            check(&workspace, &zfs, &list)
        };
        write(&["modules/host/src/lib.rs", "modules/zfs/src/examples.yml"]).unwrap();
        for wrong in ["modules/other/src/lib.rs", "modules/zfs/tests/whole.rs", "README.md"] {
            assert!(write(&["modules/host/src/lib.rs", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_with_spaces_are_read_from_the_list() {
        let files: Vec<_> = listed("/t/zfs: /a\\ b/c.rs /d.rs\n").collect();
        assert_eq!(files, [PathBuf::from("/a b/c.rs"), PathBuf::from("/d.rs")]);
    }

    #[test]
    fn only_variables_that_affect_a_build_are_hashed() {
        for heard in [
            "CC=clang",
            "CFLAGS_x86_64_unknown_linux_gnu=-O0",
            "CARGO_PROFILE_RELEASE_LTO=off",
            "RUSTC_WRAPPER=x",
            "ZSTD_SYS=1",
        ] {
            assert!(affects_builds(heard), "{heard}");
        }
        for other in [
            "HOME=/root",
            "CARGO_PKG_NAME=xtask",
            "CARGO=/bin/cargo",
            "RUSTFLAGS=-g",
            "CARGO_TARGET_DIR=/t",
            "LD_LIBRARY_PATH=/x",
        ] {
            assert!(!affects_builds(other), "{other}");
        }
    }
}
