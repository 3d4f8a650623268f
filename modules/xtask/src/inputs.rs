//! What a binary is made of, as one hash: the sources of its crate and of those of the workspace that it depends on, what cargo is told, the
//! settings of the workspace, compiler, linker and C library. The folder of the checkout is not in it: binaries hold no path of theirs, so they
//! are the same wherever built (`make test-long` builds the archive in two). The invariant: whatever can change a binary changes its hash, or
//! it has none; too much in it merely costs a build.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::kept::sha256;
use crate::target::{Toolchain, cargo_home};
use crate::workspace::{ModuleCrate, Workspace, cargo, run};

/// Variables that cargo, rustc, build scripts and the C compiler look at, by how their names begin.
const HEARD: [&str; 19] = [
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
/// Those of them that change no binary: what is said and where, what is fetched, what `cargo run` tells us of ourselves, and what
/// `Toolchain::cargo_build` replaces.
const OF_NO_CONSEQUENCE: [&str; 23] = [
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
/// What gcc takes of its own and of the C library into a static program.
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

/// All that the binaries of one architecture have in common.
pub struct Inputs<'a> {
    workspace: &'a Workspace,
    common: String,
}

impl<'a> Inputs<'a> {
    /// `None` for compilers of which we do not know all that they take.
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
            .filter(|variable| is_heard(variable))
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

/// Refuses a binary into which cargo says that something of the workspace went that its hash does not cover; `list` is what cargo wrote
/// beside it.
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

/// `program: file file`, with a backslash before a space that belongs to a name.
fn listed(text: &str) -> impl Iterator<Item = PathBuf> {
    let files =
        text.split_once(": ").map_or("", |(_, files)| files).trim_end().replace("\\ ", "\0");
    let files: Vec<_> =
        files.split(' ').map(|file| PathBuf::from(file.replace('\0', " "))).collect();
    files.into_iter()
}

/// Every file of these crates but their tests of whole programs, in order.
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

/// How cargo is called, with names in place of the folders that are not the same in another checkout.
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

fn is_heard(variable: &str) -> bool {
    let begins = |names: &[&str]| names.iter().any(|name| variable.starts_with(name));
    begins(&HEARD) && !begins(&OF_NO_CONSEQUENCE)
}

/// What another program than the usual one builds with is not ours to know.
fn names_a_program(setting: &str) -> bool {
    let setting = setting.to_lowercase();
    setting.starts_with("cc") || ["linker", "wrapper"].iter().any(|word| setting.contains(word))
}

/// The compiler, the linker and the C library of this machine.
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

/// Parts with their names and lengths, so that no two lists of parts are one text.
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
    fn whatever_goes_into_a_binary_changes_its_hash() {
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
    fn another_folder_changes_nothing_and_another_profile_does() {
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
    fn variables_that_a_build_hears_are_told_from_the_others() {
        for heard in [
            "CC=clang",
            "CFLAGS_x86_64_unknown_linux_gnu=-O0",
            "CARGO_PROFILE_RELEASE_LTO=off",
            "RUSTC_WRAPPER=x",
            "ZSTD_SYS=1",
        ] {
            assert!(is_heard(heard), "{heard}");
        }
        for other in [
            "HOME=/root",
            "CARGO_PKG_NAME=xtask",
            "CARGO=/bin/cargo",
            "RUSTFLAGS=-g",
            "CARGO_TARGET_DIR=/t",
            "LD_LIBRARY_PATH=/x",
        ] {
            assert!(!is_heard(other), "{other}");
        }
    }
}
